"""When a model works in tiles: where an image would not fit into memory; and from file to file, window by window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylezoo.images.windows import WindowReader, WindowWriter
from stylezoo.module import StyleModel
from stylezoo.streaming import Source, Stream, StreamedMap, Window, estimated_memory, free_memory, sweep

TILES = (1024, 512, 256)
"""Sides of tiles that are chosen from, in pixels."""

OVERHEAD = 3.0
"""Memory that a run takes, relative to its estimate: 1.4 to 3.2 of the models that ship, at 1024 x 1024 pixels on a CPU."""

FILLED = 0.8
"""Share of the free memory that a run may fill."""

TILE_SHARE = 0.25
"""The same of the computation of one tile."""

SMALL = 2**14
"""Bytes per pixel that no model needs: what is smaller than the free memory by this measure is not estimated."""

WINDOWED_PIXELS = 2**25
"""Number of pixels from which images are read and written in windows, if a model works in tiles."""


def streams(model: StyleModel) -> bool:
    """Whether a model can work in tiles without being asked: those that optimize take other tiles, and time."""
    return model.supports_tiles and model.kind != "optimization"


class Fit:
    """Whether what a function makes of images fits into memory, and if not, the tiles in which it does.

    Args:
        function: Takes (B, 3, H, W), and returns a map, or tensors.
    """

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        self.function = function
        self._needed: dict[torch.Size, float] = {}

    def needed(self, images: Tensor) -> float:
        """Returns the bytes that images (B, 3, H, W) need without tiles, which is estimated once per size; 0 if unknown."""
        if images.shape not in self._needed:
            batch, channels, height, width = images.shape
            try:
                estimate = estimated_memory(self.function, (batch, channels, height, width), images)
            except Exception:  # noqa: BLE001 - the model needs numbers where there are none yet
                estimate = 0
            self._needed[images.shape] = OVERHEAD * estimate
        return self._needed[images.shape]

    def tile(self, images: Tensor) -> tuple[int | None, float, float]:
        """Returns the side of the tiles for images (B, 3, H, W), None if they fit; the bytes that they need, and those free."""
        free = free_memory(images.device)
        pixels = len(images) * images.shape[-2] * images.shape[-1]
        if pixels * SMALL < FILLED * free:
            return None, 0.0, free
        needed = self.needed(images)
        if needed < FILLED * free:
            return None, needed, free
        per_position = len(images) * needed / pixels
        sides = [side for side in TILES if per_position * (1.25 * side) ** 2 < TILE_SHARE * free]
        return next(iter(sides), TILES[-1]), needed, free


def stylize_windows(
    stream: Callable[[StreamedMap], StreamedMap],
    reader: WindowReader,
    target: Path,
    tile: int,
    like: Tensor,
    *,
    on_tile: Callable[[int, int, int], None] | None = None,
    **options: Any,
) -> None:
    """Stylizes an image from file to file; neither the image nor the output is ever in memory as a whole.

    Args:
        stream: Returns the output of a content, both (1, 3, H, W) and in [0, 1], such as `Stylizer.stream`.
        reader: The content.
        target: The file to write.
        tile: Side of the tiles in pixels.
        like: A tensor on the device and with the type of the model.
        on_tile: See `stylezoo.streaming.Stream`.
        **options: Quality, source and settings; see `stylezoo.images.windows.WindowWriter`.

    Raises:
        StylezooError: If the output is not finite, or cannot be written.
    """
    height, width = reader.height, reader.width
    whole = Window(0, 1, 0, 1)
    transparent = reader.opacity(*whole) is not None

    def read(window: Window) -> Tensor:
        return reader.read(*window)[None]

    with WindowWriter(target, height, width, transparent, **options) as writer, torch.inference_mode():
        run = Stream.of((height, width), tile, like.device)
        run.on_tile = on_tile
        content = StreamedMap(Source(read, (1, 3, height, width), like.dtype, like.device), run)
        output = stream(content)
        for (window,), (values,) in sweep(run, [output], keep=False):
            pixels = values[0].float().cpu()
            opacity = reader.opacity(*window) if transparent else None
            writer.write(window.top, window.left, pixels if opacity is None else torch.cat([pixels, opacity]))
