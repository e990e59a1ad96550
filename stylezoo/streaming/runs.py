"""From a model's code to an output: runs in tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from stylezoo.controls import TileStatistics
from stylezoo.streaming.maps import Node, Source, Stream, StreamedMap, whole
from stylezoo.streaming.memory import Budget
from stylezoo.streaming.statistics import Recorder

T = TypeVar("T")

THUMBNAIL = 1024
"""Long side in pixels of the copy whose statistics can replace those of an image."""


def streamed(function: Callable[[Tensor], T], image: Tensor, tile: int, statistics: TileStatistics = "exact") -> T:
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
    output: T = tree_unflatten(results, structure)
    return output


def lazily(function: Callable[[Tensor], T], source: StreamedMap, statistics: TileStatistics = "exact") -> T:
    """Returns what a function makes of a streamed map, whose tiles are not computed yet; its statistics are.

    Args:
        function: Takes (B, C, H, W).
        source: The map.
        statistics: ``exact``, or ``thumbnail``: the function runs on a copy of at most `THUMBNAIL` pixels first, and the
            statistics of that run, in their order, replace those of the map.
    """
    with torch.inference_mode():
        source = StreamedMap(source.node, source.stream)  # of inference mode, wherever it was made
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


def estimated_memory(function: Callable[[Tensor], object], shape: tuple[int, int, int, int], like: Tensor) -> int:
    """Estimates the memory in bytes that a function of images takes besides its input, without computing anything.

    The function runs with a streamed map whose statistics are not computed. What would be alive at each operation is
    added up: a map from its operation to the last one that uses it.

    Args:
        function: Takes (B, C, H, W).
        shape: (B, C, H, W).
        like: A tensor on the device and with the type of the images.

    Raises:
        StylezooError: If the function needs numbers.
    """
    with torch.inference_mode():
        stream = Stream(max(shape[2:]), (shape[2], shape[3]), like.device, Budget(0), nodes={})
        source = StreamedMap.of(like.new_zeros(1).expand(shape), stream)
        output = function(source)
        assert stream.nodes is not None
        return _peak(list(stream.nodes), output.node if isinstance(output, StreamedMap) else source.node)


def _peak(nodes: list[Node], output: Node) -> int:
    """Returns the bytes of the maps that are alive at once, if each is freed after its last use."""
    bases: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    nodes.sort(reverse=True)  # in the order of computation
    for node in nodes:
        bases[node] = bases.get(node.inputs[0], node.inputs[0]) if node.aliases else node
        for source in (node, *node.inputs):
            last[bases.get(source, source)] = node.number
    last[bases[output]] = nodes[-1].number + 1
    alive = peak = 0
    ending: dict[int, int] = {}
    for node in nodes:
        if bases[node] is node and not isinstance(node, Source):
            alive += node.nbytes
            ending[last[node]] = ending.get(last[node], 0) + node.nbytes
        peak = max(peak, alive)
        alive -= ending.pop(node.number, 0)
    return peak
