"""What losses miss in an output: a grid or checkerboard, lost or exaggerated colors, clipped pixels. They need no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.metrics.base import MetricKey, OutputMetric, Setting, StyleMetric, TransferMetric, rounded

PERIODS = (2, 4, 8)
"""Pixels: each enlargement by two in a decoder can leave a pattern, the last one of period 2, the one before it of period 4."""


def checkerboard(images: Tensor, periods: Sequence[int] = PERIODS[:2]) -> dict[int, float]:
    """Computes how far the frequencies of checkerboards and grids stand out of the common spectrum of images.

    Checkerboards come from the overlap of transposed convolutions (Odena, Dumoulin & Olah 2016); a pattern that repeats
    every P pixels has power at multiples of 1 / P cycles per pixel and nowhere else. The power at such a frequency is
    divided by the mean power of its neighbors 3 to 7 bins away along the same row or column of the spectrum. Images and
    channels are averaged before, frequencies (as dB) after. A Hann window suppresses the borders, whose cross in the
    spectrum runs through these frequencies.

    Args:
        images: (N, 3, H, W), H and W at least 16 times the longest period; they are cut to a multiple of it.
        periods: Periods in pixels, powers of 2.

    Returns:
        {period in pixels: dB}; about 0 dB without a pattern. A period has the frequencies that no shorter one has.

    Raises:
        StylezooError: If the images are too small to tell neighboring frequencies apart.
    """
    power = _power(images, max(periods)).mean(0)
    return {period: value.item() for period, value in _prominence(power, periods).items()}


def _power(images: Tensor, period: int) -> Tensor:
    """The power spectrum of each image without its mean, (N, H', W'); H' and W' are multiples of the period."""
    height, width = (side // period * period for side in images.shape[-2:])
    least = 16 * period
    if min(height, width) < least:
        raise StylezooError(f"A spectrum of {width} x {height} pixels is too coarse: {least} x {least} are needed.")
    images = images[..., :height, :width].double()
    rows, columns = (torch.hann_window(side, dtype=torch.float64, device=images.device) for side in (height, width))
    centered = images - images.mean((-2, -1), keepdim=True)
    spectrum: Tensor = torch.fft.fft2(centered * torch.outer(rows, columns))
    return spectrum.abs().square().mean(1)


def _prominence(power: Tensor, periods: Sequence[int]) -> dict[int, Tensor]:
    """{period: dB over neighboring frequencies (...)} of power spectra (..., H, W)."""
    height, width = power.shape[-2:]
    longest = max(periods)
    distances = torch.tensor([*range(-7, -2), *range(3, 8)], device=power.device)
    found: dict[int, list[Tensor]] = {period: [] for period in periods}
    for u, v in product(range(longest), repeat=2):
        period = longest // math.gcd(u, v, longest)
        if period not in found:
            continue
        row, column = u * height // longest, v * width // longest
        neighbors = []
        # On an axis only its own neighbors count: edges along rows and columns make both axes bright.
        if u == 0 or v != 0:
            neighbors.append(power[..., row, (column + distances) % width])
        if v == 0 or u != 0:
            neighbors.append(power[..., (row + distances) % height, column])
        background = torch.cat(neighbors, -1).mean(-1).clamp_min(1e-30)
        found[period].append(10 * torch.log10((power[..., row, column] / background).clamp_min(1e-30)))
    return {period: torch.stack(values).mean(0) for period, values in found.items()}


def grid_energy(output: Tensor, content: Tensor, style: Tensor, period: int) -> Tensor:
    """Computes how many times more the frequencies of a grid stand out of the output than of content and style.

    Each image has its own value of `checkerboard`; the larger one of content and style counts, because a woven canvas in
    the painting or a fence in the photo may be in the output. A single image has few frequencies of a period, so that
    its value varies by a factor of two without any grid: read medians over pairs.

    Args:
        output: Outputs (B, 3, H, W), H and W at least 16 times the period.
        content: Contents (B, 3, H, W).
        style: Styles (B, 3, H', W').
        period: Period in pixels, a power of 2.

    Returns:
        (B,), a ratio of powers: 1 for an output that has as much of a grid as its content or its style.

    Raises:
        StylezooError: If images are too small.
    """
    decibels = [_prominence(_power(images, period), [period])[period] for images in (output, content, style)]
    return 10 ** ((decibels[0] - torch.maximum(decibels[1], decibels[2])) / 10)


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


class GridEnergy(TransferMetric):
    """`grid_energy` of one period, lower is better down to 1; its key calls it ``grid_2``, ``grid_4`` or ``grid_8``.

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
        return {"period": self.period}

    def _values(self, output: Tensor, content: Tensor, style: Tensor) -> Tensor:
        return grid_energy(output, content, style, self.period)


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
