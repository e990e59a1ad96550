"""The folder of results that `stylezoo.evaluation` writes: pairs, settings, values per pair, summary.

pairs.csv       the pairs, drawn once by seed and kept
settings.json   the settings that the numbers depend on: sizes, metrics with their networks, models
MODEL.csv       or MODEL.parquet: a line per pair (MODEL.npy: activations for FID); MODEL.part0.jsonl until all are finished
MODEL.failed.json  the pairs on which the model failed, with the reasons; their values are NaN
summary.csv     mean, 95 % interval, median, percentiles, ratios to the reference model, n and key of every metric;
                summary.md shows the same as tables
.lock           is there while an evaluation writes to the folder
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.evaluation.statistics import RESAMPLES, Ratio, Spread, bootstrap, pair_ratios, spread
from stylezoo.evaluation.tables import (
    Pair,
    TableFormat,
    pyarrow_module,
    read_bytes,
    read_pairs,
    read_values,
    write_pairs,
    write_rows,
    write_values,
)
from stylezoo.files import replacing
from stylezoo.metrics import FID, MetricKey, MetricValue, art_fid

FORMAT = "stylezoo-evaluation-1"
STORED_IMAGES = "pictures"
"""What settings.json and summary.csv of this format call ``images``, of the protocol and of metric keys."""

SETS = ("fid", "art_fid")
"""Metrics that compare sets of images and have no values per pair."""

SHIPPED_ENCODER = "vgg19_slim"
"""The network that measures where `vgg19_normalised` is not on this machine."""

__all__ = ["Pair", "TableFormat", "pyarrow_module", "read_pairs", "write_pairs"]

IDENTITY_BASELINE, STYLE_COPY_BASELINE = "content (unchanged)", "style (copied)"
"""Names of the baselines: the output is the content itself, or the style itself."""


@dataclass(frozen=True)
class Score:
    """One cell of the summary: a metric of a model.

    Attributes:
        model: Name of the model or baseline.
        value: Mean over pairs (of metrics that compare sets, the distance), n and key. The key also holds size, crop
            and pairs, so that values of other evaluations refuse to be compared with it.
        better: "lower", "higher" or "near 1".
        low: Lower end of the 95 % interval; None for metrics that compare sets.
        high: Upper end of it.
        spread: Median and percentiles over pairs; None for metrics that compare sets.
        ratio: Ratios to the reference model of the folder; None for metrics that compare sets, for the baselines and the
            reference itself, and where there is no reference.
    """

    model: str
    value: MetricValue
    better: str
    low: float | None
    high: float | None
    spread: Spread | None = None
    ratio: Ratio | None = None


def slug(name: str) -> str:
    """Returns a name with all characters that file names should not have replaced by ``_``.

    >>> slug("content (unchanged)")
    'content_unchanged'
    """
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates a folder of results and keeps other evaluations from writing to it; a folder that stays empty is removed.

    Of several processes of one evaluation the first holds the lock for all.

    Raises:
        StylezooError: If another evaluation writes to the folder, or it cannot be written to.
    """
    if getattr(rank_zero_only, "rank", 0):  # Lightning sets it from the environment
        yield
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StylezooError(
            f"Another evaluation is writing to {folder}: wait until it is done, or choose another folder."
        ) from None
    except OSError as error:
        raise StylezooError(
            f"The results cannot be written to {folder} ({error.strerror or error}): choose another folder."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / ".lock").unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
        lock.release()


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Reads settings.json; returns None if there is none.

    Raises:
        StylezooError: If the file is damaged or has another format.
    """
    path = folder / "settings.json"
    if not path.exists():
        return None
    try:
        settings = json.loads(read_bytes(path))
    except ValueError as error:  # of JSON, and of UTF-8
        if isinstance(error, StylezooError):
            raise
        raise _damaged_settings(path) from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise StylezooError(f"{path} was not written by this version of evaluate: choose another folder.")
    try:
        for metric in settings["metrics"].values():
            key_from_json(metric["key"])
            metric["better"]
        settings["protocol"]["seed"], settings["protocol"][STORED_IMAGES], dict(settings["models"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged_settings(path) from error
    return settings


def _damaged_settings(path: Path) -> StylezooError:
    return StylezooError(
        f"{path} is damaged: choose another folder, or delete {path.parent} to measure everything again."
    )


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes settings.json."""
    with replacing(folder / "settings.json") as file:
        file.write((json.dumps(settings, indent=2) + "\n").encode())


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
        f"{'images' if name == STORED_IMAGES else name} ({before.get(name)}, now {now[name]})"
        for name in now
        if before.get(name) != now[name]
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


def failures_path(folder: Path, name: str) -> Path:
    """Returns the file that names the pairs on which a model failed."""
    return folder / f"{slug(name)}.failed.json"


def finished_batches(folder: Path, name: str) -> dict[int, tuple[Path, int]]:
    """Returns where the finished batches of a model are, whichever process wrote them: {batch: (file, offset)}.

    A damaged line counts as not written: its batch is measured again.
    """
    found = {}
    for path in sorted(folder.glob(f"{slug(name)}.part*.jsonl")):
        for offset, line in _lines(path):
            batch = _parse_line(line)
            if batch is not None:
                found[int(batch["batch"])] = (path, offset)
    return found


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """A line of a part as a batch; None if it is damaged."""
    try:
        batch = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(batch, dict) and isinstance(batch.get("batch"), int) and isinstance(batch.get("rows"), list)
    return batch if whole else None


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

    Raises:
        StylezooError: If the model failed on every pair; its batches are removed, so that the next run tries again.
    """
    places = finished_batches(folder, name)
    numbers = range(math.ceil(len(pairs) / batch_size))
    failed = {
        batch_size * number + int(index): reason
        for number in numbers
        for index, reason in _read_line(places[number]).get("failed", {}).items()
    }
    parts = {path for path, _ in places.values()}
    if len(failed) == len(pairs):
        for path in parts:
            path.unlink()
        raise StylezooError(f"{name} failed on all {len(pairs)} pairs: {failed[0]}.")
    results = folder / f"{slug(name)}.{format}"
    _merge_activations(results.with_suffix(".npy"), [places[number] for number in numbers], len(pairs))
    lines = (_read_line(places[number])["rows"] for number in numbers)
    rows = ([*pair, *row] for pair, row in zip(pairs, (row for line in lines for row in line), strict=True))
    _write_failures(folder, name, pairs, failed)
    write_values(results, columns, rows)
    for path in parts:
        path.unlink()


def _merge_activations(target: Path, places: list[tuple[Path, int]], count: int) -> None:
    """Writes the activations of all pairs as (count, D); those of failed pairs are NaN."""
    blocks = (_read_line(place) for place in places)
    sizes = (
        len(base64.b64decode(block["activations"])) // 4 // (len(block["rows"]) - len(block.get("failed", {})))
        for block in blocks
        if block.get("activations")
    )
    dimensions = next(sizes, None)
    if dimensions is None:
        return
    with replacing(target) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimensions)}
        np.lib.format.write_array_header_1_0(file, header)
        for place in places:
            block = _read_line(place)
            rows = np.full((len(block["rows"]), dimensions), np.nan, np.float32)
            measured = [index for index in range(len(rows)) if str(index) not in block.get("failed", {})]
            data = np.frombuffer(base64.b64decode(block.get("activations", "")), np.float32)
            rows[measured] = data.reshape(-1, dimensions)
            file.write(rows.tobytes())


def _write_failures(folder: Path, name: str, pairs: list[Pair], failed: Mapping[int, str]) -> None:
    """Writes the pairs on which a model failed, or removes the file of an earlier run if there are none."""
    path = failures_path(folder, name)
    if not failed:
        path.unlink(missing_ok=True)
        return
    entries = [{"content": pairs[i][0], "style": pairs[i][1], "reason": failed[i]} for i in sorted(failed)]
    with replacing(path) as file:
        file.write((json.dumps(entries, indent=2) + "\n").encode())


def read_failures(folder: Path, name: str) -> list[dict[str, str]]:
    """Returns content, style and reason of each pair on which a model failed."""
    path = failures_path(folder, name)
    if not path.exists():
        return []
    try:
        return [
            {key: str(entry[key]) for key in ("content", "style", "reason")} for entry in json.loads(read_bytes(path))
        ]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, StylezooError):
            raise
        raise StylezooError(
            f"{path} is damaged: delete it and the other files of {name}, and the same command measures {name} again."
        ) from error


def _read_line(place: tuple[Path, int]) -> dict[str, Any]:
    """The line of JSON at (file, offset)."""
    path, offset = place
    with path.open("rb") as file:
        file.seek(offset)
        line: dict[str, Any] = json.loads(file.readline())
    return line


def check_results(folder: Path, settings: dict[str, Any]) -> None:
    """Checks the finished tables of a folder.

    Raises:
        StylezooError: If one is damaged; the message says what to do.
    """
    for path in _finished(folder, settings).values():
        _activations(path, settings, len(_values(path, settings)))


def _values(path: Path, settings: dict[str, Any]) -> np.ndarray:
    """The values of a model, (pairs, metrics that have values per pair)."""
    columns = [name for name in settings["metrics"] if name not in SETS]
    return read_values(path, columns, read_pairs(path.parent))


def _activations(path: Path, settings: dict[str, Any], count: int) -> np.ndarray | None:
    """The activations of the model with these values, (pairs, D); None if no metric needs any."""
    if not set(settings["metrics"]) & {*SETS}:
        return None
    path = path.with_suffix(".npy")
    try:
        activations: np.ndarray = np.load(path, mmap_mode="r")
        if activations.ndim == 2 and len(activations) == count:
            return activations
    except (OSError, ValueError, EOFError):
        pass
    raise StylezooError(
        f"{path} is damaged or missing: delete the files of {path.stem}, and the same command measures it again."
    )


def scores(folder: str | Path) -> list[Score]:
    """Summarizes a folder of results: the baselines, then all models whose batches are finished.

    Medians and percentiles are those of the stored values per pair, whatever version has written them. Ratios are to the
    model that settings.json calls ``reference``.

    Args:
        folder: Folder that `evaluate` has written.

    Raises:
        MissingFileError: If it is not a folder of results.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings is None:
        raise MissingFileError(f"There is no settings.json in {folder}: give a folder that evaluate has written.")
    finished = _finished(folder, settings)
    reference = settings.get("reference")
    divisor = _values(finished[reference], settings) if reference in finished else None
    found: list[Score] = []
    for model, path in finished.items():
        is_compared = divisor is not None and model in settings["models"] and model != reference
        found += _scores(path, model, settings, divisor if is_compared else None)
    return found


def _scores(path: Path, model: str, settings: dict[str, Any], reference: np.ndarray | None) -> Iterator[Score]:
    """The scores of one model from its values, with ratios to the values of a reference if there are any."""
    values, seed = _values(path, settings), settings["protocol"]["seed"]
    names = [name for name in settings["metrics"] if name not in SETS]
    finite = np.isfinite(values)
    if finite.all():  # the same resamples for all metrics
        means, ends, counts = values.mean(0).tolist(), bootstrap(values, seed), [len(values)] * len(names)
    else:
        kept = [column[mask] for column, mask in zip(values.T, finite.T, strict=True)]
        means = [float(column.mean()) if len(column) else math.nan for column in kept]
        ends = [bootstrap(column[:, None], seed)[0] if len(column) else [math.nan] * 2 for column in kept]
        counts = [len(column) for column in kept]
    for name, metric in settings["metrics"].items():
        key = key_from_json(metric["key"])
        if name in names:
            at = names.index(name)
            value, column = MetricValue(means[at], counts[at], key), values[:, at]
            ratio = None if reference is None else pair_ratios(column, reference[:, at], settings["reference"])
            low, high = ends[at]
            yield Score(model, value, metric["better"], low, high, spread(column), ratio)
            continue
        styles = path.with_name(f"{slug(STYLE_COPY_BASELINE)}{path.suffix}")
        distance, n = _fid(*[_activations(file, settings, len(values)) for file in (path, styles)])
        key = replace(key, settings=tuple(sorted({**dict(key.settings), "outputs": n, "styles": n}.items())))
        if name == "art_fid":
            distance = float(art_fid(means[names.index("lpips")], distance))
        yield Score(model, MetricValue(distance, n, key), metric["better"], None, None)


def _fid(*files: np.ndarray | None, rows: int = 256) -> tuple[float, int]:
    """The Fréchet distance between the stored activations of outputs and styles, read some rows at a time, and the number
    of pairs that have any."""
    outputs, styles = files
    assert outputs is not None and styles is not None
    metric = FID(nn.Identity(), outputs.shape[1])  # activations take the place of images
    count = 0
    for start in range(0, len(outputs), rows):
        parts = [torch.from_numpy(np.array(file[start : start + rows])) for file in (outputs, styles)]
        measured = torch.isfinite(parts[0]).all(1) & torch.isfinite(parts[1]).all(1)
        count += int(measured.sum())
        if measured.any():
            metric.update(*(part[measured] for part in parts))
    return (metric.result().value if count > 1 else math.nan), count


def remarks(folder: Path) -> list[str]:
    """Returns the sentences that a reader of the summary must know: which network measured, and what was left out.

    Args:
        folder: Folder that `evaluate` has written.
    """
    settings = read_settings(folder)
    assert settings is not None
    said = []
    if any(metric["key"]["backbone"] == SHIPPED_ENCODER for metric in settings["metrics"].values()):
        said.append(
            f"The losses are measured with {SHIPPED_ENCODER}, the encoder that ships with the package; values that were"
            " measured with another network, such as vgg19_normalised, do not compare with them."
        )
    return [*said, *left_out(folder), *_undefined(folder, settings)]


def left_out(folder: Path) -> list[str]:
    """Returns a sentence on the images that were skipped, and one for each model that failed on some pairs."""
    settings = read_settings(folder)
    assert settings is not None
    skipped = settings.get("skipped", [])
    said = [f"Left out because they cannot be used: {_listed(skipped)}."] if skipped else []
    for model in _finished(folder, settings):
        failed = read_failures(folder, model)
        if failed:
            entries = [f"{entry['content']} in the style of {entry['style']} ({entry['reason']})" for entry in failed]
            said.append(
                f"{model} failed on {len(failed)} of {len(read_pairs(folder))} pairs, which its means leave out, so that"
                f" they do not quite compare with those of the others: {_listed(entries)}."
            )
    return said


def _undefined(folder: Path, settings: dict[str, Any]) -> Iterator[str]:
    """A sentence for each metric of a model that is not defined for some of the pairs that did not fail."""
    names = [name for name in settings["metrics"] if name not in SETS]
    for model, path in _finished(folder, settings).items():
        values = _values(path, settings)
        undefined = (~np.isfinite(values)).sum(0) - len(read_failures(folder, model))
        for name, count in zip(names, undefined.tolist(), strict=True):
            if count > 0:
                yield (
                    f"{name} of {model} is not defined for {count} of {len(values)} pairs (images of one color, for"
                    " example), which its mean leaves out."
                )


def _finished(folder: Path, settings: dict[str, Any]) -> dict[str, Path]:
    """The baselines and models whose batches are finished, with their tables."""
    paths = {m: results_path(folder, m) for m in (IDENTITY_BASELINE, STYLE_COPY_BASELINE, *settings["models"])}
    return {model: path for model, path in paths.items() if path is not None}


def _listed(entries: Sequence[str], most: int = 5) -> str:
    """The first entries, and how many more there are."""
    more = f"; and {len(entries) - most} more" if len(entries) > most else ""
    return "; ".join(entries[:most]) + more


def write_summary(folder: Path, summary: list[Score]) -> None:
    """Writes summary.csv, a line per model and metric, and summary.md, a line per model."""
    columns = ["model", "metric", "mean", "low", "high", "n", "better"]
    columns += ["backbone", "sha256", "resize", STORED_IMAGES, "settings", "median", "p10", "p90"]
    columns += ["reference", "ratio_median", "ratio_p10", "ratio_p90", "ratio_of_means", "ratio_n"]
    rows = []
    for score in summary:
        key, spread, ratio = score.value.key, score.spread, score.ratio
        ends = ["" if end is None else repr(end) for end in (score.low, score.high)]
        cells = [score.model, key.metric, repr(score.value.value), *ends, str(score.value.n), score.better]
        cells += [key.backbone, key.sha256, key.resize, key.images, json.dumps(dict(key.settings))]
        cells += _percentiles(spread)
        if ratio is None:
            cells += [""] * 6
        else:
            cells += [ratio.reference, *_percentiles(ratio.spread), repr(ratio.of_means), str(ratio.spread.n)]
        rows.append(cells)
    write_rows(folder / "summary.csv", [columns, *rows])
    with replacing(folder / "summary.md") as file:
        file.write(as_markdown(folder, summary).encode("utf-8", "surrogateescape"))


def _percentiles(spread: Spread | None) -> list[str]:
    """Median, 10th and 90th percentile as summary.csv has them."""
    return [""] * 3 if spread is None else [repr(value) for value in (spread.median, spread.p10, spread.p90)]


ARROWS = {"lower": "↓", "higher": "↑", "near 1": "→1"}
"""Signs behind the names of metrics: which values are better."""


def _table(summary: list[Score], cell: Callable[[Score], str]) -> list[list[str]]:
    """A heading and a row per model, with a cell for each metric."""
    metrics = {score.value.key.metric: score.better for score in summary}
    rows = [["model", *(f"{name} {ARROWS[better]}" for name, better in metrics.items())]]
    for model, group in groupby(summary, key=lambda score: score.model):
        rows.append([model, *map(cell, group)])
    return rows


def summary_table(summary: list[Score]) -> list[list[str]]:
    """Returns a heading and a row per model: means with their intervals, to four digits."""

    def cell(score: Score) -> str:
        ends = "" if score.low is None else f" [{score.low:.4g}, {score.high:.4g}]"
        return f"{score.value.value:.4g}{ends}" if math.isfinite(score.value.value) else "not defined"

    return _table(summary, cell)


def medians_table(summary: list[Score]) -> list[list[str]]:
    """Returns a heading and a row per model: medians with 10th and 90th percentiles, of metrics that have values per pair."""
    return _table([score for score in summary if score.spread is not None], lambda score: shown_spread(score.spread))


def ratios_table(summary: list[Score]) -> list[list[str]]:
    """Returns a heading and a row per model that has ratios to the reference; nothing if none has."""

    def cell(score: Score) -> str:
        assert score.ratio is not None
        shown = shown_spread(score.ratio.spread)
        return f"{shown} ({score.ratio.of_means:.4g})" if score.ratio.spread.n else shown

    compared = [score for score in summary if score.ratio is not None]
    return _table(compared, cell) if compared else []


def shown_spread(spread: Spread | None) -> str:
    """Returns a median with its percentiles, to four digits."""
    if spread is None or not spread.n:
        return "not defined"
    return f"{spread.median:.4g} [{spread.p10:.4g}, {spread.p90:.4g}]"


def tables(summary: list[Score]) -> list[tuple[str, list[list[str]]]]:
    """Returns the tables of a summary, each with its caption: means, medians, and ratios if there is a reference."""
    found = [
        ("Means over pairs, in brackets 95 % intervals", summary_table(summary)),
        ("Medians over pairs, in brackets the 10th and 90th percentile", medians_table(summary)),
    ]
    reference = next((score.ratio.reference for score in summary if score.ratio is not None), None)
    if reference is not None:
        caption = (
            f"Values divided by those of {reference}, pair by pair: median, in brackets the 10th and 90th percentile, in"
            " parentheses the ratio of means"
        )
        found.append((caption, ratios_table(summary)))
    return [(caption, table) for caption, table in found if len(table[0]) > 1]


def as_markdown(folder: Path, summary: list[Score]) -> str:
    """Returns summary.md: the table, and all settings that its numbers depend on."""
    settings = read_settings(folder)
    assert settings is not None
    protocol = settings["protocol"]
    lines = []
    for caption, (heading, *rows) in tables(summary):
        lines.append(f"{caption}:")
        lines.append("\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)))
    pairs = read_pairs(folder)
    contents, styles = (set(names) for names in zip(*pairs, strict=True))
    split = f" of the splits {' and '.join(protocol['split'])}" if protocol.get("split") else ""
    lines.append(
        f"{len(pairs)} pairs of {len(contents)} contents and {len(styles)} styles{split}, short side"
        f" {protocol['size']}, central crop {protocol['crop']} x {protocol['crop']} pixels, batches of"
        f" {protocol['batch_size']}, {protocol['precision']} on {protocol['device']}, seed {protocol['seed']}."
    )
    lines.append(
        f"*{IDENTITY_BASELINE}* is the identity baseline, whose output is the content itself; *{STYLE_COPY_BASELINE}* is"
        " the style-copy baseline, whose output is the style itself. Content and style metrics have to be read together,"
        " between these two."
    )
    lines.append(
        f"Intervals: 95 % percentile bootstrap over pairs, {RESAMPLES} resamples; metrics that compare sets have none, and no"
        " medians. Pairs share images, so the intervals do not extend to other images."
    )
    lines += remarks(folder)
    keys = {score.value.key.metric: score.value.key for score in summary}
    lines.append(
        "\n".join(
            f"- {name}: {key.backbone} {key.sha256[:12]}, {key.resize}, "
            + ", ".join(f"{setting} {value}" for setting, value in key.settings)
            for name, key in keys.items()
        )
    )
    return "\n\n".join(lines) + "\n"
