"""`CCPL`, a loss for any system that keeps neighboring differences of the content (Wu et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.errors import StylezooError, check_number
from stylezoo.losses import at_least_float32
from stylezoo.module import AdditionalLoss, Stylization

NEIGHBORS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0))


class CCPL(AdditionalLoss):
    """Contrastive coherence preserving loss (section 3.2; arXiv:2207.04808; JarrentWu1031/CCPL@d0b6b32 net.py).

    The difference of a feature of the output to that of a neighboring position should resemble the difference of the content's
    features there, and no other difference of that image. Differences are projected by two linear layers, which are trained
    with the model, and scaled to length 1. Outputs of the neighboring frames of a video then change as their contents do.

    The term is called ``ccpl``: the cross entropy of the right difference among all sampled ones, mean over these, summed over
    layers.

    Args:
        weight: Of the term.
        layers: Of the loss encoder.
        samples: Number of positions of each layer, at each of which eight differences are taken.
        temperature: Divides the similarities.

    Raises:
        StylezooError: If a number is out of range, or there is no layer.
    """

    def __init__(
        self,
        weight: float = 5.0,
        layers: Sequence[str] = ("relu2_1", "relu3_1", "relu4_1"),
        samples: int = 8,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.weight = check_number("weight", weight, "a finite number from 0 up", 0)
        self.samples = check_number("samples", samples, "a number of positions, at least 1", 1, whole=True)
        self.temperature = check_number("temperature", temperature, "a finite number, at least 0.001", 1e-3)
        if not layers:
            raise StylezooError("CCPL compares features of at least one layer: leave layers out, or name some.")
        self.layers = tuple(layers)

    def build(self, channels: Mapping[str, int]) -> None:
        """Builds the projection of each layer, C -> C -> C / 4."""
        widths = [channels[layer] for layer in self.layers]
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 4)) for width in widths
        )

    def forward(self, stylization: Stylization) -> dict[str, Tensor]:
        content = stylization.content_features()
        terms = []
        for layer, projection in zip(self.layers, self.projections, strict=True):
            output, target = stylization.features[layer], content[layer]
            centers, neighbors = sampled_pairs(output.shape[-2], output.shape[-1], self.samples)
            with torch.no_grad():
                key = differences(target, centers, neighbors, projection)
            query = differences(output, centers, neighbors, projection)
            terms.append(info_nce(query, key, self.temperature))
        return {"ccpl": self.weight * torch.stack(terms).sum()}


def sampled_pairs(height: int, width: int, samples: int) -> tuple[Tensor, Tensor]:
    """Draws positions with all eight neighbors, without replacement, from the generator of the CPU.

    Args:
        height: Number of rows of a map.
        width: Number of columns.
        samples: Number of positions; fewer if the map has not as many.

    Returns:
        Indices into the flattened map, (8 * samples,) each: the positions, eight times, and one neighbor of each.

    Raises:
        StylezooError: If the map has less than 3 rows or columns.
    """
    if min(height, width) < 3:
        raise StylezooError(
            f"CCPL compares neighbors inside of a map, but one is {height}x{width}: train on larger crops (data.crop), or"
            " leave deep layers out."
        )
    inner = torch.randperm((height - 2) * (width - 2))[:samples]
    centers = (inner // (width - 2) + 1) * width + inner % (width - 2) + 1
    offsets = torch.tensor([row * width + column for row, column in NEIGHBORS])
    return centers.repeat(len(NEIGHBORS)), (centers + offsets[:, None]).flatten()


def differences(features: Tensor, centers: Tensor, neighbors: Tensor, projection: nn.Module) -> Tensor:
    """Returns projected differences of features, (B, C, H, W) -> (B, P, C'), each of length 1."""
    flat = features.flatten(2).transpose(1, 2)
    centers, neighbors = centers.to(flat.device), neighbors.to(flat.device)
    projected: Tensor = projection((flat[:, centers] - flat[:, neighbors]).to(next(projection.parameters()).dtype))
    projected = at_least_float32(projected)
    return projected / (projected.square().sum(-1, keepdim=True).clamp_min(1e-30).sqrt() + 1e-7)


def info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Returns the cross entropy of the key of each query among all keys of its image, the mean over queries (B, P, C)."""
    similarities = query @ key.transpose(1, 2) / temperature  # (B, P, P)
    targets = torch.arange(query.shape[1], device=query.device).expand(len(query), -1)
    return F.cross_entropy(similarities.flatten(0, 1), targets.flatten())
