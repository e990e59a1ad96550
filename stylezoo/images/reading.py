"""Reading of images as 8-bit sRGB: files, encoded bytes and PIL images alike.

This module handles the peculiarities of image files for the whole package: rotation flags, color profiles, transparency,
palettes, 16 bits, CMYK, animations, broken files and huge ones.
"""

from __future__ import annotations

import io
import os
import threading
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import IFD
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from stylezoo.files import nearest, open_regular, problem
from stylezoo.images import formats
from stylezoo.images.alpha import fill_hidden
from stylezoo.images.conversion import to_srgb_and_alpha
from stylezoo.images.formats import (
    IMAGE_SUFFIXES,
    RASTER_FORMATS,
    ImageError,
    check_pixels,
    described,
    readable_formats,
    shown,
)

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image
"""A file, an encoded image in memory or in an open binary file, or a PIL image."""


_MAX_PIPE = 1_000_000_000


class Picture(NamedTuple):
    """An image as it is stored, in sRGB."""

    color: Image.Image
    """Mode "RGB"; under transparent pixels, whatever the file has there."""
    alpha: Image.Image | None
    """The opacity, mode "L"; None if all is opaque."""
    name: str
    """What messages call it."""


MARGIN = 2.0
"""How much larger than what it is shrunk to an image is decoded at least."""


def read_image(source: Source, min_side: int | None = None, margin: float = MARGIN) -> Image.Image:
    """Reads an image of any kind as 8-bit sRGB.

    The EXIF rotation is applied, an embedded color profile is converted to sRGB, and 16-bit values are scaled (not clipped).
    Transparent pixels take colors of visible ones (`stylezoo.images.alpha`). Of several frames or pages the first is used,
    and a warning says so, once per file.

    Args:
        source: Path of a file, or what else `Source` names.
        min_side: Short side in pixels that the caller shrinks the image to. Large JPEGs are then decoded at 1/2, 1/4 or
            1/8 of their size, which is much faster, but not below ``margin`` times ``min_side``.
        margin: At least 1. The closer to 1, the more the shrunk image differs from that of a full decoding: on photos by
            1.0 of 255 gray levels on average at 2, by 1.1 at 1.5, by 2.7 at 1 (docs/reduced_decoding.csv).

    Returns:
        An image of mode "RGB".

    Raises:
        ImageError: If it is missing, no regular file, empty, truncated or not an image, or has more than `MAX_PIXELS` pixels.
    """
    color, alpha, name = read_picture(source, min_side, margin)
    if alpha is None:
        return color
    pixels = np.array(color)
    fill_hidden(pixels, np.asarray(alpha), name)
    return Image.fromarray(pixels)


def read_picture(source: Source, min_side: int | None = None, margin: float = MARGIN) -> Picture:
    """Reads an image with its opacity; see `read_image`."""
    if isinstance(source, Image.Image):
        name = f"The image ({described(source)})"
        with told(name):
            _check(source, name)
            return Picture(*_converted(source.copy(), name), name)
    with opened(source) as (name, file), told(name):
        image = parsed(file, name)
        _draft(image, min_side, margin)
        _check(image, name)
        picture = Picture(*_converted(image, name), name)
        warning = tell_frames(file, image, name)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return picture


@contextmanager
def opened(source: Any) -> Iterator[tuple[str, BinaryIO]]:
    """Opens what is no PIL image, as (name for messages, file)."""
    if isinstance(source, (str, os.PathLike)):
        name = shown(source)
        if name.startswith(("http://", "https://")):
            raise ImageError(f"{name} is an address, not a file: download the image first.")
        with told(name):
            file = open_regular(source)
        with file:
            yield name, file
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield f"The image ({memoryview(source).nbytes:,} bytes)", io.BytesIO(source)
    elif isinstance(source, io.TextIOBase):
        raise ImageError(f"The image ({described(source)}) is a file opened as text: open it with mode 'rb'.")
    elif hasattr(source, "read"):
        name = f"The image ({described(source)})"
        with told(name):
            if not source.seekable():  # a pipe
                source = io.BytesIO(_read_all(source, name))
            position = source.tell()
        try:
            yield name, source
        finally:
            with suppress(Exception):
                source.seek(position)  # so that it can be read again
    else:
        raise ImageError(f"{EXPECTED}, not {described(source)}.")


def _read_all(pipe: BinaryIO, name: str) -> bytes:
    """Reads a file that cannot be searched, within `_MAX_PIPE`."""
    data = pipe.read(_MAX_PIPE + 1)
    if len(data) > _MAX_PIPE:
        raise ImageError(f"{name} gives more than {_MAX_PIPE / 1e9:.0f} GB: write it to a file first.")
    return data


EXPECTED = (
    "An image is a file name, an encoded image (bytes or a binary file), a PIL image, a tensor (3, H, W)"
    " or an array (H, W, 3)"
)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turns everything that decoders raise into an `ImageError` of one sentence."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image in a known format.") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory: make it smaller first.") from None
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on broken files
        if isinstance(error, OSError) and error.errno is not None:
            hint = nearest(error.filename) if isinstance(error, FileNotFoundError) and error.filename else ""
            raise ImageError(f"{name} {problem(error)}.{hint}") from None
        words = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} cannot be read: {words.removesuffix('.')}.") from error


_open_lock = threading.Lock()


@contextmanager
def _pillows_limit(pixels: int | None) -> Iterator[None]:
    """Sets Pillow's own limit, which is a third of ours; None while headers are parsed: JPEGs may still be scaled down."""
    with _open_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def parsed(file: BinaryIO, name: str) -> Image.Image:
    """Reads the header of an image."""
    file.seek(0)
    if not file.read(1):
        raise ImageError(f"{name.removesuffix(' (0 bytes)')} is empty (0 bytes).")
    with _pillows_limit(None):
        image = Image.open(file, formats=readable_formats())
    _scale_transparent_value(image)
    _as_stored(image)
    return image


def _as_stored(image: Image.Image) -> None:
    """Lets Pillow before 13 read an uncompressed TIFF in YCbCr, which it takes for RGB with a fourth byte."""
    if not isinstance(image, TiffImageFile) or image.mode != "RGB" or image.tag_v2.get(_PHOTOMETRIC) != _YCBCR:
        return
    if all(tile.codec_name == "raw" and isinstance(tile.args, tuple) for tile in image.tile):
        image._mode = "YCbCr"
        image.tile = [tile._replace(args=("YCbCr", *tile.args[1:])) for tile in image.tile]  # type: ignore[index]


def open_animation(file: BinaryIO, name: str) -> Image.Image:
    """Opens a GIF or WebP image, whose frames are reached by ``seek``.

    Args:
        file: The file, which stays open as long as frames are read.
        name: What messages call it.

    Raises:
        ImageError: If it is no such image, or too large.
    """
    with told(name):
        image = parsed(file, name)
        if image.format not in ("GIF", "WEBP"):
            raise ImageError(f"{name} is no GIF or WebP image.")
        check_pixels(image.width, image.height, name)
        return image


def _scale_transparent_value(image: Image.Image) -> None:
    """Converts the value that a PNG declares transparent from the file's bits to those of the decoded pixels."""
    key = image.info.get("transparency")
    raw = image.tile[0].args if isinstance(image, PngImageFile) and image.tile else None
    factor = {"1": 255, "L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}.get(raw if isinstance(raw, str) else "")
    if factor is not None and isinstance(key, int):
        image.info["transparency"] = min(
            255, int(key * factor)
        )  # some versions of Pillow give 255 for the 1 of one bit
    elif factor is not None and isinstance(key, tuple):
        image.info["transparency"] = tuple(int(value * factor) for value in key)


def _draft(image: Image.Image, min_side: int | None, margin: float) -> None:
    """Makes the JPEG decoder return a smaller image whose short side is still at least margin * min_side."""
    if image.format not in ("JPEG", "MPO") or min_side is None:  # MPO: the JPEGs of phones with a second image
        return
    ratio = min(image.size) / (margin * min_side)
    if ratio >= 2:
        image.draft(None, (int(np.ceil(image.width / ratio)), int(np.ceil(image.height / ratio))))


def read_properties(source: Source) -> tuple[dict[Any, Any], Image.Exif]:
    """Reads what an image holds besides its pixels: Pillow's ``info`` and the EXIF data, empty if they are broken."""
    if isinstance(source, Image.Image):
        return dict(source.info), _exif(source)
    with opened(source) as (name, file), told(name):
        image = parsed(file, name)
        return dict(image.info), _exif(image)


def read_size(source: Source) -> tuple[int, int]:
    """Reads width and height of an image, as it is stored, without its pixels."""
    if isinstance(source, Image.Image):
        return source.size
    with opened(source) as (name, file), told(name):
        size: tuple[int, int] = parsed(file, name).size
        return size


def _exif(image: Image.Image) -> Image.Exif:
    with suppress(Exception):  # broken EXIF data raise anything
        exif = image.getexif()
        exif.get_ifd(IFD.Exif)
        return exif
    return Image.Exif()


def _check(image: Image.Image, name: str) -> None:
    """Checks an image before its pixels are decoded."""
    check_pixels(image.width, image.height, name)
    if getattr(image, "tile", None) and image.format not in RASTER_FORMATS:
        raise ImageError(f"{name} is in the format {image.format}, which is not read: convert it to PNG first.")


def _converted(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Decodes, turns and converts an image, which changes it."""
    if isinstance(image, TiffImageFile):
        with _pillows_limit(formats.MAX_PIXELS):  # Pillow checks the size of the tiles, which ours does not see
            image.load()
    image.load()
    with suppress(Exception):  # broken EXIF data raise anything, but the pixels are valid
        ImageOps.exif_transpose(image, in_place=True)
    return to_srgb_and_alpha(image, name)


_frames_told: set[str] = set()
"""Names of the files whose further frames have been told."""


def tell_frames(file: BinaryIO, image: Image.Image, name: str) -> str | None:
    """Returns the warning that a file has more frames than the first, None if it has not or the warning was given."""
    frames = _count_frames(file, image) if name not in _frames_told else 1
    if frames == 1:
        return None
    _frames_told.add(name)
    return f"{name} has {frames} {'pages' if image.format == 'TIFF' else 'frames'}; the first is used."


def _count_frames(file: BinaryIO, image: Image.Image) -> int:
    """Counts the frames of an animation or the pages of a TIFF; 1 where the format has none or the file breaks off."""
    frames = 1
    if image.format in ("AVIF", "GIF", "PNG", "TIFF", "WEBP"):
        with suppress(Exception), _pillows_limit(None):
            file.seek(0)
            again = Image.open(file, formats=[image.format])  # counting moves some decoders to the last frame
            frames = getattr(again, "n_frames", 1)
            if isinstance(again, TiffImageFile) and frames <= _COUNTED_PAGES:  # some of them are thumbnails
                frames -= sum(_is_thumbnail(again, page) for page in range(1, frames))
    return frames


_COUNTED_PAGES = 100


def _is_thumbnail(image: TiffImageFile, page: int) -> bool:
    """Whether a page of a TIFF is another one at a lower resolution."""
    image.seek(page)
    return bool(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1)


_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _YCBCR = 254, 262, 6


def list_images(
    folder: str | os.PathLike[str], recursive: bool = True, suffixes: AbstractSet[str] = IMAGE_SUFFIXES
) -> list[Path]:
    """Lists all images in a folder in an order that depends only on the names.

    Hidden files and folders, macOS ``._x`` files and what is no regular file (pipes, sockets, devices) are skipped; links to
    folders are followed once.

    Args:
        folder: Path of the folder, which need not exist.
        recursive: Whether subfolders are searched.
        suffixes: Those of the files that count, in lower case.

    Returns:
        Paths that begin with ``folder``, sorted by the code points of their composed (NFC) relative paths, so that the
        order is the same in every locale and on every file system.
    """
    top = os.fspath(folder)
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(top, followlinks=True, onerror=_warn_of_folder):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        start = os.path.relpath(parent, top).replace(os.sep, "/") + "/" if parent != top else ""
        wanted = {n for n in names if not n.startswith(".") and os.path.splitext(n)[1].lower() in suffixes}
        if wanted:
            found += [start + name for name in sorted(wanted - _special_files(parent))]
    return [Path(top, name) for name in in_order(found)]


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts relative names of images as `list_images` does."""
    return sorted(names, key=lambda name: (unicodedata.normalize("NFC", name), name))


def _special_files(folder: str) -> set[str]:
    """Returns the names of a folder's pipes, sockets and devices; a link to nothing is none of these."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not entry.is_file() and os.path.exists(entry.path)}


def _warn_of_folder(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        warnings.warn(f"{shown(error.filename)} {problem(error)}: its images are left out.", stacklevel=4)


def folder_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists all images in a folder as `list_images` does.

    Raises:
        ImageError: If there is no such folder, or no image in it.
    """
    images = list_images(folder)
    if not images:
        problem = "There is no image in" if os.path.isdir(folder) else "There is no folder"
        raise ImageError(f"{problem} {shown(folder)}: give a folder with files such as .jpg, .png or .webp.")
    return images
