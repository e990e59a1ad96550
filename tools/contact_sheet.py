"""Stylizes scikit-image's public-domain photos with procedural paintings, one row per model and photo.

    python tools/contact_sheet.py --models MODEL --output OUT.jpg
    python tools/contact_sheet.py --models adain.public gatys.slim --photos 1 2 --paintings 5 6 7 8 9 --output OUT.jpg

The first row shows the styles, the first column the photos. For a model of given styles as many of them are shown.
"""

from __future__ import annotations

import argparse
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
PAINTINGS = (0, 12, 10, 4, 13, 2, 14, 20, 21, 23)

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


def main() -> None:
    """Writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="names, files or checkpoints, all of one kind")
    parser.add_argument("--output", required=True, help="the image file")
    parser.add_argument("--size", type=int, default=256, help="side of each image in pixels")
    parser.add_argument("--photos", type=int, nargs="+", default=range(len(PHOTOS)), help="places in PHOTOS")
    parser.add_argument("--paintings", type=int, nargs="+", default=range(5), help="places in PAINTINGS")
    arguments = parser.parse_args()
    paintings = [painting(index, arguments.size) for index in arguments.paintings]
    photos = [photo(index, arguments.size) for index in arguments.photos]
    rows = []
    for model in map(stylezoo.load_model, arguments.models):
        if not rows and model.kind in ("arbitrary", "optimization"):
            rows.append([torch.ones_like(photos[0]), *paintings])
        stylizers = [stylizer(model, style) for style in styles_of(model, len(paintings), paintings)]
        rows += [[content, *(stylize(content[None])[0] for stylize in stylizers)] for content in photos]
    write_image(grid(rows), arguments.output, quality=88)


if __name__ == "__main__":
    main()
