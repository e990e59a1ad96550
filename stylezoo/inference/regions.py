"""Masks: which region of an image takes which style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.controls import check_mask_count
from stylezoo.errors import StylezooError
from stylezoo.images import ImageLike, load_with_alpha
from stylezoo.streaming import StreamedMap

BLACK = 1 / 32
"""Below this a map is black: JPEG files are not exactly so."""


def load_masks(masks: Sequence[ImageLike], count: int) -> Tensor | None:
    """Reads region masks of ``count`` styles as (count, H, W); None if there are none.

    Raises:
        StylezooError: If the number or the shapes of the masks do not fit, or one is black everywhere.
    """
    if not masks:
        return None
    check_mask_count(len(masks), count)
    maps = [_gray(mask) for mask in masks]
    if len(maps) < count:
        maps.append(1 - maps[0])
    height, width = max((tuple(m.shape) for m in maps), key=lambda shape: shape[0] * shape[1])
    for each in maps:
        if not alike(each, (height, width)):
            raise StylezooError(
                f"The masks differ in size ({_size(each)} and {width} x {height} pixels), and not by their scale: they all"
                " cover the content, so give them its shape."
            )
    resized = [F.interpolate(m[None, None], (height, width), mode="nearest")[0, 0] for m in maps]
    return check_masks(torch.stack(resized), count)


def _gray(mask: ImageLike) -> Tensor:
    """Reads a map (H, W): an image, or a tensor (H, W) or (1, H, W), also of bool."""
    if isinstance(mask, Tensor) and (mask.ndim == 2 or (mask.ndim == 3 and len(mask) == 1)):
        mask = mask.reshape(1, *mask.shape[-2:]).expand(3, -1, -1)
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.float()
    gray, alpha = load_with_alpha(mask)
    return gray.mean(0) if alpha is None else gray.mean(0) * alpha[0]  # where a map is transparent, it says nothing


def check_masks(masks: Any, count: int) -> Tensor:
    """Returns region masks as floats, if there is one per style that says something.

    Args:
        masks: (K, H, W) or (B, K, H, W), floats in [0, 1], bool or uint8.
        count: The number of styles.

    Raises:
        StylezooError: If they are no such tensor, or one is black everywhere.
    """
    if not isinstance(masks, Tensor) or masks.ndim not in (3, 4) or masks.shape[-3] != count or not masks.numel():
        given = tuple(masks.shape) if isinstance(masks, Tensor) else f"a {type(masks).__name__}"
        raise StylezooError(f"{count} styles need masks of shape ({count}, H, W) or (B, {count}, H, W), not {given}.")
    maps = masks.float() / 255 if masks.dtype == torch.uint8 else masks.float()
    if not bool(((maps >= 0) & (maps <= 1)).all()):
        raise StylezooError("Masks hold values in [0, 1], white (1) where a style applies: these hold others.")
    largest = maps.transpose(0, -3).flatten(1).amax(1)
    for number, value in enumerate(largest.tolist(), 1):
        if value < BLACK:
            raise StylezooError(
                f"Style {number} has no region: its mask is black everywhere, and white says where it applies."
            )
    return maps


def check_cover(masks: Tensor, contents: Tensor) -> None:
    """Checks that region masks (K, h, w) or (B, K, h, w) are about contents (B, 3, H, W).

    Raises:
        StylezooError: If there are masks for another number of contents, or they have another aspect.
    """
    height, width = contents.shape[-2:]
    if masks.ndim == 4 and len(masks) not in (1, len(contents)):
        raise StylezooError(f"There are {len(contents)} contents but masks for {len(masks)}.")
    if not alike(masks, (height, width)):
        raise StylezooError(
            f"The masks have {_size(masks)} pixels and the content has {width} x {height}, which is another shape: masks"
            " cover the whole content."
        )


def in_regions(output: Tensor, contents: Tensor, masks: Tensor) -> Tensor:
    """Puts the stylized regions into the contents.

    Args:
        output: (B, 3, H, W).
        contents: (B, 3, H, W).
        masks: (K, h, w) or (B, K, h, w) of the same aspect. The only map of a single style is its share, so that gray
            fades; with several, the content stays where all are black.

    Returns:
        (B, 3, H, W).
    """
    size = contents.shape[-2:]
    maps = (masks if masks.ndim == 4 else masks.unsqueeze(0)).to(contents)
    if isinstance(contents, StreamedMap):
        maps = StreamedMap.of(maps, contents.stream)
    if maps.shape[1] == 1:
        maps = F.interpolate(maps, size, mode="bilinear", antialias=True)
        share = ((maps - BLACK) / (1 - 2 * BLACK)).clamp(0, 1)
    else:
        maps = F.interpolate(maps, size, mode="nearest")
        share = (maps.amax(1, keepdim=True) >= BLACK).to(contents)
    return contents.lerp(output, share)


def alike(image: Tensor, size: tuple[int, int]) -> bool:
    """Whether (..., H, W) has the aspect of a size, up to the rounding of a resized image's long side."""
    (h, w), (height, width) = image.shape[-2:], size
    return abs(h * width - w * height) < max(min(h, w), min(height, width))


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"
