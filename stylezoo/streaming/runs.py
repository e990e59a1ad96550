"""From a model's code to an output: runs in tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from stylezoo.controls import TileStatistics
from stylezoo.streaming.maps import Stream, StreamedMap, whole
from stylezoo.streaming.statistics import Recorder

T = TypeVar("T")

THUMBNAIL = 1024
"""Long side in pixels of the copy whose statistics can replace those of an image."""


def streamed(
    function: Callable[[Tensor], T], image: Tensor, tile: int, statistics: TileStatistics = "exact"
) -> T:
    """Computes what a function makes of an image, tile by tile.

    Args:
        function: Takes (B, C, H, W) and returns tensors, or a structure of such; it runs in inference mode.
        image: (B, C, H, W).
        tile: Side of the tiles in pixels.
        statistics: See `lazily`.

    Returns:
        What the function returns, as ordinary tensors without a gradient.
    """
    with torch.inference_mode():
        source = StreamedMap.of(image.detach(), Stream.of((image.shape[-2], image.shape[-1]), tile, image.device))
        leaves, structure = tree_flatten(lazily(function, source, statistics))
    with torch.inference_mode(torch.is_inference_mode_enabled()), torch.no_grad():
        results = whole(*leaves)
        if not torch.is_inference_mode_enabled():  # statistics were computed in inference mode
            results = [r.clone() if isinstance(r, Tensor) and r.is_inference() else r for r in results]
    return tree_unflatten(results, structure)  # type: ignore[return-value]


def lazily(function: Callable[[Tensor], T], source: StreamedMap, statistics: TileStatistics = "exact") -> T:
    """Returns what a function makes of a streamed map, whose tiles are not computed yet; its statistics are.

    Args:
        function: Takes (B, C, H, W).
        source: The map.
        statistics: ``exact``, or ``thumbnail``: the function runs on a copy of at most `THUMBNAIL` pixels first, and the
            statistics of that run, in their order, replace those of the map.
    """
    with torch.inference_mode():
        height, width = source.shape[-2:]
        scale = THUMBNAIL / max(height, width)
        if statistics == "exact" or scale >= 1:
            return function(source)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        (small,) = whole(F.adaptive_avg_pool2d(source, size))
        stream = source.stream
        copy = Stream(max(size), size, stream.device, stream.budget, recorder=Recorder())
        function(StreamedMap.of(small, copy))
        stream.recorder = Recorder(copy.recorder.measured, replays=True)
        return function(source)
