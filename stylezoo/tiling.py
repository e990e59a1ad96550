"""Exact tiling: evaluation of a convolutional function on a large map, tile by tile, in little memory.

A tile is cut with a halo of the width of the receptive field, and only the inside of its output is kept. The result is
that of the whole map, not an approximation. Global operations (statistics, attention) take place between the tiled
functions: the encoder is tiled, its features are joined, and the decoder is tiled again.
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
        function: A function from (B, C, h, w) to maps by name that is local and, except at borders, translation
            equivariant.
        x: (B, C, H, W).
        tile: Side of the inside of a tile in positions of ``x``, rounded up to a multiple of ``stride``; None, or a
            side of at least that of ``x``, computes ``function(x)`` at once.
        halo: Radius of the receptive field of the coarsest output, in positions of ``x``.
        stride: Tiles begin at its multiples, where every output has a position.
        scales: Size of each output relative to ``x``.
        ceil_mode: Whether fractional output sizes are rounded up; otherwise they are rounded down.

    Returns:
        The maps that ``function(x)`` returns, (B, C', H * scale, W * scale) each.
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
    """Rounds up exactly."""
    return -(-number.numerator // number.denominator)
