"""Multi-level AdaIN - Revisiting and Refining AdaIN (Gao Chengzhan, course project, 2023).

AdaIN not only at relu4_1 but at relu2_1, relu3_1 and relu4_1 of a torchvision VGG-19. The decoder starts from the
deepest level and takes the two others in on its way up, so that fine structure of the content need not pass through
the bottleneck; the content loss compares all three levels.

    python -m stylezoo fit --config experiments/multi_level_adain.yaml
    python -m stylezoo import --system multi_level_adain --files 10_epoch.pth --output multi_level_adain.safetensors

Deviations: none from GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2, whose numbers this file reproduces, but for
the output's size: the content's own, where the reference cuts to a multiple of 8 (the content is extended by its border
pixels instead). Its text (README.md) and its code differ:
- the text has the shallow levels meet the decoder at their own size ("upsample t3"); the code shrinks them by half,
  nearest, to fit the decoder before its up-sampling, and so drops three quarters of their positions. That is the
  default here; ``concatenate: full`` is the version as drawn, with the same parameters;
- the text's losses are norms that are not squared, the code's are mean squared errors;
- the text has alpha steer "during training"; the code has it, one per level, only when it paints (``level_alphas``).
The reference pairs contents and styles by the order of their file names, once and for all; here pairs are drawn anew.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import normalized_weights
from stylezoo.losses import PerceptualLoss, mean_std, normalize
from stylezoo.module import Code
from stylezoo.registry import register
from stylezoo.training.initialization import FittedModel
from stylezoo.training.least_squares import Goal
from stylezoo.vgg import IMAGENET_MEAN, IMAGENET_STD, VGG, Features
from stylezoo.weights import Tensors

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
LEVELS = ("relu2_1", "relu3_1", "relu4_1")


class PaddedConv(nn.Module):
    """A 3x3 convolution with reflecting borders, under the name that it has in the reference's files."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


def twice(x: Tensor) -> Tensor:
    """Nearest up-sampling, (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def imagenet_normalized(image: Tensor) -> Tensor:
    """RGB in [0, 1] as the reference's decoders paint it: minus ImageNet's mean, over its standard deviation."""
    mean, std = _imagenet(image)
    return (image - mean) / std


def imagenet_restored(painted: Tensor) -> Tensor:
    """The inverse of `imagenet_normalized`: what a decoder painted, as RGB in [0, 1]."""
    mean, std = _imagenet(painted)
    return painted * std + mean


def _imagenet(like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (like.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


class Decoder(nn.Module):
    """Three levels of features to an image. 3,800,003 parameters at VGG's widths.

    Args:
        channels: The encoder's channels per layer, see `VGG.channels`.
        concatenate: ``downsampled`` or ``full``, see `MultiLevelAdaIN`.
    """

    def __init__(self, channels: dict[str, int], concatenate: Literal["downsampled", "full"]) -> None:
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
        """Features at `LEVELS` to an image as `imagenet_normalized` has it, at least as large as what was encoded."""
        x = F.relu(self.rc1(levels["relu4_1"]))  # (B, 256, H/8, W/8)
        x = F.relu(self.rc2(self._join(x, levels["relu3_1"])))  # (B, 256, H/8, W/8), in full H/4 and W/4
        x = F.relu(self.rc3(self._grow(x)))  # (B, 256, H/4, W/4)
        x = F.relu(self.rc4(x))
        x = F.relu(self.rc5(self._join(x, levels["relu2_1"])))  # (B, 128, H/4, W/4), in full H/2 and W/2
        x = F.relu(self.rc6(self._grow(x)))  # (B, 128, H/2, W/2)
        x = F.relu(self.rc7(x))
        x = F.relu(self.rc8(twice(x)))  # (B, 64, H, W)
        painted: Tensor = self.rc9(x)
        return painted

    def _join(self, x: Tensor, level: Tensor) -> Tensor:
        """What was decoded so far beside the features of a level, which are twice its size."""
        if self.concatenate == "full":
            x = twice(x)[..., : level.shape[-2], : level.shape[-1]]
        else:
            level = F.interpolate(level, size=x.shape[-2:], mode="nearest")
        return torch.cat([x, level], dim=1)

    def _grow(self, x: Tensor) -> Tensor:
        return x if self.concatenate == "full" else twice(x)


@register(
    "multi_level_adain",
    paper="https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN",
    year=2023,
    kind="arbitrary",
    code="GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2",
)
class MultiLevelAdaIN(FittedModel):
    """AdaIN at three levels (Gao 2023).

    Args:
        content_weight: Weight of the content loss: relu2_1, relu3_1 and relu4_1 against their AdaIN features.
        style_weight: Weight of the style loss.
        style_loss: Style statistic, a name of `stylezoo.losses.STYLE_STATISTICS`.
        style_layers: Weight of each layer in the style loss.
        concatenate: How relu3_1 and relu2_1 join the decoder: ``downsampled`` to half their size, as in the reference,
            or ``full``, after the decoder's up-sampling.
        lr: Learning rate of Adam at the first step.
        lr_decay: d in lr / (1 + d * step).
        first_pictures: Number of training crops that the first weights are fitted to, see `stylezoo.training.initialization.FittedModel`;
            the learning rate is then that of `WhitenedAdam`, some 3e-3. 0 for Adam from random weights.
        encoder: The frozen encoder, see `stylezoo.vgg.VGG`.
        encoder_weights: A file for it; None takes the encoder's own.
        loss_encoder: Another network for the losses, such as a whole VGG beside a slim encoder; None takes the encoder.
            Layers that its file does not reach stay the encoder's.
        loss_encoder_weights: A file for it; None takes its own.

    Raises:
        ValueError: If ``concatenate`` is something else.
    """

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 10.0,
        style_loss: str = "mean_std_outside",
        style_layers: dict[str, float] = LAYERS,
        concatenate: Literal["downsampled", "full"] = "downsampled",
        lr: float = 5e-5,
        lr_decay: float = 0.0,
        first_pictures: int = 0,
        encoder: str = "vgg19_torchvision",
        encoder_weights: str | None = None,
        loss_encoder: str | None = None,
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if concatenate not in ("downsampled", "full"):
            raise ValueError(f"concatenate is downsampled or full, not {concatenate!r}.")
        self.encoder = VGG(encoder, encoder_weights, last="relu4_1")
        self.decoder = Decoder(self.encoder.channels, concatenate)
        self.perceptual = PerceptualLoss(dict.fromkeys(LEVELS, 1.0), style_layers, style_loss=style_loss)
        self.loss_weights = {"content": content_weight, "style": style_weight}

    def goals(self) -> list[Goal]:
        """The decoder inverts VGG; where a level joins it, it restores the same thing again."""
        d, full = self.decoder, self.hparams["concatenate"] == "full"
        convs = [d.rc1, d.rc2, d.rc3, d.rc4, d.rc5, d.rc6, d.rc7, d.rc8]
        names = ["conv4_1", "conv3_4" if full else "conv4_1", "conv3_3", "conv3_1"]
        names += ["conv2_2" if full else "conv3_1", "conv2_2", "conv2_1", "conv1_2"]
        inner = [Goal(block.conv, name) for block, name in zip(convs, names, strict=True)]
        return [*inner, Goal(d.rc9.conv, "picture", relu=False)]

    def picture(self, image: Tensor) -> Tensor:
        return imagenet_normalized(image)

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """The decoder of a file that the reference's train.py wrote, which is the whole model: its encoder is
        torchvision's, never trained, and left out here."""
        return {k.removeprefix("decoder."): v for k, v in tensors.items() if not k.startswith("vgg_encoder.")}, {}

    def encode_style(self, style: Tensor) -> Code:
        """The style as mean and standard deviation of its features at each level: ``mean2_1`` (B, 128, 1, 1) ..."""
        return _statistics(self.encoder(self._style(style), LEVELS))

    def decode(
        self,
        content: Tensor,
        code: Code | list[Code],
        alpha: float = 1.0,
        weights: list[float] | None = None,
        *,
        level_alphas: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Tensor:
        """Paints the content with a style code.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            code: What `encode_style` returned, or a list of such codes to blend: their statistics are, level by level.
            alpha: Strength, 0 (the content as the decoder restores it) to 1.
            weights: One per code, normalized to sum 1; None weighs them equally.
            level_alphas: The share of alpha that relu2_1, relu3_1 and relu4_1 get: strokes and color sit in the
                shallow levels, larger shapes in the deep one.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ValueError: If there are not as many weights as codes, or not three level_alphas.
        """
        if len(level_alphas) != len(LEVELS):
            raise ValueError(f"There are {len(level_alphas)} level_alphas: give one each for {', '.join(LEVELS)}.")
        codes = code if isinstance(code, list) else [code]
        shares = normalized_weights(weights, len(codes))
        blend = {
            name: torch.stack([w * c[name] for w, c in zip(shares, codes, strict=True)]).sum(0) for name in codes[0]
        }
        features = self.encoder(self.encoder.pad(content, "relu4_1"), LEVELS)
        painted = self._paint(features, blend, [alpha * a for a in level_alphas])
        return imagenet_restored(painted)[..., : content.shape[-2], : content.shape[-1]]

    def _paint(self, features: Features, code: Code, alphas: list[float]) -> Tensor:
        targets = _adain(features, code)
        levels = {n: a * targets[n] + (1 - a) * features[n] for n, a in zip(LEVELS, alphas, strict=True)}
        painted: Tensor = self.decoder(levels)
        return painted

    def losses(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms ``content`` and ``style``.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B, 3, H', W'), RGB in [0, 1].
        """
        layers = self.perceptual.layers
        content = self.encoder.pad(content, "relu4_1")
        with torch.no_grad():
            own_content, content_features = self.see(content, LEVELS, LEVELS)
            own_style, style_features = self.see(self._style(style), LEVELS, layers)
            painted = _adain(own_content, _statistics(own_style))
            targets = painted if own_style is style_features else _adain(content_features, _statistics(style_features))
        output = imagenet_restored(self.decoder(painted))[..., : content.shape[-2], : content.shape[-1]]
        terms = self.perceptual(self.see(output, [], layers)[1], content=targets, style=style_features)
        return {name: self.loss_weights[name] * term for name, term in terms.items()}

    def _style(self, style: Tensor) -> Tensor:
        """Statistics need no multiple of 8, and no border that is counted twice: only tiny styles are extended."""
        return style if min(style.shape[-2:]) >= 16 else self.encoder.pad(style, "relu4_1")


def _statistics(features: Features) -> Code:
    code = {}
    for name in LEVELS:
        level = name.removeprefix("relu")
        code[f"mean{level}"], code[f"std{level}"] = mean_std(features[name], 1e-6, outside=True)
    return code


def _adain(features: Features, code: Code) -> Features:
    """AdaIN at each level, with the reference's standard deviation."""
    levels = ((name, name.removeprefix("relu")) for name in LEVELS)
    return {
        name: normalize(features[name], 1e-6, outside=True) * code[f"std{level}"] + code[f"mean{level}"]
        for name, level in levels
    }
