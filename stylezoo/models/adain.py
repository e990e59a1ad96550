r"""AdaIN - Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization (Huang & Belongie, ICCV 2017).

Encode content and style with a frozen VGG-19 up to relu4_1, give the content's features the channel-wise mean and
standard deviation of the style's, and decode. Only the decoder is trained; a style is 2 x 512 numbers.

Equations, for a content $c$, a style $s$ and an output $o$: $f$ is the encoder up to relu4_1, $g$ the decoder, $\mu$
and $\sigma$ are mean and standard deviation of a channel over positions, $\phi_l$ are the features of the losses at
layer $l$, and $\|x\|^2$ is the mean of squares.

    t = \sigma(f(s)) \, \frac{f(c) - \mu(f(c))}{\sigma(f(c))} + \mu(f(s))
    o = g(\alpha t + (1 - \alpha) f(c))
    L = \lambda_c \|f(o) - t\|^2 + \lambda_s \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 + \|\sigma(\phi_l(o)) -
        \sigma(\phi_l(s))\|^2 \right)

Deviations: none from naoto0804/pytorch-AdaIN@47950d0, whose numbers this file reproduces, but for the output's size:
the content's own, where the reference rounds up to a multiple of 8 (ours is its top-left crop).
Paper and author's code (xunhuang1995/AdaIN-style@6d8ac28) differ from it:
- the paper's losses are norms that are not squared; both codes use squared differences;
- the author sums the style loss over channels (x 1e-2) where naoto0804 averages (x 10): relative to it the author's
  layers weigh 0.064 / 0.128 / 0.256 / 0.512 (``style_layers``);
- the author resizes the shorter side to 512, naoto0804 squashes to 512 x 512 (``data.resize: squash``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from stylezoo.bases import FeatureTransferModel
from stylezoo.layers import MirroredDecoder, adain
from stylezoo.losses import PerceptualLoss, mean_std
from stylezoo.module import Blend, StyleCode, largest_map
from stylezoo.registry import register
from stylezoo.vgg import VGG

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}


@register("adain", paper="arXiv:1703.06868", year=2017, kind="arbitrary", reference="naoto0804/pytorch-AdaIN@47950d0")
class AdaIN(FeatureTransferModel):
    """AdaIN (Huang & Belongie 2017).

    Args:
        content_weight: Weight of the content loss at relu4_1, against the AdaIN features.
    """

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 10.0,
        style_loss: str = "mean_std",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 1e-4,
        lr_decay: float = 0.00005,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = VGG(encoder, encoder_weights, last="relu4_1")
        self.decoder = MirroredDecoder(self.encoder.channels)
        self.perceptual = PerceptualLoss({"relu4_1": 1.0}, style_layers, style_loss=style_loss)

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns mean and standard deviation of the style's relu4_1 features, each (B, 512, 1, 1)."""
        mean, std = mean_std(self.features(self.pad(style)))
        return {"mean": mean, "std": std}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the statistics of styles; alpha 0 decodes the content's own features (section 7.3)."""
        features, code = self.features(content), style.code()
        target = adain(features, code["mean"], code["std"])
        output: Tensor = self.decoder(alpha * target + (1 - alpha) * features)
        return output

    def transfer_regions(
        self, content: Tensor, codes: list[StyleCode], masks: Tensor, alpha: float, tile: int | None
    ) -> Tensor:
        """Stylizes each region of the content with a style of its own (section 7.3, spatial control).

        As in xunhuang1995/AdaIN-style@6d8ac28 test.lua ``-mask``: masks are resized (nearest) to the features, and the
        content's statistics are those of the region.
        """
        features = self.features(self.pad(content))
        target = _adain_by_region(features, codes, masks)
        output: Tensor = self.decoder(alpha * target + (1 - alpha) * features)
        return output[..., : content.shape[-2], : content.shape[-1]]

    def match(self, content: Tensor, style: Tensor) -> Tensor:
        """Returns the content's features with the style's mean and standard deviation (section 5, equation 8)."""
        return adain(content, *mean_std(style))


def _adain_by_region(features: Tensor, codes: list[StyleCode], masks: Tensor) -> Tensor:
    region = largest_map(masks, len(codes), features)  # (B, 1, h, w)
    target = features
    for index, code in enumerate(codes):
        inside = (region == index).to(features)
        count = inside.sum((2, 3), keepdim=True)
        mean = (features * inside).sum((2, 3), keepdim=True) / count.clamp_min(1)
        squares = ((features - mean).square() * inside).sum((2, 3), keepdim=True)
        std = (squares / (count - 1).clamp_min(1) + 1e-5).sqrt()  # unbiased, as in `mean_std`
        target = torch.where(inside.bool(), (features - mean) / std * code["std"] + code["mean"], target)
    return target
