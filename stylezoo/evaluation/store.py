"""The folder of results that `stylezoo.evaluation` writes: pairs, settings, values per pair, summary.

pairs.csv       the pairs, drawn once by seed and kept
settings.json   the settings that the numbers depend on: sizes, metrics with their networks, models
MODEL.csv       or MODEL.parquet: a line per pair (MODEL.npy: activations for FID); MODEL.part0.jsonl until all are
finished summary.csv     mean, 95 % interval, n and key of every metric; summary.md shows the same as a table
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
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.metrics import FID, MetricKey, MetricValue, art_fid

FORMAT = "stylezoo-evaluation-1"
STORED_IMAGES = "pictures"
"""What settings.json and summary.csv of this format call ``images``, of the protocol and of metric keys."""
RESAMPLES = 2000
"""Number of resamples of the bootstrap."""

TableFormat = Literal["csv", "parquet"]
"""Format of the values per pair."""

Pair = tuple[str, str]
"""Names of content and style, relative to their folders."""

IDENTITY_BASELINE, STYLE_COPY_BASELINE = "content (unchanged)", "style (copied)"
"""Names of the baselines: the output is the content itself, or the style itself."""


@dataclass(frozen=True)
class Score:
    """One cell of the summary: a metric of a model.

    Attributes:
        model: Name of the model or baseline.
        value: Mean over pairs (of metrics that compare sets, the distance), n and key. The key also holds size, crop
            and pairs, so that values of other evaluations refuse to be compared with it.
        better: "lower" or "higher".
        low: Lower end of the 95 % interval; None for metrics that compare sets.
        high: Upper end of it.
    """

    model: str
    value: MetricValue
    better: str
    low: float | None
    high: float | None


def slug(name: str) -> str:
    """Returns a name with all characters that file names should not have replaced by ``_``.

    >>> slug("content (unchanged)")
    'content_unchanged'
    """
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Reads settings.json; returns None if there is none.

    Raises:
        StylezooError: If the file has another format.
    """
    path = folder / "settings.json"
    if not path.is_file():
        return None
    settings = json.loads(path.read_text())
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise StylezooError(f"{path} was not written by this version of evaluate: choose another folder.")
    return settings


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes settings.json."""
    with replacing(folder / "settings.json") as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def read_pairs(folder: Path) -> list[Pair]:
    """Reads pairs.csv."""
    return [(row[0], row[1]) for row in read_rows(folder / "pairs.csv")[1:]]


def write_pairs(folder: Path, pairs: list[Pair]) -> None:
    """Writes pairs.csv."""
    with replacing(folder / "pairs.csv") as path:
        write_rows(path, [("content", "style"), *pairs])


def check_same(folder: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    """Checks that an evaluation can be continued.

    Args:
        folder: Folder of the results, for the message.
        stored: The settings that the folder holds.
        settings: The settings of the evaluation that would continue it.

    Raises:
        StylezooError: If they differ; the message names all differences.
    """
    before, now = stored["protocol"], settings["protocol"]
    differences = [
        f"{'images' if name == STORED_IMAGES else name} ({before[name]}, now {now[name]})"
        for name in now
        if before[name] != now[name]
    ]
    if [*stored["metrics"]] != [*settings["metrics"]]:
        differences.append(f"metrics ({' '.join(stored['metrics'])}, now {' '.join(settings['metrics'])})")
    else:
        for name, metric in settings["metrics"].items():
            key = key_from_json(metric["key"])
            differences += [f"{name}: {d}" for d in key_from_json(stored["metrics"][name]["key"]).differences(key)]
    for name, model in settings["models"].items():
        if stored["models"].get(name, model) != model:
            differences.append(f"the model {name}")
    if differences:
        raise StylezooError(
            f"{folder} holds an evaluation that differs in {', '.join(differences)}: use the same settings and images"
            " to continue it, or choose another folder."
        )


def key_to_json(key: MetricKey) -> dict[str, Any]:
    """Returns the key of a metric as settings.json has it."""
    return {STORED_IMAGES if name == "images" else name: value for name, value in asdict(key).items()}


def key_from_json(fields: dict[str, Any]) -> MetricKey:
    """Returns the key of a metric from settings.json."""
    fields = {"images" if name == STORED_IMAGES else name: value for name, value in fields.items()}
    return MetricKey(**{**fields, "settings": tuple((name, value) for name, value in fields["settings"])})


def part_path(folder: Path, name: str, rank: int) -> Path:
    """Returns the file to which a process appends the batches of a model, each a line of JSON."""
    return folder / f"{slug(name)}.part{rank}.jsonl"


def results_path(folder: Path, name: str) -> Path | None:
    """Returns the values of a model of which all batches are finished, in either format; None if there are none yet."""
    paths = (folder / f"{slug(name)}.{format}" for format in get_args(TableFormat))
    return next((path for path in paths if path.is_file()), None)


def finished_batches(folder: Path, name: str) -> dict[int, tuple[Path, int]]:
    """Returns where the finished batches of a model are, whichever process wrote them: {batch: (file, offset)}."""
    found = {}
    for path in sorted(folder.glob(f"{slug(name)}.part*.jsonl")):
        for offset, line in _lines(path):
            found[int(json.loads(line)["batch"])] = (path, offset)
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file and their offsets; a killed process may leave an incomplete one."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def drop_torn_line(path: Path) -> None:
    """Cuts off the incomplete line that a killed process has left."""
    if path.is_file():
        os.truncate(path, sum(len(line) for _, line in _lines(path)))


def merge_parts(
    folder: Path, name: str, columns: Sequence[str], pairs: list[Pair], batch_size: int, format: TableFormat = "csv"
) -> None:
    """Sorts the batches of all processes by pair: writes MODEL.csv, and MODEL.npy if there are activations.

    Args:
        folder: Folder of the results.
        name: Name of the model.
        columns: Names of the metrics that have a value per pair.
        pairs: All pairs.
        batch_size: Number of pairs in a batch.
        format: Format of the values.
    """
    places = finished_batches(folder, name)
    results = folder / f"{slug(name)}.{format}"
    numbers = range(math.ceil(len(pairs) / batch_size))
    blocks = (_read_line(places[number]).get("activations") for number in numbers)
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
    lines = (_read_line(places[number])["rows"] for number in numbers)
    rows = ([*pair, *row] for pair, row in zip(pairs, chain.from_iterable(lines), strict=True))
    with replacing(results) as path:
        _write_values(path, ["content", "style", *columns], rows, format)
    for path in {path for path, _ in places.values()}:
        path.unlink()


def _read_line(place: tuple[Path, int]) -> dict[str, Any]:
    """The line of JSON at (file, offset)."""
    path, offset = place
    with path.open("rb") as file:
        file.seek(offset)
        line: dict[str, Any] = json.loads(file.readline())
    return line


def _write_values(path: Path, header: Sequence[str], rows: Iterable[list[Any]], format: TableFormat) -> None:
    """Writes a line per pair: the names of its images, and its values to the last bit."""
    if format == "csv":
        write_rows(path, chain([header], ([*row[:2], *map(repr, row[2:])] for row in rows)))
        return
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    for side in header[:2]:  # strings of Parquet are UTF-8; pairs.csv keeps the names unchanged
        columns[side] = tuple(name.encode(errors="backslashreplace").decode() for name in columns[side])
    pyarrow_module().parquet.write_table(pyarrow_module().table(columns), path)


def _read_values(path: Path) -> dict[str, np.ndarray]:
    """Reads the metrics that `_write_values` has written, {metric: (N,)}."""
    if path.suffix == ".csv":
        header, *rows = read_rows(path)
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    else:
        columns = pyarrow_module().parquet.read_table(path).to_pydict()
    return {name: np.array(values, float) for name, values in columns.items() if name not in ("content", "style")}


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


def scores(folder: str | Path) -> list[Score]:
    """Summarizes a folder of results: the baselines, then all models whose batches are finished.

    Args:
        folder: Folder that `evaluate` has written.

    Raises:
        MissingFileError: If it is not a folder of results.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings is None:
        raise MissingFileError(f"There is no settings.json in {folder}: give a folder that evaluate has written.")
    summary: list[Score] = []
    for model in (IDENTITY_BASELINE, STYLE_COPY_BASELINE, *settings["models"]):
        path = results_path(folder, model)
        if path is not None:
            summary += _scores(path, model, settings)
    return summary


def _scores(path: Path, model: str, settings: dict[str, Any]) -> Iterator[Score]:
    """The scores of one model from its values."""
    columns = _read_values(path)
    names, n = list(columns), len(read_rows(path.with_name("pairs.csv"))) - 1
    values = np.stack([*columns.values()], 1) if columns else np.empty((n, 0))  # FID alone has no values per pair
    ends = dict(zip(names, bootstrap(values, settings["protocol"]["seed"]), strict=True))
    means = dict(zip(names, values.mean(0).tolist(), strict=True))
    for name, metric in settings["metrics"].items():
        key = key_from_json(metric["key"])
        if name in names:
            yield Score(model, MetricValue(means[name], n, key), metric["better"], *ends[name])
            continue
        counts = {**dict(key.settings), "outputs": n, "styles": n}
        key = replace(key, settings=tuple(sorted(counts.items())))
        distance = _fid(path.with_suffix(".npy"), path.with_name(f"{slug(STYLE_COPY_BASELINE)}.npy"))
        if name == "art_fid":
            distance = float(art_fid(means["lpips"], distance))
        yield Score(model, MetricValue(distance, n, key), metric["better"], None, None)


def bootstrap(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> list[list[float]]:
    """Computes 95 % percentile intervals of means by resampling pairs (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: Values (N, M), a column per metric.
        seed: Seed of the resamples, which are the same for all columns.
        resamples: Number of resamples.

    Returns:
        [low, high] for each column.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.stack([values[rng.integers(n, size=n)].mean(0) for _ in range(resamples)])
    ends: list[list[float]] = np.quantile(means, [0.025, 0.975], axis=0).T.tolist()
    return ends


def _fid(outputs: Path, styles: Path, rows: int = 256) -> float:
    """The Fréchet distance between stored activations, read some rows at a time."""
    files = [np.load(path, mmap_mode="r") for path in (outputs, styles)]
    metric = FID(nn.Identity(), files[0].shape[1])  # activations take the place of images
    for start in range(0, len(files[0]), rows):
        metric.update(*(torch.from_numpy(np.array(file[start : start + rows])) for file in files))
    return metric.result().value


def write_summary(folder: Path, summary: list[Score]) -> None:
    """Writes summary.csv, a line per model and metric, and summary.md, a line per model."""
    columns = ["model", "metric", "mean", "low", "high", "n", "better"]
    columns += ["backbone", "sha256", "resize", STORED_IMAGES, "settings"]
    rows = []
    for score in summary:
        key = score.value.key
        ends = ["" if end is None else repr(end) for end in (score.low, score.high)]
        cells = [score.model, key.metric, repr(score.value.value), *ends, str(score.value.n), score.better]
        rows.append([*cells, key.backbone, key.sha256, key.resize, key.images, json.dumps(dict(key.settings))])
    with replacing(folder / "summary.csv") as path:
        write_rows(path, [columns, *rows])
    with replacing(folder / "summary.md") as path:
        path.write_text(as_markdown(folder, summary))


def summary_table(summary: list[Score]) -> list[list[str]]:
    """Returns a heading and a row per model: means with their intervals, to four digits."""
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
    """Returns summary.md: the table, and all settings that its numbers depend on."""
    settings = read_settings(folder)
    assert settings is not None
    protocol = settings["protocol"]
    heading, *rows = summary_table(summary)
    lines = ["\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))]
    contents, styles = (set(names) for names in zip(*read_rows(folder / "pairs.csv")[1:], strict=True))
    lines.append(
        f"{summary[0].value.n} pairs of {len(contents)} contents and {len(styles)} styles, short side"
        f" {protocol['size']}, central crop {protocol['crop']} x {protocol['crop']} pixels, batches of"
        f" {protocol['batch_size']}, {protocol['precision']} on {protocol['device']}, seed {protocol['seed']}."
    )
    lines.append(
        f"*{IDENTITY_BASELINE}* is the identity baseline, whose output is the content itself; *{STYLE_COPY_BASELINE}* is"
        " the style-copy baseline, whose output is the style itself. Content and style metrics have to be read together,"
        " between these two."
    )
    lines.append(
        f"Brackets: 95 % percentile bootstrap over pairs, {RESAMPLES} resamples; metrics that compare sets have none."
        " Pairs share images, so the intervals do not extend to other images."
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
    """Writes a CSV file, the heading first; file names that are not valid UTF-8 are kept byte by byte."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def read_rows(path: Path) -> list[list[str]]:
    """Reads a CSV file that `write_rows` has written, with its heading."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path, unique to the process, that replaces the file once it is completely written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
