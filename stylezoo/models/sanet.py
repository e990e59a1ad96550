"""SANet - Arbitrary Style Transfer with Style-Attentional Networks (Park & Lee, CVPR 2019).

Instead of moving two statistics, every content position looks for the style positions that resemble it and takes a
mixture of their features: attention between normalized content (queries) and style (keys), at relu4_1 and relu5_1,
merged and decoded. Identity losses (an image styled with itself must stay itself) keep structure without a content
target.

Deviations: the numbers are those of GlebSBrykin/SANET@2dfec14; the authors published no code.
- Identity weights 50 (pixels) and 1 (features): the printed paper has them the other way round, the authors' project
  page (dypark86/SANET@0677858) corrects it.
- The reference fails where the two levels disagree in size (ceil(H/8) odd); here the up-sampled deeper level is cut to
  fit, which changes nothing elsewhere. The output has the content's size, the reference's top-left crop.
- Paper: no learning rate decay is mentioned; code: lr / (1 + 5e-5 i). The released weights are of step 500,000.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import MirroredDecoder, StyleAttention, normalized_weights
from stylezoo.losses import PerceptualLoss, identity_losses
from stylezoo.module import Code
from stylezoo.registry import register
from stylezoo.training.initialization import FittedModel, mirrored
from stylezoo.training.least_squares import Goal
from stylezoo.vgg import VGG, Features

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}
ATTENDED = ("relu4_1", "relu5_1")


class Transform(nn.Module):
    """The two attention levels and the convolution that merges them. 4,461,056 parameters at VGG's widths."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sanet4_1 = StyleAttention(channels)
        self.sanet5_1 = StyleAttention(channels)
        self.merge_conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")

    def encode(self, style: Features) -> Code:
        """The style as keys and values of both levels, each (B, positions, C)."""
        key4, value4 = self.sanet4_1.encode(style["relu4_1"])
        key5, value5 = self.sanet5_1.encode(style["relu5_1"])
        return {"key4": key4, "value4": value4, "key5": key5, "value5": value5}

    def forward(self, content: Features, code: Code) -> Tensor:
        """Merged features (B, C, H/8, W/8)."""
        shallow = self.sanet4_1(content["relu4_1"], code["key4"], code["value4"])
        deep = self.sanet5_1(content["relu5_1"], code["key5"], code["value5"])
        deep = F.interpolate(deep, scale_factor=2, mode="nearest")[..., : shallow.shape[-2], : shallow.shape[-1]]
        merged: Tensor = self.merge_conv(shallow + deep)
        return merged


@register(
    "sanet",
    paper="https://arxiv.org/abs/1812.02342",
    year=2019,
    kind="arbitrary",
    code="GlebSBrykin/SANET@2dfec14",
)
class SANet(FittedModel):
    """SANet (Park & Lee 2019).

    Args:
        content_weight: Weight of the content loss, normalized features of relu4_1 and relu5_1.
        style_weight: Weight of the style loss.
        identity1_weight: Weight of the pixel identity loss.
        identity2_weight: Weight of the feature identity loss.
        style_loss: Style statistic, a name of `stylezoo.losses.STYLE_STATISTICS`.
        style_layers: Weight of each layer in the style loss.
        lr: Learning rate of Adam at the first step.
        lr_decay: d in lr / (1 + d * step).
        first_pictures: Number of training crops that the first weights are fitted to, see `stylezoo.training.initialization.FittedModel`;
            the learning rate is then that of `WhitenedAdam`, some 3e-3. 0 for Adam from random weights.
        encoder: The frozen encoder, see `stylezoo.vgg.VGG`.
        encoder_weights: A file for it; None takes the encoder's own.
        loss_encoder: Another network for the losses, such as a whole VGG beside a slim encoder; None takes the encoder.
            Layers that its file does not reach stay the encoder's.
        loss_encoder_weights: A file for it; None takes its own.
    """

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 3.0,
        identity1_weight: float = 50.0,
        identity2_weight: float = 1.0,
        style_loss: str = "mean_std",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 1e-4,
        lr_decay: float = 5e-5,
        first_pictures: int = 0,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
        loss_encoder: str | None = None,
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = VGG(encoder, encoder_weights, last="relu5_1")
        self.transform = Transform(self.encoder.channels["relu4_1"])
        self.decoder = MirroredDecoder(self.encoder.channels)
        self.perceptual = PerceptualLoss(
            dict.fromkeys(ATTENDED, 1.0), style_layers, content_loss="normalized", style_loss=style_loss
        )
        self.loss_weights = {
            "content": content_weight,
            "style": style_weight,
            "identity1": identity1_weight,
            "identity2": identity2_weight,
        }

    def goals(self) -> list[Goal]:
        """Merging restores relu4_1, which the decoder inverts."""
        return [Goal(self.transform.merge_conv, "relu4_1", relu=False), *mirrored(self.decoder)]

    def first_weights(self, images: Tensor) -> None:
        for attention in (self.transform.sanet4_1, self.transform.sanet5_1):
            attention.swap_features()

    def encode_style(self, style: Tensor) -> Code:
        """The style as keys and values of both attention levels, each (B, positions, 512)."""
        return self.transform.encode(self._features(style, ATTENDED))

    def decode(
        self, content: Tensor, code: Code | list[Code], alpha: float = 1.0, weights: list[float] | None = None
    ) -> Tensor:
        """Paints the content with a style code.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            code: What `encode_style` returned, or a list of such codes to blend: their merged features are.
            alpha: Strength, 0 to 1: the rest comes from the content attending to itself (section 4.4).
            weights: One per code, normalized to sum 1; None weighs them equally.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ValueError: If there are not as many weights as codes.
        """
        features = self._features(content, ATTENDED)
        codes = code if isinstance(code, list) else [code]
        shares = [alpha * w for w in normalized_weights(weights, len(codes))]
        if alpha != 1:
            codes, shares = [*codes, self.transform.encode(features)], [*shares, 1 - alpha]
        merged = torch.stack([w * self.transform(features, c) for w, c in zip(shares, codes, strict=True)]).sum(0)
        output: Tensor = self.decoder(merged)
        return output[..., : content.shape[-2], : content.shape[-1]]

    def losses(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms ``content``, ``style``, ``identity1``, ``identity2`` (section 3.3).

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B, 3, H', W'), RGB in [0, 1].
        """
        with torch.no_grad():
            own_content, content_features = self._see(content, ATTENDED)
            own_style, style_features = self._see(style, ATTENDED)
        output = self.decoder(self.transform(own_content, self.transform.encode(own_style)))
        terms = self.perceptual(self._see(output)[1], content=content_features, style=style_features)
        content_pixels, content_identity = self._identity(content, own_content, content_features)
        style_pixels, style_identity = self._identity(style, own_style, style_features)
        terms["identity1"] = content_pixels + style_pixels
        terms["identity2"] = content_identity + style_identity
        return {name: self.loss_weights[name] * term for name, term in terms.items()}

    def _identity(self, image: Tensor, own: Features, features: Features) -> tuple[Tensor, Tensor]:
        restored = self.decoder(self.transform(own, self.transform.encode(own)))
        restored = restored[..., : image.shape[-2], : image.shape[-1]]
        return identity_losses(restored, image, self._see(restored)[1], features)

    def _see(self, image: Tensor, own: tuple[str, ...] = ()) -> tuple[Features, Features]:
        return self.see(self.encoder.pad(image, "relu5_1"), own, self.perceptual.layers)

    def _features(self, image: Tensor, layers: list[str] | tuple[str, ...]) -> Features:
        features: Features = self.encoder(self.encoder.pad(image, "relu5_1"), layers)
        return features
