"""Structural similarity of output and content: SSIM and MS-SSIM of torchmetrics, and the gray SSIM of papers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from stylezoo.metrics.base import ContentMetric, rounded


def ssim(output: Tensor, content: Tensor) -> Tensor:
    """Computes SSIM (Wang et al. 2004) per pair: 11 x 11 Gaussian window, sigma 1.5, mean over channels.

    Args:
        output: Outputs (B, 3, H, W) in [0, 1].
        content: Contents of the same shape.

    Returns:
        (B,), in [-1, 1].
    """
    value = structural_similarity_index_measure(output, content, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value


def ms_ssim(output: Tensor, content: Tensor) -> Tensor:
    """Computes MS-SSIM (Wang et al. 2003) per pair, with five scales.

    Args:
        output: Outputs (B, 3, H, W) in [0, 1], H and W larger than 160.
        content: Contents of the same shape.

    Returns:
        (B,), at most 1.
    """
    return multiscale_structural_similarity_index_measure(output, content, data_range=1.0, reduction="none")


def gray8(images: Tensor) -> Tensor:
    """Converts images to 8-bit gray values with the rounding of OpenCV.

    Args:
        images: (B, 3, H, W), RGB in [0, 1].

    Returns:
        (B, H, W), whole numbers from 0 to 255 in float64.

    >>> gray8(Tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1))
    tensor([[[151.]]], dtype=torch.float64)
    """
    red, green, blue = rounded(images).unbind(1)
    return ((9798 * red + 19235 * green + 3735 * blue + 16384) / 32768).floor()  # BT.601 in 15-bit fixed point


def ssim_map(output: Tensor, content: Tensor) -> Tensor:
    """Computes SSIM at each position, as skimage.metrics.structural_similarity does by default.

    The window is 7 x 7 and uniform, with sample covariance (n - 1), K1 0.01, K2 0.03, range 255.

    Args:
        output: Gray values (B, H, W), 0 to 255.
        content: Gray values of the same shape.

    Returns:
        (B, H - 6, W - 6), the positions whose window lies within the image; in [-1, 1].
    """
    x, y = output.double().unsqueeze(1), content.double().unsqueeze(1)
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(m, 7, stride=1) for m in (x, y, x * x, y * y, x * y))
    unbiased = 49 / 48
    var_x, var_y = unbiased * (xx - mean_x.square()), unbiased * (yy - mean_y.square())
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))
    return similarity.squeeze(1)


def gray_ssim(output: Tensor, content: Tensor) -> Tensor:
    """Computes SSIM of 8-bit gray images per pair, as EndyWon/MicroAST@5a6c905 metrics/calc_ssim.py does.

    Args:
        output: Outputs (B, 3, H, W), RGB in [0, 1], H and W from 7 up; rounded to 8 bits.
        content: Contents of the same shape.

    Returns:
        (B,), in [-1, 1].
    """
    return ssim_map(gray8(output), gray8(content)).mean((1, 2))


class SSIM(ContentMetric):
    """`ssim`, higher is better."""

    name = "ssim"
    higher_is_better = True

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return ssim(output, reference)


class MultiScaleSSIM(ContentMetric):
    """`ms_ssim`, higher is better."""

    name = "ms_ssim"
    higher_is_better = True

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return ms_ssim(output, reference)


class GraySSIM(ContentMetric):
    """`gray_ssim`, higher is better."""

    name = "gray_ssim"
    higher_is_better = True

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return gray_ssim(output, reference)
