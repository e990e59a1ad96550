"""The folder that `stylezoo.evaluation` fills: pairs, settings, values per pair, summary.

pairs.csv       the pairs, drawn once by seed and kept
settings.json   what the numbers depend on: sizes, metrics with the networks they look with, models
MODEL.csv       or MODEL.parquet: a line per pair (MODEL.npy: what FID looks at); MODEL.part0.jsonl while it is worked on
summary.csv     mean, 95 % interval, n and key of every metric; summary.md to read
"""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from stylezoo.metrics import FID, MetricKey, MetricValue, art_fid

FORMAT = "stylezoo-evaluation-1"
RESAMPLES = 2000
"""Of the bootstrap."""

TableFormat = Literal["csv", "parquet"]
"""Of the values per pair."""

Pair = tuple[str, str]
"""Names of content and style below their folders."""

CONTENT, STYLE = "content (unchanged)", "style (copied)"
"""Names of the anchors: the floor, which does nothing, and the ceiling, which hands the style back."""


@dataclass(frozen=True)
class Score:
    """One cell of the summary.

    Attributes:
        model: Its name, or that of an anchor.
        value: Mean over pairs (of sets, the distance), n and key. The key also holds size, crop and images, so that
            values of other evaluations refuse to be compared with it.
        better: lower or higher.
        low: Lower end of the 95 % interval; None for distances of sets.
        high: Its upper end.
    """

    model: str
    value: MetricValue
    better: str
    low: float | None
    high: float | None


def slug(name: str) -> str:
    """A name as a part of file names.

    >>> slug("content (unchanged)")
    'content_unchanged'
    """
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def read_settings(folder: Path) -> dict[str, Any] | None:
    """What settings.json holds; None if there is none.

    Raises:
        ValueError: If it is no file of this format.
    """
    path = folder / "settings.json"
    if not path.is_file():
        return None
    settings = json.loads(path.read_text())
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by this version of evaluate: choose another folder.")
    return settings


def check_same(folder: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises a ValueError that names what differs, if a folder with stored settings cannot go on with others."""
    before, now = stored["protocol"], settings["protocol"]
    differences = [f"{name} ({before[name]}, now {now[name]})" for name in now if before[name] != now[name]]
    if [*stored["metrics"]] != [*settings["metrics"]]:
        differences.append(f"metrics ({' '.join(stored['metrics'])}, now {' '.join(settings['metrics'])})")
    else:
        for name, metric in settings["metrics"].items():
            differences += [f"{name}: {d}" for d in key_of(stored["metrics"][name]).differences(key_of(metric))]
    for name, model in settings["models"].items():
        if stored["models"].get(name, model) != model:
            differences.append(f"the model {name}")
    if differences:
        raise ValueError(
            f"{folder} holds an evaluation that differs in {', '.join(differences)}: go on with the same settings and"
            " images, or choose another folder."
        )


def key_of(metric: dict[str, Any]) -> MetricKey:
    """The key of a metric as settings.json has it."""
    fields = metric["key"]
    return MetricKey(**{**fields, "settings": tuple((name, value) for name, value in fields["settings"])})


def part_of(folder: Path, name: str, rank: int) -> Path:
    """Where a process puts its batches of a model: a line of JSON each, whole once it ends."""
    return folder / f"{slug(name)}.part{rank}.jsonl"


def results_of(folder: Path, name: str) -> Path | None:
    """The values of a model that is done with, in whichever format; None if there are none yet."""
    paths = (folder / f"{slug(name)}.{format}" for format in get_args(TableFormat))
    return next((path for path in paths if path.is_file()), None)


def finished(folder: Path, name: str) -> dict[int, tuple[Path, int]]:
    """Where the batches of a model are that some process has finished, {batch: (file, offset)}."""
    found = {}
    for path in sorted(folder.glob(f"{slug(name)}.part*.jsonl")):
        for offset, line in _lines(path):
            found[int(json.loads(line)["batch"])] = (path, offset)
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file and where they begin: a killed process may leave a torn one."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def drop_torn_line(path: Path) -> None:
    """Cuts off what a killed process left of a line."""
    if path.is_file():
        os.truncate(path, sum(len(line) for _, line in _lines(path)))


def merge(
    folder: Path, name: str, columns: Sequence[str], pairs: list[Pair], batch_size: int, format: TableFormat = "csv"
) -> None:
    """Puts the batches of all processes into the order of the pairs: MODEL.csv, and MODEL.npy if there are activations."""
    places = finished(folder, name)
    results = folder / f"{slug(name)}.{format}"
    numbers = range(math.ceil(len(pairs) / batch_size))
    blocks = (_line(places[number]).get("activations") for number in numbers)
    first = next(blocks)
    if first is not None:
        dimensions = len(base64.b64decode(first)) // 4 // min(batch_size, len(pairs))
        with replacing(results.with_suffix(".npy")) as path:
            stored = np.lib.format.open_memmap(path, "w+", np.float32, (len(pairs), dimensions))
            for number, block in enumerate((first, *blocks)):
                start = number * batch_size
                part = np.frombuffer(base64.b64decode(block), np.float32).reshape(-1, dimensions)
                stored[start : start + len(part)] = part
            stored.flush()
    lines = (_line(places[number])["rows"] for number in numbers)
    rows = ([*pair, *row] for pair, row in zip(pairs, chain.from_iterable(lines), strict=True))
    with replacing(results) as path:
        _write_values(path, ["content", "style", *columns], rows, format)
    for path in {path for path, _ in places.values()}:
        path.unlink()


def _line(place: tuple[Path, int]) -> dict[str, Any]:
    path, offset = place
    with path.open("rb") as file:
        file.seek(offset)
        line: dict[str, Any] = json.loads(file.readline())
    return line


def _write_values(path: Path, header: Sequence[str], rows: Iterable[list[Any]], format: TableFormat) -> None:
    """A line per pair: the names of its images, and its values to the last bit."""
    if format == "csv":
        write_rows(path, chain([header], ([*row[:2], *map(repr, row[2:])] for row in rows)))
        return
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    for side in header[:2]:  # Parquet's strings are UTF-8; pairs.csv has the names as they are
        columns[side] = tuple(name.encode(errors="backslashreplace").decode() for name in columns[side])
    arrow().parquet.write_table(arrow().table(columns), path)


def _read_values(path: Path) -> dict[str, np.ndarray]:
    """What `_write_values` wrote of the metrics, {metric: (N,)}."""
    if path.suffix == ".csv":
        header, *rows = read_rows(path)
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    else:
        columns = arrow().parquet.read_table(path).to_pydict()
    return {name: np.array(values, float) for name, values in columns.items() if name not in ("content", "style")}


def arrow() -> Any:
    """The module that reads and writes Parquet.

    Raises:
        ValueError: If it is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            "Parquet is read and written by pyarrow: pip install pyarrow, or stylezoo[parquet], or take --format csv."
        ) from None
    return pyarrow


def scores(folder: str | Path) -> list[Score]:
    """The summary of a folder of results: all models that are done with, after the anchors.

    Raises:
        FileNotFoundError: If it is no such folder.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings is None:
        raise FileNotFoundError(f"There is no settings.json in {folder}: give a folder that evaluate has written.")
    summary: list[Score] = []
    for model in (CONTENT, STYLE, *settings["models"]):
        path = results_of(folder, model)
        if path is not None:
            summary += _scores(path, model, settings)
    return summary


def _scores(path: Path, model: str, settings: dict[str, Any]) -> Iterator[Score]:
    columns = _read_values(path)
    names, n = list(columns), len(read_rows(path.with_name("pairs.csv"))) - 1
    values = np.stack([*columns.values()], 1) if columns else np.empty((n, 0))  # FID alone has no values per pair
    ends = dict(zip(names, bootstrap(values, settings["protocol"]["seed"]), strict=True))
    means = dict(zip(names, values.mean(0).tolist(), strict=True))
    for name, metric in settings["metrics"].items():
        key = key_of(metric)
        if name in names:
            yield Score(model, MetricValue(means[name], n, key), metric["better"], *ends[name])
            continue
        counts = {**dict(key.settings), "outputs": n, "styles": n}
        key = replace(key, settings=tuple(sorted(counts.items())))
        distance = _fid(path.with_suffix(".npy"), path.with_name(f"{slug(STYLE)}.npy"))
        if name == "art_fid":
            distance = float(art_fid(means["lpips"], distance))
        yield Score(model, MetricValue(distance, n, key), metric["better"], None, None)


def bootstrap(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> list[list[float]]:
    """95 % percentile intervals of the means, resampling pairs (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: (N, M), a column per metric.
        seed: Of the resamples, which are the same for all columns.
        resamples: How many.

    Returns:
        [low, high] of each column.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.stack([values[rng.integers(n, size=n)].mean(0) for _ in range(resamples)])
    ends: list[list[float]] = np.quantile(means, [0.025, 0.975], axis=0).T.tolist()
    return ends


def _fid(outputs: Path, styles: Path, rows: int = 256) -> float:
    """Fréchet distance of stored activations, some rows at a time."""
    files = [np.load(path, mmap_mode="r") for path in (outputs, styles)]
    metric = FID(nn.Identity(), files[0].shape[1])  # activations take the place of images
    for start in range(0, len(files[0]), rows):
        metric.update(*(torch.from_numpy(np.array(file[start : start + rows])) for file in files))
    return metric.result().value


def write_summary(folder: Path, summary: list[Score]) -> None:
    """Writes summary.csv, a line per model and metric, and summary.md, a line per model."""
    columns = ["model", "metric", "mean", "low", "high", "n", "better"]
    keys = ["backbone", "sha256", "resize", "pictures", "settings"]
    rows = []
    for score in summary:
        key = score.value.key
        ends = ["" if end is None else repr(end) for end in (score.low, score.high)]
        cells = [score.model, key.metric, repr(score.value.value), *ends, str(score.value.n), score.better]
        rows.append([*cells, *(getattr(key, name) for name in keys[:-1]), json.dumps(dict(key.settings))])
    with replacing(folder / "summary.csv") as path:
        write_rows(path, [[*columns, *keys], *rows])
    with replacing(folder / "summary.md") as path:
        path.write_text(as_markdown(folder, summary))


def table(summary: list[Score]) -> list[list[str]]:
    """A line per model, with a heading: means with their intervals, to four digits."""
    metrics = {score.value.key.metric: score.better for score in summary}
    arrows = {"lower": "↓", "higher": "↑"}
    rows = [["model", *(f"{name} {arrows[better]}" for name, better in metrics.items())]]
    for model, group in groupby(summary, key=lambda score: score.model):
        cells = []
        for score in group:
            ends = "" if score.low is None else f" [{score.low:.4g}, {score.high:.4g}]"
            cells.append(f"{score.value.value:.4g}{ends}")
        rows.append([model, *cells])
    return rows


def as_markdown(folder: Path, summary: list[Score]) -> str:
    """The summary to read, with all that its numbers depend on."""
    settings = read_settings(folder)
    assert settings is not None
    protocol = settings["protocol"]
    heading, *rows = table(summary)
    lines = ["\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))]
    contents, styles = (set(names) for names in zip(*read_rows(folder / "pairs.csv")[1:], strict=True))
    lines.append(
        f"{summary[0].value.n} pairs of {len(contents)} contents and {len(styles)} styles, short side {protocol['size']},"
        f" the middle {protocol['crop']} x {protocol['crop']} pixels, batches of {protocol['batch_size']},"
        f" {protocol['precision']} on {protocol['device']}, seed {protocol['seed']}."
    )
    lines.append(
        f"*{CONTENT}* is the floor, a painter that does nothing; *{STYLE}* the ceiling, one that hands the style back. Read"
        " content and style metrics together, between these two."
    )
    lines.append(
        f"In brackets: 95 % percentile bootstrap over pairs, {RESAMPLES} resamples; none for distances of sets. Pairs share"
        " images, so the intervals say nothing of other images."
    )
    keys = {score.value.key.metric: score.value.key for score in summary}
    lines.append(
        "\n".join(
            f"- {name}: {key.backbone} {key.sha256[:12]}, {key.resize}, "
            + ", ".join(f"{setting} {value}" for setting, value in key.settings)
            for name, key in keys.items()
        )
    )
    return "\n\n".join(lines) + "\n"


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Writes a CSV file, the heading first; names that are no UTF-8 go through as they are."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def read_rows(path: Path) -> list[list[str]]:
    """What `write_rows` wrote."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes its place once it is whole. Each process has names of its own."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
