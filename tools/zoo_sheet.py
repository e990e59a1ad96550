"""The whole zoo on one sheet: a photo, a painting, and what each system makes of the two.

    python tools/zoo_sheet.py --output docs/pictures/zoo.jpg

The photo is scikit-image's, the painting is drawn. Systems with trained styles paint the photo in one of their own.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from contact_sheet import PAINTINGS, PHOTOS, square
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.images import to_image
from stylezoo.inference import Stylizer, load_image

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def paint(name: str, photo: Tensor, painting: Tensor) -> Tensor:
    """What a model makes of the photo, (3, H, W)."""
    model = stylezoo.load_model(name)
    styles: list[str | Tensor] = {"single": [], "multi": model.styles[:1]}.get(model.kind, [painting])
    return Stylizer(model, styles)(photo[None])[0]


def main(
    output: Path,
    models: list[str] | None = None,
    size: int = 224,
    columns: int = 7,
    photo: int = 1,
    painting: int = 0,
) -> None:
    """Paints the sheet.

    Args:
        output: An image file.
        models: What `stylezoo.load_model` takes: names, files and training checkpoints; all that this machine has if left out.
        size: Side of each image in pixels.
        columns: Images in a row.
        photo: Which photo, see ``contact_sheet.py``.
        painting: Which painting, see there.
    """
    content = square(Image.fromarray(PHOTOS[photo]()), size)
    style = load_image(draw("paintings", PAINTINGS[painting], size))
    panels = [("photo", content), ("painting", style)]
    panels += [(name, paint(name, content, style)) for name in models or stylezoo.list_models(pretrained=True)]
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, panels, strict=False):
        axis.set_title(title, fontsize=9, pad=3)
        axis.imshow(to_image(picture))
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=1 - 0.2 / (2.2 * rows), wspace=0.02, hspace=0.12)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=size / 2, pil_kwargs={"quality": 85} if output.suffix == ".jpg" else None)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
