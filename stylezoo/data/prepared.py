"""Prepared data sets: the images of a folder, resized once and stored in a few large files for training to read.

A prepared folder holds ``index.json`` and shards. A raw shard is a one-dimensional ``.npy`` file with the 8-bit pixels of
many images, which is mapped into memory; a JPEG shard has their encoded bytes in the same way. The index has a row per
image: name, place in the shards, width and height, and size and time of the source file, so that a source that has
changed is noticed. It only names shards that are wholly on the disk: a run that is interrupted anywhere can be continued.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import posixpath
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stylezoo.data.stream import MARGIN, Files, cpus, shorter
from stylezoo.download import DataError
from stylezoo.errors import StylezooError
from stylezoo.files import lock, open_regular, problem, replacing
from stylezoo.images import folder_images, in_order, list_images, read_image

Pixels = Literal["raw", "jpeg"]
"""How a shard stores images: pixels, or JPEG files, which take a tenth of the space and a millisecond to decode."""

INDEX = "index.json"
VERSION = 1
SHARD_BYTES = 2**28
"""A shard is finished when it has more; what an interruption without warning can lose."""
LISTS = (".csv", ".txt")
"""Files that divide data sets into splits, which are copied."""


class Row(NamedTuple):
    """An image of a prepared folder."""

    name: str
    """Relative to the folder, with ``/``."""
    shard: str
    offset: int
    """Of its first byte among those of the shard, without the header."""
    length: int
    width: int
    height: int
    source_size: int
    source_time: int
    """When the source was modified, in nanoseconds."""

    @property
    def source(self) -> tuple[int, int]:
        return self.source_size, self.source_time


@dataclass
class Index:
    """The contents of ``index.json``."""

    size: int
    pixels: Pixels
    quality: int
    source: str
    """The folder of the originals."""
    rows: dict[str, Row] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """{name: why it is left out}."""
    complete: bool = False

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Reads the index of a folder.

        Raises:
            DataError: If there is none, or it is damaged.
        """
        try:
            with open_regular(folder / INDEX) as file:
                values: dict[str, Any] = json.load(file)
            if values.pop("version") != VERSION:
                raise DataError(
                    f"{folder} was prepared by another version of stylezoo: delete it, and prepare the images again."
                )
            rows = [Row(*row) for row in values.pop("rows")]
            index = cls(**values, rows={row.name: row for row in rows})
            if not index.is_sound():
                raise ValueError
            return index
        except OSError as error:
            raise DataError(f"{folder / INDEX} {problem(error)}.") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{folder / INDEX} is damaged: delete {folder}, and prepare the images again.") from None

    def is_sound(self) -> bool:
        """Whether all values are what `prepare` writes."""
        numbers = (n for row in self.rows.values() for n in row[2:])
        return (
            isinstance(self.size, int)
            and self.pixels in get_args(Pixels)
            and isinstance(self.source, str)
            and isinstance(self.broken, dict)
            and all(isinstance(n, int) and n >= 0 for n in numbers)
            and all(is_relative(r.name) and re.fullmatch(r"shard_\d+\.npy", r.shard) for r in self.rows.values())
            and all(self.pixels != "raw" or r.length == 3 * r.width * r.height > 0 for r in self.rows.values())
        )

    def write(self, folder: Path) -> None:
        """Replaces the index of a folder."""
        values = {"version": VERSION, **vars(self), "rows": list(self.rows.values())}
        with replacing(folder / INDEX) as file:
            file.write(json.dumps(values).encode("ascii"))


def is_relative(name: Any) -> bool:
    """Whether a name is that of a file below a folder, in the one spelling that `prepare` writes."""
    return isinstance(name, str) and posixpath.normpath(name) == name and not f"{name}/".startswith(("/", "./", "../"))


def prepared_folder(root: Path) -> Path:
    """Returns the prepared folder of a data set: itself, or the one beside it that is called FOLDER.prepared."""
    return root if (root / INDEX).is_file() else root.with_name(root.name + ".prepared")


class Prepared:
    """A prepared folder, to read.

    Args:
        folder: What `prepare` has written.

    Raises:
        DataError: If it is none, incomplete, or damaged; the message says what to do.
    """

    def __init__(self, folder: Path) -> None:
        command = f"python -m stylezoo prepare --content {str(folder).removesuffix('.prepared')} --output {folder}"
        if not (folder / INDEX).is_file():
            raise DataError(f"There are no prepared images at {folder}: run {command}")
        self.folder, self.index = folder, Index.read(folder)
        if not self.index.complete:
            raise DataError(f"The images in {folder} were not all prepared: finish it, {command}")
        for shard in lost_shards(folder, self.index.rows.values()):
            raise DataError(f"{folder / shard} is missing or too short: copy it again, or run {command}")
        self._shards: dict[str, NDArray[np.uint8]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for workers, which map the shards themselves: an array would be copied."""
        return {**vars(self), "_shards": {}}

    def list(self, folder: Path, recursive: bool = True) -> list[Path]:
        """Returns what `stylezoo.images.list_images` returns for the original folder."""
        start = "" if folder == self.folder else folder.relative_to(self.folder).as_posix() + "/"
        names = (name.removeprefix(start) for name in self.index.rows if name.startswith(start))
        return [folder / name for name in in_order(name for name in names if recursive or "/" not in name)]

    def has(self, folder: Path) -> bool:
        """Whether there is an image in a folder or in its subfolders."""
        start = "" if folder == self.folder else folder.relative_to(self.folder).as_posix() + "/"
        return any(name.startswith(start) for name in self.index.rows)

    def image(self, path: str, min_side: int | None = None) -> Image.Image:
        """Returns an image of mode "RGB"; see `stylezoo.images.read_image`."""
        row = self.index.rows[os.path.relpath(path, self.folder).replace(os.sep, "/")]
        if row.shard not in self._shards:
            self._shards[row.shard] = np.load(self.folder / row.shard, mmap_mode="r")
        data = self._shards[row.shard][row.offset : row.offset + row.length]
        if self.index.pixels == "jpeg":
            return read_image(data.tobytes(), min_side, MARGIN)
        return Image.fromarray(data.reshape(row.height, row.width, 3))

    def changes(self) -> str | None:
        """Says in a sentence that the originals have changed, if they are there and have."""
        source = Path(self.index.source)
        if not source.is_dir():
            return None
        there, known = dict(sources(source)), self.index.rows
        changed = sum(name in known and known[name].source != state for name, state in there.items())
        new = len(there.keys() - known.keys() - self.index.broken.keys())
        gone = len(known.keys() - there.keys())
        if not (changed or new or gone):
            return None
        return (
            f"{source} has {changed} changed, {new} new and {gone} removed images since it was prepared: {self.folder}"
            f" still has the old ones. Update it: python -m stylezoo prepare --content {source} --output {self.folder}"
        )


class PreparedFiles(Files):
    """The images of one split in a prepared folder."""

    def __init__(self, prepared: Prepared, paths: list[Path], label: str) -> None:
        super().__init__(paths, label)
        self.prepared = prepared

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        return self.prepared.image(self.paths[index], min_side)


def lost_shards(folder: Path, rows: Iterable[Row]) -> list[str]:
    """Returns the names of shards that do not have all bytes of their images."""
    ends: dict[str, int] = {}
    for row in rows:
        ends[row.shard] = max(ends.get(row.shard, 0), row.offset + row.length)
    lost = []
    for shard, end in ends.items():
        try:
            array = np.load(folder / shard, mmap_mode="r")
            if array.dtype != np.uint8 or array.ndim != 1 or len(array) < end:
                lost.append(shard)
        except Exception:  # noqa: BLE001 - NumPy raises anything from OSError to SyntaxError on broken headers
            lost.append(shard)
    return sorted(lost)


def sources(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the images of a folder: name, and (size, time of modification)."""
    for path in list_images(folder):
        try:
            status = path.stat()
        except OSError:  # a link to nothing, or it has just been removed
            continue
        yield path.relative_to(folder).as_posix(), (status.st_size, status.st_mtime_ns)


# Writing


def prepare(
    content: Path, output: Path, size: int, pixels: Pixels = "raw", quality: int = 95, workers: int | None = None
) -> Index:
    """Resizes the images of a folder to a short side and stores them, or what is missing of them.

    Args:
        content: The folder, with its subfolders.
        output: The folder to write.
        size: Short side in pixels; smaller images keep their size.
        pixels: How images are stored.
        quality: Of JPEG.
        workers: Threads that read images; None: the number of CPUs.

    Returns:
        The index, with the images that were left out.

    Raises:
        StylezooError: If there is no image, or the output was prepared in another way, or another process writes to it.
    """
    folder_images(content)  # or an error that says that there are none
    if output.resolve().is_relative_to(content.resolve()):
        raise StylezooError(f"--output {output} lies in the folder of the originals: give one beside it.")
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "ab") as guard:
        if not lock(guard, wait=False):
            raise StylezooError(f"Another process writes to {output}: wait for it, or give another --output.")
        index = _begun(content, output, Index(size, pixels, quality, str(content.resolve())))
        there = dict(sources(content))
        lost = {*lost_shards(output, index.rows.values())}
        index.rows = {
            name: row for name, row in index.rows.items() if there.get(name) == row.source and row.shard not in lost
        }
        todo = [name for name in there if name not in index.rows]
        index.broken, index.complete = {}, False
        index.write(output)
        _copy_lists(content, output)
        _write_shards(output, index, _encoded_all(content, todo, index, workers or cpus()), there, len(there))
        index.complete = True
        index.write(output)
        used = {row.shard for row in index.rows.values()}
        for path in output.glob("shard_*.npy"):
            if path.name not in used:
                path.unlink()
    return index


def _begun(content: Path, output: Path, index: Index) -> Index:
    """Returns the index of an output that an earlier run has begun, or the given one."""
    if not (output / INDEX).is_file():
        return index
    begun = Index.read(output)
    if (begun.size, begun.pixels) != (index.size, index.pixels):
        raise StylezooError(
            f"{output} holds images of size {begun.size} as {begun.pixels}, not of size {index.size} as {index.pixels}:"
            " delete it, or give another --output."
        )
    index.rows = begun.rows
    return index


def _encoded(path: Path, index: Index) -> tuple[bytes | memoryview, int, int]:
    """Returns an image as it is stored, with width and height."""
    image = read_image(path, index.size)
    if min(image.size) > index.size:
        image = image.resize(shorter(*image.size, index.size), Image.Resampling.BILINEAR)
    if index.pixels == "raw":
        return image.tobytes(), *image.size
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=index.quality, subsampling=0)
    return buffer.getbuffer(), *image.size


def _encoded_all(content: Path, names: list[str], index: Index, workers: int) -> Iterator[tuple[str, Future[Any]]]:
    """Yields images as they are stored, in order, read by threads that are a few images ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[str, Future[Any]]] = deque()
        try:
            for name in names:
                ahead.append((name, pool.submit(_encoded, content / name, index)))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft()
            yield from ahead
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_shards(
    output: Path,
    index: Index,
    images: Iterator[tuple[str, Future[Any]]],
    there: dict[str, tuple[int, int]],
    total: int,
) -> None:
    """Writes images into new shards and the index after each of them; an error or Ctrl-C first saves what is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    number = max((int(path.stem.partition("_")[2]) for path in output.glob("shard_*.npy")), default=-1)
    with Progress(*columns) as progress:
        task = progress.add_task("Preparing images", total=total, completed=len(index.rows))
        while (first := next(images, None)) is not None:
            number += 1
            rows: list[Row] = []
            stopped: BaseException | None = None
            with replacing(output / f"shard_{number:05d}.npy") as file:
                shard = _Shard(file)
                try:
                    for name, image in itertools.chain([first], images):  # leaves images open, unlike a generator
                        try:
                            data, width, height = image.result()
                        except (StylezooError, OSError) as error:
                            index.broken[name] = str(error)
                        else:
                            place = (shard.size, shard.add(data))
                            rows.append(Row(name, f"shard_{number:05d}.npy", *place, width, height, *there[name]))
                        progress.advance(task)
                        if shard.size >= SHARD_BYTES:
                            break
                except BaseException as error:  # noqa: BLE001 - raised again when what is done is safe
                    stopped = error
                shard.finish()
            index.rows |= {row.name: row for row in rows}
            index.write(output)
            if stopped is not None:
                raise stopped


class _Shard:
    """A one-dimensional ``.npy`` file of bytes that is written without knowing how many there will be."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, 0
        self._header()
        self._start = file.tell()

    def add(self, data: bytes | memoryview) -> int:
        """Appends bytes and returns their number."""
        self.file.write(data)
        self.size += len(data)
        return len(data)

    def finish(self) -> None:
        """Removes what was written by half, and says in the header how many bytes there are."""
        self.file.truncate(self._start + self.size)
        self.file.seek(0)
        self._header()
        assert self.file.tell() == self._start  # NumPy leaves room for the growth of the first dimension

    def _header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _copy_lists(content: Path, output: Path) -> None:
    """Copies the files that divide data sets into splits, but not captions, which are called like images."""
    for parent, folders, names in os.walk(content):
        folders[:] = [name for name in folders if not name.startswith(".")]
        stems = {os.path.splitext(name)[0] for name in names if not name.endswith(LISTS)}
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix in LISTS and not name.startswith(".") and stem not in stems:
                source = Path(parent, name)
                with open_regular(source) as old, replacing(output / source.relative_to(content)) as new:
                    shutil.copyfileobj(old, new)
