r"""MSG-Net - Multi-style Generative Network for Real-time Transfer (Zhang & Dana, ECCV workshops 2018, arXiv:1703.06953).

A siamese encoder encodes content and style; the CoMatch layer matches the content's features to the Gram matrix of the
style's, with one learned matrix for all styles; residual blocks decode them. Gram matrices are what the
style loss compares. The style's size decides how broad the strokes
are (--style_size 256, 512, 768).

    python -m stylezoo fit --config experiments/msgnet.yaml --data.style.root data/styles
    python -m stylezoo import --system msgnet --files 21styles.model --output msgnet.safetensors
    python -m stylezoo stylize --model msgnet.safetensors --content a.jpg --style b.jpg --style_size 768 --output c.png

Equations, for a content $c$, a style $s$ and an output $o$: $e$ is the siamese encoder, $g$ the decoder, $W$ the
learned matrix of CoMatch, $X$ are features as a matrix of $C$ channels and $HW$ positions, $\phi_l$ are the features of
the losses at layer $l$, and $\|x\|^2$ is the mean of squares.

    y = \left( e(c)^T \, W \, G(e(s)) \right)^T, \qquad G(X) = \frac{X X^T}{C H W}
    o = g(y)
    L = \lambda_c \|\phi_c(o) - \phi_c(c)\|^2 + \lambda_s \sum_l \|G(\phi_l(o)) - G(\phi_l(s))\|^2

Deviations: the numbers are those of zhanghang1989/PyTorch-Multi-Style-Transfer@75d2560, the authors' second code. Here
the output has the content's size, where the reference rounds up to a multiple of 4 (ours is its top-left crop), and
1x1 convolutions run before the nearest up-sampling of shortcuts instead of after it, which is the same with a quarter
of the work. Every image of a batch may have a style of its own; the reference gives a batch one style
(``one_style_per_batch``), the next of its folder at every step.
Blending and alpha are ours: Gram matrices are blended, and alpha blends in the content's own; CoMatch is linear in them.
Paper and first code (zhanghang1989/MSG-Net@6bc8140, Torch7) differ:
- up-sampling: the paper's upsampled convolution yields 2 x 2 outputs for each window, with four times the parameters
  (``upsample: subpixel``); both codes enlarge by nearest neighbors and convolve (``nearest``);
- the first code takes CoMatch's target from VGG-16's relu3_3, normalizes its input, has affine instance norms, 9
  residual blocks, the content loss at relu3_3 and total variation 1e-6, and changes the style every 20 steps;
- the paper trains with styles of 256, 512 and 768 pixels, both codes with 512.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import ConvLayer, instance_norm
from stylezoo.losses import PerceptualLoss, gram
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.weights import Tensors

REFERENCE = "zhanghang1989/PyTorch-Multi-Style-Transfer@75d2560"
Upsample = Literal["nearest", "subpixel"]

CONTENT_LAYERS = {"relu2_2": 1.0}
STYLE_LAYERS = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}
EXPANSION = 4


class Bottleneck(nn.Module):
    """Pre-activation residual block: 1x1, 3x3 and 1x1 convolution, each after instance norm and ReLU.

    The last convolution widens to 4 times ``width``. Instance norms have no parameters.

    Args:
        in_channels: Of the input.
        width: Channels of the 3x3 convolution.
        stride: 2 halves the map.
        upsample: How the map is doubled; None does not.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, upsample: Upsample | None = None) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        # Nearest neighbors and 1x1 convolutions may change places: the convolution works on the smaller map.
        self.enlarge = upsample == "nearest"
        self.shortcut: ConvLayer | None = None
        if stride != 1 or upsample is not None:
            subpixel = None if self.enlarge else upsample
            self.shortcut = ConvLayer(
                in_channels, out_channels, 1, stride, padding="none", norm=None, upsample=subpixel
            )
        self.convs = nn.ModuleList(
            [
                ConvLayer(in_channels, width, 1, padding="none", norm=None),
                ConvLayer(width, width, 3, stride, padding="reflect", norm=None, upsample=upsample),
                ConvLayer(width, out_channels, 1, padding="none", norm=None),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        if self.enlarge:
            shortcut = F.interpolate(shortcut, scale_factor=2, mode="nearest")
        for conv in self.convs:
            x = conv(normalized_relu(x))
        return shortcut + x


def normalized_relu(x: Tensor) -> Tensor:
    """Instance norm without parameters and ReLU."""
    return F.relu(instance_norm(x))


class CoMatch(nn.Module):
    """Matches features X to the Gram matrix G of a target: [X^T W G]^T with a learned matrix W, the same for all styles."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, channels).uniform_(0, 0.02))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Features (B, C, H, W) and Gram matrices (B or 1, C, C) -> (B, C, H, W)."""
        matched = (self.weight @ target.to(self.weight.dtype)).transpose(1, 2) @ x.flatten(2)  # (B, C, H*W)
        return matched.reshape(x.shape)


class Generator(nn.Module):
    """The network, from BGR pixels to BGR pixels of 0 to 255: 691,555 parameters with ngf 64, 2,386,147 with 128.

    8,994,787 with 256.
    """

    def __init__(self, ngf: int, blocks: int, upsample: Upsample) -> None:
        super().__init__()
        channels = EXPANSION * ngf
        self.stem = ConvLayer(3, 64, 7, padding="reflect", norm=None)
        self.down = nn.ModuleList([Bottleneck(64, 32, 2), Bottleneck(EXPANSION * 32, ngf, 2)])
        self.comatch = CoMatch(channels)
        self.body = nn.ModuleList(Bottleneck(channels, ngf) for _ in range(blocks))
        self.up = nn.ModuleList(
            [Bottleneck(channels, 32, upsample=upsample), Bottleneck(EXPANSION * 32, 16, upsample=upsample)]
        )
        self.last = ConvLayer(EXPANSION * 16, 3, 7, padding="reflect", norm=None)

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4 ngf, ceil(H/4), ceil(W/4))."""
        x = normalized_relu(self.stem(x))
        for block in self.down:
            x = block(x)
        return x

    def decode(self, x: Tensor, target: Tensor) -> Tensor:
        """Features and the Gram matrices they are to match -> (B, 3, 4 ceil(H/4), 4 ceil(W/4))."""
        x = self.comatch(x, target)
        for block in (*self.body, *self.up):
            x = block(x)
        output: Tensor = self.last(normalized_relu(x))
        return output


def normalized_gram(x: Tensor) -> Tensor:
    """Gram matrix divided by C*H*W, (B, C, H, W) -> (B, C, C)."""
    return gram(x) / (x.shape[1] * x.shape[2] * x.shape[3])


@register("msgnet", paper="arXiv:1703.06953", year=2017, kind="arbitrary", reference=REFERENCE)
class MSGNet(StyleModel):
    """MSG-Net (Zhang & Dana 2017): any image as style, best those of the folder it was trained on.

    Args:
        ngf: Channels of the generator's inner convolutions; its features have 4 times as many.
        blocks: Number of residual blocks after CoMatch.
        upsample: ``nearest`` and a convolution, or ``subpixel``, the paper's upsampled convolution.
        one_style_per_batch: Whether the losses take the first style of a batch for all its images.
    """

    def __init__(
        self,
        ngf: int = 128,
        blocks: int = 6,
        upsample: Upsample = "nearest",
        one_style_per_batch: bool = False,
        content_weight: float = 1.0,
        style_weight: float = 5.0,
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_loss: str = "gram_johnson",
        style_layers: dict[str, float] = STYLE_LAYERS,
        lr: float = 1e-3,
        lr_decay: float = 0.0,
        loss_encoder: str = "vgg16_caffe",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.generator = Generator(ngf, blocks, upsample)
        self.perceptual = PerceptualLoss(content_layers, style_layers, style_loss=style_loss)
        self.one_style_per_batch = one_style_per_batch

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Reads the reference's files, such as 21styles.model.

        Running statistics, which were never used, and second names of the same tensors are dropped.
        """
        if "ins.weight" not in tensors:
            return tensors, {}
        kept = {k: t for k, t in tensors.items() if not re.match(r"model\.[01]\.|.*(running_|num_batches)", k)}
        blocks = sum(1 for key in kept if re.fullmatch(r"model\.\d+\.conv_block\.2\.weight", key)) - 2
        return {_public_name(key, blocks): tensor for key, tensor in kept.items()}, {
            "ngf": tensors["ins.weight"].shape[-1] // EXPANSION,
            "blocks": blocks,
        }

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the Gram matrix of the style's features in the generator's encoder, (B, 4 ngf, 4 ngf)."""
        return {"gram": normalized_gram(self.generator.encode(to_bgr(style)))}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the Gram matrices of styles; at alpha 0 the content matches its own Gram matrix."""
        target = style.code()["gram"]
        features = self.generator.encode(to_bgr(content))
        if alpha != 1:
            target = alpha * target + (1 - alpha) * normalized_gram(features)
        return self.generator.decode(features, target).flip(1) / 255

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content`` and ``style``. The encoder gets gradients from the style's side too.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B or 1, 3, H', W'), RGB in [0, 1].
        """
        if self.one_style_per_batch:
            style = style[:1]
        output = self(content, style)
        with torch.no_grad():
            content_feats = self.loss_encoder(content, self.perceptual.content_layers)
            style_feats = self.loss_encoder(style, self.perceptual.style_layers)
            style_feats = {name: f.expand(len(content), -1, -1, -1) for name, f in style_feats.items()}
        return self.perceptual(self.output_features(output), content=content_feats, style=style_feats)


def to_bgr(image: Tensor) -> Tensor:
    """RGB in [0, 1] as BGR in 0 to 255; the mean is not subtracted."""
    return 255 * image.flip(1)


def _public_name(key: str, blocks: int) -> str:
    """The reference's names as ours: model.2.conv_block.5.conv2d.weight is body.0.convs.1.conv.weight."""
    places = {"model1.0": "stem", "model1.3": "down.0", "model1.4": "down.1"}
    places |= {f"model.{index + 2}": f"body.{index}" for index in range(blocks)}
    places |= {f"model.{blocks + 2}": "up.0", f"model.{blocks + 3}": "up.1", f"model.{blocks + 6}": "last"}
    match = re.fullmatch(r"(model1?\.\d+)(?:\.(residual_layer|conv_block)(?:\.(\d))?)?(?:\.conv2d)?\.(\w+)", key)
    if match is None or match[1] not in places:
        return key.replace("ins.", "comatch.")
    part = {None: "", "residual_layer": ".shortcut", "conv_block": f".convs.{(int(match[3] or 2) - 2) // 3}"}[match[2]]
    return f"{places[match[1]]}{part}.conv.{match[4]}"
