"""From a model to images: `Stylizer` for batches, `stylize` for one image."""

from stylezoo.inference.stylizer import (
    FINGERPRINT_TOLERANCE,
    SMALLEST_SIDE,
    Painter,
    Picture,
    PreserveColor,
    Style,
    check_styles,
    fingerprint,
    load_masks,
    load_picture,
    load_styles,
    stylize,
)

__all__ = [
    "FINGERPRINT_TOLERANCE",
    "SMALLEST_SIDE",
    "Painter",
    "Picture",
    "PreserveColor",
    "Style",
    "check_styles",
    "fingerprint",
    "load_masks",
    "load_picture",
    "load_styles",
    "stylize",
]
