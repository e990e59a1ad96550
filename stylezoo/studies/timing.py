"""Components of speed tables: the times of all systems from one run on one machine, beside a paper's numbers."""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from stylezoo import registry
from stylezoo.checkpoints import load_model, save_model
from stylezoo.module import StyleModel
from stylezoo.studies.base import Provenance, StudyResult, new_figure, published
from stylezoo.studies.material import Material, device, encoder_by_its_name
from stylezoo.studies.verdicts import Row, Value
from stylezoo.vgg import random_weights

Numbers = Mapping[int, float]
"""{side of the images in pixels: published value}."""

Sample = tuple[float, float]
"""Seconds to encode the style and to decode; of systems that optimize, for the preparation and for one iteration."""


T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """A method of a speed table.

    Attributes:
        label: The paper's name for it.
        system: Its name in the zoo; None for a method that the zoo does not have.
        settings: Constructor arguments that differ from the defaults.
        iterations: Iterations per image of systems that optimize.
        times: Published times in the paper's unit, without the encoding of the style.
        times_with_encoding: Published times with the encoding of the style.
        megabytes: Published size of the file in 10^6 bytes.
    """

    label: str
    system: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    iterations: int = 500
    times: Numbers = field(default_factory=dict)
    times_with_encoding: Numbers = field(default_factory=dict)
    megabytes: float | None = None

    @property
    def key(self) -> str:
        """A key that methods with the same system and settings share, which are measured once."""
        return f"{self.system} {sorted(self.settings.items())}"


@dataclass(frozen=True)
class Paper:
    """The published side of a speed table.

    Attributes:
        methods: The methods, in the paper's order.
        baseline: Label of the method whose time is 1 in the columns of ratios.
        machine: The machine that the published times were measured on.
        provenance: Provenance of all published numbers.
        sizes: Sides of the square images, in pixels.
        unit: Unit of the published times: seconds per image, or images per second.
    """

    methods: Sequence[Method]
    baseline: str
    machine: str = ""
    provenance: Provenance = "from memory"
    sizes: tuple[int, ...] = (256, 512)
    unit: Literal["s", "fps"] = "s"


@dataclass(frozen=True)
class SpeedSetup:
    """Systems and images of a speed table.

    Attributes:
        models: Systems or model files to measure beside the baseline, instead of all systems.
        size: Side of the images, instead of the paper's.
        images: Rounds of one image per method, of which the median counts.
    """

    models: tuple[str, ...] = ()
    size: int | None = None
    images: int = 5


def speed_table(paper: Paper, setup: SpeedSetup) -> StudyResult:
    """Measures the methods of a paper's table, and below them all systems that the table lacks.

    Systems are untrained, because times do not depend on weights.

    Args:
        paper: The published side.
        setup: The systems and images.
    """
    size, rounds = setup.size, setup.images
    sizes = paper.sizes if size is None else (size,)
    methods, contenders = _contenders(paper, setup.models)
    load = os.getloadavg()[0]
    samples = measure(contenders, sizes, rounds)
    facts = {key: (model.kind, *footprint(model)) for key, model in contenders.items()}
    rows = [row for side in sizes for row in _rows(paper, methods, facts, samples, side)]
    single: list[Row] = [
        {"model": key.removesuffix(" []"), "size": side, "round": number + 1, "encode, s": encode, "paint, s": decode}
        for (key, side), values in samples.items()
        for number, (encode, decode) in enumerate(values)
    ]
    return StudyResult(rows, _notes(paper, rows, rounds, load), {"": _figure(paper, rows, sizes)}, {"rounds": single})


def _contenders(paper: Paper, models: Sequence[str]) -> tuple[list[Method], dict[str, StyleModel]]:
    """Returns the methods of the table, and the models to measure by the methods' keys."""
    files = [name for name in models if name not in registry.systems()]
    chosen = [name for name in models if name not in files] if models else registry.list_models()
    listed = {method.key for method in paper.methods}
    others = (Method(name, name, _defaults(name)) for name in chosen)
    methods = [*paper.methods, *(method for method in others if method.key not in listed)]
    measured = [m for m in methods if m.system is not None and (m.system in chosen or m.label == paper.baseline)]
    loaded = {file: load_model(file).to(device()) for file in files}
    contenders = untrained(measured)
    for file, model in loaded.items():
        label = Path(file).name.removesuffix(".safetensors").removesuffix(".ckpt")
        label = file if label in {method.label for method in methods} else label
        methods.append(Method(label, file))
        contenders[methods[-1].key] = model
    return methods, contenders


def _defaults(system: str) -> dict[str, Any]:
    """Systems that optimize work at one scale only, as the papers' baselines do."""
    return {"min_scale": None} if "min_scale" in inspect.signature(registry.get(system)).parameters else {}


def untrained(methods: Sequence[Method]) -> dict[str, StyleModel]:
    """Creates the systems of some methods with random weights, {key: model}, in eval mode."""
    models: dict[str, StyleModel] = {}
    with TemporaryDirectory() as folder:
        encoder = f"{folder}/encoder.safetensors"
        save_file(random_weights(19), encoder)
        for method in methods:
            assert method.system is not None
            arguments = inspect.signature(registry.get(method.system)).parameters
            settings = {"encoder_weights": encoder, "style_names": ["style"], "iterations": 3} | dict(method.settings)
            if method.key not in models:
                settings = encoder_by_its_name(method.system, settings)
                settings = {name: value for name, value in settings.items() if name in arguments}
                models[method.key] = Material().untrained(method.system, **settings).to(device()).eval()
    return models


def measure(models: Mapping[str, StyleModel], sizes: Sequence[int], rounds: int) -> dict[tuple[str, int], list[Sample]]:
    """Times one image of every model in turn, see `interleaved`.

    Args:
        models: {name: model}, in eval mode.
        sizes: Sides of content and style in pixels.
        rounds: Number of rounds that count; one more round precedes them.

    Returns:
        {(name, size): samples}.
    """
    samples: dict[tuple[str, int], list[Sample]] = {}
    for size in sizes:
        print(f"{len(models)} models, {size} x {size} pixels, {rounds} rounds after one to warm up")
        content, style = torch.rand(2, 1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device())
        tasks = {name: partial(time_once, model, content, style) for name, model in models.items()}
        samples |= {(name, size): values for name, values in interleaved(tasks, rounds).items()}
    return samples


def interleaved(tasks: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Runs all tasks in turn, round by round, so that other load on the machine affects all of them alike.

    One round to warm up precedes those that count. Every other round is in reversed order, so that no task always follows
    the same one, whose data it would find in the caches.

    Args:
        tasks: Functions by name.
        rounds: Number of rounds that count.

    Returns:
        What the functions returned, by name.
    """
    results: dict[str, list[T]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name in reversed(list(tasks)) if number % 2 else list(tasks):
            result = tasks[name]()
            if number > 0:
                results[name].append(result)
    return results


@torch.inference_mode()
def time_once(model: StyleModel, content: Tensor, style: Tensor) -> Sample:
    """Stylizes one image and returns the times; content and style are (1, 3, H, W) in [0, 1]."""
    stamps: list[float] = []
    start = now(model.device)
    code = model.encode_style(model.example_styles(style)[0])
    encoded = now(model.device)
    if model.kind == "optimization":
        model.on_iteration = lambda _: stamps.append(now(model.device))
    try:
        model.decode(content, code)
    finally:
        model.on_iteration = None
    end = now(model.device)
    if not stamps:
        return encoded - start, end - encoded
    iteration = (stamps[-1] - stamps[0]) / (len(stamps) - 1)  # the first one brings its allocations
    return max(0.0, end - start - len(stamps) * iteration), iteration


def now(on: torch.device) -> float:
    """Returns the time in seconds at which a device has finished what it was given."""
    if on.type == "cuda":
        torch.cuda.synchronize(on)
    return time.perf_counter()


def footprint(model: StyleModel) -> tuple[int, float | None]:
    """Returns the number of parameters, those of the encoder included, and the size of the file in 10^6 bytes.

    Systems that optimize have no file: their size is None.
    """
    parameters = sum(p.numel() for p in model.parameters())
    if model.kind == "optimization":
        return parameters, None
    with TemporaryDirectory() as folder:
        save_model(model, f"{folder}/model.safetensors")
        return parameters, os.path.getsize(f"{folder}/model.safetensors") / 1e6


def machine() -> str:
    """Returns the name of the processor that studies compute on, and the version of torch."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}"


def processor() -> str:
    """Returns the name of the CPU."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else name
    return name


def _rows(
    paper: Paper,
    methods: Sequence[Method],
    facts: Mapping[str, tuple[str, int, float | None]],
    samples: Mapping[tuple[str, int], Sequence[Sample]],
    size: int,
) -> list[Row]:
    (baseline,) = (method for method in methods if method.label == paper.baseline)

    def seconds(method: Method, encoding: bool) -> float | None:
        if method.key not in facts:
            return None
        iterations = method.iterations if facts[method.key][0] == "optimization" else 1
        return median(encode * encoding + iterations * decode for encode, decode in samples[method.key, size])

    def printed(method: Method, encoding: bool) -> float | None:
        value = (method.times_with_encoding if encoding else method.times).get(size)
        return None if value is None else (value if paper.unit == "s" else 1 / value)

    def column(name: str) -> str:
        return published(name, paper.provenance)

    rows: list[Row] = []
    for method in methods:
        ours = [seconds(method, encoding) for encoding in (False, True)]
        theirs = [printed(method, encoding) for encoding in (False, True)]
        ours_1 = [seconds(baseline, encoding) for encoding in (False, True)]
        theirs_1 = [printed(baseline, encoding) for encoding in (False, True)]
        kind, parameters, megabytes = facts.get(method.key, (None, None, None))
        row: Row = {
            "method": method.label,
            "system": method.system,
            "kind": kind,
            "size": size,
            "ms": _times(ours[0], 1000),
            "ms with style encoding": _times(ours[1], 1000),
            f"ratio to {paper.baseline}": _over(ours[0], ours_1[0]),
            f"ratio to {paper.baseline} with encoding": _over(ours[1], ours_1[1]),
        }
        if any(other.times for other in paper.methods):
            row[column(f"ratio to {paper.baseline}")] = _over(theirs[0], theirs_1[0])
            row[column(f"{paper.unit} on {paper.machine}")] = method.times.get(size)
        if any(other.times_with_encoding for other in paper.methods):
            row[column(f"ratio to {paper.baseline} with encoding")] = _over(theirs[1], theirs_1[1])
            row[column(f"{paper.unit} with encoding on {paper.machine}")] = method.times_with_encoding.get(size)
        row |= {"parameters": parameters, "MB": megabytes}
        if any(other.megabytes for other in paper.methods):
            row[column("MB")] = method.megabytes
        rows.append(row)
    return rows


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _over(value: float | None, one: float | None) -> float | None:
    return None if value is None or one is None else value / one


def _notes(paper: Paper, rows: Sequence[Row], rounds: int, load: float) -> list[str]:
    ours, theirs = f"ratio to {paper.baseline}", published(f"ratio to {paper.baseline}", paper.provenance)
    measured = (
        f"**Measured here:** {machine()}; load average {load:.1f} before the run. Medians of {rounds} interleaved"
        " rounds after one to warm up, one image at a time, float32, eager, in inference mode. Untrained weights: times"
        " do not depend on them. The time without style encoding is that of a style that was encoded before."
    )
    notes = [measured]
    if any(row["kind"] == "optimization" for row in rows):
        notes.append(
            "Systems that optimize were timed over two iterations after one to warm up, and the mean was multiplied by the"
            " number of iterations; L-BFGS costs a little more later, when its history is full. Their style encoding is"
            " everything that precedes the iterations."
        )
    compared = [
        f"{row['method']} at {row['size']}: {_short(row[ours])} (paper {_short(row[theirs])})"
        for row in rows
        if row["method"] != paper.baseline and row[ours] is not None and row.get(theirs) is not None
    ]
    if compared:
        notes.append(f"Time over that of {paper.baseline}, here and in the paper. {'; '.join(compared)}.")
    if theirs in rows[0]:
        doubt = (
            ""
            if paper.provenance == "found"
            else " They are from memory, not read at the source: check before quoting."
        )
        notes.append(
            f"Published numbers were measured on {paper.machine} with other software: their ratios may be compared with"
            f" ours, their times may not.{doubt}"
        )
    return notes


def _short(ratio: Value) -> str:
    assert isinstance(ratio, (int, float))
    return f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


def _figure(paper: Paper, rows: Sequence[Row], sizes: Sequence[int]) -> Any:
    ours, theirs = f"ratio to {paper.baseline}", published(f"ratio to {paper.baseline}", paper.provenance)
    labels = list(dict.fromkeys(str(row["method"]) for row in rows))
    figure = new_figure(2 + 4 * len(sizes), 1.4 + 0.4 * len(labels))
    for axis, size in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
        chosen = {str(row["method"]): row for row in rows if row["size"] == size}
        for column, marker, height, name in ((ours, "o", 7, "here"), (theirs, "D", -11, "paper")):
            values: dict[int, Value] = {i: chosen[label].get(column) for i, label in enumerate(labels)}
            places = {i: float(value) for i, value in values.items() if isinstance(value, float)}
            if places:
                axis.plot(list(places.values()), list(places), marker, label=name, alpha=0.8)
            for place, value in places.items():
                at = {"xytext": (0, height), "textcoords": "offset points", "ha": "center", "fontsize": 6}
                axis.annotate(_short(value), (value, place), **at)
        axis.axvline(1, color="gray", linewidth=0.8)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.grid(axis="y", linewidth=0.3)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(f"{size} x {size} pixels", fontsize=10)
        axis.set_xlabel(f"time over that of {paper.baseline}")
    figure.axes[0].invert_yaxis()
    figure.axes[0].legend(fontsize=8)
    return figure
