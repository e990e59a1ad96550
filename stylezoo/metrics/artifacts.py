"""What losses miss in an output: a grid or checkerboard, lost or exaggerated colors, clipped pixels. They need no network."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.metrics.base import MetricKey, OutputMetric, Setting, StyleMetric, TransferMetric, rounded


def checkerboard(images: Tensor) -> dict[int, float]:
    """Computes how far the frequencies of checkerboards stand out of the common spectrum of images.

    Checkerboards come from the overlap of transposed convolutions (Odena, Dumoulin & Olah 2016); a pattern that repeats
    every 2 or 4 pixels has power at multiples of 1/4 cycles per pixel and nowhere else. The power at such a frequency is
    divided by the mean power of its neighbors 3 to 7 bins away along the same row or column of the spectrum. Images and
    channels are averaged before, frequencies (as dB) after. A Hann window suppresses the borders, whose cross in the
    spectrum runs through these frequencies.

    Args:
        images: (N, 3, H, W), H and W at least 64; they are cut to a multiple of 4.

    Returns:
        {period in pixels: dB}, of 2 and 4; 0 dB means no checkerboard. Period 4 has the frequencies that period 2 has not.

    Raises:
        StylezooError: If the images are too small to tell neighboring frequencies apart.
    """
    height, width = (side // 4 * 4 for side in images.shape[-2:])
    if min(height, width) < 64:
        raise StylezooError(f"A spectrum of {width} x {height} pixels is too coarse: 64 x 64 are needed.")
    power = _power(images[..., :height, :width]).mean(0)
    distances = torch.tensor([*range(-7, -2), *range(3, 8)], device=power.device)
    found: dict[int, float] = {}
    for period in (2, 4):
        values = []
        for u, v in _frequencies(period):
            row, column = u * height // period, v * width // period
            neighbors = []
            # On an axis only its own neighbors count: edges along rows and columns make both axes bright.
            if u == 0 or v != 0:
                neighbors.append(power[row, (column + distances) % width])
            if v == 0 or u != 0:
                neighbors.append(power[(row + distances) % height, column])
            background = torch.cat(neighbors).mean().clamp_min(1e-30)
            values.append(10 * torch.log10((power[row, column] / background).clamp_min(1e-30)))
        found[period] = torch.stack(values).mean().item()
    return found


def _frequencies(period: int) -> list[tuple[int, int]]:
    """The frequencies (u, v) / period that patterns of this period have, and patterns of a shorter one have not."""
    return [(u, v) for u, v in product(range(period), repeat=2) if math.gcd(u, v, period) == 1]


def _power(images: Tensor) -> Tensor:
    """The power spectrum of each image without its mean, (N, H, W): sums over frequencies are variances of pixels."""
    height, width = images.shape[-2:]
    rows, columns = (torch.hann_window(side, dtype=torch.float64, device=images.device) for side in (height, width))
    window = torch.outer(rows, columns)
    images = images.double()
    centered = images - images.mean((-2, -1), keepdim=True)
    spectrum: Tensor = torch.fft.fft2(centered * window)
    return spectrum.abs().square().mean(1) / (window.square().sum() * height * width)


BLOCK = 64
"""Side in pixels of the blocks whose spectra `grid_contrast` averages."""

ROUNDING = (1 / 255) ** 2 / 12
"""Variance of the error that the rounding to 8 bits makes."""


def _grid_energies(images: Tensor, period: int) -> Tensor:
    """The power at the frequencies of a period, (N, frequencies), with that of a rounding to 8 bits added."""
    side = min(BLOCK, *(side // period * period for side in images.shape[-2:]))
    if side < 4 * period:
        width, height = images.shape[-1], images.shape[-2]
        raise StylezooError(
            f"{width} x {height} pixels are too few for a grid of period {period}: {4 * period} x {4 * period} are needed."
        )
    blocks = images.unfold(2, side, side // 2).unfold(3, side, side // 2)  # (N, 3, n, m, side, side), half overlapping
    stacked = blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)
    power = _power(stacked).view(len(images), -1, side, side).mean(1)
    places = torch.tensor(_frequencies(period), device=power.device) * side // period
    energies: Tensor = power[:, places[:, 0], places[:, 1]]
    return energies + ROUNDING / side**2


def grid_contrast(output: Tensor, content: Tensor, style: Tensor, period: int) -> Tensor:
    """Computes how many times more contrast outputs have at the frequencies of a grid than content and style.

    A pattern that is locked to the pixels, as decoders leave them where they enlarge feature maps, has energy at multiples
    of 1 / period cycles per pixel. At each of these frequencies, the energy of the output is divided by the larger one of
    content and style, since a canvas in the painting or a fence in the photo may be in the output; the geometric mean over
    the frequencies is the ratio of energies, and its root that of contrasts. Spectra are means over blocks of `BLOCK`
    pixels with a Hann window (Welch 1967), so that patterns count that come and go with the content; the error of 8-bit
    values is added to all, so that patterns below it do not count.

    Args:
        output: Outputs (B, 3, H, W), RGB in [0, 1], H and W at least four times the period.
        content: Contents (B, 3, H, W).
        style: Styles (B, 3, H', W').
        period: Period in pixels: 2 for checkerboards and noise from pixel to pixel, 4 or 8 for grids.

    Returns:
        (B,), float64: 1 for an output with as much contrast at these frequencies as its content or style.

    Raises:
        StylezooError: If images are too small.
    """
    energies = [_grid_energies(images, period) for images in (output, content, style)]
    ratio = energies[0].log() - torch.maximum(energies[1], energies[2]).log()
    return (ratio.mean(1) / 2).exp()


def colorfulness(images: Tensor) -> Tensor:
    """Computes how colorful 8-bit images are.

    It is the measure M3 of Hasler & Suesstrunk 2003, "Measuring colourfulness in natural images": with the
    opponent colors rg = R - G and yb = (R + G) / 2 - B, the root of the sum of their variances plus 0.3 times the root of
    the sum of their squared means. The authors call 15 slightly, 45 averagely and 82 highly colorful.

    Args:
        images: (B, 3, H, W), RGB in [0, 1]; rounded to 8 bits.

    Returns:
        (B,), float64, 0 or more.

    >>> colorfulness(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).view(1, 3, 1, 2))  # 1.3 * 142.549
    tensor([185.3141], dtype=torch.float64)
    """
    red, green, blue = rounded(images).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], 1).flatten(2)  # (B, 2, H*W)
    spread = opponents.var(2, correction=0).sum(1).sqrt()
    return spread + 0.3 * opponents.mean(2).square().sum(1).sqrt()


def colorfulness_ratio(output: Tensor, style: Tensor) -> Tensor:
    """Computes `colorfulness` of outputs divided by that of their styles.

    Args:
        output: Outputs (B, 3, H, W), RGB in [0, 1].
        style: Styles (B, 3, H', W'), RGB in [0, 1].

    Returns:
        (B,), float64, 0 or more; 1 for an output that is as colorful as its style, NaN where the style is gray.
    """
    of_style = colorfulness(style)
    return torch.where(of_style > 0, colorfulness(output) / of_style, torch.nan)


def clipped_share(images: Tensor) -> Tensor:
    """Computes the share of pixels that have a channel at its end: 0 or 255 after rounding to 8 bits.

    Args:
        images: (B, 3, H, W), RGB in [0, 1] and not clamped.

    Returns:
        (B,), float64, in [0, 1].

    >>> clipped_share(torch.tensor([0.5, 0.001, 0.997, 1.2]).expand(1, 3, 1, 4))
    tensor([0.5000], dtype=torch.float64)
    """
    values = rounded(images)
    return ((values == 0) | (values == 255)).any(1).double().mean((1, 2))


class GridContrast(TransferMetric):
    """`grid_contrast` of one period, lower is better down to 1; its key calls it ``grid_2``, ``grid_4`` or ``grid_8``.

    Args:
        period: Period in pixels, a power of 2.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.

    Raises:
        StylezooError: If the period is no power of 2.
    """

    name = "grid"

    def __init__(self, period: int, resize: str = "native", images: str = "float") -> None:
        super().__init__(None, resize, images)
        if period < 2 or period & (period - 1):
            raise StylezooError(f"The period of a grid is a power of 2, such as 8 pixels, not {period}.")
        self.period = period

    @property
    def key(self) -> MetricKey:
        return replace(super().key, metric=f"{self.name}_{self.period}")

    def settings(self) -> dict[str, Setting]:
        return {"period": self.period, "block": BLOCK}

    def _values(self, output: Tensor, content: Tensor, style: Tensor) -> Tensor:
        return grid_contrast(output, content, style, self.period)


class ColorfulnessRatio(StyleMetric):
    """`colorfulness_ratio`, best at 1: a lower value is paler than the style, a higher one gaudier."""

    name = "colorfulness_ratio"
    higher_is_better = None

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return colorfulness_ratio(output, reference)


class ClippedShare(OutputMetric):
    """`clipped_share`, lower is better; pictures in ink and posters are clipped for a reason."""

    name = "clipped_share"

    def _values(self, output: Tensor) -> Tensor:
        return clipped_share(output)
