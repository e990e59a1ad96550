"""From a model to images: `Stylizer` for batches, `stylize` for one image."""

from typing import Any

from stylezoo import legacy
from stylezoo.controls import SMALLEST_SIDE, PreserveColor
from stylezoo.images import ImageLike, load_image
from stylezoo.inference.regions import load_masks
from stylezoo.inference.stylizer import (
    FINGERPRINT_TOLERANCE,
    Style,
    Stylizer,
    fingerprint,
    load_styles,
    stylize,
)

__all__ = [
    "FINGERPRINT_TOLERANCE",
    "SMALLEST_SIDE",
    "ImageLike",
    "PreserveColor",
    "Style",
    "Stylizer",
    "fingerprint",
    "load_image",
    "load_masks",
    "load_styles",
    "stylize",
]

_RENAMED = {"Painter": "Stylizer", "Picture": "ImageLike", "load_picture": "load_image"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        legacy.warn(f"stylezoo.inference.{name}", _RENAMED[name])
        return globals()[_RENAMED[name]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
