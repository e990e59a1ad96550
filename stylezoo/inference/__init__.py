"""From a model to images: `Stylizer` for batches, `stylize` for one image, `stylize_clip` for videos and animations."""

from typing import TYPE_CHECKING, Any

from stylezoo import legacy
from stylezoo.controls import SMALLEST_SIDE, PreserveColor
from stylezoo.lazy import lazy_names

if TYPE_CHECKING:
    from stylezoo.images import ImageLike, load_image
    from stylezoo.inference.codes import load_codes, save_codes
    from stylezoo.inference.engines import Engine, create_engine
    from stylezoo.inference.regions import load_masks
    from stylezoo.inference.stylizer import (
        FINGERPRINT_TOLERANCE,
        Style,
        Stylizer,
        fingerprint,
        load_styles,
        stylize,
    )
    from stylezoo.inference.tuning import Work, choose_engine, measure_engines
    from stylezoo.inference.video import ClipResult, stylize_clip

__all__ = [
    "FINGERPRINT_TOLERANCE",
    "SMALLEST_SIDE",
    "ClipResult",
    "Engine",
    "ImageLike",
    "PreserveColor",
    "Style",
    "Stylizer",
    "Work",
    "choose_engine",
    "create_engine",
    "fingerprint",
    "load_codes",
    "load_image",
    "load_masks",
    "load_styles",
    "measure_engines",
    "save_codes",
    "stylize",
    "stylize_clip",
]

_RENAMED = {"Painter": "Stylizer", "Picture": "ImageLike", "load_picture": "load_image"}

if not TYPE_CHECKING:  # type checkers know the names above, and no others
    _get, __dir__ = lazy_names(
        __name__,
        {
            "ClipResult": ".video",
            "FINGERPRINT_TOLERANCE": ".stylizer",
            "Engine": ".engines",
            "ImageLike": "..images",
            "Style": ".stylizer",
            "Stylizer": ".stylizer",
            "Work": ".tuning",
            "choose_engine": ".tuning",
            "create_engine": ".engines",
            "fingerprint": ".stylizer",
            "load_codes": ".codes",
            "load_image": "..images",
            "load_masks": ".regions",
            "load_styles": ".stylizer",
            "measure_engines": ".tuning",
            "save_codes": ".codes",
            "stylize": ".stylizer",
            "stylize_clip": ".video",
        },
    )

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used, also by its former name."""
        if name in _RENAMED:
            legacy.warn(f"stylezoo.inference.{name}", _RENAMED[name])
            name = _RENAMED[name]
        return _get(name)
