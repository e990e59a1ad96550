"""The distance between color histograms (Afifi et al. 2021, HistoGAN, arXiv:2011.11731), as StyleID measures it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.metrics.base import Setting, StyleMetric

SIGMA, EPS = 0.02, 1e-6


def rgb_uv_histogram(images: Tensor, bins: int = 64, size: int = 256, chunk: int = 16384) -> Tensor:
    """Computes RGB-uv histograms: for each channel the log ratios to the two others, weighted by brightness.

    The kernel is inverse-quadratic with width 0.02 on [-3, 3], as in jiwoogit/StyleID@d4ea655
    evaluation/eval_histogan.py.

    Args:
        images: Images (B, 3, H, W), clamped to [0, 1]. Images that are larger than ``size`` on either side are resized
            to size x size pixels (bilinear, not antialiased, whatever their shape).
        bins: Number of bins per axis.
        size: Largest side in pixels.
        chunk: Number of pixels at a time; the value does not depend on it.

    Returns:
        (B, 3, bins, bins); the three histograms of an image together sum to 1.
    """
    images = images.clamp(0, 1)
    if max(images.shape[-2:]) > size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return torch.stack([_histogram(pixels, bins, chunk) for pixels in images.flatten(2)]).to(images)


def _histogram(pixels: Tensor, bins: int, chunk: int) -> Tensor:
    """The histogram (3, bins, bins) of the pixels (3, N) of one image, in float64."""
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
    """Computes the Hellinger distance between the `rgb_uv_histogram` of outputs and styles.

    Args:
        output: Outputs (B, 3, H, W), RGB in [0, 1].
        style: Styles (B, 3, H', W'), RGB in [0, 1].
        bins: See `rgb_uv_histogram`.
        size: See `rgb_uv_histogram`.

    Returns:
        (B,), in [0, 1].
    """
    roots = [rgb_uv_histogram(images, bins, size).sqrt() for images in (output, style)]
    distance: Tensor = torch.linalg.vector_norm((roots[0] - roots[1]).flatten(1), dim=1) / 2**0.5
    return distance


class HistoGANDistance(StyleMetric):
    """`histogan_distance` between the colors of outputs and styles; needs no network.

    Args:
        bins: See `rgb_uv_histogram`.
        size: See `rgb_uv_histogram`.
        resize: Resize rule that comes before ``size``, see `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
    """

    name = "histogan_distance"

    def __init__(self, bins: int = 64, size: int = 256, resize: str = "native", images: str = "float") -> None:
        super().__init__(None, resize, images)
        self.bins = bins
        self.size = size

    def settings(self) -> dict[str, Setting]:
        return {"bins": self.bins, "size": self.size}

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return histogan_distance(output, reference, self.bins, self.size)
