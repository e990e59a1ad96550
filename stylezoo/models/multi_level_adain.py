r"""Multi-level AdaIN - Revisiting and Refining AdaIN (Gao Chengzhan, course project, 2023).

AdaIN not only at relu4_1 but at relu2_1, relu3_1 and relu4_1 of a torchvision VGG-19. The decoder starts from the
deepest level and takes the two others in on its way up, so that fine structure of the content need not pass through
the bottleneck; the content loss compares all three levels.

    python -m stylezoo fit --config experiments/multi_level_adain.yaml
    python -m stylezoo import --system multi_level_adain --files 10_epoch.pth --output multi_level_adain.safetensors

Equations, for a content $c$, a style $s$ and an output $o$ at the levels $l$ of relu2_1, relu3_1 and relu4_1: $g$ is
the decoder, $\mu$ and $\sigma$ are mean and standard deviation of a channel over positions, $\phi_l$ are the features
of the losses at layer $l$ (those of the style loss begin at relu1_1), and $\|x\|^2$ is the mean of squares.

    t_l = \sigma(\phi_l(s)) \, \frac{\phi_l(c) - \mu(\phi_l(c))}{\sigma(\phi_l(c))} + \mu(\phi_l(s))
    o = g(t_2, t_3, t_4)
    L = \lambda_c \sum_{l=2}^{4} \|\phi_l(o) - t_l\|^2 + \lambda_s \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 +
        \|\sigma(\phi_l(o)) - \sigma(\phi_l(s))\|^2 \right)

Deviations: none from GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2, whose numbers this file reproduces, but for
the output's size: the content's own, where the reference cuts to a multiple of 8 (the content is extended by its border
pixels instead). Its text (README.md) and its code differ:
- the text has the shallow levels meet the decoder at their own size ("upsample t3"); the code shrinks them by half,
  nearest, to fit the decoder before its up-sampling, and so drops three quarters of their positions. That is the
  default here; ``concatenate: full`` is the version as drawn, with the same parameters;
- the text's losses are norms that are not squared, the code's are mean squared errors;
- the text has alpha steer "during training"; the code has it, one per level, only at inference (``level_alphas``).
The reference pairs contents and styles by the order of their file names, once and for all; here pairs are drawn anew.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.errors import StylezooError
from stylezoo.layers import PaddedConv, imagenet_restored, upsample_nearest
from stylezoo.losses import PerceptualLoss, mean_std, normalize
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import VGG, Features
from stylezoo.weights import Tensors

REFERENCE = "GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2"
PAPER = "https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN"
LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
Concatenate = Literal["downsampled", "full"]

LEVELS = ("relu2_1", "relu3_1", "relu4_1")


class Decoder(nn.Module):
    """Three levels of features to an image. 3,800,003 parameters at VGG's widths.

    Args:
        channels: The encoder's channels per layer, see `VGG.channels`.
        concatenate: ``downsampled`` or ``full``, see `MultiLevelAdaIN`.
    """

    def __init__(self, channels: dict[str, int], concatenate: Concatenate) -> None:
        super().__init__()
        self.concatenate = concatenate
        c1, c2, c3, c4 = (channels[f"relu{block}_1"] for block in (1, 2, 3, 4))
        self.rc1 = PaddedConv(c4, c3)
        self.rc2 = PaddedConv(2 * c3, c3)  # with relu3_1
        self.rc3 = PaddedConv(c3, c3)
        self.rc4 = PaddedConv(c3, c2)
        self.rc5 = PaddedConv(2 * c2, c2)  # with relu2_1
        self.rc6 = PaddedConv(c2, c2)
        self.rc7 = PaddedConv(c2, c1)
        self.rc8 = PaddedConv(c1, c1)
        self.rc9 = PaddedConv(c1, 3)

    def forward(self, levels: Features) -> Tensor:
        """Features at `LEVELS` to an image as `imagenet_normalized` has it, at least as large as what was encoded.

        Args:
            levels: {"relu2_1": (B, 128, H/2, W/2), "relu3_1": (B, 256, H/4, W/4), "relu4_1": (B, 512, H/8, W/8)}.
        """
        levels = {name: level.to(self.rc1.conv.weight.dtype) for name, level in levels.items()}
        deep, middle, shallow = levels["relu4_1"], levels["relu3_1"], levels["relu2_1"]
        if self.concatenate == "downsampled":
            height, width = deep.shape[-2:]
            middle = F.interpolate(middle, size=(height, width), mode="nearest")
            shallow = F.interpolate(shallow, size=(2 * height, 2 * width), mode="nearest")
        x = F.relu(self.rc1(deep))  # (B, 256, H/8, W/8)
        x = F.relu(self.rc2(self._join(x, middle)))  # (B, 256, H/8, W/8), in full H/4 and W/4
        x = F.relu(self.rc3(self._grow(x)))  # (B, 256, H/4, W/4)
        x = F.relu(self.rc4(x))
        x = F.relu(self.rc5(self._join(x, shallow)))  # (B, 128, H/4, W/4), in full H/2 and W/2
        x = F.relu(self.rc6(self._grow(x)))  # (B, 128, H/2, W/2)
        x = F.relu(self.rc7(x))
        x = F.relu(self.rc8(upsample_nearest(x)))  # (B, 64, H, W)
        pixels: Tensor = self.rc9(x)
        return pixels

    def _join(self, x: Tensor, level: Tensor) -> Tensor:
        """Concatenates what was decoded so far and the features of a level, which are twice as large in ``full``."""
        if self.concatenate == "full":
            x = upsample_nearest(x)[..., : level.shape[-2], : level.shape[-1]]
        return torch.cat([x, level], dim=1)

    def _grow(self, x: Tensor) -> Tensor:
        return x if self.concatenate == "full" else upsample_nearest(x)


@register("multi_level_adain", paper=PAPER, year=2023, kind="arbitrary", reference=REFERENCE)
class MultiLevelAdaIN(StyleModel):
    """AdaIN at three levels (Gao 2023).

    Args:
        content_weight: Weight of the content loss: relu2_1, relu3_1 and relu4_1 against their AdaIN features.
        concatenate: How relu3_1 and relu2_1 join the decoder: ``downsampled`` to half their size, as in the reference,
            or ``full``, after the decoder's up-sampling.
    """

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 10.0,
        concatenate: Concatenate = "downsampled",
        style_loss: str = "mean_std_outside",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 5e-5,
        lr_decay: float = 0.0,
        encoder: str = "vgg19_torchvision",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = VGG(encoder, encoder_weights, last="relu4_1")
        self.decoder = Decoder(self.encoder.channels, concatenate)
        self.perceptual = PerceptualLoss(dict.fromkeys(LEVELS, 1.0), style_layers, style_loss=style_loss)

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """The decoder of a file that the reference's train.py wrote, which is the whole model: its encoder is
        torchvision's, never trained, and left out here."""
        return {k.removeprefix("decoder."): v for k, v in tensors.items() if not k.startswith("vgg_encoder.")}, {}

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns mean and standard deviation of each level's features: ``mean2_1`` (B, 128, 1, 1) ..."""
        return _statistics(self.encoder(self.encoder.pad_small(style, "relu4_1"), LEVELS))

    def pad(self, image: Tensor) -> Tensor:
        # Where pools round up, levels of other sizes would not fit the decoder: shrunk by 1.98, they would be stretched.
        return self.encoder.pad(image, "relu4_1", multiple=True)

    def transfer(
        self,
        content: Tensor,
        style: Blend,
        alpha: float,
        tile: int | None,
        level_alphas: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Tensor:
        """Blends the statistics of styles, level by level; alpha 0 decodes the content's own features.

        Args:
            content: (B, 3, H, W), padded.
            style: The codes to blend.
            alpha: Strength, 0 to 1.
            tile: See `decode`.
            level_alphas: Factors of ``alpha`` at relu2_1, relu3_1 and relu4_1.

        Raises:
            StylezooError: If there are not three level_alphas.
        """
        if len(level_alphas) != len(LEVELS):
            raise StylezooError(f"There are {len(level_alphas)} level_alphas: give one each for {', '.join(LEVELS)}.")
        features: Features = self.encoder(content, LEVELS)
        targets = _adain(features, style.code())
        alphas = {name: alpha * factor for name, factor in zip(LEVELS, level_alphas, strict=True)}
        levels = {name: a * targets[name] + (1 - a) * features[name] for name, a in alphas.items()}
        return imagenet_restored(self.decoder(levels))

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content`` and ``style``."""
        layers, content = self.perceptual.layers, self.pad(content)
        with torch.no_grad():
            content_feats, style_feats = self.feature_pairs(
                (content, LEVELS, LEVELS), (self.encoder.pad_small(style, "relu4_1"), LEVELS, layers)
            )
            levels = _adain(content_feats.encoder, _statistics(style_feats.encoder))
            targets = levels
            if self.loss_encoder is not self.encoder:
                targets = _adain(content_feats.loss_encoder, _statistics(style_feats.loss_encoder))
        output = imagenet_restored(self.decoder(levels))[..., : content.shape[-2], : content.shape[-1]]
        output_feats = self.output_features(output)
        return self.perceptual(output_feats, content=targets, style=style_feats.loss_encoder)


def _statistics(features: Features) -> StyleCode:
    code = {}
    for name in LEVELS:
        level = name.removeprefix("relu")
        code[f"mean{level}"], code[f"std{level}"] = mean_std(features[name], 1e-6, outside=True)
    return code


def _adain(features: Features, code: StyleCode) -> Features:
    """AdaIN at each level, with the reference's standard deviation."""
    levels = ((name, name.removeprefix("relu")) for name in LEVELS)
    return {
        name: normalize(features[name], 1e-6, outside=True) * code[f"std{level}"] + code[f"mean{level}"]
        for name, level in levels
    }
