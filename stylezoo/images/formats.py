"""Which image formats are read and written, how large images may be, and the error of all that goes wrong with them."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, features

from stylezoo.errors import StylezooError

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of the files that count as images."""

MAX_PIXELS = 300_000_000
"""Largest number of decoded pixels; an RGB image of that size takes 0.9 GB of memory."""

RASTER_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "PSD", "TGA", "TIFF", "WEBP"),
)
"""Pillow's names of the formats that are read; none of their decoders runs another program or fetches anything.

Without a list, Pillow tries all that it knows, whatever the suffix of a file: Ghostscript, for one, runs PostScript programs.
"""

_WRITTEN = {".bmp": "BMP", ".gif": "GIF", ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF"}
_WRITTEN |= dict.fromkeys((".jfif", ".jpeg", ".jpg"), "JPEG")
_OPTIONAL = {".avif": ("AVIF", "avif"), ".jp2": ("JPEG2000", "jpg_2000"), ".webp": ("WEBP", "webp")}


class ImageError(StylezooError):
    """Raised if an image cannot be read or written; the message is one sentence for the user."""


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Returns those of `RASTER_FORMATS` that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in RASTER_FORMATS if name in Image.OPEN)


@lru_cache(maxsize=1)
def written_formats() -> dict[str, str]:
    """Returns {suffix: Pillow's name of the format} of the images that this build of Pillow writes."""
    known = {*features.modules, *features.codecs}  # a feature of a later Pillow is one that cannot be asked for
    optional = {
        suffix: name for suffix, (name, feature) in _OPTIONAL.items() if feature in known and features.check(feature)
    }
    return dict(sorted((_WRITTEN | optional).items()))


def check_pixels(width: int, height: int, name: str) -> None:
    """Raises an error if an image is empty or has too many pixels.

    Raises:
        ImageError: If there is no pixel, or there are more than `MAX_PIXELS`.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width * height / 1e6:.0f} million pixels and the limit is {MAX_PIXELS / 1e6:.0f} million: "
            "make it smaller first."
        )


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a file name as a message shows it: in one line, and not longer than a file name can be."""
    name = os.fsdecode(path)
    if len(name) > 1024:
        return f"The file name {name[:40]!a}... ({len(name)} characters)"
    return name if name.isprintable() and name.strip() else ascii(name)


def described(value: Any) -> str:
    """Says what something is: its type and its shape, never its contents.

    >>> described(np.zeros((4, 5), np.int64))
    'an array (4, 5) of int64'
    >>> described([1, 2])
    'a list of 2'
    """
    torch = sys.modules.get("torch")  # who has a tensor has imported it, and names of files are checked without
    if torch is not None and isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}, {value.width} x {value.height}"
    if value is None or isinstance(value, bool):
        return str(value)
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    if isinstance(value, (list, tuple, set, dict, bytes, bytearray)):
        return f"{article} {kind} of {len(value)}"
    return f"{article} {kind}"
