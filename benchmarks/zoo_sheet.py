"""The whole zoo on one sheet: a row per system, a column per pair of a photo and a painting.

    python benchmarks/zoo_sheet.py --output docs/pictures/zoo.jpg --models "[gatys, adain.safetensors, runs/sanet/last.ckpt]"

The first row has the four pairs: scikit-image's public-domain photos, with procedural paintings. Systems with trained
styles paint each photo in one of their own styles, and that is all they know of the paintings.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from contact_sheet import PAINTINGS, PHOTOS, square
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.images import to_image
from stylezoo.inference import Painter, load_picture

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def paint(file: str, pairs: list[tuple[Tensor, Tensor]]) -> tuple[str, list[Tensor]]:
    """The name of the system, and its pictures."""
    model = stylezoo.load_model(file)
    outputs = []
    for index, (photo, painting) in enumerate(pairs):
        styles = {"single": [], "multi": [model.styles[index % len(model.styles)]]} if model.styles else {}
        outputs.append(Painter(model, styles.get(model.kind, [painting]))(photo[None])[0])
    return model.system, outputs


def main(output: Path, models: list[str], size: int = 192) -> None:
    """Paints the sheet.

    Args:
        output: A picture file.
        models: What `stylezoo.load_model` takes: names, files and training checkpoints.
        size: Side of each picture in pixels.
    """
    torch.manual_seed(0)
    photos = [square(Image.fromarray(photo()), size) for photo in PHOTOS]
    paintings = [load_picture(draw("paintings", index, 2 * size)) for index in PAINTINGS[: len(photos)]]
    pairs = list(zip(photos, paintings, strict=True))
    rows = [("photo", photos), ("painting", [square(to_image(p), size) for p in paintings])]
    rows += [paint(model, pairs) for model in models]
    figure, axes = plt.subplots(
        len(rows),
        len(pairs),
        figsize=(len(pairs) * 1.6 + 0.5, len(rows) * 1.6),
        squeeze=False,
        gridspec_kw={"wspace": 0.02, "hspace": 0.02, "left": 0.08, "right": 1, "top": 1, "bottom": 0},
    )
    for (name, pictures), row in zip(rows, axes, strict=True):
        row[0].set_ylabel(name, fontsize=8)
        for picture, axis in zip(pictures, row, strict=True):
            axis.imshow(to_image(picture))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=size / 1.6, pil_kwargs={"quality": 85} if output.suffix == ".jpg" else None)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
