"""Small pictures in a terminal: two pixels in each character, ▀ with a color of its own above and below."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

PICTURES = Path(__file__).with_name("pictures")
"""A small picture of each system, made by ``tools/gallery.py``, and of the photo and the painting that all of them show."""

SIDE = 20
"""Side of a picture in pixels, which is its width in characters."""


def can_show(console: Console) -> bool:
    """Whether a console is a terminal of 24-bit colors that has the character."""
    encoding = console.encoding.lower().replace("-", "")
    return console.is_terminal and console.color_system == "truecolor" and not console.no_color and encoding == "utf8"


def gallery(names: Iterable[str], width: int) -> Table:
    """Returns pictures with their names below, side by side.

    Args:
        names: Systems, and ``photo`` and ``painting``; those without a picture are left out.
        width: Characters in a line.
    """
    cells = [
        Text("\n").join([drawn(path), Text(name[:SIDE].center(SIDE))])
        for name in names
        if (path := PICTURES / f"{name}.jpg").is_file()
    ]
    columns = max(1, width // (SIDE + 2))
    table = Table.grid(padding=(0, 2, 1, 0))
    for start in range(0, len(cells), columns):
        table.add_row(*cells[start : start + columns])
    return table


def drawn(path: Path) -> Text:
    """Returns an image file as a text of `SIDE` characters and half as many lines."""
    from stylezoo.images import read_image  # imported late: most terminals show no picture

    small = read_image(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    values = small.tobytes()  # red, green, blue of each pixel, row by row
    text = Text()
    for y in range(0, SIDE, 2):
        for x in range(SIDE):
            starts = (3 * (row * SIDE + x) for row in (y, y + 1))
            upper, lower = (",".join(map(str, values[start : start + 3])) for start in starts)
            text.append("▀", f"rgb({upper}) on rgb({lower})")
        if y + 2 < SIDE:
            text.append("\n")
    return text
