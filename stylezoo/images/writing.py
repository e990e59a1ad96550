"""Writing of images, whole or not at all, and the checks that can be made before an image is computed."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from stylezoo.errors import did_you_mean
from stylezoo.files import replacing
from stylezoo.images.conversion import in_profile
from stylezoo.images.formats import ImageError, shown, written_formats
from stylezoo.images.reading import Source, read_picture, read_properties

if TYPE_CHECKING:
    from torch import Tensor

ALPHA_SUFFIXES = frozenset({".avif", ".gif", ".jp2", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of the formats that keep the opacity of an image (GIF: either or)."""

_LONGEST_SIDE = {"AVIF": 65_535, "GIF": 65_535, "JPEG": 65_500, "WEBP": 16_383}
_WITH_QUALITY = ("AVIF", "JPEG", "WEBP")
_WITH_EXIF = ("AVIF", "JPEG", "PNG", "TIFF", "WEBP")  # and with a color profile
_WITH_DPI = ("BMP", "JPEG", "PNG", "TIFF")

_BASE, _EXIF_IFD, _USER_COMMENT = ExifTags.Base, ExifTags.IFD.Exif, ExifTags.Base.UserComment.value
_KEPT = (_BASE.DateTime, _BASE.Artist, _BASE.Copyright)
_KEPT_EXIF = tuple(tag for tag in _BASE if tag.name.startswith(("DateTime", "OffsetTime", "SubsecTime")))
"""What is kept of a source. Not where it was taken, nor the numbers of its camera: a stylized image is made to be shown."""


def write_image(
    image: Image.Image | Tensor,
    path: str | os.PathLike[str],
    quality: int = 95,
    source: Source | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes an image whole or not at all: after a failure an existing file is as it was.

    Args:
        image: A PIL image, or a tensor as for `to_image`. Transparency is kept in formats that have it (`ALPHA_SUFFIXES`);
            in others the image is laid on white.
        path: Path of the file, whose suffix determines the format; missing folders are created.
        quality: Quality of JPEG, WebP and AVIF, 1 to 100.
        source: The file or PIL image that it was made from, to keep its date, artist, copyright, resolution (dpi) and color
            profile, in formats that have these; the colors are converted to that profile.
        settings: How it was made, written as JSON into the EXIF user comment (AVIF, JPEG, PNG, TIFF, WebP), the text
            "stylezoo" (PNG) or the comment (GIF).

    Raises:
        ImageError: If the suffix is unknown, the quality or the size is none that the format has, or the file cannot be written.
    """
    if not isinstance(image, Image.Image):
        from stylezoo.images.tensors import to_image  # imports PyTorch, which `check_target` does without

        image = to_image(image)
    check_target(path, quality, image.size)
    suffix = Path(path).suffix.lower()
    format = written_formats()[suffix]
    try:
        image, options = _with_metadata(_plain(image, suffix), format, source, settings)
        if format in _WITH_QUALITY:
            options["quality"] = quality
        if format in ("AVIF", "JPEG") and quality >= 90:
            options["subsampling"] = (
                "4:4:4"  # color at full resolution: saturated brush strokes show chroma subsampling
            )
        encoded = io.BytesIO()  # encoders that write to a file do not notice all errors of a full disk
        image.save(encoded, format=format, **options)
        with replacing(path) as file:
            file.write(encoded.getbuffer())
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"Cannot write {shown(path)}: {error.strerror or error}.") from error
    except Exception as error:  # Pillow's encoders raise anything
        raise ImageError(f"Cannot write {shown(path)}: {' '.join(str(error).split())}.") from error


def check_target(path: str | os.PathLike[str], quality: int = 95, size: tuple[int, int] | None = None) -> None:
    """Checks all that can be known before an image is computed; `write_image` does the same.

    Args:
        path: Path of the file to write.
        quality: Quality of JPEG, WebP and AVIF.
        size: Width and height of the image, if they are known yet.

    Raises:
        ImageError: If the suffix is unknown, the quality is no integer from 1 to 100, the format has no images so large, the
            path is a folder or no regular file, or its folder cannot be created or written to.
    """
    name = shown(path)
    path = Path(path)
    formats = written_formats()
    suffix = path.suffix.lower()
    if suffix not in formats:
        close = did_you_mean(suffix, formats, cutoff=0.7)
        raise ImageError(
            f"Cannot write {name}: the suffix {path.suffix!r} is not one of {', '.join(formats)}"
            + (f"; did you mean {close}?" if close else ".")
        )
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ImageError(f"quality is an integer from 1 to 100, not {quality!r}.")
    longest = _LONGEST_SIDE.get(formats[suffix])
    if size is not None and longest is not None and max(size) > longest:
        raise ImageError(
            f"Cannot write {name}: {suffix} images have at most {longest:,} pixels a side and this one has {max(size):,},"
            " so write .png or .tif instead."
        )
    check_place(path)


def check_place(path: str | os.PathLike[str]) -> None:
    """Checks that a file can be written there, or that its folder can be created.

    Raises:
        ImageError: If not; the message says why.
    """
    name = shown(path)
    try:
        _check_place(Path(path), name)
    except OSError as error:
        raise ImageError(f"Cannot write {name}: {error.strerror}.") from None
    except ValueError as error:  # a null byte in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"Cannot write {name}: {error}.") from None


def _check_place(path: Path, name: str) -> None:
    """Raises an error unless a file can be written there."""
    if path.exists():
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
            raise ImageError(f"Cannot write {name}: it {kind}.")
        if not os.access(path, os.W_OK):
            raise ImageError(f"Cannot write {name}: it is write-protected.")
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ImageError(f"Cannot write {name}: {shown(folder)} is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"Cannot write {name}: the folder {shown(folder)} is not writable.")
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        raise ImageError(f"Cannot write {name}: a name may have {longest} bytes.")


def _plain(image: Image.Image, suffix: str) -> Image.Image:
    """Returns an image of mode "L", "RGB" or "RGBA" without any metadata, as the format can hold it."""
    if image.info or image.mode not in ("L", "RGB", "RGBA"):
        color, alpha, _ = read_picture(image)
        if alpha is not None:
            color.putalpha(alpha)
        image = color
    if image.mode == "RGBA" and suffix not in ALPHA_SUFFIXES:
        return on_white(image)
    return image


def on_white(image: Image.Image) -> Image.Image:
    """Lays an image on white if it has an opacity; the result has the mode "RGB"."""
    if image.mode != "RGBA":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _with_metadata(
    image: Image.Image, format: str, source: Source | None, settings: Mapping[str, Any] | None
) -> tuple[Image.Image, dict[str, Any]]:
    """Returns the image in the profile of its source, and the options of `Image.save` for all that is not pixels."""
    metadata = Metadata.of(format, source, settings)
    options: dict[str, Any] = {}
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    if metadata.profile is not None and (converted := in_profile(image, metadata.profile)):
        image, options["icc_profile"] = converted, metadata.profile
    if metadata.settings is not None and format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("stylezoo", metadata.settings)
    elif metadata.settings is not None and format == "GIF":
        options["comment"] = metadata.settings
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    return image, options


class Metadata(NamedTuple):
    """What an image file holds besides its pixels, as far as its format can hold it.

    Attributes:
        exif: EXIF data with what is kept of a source and with the settings in the user comment, as Pillow writes them.
        dpi: Dots per inch in both directions.
        profile: The color profile of the source.
        settings: How the image was made, as JSON.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    profile: bytes | None = None
    settings: str | None = None

    @classmethod
    def of(cls, format: str, source: Source | None, settings: Mapping[str, Any] | None) -> Metadata:
        """Collects the metadata of an image; see `write_image` for the arguments."""
        exif, details = Image.Exif(), dict[int, Any]()
        dpi = profile = text = None
        if source is not None:
            try:
                info, tags = read_properties(source)
            except ImageError as error:
                warnings.warn(f"{error} Its date and color profile are not kept.", stacklevel=4)
                info, tags = {}, Image.Exif()
            exif.update({tag: tags[tag] for tag in _KEPT if tag in tags})
            details |= {
                tag.value: value for tag in _KEPT_EXIF if (value := tags.get_ifd(_EXIF_IFD).get(tag)) is not None
            }
            dpi = _resolution(info.get("dpi")) if format in _WITH_DPI else None
            profile = info.get("icc_profile") if format in _WITH_EXIF else None
        if settings is not None:
            text = json.dumps(settings, default=str)
            details[_USER_COMMENT] = b"ASCII\0\0\0" + text.encode("ascii")
        if details:
            exif[_EXIF_IFD] = details
        has_exif = len(exif) > 0 and format in _WITH_EXIF
        return cls(exif.tobytes() if has_exif else None, dpi, profile if isinstance(profile, bytes) else None, text)


def _resolution(dpi: Any) -> tuple[float, float] | None:
    """Returns dots per inch in both directions, None if they make no sense."""
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(value) and 1 <= value <= 100_000 for value in (x, y)) else None
