"""From a model to images: `Stylizer` for batches, `stylize` for one image."""

import importlib
from typing import TYPE_CHECKING, Any

from stylezoo import legacy
from stylezoo.controls import SMALLEST_SIDE, PreserveColor

if TYPE_CHECKING:
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

_MODULES = {
    "FINGERPRINT_TOLERANCE": ".stylizer",
    "ImageLike": "..images",
    "Style": ".stylizer",
    "Stylizer": ".stylizer",
    "fingerprint": ".stylizer",
    "load_image": "..images",
    "load_masks": ".regions",
    "load_styles": ".stylizer",
    "stylize": ".stylizer",
}
"""{public name: the module that has it}."""

_RENAMED = {"Painter": "Stylizer", "Picture": "ImageLike", "load_picture": "load_image"}

if not TYPE_CHECKING:  # type checkers know the names above, and no others

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used (PEP 562): most of them import PyTorch."""
        if name in _RENAMED:
            legacy.warn(f"stylezoo.inference.{name}", _RENAMED[name])
            name = _RENAMED[name]
        if name in _MODULES:
            value = getattr(importlib.import_module(_MODULES[name], __name__), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
