"""From a model to images: `Stylizer` for batches, `stylize` for one image."""

from stylezoo.inference.stylizer import (
    FINGERPRINT_TOLERANCE,
    SMALLEST_SIDE,
    ImageLike,
    PreserveColor,
    Style,
    Stylizer,
    check_styles,
    fingerprint,
    load_image,
    load_masks,
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
    "check_styles",
    "fingerprint",
    "load_image",
    "load_masks",
    "load_styles",
    "stylize",
]
