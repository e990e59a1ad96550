"""Reading and writing of images as RGB in [0, 1], color preservation, and contact sheets."""

from typing import TYPE_CHECKING

from stylezoo.lazy import lazy_names

if TYPE_CHECKING:
    from stylezoo.images.color import coral, keep_luminance
    from stylezoo.images.formats import IMAGE_SUFFIXES, MAX_PIXELS, ImageError, written_formats
    from stylezoo.images.reading import folder_images, in_order, list_images, read_image
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
    "folder_images",
    "grid",
    "in_order",
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

if not TYPE_CHECKING:  # type checkers know the names above, and no others
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ALPHA_SUFFIXES": ".writing",
            "IMAGE_SUFFIXES": ".formats",
            "ImageError": ".formats",
            "ImageLike": ".tensors",
            "MAX_PIXELS": ".formats",
            "check_batch": ".tensors",
            "check_target": ".writing",
            "coral": ".color",
            "folder_images": ".reading",
            "grid": ".tensors",
            "in_order": ".reading",
            "keep_luminance": ".color",
            "list_images": ".reading",
            "load_image": ".tensors",
            "load_style": ".tensors",
            "load_with_alpha": ".tensors",
            "read_image": ".reading",
            "to_image": ".tensors",
            "to_tensor": ".tensors",
            "write_image": ".writing",
            "written_formats": ".formats",
        },
    )
