"""The whole zoo on one sheet: a photo, a painting, and the output of each system for the two.

    python tools/zoo_sheet.py --output docs/pictures/zoo.jpg

The photo is scikit-image's, the painting is procedural. For a model of given styles one of them is shown.
"""

from __future__ import annotations

from pathlib import Path

import contact_sheet
import matplotlib
from jsonargparse import auto_cli

import stylezoo
from stylezoo.images import to_image

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(
    output: Path,
    models: list[str] | None = None,
    size: int = 224,
    columns: int = 7,
    photo: int = 1,
    painting: int = 0,
) -> None:
    """Writes the sheet.

    Args:
        output: An image file.
        models: Models as `stylezoo.load_model` accepts them: names, files and training checkpoints; by default all that
            this machine has.
        size: Side of each image in pixels.
        columns: Images in a row.
        photo: Which photo, see ``contact_sheet.py``.
        painting: Which painting, see ``contact_sheet.py``.
    """
    content, style = contact_sheet.photo(photo, size), contact_sheet.painting(painting, size)
    panels = [("photo", content), ("painting", style)]
    for name in models or stylezoo.list_models(pretrained=True):
        model = stylezoo.load_model(name)
        stylize = contact_sheet.stylizer(model, contact_sheet.styles_of(model, 1, [style])[0])
        panels.append((name, stylize(content[None])[0]))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, panels, strict=False):
        axis.set_title(title, fontsize=9, pad=3)
        axis.imshow(to_image(image))
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=1 - 0.2 / (2.2 * rows), wspace=0.02, hspace=0.12)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=size / 2, pil_kwargs={"quality": 85} if output.suffix == ".jpg" else None)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
