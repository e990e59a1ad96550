"""Downloads that can be resumed, are verified by checksum, and get their file name when they are complete.

Example::

    fetch("http://images.cocodataset.org/zips/val2014.zip", Path("data/coco/val2014.zip"), md5="a3d7...")
    extract(Path("data/coco/val2014.zip"), Path("data/coco"))
"""

import hashlib
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from stylezoo.errors import MissingFileError
from stylezoo.files import kind, lock, open_regular, problem

CHUNK = 1 << 20
"""Bytes that are read at a time."""

RATIO = 100
"""Archives that would grow to more than this many times their size, and to more than `HARMLESS` bytes, are refused: data
sets of images hardly shrink in a zip file, and what does is made to fill disks."""

HARMLESS = 100_000_000
"""Bytes that any archive may unpack to."""


class DataError(MissingFileError):
    """Raised if files are missing, unreadable or cannot be downloaded; the message is one sentence with a way on."""


def cache_folder() -> Path:
    """Returns the folder for downloaded weights and drawn images: ``$STYLEZOO_HOME``, or else ``~/.cache/stylezoo``."""
    return Path(os.environ.get("STYLEZOO_HOME", Path.home() / ".cache" / "stylezoo"))


def fetch(
    url: str, path: Path, md5: str | None = None, sha256: str | None = None, attempts: int = 3, timeout: float = 30.0
) -> Path:
    """Downloads a file and continues an earlier attempt.

    The bytes are written to ``path.part``. If the transfer breaks off they stay there, and the next call requests the
    rest. A complete file is verified and then renamed, so that a file at ``path`` is always complete. Where several
    processes want the same file, one of them downloads it and the others wait.

    Args:
        url: Address (http or https).
        path: Path of the file; an existing file is verified, if a checksum is given, and kept.
        md5: Expected MD5 or its beginning, hexadecimal; None is not verified.
        sha256: Expected SHA-256 or its beginning, hexadecimal; None is not verified.
        attempts: Number of attempts at a connection.
        timeout: Seconds without a byte after which a connection counts as broken.

    Returns:
        ``path``.

    Raises:
        DataError: If the address is none, there is no connection, the server refuses, the disk is full, or a checksum
            differs.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(f"{url} is not an address to download from: it must begin with http:// or https://.")
    if os.path.lexists(path):
        _verify(path, path, url, md5, sha256)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            task = progress.add_task(path.name, total=None)
            with _partial(path, progress, task) as part:
                if part is not None:
                    _Transfer(url, path, part, attempts, timeout, progress, task).run()
                    _verify(Path(part.name), path, url, md5, sha256)
                    os.fsync(part.fileno())
                    os.replace(part.name, path)
    except DataError:
        raise
    except OSError as error:  # those of the network have become DataErrors
        raise DataError(
            f"{path} cannot be written: {os.fspath(error.filename or path.parent)} {problem(error)};"
            " run the same command again to continue."
        ) from error
    return path


@contextmanager
def _partial(path: Path, progress: Progress, task: TaskID) -> Iterator[BinaryIO | None]:
    """Opens the partial file of ``path`` for this process alone; None if another process has completed the file."""
    part = path.with_name(path.name + ".part")
    while not path.exists():
        if part.exists() and not part.is_file():  # opening a pipe would block
            raise DataError(f"{part} is not a regular file: remove it.")
        with part.open("ab") as file:
            if not lock(file, wait=False):
                progress.update(task, description=f"{path.name} (waiting for another process)")
                lock(file)
                progress.update(task, description=path.name)
            if not _is_open_file(part, file):
                continue  # the other process has renamed or removed it
            try:
                yield file
            finally:
                if _is_open_file(part, file) and part.stat().st_size == 0:
                    part.unlink()
            return
    yield None


def _is_open_file(path: Path, file: BinaryIO) -> bool:
    """Returns whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


class _Broken(Exception):
    """A connection that failed, with the reason; the next attempt continues."""


class _Transfer:
    """The attempts to append the missing bytes of one file to its partial file."""

    def __init__(
        self, url: str, path: Path, part: BinaryIO, attempts: int, timeout: float, progress: Progress, task: TaskID
    ) -> None:
        self.url, self.path, self.part, self.attempts, self.timeout = url, path, part, attempts, timeout
        self.progress, self.task = progress, task

    def run(self) -> None:
        """Receives the rest of the file.

        Raises:
            DataError: If that fails; what has been received stays in the partial file.
            OSError: If it cannot be written.
        """
        for attempt in range(self.attempts):
            try:
                self._receive()
                return
            except _Broken as error:
                if attempt == self.attempts - 1:
                    raise DataError(
                        f"Cannot download {self.url} ({error}): run the same command again to continue, "
                        f"or put the file from {self.url} at {self.path} by hand."
                    ) from error
            time.sleep(min(attempt, 5))

    def _receive(self) -> None:
        """Opens one connection and appends what it brings."""
        done = os.fstat(self.part.fileno()).st_size
        response = self._open(done)
        if response is None:
            return
        with response:
            start, total = self._extent(response, done)
            if start == 0:  # a server that ignores Range begins anew, and so do we
                self.part.truncate(0)
            self._check_space(start, total)
            self.progress.update(self.task, completed=start, total=total)
            while chunk := self._read(response):
                self.part.write(chunk)
                self.progress.update(self.task, advance=len(chunk))
            self.part.flush()
        size = os.fstat(self.part.fileno()).st_size
        if total is not None and size < total:
            raise _Broken(f"the connection ended after {size} of {total} bytes")

    def _open(self, done: int) -> HTTPResponse | None:
        """Requests the bytes from ``done`` on; None if there are no more."""
        try:
            request = urllib.request.Request(self.url, headers={"User-Agent": "stylezoo"})
            if done:
                request.add_header("Range", f"bytes={done}-")
            response: HTTPResponse = _opener().open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code == 416 and done:  # "range not satisfiable": there is nothing after our last byte
                if error.headers.get("Content-Range", "").endswith(f"/{done}"):
                    return None
                self.part.truncate(0)  # longer than the file itself: not a beginning of it
                raise _Broken("the partial file did not fit and was removed") from error
            if error.code >= 500:
                raise _Broken(f"the server answers {error.code}, {_reason(error)}") from error
            self._refused(error.code, _reason(error), error)
        except (OSError, HTTPException, ValueError) as error:
            raise _Broken(self._why(error)) from error
        if response.status not in (200, 206):
            response.close()
            self._refused(response.status, response.reason, None)
        return response

    def _refused(self, status: int, reason: str, error: Exception | None) -> NoReturn:
        raise DataError(f"{self.url} answers {status} ({reason}): put the file at {self.path} by hand.") from error

    def _why(self, error: Exception) -> str:
        """Says in a few words how a connection broke."""
        cause = getattr(error, "reason", None)
        if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
            return f"the server sent nothing for {self.timeout:g} seconds"
        return _reason(error)

    def _extent(self, response: HTTPResponse, done: int) -> tuple[int, int | None]:
        """Returns the position of the first byte of an answer and, if the server says so, the size of the file."""
        if response.status != 206:
            return 0, response.length
        start, total = _content_range(response.headers.get("Content-Range"))
        if start not in (0, done):
            raise _Broken(f"the server sent bytes from {start} instead of {done}")
        if start and _changed_since(response.headers.get("Last-Modified"), os.fstat(self.part.fileno()).st_mtime):
            self.part.truncate(0)
            raise _Broken("the file on the server has changed since the download began")
        return start, total

    def _check_space(self, start: int, total: int | None) -> None:
        """Raises a DataError if the file will not fit on the disk."""
        free = shutil.disk_usage(self.path.parent).free
        if total is not None and total - start > free:
            raise DataError(
                f"{self.path} needs {_gigabytes(total - start)}, but {_gigabytes(free)} are free on that disk: make room,"
                " then run the same command again."
            )

    def _read(self, response: HTTPResponse) -> bytes:
        try:
            return response.read(CHUNK)
        except (OSError, HTTPException, ValueError) as error:
            raise _Broken(self._why(error)) from error


def _opener() -> urllib.request.OpenerDirector:
    """Returns what opens http and https, and nothing else after a redirection."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _reason(error: Exception) -> str:
    """Returns the message of an error on one line."""
    words = " ".join(str(getattr(error, "reason", None) or error).split())
    return words[:200] or type(error).__name__


def _content_range(header: str | None) -> tuple[int, int | None]:
    """Returns the first position and the size of the file in a header such as "bytes 100-199/200"."""
    positions, _, total = (header or "").removeprefix("bytes").strip().partition("/")
    try:
        return int(positions.split("-")[0]), int(total) if total.isdecimal() else None
    except ValueError:
        raise _Broken(f"unusable Content-Range {header!r}") from None


def _changed_since(last_modified: str | None, moment: float) -> bool:
    """Returns whether a file was modified after a moment, in seconds since 1970, as far as the server tells."""
    try:
        return last_modified is not None and parsedate_to_datetime(last_modified).timestamp() > moment
    except (ValueError, OverflowError):
        return False


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _verify(file: Path, path: Path, url: str, md5: str | None, sha256: str | None) -> None:
    """Compares the checksums; deletes a wrong partial file, but not a wrong file that existed before."""
    downloaded = file != path
    found = kind(file) if downloaded or md5 or sha256 else None
    if found in ("an HTML page", "a Git LFS pointer") and path.suffix not in (".html", ".htm"):
        if downloaded:
            file.unlink()
        raise DataError(
            f"{url} sent {found} instead of the file: open the address in a browser, and put the file at {path}."
            if downloaded
            else f"{path} is {found}, not the file from {url}: remove it and fetch it again."
        )
    for algorithm, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        actual = checksum(file, algorithm)
        if not actual.startswith(expected.lower()):
            if downloaded:
                file.unlink()
            raise DataError(
                f"{path} has the {algorithm} {actual} instead of {expected}: "
                + ("the download was damaged and has been removed, " if downloaded else "remove it and ")
                + f"fetch it again from {url}."
            )


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Computes the checksum of a file.

    Args:
        path: Path of the file.
        algorithm: An algorithm of `hashlib`, such as "md5".

    Returns:
        Hexadecimal digits.

    Raises:
        DataError: If the file cannot be read, or is a pipe or a device.
    """
    digest = hashlib.new(algorithm)
    try:
        with open_regular(path) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path} {problem(error)}.") from error
    return digest.hexdigest()


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a zip file into a folder and continues an earlier attempt.

    Members are first written to a hidden subfolder (each under a temporary name, with its CRC verified) and are moved
    when all of them are complete: an interrupted run never leaves an incomplete ``train2014``. What a damaged archive
    has left there is removed. Where several processes unpack the same archive, they do so one after another.

    Args:
        archive: Path of the zip file.
        folder: Folder to unpack into.

    Raises:
        DataError: If the archive is not a zip file, damaged or encrypted, will not fit on the disk, is made to fill it, or
            has members that would be written outside of ``folder``, are links, or are in each other's way.
    """
    staging = folder / f".{archive.stem}.extracting"
    try:
        with open_regular(archive) as file:
            lock(file)
            folder.mkdir(parents=True, exist_ok=True)
            _extract(archive, file, staging, folder)
    except _Damaged as error:
        shutil.rmtree(staging, ignore_errors=True)
        found = kind(archive)
        raise DataError(
            f"{archive} is damaged ({error}): remove it and fetch it again."
            if found is None or "zip" in found
            else f"{archive} is damaged: it is {found}, not a zip file; remove it and fetch it again."
        ) from error
    except DataError:
        raise
    except OSError as error:
        if error.filename == os.fspath(archive):
            raise DataError(f"{archive} {problem(error)}.") from error
        raise DataError(
            f"{archive} cannot be unpacked into {folder}: {os.fspath(error.filename or folder)} {problem(error)};"
            " run the same command again to continue."
        ) from error


class _Damaged(Exception):
    """An archive that cannot be read to its end, with the reason."""


def _extract(archive: Path, file: BinaryIO, staging: Path, folder: Path) -> None:
    """Unpacks an open archive; see `extract`."""
    with _zip_file(file) as zipped, _progress() as progress:
        members = _members(zipped, archive, staging)
        _check_places(members, archive, folder)
        size = sum(info.file_size for info in members.values())
        _check_size(size, archive, staging, folder)
        task = progress.add_task(f"unpack {archive.name}", total=size)
        for name, info in members.items():
            target = staging / name
            if not _unpacked(target, info) and not _unpacked(folder / name, info):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = staging / staging.name  # a name that no member has
                with temporary.open("wb") as sink:
                    for chunk in _content(zipped, info):
                        sink.write(chunk)
                os.replace(temporary, target)
            progress.update(task, advance=info.file_size)
    if staging.exists():
        _merge(staging, folder)


def _zip_file(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # on damaged directories, anything from struct.error to UnicodeDecodeError
        raise _Damaged(_reason(error)) from error


def _content(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yields the bytes of a member: as many as the archive declares, with the CRC that it declares."""
    # bzip2 and LZMA unpack all that they are given at once: a little at a time
    step = CHUNK if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
    left = info.file_size
    try:
        with zipped.open(info) as source:
            while chunk := source.read(step):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
    except Exception as error:  # zlib.error, LZMAError, EOFError, NotImplementedError, bzip2's OSError ...
        raise _Damaged(f"{info.filename!r}: {_reason(error)}") from error
    if left:
        raise _Damaged(f"{info.filename!r} does not have the size that the archive declares")


def _members(zipped: zipfile.ZipFile, archive: Path, staging: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Returns the files of an archive by their relative paths, which are checked."""
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    folders: set[PurePosixPath] = set()
    for info in zipped.infolist():
        name = PurePosixPath(info.filename.replace("\\", "/"))
        is_folder = info.filename.endswith("/")
        mode = info.external_attr >> 16 if info.create_system == 3 else 0  # of Unix
        wrong = None
        if name.is_absolute() or ".." in name.parts or ":" in (name.parts or ("",))[0]:
            wrong = "has a member outside its folder"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            wrong = "has a member that is a link or a device"
        elif not is_folder and (not name.parts or staging.name in name.parts):
            wrong = "has a member without a usable name"
        elif len(name.parts) > 100 or any(len(os.fsencode(part)) > 255 for part in name.parts):
            wrong = "has a member with a name that is too long"
        if wrong is not None:
            raise DataError(f"{archive} {wrong} ({info.filename[:80]!r}): do not trust it.")
        if info.flag_bits & 1:
            raise DataError(f"{archive} is encrypted ({info.filename!r}): unpack it by hand into {staging.parent}.")
        folders.update(name.parents)
        if is_folder:
            folders.add(name)
        elif name in members:
            raise DataError(f"{archive} has two members called {str(name)!r}: do not trust it.")
        else:
            members[name] = info
    both = next((name for name in members if name in folders), None)
    if both is not None:
        raise DataError(f"{archive} has a file and a folder called {str(both)!r}: do not trust it.")
    return members


def _check_places(members: dict[PurePosixPath, zipfile.ZipInfo], archive: Path, folder: Path) -> None:
    """Raises a DataError if members cannot have their places in the folder."""
    swapped = folder.parent / folder.name.swapcase()
    ignores_case = swapped.name != folder.name and swapped.exists() and swapped.samefile(folder)
    seen: dict[str, PurePosixPath] = {}
    checked: set[PurePosixPath] = set()
    for name in members:
        other = seen.setdefault(str(name).casefold(), name)
        if ignores_case and other != name:
            raise DataError(f"{archive} has {str(other)!r} and {str(name)!r}, which are one file on this disk.")
        place = folder / name
        if place.is_dir():
            raise DataError(f"{place} is a folder where {archive} has a file: move it out of the way.")
        for parent in name.parents[:-1]:
            if parent not in checked and os.path.lexists(folder / parent) and not (folder / parent).is_dir():
                raise DataError(f"{folder / parent} is a file where {archive} has a folder: move it out of the way.")
            checked.add(parent)


def _check_size(size: int, archive: Path, staging: Path, folder: Path) -> None:
    """Raises a DataError if an archive is made to fill disks, or this disk has too little room for it."""
    packed = archive.stat().st_size
    if size > max(RATIO * packed, HARMLESS):
        raise DataError(
            f"{archive} has {_gigabytes(packed)} and would unpack to {_gigabytes(size)}, which no data set does: do not"
            " trust it."
        )
    there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()) if staging.is_dir() else 0
    free = shutil.disk_usage(folder).free
    if size - there > free:
        raise DataError(
            f"{archive} unpacks to {_gigabytes(size)}, but {_gigabytes(free)} are free at {folder}: make room, then run"
            " the same command again."
        )


def _unpacked(path: Path, info: zipfile.ZipInfo) -> bool:
    """Returns whether a file exists and is what a member unpacks to."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    crc = 0
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _merge(source: Path, target: Path) -> None:
    """Moves the content of ``source`` into ``target``, folders by a single rename if they do not exist there."""
    for entry in list(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _merge(entry, place)
        else:
            os.replace(entry, place)
    source.rmdir()


def _progress() -> Progress:
    """Returns a progress bar for bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    return Progress(*columns)
