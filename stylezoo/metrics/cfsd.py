"""CFSD, the content feature structural distance (Chung et al. 2024, StyleID, arXiv:2312.09008)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.metrics.base import ContentMetric, Setting


def log_similarity(features: Tensor, rows: slice) -> Tensor:
    """Computes the log-softmax of inner products / C^2 between positions.

    It is float64, because the differences between the logarithms of two images lose three digits in float32.

    Args:
        features: Features (C, N) at N positions.
        rows: The positions whose similarities to all positions are computed.

    Returns:
        (rows, N).
    """
    scaled = features / features.shape[0]
    return F.log_softmax((scaled[:, rows].T @ scaled).double(), dim=1)


def cfsd_distance(output: Tensor, content: Tensor, rows: int = 512) -> Tensor:
    """Computes the KL divergence between the position similarities of content and output, summed over positions.

    It is computed some rows at a time, because the N x N matrices take 1 GiB each for an image of 512 x 512 pixels.

    Args:
        output: Features of the outputs, (B, C, H, W).
        content: Features of the contents, of the same shape.
        rows: Number of rows at a time; the value does not depend on it.

    Returns:
        (B,), 0 or more.
    """
    values = []
    for a, b in zip(output.flatten(2), content.flatten(2), strict=True):
        total = a.new_zeros((), dtype=torch.float64)
        for start in range(0, a.shape[1], rows):
            part = slice(start, start + rows)
            total += F.kl_div(log_similarity(a, part), log_similarity(b, part), reduction="sum", log_target=True)
        values.append(total)
    return torch.stack(values)


class CFSD(ContentMetric):
    """CFSD as jiwoogit/StyleID@d4ea655 evaluation/image_metrics.py measures it, on 512-pixel images.

    Args:
        backbone: Network with named features; ``VGG("vgg19_torchvision", last="relu3_1")`` in the reference.
        layer: Layer of the backbone (the reference calls relu3_1 conv3).
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
    """

    name = "cfsd"

    def __init__(
        self, backbone: nn.Module, layer: str = "relu3_1", resize: str = "native", images: str = "float"
    ) -> None:
        super().__init__(backbone, resize, images)
        self.layer = layer

    def settings(self) -> dict[str, Setting]:
        return {"layer": self.layer}

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        return cfsd_distance(*(self.backbone(x, [self.layer])[self.layer] for x in (output, reference)))
