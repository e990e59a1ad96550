"""Downloads that can be resumed, are verified by checksum, and get their file name when they are complete.

Example::

    fetch("http://images.cocodataset.org/zips/val2014.zip", Path("data/coco/val2014.zip"), md5="a3d7...")
    extract(Path("data/coco/val2014.zip"), Path("data/coco"))
"""

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from stylezoo.errors import MissingFileError

CHUNK = 1 << 20
"""Bytes that are read at a time."""


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
    rest. A complete file is verified and then renamed, so that a file at ``path`` is always complete.

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
        DataError: If there is no connection, the server refuses, or a checksum differs.
    """
    if path.exists():
        _verify(path, path, url, md5, sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _progress() as progress:
        task = progress.add_task(path.name, total=None)
        for attempt in range(attempts):
            try:
                _transfer(url, part, timeout, progress, task)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == attempts - 1:
                    raise DataError(
                        f"{url} answers {error.code} ({error.reason}): put the file at {path} by hand."
                    ) from error
            except (OSError, HTTPException) as error:
                if attempt == attempts - 1:
                    reason = getattr(error, "reason", None) or error or type(error).__name__
                    raise DataError(
                        f"Cannot download {url} ({reason}): run the same command again to continue, "
                        f"or put the file from {url} at {path} by hand."
                    ) from error
            time.sleep(min(attempt, 5))
    _verify(part, path, url, md5, sha256)
    os.replace(part, path)
    return path


def _transfer(url: str, part: Path, timeout: float, progress: Progress, task: TaskID) -> None:
    """Opens one connection and appends the missing bytes to ``part``."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "stylezoo"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # "range not satisfiable": there is nothing after our last byte
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{done}"):
            return
        part.unlink()  # longer than the file itself: not a beginning of it
        raise ConnectionError("the partial file did not fit and was removed") from error
    with response:
        start = _range_start(response.headers.get("Content-Range")) if response.status == 206 else 0
        if start not in (0, done):
            raise ConnectionError(f"the server sent bytes from {start} instead of {done}")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        progress.update(task, completed=start, total=total)
        with part.open("ab" if start else "wb") as file:  # a server that ignores Range begins anew, and so do we
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.update(task, advance=len(chunk))
    size = part.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(f"the connection ended after {size} of {total} bytes")


def _range_start(content_range: str | None) -> int:
    """Returns the first position in a header such as "bytes 100-199/200"."""
    try:
        return int((content_range or "").removeprefix("bytes").strip().split("-")[0])
    except ValueError:
        raise ConnectionError(f"unusable Content-Range {content_range!r}") from None


def _verify(file: Path, path: Path, url: str, md5: str | None, sha256: str | None) -> None:
    """Compares the checksums; deletes a wrong partial file, but not a wrong file that existed before."""
    for algorithm, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        actual = checksum(file, algorithm)
        if not actual.startswith(expected.lower()):
            if file != path:
                file.unlink()
            raise DataError(
                f"{path} has the {algorithm} {actual} instead of {expected}: "
                + ("the download was damaged and has been removed, " if file != path else "remove it and ")
                + f"fetch it again from {url}."
            )


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Computes the checksum of a file.

    Args:
        path: Path of the file.
        algorithm: An algorithm of `hashlib`, such as "md5".

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a zip file into a folder and continues an earlier attempt.

    Members are first written to a hidden subfolder (each under a temporary name, with its CRC verified) and are moved
    when all of them are complete: an interrupted run never leaves an incomplete ``train2014``.

    Args:
        archive: Path of the zip file.
        folder: Folder to unpack into.

    Raises:
        DataError: If the archive is not a zip file, damaged, or has members that would be written outside of ``folder``.
    """
    staging = folder / f".{archive.stem}.extracting"
    try:
        with zipfile.ZipFile(archive) as zipped, _progress() as progress:
            members = list(_members(zipped, archive))
            task = progress.add_task(f"unpack {archive.name}", total=sum(info.file_size for info, _ in members))
            for info, name in members:
                target = staging / name
                if not _same_size(target, info) and not _same_size(folder / name, info):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary = target.with_name(target.name + ".part")
                    with zipped.open(info) as source, temporary.open("wb") as sink:
                        shutil.copyfileobj(source, sink, CHUNK)
                    os.replace(temporary, target)
                progress.update(task, advance=info.file_size)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is damaged ({error}): remove it and fetch it again.") from error
    if staging.exists():
        _merge(staging, folder)


def _members(zipped: zipfile.ZipFile, archive: Path) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Yields the files of an archive with their relative paths, which are checked."""
    for info in zipped.infolist():
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in (name.parts or ("",))[0]:
            raise DataError(f"{archive} has a member outside its folder ({info.filename!r}): do not trust it.")
        if not info.is_dir():
            yield info, name


def _same_size(path: Path, info: zipfile.ZipInfo) -> bool:
    """Returns whether a file exists and has the size of a member."""
    return path.is_file() and path.stat().st_size == info.file_size


def _merge(source: Path, target: Path) -> None:
    """Moves the content of ``source`` into ``target``, folders by a single rename if they do not exist there."""
    for entry in source.iterdir():
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
