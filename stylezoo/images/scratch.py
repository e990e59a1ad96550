"""Pixels in a file without a name, read and written by position: as large as the disk allows, in no memory."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stylezoo.images.formats import ImageError, shown

Pixels = NDArray[np.uint8]

SPARE_BYTES = 1_000_000_000
"""What a scratch file leaves free on its disk."""


class Scratch:
    """An 8-bit image (height, width, channels) in a file that is gone when it is closed or the process ends.

    Rows are read and written with system calls: pages of a mapped file would count as memory of the process.

    Args:
        height: Rows.
        width: Pixels per row.
        channels: Bytes per pixel.
        folder: Where the file lies; missing ones are created. None takes the folder for temporary files, ``$TMPDIR``.
        name: What messages call the image.
        as_tiff: Whether the file is an uncompressed TIFF, which `descriptor` can be read as; needs tifffile.

    Raises:
        ImageError: If the disk has not that much space, or the file cannot be created.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        folder: str | os.PathLike[str] | None,
        name: str,
        as_tiff: bool = False,
    ) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.folder = Path(tempfile.gettempdir() if folder is None else folder)
        self.name = name
        self._lock = threading.Lock()  # positions and reads belong together
        needed = height * width * channels
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < needed + SPARE_BYTES:
                raise ImageError(
                    f"{name} needs {needed / 1e9:.1f} GB for a scratch file in {shown(self.folder)}, and of the"
                    f" {free / 1e9:.1f} GB free there {SPARE_BYTES / 1e9:.0f} GB stay free: set TMPDIR to a folder"
                    " with more space."
                )
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - `close`
                dir=self.folder, prefix=".stylezoo-", buffering=0, delete=os.name == "nt"
            )
            if os.name != "nt":
                os.unlink(self._file.name)  # tifffile wants a file with a name, but no signal shall leave one behind
            self._start = self._write_header() if as_tiff else 0
            self._file.truncate(self._start + needed)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Gives the space back."""
        self._file.close()

    def descriptor(self) -> int:
        """Returns the number of the open file, at its beginning."""
        self._file.seek(0)
        return self._file.fileno()

    def _write_header(self) -> int:
        """Writes the tables of a TIFF, and returns the position of its pixels."""
        import tifffile

        place = tifffile.imwrite(
            self._file,
            shape=(self.height, self.width, self.channels),
            dtype=np.uint8,
            bigtiff=True,
            photometric="rgb",
            extrasamples=["unassalpha"] if self.channels == 4 else [],
            rowsperstrip=16,
            metadata=None,
            returnoffset=True,
        )
        assert place is not None  # the strips lie together
        return int(place[0])

    def read(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """Reads the pixels (bottom - top, right - left, channels) of a window."""
        pixels = np.empty((bottom - top, right - left, self.channels), np.uint8)
        try:
            for start, block in self._blocks(top, left, pixels):
                with self._lock:
                    self._file.seek(start)
                    if self._file.readinto(block) != len(block):
                        raise OSError(errno.EIO, "the scratch file was cut off")
        except OSError as error:
            raise self._failed(error) from error
        return pixels

    def write(self, top: int, left: int, pixels: Pixels) -> None:
        """Writes pixels (h, w, channels) to a window."""
        try:
            for start, block in self._blocks(top, left, np.ascontiguousarray(pixels)):
                with self._lock:
                    self._file.seek(start)
                    if self._file.write(block) != len(block):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._failed(error) from error

    def _blocks(self, top: int, left: int, pixels: Pixels) -> list[tuple[int, memoryview]]:
        """Returns (position in the file, bytes) of the pieces of a window that lie together."""
        height, width = pixels.shape[:2]
        if width == self.width:  # some systems transfer 2 GB at a time at most
            rows = max(1, (1 << 28) // (width * self.channels))
        else:
            rows = 1
        return [
            (self._start + ((top + y) * self.width + left) * self.channels, pixels[y : y + rows].reshape(-1).data)
            for y in range(0, height, rows)
        ]

    def _failed(self, error: OSError) -> ImageError:
        return ImageError(
            f"{self.name} needs a scratch file in {shown(self.folder)}, which fails: {error.strerror or error}."
        )
