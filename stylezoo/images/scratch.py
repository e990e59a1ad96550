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

    Raises:
        ImageError: If the disk has not that much space, or the file cannot be created.
    """

    def __init__(
        self, height: int, width: int, channels: int, folder: str | os.PathLike[str] | None, name: str
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
            self._file = tempfile.TemporaryFile(dir=self.folder, prefix=".stylezoo-", buffering=0)  # noqa: SIM115 - `close`
            self._file.truncate(needed)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Gives the space back."""
        self._file.close()

    @property
    def path(self) -> str:
        """A name by which this process can open the file once more."""
        return f"/dev/fd/{self._file.fileno()}" if os.path.isdir("/dev/fd") else str(self._file.name)

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
            (((top + y) * self.width + left) * self.channels, pixels[y : y + rows].reshape(-1).data)
            for y in range(0, height, rows)
        ]

    def _failed(self, error: OSError) -> ImageError:
        return ImageError(
            f"{self.name} needs a scratch file in {shown(self.folder)}, which fails: {error.strerror or error}."
        )
