r"""SCT - CCPL: Contrastive Coherence Preserving Loss for Versatile Style Transfer (Wu et al., ECCV 2022).

Normalized features of the content, compressed to 32 channels, are multiplied by a covariance matrix of the style's features and
expanded again: AdaIN with a matrix in the place of one factor per channel, at a cost that is linear in the number of pixels.
Art transfers relu4_1, photorealistic transfer relu3_1. The loss that the paper is named after compares how neighboring features
differ in the content and in the output, which keeps structure and lets videos flicker less; every system can be trained with it
(`stylezoo.training.CCPL`, ``training.ccpl_weight``), as the recipes of this one do.

    python -m stylezoo fit --config experiments/sct.yaml
    python -m stylezoo import --system sct --files vgg_normalised.pth decoder_iter_160000.pth.tar sct_iter_160000.pth.tar \
        --output sct.safetensors

Equations, for a content $c$, a style $s$ and an output $o$: $f$ is the encoder up to relu4_1, or relu3_1, $g$ the decoder,
$\bar{x} = (x - \mu(x)) / \sigma(x)$, $W_c$ compresses and $W_s$ is a small network, both to 32 channels, $W_u$ expands, $X$ are
features as a matrix of channels and $N$ positions, $\phi_l$ are the features of the losses at layer $l$, and $\|x\|^2$ is the mean
of squares.

    \Sigma = \frac{X X^T}{N}, \qquad X = W_s(f(s) - \mu(f(s)))
    t = W_u \, \Sigma \, W_c(\bar{f}(c)) + \mu(f(s))
    o = g(\alpha t + (1 - \alpha) f(c))
    L = \lambda_c \|f(o) - f(c)\|^2 + \lambda_s \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 + \|\sigma(\phi_l(o)) -
        \sigma(\phi_l(s))\|^2 \right) + \lambda_p L_{ccp}

Deviations: the numbers are those of JarrentWu1031/CCPL@d0b6b32, but for
- the output's size: the content's own, where the reference rounds up to a multiple of 8 (4 from relu3_1; ours is its top-left crop);
- styles with a side of less than 40 pixels (20 at relu3_1), at which the reference fails: they are continued by mirror images;
- alpha and blends of styles: the reference ignores the first; here alpha goes from the content's own features to the transferred
  ones. Covariances and means are blended as the reference blends transferred features, which is the same.
- The covariance is of centered features, but is itself not centered after $W_s$: as in the code.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from stylezoo.layers import MirroredDecoder, mirrored
from stylezoo.losses import PerceptualLoss, gram, mean_std, normalize
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import VGG
from stylezoo.weights import Tensors

SIZE = 32
"""Side of the covariance matrices."""
TRANSFERRED = {"art": "relu4_1", "photo": "relu3_1"}
"""The layer that is transferred, by mode."""
SMALLEST_STYLE = {"art": 40, "photo": 20}
"""Side in pixels of the smallest styles: their covariance is that of a single position."""


class Transformation(nn.Module):
    """The simple covariance transformation: 1,664,320 parameters at relu4_1, 344,640 at relu3_1.

    Args:
        channels: Of the layer.
        halvings: How often the number of channels is halved before it becomes 32: twice at relu4_1, once at relu3_1.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        widths = [channels // 2**i for i in range(halvings + 1)]
        self.cnet = _compression(widths, kernel=1)
        self.snet = _compression(widths, kernel=3)
        self.uncompress = nn.Conv2d(SIZE, channels, 1)

    def encode(self, style: Tensor) -> StyleCode:
        """The style as its covariance (B, 32, 32) and mean (B, C, 1, 1), from its features (B, C, h, w), h and w from 5 up."""
        mean, _ = mean_std(style)
        compressed = self.snet((style - mean).to(self.uncompress.weight.dtype))
        return {"covariance": gram(compressed) / (compressed.shape[-2] * compressed.shape[-1]), "mean": mean}

    def forward(self, content: Tensor, code: StyleCode) -> Tensor:
        """Content features (B, C, H, W) with the style of a code, same shape."""
        compressed = self.cnet(normalize(content).to(self.uncompress.weight.dtype))
        mixed = code["covariance"].to(compressed.dtype) @ compressed.flatten(2)
        result: Tensor = self.uncompress(mixed.reshape(compressed.shape)) + code["mean"]
        return result


def _compression(widths: list[int], kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Conv2d(wide, narrow, kernel), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], SIZE, 1))


@register("sct", paper="arXiv:2207.04808", year=2022, kind="arbitrary", reference="JarrentWu1031/CCPL@d0b6b32")
class SCT(StyleModel):
    """SCT (Wu et al. 2022).

    Args:
        mode: ``art`` transfers features of relu4_1, ``photo`` those of relu3_1, which keeps more of the content.
        content_weight: Weight of the content loss at the transferred layer.
        style_layers: Weight of each layer in the style loss; None takes all levels up to the transferred one.
    """

    def __init__(
        self,
        mode: Literal["art", "photo"] = "art",
        content_weight: float = 1.0,
        style_weight: float = 10.0,
        style_loss: str = "mean_std",
        style_layers: dict[str, float] | None = None,
        lr: float = 1e-4,
        lr_decay: float = 5e-5,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.layer = TRANSFERRED[mode]
        self.encoder = VGG(encoder, encoder_weights, last=self.layer)
        channels = self.encoder.channels
        self.transformation = Transformation(channels[self.layer], halvings=2 if mode == "art" else 1)
        self.decoder = MirroredDecoder(channels, "relu4_1" if mode == "art" else "relu3_2")
        levels = [f"relu{block}_1" for block in range(1, int(self.layer[4]) + 1)]
        self.perceptual = PerceptualLoss(
            {self.layer: 1.0}, style_layers or dict.fromkeys(levels, 1.0), style_loss=style_loss
        )

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Finds out from the reference's files which mode they are of."""
        if "uncompress.weight" in tensors:
            return tensors, {"mode": "art" if len(tensors["uncompress.weight"]) == 512 else "photo"}
        return tensors, {}

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the covariance of the style's compressed features, (B, 32, 32), and the mean of its features, (B, C, 1, 1)."""
        return self.transformation.encode(self.features(self._large_enough(style)))

    def _large_enough(self, style: Tensor) -> Tensor:
        return mirrored(style, SMALLEST_STYLE[self.hparams["mode"]])

    def features(self, image: Tensor) -> Tensor:
        """Returns the features of an image at the transferred layer."""
        features: Tensor = self.encoder(image, [self.layer])[self.layer]
        return features

    def pad(self, image: Tensor) -> Tensor:
        return self.encoder.pad(image, self.layer)

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends covariances and means of styles; alpha 0 decodes the content's own features."""
        features = self.features(content)
        transferred = self.transformation(features, style.code())
        output: Tensor = self.decoder(alpha * transferred + (1 - alpha) * features)
        return output

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content`` and ``style`` (section 3.3); ``ccpl`` is an option of training."""
        content_feats, style_feats = self.feature_pairs(
            (self.pad(content), [self.layer], [self.layer]),
            (self._large_enough(style), [self.layer], self.perceptual.layers),
        )
        code = self.transformation.encode(style_feats.encoder[self.layer])
        output = self.decoder(self.transformation(content_feats.encoder[self.layer], code))
        return self.perceptual(
            self.output_features(output), content=content_feats.loss_encoder, style=style_feats.loss_encoder
        )
