"""Reading and writing of images in windows, so that memory does not grow with the image.

``open_windows`` gives the same values as `stylezoo.images.load_with_alpha`, window by window, and `WindowWriter` takes an
image window by window, in any order::

    with open_windows("huge.tif") as image, WindowWriter("half.tif", image.height, image.width) as output:
        for top in range(0, image.height, 1024):
            bottom = min(top + 1024, image.height)
            output.write(top, 0, image.read(top, bottom, 0, image.width) / 2)

libvips (pyvips, ``pip install stylezoo[huge]``) decodes and encodes strip by strip:

=================================================  ==========================================================================
file                                               how it is read
=================================================  ==========================================================================
tiled or pyramidal TIFF without opacity            tiles where they lie in the file; nothing is copied
other TIFF, JPEG, PNG                              decoded once, from top to bottom, into a scratch file of 3 or 4 bytes per
                                                   pixel, which is read by position (not mapped: mapped pages count as memory)
progressive JPEG, interlaced PNG, TIFF of a rare   decoded whole by Pillow into the scratch file, because every pixel depends
kind (see `_TIFF_MODES`), all other formats, and   on the whole file, up to `MAX_PIXELS`
all files where pyvips is missing
=================================================  ==========================================================================

Writing goes through a scratch file beside the target. TIFF (tiled, BigTIFF above 4 GB), PNG and JPEG are encoded from it strip
by strip, other formats by Pillow in memory, up to `MAX_PIXELS`.

Limits: a file that is decompressed without end fills memory in ordinary reading, which is why `MAX_PIXELS` stands there.
Here it fills a disk at most. The limit is `MAX_WINDOW_PIXELS`, and the scratch file must leave `SPARE_BYTES` of its disk free.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from stylezoo.files import replacing
from stylezoo.images import formats
from stylezoo.images.alpha import VISIBLE, filled_row, row_sources, warn_of_nothing
from stylezoo.images.conversion import Values, to_srgb_and_alpha
from stylezoo.images.formats import ImageError, shown, written_formats
from stylezoo.images.reading import Source, opened, parsed, read_picture, tell_frames, told
from stylezoo.images.scratch import Pixels, Scratch
from stylezoo.images.tensors import to_image
from stylezoo.images.writing import ALPHA_SUFFIXES, Metadata, check_target, on_white, write_image

MAX_WINDOW_PIXELS = 10_000_000_000
"""Largest number of pixels of an image in windows: 100,000 x 100,000, with a scratch file of 30 GB."""

INSTALL = "larger images need pyvips and tifffile: pip install stylezoo[huge]"
"""What messages say where pyvips would help."""

_STRIP = 1 << 18
"""Pixels that are decoded at a time."""

_TIFF_MODES = frozenset(
    (
        *("1", "1;I", "L", "L;I", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I;16N"),
        *("RGB;16L", "RGB;16B", "RGB;16N", "RGBA;16L", "RGBA;16B", "RGBA;16N"),
    )
)
"""How Pillow names the numbers in a TIFF, for those that libvips reads with the same values."""


class _Source(Protocol):
    """Pixels (h, w, 3 or 4), turned as they are shown."""

    height: int
    width: int

    def read(self, top: int, bottom: int, left: int, right: int) -> Pixels: ...

    def close(self) -> None: ...


class WindowReader(AbstractContextManager["WindowReader"]):
    """An image that is read window by window; see `open_windows`, which opens it.

    Attributes:
        height: Rows of the image, turned as its EXIF data say.
        width: Pixels per row.
        name: What messages call it.
    """

    def __init__(self, source: _Source, transparent: bool, name: str) -> None:
        self.height, self.width, self.name = source.height, source.width, name
        self._source = source
        self._transparent = transparent

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and gives up the scratch file."""
        self._source.close()

    def read(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Reads a window; several threads may do so at a time.

        Args:
            top: First row.
            bottom: Row behind the last one.
            left: First column.
            right: Column behind the last one.

        Returns:
            (3, bottom - top, right - left), float32 RGB in [0, 1], the same values as those of `load_image`.

        Raises:
            ImageError: If the window is empty or not inside of the image, or the file is broken there.
        """
        return _scaled(self._pixels(top, bottom, left, right)[..., :3])

    def opacity(self, top: int, bottom: int, left: int, right: int) -> Tensor | None:
        """Reads the opacity of a window, given as for `read`.

        Returns:
            (1, bottom - top, right - left), float32 in [0, 1]; None if the whole image is opaque.

        Raises:
            ImageError: See `read`.
        """
        if not self._transparent:
            return None
        return _scaled(self._pixels(top, bottom, left, right)[..., 3:])

    def _pixels(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        if not (0 <= top < bottom <= self.height and 0 <= left < right <= self.width):
            raise ImageError(
                f"{self.name} is {self.width} x {self.height}: rows {top} to {bottom} and columns {left} to {right} are"
                " no window of it."
            )
        with told(self.name):
            return self._source.read(top, bottom, left, right)


def _scaled(pixels: Pixels) -> Tensor:
    """Returns pixels (h, w, C) as (C, h, w), float32 in [0, 1]."""
    height, width, channels = pixels.shape
    result = torch.empty(channels, height, width)
    np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=result.numpy(), dtype=np.float32)
    return result


def open_windows(path: str | os.PathLike[str], scratch: str | os.PathLike[str] | None = None) -> WindowReader:
    """Opens an image to be read in windows; what is read how is at the top of this module.

    Args:
        path: Path of the file.
        scratch: Folder of the scratch file, where one is needed; None takes the folder for temporary files, ``$TMPDIR``.

    Returns:
        A context manager. Its file must not change while it is open.

    Raises:
        ImageError: If the file is missing or no image, has more pixels than the limit, or there is no space for a scratch file.
    """
    with ExitStack() as stack:
        name, file = stack.enter_context(opened(path))
        with told(name):
            image = parsed(file, name)
            _check_pixels(image, name)
            warning = tell_frames(file, image, name)
            if warning:
                warnings.warn(warning, stacklevel=2)
            decoder = _Decoder.of(file, image, name)
            if decoder is None:
                return _whole(path, scratch, name)
            if decoder.is_tiled and decoder.channels == 3:
                decoder.file = stack.pop_all()
                return WindowReader(decoder, False, name)
            return _spooled(decoder.height, decoder.width, decoder.channels, decoder.blocks(), scratch, name)


def _check_pixels(image: Image.Image, name: str) -> None:
    """Raises an error if an image is empty, or has more pixels than its way of reading allows."""
    width, height = image.size
    pixels = width * height
    if not pixels:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}.")
    if pixels > MAX_WINDOW_PIXELS:
        raise ImageError(
            f"{name} has {pixels / 1e6:,.0f} million pixels and the limit is {MAX_WINDOW_PIXELS / 1e6:,.0f} million:"
            " cut it into parts first."
        )
    if pixels > formats.MAX_PIXELS and (pyvips() is None or not _is_streamed(image)):
        what = "without pyvips" if _is_streamed(image) else f"of {image.format} files of its kind"
        advice = INSTALL if _is_streamed(image) else "save it as a tiled TIFF first"
        raise ImageError(
            f"{name} has {pixels / 1e6:,.0f} million pixels and the limit {what} is {formats.MAX_PIXELS / 1e6:,.0f} million:"
            f" {advice}."
        )


def _whole(path: str | os.PathLike[str], scratch: str | os.PathLike[str] | None, name: str) -> WindowReader:
    """Opens an image that Pillow decodes at once."""
    color, alpha, _ = read_picture(path)

    def blocks() -> Iterator[_Block]:
        rows = max(1, _STRIP // color.width)
        for top in range(0, color.height, rows):
            box = (0, top, color.width, min(top + rows, color.height))
            planes = [np.asarray(color.crop(box))]
            if alpha is not None:
                planes.append(np.asarray(alpha.crop(box))[..., None])
            yield _Block(top, 0, np.concatenate(planes, axis=2))

    return _spooled(color.height, color.width, 3 if alpha is None else 4, blocks(), scratch, name)


class _Block(NamedTuple):
    """Pixels (h, w, channels) and their place in the image as it is shown."""

    top: int
    left: int
    pixels: Pixels


def _spooled(
    height: int,
    width: int,
    channels: int,
    blocks: Iterator[_Block],
    folder: str | os.PathLike[str] | None,
    name: str,
) -> WindowReader:
    """Opens an image whose pixels are written to a scratch file first."""
    pixels = Scratch(height, width, channels, folder, name)
    try:
        counts = _Counts(height)
        for block in blocks:
            pixels.write(*block)
            if channels == 4:
                counts.add(block)
        transparent = channels == 4 and counts.opaque < height * width
        if transparent:
            _fill(pixels, counts, name)
        return WindowReader(pixels, transparent, name)
    except BaseException:
        pixels.close()
        raise


class _Counts:
    """What `stylezoo.images.alpha` asks about the opacity of an image, gathered block by block."""

    threshold = int(np.ceil(VISIBLE * 255))

    def __init__(self, height: int) -> None:
        self.visible = np.zeros(height, np.int64)  # per row
        self.faint = np.zeros(height, np.int64)  # not fully transparent
        self.opaque = 0

    def add(self, block: _Block) -> None:
        """Adds the pixels of a block."""
        alpha = block.pixels[..., 3]
        rows = slice(block.top, block.top + len(alpha))
        self.visible[rows] += np.count_nonzero(alpha >= self.threshold, axis=1)
        self.faint[rows] += np.count_nonzero(alpha, axis=1)
        self.opaque += int(np.count_nonzero(alpha == 255))


def _fill(pixels: Scratch, counts: _Counts, name: str) -> None:
    """Gives hidden pixels colors of visible ones, in place; the result is that of `stylezoo.images.alpha.fill_hidden`."""
    least, visible = (counts.threshold, counts.visible) if counts.visible.any() else (1, counts.faint)
    if not visible.any():
        warn_of_nothing(name)
        for row in range(pixels.height):
            line = pixels.read(row, row + 1, 0, pixels.width)
            line[..., :3] = 255
            pixels.write(row, 0, line)
        return
    sources = row_sources(visible)
    own = sources == np.arange(pixels.height)
    for row in [*np.flatnonzero(own & (visible < pixels.width)), *np.flatnonzero(~own)]:
        line = pixels.read(int(row), int(row) + 1, 0, pixels.width)
        color, seen = line[0, :, :3], line[0, :, 3] >= least
        if own[row]:
            color[:] = filled_row(color, seen)
        else:  # of a row that is filled already
            source = int(sources[row])
            color[~seen] = pixels.read(source, source + 1, 0, pixels.width)[0, ~seen, :3]
        pixels.write(int(row), 0, line)


class _Turn(NamedTuple):
    """How stored pixels are turned to be shown: mirrored first, then transposed."""

    rows: bool
    columns: bool
    transpose: bool

    @classmethod
    def of(cls, orientation: int) -> _Turn:
        """Returns that of an EXIF orientation, 1 to 8."""
        flips = {2: "c", 3: "rc", 4: "r", 5: "t", 6: "rt", 7: "rct", 8: "ct"}.get(orientation, "")
        return cls("r" in flips, "c" in flips, "t" in flips)

    def pixels(self, stored: Pixels) -> Pixels:
        """Turns stored pixels (h, w, channels)."""
        turned = stored[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return turned.transpose(1, 0, 2) if self.transpose else turned

    def box(self, box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
        """Returns where the window (top, bottom, left, right) of a stored image of that size is shown."""
        top, bottom, left, right = box
        if self.rows:
            top, bottom = height - bottom, height - top
        if self.columns:
            left, right = width - right, width - left
        return (left, right, top, bottom) if self.transpose else (top, bottom, left, right)

    def stored(self, box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
        """Returns where a window that is shown is stored: the inverse of `box`, for the same stored size."""
        top, bottom, left, right = box
        if self.transpose:
            top, bottom, left, right = left, right, top, bottom
        return self._replace(transpose=False).box((top, bottom, left, right), height, width)


class _Decoder:
    """Decodes an image by libvips, as Pillow would, from any tile or from top to bottom.

    Args:
        image: What Pillow says of the file.
        orientation: Its EXIF orientation, 1 to 8.
        vips: What libvips says of it.
        is_tiled: Whether any window can be read, without those above.
        name: What messages call it.
    """

    def __init__(self, image: Image.Image, orientation: int, vips: Any, is_tiled: bool, name: str) -> None:
        self._vips, self.is_tiled, self.name = vips, is_tiled, name
        self.file: ExitStack | None = None
        self._mode = image.mode
        key = image.info.get("transparency") if image.mode != "P" else None  # libvips applies palettes
        self._info: dict[str | tuple[int, int], Any] = {"icc_profile": image.info.get("icc_profile")}
        if key is not None:
            self._info["transparency"] = key
        self._is_plain = vips.format == "uchar" and image.mode == "RGB" and not any(self._info.values())
        self._turn = _Turn.of(orientation)
        self._size = (int(vips.height), int(vips.width))
        self.height, self.width = reversed(self._size) if self._turn.transpose else self._size
        has_alpha = image.mode in ("LA", "RGBA") or "transparency" in image.info
        self.channels = 4 if has_alpha else 3

    @classmethod
    def of(cls, file: BinaryIO, image: Image.Image, name: str) -> _Decoder | None:
        """Returns the decoder of a file; None if libvips is missing or would not give the same values in little memory."""
        vips = pyvips()
        if vips is None or not _is_streamed(image):
            return None
        is_tiled = image.format == "TIFF" and _TILE_WIDTH in getattr(image, "tag_v2", {})
        orientation = _orientation(file, image)
        file.seek(0)  # from here on, the position in the file belongs to libvips
        loader = {"MPO": "jpeg"}.get(str(image.format), str(image.format).lower())
        opened_image = getattr(vips.Image, f"{loader}load_source")(
            vips.Source.new_from_descriptor(file.fileno()),
            access="random" if is_tiled else "sequential",
            fail_on="error",
            unlimited=True,  # the limits are ours
        )
        bands = len(image.getbands())
        expected = {"P": range(1, 5), "RGBA": (2, 4)}.get(image.mode, (bands, bands + 1))
        if opened_image.format not in ("uchar", "ushort") or opened_image.bands not in expected:
            return None
        return cls(image, orientation, opened_image, is_tiled, name)

    def close(self) -> None:
        """Closes the file."""
        del self._vips
        if self.file is not None:
            self.file.close()

    def read(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """Decodes the pixels (bottom - top, right - left, channels) of a window of a tiled file."""
        stored = self._turn.stored((top, bottom, left, right), *self._size)
        return self._turn.pixels(self._stored(*stored))

    def blocks(self) -> Iterator[_Block]:
        """Decodes all, from top to bottom."""
        height, width = self._size
        rows = max(16, _STRIP // width // 16 * 16)  # whole blocks of a JPEG
        for top in range(0, height, rows):
            box = (top, min(top + rows, height), 0, width)
            shown_at = self._turn.box(box, height, width)
            yield _Block(shown_at[0], shown_at[2], self._turn.pixels(self._stored(*box)))

    def _stored(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """Decodes a window of the image as it is stored."""
        region = pyvips().Region.new(self._vips)  # one per thread
        data = region.fetch(left, top, right - left, bottom - top)
        dtype = np.uint16 if self._vips.format == "ushort" else np.uint8
        values = np.frombuffer(data, dtype).reshape(bottom - top, right - left, self._vips.bands)
        if self._is_plain:
            return values.astype(np.uint8, copy=False)
        color, alpha = to_srgb_and_alpha(self._pillow(values), self.name)
        pixels = np.asarray(color)
        if self.channels == 3:
            return pixels
        opacity = np.full(pixels.shape[:2], 255, np.uint8) if alpha is None else np.asarray(alpha)
        return np.concatenate([pixels, opacity[..., None]], axis=2)

    def _pillow(self, values: Values) -> Image.Image:
        """Returns decoded values (h, w, bands) as Pillow would have decoded them."""
        mode = self._mode
        if mode.startswith("I"):
            image = Image.fromarray(np.ascontiguousarray(values[..., 0]))
        else:
            if values.dtype == np.uint16:
                values = (values >> 8).astype(np.uint8)  # Pillow does so with 16 bits in several channels
            if mode in ("P", "1") or (mode, values.shape[2]) == ("RGBA", 2):
                mode = ("L", "LA", "RGB", "RGBA")[0 if mode == "1" else values.shape[2] - 1]
            values = np.ascontiguousarray(values[..., : Image.getmodebands(mode)])
            image = Image.frombytes(mode, (values.shape[1], values.shape[0]), values.tobytes())
            if self._mode == "RGBA":
                image = image.convert("RGBA")  # of 16-bit gray with opacity, too
        image.info = {**self._info}
        return image


_TILE_WIDTH = ExifTags.Base.TileWidth.value


def _is_streamed(image: Image.Image) -> bool:
    """Whether libvips decodes an image with the same values as Pillow, without holding it."""
    if image.format in ("JPEG", "MPO"):
        return not image.info.get("progressive") and image.mode in ("L", "RGB", "CMYK")
    if image.format == "PNG":
        return not image.info.get("interlace")
    if image.format == "TIFF":
        tiles = getattr(image, "tile", [])
        kinds = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in tiles}
        return len(kinds) == 1 and next(iter(kinds)) in _TIFF_MODES
    return False


def _orientation(file: BinaryIO, image: Image.Image) -> int:
    """Returns the EXIF orientation of a file whose pixels are not decoded yet."""
    with suppress(Exception):  # broken EXIF data raise anything
        if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode all to look for it at the end
            exif = Image.Exif()
            exif.load(_png_chunk(file, b"eXIf"))
        else:
            exif = image.getexif()
        return int(exif.get(ExifTags.Base.Orientation, 1))
    return 1


def _png_chunk(file: BinaryIO, wanted: bytes) -> bytes:
    """Returns the first chunk of a kind of a PNG, empty if there is none."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == wanted:
            return file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    return b""


def pyvips() -> Any:
    """Returns the module pyvips, None where it or libvips is missing."""
    try:
        import pyvips as module
    except (ImportError, OSError):
        return None
    return module


class WindowWriter(AbstractContextManager["WindowWriter"]):
    """Writes an image window by window, in any order; the file appears, whole, when the block ends without an error.

    Args:
        path: Path of the file, whose suffix determines the format. TIFF, PNG and JPEG are encoded strip by strip.
        height: Rows of the image.
        width: Pixels per row.
        has_alpha: Whether windows have an opacity. Formats that have none are laid on white, as by `write_image`.
        quality: Quality of JPEG, WebP and AVIF, 1 to 100.
        pyramid: Whether a TIFF gets smaller versions of itself, each half as large, for viewers.
        source: What it is made from, as for `write_image`. Of a file that is encoded strip by strip the colors stay sRGB, and
            a TIFF keeps the resolution, and the settings as its description.
        settings: How it is made, as for `write_image`.

    Raises:
        ImageError: If the file cannot be written, or there is no space for a scratch file beside it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        height: int,
        width: int,
        has_alpha: bool = False,
        *,
        quality: int = 95,
        pyramid: bool = False,
        source: Source | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.settings = source, settings
        self.path, self.height, self.width = Path(path), height, width
        self.name = shown(path)
        self.quality, self.pyramid = quality, pyramid
        self._has_alpha = has_alpha
        check_target(path, quality, (width, height))
        self._format = written_formats()[self.path.suffix.lower()]
        self._keeps_alpha = has_alpha and self.path.suffix.lower() in ALPHA_SUFFIXES
        self._streams = self._format in _STREAMED and pyvips() is not None and find_spec("tifffile") is not None
        self._check_size()
        folder = Path(os.path.realpath(path)).parent
        self._pixels = Scratch(height, width, 4 if self._keeps_alpha else 3, folder, self.name, self._streams)
        self._written = 0

    def _check_size(self) -> None:
        """Raises an error if the image is too large for the way in which it is encoded."""
        pixels = self.height * self.width
        streamed = self._format in _STREAMED
        limit = MAX_WINDOW_PIXELS if self._streams else formats.MAX_PIXELS
        if pixels < 1:
            raise ImageError(f"Cannot write {self.name}: {self.width} x {self.height} are no pixels.")
        if pixels > limit:
            advice = INSTALL if streamed and not self._streams else "write .tif or .png instead"
            raise ImageError(
                f"Cannot write {self.name}: it has {pixels / 1e6:,.0f} million pixels and the limit is"
                f" {limit / 1e6:,.0f} million: {advice}."
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with closing(self._pixels):
            if kind is None:
                self._finish()

    def write(self, top: int, left: int, window: Tensor) -> None:
        """Writes a window; where windows overlap, the last one holds.

        Args:
            top: Its first row in the image.
            left: Its first column in the image.
            window: (3, h, w), or (4, h, w) with the opacity if the image has one, on any device; clamped to [0, 1] and rounded
                to 8 bits, as by `to_image`.

        Raises:
            ImageError: If the window has another shape or lies not inside of the image, or the disk is full.
        """
        channels = 4 if self._has_alpha else 3
        if window.ndim != 3 or window.shape[0] != channels:
            raise ImageError(f"A window is a tensor ({channels}, h, w), not {tuple(window.shape)}.")
        bottom, right = top + window.shape[1], left + window.shape[2]
        if not (0 <= top < bottom <= self.height and 0 <= left < right <= self.width):
            raise ImageError(
                f"{self.name} is {self.width} x {self.height}: rows {top} to {bottom} and columns {left} to {right} are"
                " no window of it."
            )
        pixels = to_image(window[:3], window[3:] if self._has_alpha else None)
        self._pixels.write(top, left, np.asarray(pixels if self._keeps_alpha else on_white(pixels)))
        self._written += window.shape[1] * window.shape[2]

    def _finish(self) -> None:
        """Encodes the image."""
        if self._written < self.height * self.width:
            raise ImageError(
                f"Cannot write {self.name}: {self._written:,} of its {self.height * self.width:,} pixels were written."
            )
        if not self._streams:
            image = Image.fromarray(self._pixels.read(0, self.height, 0, self.width))
            write_image(image, self.path, self.quality, self.source, self.settings)
            return
        try:
            with replacing(self.path) as file:
                self._encode(file)
        except Exception as error:  # libvips raises its own
            words = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ImageError(f"Cannot write {self.name}: {words}.") from error

    def _encode(self, file: BinaryIO) -> None:
        """Encodes the scratch file, from top to bottom."""
        vips = pyvips()
        channels = self._pixels.channels
        # not by `rawload`, which maps the whole file: mapped pages count as memory
        source = vips.Source.new_from_descriptor(self._pixels.descriptor())
        image = vips.Image.tiffload_source(source, access="sequential", unlimited=True)
        image = self._with_metadata(image, vips)
        target = vips.Target.new_to_descriptor(file.fileno())
        if self._format == "PNG":
            image.pngsave_target(target, filter=_ALL_FILTERS)
        elif self._format == "JPEG":
            image.jpegsave_target(target, Q=self.quality, subsample_mode="off" if self.quality >= 90 else "on")
        else:
            image.tiffsave_target(
                target,
                tile=True,
                tile_width=_TILE,
                tile_height=_TILE,
                compression="deflate",
                predictor="horizontal",
                pyramid=self.pyramid,
                bigtiff=self.height * self.width * channels > _BIG_TIFF,
            )

    def _with_metadata(self, image: Any, vips: Any) -> Any:
        """Returns the image of libvips with all that is not pixels."""
        metadata = Metadata.of(self._format, self.source, self.settings)
        image = image.copy(**dict(zip(("xres", "yres"), (dpi / 25.4 for dpi in metadata.dpi or ()), strict=False)))
        if metadata.exif is not None:
            image.set_type(vips.GValue.blob_type, "exif-data", metadata.exif)
        if metadata.settings is not None and self._format != "JPEG":
            name = "png-comment-0-stylezoo" if self._format == "PNG" else "image-description"
            image.set_type(vips.GValue.gstr_type, name, metadata.settings)
        return image


_STREAMED = ("JPEG", "PNG", "TIFF")
_ALL_FILTERS = 0xF8
_TILE = 256

_BIG_TIFF = 2_900_000_000
"""Bytes of pixels from which a TIFF is a BigTIFF: with the pyramid, 4/3 of them, and tables it stays below 4 GB."""
