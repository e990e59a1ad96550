"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), version 0.1 of the package lpips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torchmetrics.functional.image
from torch import Tensor, nn

from stylezoo import weights
from stylezoo.errors import StylezooError
from stylezoo.metrics.backbones import AlexNet
from stylezoo.metrics.base import ContentMetric, Setting
from stylezoo.vgg import VGG, Features

LAYERS = {
    "alex": AlexNet.layers,
    "vgg": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}
"""Layers of LPIPS and of the content metrics of ArtFID, by the name of the network."""


def lpips_heads(net: str, path: str | Path | None = None) -> list[Tensor]:
    """Reads the trained channel weights of each layer.

    Args:
        net: ``alex`` or ``vgg``, whose files are part of torchmetrics (6 kB; nothing is downloaded).
        path: Another file with keys ``lin0.model.1.weight`` ... instead.

    Returns:
        Five tensors (1, C, 1, 1).
    """
    own = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / f"{net}.pth"
    tensors = weights.read_tensors(path or own)
    return [tensors[f"lin{i}.model.1.weight"] for i in range(5)]


def lpips_terms(output: Sequence[Tensor], content: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """Computes the term of each layer.

    It is the squared distance of features that are scaled to unit length per position, weighted by channel, mean over
    positions.

    Args:
        output: Features of the outputs by layer, (B, C, H, W).
        content: Features of the contents, of the same shapes.
        heads: Channel weights by layer, (1, C, 1, 1).

    Returns:
        (layers, B), 0 or more.
    """
    terms = []
    for a, b, head in zip(output, content, heads, strict=True):
        # the epsilon lies outside the root, as in the package lpips; in torchmetrics inside
        a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
        terms.append(((a - b).square() * head).sum(1).mean((1, 2)))
    return torch.stack(terms)


def lpips_distance(output: Features, content: Features, heads: Sequence[Tensor]) -> Tensor:
    """Computes LPIPS per pair.

    Args:
        output: Features of the outputs at `LAYERS`, {layer: (B, C, H, W)}.
        content: Features of the contents, of the same shapes.
        heads: See `lpips_heads`.

    Returns:
        (B,), 0 or more.
    """
    return lpips_terms(list(output.values()), list(content.values()), heads).sum(0)


class LPIPS(ContentMetric):
    """LPIPS between output and content, with AlexNet (as papers report it) or VGG-16.

    The two differ by a factor of two or three on the same images, so their keys differ, too. Gray images (StyleID's
    second number) are passed with three equal channels.

    Args:
        backbone: `AlexNet` or ``VGG("vgg16_torchvision")``; normalization with the mean and std of ImageNet is the same
            function as LPIPS's scaling of images in [-1, 1].
        heads: File of channel weights; None takes those of version 0.1, which are part of torchmetrics.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.

    Raises:
        StylezooError: If the backbone is another network.
    """

    name = "lpips"

    def __init__(
        self, backbone: nn.Module, heads: str | None = None, resize: str = "native", images: str = "float"
    ) -> None:
        super().__init__(backbone, resize, images)
        if isinstance(backbone, AlexNet):
            self.net = "alex"
        elif isinstance(backbone, VGG) and backbone.depth == 16:
            self.net = "vgg"
        else:
            raise StylezooError(
                "LPIPS needs AlexNet() or VGG('vgg16_torchvision'), because its channel weights fit no other network."
            )
        self.heads = nn.ParameterList(nn.Parameter(h, requires_grad=False) for h in lpips_heads(self.net, heads))
        self.heads_sha256 = weights.digest(self.heads.state_dict())

    def settings(self) -> dict[str, Setting]:
        return {"heads_sha256": self.heads_sha256}

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        layers = LAYERS[self.net]
        return lpips_distance(self.backbone(output, layers), self.backbone(reference, layers), list(self.heads))
