"""Opening the files that a user names, and replacing files so that a failure at any moment leaves the old one intact.

All other modules open and write files by these functions: checkpoints, weights, results, images and downloads alike.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from stylezoo.errors import did_you_mean

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading; a pipe, a socket or a device, which could block for ever, is an error.

    Args:
        path: Path of the file.

    Returns:
        A binary file at position 0.

    Raises:
        OSError: If there is no regular file that can be read; `problem` says it in words.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for a writer
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def problem(error: OSError) -> str:
    """Says what is wrong with a file, to follow its name in a sentence.

    >>> problem(FileNotFoundError(2, "No such file or directory"))
    'does not exist'
    """
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    if isinstance(error, PermissionError):
        return "cannot be accessed (permission denied)"
    if error.errno == errno.EINVAL and error.strerror == "is not a regular file":
        return error.strerror
    return f"cannot be accessed ({error.strerror or error})"


MANY = 2000
"""Entries of a folder from which on it is not searched for a name that was meant, which would take too long."""


def nearest(path: str | os.PathLike[str]) -> str:
    """Returns a hint at the entry of the same folder whose name is closest, to follow a sentence; "" if there is none.

    Args:
        path: A file or folder that does not exist; of a path whose folder does not exist, that folder counts.
    """
    wanted = Path(path)
    while not wanted.parent.is_dir() and wanted.parent != wanted:
        wanted = wanted.parent
    try:
        with os.scandir(wanted.parent) as entries:
            names = [entry.name for entry in islice(entries, MANY)]
    except (OSError, ValueError):
        return ""
    close = did_you_mean(wanted.name, sorted(names), cutoff=0.7) if len(names) < MANY else None
    return f" Did you mean {wanted.parent / close}?" if close is not None else ""


def kind(path: str | os.PathLike[str]) -> str | None:
    """Says what a file is, by its first bytes, where it is of a well-known kind that is often taken for another.

    Args:
        path: Path of the file.

    Returns:
        Words such as "an HTML page", or None for other files and those that cannot be read.
    """
    try:
        with open_regular(path) as file:
            head = file.read(1024)
    except OSError:
        return None
    if not head:
        return "an empty file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    for position, magic, name in _MAGIC:
        if head[position : position + len(magic)] == magic:
            return name
    if head[:1] == b"\x08" and (b"onnx" in head or b"pytorch" in head):
        return "an ONNX file"
    return None


_MAGIC = (
    (0, b"version https://git-lfs", "a Git LFS pointer"),
    (0, b"PK\x03\x04", "a zip file"),
    (0, b"PK\x05\x06", "an empty zip file"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\xfd7zXZ\x00", "an xz file"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x89HDF\r\n", "an HDF5 file, such as Keras writes"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x04\x00\x00\x00\x01\x00\x00\x00", "a Torch7 file of Lua"),
    (0, b"\x03\x00\x00\x00\x01\x00\x00\x00", "a Torch7 file of Lua"),
    (0, b"\x93NUMPY", "a single NumPy array"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"<?xml", "an XML file"),
)
"""(position, bytes, what a file with these bytes is)."""


def lock(file: BinaryIO, wait: bool = True) -> bool:
    """Locks an open file against other processes that lock it, until it is closed or the process ends.

    Args:
        file: Any open file.
        wait: Whether to wait for another process that has locked it.

    Returns:
        Whether no other process has the lock; also where the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a new file that takes the place of ``path`` when the block ends without an error.

    The bytes are written beside the target, flushed to the disk and renamed. An error, a signal, a full disk or a power
    failure leaves the old file as it was and, where the system has unnamed temporary files (Linux), no other file.
    Missing folders are created; a target that is a link is replaced where it points to.

    Args:
        path: Path of the file to write.

    Yields:
        A binary file, open for writing and reading.

    Raises:
        OSError: If the file cannot be written; the old file is unchanged.
    """
    with new_file(path) as new:
        yield new.file


@dataclass
class NewFile:
    """A file that is being written.

    Attributes:
        file: Open for writing and reading, binary.
        target: What it is called when it is complete, in the same folder; it may change until then.
    """

    file: BinaryIO
    target: Path


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[NewFile]:
    """Does the same as `replacing` for a file whose name may change while it is written, such as for one that stays a part."""
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    descriptor, temporary = _create(target.parent)
    try:
        with open(descriptor, "w+b") as file:
            new = NewFile(file, target)
            yield new
            file.flush()
            os.fchmod(descriptor, _permissions(new.target))
            os.fsync(descriptor)
            if temporary is None:
                temporary = _name(descriptor, target.parent)
        os.replace(temporary, new.target)
        temporary = None
        _flush_folder(target.parent)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _create(folder: Path) -> tuple[int, str | None]:
    """Returns the descriptor of a new file in a folder, and its name unless it has none yet."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        with suppress(OSError):  # not every file system has unnamed files
            return os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600), None
    return tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)


def _name(descriptor: int, folder: Path) -> str:
    """Gives an unnamed file a temporary name."""
    while True:
        name = tempfile.mktemp(prefix=".", suffix=".part", dir=folder)
        with suppress(FileExistsError):
            # with a directory's descriptor, which an absolute path ignores, Python follows the link
            os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)
            return name


def _permissions(target: Path) -> int:
    """Returns the permissions of the file that is replaced, or those that a plain `open` gives."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


@lru_cache(maxsize=1)
def _umask() -> int:
    """Returns the umask of the process."""
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    """Flushes a rename to the disk, where folders can be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
