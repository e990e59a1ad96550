"""Multi-level attention - Revisiting and Refining AdaIN, its style-attentional module (Gao Chengzhan, 2023).

`stylezoo.models.multi_level_adain` with SANet's attention in place of AdaIN: content positions at relu4_1 and relu5_1 of
a torchvision VGG-19 look for the style positions that resemble them, and one decoder merges and paints both levels.
Losses and their weights are SANet's.

    python -m stylezoo fit --config experiments/multi_level_attention.yaml

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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import StyleAttention, normalized_weights
from stylezoo.losses import PerceptualLoss, identity_losses, normalize
from stylezoo.models.multi_level_adain import PaddedConv, imagenet_normalized, imagenet_restored, twice
from stylezoo.module import Code
from stylezoo.registry import register
from stylezoo.training.initialization import FittedModel
from stylezoo.training.least_squares import Goal
from stylezoo.vgg import VGG, Features
from stylezoo.weights import Tensors

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}
ATTENDED = ("relu4_1", "relu5_1")


class Decoder(nn.Module):
    """Merges two levels of attended features and paints them. 5,865,027 parameters at VGG's widths."""

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
        """(B, 512, H/8, W/8) to (B, 3, H, W), an image as `imagenet_normalized` has it."""
        x = F.relu(self.rc0(merged))
        x = twice(F.relu(self.rc1(x)))  # (B, 256, H/4, W/4)
        for conv in (self.rc2, self.rc3, self.rc4, self.rc5):
            x = F.relu(conv(x))
        x = F.relu(self.rc6(twice(x)))  # (B, 128, H/2, W/2)
        x = twice(F.relu(self.rc7(x)))  # (B, 64, H, W)
        painted: Tensor = self.rc9(F.relu(self.rc8(x)))
        return painted


class Painter(nn.Module):
    """All that is trained, under the names that it has in the reference's files. 7,966,275 parameters."""

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        self.att1 = StyleAttention(channels["relu4_1"], norm=_normalize)
        self.att2 = StyleAttention(channels["relu5_1"], norm=_normalize)
        self.decoder = Decoder(channels)

    def encode(self, style: Features) -> Code:
        """The style as keys and values of both levels, each (B, positions, C)."""
        key4, value4 = self.att1.encode(style["relu4_1"])
        key5, value5 = self.att2.encode(style["relu5_1"])
        return {"key4": key4, "value4": value4, "key5": key5, "value5": value5}

    def merge(self, content: Features, code: Code) -> Tensor:
        """The attended features of both levels, (B, C, H/8, W/8)."""
        shallow: Tensor = self.att1(content["relu4_1"], code["key4"], code["value4"])
        deep: Tensor = self.att2(content["relu5_1"], code["key5"], code["value5"])
        return shallow + twice(deep)[..., : shallow.shape[-2], : shallow.shape[-1]]


def _normalize(x: Tensor) -> Tensor:
    return normalize(x, 1e-6, outside=True)


@register(
    "multi_level_attention",
    paper="https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN",
    year=2023,
    kind="arbitrary",
    code="GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2",
)
class MultiLevelAttention(FittedModel):
    """Style attention at two levels (Gao 2023).

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
        style_loss: str = "mean_std_outside",
        style_layers: dict[str, float] = LAYERS,
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
        self.encoder = VGG(encoder, encoder_weights, last="relu5_1")
        self.painter = Painter(self.encoder.channels)
        self.perceptual = PerceptualLoss(
            dict.fromkeys(ATTENDED, 1.0), style_layers, content_loss="normalized_outside", style_loss=style_loss
        )
        self.loss_weights = {
            "content": content_weight,
            "style": style_weight,
            "identity1": identity1_weight,
            "identity2": identity2_weight,
        }

    def goals(self) -> list[Goal]:
        """Merging restores relu4_1, which the decoder inverts."""
        d = self.painter.decoder
        convs = [d.rc0, d.rc1, d.rc2, d.rc3, d.rc4, d.rc5, d.rc6, d.rc7, d.rc8]
        names = ["relu4_1", "conv4_1", "conv3_4", "conv3_3", "conv3_2", "conv3_1", "conv2_2", "conv2_1", "conv1_2"]
        inner = [Goal(block.conv, name) for block, name in zip(convs, names, strict=True)]
        return [*inner, Goal(d.rc9.conv, "picture", relu=False)]

    def first_weights(self, images: Tensor) -> None:
        for attention in (self.painter.att1, self.painter.att2):
            attention.swap_features()

    def picture(self, image: Tensor) -> Tensor:
        return imagenet_normalized(image)

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """The trained tensors of a file that the reference's attTrain.py would write, which is the whole model: its
        encoder is torchvision's, never trained, and left out here."""
        return {key: value for key, value in tensors.items() if not key.startswith("vgg_encoder.")}, {}

    def encode_style(self, style: Tensor) -> Code:
        """The style as keys and values of both attention levels, each (B, positions, 512)."""
        return self.painter.encode(self.encoder(self._style(style), ATTENDED))

    def decode(
        self, content: Tensor, code: Code | list[Code], alpha: float = 1.0, weights: list[float] | None = None
    ) -> Tensor:
        """Paints the content with a style code.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            code: What `encode_style` returned, or a list of such codes to blend: their merged features are.
            alpha: Strength, 0 to 1: the rest comes from the content attending to itself, as in SANet. The reference
                has no such control.
            weights: One per code, normalized to sum 1; None weighs them equally.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ValueError: If there are not as many weights as codes.
        """
        features = self.encoder(self.encoder.pad(content, "relu5_1"), ATTENDED)
        codes = code if isinstance(code, list) else [code]
        shares = [alpha * w for w in normalized_weights(weights, len(codes))]
        if alpha != 1:
            codes, shares = [*codes, self.painter.encode(features)], [*shares, 1 - alpha]
        merged = torch.stack([w * self.painter.merge(features, c) for w, c in zip(shares, codes, strict=True)]).sum(0)
        painted: Tensor = self.painter.decoder(merged)
        return imagenet_restored(painted)[..., : content.shape[-2], : content.shape[-1]]

    def losses(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms ``content``, ``style``, ``identity1``, ``identity2``.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B, 3, H', W'), RGB in [0, 1].
        """
        layers = self.perceptual.layers
        content, style = (self.encoder.pad(image, "relu5_1") for image in (content, style))
        with torch.no_grad():
            own_content, content_features = self.see(content, ATTENDED, layers)
            own_style, style_features = self.see(style, ATTENDED, layers)
        _, output_features = self.see(imagenet_restored(self._paint(content, own_content, own_style)), [], layers)
        terms = self.perceptual(output_features, content=content_features, style=style_features)
        content_pixels, content_identity = self._identity(content, own_content, content_features)
        style_pixels, style_identity = self._identity(style, own_style, style_features)
        terms["identity1"] = content_pixels + style_pixels
        terms["identity2"] = content_identity + style_identity
        return {name: self.loss_weights[name] * term for name, term in terms.items()}

    def _paint(self, image: Tensor, features: Features, style_features: Features) -> Tensor:
        """`image` with a style, in its own size and as `imagenet_normalized` has it."""
        painted: Tensor = self.painter.decoder(self.painter.merge(features, self.painter.encode(style_features)))
        return painted[..., : image.shape[-2], : image.shape[-1]]

    def _identity(self, image: Tensor, own: Features, features: Features) -> tuple[Tensor, Tensor]:
        restored = self._paint(image, own, own)
        _, restored_features = self.see(imagenet_restored(restored), [], self.perceptual.layers)
        return identity_losses(restored, imagenet_normalized(image), restored_features, features)

    def _style(self, style: Tensor) -> Tensor:
        """Keys and values need no multiple of 16, and no border that is counted twice: only tiny styles are extended."""
        return style if min(style.shape[-2:]) >= 32 else self.encoder.pad(style, "relu5_1")
