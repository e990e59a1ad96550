"""Stylizes scikit-image's public-domain photos with procedural paintings, one row per photo.

    python tools/contact_sheet.py MODEL OUT.jpg [SIZE]

The first row shows the styles, the first column the photos. For a model of given styles five of them are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from PIL import Image
from skimage import data
from torch import Tensor

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.images import grid, to_tensor, write_image
from stylezoo.inference import Stylizer, load_image
from stylezoo.module import StyleModel

PHOTOS = (data.astronaut, data.chelsea, data.coffee, data.rocket)
PAINTINGS = (0, 12, 10, 4, 13)

Style = str | Tensor | None
"""A style's name, an image (3, H, W) in [0, 1], or None for a model of a single style."""


def photo(index: int, size: int) -> Tensor:
    """Returns the central square of one of `PHOTOS`, resized, (3, size, size) in [0, 1]."""
    image = Image.fromarray(PHOTOS[index]())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return to_tensor(image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS))


def painting(index: int, size: int) -> Tensor:
    """Returns one of the procedural `PAINTINGS`, (3, size, size) in [0, 1]."""
    return load_image(draw("paintings", PAINTINGS[index], size))


def styles_of(model: StyleModel, count: int, paintings: Sequence[Tensor]) -> list[Style]:
    """Returns the styles that a sheet shows.

    Args:
        model: Any model.
        count: The largest number of styles of a model for several given styles.
        paintings: The styles of a model for any style image, (3, H, W) in [0, 1].
    """
    if model.kind == "single":
        return [None]
    if model.kind == "multi":
        return list(model.styles[:: max(1, len(model.styles) // count)][:count])
    return list(paintings)


def stylizer(model: StyleModel, style: Style) -> Stylizer:
    """Returns a stylizer for one style."""
    return Stylizer(model, [] if style is None else [style])


def main(model_file: str, out: str, size: int = 256) -> None:
    """Writes the sheet.

    Args:
        model_file: A model as `stylezoo.load_model` accepts it.
        out: The image file.
        size: Side of each image in pixels.
    """
    model = stylezoo.load_model(model_file)
    paintings = [painting(index, size) for index in range(len(PAINTINGS))]
    stylizers = [stylizer(model, style) for style in styles_of(model, len(PAINTINGS), paintings)]
    rows = [[torch.ones(3, size, size), *paintings]] if model.kind == "arbitrary" else []
    for content in (photo(index, size) for index in range(len(PHOTOS))):
        rows.append([content, *(stylize(content[None])[0] for stylize in stylizers)])
    write_image(grid(rows), out, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
