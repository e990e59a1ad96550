r"""SANet - Arbitrary Style Transfer with Style-Attentional Networks (Park & Lee, CVPR 2019).

Instead of moving two statistics, every content position attends to the style positions that resemble it and takes a
mixture of their features: attention between normalized content (queries) and style (keys), at relu4_1 and relu5_1,
merged and decoded. Identity losses (an image styled with itself must stay itself) keep structure without a content
target.

Equations, for a content $c$, a style $s$ and an output $o = I(c, s)$ at the levels $l$ of relu4_1 and relu5_1: $c_l$,
$s_l$ and $o_l$ are their features, $\bar{x} = (x - \mu(x)) / \sigma(x)$, $\mu$ and $\sigma$ are mean and standard
deviation of a channel over positions, $i$ and $j$ are positions, $g$ is the decoder, $\phi_l$ are the features of the
losses at layer $l$, and $\|x\|^2$ is the mean of squares.

    a_l(i) = c_l(i) + W_o \sum_j \mathrm{softmax}_j \left( (W_f \bar{c}_l(i))^T W_g \bar{s}_l(j) \right) W_h s_l(j)
    o = g(\mathrm{conv}_{3 \times 3}(a_4 + \mathrm{upsample}(a_5)))
    L = \lambda_c \sum_{l=4}^{5} \|\bar{o}_l - \bar{c}_l\|^2 + \lambda_s L_s + \lambda_{i1} L_{i1} + \lambda_{i2} L_{i2}
    L_s = \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 + \|\sigma(\phi_l(o)) - \sigma(\phi_l(s))\|^2 \right)
    L_{i1} = \|I(c, c) - c\|^2 + \|I(s, s) - s\|^2
    L_{i2} = \sum_l \left( \|\phi_l(I(c, c)) - \phi_l(c)\|^2 + \|\phi_l(I(s, s)) - \phi_l(s)\|^2 \right)

Deviations: the numbers are those of GlebSBrykin/SANET@2dfec14; the authors published no code.
- Identity weights 50 (pixels) and 1 (features): the printed paper has them the other way round, the authors' project
  page (dypark86/SANET@0677858) corrects it.
- The reference fails where the two levels disagree in size (ceil(H/8) odd); here the up-sampled deeper level is cut to
  fit, which changes nothing elsewhere. The output has the content's size, the reference's top-left crop.
- Paper: no learning rate decay is mentioned; code: lr / (1 + 5e-5 i). The released weights are of step 500,000.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import MirroredDecoder, StyleAttention, widened
from stylezoo.losses import PerceptualLoss, identity_losses, identity_terms
from stylezoo.module import Blend, FeaturePair, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import VGG, Features

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}
ATTENDED = ("relu4_1", "relu5_1")


class Transform(nn.Module):
    """The two attention levels and the convolution that merges them. 4,461,056 parameters at VGG's widths.

    Args:
        channels: Of relu4_1.
        deep_channels: Of relu5_1.
    """

    def __init__(self, channels: int, deep_channels: int) -> None:
        super().__init__()
        self.sanet4_1 = StyleAttention(channels)
        self.sanet5_1 = StyleAttention(deep_channels)
        self.widen = widened(deep_channels, channels)
        self.merge_conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")

    def encode(self, style: Features) -> StyleCode:
        """The style as keys and values of both levels, each (B, positions, C)."""
        key4, value4 = self.sanet4_1.encode(style["relu4_1"])
        key5, value5 = self.sanet5_1.encode(style["relu5_1"])
        return {"key4": key4, "value4": value4, "key5": key5, "value5": value5}

    def forward(self, content: Features, code: StyleCode) -> Tensor:
        """Merged features (B, C, H/8, W/8)."""
        shallow = self.sanet4_1(content["relu4_1"], code["key4"], code["value4"])
        deep = self.widen(self.sanet5_1(content["relu5_1"], code["key5"], code["value5"]))
        deep = F.interpolate(deep, scale_factor=2, mode="nearest")[..., : shallow.shape[-2], : shallow.shape[-1]]
        merged: Tensor = self.merge_conv(shallow + deep)
        return merged


@register("sanet", paper="arXiv:1812.02342", year=2019, kind="arbitrary", reference="GlebSBrykin/SANET@2dfec14")
class SANet(StyleModel):
    """SANet (Park & Lee 2019).

    Args:
        content_weight: Weight of the content loss, normalized features of relu4_1 and relu5_1.
        identity1_weight: Weight of the pixel identity loss.
        identity2_weight: Weight of the feature identity loss.
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
        lr_decay: float = 0.00005,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = VGG(encoder, encoder_weights, last="relu5_1")
        self.transform = Transform(*(self.encoder.channels[layer] for layer in ATTENDED))
        self.decoder = MirroredDecoder(self.encoder.channels)
        self.perceptual = PerceptualLoss(
            dict.fromkeys(ATTENDED, 1.0), style_layers, content_loss="normalized", style_loss=style_loss
        )

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns keys and values of both attention levels, each (B, positions, 512)."""
        return self.transform.encode(self.encoder(self.pad(style), ATTENDED))

    def pad(self, image: Tensor) -> Tensor:
        return self.encoder.pad(image, "relu5_1")

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the merged features of styles; below alpha 1 the content attends to itself for the rest (section 4.4)."""
        features: Features = self.encoder(content, ATTENDED)
        blend = style.faded(alpha, lambda: self.transform.encode(features))
        output: Tensor = self.decoder(blend.sum(lambda code: self.transform(features, code)))
        return output

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style``, ``identity1``, ``identity2`` (section 3.3)."""
        layers = self.perceptual.layers
        content_feats, style_feats = self.feature_pairs(
            *((self.pad(image), ATTENDED, layers) for image in (content, style))
        )
        output = self._decoded(content_feats.encoder, style_feats.encoder)
        output_feats = self.output_features(self.pad(output))
        terms = self.perceptual(output_feats, content=content_feats.loss_encoder, style=style_feats.loss_encoder)
        return terms | identity_terms(self._identity(content, content_feats), self._identity(style, style_feats))

    def _identity(self, image: Tensor, features: FeaturePair) -> tuple[Tensor, Tensor]:
        restored = self._decoded(features.encoder, features.encoder)[..., : image.shape[-2], : image.shape[-1]]
        return identity_losses(restored, image, self._features(restored).loss_encoder, features.loss_encoder)

    def _decoded(self, content: Features, style: Features) -> Tensor:
        output: Tensor = self.decoder(self.transform(content, self.transform.encode(style)))
        return output

    def _features(self, image: Tensor, layers: tuple[str, ...] = ()) -> FeaturePair:
        return self.feature_pair(self.pad(image), layers, self.perceptual.layers)
