"""Conversion of every mode of Pillow to 8-bit sRGB and opacity: palettes, wide gray, CMYK, Lab, color profiles."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from stylezoo.images.formats import ImageError

Values = NDArray[Any]

_STRIP = 1 << 20
"""Pixels of wide images that are converted at a time: with all at once the intermediate numbers take gigabytes."""

_SAME = 2
"""Steps of 8 bits by which a profile may differ from sRGB and still be taken for it, so that the pixels stay as they are."""


def to_srgb_and_alpha(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Converts an image of any mode.

    Args:
        image: A loaded image, which is changed.
        name: Its name, for the error.

    Returns:
        The colors (mode "RGB") as they are stored, also where nothing is visible, without any metadata; and the opacity
        (mode "L"), None if all is opaque.

    Raises:
        ImageError: If its numbers are not finite.
    """
    profile = image.info.get("icc_profile")
    image, alpha = _split(image)
    if _is_wide(image):
        image = _to_8_bit(image, name, "L" if profile else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    image = _to_srgb(image, profile if isinstance(profile, bytes) else b"")
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    image.info = {}  # a profile or a rotation that has been applied must not be written with the result
    return image, alpha


def _is_wide(image: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Splits an image into colors and opacity, None if it has none."""
    key = image.info.get("transparency")
    if _is_wide(image):
        if not isinstance(key, int):
            return image, None
        return image, _map_strips(image, lambda values: np.where(values == key, 0, 255))
    if image.mode in ("1", "L") and isinstance(key, int):
        image = image.convert("L")
        alpha = Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        return image, alpha
    if image.mode in ("P", "PA", "RGBa", "RGB") and image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    return image.convert("RGB") if image.mode in ("P", "PA") else image, None


def _to_8_bit(image: Image.Image, name: str, mode: str) -> Image.Image:
    """Converts wide gray to a mode: divides 16-bit values (also those in a 32-bit image) by 257, reads floats as [0, 1]."""
    scale = 1 / 257
    if image.mode in ("I", "F"):  # 32 bits
        if image.mode == "F":
            _check_finite(image, name)
        top = max(float(np.asarray(strip).max()) for strip in _strips(image))
        if image.mode == "F":
            scale = 255.0 if top <= 1 else 1.0 if top <= 255 else 255 / top
        elif top > 65535:
            scale = 255 / top
    return _map_strips(image, lambda values: np.rint(values * scale).clip(0, 255), mode)


def _check_finite(image: Image.Image, name: str) -> None:
    for strip in _strips(image):
        if not np.isfinite(np.asarray(strip)).all():
            raise ImageError(f"{name} holds values that are no finite numbers: replace NaN and infinity first.")


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """Cuts an image into strips of about `_STRIP` pixels, from top to bottom."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _map_strips(image: Image.Image, function: Callable[[Values], Values], mode: str = "L") -> Image.Image:
    """Returns an 8-bit image from a function of the values, strip by strip."""
    result = Image.new(mode, image.size)
    top = 0
    for strip in _strips(image):
        result.paste(Image.fromarray(function(np.asarray(strip)).astype(np.uint8)), (0, top))
        top += strip.height
    return result


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts an image from its embedded profile to sRGB; a profile that is broken or does not fit is ignored."""
    if profile or image.mode == "LAB":
        mode = _profile_mode(profile) if profile else "LAB"
        if mode == "RGB" and image.mode in ("L", "YCbCr", "HSV"):
            image = image.convert("RGB")
        transform = _profile_transform(profile, mode) if mode == image.mode else None
        if transform is not None:
            with suppress(*_BROKEN_PROFILE):
                converted = ImageCms.applyTransform(image, transform)
                if converted is not None:
                    return converted
    return image if image.mode == "RGB" else image.convert("RGB")


_BROKEN_PROFILE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


@lru_cache(maxsize=32)
def _profile_mode(profile: bytes) -> str | None:
    """Returns the mode of the images that a profile describes; None if it is broken."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space
    except _BROKEN_PROFILE:
        return None
    return _MODES.get(space.strip())


@lru_cache(maxsize=32)  # the images of one camera or one museum share a profile
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the conversion of a profile (empty: that of the mode "LAB") to sRGB; None if it changes nothing or is broken."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        # The name of a profile says nothing: there is a linear one called sRGB, and sRGB goes by many names.
        return None if mode in ("L", "RGB") and _changes_nothing(transform, mode) else transform
    except _BROKEN_PROFILE:
        return None


def in_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Converts an image from sRGB to a profile.

    Args:
        image: Mode "RGB" or "RGBA".
        profile: An ICC profile.

    Returns:
        The converted image; None if the profile is broken, is not one of RGB images, or is of one way only.
    """
    if image.mode not in ("RGB", "RGBA") or _profile_mode(profile) != "RGB":
        return None
    try:
        target, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        if _changes_nothing(ImageCms.buildTransform(target, srgb, "RGB", "RGB"), "RGB"):
            return image
        transform = ImageCms.buildTransform(srgb, target, "RGB", "RGB")
        converted = ImageCms.applyTransform(image.convert("RGB"), transform)
    except _BROKEN_PROFILE:
        return None
    if converted is not None and image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion to sRGB leaves the colors as they are, within `_SAME`."""
    levels = np.arange(256, dtype=np.uint8)
    if mode == "L":
        probe = Image.fromarray(levels.reshape(1, 256))
    else:
        cube = np.stack(np.meshgrid(*[levels[::15]] * 3, indexing="ij"), axis=-1).reshape(-1, 18, 3)
        gray = np.stack([levels] * 3, axis=-1)[: 256 // 18 * 18].reshape(-1, 18, 3)
        probe = Image.fromarray(np.concatenate([cube, gray]))
    converted = ImageCms.applyTransform(probe, transform)
    if converted is None:
        return True
    difference = np.asarray(converted, np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return bool(np.abs(difference).max() <= _SAME)
