"""Contact sheets that compare models: contents and styles beside what each model makes of them, with the names below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stylezoo.checkpoints import load_model
from stylezoo.errors import StylezooError
from stylezoo.images import ImageError, grid, read_image, to_image, to_tensor
from stylezoo.inference.plan import expand, report
from stylezoo.inference.stylizer import Stylizer
from stylezoo.module import StyleModel

Named = Mapping[str, Tensor]
"""Images (3, H, W) in [0, 1] by the names that a sheet shows."""

FAILURES = (StylezooError, RuntimeError, MemoryError)
"""Errors with which one model can fail where others do not; memory that runs out is a RuntimeError, too."""


def read_images(patterns: Sequence[str], size: int) -> tuple[dict[str, Tensor], int]:
    """Reads images for a sheet; one that cannot be read is reported and left out.

    Args:
        patterns: Files, folders or globs.
        size: Long side in pixels to which larger images are shrunk.

    Returns:
        The images by their file names, and the number of those that were left out.

    Raises:
        ImageError: If none can be read.
    """
    paths = [path for pattern in patterns for path, _ in expand(pattern)]
    found: dict[str, Tensor] = {}
    errors = []
    for path in paths:
        try:
            image = read_image(path, min_side=size)
        except ImageError as error:
            errors.append(error)
            continue
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        found[path.name if path.name not in found else str(path)] = to_tensor(image)
    if not found:
        raise errors[0]
    if errors:
        report("; ".join(map(str, errors)))
    return found, len(errors)


class Comparison:
    """Stylizes some contents with some styles by several models, one model in memory at a time.

    Args:
        contents: The contents.
        styles: The styles.
    """

    def __init__(self, contents: Named, styles: Named) -> None:
        self.contents, self.styles = contents, styles
        self.cells: dict[tuple[str, str], list[tuple[str, Tensor]]] = {
            (content, style): [(content, contents[content]), (style, styles[style])]
            for content in contents
            for style in styles
        }
        self.failed = 0

    def add(self, name: str, model: StyleModel) -> None:
        """Adds the outputs of a model; one with which it fails is reported, and its place stays white."""
        for style, image in self.styles.items():
            label, chosen = _style(model, name, style, image)
            stylizer: Stylizer | None = None
            for content in self.contents:
                try:
                    stylizer = stylizer or Stylizer(model, chosen)
                    output = stylizer(self.contents[content][None])[0].cpu()
                    if not torch.isfinite(output).all():
                        raise StylezooError(f"The output of {name} has values that are not finite.")
                except FAILURES as error:
                    report(
                        f"{name}, {content} in the style of {style}: {str(error).splitlines()[0] if str(error) else error!r}"
                    )
                    output, label = torch.ones_like(self.contents[content]), f"{name} (failed)"
                    self.failed += 1
                self.cells[content, style].append((label, output))

    def sheet(self, columns: int = 5) -> Tensor:
        """Returns the sheet, (3, H, W) in [0, 1].

        Args:
            columns: Images in a row where there is one pair; of several pairs each has a row.
        """
        rows = list(self.cells.values())
        if len(rows) == 1:
            rows = [rows[0][start : start + columns] for start in range(0, len(rows[0]), columns)]
        return grid([[labeled(image, text) for text, image in row] for row in rows])


def compare(models: Sequence[str], contents: Named, styles: Named, device: str = "cpu") -> Comparison:
    """Compares models on all pairs of some contents and styles.

    Args:
        models: Names or files, see `stylezoo.load_model`.
        contents: The contents.
        styles: The styles.
        device: Where to compute.
    """
    comparison = Comparison(contents, styles)
    for name in models:
        comparison.add(name, load_model(name).to(device))
    return comparison


def _style(model: StyleModel, name: str, style: str, image: Tensor) -> tuple[str, list[Any]]:
    """The label of a model on the sheet, and the style that it takes: the image, or its own of that name or its first."""
    if model.kind == "single":
        return f"{name}: {model.styles[0]}", []
    if model.kind == "multi":
        own = Path(style).stem if Path(style).stem in model.styles else model.styles[0]
        return f"{name}: {own}", [own]
    return name, [image]


def labeled(image: Tensor, text: str) -> Tensor:
    """Returns an image with a line of text below it, (3, H + line, W) in [0, 1]; text that is too long is cut.

    Args:
        image: (3, H, W) in [0, 1].
        text: The line.
    """
    height, width = image.shape[-2:]
    font = ImageFont.load_default(max(10, min(height, width) // 16))
    line = next(shown for shown in _shortened(text) if font.getlength(shown) <= width or len(shown) <= 1)
    top, bottom = font.getbbox("Ag")[1::2]
    canvas = Image.new("RGB", (width, height + int(bottom) + 6), "white")
    canvas.paste(to_image(image))
    ImageDraw.Draw(canvas).text((1, height + 3 - top // 2), line, fill="black", font=font)
    return to_tensor(canvas)


def _shortened(text: str) -> Iterator[str]:
    """The text, and then shorter and shorter beginnings of it."""
    yield text
    for length in range(len(text) - 1, -1, -1):
        yield f"{text[:length]}…" if length else ""
