r"""Magenta - Exploring the Structure of a Real-time, Arbitrary Neural Artistic Stylization Network (Ghiasi et al., BMVC 2017).

CIN's network, whose scales and shifts are not a table of trained styles but predicted from an image: an Inception-v3 (or
MobileNet-V2) encodes the style, its mean activations become a bottleneck of 100 numbers, and linear maps make the
2,758 scales and shifts of the residual and up-sampling layers of it. Styles are blended in the bottleneck.

    python -m stylezoo fit --config experiments/magenta.yaml
    python -m stylezoo import --system magenta --files style_predict.npz style_transfer.npz --output magenta.mobile.safetensors

Equations, for a content $c$, styles $s_k$ with the weights $w_k$ and an output $o$: $P$ is the encoder of styles, $b$
the bottleneck, $x$ are the features behind a convolution, $\mu$ and $\sigma$ are mean and standard deviation of a
channel over positions, $\phi_l$ are the features of the losses at layer $l$, $X$ are features as a matrix of channels
and positions, and $\|x\|^2$ is the mean of squares.

    b = \sum_k w_k W_b \, \mathrm{mean}(P(s_k))
    z = \gamma(b) \, \frac{x - \mu(x)}{\sigma(x)} + \beta(b), \qquad \gamma(b) = W_\gamma b + u_\gamma, \quad \beta(b) =
        W_\beta b + u_\beta
    L = \lambda_c \|\phi_c(o) - \phi_c(c)\|^2 + \lambda_s \sum_l \|G(\phi_l(o)) - G(\phi_l(s))\|^2 + \lambda_{tv}
        \mathrm{TV}(o)
    G(X) = \frac{X X^T}{HW}

Deviations: none from magenta/magenta@526d3eb arbitrary_image_stylization (re-implemented by reading it) in network and
losses, but for the output's size: the content's own, where the reference rounds up to a multiple of 4 (ours is its
top-left crop).
- Style images smaller than 75 pixels are enlarged to that; Inception has no activations left below it.
- Augmentation: saturation mixes with gray where TensorFlow scales it in HSV; the reference resizes each crop to 256
  pixels before the batch gets its size, here that is one resize, and the crop is cut from the square the data give.
- The public mobile predictor is a network of integers whose biases have lost their units: they are restored to a few
  per cent, see `stylezoo.tensorflow`. The public separable network comes without the predictor that it was trained with.
- Mobile: the reference trains MobileNet-V2 on the bottlenecks of a trained Inception-v3 first, then the rest with it
  frozen (experiments/magenta_mobile.yaml); without these options of training both networks train at once.
The code's ReLU6 comes from its argument scope: the ImageNet weights that it starts from were trained with ReLU, and with
images in [-1, 1] where this network takes [0, 1].
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import InceptionA, InceptionB, InceptionC
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms.v2 import functional as transforms

from stylezoo import tensorflow
from stylezoo.errors import StylezooError
from stylezoo.layers import BatchNorm, ConditionalTransformer, is_traced, mirrored, resized
from stylezoo.losses import PerceptualLoss, mean_variation
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.tensor_files import misfit
from stylezoo.weights import Tensors

REFERENCE = "magenta/magenta@526d3eb arbitrary_image_stylization"
Predictor = Literal["inception_v3", "mobilenet_v2"]

CHANNELS = (32, 64, 128, 64, 32)
BLOCKS = 5
BOTTLENECK = 100
SMALLEST_STYLE = 75  # pixels, of Inception-v3
LONGEST_STYLE = 16  # times its shorter side
CONTENT_LAYERS = {"relu3_3": 1.0}
STYLE_LAYERS = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}

ZOOM = (258, 456)  # image_utils.py: the short side is resized to image_size + 2 ... + 200, for crops of 256
STYLE_SIZES = (128, 300)  # image_utils.py: what the crops of a batch are resized to


class ShiftNorm(BatchNorm):
    """slim's batch norm: a shift but no scale, eps 1e-3; ``decay`` of the moving averages."""

    def __init__(self, channels: int, decay: float = 0.999) -> None:
        super().__init__(channels, eps=1e-3, momentum=1 - decay)
        self.weight = None  # type: ignore[assignment]


class InceptionConv(nn.Module):
    """Convolution, batch norm and ReLU6, in place of torchvision's BasicConv2d and named as it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        nn.init.trunc_normal_(self.conv.weight, std=0.1, a=-0.2, b=0.2)  # arbitrary_image_stylization_build_model.py
        self.bn = ShiftNorm(out_channels, decay=0.9997)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.bn(self.conv(x)))


class PooledConv(InceptionConv):
    """The same behind a 3x3 average pool, which in torchvision counts the zeros around the map and in TensorFlow does not."""

    def forward(self, x: Tensor) -> Tensor:
        inside = F.avg_pool2d(torch.ones_like(x[:1, :1]), 3, 1, 1)  # the share of each window that is
        return super().forward(x / inside)


def _mixed(block: Any, *arguments: int) -> nn.Module:
    """One of torchvision's Inception blocks, with our convolutions."""
    mixed = block(*arguments, conv_block=InceptionConv)
    if block is not InceptionB:  # that one has a maximum pool without padding
        conv = mixed.branch_pool.conv
        mixed.branch_pool = PooledConv(conv.in_channels, conv.out_channels, 1)
    return mixed  # type: ignore[no-any-return]


class InceptionV3(nn.Sequential):
    """Inception-v3 up to Mixed_6e, (B, 3, H, W) -> (B, 768, about H/16, about W/16); torchvision's blocks and names.

    8,947,040 weights and 9,408 shifts.
    """

    def __init__(self) -> None:
        layers = {
            "Conv2d_1a_3x3": InceptionConv(3, 32, 3, stride=2),
            "Conv2d_2a_3x3": InceptionConv(32, 32, 3),
            "Conv2d_2b_3x3": InceptionConv(32, 64, 3, padding=1),
            "maxpool1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": InceptionConv(64, 80, 1),
            "Conv2d_4a_3x3": InceptionConv(80, 192, 3),
            "maxpool2": nn.MaxPool2d(3, 2),
            "Mixed_5b": _mixed(InceptionA, 192, 32),
            "Mixed_5c": _mixed(InceptionA, 256, 64),
            "Mixed_5d": _mixed(InceptionA, 288, 64),
            "Mixed_6a": _mixed(InceptionB, 288),
            "Mixed_6b": _mixed(InceptionC, 768, 128),
            "Mixed_6c": _mixed(InceptionC, 768, 160),
            "Mixed_6d": _mixed(InceptionC, 768, 160),
            "Mixed_6e": _mixed(InceptionC, 768, 192),
        }
        super().__init__(OrderedDict(layers))


class StridedConv(nn.Conv2d):
    """A 3x3 convolution of stride 2 padded as in TensorFlow: at the end, and at the start too where the size is odd."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1)))


def mobilenet_v2() -> nn.Sequential:
    """torchvision's MobileNet-V2 without its classifier, padded as in TensorFlow: 2,223,872 parameters.

    (B, 3, H, W) -> (B, 1280, H/32, W/32). Batch norms as in slim's training_scope: eps 1e-3, decay 0.997.
    """
    features: nn.Sequential = MobileNetV2(norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.003)).features
    for block in features.modules():
        if isinstance(block, Conv2dNormActivation) and block[0].stride == (2, 2):
            conv = block[0]
            strided = StridedConv(conv.in_channels, conv.out_channels, 3, 2, groups=conv.groups, bias=False)
            strided.load_state_dict(conv.state_dict())
            block[0] = strided
    return features


class StylePredictor(nn.Module):
    """Images to bottlenecks: a classification network without its end, the mean over positions, a linear map."""

    def __init__(self, network: Predictor) -> None:
        super().__init__()
        self.features = InceptionV3() if network == "inception_v3" else mobilenet_v2()
        self.bottleneck = _linear(768 if network == "inception_v3" else 1280, BOTTLENECK)

    def forward(self, style: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 100); images below 75 pixels are enlarged."""
        if min(style.shape[-2:]) < SMALLEST_STYLE:
            style = resized(style, SMALLEST_STYLE)
        bottleneck: Tensor = self.bottleneck(self.features(style).mean((2, 3)))
        return bottleneck


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with random weights as slim draws them."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Transformer(ConditionalTransformer):
    """The stylizing network, 1,674,656 parameters, and the linear maps from bottlenecks to its 2,758 scales and shifts."""

    def __init__(self, width: float, padding: Literal["reflect", "zeros"], separable: bool) -> None:
        channels = tuple(int(width * c) for c in CHANNELS)
        super().__init__(channels, BLOCKS, contract_norm=ShiftNorm, padding=padding, separable=separable)
        self.scale = _linear(BOTTLENECK, sum(self.channels))
        self.shift = _linear(BOTTLENECK, sum(self.channels))
        for linear in (self.scale, self.shift):  # every layer has a map of its own in the reference
            for rows in torch.split(linear.weight.data, self.channels):
                nn.init.xavier_uniform_(rows)

    def generate(self, x: Tensor, bottleneck: Tensor) -> Tensor:
        """(B, 3, H, W) and (B or 1, 100) -> (B, 3, 4 ceil(H/4), 4 ceil(W/4)) in [0, 1]."""
        return self(x, self.scale(bottleneck), self.shift(bottleneck))  # type: ignore[no-any-return]


@register("magenta", paper="arXiv:1705.06830", year=2017, kind="arbitrary", reference=REFERENCE)
class Magenta(StyleModel):
    """Ghiasi et al. 2017: 10,986,562 parameters with Inception-v3.

    Args:
        predictor: ``inception_v3`` or ``mobilenet_v2``.
        predictor_weights: A file of ImageNet weights that the predictor starts from, with TensorFlow's or torchvision's names.
        width: Multiplies the channels of the stylizing network; 0.25 in the mobile version.
        padding: ``reflect`` or ``zeros`` around the stylizing network's convolutions.
        separable: Whether its convolutions, but those down, are depthwise and pointwise ones.
        style_size: Pixels to which inference resizes the shorter side of style images; None takes them as they are.
        augment: Whether training varies the style images: brightness, colors, mirroring, and crops of any size.
        seed: Decides how.
        tv_weight: Weight of the total variation of the output.
        loss_encoder: The network of the losses, see `stylezoo.vgg.VGG`; its pooling is average. Only training needs it.

    Raises:
        StylezooError: If ``predictor_weights`` are not those of the predictor.
    """

    loss_encoder_options: ClassVar[dict[str, Any]] = {"pooling": "avg"}  # image_stylization/vgg.py
    local_settings = StyleModel.local_settings | {"predictor_weights"}

    def __init__(
        self,
        predictor: Predictor = "inception_v3",
        predictor_weights: str | None = None,
        width: float = 1.0,
        padding: Literal["reflect", "zeros"] = "reflect",
        separable: bool = False,
        style_size: int | None = 256,
        augment: bool = False,
        seed: int = 0,
        content_weight: float = 1.0,
        style_weight: float = 0.5e-3,
        tv_weight: float = 1e4,
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_loss: str = "gram_magenta",
        style_layers: dict[str, float] = STYLE_LAYERS,
        lr: float = 1e-5,
        lr_decay: float = 0.0,
        loss_encoder: str = "vgg16_caffe",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.style_size, self.augment, self.seed = style_size, augment, seed
        self.predictor = StylePredictor(predictor)
        if predictor_weights is not None:
            features = self.predictor.features
            tensors = tensorflow.read_classifier(predictor_weights, predictor, list(features.state_dict()))
            problem = misfit(features.state_dict(), tensors)
            if problem is not None:
                raise StylezooError(f"{predictor_weights} does not fit {predictor}: {problem}.")
            features.load_state_dict(tensors)
            self.hparams["predictor_weights"] = None  # done: the model loads without the file
        self.transformer = Transformer(width, padding, separable)
        self.perceptual = PerceptualLoss(content_layers, style_layers, style_loss=style_loss)

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        return tensorflow.read_arbitrary_image_stylization(tensors)

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the style's bottleneck, (B, 100)."""
        size = self.style_size
        style = mirrored(style, -(-max(style.shape[-2:]) // LONGEST_STYLE))  # or a line of pixels became gigantic
        if size is not None and (is_traced() or min(style.shape[-2:]) != size):
            style = resized(style, size)
        return {"bottleneck": self.predictor(style)}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends bottlenecks; below alpha 1 the rest is that of the content ("identity interpolation"); in [0, 1]."""
        code = style.faded(alpha, lambda: self.encode(content, tile)).code()
        return self.transformer.generate(content, code["bottleneck"])

    def loss_terms(self, content: Tensor, style: Tensor, bottleneck: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style`` and ``tv`` (arbitrary_image_stylization_losses.py).

        The predictor gets the styles in the size that they have.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B, 3, H', W'), RGB in [0, 1].
            bottleneck: Those of the styles, (B, 100), where they are known already.
        """
        bottleneck = self.predictor(style) if bottleneck is None else bottleneck
        output = self.decode(content, {"bottleneck": bottleneck})
        with torch.no_grad():
            content_feats = self.loss_encoder(content, self.perceptual.content_layers)
            style_feats = self.loss_encoder(style, self.perceptual.style_layers)
        terms = self.perceptual(self.output_features(output), content=content_feats, style=style_feats)
        return {**terms, "tv": mean_variation(output)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Varies the styles if asked to, a function of (seed, batches trained so far, rank): a resumed run continues."""
        if self.augment:
            random = np.random.default_rng((self.seed, self.trained_batches, self.global_rank))
            batch = {**batch, "style": augmented(batch["style"], random)}
        return super().training_step(batch, batch_idx)


def augmented(styles: Tensor, random: np.random.Generator) -> Tensor:
    """Style images as the reference varies them (image_utils.py arbitrary_style_image_inputs).

    Each is made darker or brighter by up to 0.8, gets other colors, is mirrored and turned over half of the time, and a
    square window of 0.57 to 0.99 of its side is cut out. All windows are resized to one size of 128 to 299 pixels.

    Args:
        styles: (B, 3, H, W), RGB in [0, 1].
        random: Decides.

    Returns:
        (B, 3, S, S), RGB in [0, 1].
    """
    size = int(random.integers(*STYLE_SIZES))
    varied = []
    for image in styles:
        image = (image + random.uniform(-0.8, 0.8)).clamp(0, 1)
        image = transforms.adjust_saturation(image, random.uniform(0.5, 1.5))
        image = transforms.adjust_hue(image, random.uniform(-0.2, 0.2))
        if random.random() < 0.5:
            image = transforms.horizontal_flip(image)
        if random.random() < 0.5:
            image = transforms.vertical_flip(image)
        height, width = image.shape[-2:]
        window = max(1, round(min(height, width) * 256 / random.integers(*ZOOM)))
        top, left = int(random.integers(height - window + 1)), int(random.integers(width - window + 1))
        varied.append(transforms.resized_crop(image, top, left, window, window, [size, size], antialias=True))
    return torch.stack(varied)
