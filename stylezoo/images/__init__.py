"""Reading and writing of images as RGB in [0, 1], color preservation, and contact sheets."""

from stylezoo.images.color import coral, keep_luminance
from stylezoo.images.formats import IMAGE_SUFFIXES, MAX_PIXELS, ImageError, written_formats
from stylezoo.images.reading import list_images, read_image
from stylezoo.images.tensors import (
    ImageLike,
    check_batch,
    grid,
    load_image,
    load_style,
    load_with_alpha,
    to_image,
    to_tensor,
)
from stylezoo.images.writing import ALPHA_SUFFIXES, check_target, write_image

__all__ = [
    "ALPHA_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageError",
    "ImageLike",
    "check_batch",
    "check_target",
    "coral",
    "grid",
    "keep_luminance",
    "list_images",
    "load_image",
    "load_style",
    "load_with_alpha",
    "read_image",
    "to_image",
    "to_tensor",
    "write_image",
    "written_formats",
]
