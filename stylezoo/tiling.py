"""Exact tiling: a convolutional function of a large map, computed piece by piece in little memory.

A tile is cut with a halo as wide as the receptive field, and only its inside is kept, so that the pieces are those of
the whole, not an approximation. What is global (statistics, attention) happens between the tiled parts: an encoder is
tiled, its features are joined, and the decoder is tiled again.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from torch import Tensor


def tiled(
    function: Callable[[Tensor], dict[str, Tensor]],
    x: Tensor,
    tile: int | None,
    *,
    halo: int,
    stride: int,
    scales: dict[str, Fraction],
    ceil_mode: bool = True,
) -> dict[str, Tensor]:
    """Computes ``function(x)`` tile by tile.

    Args:
        function: Maps (B, C, h, w) to named maps; what it does is local and, but for borders, the same everywhere.
        x: (B, C, H, W).
        tile: Side of a tile's inside, rounded up to a multiple of ``stride``; None, or one that is not smaller than ``x``,
            computes ``function(x)`` at once.
        halo: Radius of the receptive field of a position of the coarsest output, in positions of ``x``.
        stride: Tiles begin at multiples of it, where all outputs have a position.
        scales: Size of each output relative to ``x``.
        ceil_mode: Whether sizes that do not divide are rounded up, or else down.

    Returns:
        What ``function(x)`` returns.
    """
    if tile is None or max(x.shape[-2:]) <= tile:
        return function(x)
    tile, halo = -(-tile // stride) * stride, -(-halo // stride) * stride
    height, width = x.shape[-2:]
    joined: dict[str, Tensor] = {}
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            start_y, start_x = max(0, top - halo), max(0, left - halo)
            piece = x[..., start_y : top + tile + halo, start_x : left + tile + halo]
            for name, result in function(piece).items():
                scale = scales[name]
                if name not in joined:
                    size = [_ceil(n * scale) if ceil_mode else int(n * scale) for n in (height, width)]
                    joined[name] = result.new_empty(*result.shape[:2], *size)
                whole = joined[name]
                y, x0 = int(top * scale), int(left * scale)
                y_end = min(int((top + tile) * scale), whole.shape[-2])
                x_end = min(int((left + tile) * scale), whole.shape[-1])
                inner_y, inner_x = y - int(start_y * scale), x0 - int(start_x * scale)
                whole[..., y:y_end, x0:x_end] = result[
                    ..., inner_y : inner_y + y_end - y, inner_x : inner_x + x_end - x0
                ]
    return joined


def _ceil(number: Fraction) -> int:
    return -(-number.numerator // number.denominator)
