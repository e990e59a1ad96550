"""The small pictures that `python -m stylezoo list` shows: what each system makes of one photo and one painting.

    python tools/gallery.py

The photo is scikit-image's, the painting is procedural. For a model of given styles the first one is shown.
"""

from __future__ import annotations

from pathlib import Path

import contact_sheet
from jsonargparse import auto_cli
from PIL import Image

import stylezoo
from stylezoo.gallery import PICTURES
from stylezoo.images import to_image, write_image

SETTINGS = {"gatys": {"iterations": 60}}
"""{system: settings for this tool}: a small picture needs few iterations."""


def main(output: Path = PICTURES, size: int = 128, side: int = 64, photo: int = 1, painting: int = 0) -> None:
    """Writes the pictures.

    Args:
        output: A folder.
        size: Side in pixels at which the models work.
        side: Side of the pictures in pixels.
        photo: Which photo, see ``contact_sheet.py``.
        painting: Which painting, see ``contact_sheet.py``.
    """
    content, style = contact_sheet.photo(photo, size), contact_sheet.painting(painting, size)
    pictures = {"photo": content, "painting": style}
    for system in stylezoo.list_models():
        model = stylezoo.load_model(system, **SETTINGS.get(system, {}))
        stylize = contact_sheet.stylizer(model, contact_sheet.styles_of(model, 1, [style])[0])
        pictures[system] = stylize(content[None])[0]
    for name, picture in pictures.items():
        small = to_image(picture).resize((side, side), Image.Resampling.LANCZOS)
        write_image(small, output / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
