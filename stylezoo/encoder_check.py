"""Whether a VGG that a user names is one of the kind that a model expects.

Encoders of the wrong kind have the right names and shapes, and give neon images without any error: weights for BGR as RGB,
for 0-255 as 0-1, the original network as the normalized one. Known files are told by their checksum, the filters of the
original VGG by their colors, and others by how strong their activations are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo import weights
from stylezoo.download import checksum
from stylezoo.vgg import FLAVORS, VGG

_OXFORD_COLORS = {
    1: (-0.6, 0.2, 0.8),
    9: (-0.4, -0.4, 0.8),
    13: (-0.8, 0.2, 0.6),
    20: (-0.4, -0.5, 0.8),
    22: (-0.8, 0.2, 0.6),
    25: (-0.6, 0.4, 0.6),
    29: (0.6, -0.3, -0.7),
    36: (-1.0, 0.2, 0.2),
}
"""{filter: its sums over red, green and blue, normalized} of colorful filters of conv1_1, alike in VGG-16 and VGG-19."""

_STRENGTH = {"normalised": (0.03, 100.0), "torchvision": (0.03, 100.0), "caffe": (3.0, 5000.0)}
"""Bounds of the mean activation of a layer, by flavor. Real ones are 1 to 2, about 1, and 29 to 920."""


def doubt(vgg: VGG, file: str | Path) -> str | None:
    """Says in half a sentence why an encoder is of another kind than its name says, or returns None.

    Args:
        vgg: The encoder, built from a file. Thin ones and those of other flavors than `_STRENGTH` are not checked.
        file: The file.
    """
    if vgg.flavor not in _STRENGTH or vgg.channels.get("relu1_1") != 64:
        return None
    digest = checksum(Path(file))
    known = next((name for name, entry in weights.table().encoders.items() if digest.startswith(entry.sha256)), None)
    if known is not None and known != vgg.name:
        return f"is the file of {known}"
    matrix, has_own = vgg.preprocess.weight[:, :, 0, 0], not _is_flavors_own(vgg)
    if has_own and vgg.flavor != "normalised":
        return "begins with a 1x1 convolution, as files of vgg19_normalised do"
    if not has_own and vgg.flavor == "normalised":
        return "does not begin with the 1x1 convolution that files of vgg19_normalised have"
    first = vgg.tensors["conv1_1.weight"]
    straight, swapped = (_likeness(first, matrix, order) for order in ((0, 1, 2), (2, 1, 0)))
    if max(straight, swapped) > 0.8:
        if vgg.flavor == "torchvision":
            return f"holds the original VGG, which is vgg{vgg.depth}_caffe"
        if swapped > straight:
            return "has red and blue in the other order"
    low, high = _STRENGTH[vgg.flavor]
    layers = [layer for layer in ("relu1_1", "relu2_1", "relu3_1") if layer in vgg.channels]
    with torch.no_grad():
        for layer, features in vgg(_colorful_noise(), layers).items():
            mean = float(features.mean())
            if not low <= mean <= high:
                return f"answers images with {mean:.3g} at {layer}, where {low:g} to {high:g} is usual for {vgg.name}"
    return None


def _is_flavors_own(vgg: VGG) -> bool:
    """Whether the first 1x1 convolution is the one of the flavor, not one of the file."""
    flavor = FLAVORS[vgg.flavor]
    own = torch.tensor(flavor.matrix), torch.tensor(flavor.bias)
    return torch.equal(vgg.preprocess.weight[:, :, 0, 0], own[0]) and torch.equal(
        vgg.tensors["preprocess.bias"], own[1]
    )


def _likeness(weight: Tensor, matrix: Tensor, order: tuple[int, ...]) -> float:
    """Mean cosine between the colors of the first filters, as RGB in [0, 1] meets them, and `_OXFORD_COLORS`."""
    colors = torch.stack([weight[index].sum((1, 2)) @ matrix for index in _OXFORD_COLORS])[:, list(order)]
    return float(F.cosine_similarity(colors, torch.tensor(list(_OXFORD_COLORS.values()))).mean())


def _colorful_noise() -> Tensor:
    """Two images (3, 64, 64) with as much contrast at every scale, as photographs have, always the same."""
    rng = np.random.RandomState(0)
    octaves = [torch.from_numpy(rng.standard_normal((2, 3, side, side))) for side in (2, 4, 8, 16, 32, 64)]
    noise = torch.stack([F.interpolate(octave, size=64, mode="bilinear") for octave in octaves]).sum(0)
    return (0.5 + 0.13 * noise).clamp(0, 1).float()
