"""Paints scikit-image's public-domain photos in the styles of procedural paintings, one row per photo.

    python tools/contact_sheet.py MODEL OUT.jpg [SIZE]

The first row shows the styles, the first column the photos. Systems with trained styles paint with four of their own.
"""

import sys

import torch
from PIL import Image
from skimage import data
from torch import Tensor

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.images import grid, to_tensor, write_image
from stylezoo.inference import Stylizer, load_image

PHOTOS = (data.astronaut, data.chelsea, data.coffee, data.rocket)
PAINTINGS = (0, 12, 10, 4, 13)


def square(picture: Image.Image, size: int) -> Tensor:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return to_tensor(picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS))


def main(model_file: str, out: str, size: int = 256) -> None:
    model = stylezoo.load_model(model_file)
    photos = [square(Image.fromarray(photo()), size) for photo in PHOTOS]
    if model.kind == "arbitrary":
        pictures = [load_image(draw("paintings", index, size)) for index in PAINTINGS]
        painters = [Stylizer(model, [picture]) for picture in pictures]
        rows = [[torch.ones(3, size, size), *pictures]]
    else:
        names = model.styles[:: max(1, len(model.styles) // len(PAINTINGS))][: len(PAINTINGS)]
        painters = [Stylizer(model, [name] if model.kind == "multi" else []) for name in names]
        rows = []
    for photo in photos:
        rows.append([photo, *(stylizer(photo[None])[0] for stylizer in painters)])
    write_image(grid(rows), out, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
