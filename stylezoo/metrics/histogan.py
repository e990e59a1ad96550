"""Distance of color histograms (Afifi et al. 2021, HistoGAN, arXiv:2011.11731), as StyleID measures it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.metrics.base import Setting, StyleMetric

SIGMA, EPS = 0.02, 1e-6


def rgb_uv_histogram(images: Tensor, bins: int = 64, size: int = 256, chunk: int = 16384) -> Tensor:
    """RGB-uv histograms: of each channel the log ratios to the two others, weighted by brightness, summing to 1.

    Inverse-quadratic kernel of width 0.02 on [-3, 3]; jiwoogit/StyleID@d4ea655 evaluation/eval_histogan.py.

    Args:
        images: (B, 3, H, W), clamped to [0, 1]; larger than ``size`` on either side they become size x size (bilinear,
            not antialiased, whatever their shape).
        bins: Per axis.
        size: See ``images``.
        chunk: Pixels at a time; the value does not depend on it.

    Returns:
        (B, 3, bins, bins).
    """
    images = images.clamp(0, 1)
    if max(images.shape[-2:]) > size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return torch.stack([_histogram(pixels, bins, chunk) for pixels in images.flatten(2)]).to(images)


def _histogram(pixels: Tensor, bins: int, chunk: int) -> Tensor:
    centers = torch.linspace(-3, 3, bins, dtype=torch.float64, device=pixels.device)
    histogram = torch.zeros(3, bins, bins, dtype=torch.float64, device=pixels.device)
    for part in torch.split(pixels, chunk, dim=1):  # (3, n)
        weight = (part.square().sum(0) + EPS).sqrt().double()
        red, green, blue = (part + EPS).log().unbind(0)
        rg, rb, gb = (
            1 / (1 + ((d.double().unsqueeze(1) - centers) / SIGMA).square())
            for d in (red - green, red - blue, green - blue)
        )  # each (n, bins); log(G/R) = -log(R/G) falls into the opposite bins
        gr, br, bg = rg.flip(1), rb.flip(1), gb.flip(1)
        for channel, (u, v) in enumerate(((rg, rb), (gr, gb), (br, bg))):
            histogram[channel] += (weight.unsqueeze(1) * u).T @ v
    return histogram / (histogram.sum() + EPS)


def histogan_distance(output: Tensor, style: Tensor, bins: int = 64, size: int = 256) -> Tensor:
    """Hellinger distance of two images' `rgb_uv_histogram`, in [0, 1], per pair, (B,).

    Args:
        output: (B, 3, H, W), RGB in [0, 1].
        style: (B, 3, H', W').
        bins: See `rgb_uv_histogram`.
        size: See there.
    """
    roots = [rgb_uv_histogram(images, bins, size).sqrt() for images in (output, style)]
    distance: Tensor = torch.linalg.vector_norm((roots[0] - roots[1]).flatten(1), dim=1) / 2**0.5
    return distance


class HistoGANDistance(StyleMetric):
    """`histogan_distance`: how far the colors are from the style's. Needs no network.

    Args:
        bins: See `rgb_uv_histogram`.
        size: See there.
        resize: Before that, see `stylezoo.metrics.ImageMetric`.
        images: See there.
    """

    name = "histogan_distance"

    def __init__(self, bins: int = 64, size: int = 256, resize: str = "native", pictures: str = "float") -> None:
        super().__init__(None, resize, pictures)
        self.bins = bins
        self.size = size

    def settings(self) -> dict[str, Setting]:
        return {"bins": self.bins, "size": self.size}

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return histogan_distance(output, reference, self.bins, self.size)
