r"""Multi-level attention - Revisiting and Refining AdaIN, its style-attentional module (Gao Chengzhan, 2023).

`stylezoo.models.multi_level_adain` with SANet's attention in place of AdaIN: content positions at relu4_1 and relu5_1 of
a torchvision VGG-19 attend to the style positions that resemble them, and one decoder merges and decodes both levels.
Losses and their weights are SANet's.

    python -m stylezoo fit --config experiments/multi_level_attention.yaml

Equations, for a content $c$, a style $s$ and an output $o = I(c, s)$ at the levels $l$ of relu4_1 and relu5_1: $c_l$,
$s_l$ and $o_l$ are their features, $\bar{x} = (x - \mu(x)) / \sigma(x)$, $\mu$ and $\sigma$ are mean and standard
deviation of a channel over positions, $i$ and $j$ are positions, $g$ is the decoder, $\phi_l$ are the features of the
losses at layer $l$, and $\|x\|^2$ is the mean of squares.

    a_l(i) = c_l(i) + W_o \sum_j \mathrm{softmax}_j \left( (W_f \bar{c}_l(i))^T W_g \bar{s}_l(j) \right) W_h s_l(j)
    o = g(a_4 + \mathrm{upsample}(a_5))
    L = \lambda_c \sum_{l=4}^{5} \|\bar{o}_l - \bar{c}_l\|^2 + \lambda_s L_s + \lambda_{i1} L_{i1} + \lambda_{i2} L_{i2}
    L_s = \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 + \|\sigma(\phi_l(o)) - \sigma(\phi_l(s))\|^2 \right)
    L_{i1} = \|I(c, c) - c\|^2 + \|I(s, s) - s\|^2
    L_{i2} = \sum_l \left( \|\phi_l(I(c, c)) - \phi_l(c)\|^2 + \|\phi_l(I(s, s)) - \phi_l(s)\|^2 \right)

Deviations: the numbers are those of GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2 attMSTModel.py. As published
its training does not start (attTrain.py imports a class that does not exist), and it has no file of weights.
- Its text (README.md) has two branches, spatial and channel attention, and an element-wise product; the code has one
  spatial attention and matrix products, as in SANet.
- What differs from SANet: the encoder; a ReLU after the convolution that merges the levels (SANet's is linear); the
  standard deviation's 1e-6 outside the root; the pixel identity loss on ImageNet-normalized pixels; the learning rate,
  which is constant: attTrain.py has an option lr_decay of 6e-5 that it never uses.
- The reference fails where floor(H/8) or floor(W/8) of the content is odd; here the content is extended by its border
  pixels to a multiple of 16, and the output has the content's size, where the reference cuts to a multiple of 8.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import (
    PaddedConv,
    StyleAttention,
    imagenet_normalized,
    imagenet_restored,
    upsample_nearest,
    widened,
)
from stylezoo.losses import PerceptualLoss, identity_losses, identity_terms, normalize
from stylezoo.module import Blend, FeaturePair, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import VGG, Features
from stylezoo.weights import Tensors

REFERENCE = "GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2"
PAPER = "https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN"
LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}
ATTENDED = ("relu4_1", "relu5_1")


class Decoder(nn.Module):
    """Decodes the merged features of two levels. 5,865,027 parameters at VGG's widths."""

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        c1, c2, c3, c4 = (channels[f"relu{block}_1"] for block in (1, 2, 3, 4))
        self.rc0 = PaddedConv(c4, c4)
        self.rc1 = PaddedConv(c4, c3)
        self.rc2 = PaddedConv(c3, c3)
        self.rc3 = PaddedConv(c3, c3)
        self.rc4 = PaddedConv(c3, c3)
        self.rc5 = PaddedConv(c3, c2)
        self.rc6 = PaddedConv(c2, c2)
        self.rc7 = PaddedConv(c2, c1)
        self.rc8 = PaddedConv(c1, c1)
        self.rc9 = PaddedConv(c1, 3)

    def forward(self, merged: Tensor) -> Tensor:
        """The merged features, (B, 512, H/8, W/8), to (B, 3, H, W), an image as `imagenet_normalized` has it."""
        x = F.relu(self.rc0(merged))
        x = upsample_nearest(F.relu(self.rc1(x)))  # (B, 256, H/4, W/4)
        for conv in (self.rc2, self.rc3, self.rc4, self.rc5):
            x = F.relu(conv(x))
        x = F.relu(self.rc6(upsample_nearest(x)))  # (B, 128, H/2, W/2)
        x = upsample_nearest(F.relu(self.rc7(x)))  # (B, 64, H, W)
        pixels: Tensor = self.rc9(F.relu(self.rc8(x)))
        return pixels


class Network(nn.Module):
    """All that is trained, under the names that it has in the reference's files. 7,966,275 parameters."""

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        self.att1 = StyleAttention(channels["relu4_1"], norm=_normalize)
        self.att2 = StyleAttention(channels["relu5_1"], norm=_normalize)
        self.widen = widened(channels["relu5_1"], channels["relu4_1"])
        self.decoder = Decoder(channels)

    def encode(self, style: Features) -> StyleCode:
        """The style as keys and values of both levels, each (B, positions, C)."""
        key4, value4 = self.att1.encode(style["relu4_1"])
        key5, value5 = self.att2.encode(style["relu5_1"])
        return {"key4": key4, "value4": value4, "key5": key5, "value5": value5}

    def merge(self, content: Features, code: StyleCode) -> Tensor:
        """The attended features of both levels, (B, C, H/8, W/8)."""
        shallow: Tensor = self.att1(content["relu4_1"], code["key4"], code["value4"])
        deep: Tensor = self.widen(self.att2(content["relu5_1"], code["key5"], code["value5"]))
        return shallow + upsample_nearest(deep)[..., : shallow.shape[-2], : shallow.shape[-1]]


def _normalize(x: Tensor) -> Tensor:
    return normalize(x, 1e-6, outside=True)


@register("multi_level_attention", paper=PAPER, year=2023, kind="arbitrary", reference=REFERENCE)
class MultiLevelAttention(StyleModel):
    """Style attention at two levels (Gao 2023).

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
        style_loss: str = "mean_std_outside",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 5e-5,
        lr_decay: float = 0.0,
        encoder: str = "vgg19_torchvision",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = VGG(encoder, encoder_weights, last="relu5_1")
        self.network = Network(self.encoder.channels)
        self.perceptual = PerceptualLoss(
            dict.fromkeys(ATTENDED, 1.0), style_layers, content_loss="normalized_outside", style_loss=style_loss
        )

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """The trained tensors of a file that the reference's attTrain.py would write, which is the whole model: its
        encoder is torchvision's, never trained, and left out here."""
        return {key: value for key, value in tensors.items() if not key.startswith("vgg_encoder.")}, {}

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns keys and values of both attention levels, each (B, positions, 512)."""
        return self.network.encode(self.encoder(self.encoder.pad_small(style, "relu5_1"), ATTENDED))

    def pad(self, image: Tensor) -> Tensor:
        return self.encoder.pad(image, "relu5_1")

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the merged features of styles; below alpha 1 the content attends to itself for the rest, as in SANet.

        The reference has no alpha.
        """
        features: Features = self.encoder(content, ATTENDED)
        blend = style.faded(alpha, lambda: self.network.encode(features))
        merged = blend.sum(lambda code: self.network.merge(features, code))
        return imagenet_restored(self.network.decoder(merged))

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style``, ``identity1``, ``identity2``."""
        layers, content, style = self.perceptual.layers, self.pad(content), self.pad(style)
        content_feats, style_feats = self.feature_pairs((content, ATTENDED, layers), (style, ATTENDED, layers))
        output = imagenet_restored(self._decoded(content, content_feats.encoder, style_feats.encoder))
        output_feats = self.output_features(output)
        terms = self.perceptual(output_feats, content=content_feats.loss_encoder, style=style_feats.loss_encoder)
        return terms | identity_terms(self._identity(content, content_feats), self._identity(style, style_feats))

    def _decoded(self, image: Tensor, features: Features, style: Features) -> Tensor:
        """Returns an image with a style, in its own size and as `imagenet_normalized` has it."""
        pixels: Tensor = self.network.decoder(self.network.merge(features, self.network.encode(style)))
        return pixels[..., : image.shape[-2], : image.shape[-1]]

    def _identity(self, image: Tensor, features: FeaturePair) -> tuple[Tensor, Tensor]:
        restored = self._decoded(image, features.encoder, features.encoder)
        restored_feats = self.feature_pair(imagenet_restored(restored), [], self.perceptual.layers).loss_encoder
        return identity_losses(restored, imagenet_normalized(image), restored_feats, features.loss_encoder)
