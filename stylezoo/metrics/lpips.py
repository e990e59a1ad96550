"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), version 0.1 of the package lpips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torchmetrics.functional.image
from torch import Tensor, nn

from stylezoo import weights
from stylezoo.metrics.backbones import AlexNet
from stylezoo.metrics.base import ContentMetric, Setting
from stylezoo.vgg import VGG, Features

LAYERS = {
    "alex": AlexNet.layers,
    "vgg": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}
"""What LPIPS and the content metrics of ArtFID look at, by the name of the network."""


def lpips_heads(net: str, path: str | Path | None = None) -> list[Tensor]:
    """The trained channel weights of each layer, five tensors (1, C, 1, 1).

    Args:
        net: ``alex`` or ``vgg``; torchmetrics brings their files along (6 kB, nothing is downloaded).
        path: Another file with keys ``lin0.model.1.weight`` ... instead.
    """
    own = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / f"{net}.pth"
    tensors = weights.read_tensors(path or own)
    return [tensors[f"lin{i}.model.1.weight"] for i in range(5)]


def lpips_terms(output: Sequence[Tensor], content: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """The term of each layer, (layers, B): squared distance of features that are scaled to unit length per position,
    weighted by channel, mean over positions.

    Args:
        output: Features of each layer, (B, C, H, W).
        content: The same of the contents.
        heads: Channel weights of each layer, (1, C, 1, 1).
    """
    terms = []
    for a, b, head in zip(output, content, heads, strict=True):
        # the epsilon lies outside the root, as in the package lpips; in torchmetrics inside
        a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
        terms.append(((a - b).square() * head).sum(1).mean((1, 2)))
    return torch.stack(terms)


def lpips_distance(output: Features, content: Features, heads: Sequence[Tensor]) -> Tensor:
    """LPIPS per pair, (B,).

    Args:
        output: Features at `LAYERS`.
        content: The same of the contents.
        heads: See `lpips_heads`.
    """
    return lpips_terms(list(output.values()), list(content.values()), heads).sum(0)


class LPIPS(ContentMetric):
    """LPIPS between output and content, with AlexNet (as papers report it) or VGG-16.

    The two differ by a factor of two or three on the same images, so their keys do too. Gray images (StyleID's second
    number) are given with three equal channels.

    Args:
        backbone: `AlexNet` or ``VGG("vgg16_torchvision")``; preprocessing with ImageNet's mean and std is the same function
            as LPIPS's scaling of images in [-1, 1].
        heads: A file of channel weights; None takes those of version 0.1 that torchmetrics brings along.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See there.

    Raises:
        ValueError: If the backbone is another network.
    """

    name = "lpips"

    def __init__(
        self, backbone: nn.Module, heads: str | None = None, resize: str = "native", pictures: str = "float"
    ) -> None:
        super().__init__(backbone, resize, pictures)
        if isinstance(backbone, AlexNet):
            self.net = "alex"
        elif isinstance(backbone, VGG) and backbone.depth == 16:
            self.net = "vgg"
        else:
            raise ValueError(
                "LPIPS looks with AlexNet() or VGG('vgg16_torchvision'), its channel weights fit no other."
            )
        self.heads = nn.ParameterList(nn.Parameter(h, requires_grad=False) for h in lpips_heads(self.net, heads))
        self.heads_sha256 = weights.digest(self.heads.state_dict())

    def settings(self) -> dict[str, Setting]:
        return {"heads_sha256": self.heads_sha256}

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        layers = LAYERS[self.net]
        return lpips_distance(self.backbone(output, layers), self.backbone(reference, layers), list(self.heads))
