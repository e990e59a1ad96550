"""The tables in a folder of results, as CSV or Parquet: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stylezoo.errors import StylezooError
from stylezoo.files import open_regular, problem, replacing

TableFormat = Literal["csv", "parquet"]
"""Format of the values per pair."""

Pair = tuple[str, str]
"""Names of content and style, relative to their folders."""

PAIR_COLUMNS = ["content", "style"]
"""The first columns of every table of pairs."""


def read_bytes(path: Path) -> bytes:
    """Reads a whole file of the folder.

    Raises:
        StylezooError: If it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise StylezooError(f"{path} {problem(error)}.") from error


def read_rows(path: Path) -> list[list[str]]:
    """Reads a CSV file that `write_rows` has written, with its heading; `StylezooError` if it cannot be read."""
    text = read_bytes(path).decode("utf-8", "surrogateescape")
    try:
        return list(csv.reader(io.StringIO(text.replace("\0", "\ufffd"), newline="")))  # Python 3.10 refuses null bytes
    except csv.Error as error:
        raise StylezooError(f"{path} is damaged: it is no CSV file ({error}).") from error


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Writes a CSV file, the heading first; file names that are not valid UTF-8 are kept byte by byte."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, newline="", encoding="utf-8", errors="surrogateescape")
        csv.writer(text, lineterminator="\n").writerows(rows)
        text.flush()
        text.detach()


def read_pairs(folder: Path) -> list[Pair]:
    """Reads pairs.csv.

    Raises:
        StylezooError: If it is missing or damaged.
    """
    path = folder / "pairs.csv"
    heading, *rows = read_rows(path) or [[]]
    if heading != PAIR_COLUMNS or not rows or any(len(row) != 2 for row in rows):
        raise StylezooError(
            f"{path} is damaged: choose another folder, or delete this one to measure everything again."
        )
    return [(content, style) for content, style in rows]


def write_pairs(folder: Path, pairs: list[Pair]) -> None:
    """Writes pairs.csv."""
    write_rows(folder / "pairs.csv", [PAIR_COLUMNS, *pairs])


def write_values(path: Path, columns: Sequence[str], rows: Iterable[list[Any]]) -> None:
    """Writes a line per pair: the names of its images, and its values to the last bit.

    Args:
        path: Ends in .csv or .parquet.
        columns: Names of the metrics.
        rows: Content, style and values of each pair.
    """
    header = [*PAIR_COLUMNS, *columns]
    if path.suffix == ".csv":
        write_rows(path, chain([header], ([*row[:2], *map(repr, row[2:])] for row in rows)))
        return
    table = dict(zip(header, zip(*rows, strict=True), strict=True))
    for side in PAIR_COLUMNS:
        table[side] = tuple(map(_utf8, table[side]))
    with replacing(path) as file:
        pyarrow_module().parquet.write_table(pyarrow_module().table(table), file)


def _utf8(name: str) -> str:
    """A file name as Parquet has it, whose strings are UTF-8; pairs.csv keeps the names unchanged."""
    return name.encode(errors="backslashreplace").decode()


def read_values(path: Path, columns: Sequence[str], pairs: Sequence[Pair]) -> np.ndarray:
    """Reads the values that `write_values` has written.

    Args:
        path: Ends in .csv or .parquet.
        columns: The metrics that it must have.
        pairs: The pairs that it must have.

    Returns:
        (pairs, metrics); NaN where a pair has no value.

    Raises:
        StylezooError: If the file is cut, damaged or of other pairs or metrics; the message says what to do.
    """
    header, rows = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    wanted = [*PAIR_COLUMNS, *columns]
    if header != wanted:
        raise _damaged(path, f"its columns are {', '.join(header) or 'missing'} instead of {', '.join(wanted)}")
    if len(rows) != len(pairs):
        raise _damaged(path, f"it has {len(rows)} of {len(pairs)} pairs")
    values = np.empty((len(rows), len(columns)))
    for number, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        if len(row) != len(wanted) or tuple(row[:2]) not in (pair, tuple(map(_utf8, pair))):
            raise _damaged(path, f"line {number + 2} is not that of {pair[0]} in the style of {pair[1]}")
        try:
            values[number] = [float(value) for value in row[2:]]
        except (TypeError, ValueError) as error:
            raise _damaged(path, f"line {number + 2} holds something that is no number") from error
    return values


def _read_csv(path: Path) -> tuple[list[str], list[list[Any]]]:
    """The heading and the rows of a CSV file."""
    heading, *rows = read_rows(path) or [[]]
    return heading, list(rows)


def _read_parquet(path: Path) -> tuple[list[str], list[list[Any]]]:
    """The heading and the rows of a Parquet file."""
    parquet, data = pyarrow_module().parquet, io.BytesIO(read_bytes(path))
    try:
        table = parquet.read_table(data).to_pydict()
    except Exception as error:  # pyarrow raises errors of its own, and OSError, on damaged files
        raise _damaged(path, "it is no complete Parquet file") from error
    return list(table), [list(row) for row in zip(*table.values(), strict=True)]


def _damaged(path: Path, reason: str) -> StylezooError:
    return StylezooError(
        f"{path} is damaged or not from this evaluation ({reason}): delete it, and the same command measures"
        f" {path.stem} again."
    )


def pyarrow_module() -> Any:
    """Returns the module that reads and writes Parquet.

    Raises:
        StylezooError: If it is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise StylezooError(
            "Parquet needs pyarrow: pip install pyarrow, or stylezoo[parquet], or use --format csv."
        ) from None
    return pyarrow
