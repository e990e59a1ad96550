r"""MicroAST - Towards Super-Fast Ultra-Resolution Arbitrary Style Transfer (Wang et al., AAAI 2023, arXiv:2211.15313).

No VGG at inference: two micro encoders (of content and of style) and a micro decoder, 0.472 M parameters together. A style
modulates the decoder twice, its features (AdaIN) and its filters (a modulator predicts a scale and a skip per channel),
and is 8 x 64 numbers. A contrastive loss makes the numbers of an output resemble those of its own style more than those
of the other styles in the batch.

    python -m stylezoo fit --config experiments/microast.yaml
    python -m stylezoo import --system microast --output microast.safetensors --files \
        content_encoder=content_encoder_iter_160000.pth.tar style_encoder=style_encoder_iter_160000.pth.tar \
        modulator_iter_160000.pth.tar decoder_iter_160000.pth.tar

Equations, for a content $c$, a style $s$ and an output $o$: $e_1$ and $e_2$ are the levels of the encoders of content
and style, $R_1$ and $R_2$ residual blocks of the decoder, $g$ its rest, $\mu$ and $\sigma$ are mean and standard
deviation of a channel over positions, $\phi_l$ are the features of the losses at layer $l$, $q_i$ is the style code of
image $i$ of a batch, and $\|x\|^2$ is the mean of squares.

    \mathrm{AdaIN}(x, y) = \sigma(y) \, \frac{x - \mu(x)}{\sigma(x)} + \mu(y)
    (w_i, b_i) = \mathrm{average}(\mathrm{convs}_i(e_i(s))), \quad i = 1, 2
    R_i(x) = x + w_i \, \mathrm{conv}(h) + b_i h, \qquad h = \mathrm{ReLU}(w_i \, \mathrm{conv}(x) + b_i x)
    o = g(R_1(\mathrm{AdaIN}(R_2(\mathrm{AdaIN}(e_2(c), e_2(s))), e_1(s))))
    L = \lambda_c \|\phi_4(o) - \phi_4(c)\|^2 + \lambda_s L_s + \lambda_{ssc} \sum_i \frac{\|q_i(o) -
        q_i(s)\|^2}{\sum_{j \ne i} \|q_i(o) - q_j(s)\|^2}
    L_s = \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 + \|\sigma(\phi_l(o)) - \sigma(\phi_l(s))\|^2 \right)

Deviations: the numbers are those of EndyWon/MicroAST@5a6c905, but for alpha below 1.
- The reference's alpha mixes content features with modulated ones, whose statistics have nothing in common: with its
  released weights all of 0 <= alpha < 1 is flat orange or cyan, and the filters stay modulated at alpha 0. Here alpha
  goes from the content's own code to the style's. ``fade: features`` is the reference.
- Its contrastive loss has a slip, which is kept: negative pairs compare the statistics of the first level with those of
  the other output, not of the other style (net_microAST.py Net.forward). It is summed over the batch, where all other
  terms are means. Negatives are the images of all processes, so that these train as one does.
- A batch of one image has no negatives: the reference divides by zero, here the term is 0.
- The reference takes one style; several are blended here in their 8 x 64 numbers.
- The output has the content's size, where the reference rounds up to a multiple of 4 (ours is its top-left crop).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import adain
from stylezoo.losses import PerceptualLoss, at_least_float32, mean_std, of_all_processes
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import Features
from stylezoo.weights import Tensors

Fade = Literal["code", "features"]

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
STATISTICS = ("mean1", "std1", "mean2", "std2")
FILTERS = ("weight1", "bias1", "weight2", "bias2")


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution behind a reflection: the size stays, or is halved and rounded up by stride 2."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, padding_mode="reflect")


class Residual(nn.Module):
    """Two 3x3 convolutions and a skip; a style can modulate both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(64, 64, 3)
        self.conv2 = conv(64, 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, h, w) to the same."""
        result: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return result

    def modulated(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``weight`` (B, 64, 1, 1) scales the result of each convolution, ``bias`` what it is added to."""
        hidden = F.relu(weight * self.conv1(x) + bias * x)
        result: Tensor = x + weight * self.conv2(hidden) + bias * hidden
        return result


class Encoder(nn.Module):
    """Features of an image at two depths, both at a quarter of its size. 157,792 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(
            conv(3, 16, 9),
            nn.ReLU(),
            conv(16, 32, 3, stride=2, groups=16),
            nn.ReLU(),
            conv(32, 32, 1),
            nn.ReLU(),
            conv(32, 64, 3, stride=2, groups=32),
            nn.ReLU(),
            conv(64, 64, 1),
            nn.ReLU(),
            Residual(),
        )
        self.enc2 = nn.Sequential(Residual())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1], (B, 3, H, W) -> two of (B, 64, H/4, W/4)."""
        first = self.enc1(image)
        return first, self.enc2(first)


class Modulator(nn.ModuleDict):
    """Predicts from a style's features how it modulates the filters of the decoder. 2,560 parameters."""

    def __init__(self) -> None:
        super().__init__({name: nn.Sequential(conv(64, 64, 3, groups=64), nn.AdaptiveAvgPool2d(1)) for name in FILTERS})

    def forward(self, first: Tensor, second: Tensor) -> StyleCode:
        """Features of both levels -> {"weight1", "bias1", "weight2", "bias2"}, each (B, 64, 1, 1)."""
        return {name: predict(first if name.endswith("1") else second) for name, predict in self.items()}


class Decoder(nn.Module):
    """Decodes content features modulated twice by a style, the deeper level first, and up-sampled. 153,843 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.dec1 = Residual()
        self.dec2 = Residual()
        self.dec3 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv(64, 32, 3, groups=32),
            nn.ReLU(),
            conv(32, 32, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv(32, 16, 3, groups=16),
            nn.ReLU(),
            conv(16, 16, 1),
            nn.ReLU(),
            conv(16, 3, 9),
        )

    def forward(self, content: Tensor, code: StyleCode, alpha: float = 1.0) -> Tensor:
        """Modulates and decodes the content's features.

        Args:
            content: The deeper level, (B, 64, h, w).
            code: What `MicroAST.encode_style` returned.
            alpha: Strength of the statistics.

        Returns:
            (B, 3, 4h, 4w).
        """
        dtype = self.dec1.conv1.weight.dtype  # statistics are in float32 at least
        x = alpha * adain(content, code["mean2"], code["std2"]) + (1 - alpha) * content
        x = self.dec1.modulated(x.to(dtype), code["weight2"], code["bias2"])
        x = alpha * adain(x, code["mean1"], code["std1"]) + (1 - alpha) * x
        x = self.dec2.modulated(x.to(dtype), code["weight1"], code["bias1"])
        image: Tensor = self.dec3(x)
        return image


@register("microast", paper="arXiv:2211.15313", year=2023, kind="arbitrary", reference="EndyWon/MicroAST@5a6c905")
class MicroAST(StyleModel):
    """MicroAST (Wang et al. 2023).

    Args:
        content_weight: Weight of the content loss at relu4_1.
        contrastive_weight: Weight of the style signal contrastive loss.
        fade: What alpha fades: ``code``, from the content's own code to the style's; ``features``, only the statistics,
            as in the reference.
    """

    loss_encoder_options: ClassVar[dict[str, Any]] = {"last": "relu4_1"}

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 3.0,
        contrastive_weight: float = 3.0,
        fade: Fade = "code",
        style_loss: str = "mean_std",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 1e-4,
        lr_decay: float = 0.00005,
        loss_encoder: str = "vgg19_normalised",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.content_encoder = Encoder()
        self.style_encoder = Encoder()
        self.modulator = Modulator()
        self.decoder = Decoder()
        self.perceptual = PerceptualLoss({"relu4_1": 1.0}, style_layers, style_loss=style_loss)
        self.fade = fade

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """The reference wraps every convolution together with its padding: enc1.0.conv_layer.weight."""
        return {key.replace("conv_layer.", ""): tensor for key, tensor in tensors.items()}, {}

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns statistics of both levels and the modulation of the filters: eight tensors (B, 64, 1, 1)."""
        first, second = self.style_encoder(style)
        statistics = (*mean_std(first), *mean_std(second))
        return {**dict(zip(STATISTICS, statistics, strict=True)), **self.modulator(first, second)}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the numbers of styles; below alpha 1 the rest is the content's own, unless ``fade`` says otherwise."""
        if self.fade == "code":
            style, alpha = style.faded(alpha, lambda: self.encode(content, tile)), 1.0
        _, features = self.content_encoder(content)
        output: Tensor = self.decoder(features, style.code(), alpha)
        return output

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style`` and ``contrastive``."""
        code = self.encode_style(style)
        output = self.decode(content, code)
        with torch.no_grad():
            content_feats = self._features(content, self.perceptual.content_layers)
            style_feats = self._features(style, self.perceptual.style_layers)
        output_feats = self.output_features(self.loss_encoder.pad(output, "relu4_1"))
        terms = self.perceptual(output_feats, content=content_feats, style=style_feats)
        return {**terms, "contrastive": self._contrastive(self.encode_style(output), code)}

    def _contrastive(self, output: StyleCode, style: StyleCode) -> Tensor:
        signals = [
            torch.stack([at_least_float32(code[name]).flatten(1) for name in (*STATISTICS, *FILTERS)], 1)  # (B, 8, 64)
            for code in (output, style)
        ]
        if self.training:
            signals = [of_all_processes(signal) for signal in signals]
        return contrastive_loss(*signals)

    def _features(self, image: Tensor, layers: Iterable[str]) -> Features:
        features: Features = self.loss_encoder(self.loss_encoder.pad(image, "relu4_1"), layers)
        return features


def contrastive_loss(output: Tensor, style: Tensor) -> Tensor:
    """Distance of each output to its own style over the sum of those to the others, summed over the batch.

    A distance is a sum over signals of mean squared differences (EndyWon/MicroAST@5a6c905 net_microAST.py).

    Args:
        output: The signals of the outputs, (B, 8, 64): statistics of the first level, of the second, of the filters.
        style: The same of their styles.
    """
    to_style = (output[:, None] - style).square().mean(-1)  # (B, B, 8)
    to_output = (output[:, None] - output).square().mean(-1)
    own = to_style.diagonal().sum(0)
    others = torch.cat([to_output[..., :2], to_style[..., 2:]], -1).sum(-1)
    others = others.masked_fill(torch.eye(len(output), dtype=torch.bool, device=output.device), 0).sum(1)
    return (own / others).sum() if len(output) > 1 else output.new_zeros(())
