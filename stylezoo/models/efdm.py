r"""EFDM - Exact Feature Distribution Matching for Arbitrary Style Transfer (Zhang et al., CVPR 2022, arXiv:2203.07740).

AdaIN gives the content's features the mean and standard deviation of the style's; here they get the style's whole
distribution. In every channel the largest content value is replaced by the largest style value, the second largest by
the second largest, and so on (sort matching). Encoder, decoder and training are AdaIN's.

    python -m stylezoo fit --config experiments/efdm.yaml
    python -m stylezoo import --system efdm --files vgg_normalised.pth decoder_iter_160000.pth.tar --output efdm.safetensors

Equations, for a content $c$, a style $s$ and an output $o$: $f$ is the encoder up to relu4_1, $g$ the decoder, $\phi_l$
are the features of the losses at layer $l$, $\|x\|^2$ is the mean of squares, and in each channel $\pi$ and $\rho$ sort
the positions of the content and of the style by their values.

    t_{\pi(k)} = f(s)_{\rho(k)}, \quad k = 1, \dots, HW
    o = g(\alpha t + (1 - \alpha) f(c))
    L = \lambda_c \|f(o) - t\|^2 + \lambda_s \sum_l \|\mathrm{sort}(\phi_l(o)) - \mathrm{sort}(\phi_l(s))\|^2

Deviations: the numbers are those of YBZh/EFDM@80e26bd, but for
- the output's size: the content's own, where the reference rounds up to a multiple of 8 (ours is its top-left crop);
- styles of another size than the content, which the reference refuses (it crops both to one size): see `quantiles`;
- ties, half of all values after a ReLU: the reference's sort leaves their order to the machine, ours is stable, so that
  equal content values are ranked from the top left to the bottom right. In areas of one color, where that would be seen as
  stripes, they get the mean of the style values of their ranks instead;
- speed: the style is sorted once and for all (the code), and a content once, where the reference sorts both and then
  the content's ranks. The result is the same, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.bases import FeatureTransferModel
from stylezoo.layers import MirroredDecoder, is_traced
from stylezoo.losses import PerceptualLoss, at_least_float32
from stylezoo.module import Blend, StyleCode
from stylezoo.registry import register
from stylezoo.streaming import InMemory, StreamedMap, whole
from stylezoo.vgg import VGG

CHANNELS = 32
"""Number of channels that are sorted at a time where an image is computed in tiles."""

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}


def sorted_values(features: Tensor) -> Tensor:
    """The values of each channel in ascending order, (B, C, H, W) -> (B, C, H*W)."""
    (features,) = whole(features)
    return at_least_float32(features).flatten(2).sort(stable=True).values


def quantiles(ordered: Tensor, count: int) -> Tensor:
    """The same distribution in another number of values, (B, C, N) in ascending order -> (B, C, count).

    Value i of ``count`` is the quantile at (i + 1/2) / count, where value j of N stands for the one at (j + 1/2) / N:
    linear in between (Hazen's definition, ``hazen`` in NumPy), and the first and the last value beyond. An image tiled
    k times so has the quantiles of the image.

    >>> quantiles(torch.tensor([[[0.0, 1.0, 4.0, 9.0]]]), 2)
    tensor([[[0.5000, 6.5000]]])
    """
    if not is_traced() and ordered.shape[-1] == count:
        return ordered
    return F.interpolate(ordered, size=count, mode="linear", align_corners=False)


def match_distribution(content: Tensor, ordered: Tensor) -> Tensor:
    """Exact feature distribution matching: the content's ranks with the style's values, channel by channel.

    Args:
        content: Features (B, C, H, W).
        ordered: `sorted_values` of the style, (B or 1, C, H*W).

    Returns:
        (B, C, H, W). Its gradient is handed to the content unchanged (ArbitraryStyleTransfer/function.py). Positions with
        the same features get the same: the mean of what the ties between them get.
    """
    flat = at_least_float32(content).flatten(2)
    matched = _matched(flat.detach(), ordered.to(flat).expand_as(flat), repeated(flat.detach()))
    return (flat + (matched - flat.detach())).reshape(content.shape)


def _matched(flat: Tensor, ordered: Tensor, alike: Tensor) -> Tensor:
    """The matched values of some channels, (B, C, N), given what is `repeated` in all of them, (B, N)."""
    values, ranking = flat.sort(stable=True)
    matched = torch.empty_like(flat).scatter_(-1, ranking, ordered)
    level = torch.empty_like(flat).scatter_(-1, ranking, averaged_ties(values, ordered))
    return torch.where(alike.unsqueeze(1), level, matched)


def match_streamed(content: StreamedMap, ordered: Callable[[slice], Tensor]) -> Tensor:
    """Does the same as `match_distribution` for a map that is computed in tiles, `CHANNELS` channels at a time.

    Ranks need all values of a channel: the map is computed once and kept, and so is the result.

    Args:
        content: Features (B, C, H, W).
        ordered: Returns some channels of what `match_distribution` takes.
    """
    features = at_least_float32(content)
    assert isinstance(features, StreamedMap)
    if features.stream.is_dry:
        return features + 0
    kept, shape = features.kept(), features.node.shape
    rows = features.stream.windows(*shape[2:])

    def channels(part: slice) -> Tensor:
        flat = features.new_empty(shape[0], len(range(*part.indices(shape[1]))), *shape[2:])
        for window in rows:
            InMemory(flat).write(window, kept.read(window)[:, part])
        return flat.flatten(2)

    parts = [slice(start, start + CHANNELS) for start in range(0, shape[1], CHANNELS)]
    factors = _factors(int(shape[1])).to(features.device)
    keys = torch.stack([_keys(channels(part), factors[part]) for part in parts])
    alike = _repeated(keys.sum(0))
    matched: list[Tensor] = []
    for part in parts:
        flat = channels(part)
        values = _matched(flat, ordered(part).to(flat).expand_as(flat), alike)
        matched.append(StreamedMap.stored(values.reshape(shape[0], -1, *shape[2:]), features.stream))
    return torch.cat(matched, 1)


def repeated(features: Tensor) -> Tensor:
    """Whether the features of a position are those of another position, too, in all channels: (B, C, N) -> (B, N)."""
    return _repeated(_keys(features, _factors(int(features.shape[1])).to(features.device)))


@cache  # exporters would record the drawing
def _factors(channels: int) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (channels, 1), generator=torch.Generator().manual_seed(0))


def _keys(features: Tensor, factors: Tensor) -> Tensor:
    """Integers (B, N) that are the same for the same features (B, C, N); those of parts of the channels add up."""
    return ((features.double() * 2.0**32).long() * factors).sum(1)  # they wrap around, in any order of summation alike


def _repeated(keys: Tensor) -> Tensor:
    """Whether a number is there more than once, (B, N)."""
    keys, place = keys.sort()
    same = keys.diff() == 0
    alike = F.pad(same, (1, 0)) | F.pad(same, (0, 1))
    return torch.empty_like(alike).scatter_(-1, place, alike)


def averaged_ties(values: Tensor, ordered: Tensor) -> Tensor:
    """Replaces numbers whose ranks belong to equal values by their mean.

    >>> averaged_ties(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([2.0, 4.0, 9.0])).tolist()
    [3.0, 3.0, 9.0]

    Args:
        values: In ascending order, (..., N).
        ordered: Numbers by rank, (..., N).
    """
    group = (values.diff(dim=-1, prepend=values[..., :1]) != 0).cumsum(-1)
    sums, counts = torch.zeros_like(ordered), torch.zeros_like(ordered)
    sums.scatter_add_(-1, group, ordered)
    counts.scatter_add_(-1, group, torch.ones_like(ordered))
    return (sums / counts.clamp_min(1)).gather(-1, group)


def distribution_loss(output: Tensor, style: Tensor) -> Tensor:
    """MSE of the output against the output matched to the style, which is that of the sorted values of both.

    The squared Wasserstein distance of the two distributions, mean over channels (ArbitraryStyleTransfer/net.py
    calc_style_loss). The features (B, C, H, W) and (B, C, H', W') may differ in size.
    """
    ordered = sorted_values(output)
    return F.mse_loss(ordered, quantiles(sorted_values(style), ordered.shape[-1]))


@register("efdm", paper="arXiv:2203.07740", year=2022, kind="arbitrary", reference="YBZh/EFDM@80e26bd")
class EFDM(FeatureTransferModel):
    """Exact feature distribution matching (Zhang et al. 2022).

    Args:
        content_weight: Weight of the content loss at relu4_1, against the matched features.
        style_loss: ``efdm``, `distribution_loss`, or a name of `stylezoo.losses.STYLE_STATISTICS`.
    """

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 10.0,
        style_loss: str = "efdm",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 1e-4,
        lr_decay: float = 0.00005,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = VGG(encoder, encoder_weights, last="relu4_1")
        self.decoder = MirroredDecoder(self.encoder.channels)
        measure = distribution_loss if style_loss == "efdm" else style_loss
        self.perceptual = PerceptualLoss({"relu4_1": 1.0}, style_layers, style_loss=measure)

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the sorted values of the style's relu4_1 features, (B, 512, positions)."""
        return {"sorted": sorted_values(self.features(self.pad(style)))}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the quantiles of styles, which blends the matched features; alpha 0 decodes the content's own."""
        features = self.features(content)
        count = features.shape[-2] * features.shape[-1]

        def ordered(channels: slice) -> Tensor:
            return style.sum(lambda code: quantiles(code["sorted"][:, channels], count))

        if isinstance(features, StreamedMap):
            matched = match_streamed(features, ordered)
        else:
            matched = match_distribution(features, ordered(slice(None)))
        output: Tensor = self.decoder(alpha * matched + (1 - alpha) * features)
        return output

    def match(self, content: Tensor, style: Tensor) -> Tensor:
        """Returns the content's features with the style's values, see `match_distribution`."""
        return match_distribution(content, quantiles(sorted_values(style), content.shape[-2] * content.shape[-1]))
