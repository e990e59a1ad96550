"""Which engine is fastest for a model on this machine: measured once, and remembered in the cache folder.

`choose_engine` is what ``engine="auto"`` means. It never measures for a job that is too short to pay for that: a few
images are stylized with the engine that needs no preparation, or with what an earlier measurement recommends for so little
work. `measure_engines` measures, for ``python -m stylezoo tune`` and for long jobs.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylezoo.download import cache_folder
from stylezoo.errors import unknown_name
from stylezoo.files import replacing
from stylezoo.inference.engines import ENGINES, TOLERANCE, Engine, EngineError, WinogradEngine, create_engine
from stylezoo.inference.winograd import Layer, LayerTimer
from stylezoo.module import StyleModel

SIDE = 256
"""Side in pixels of the image that is measured."""

ROUNDS = 3
"""Number of images of which the fastest counts."""

SHORTEST = 16.0
"""Megapixels from which a job may pay for a measurement: 64 images of 512 x 512 pixels."""

GAIN = 0.3
"""Share of the time that the fastest engine is expected to save, where nothing has been measured."""

PREPARATION = {"compiled": 40.0, "openvino": 8.0, "onnxruntime": 6.0}
"""Seconds that it takes at least to prepare and measure an engine; 2 for others."""

NARROW = 64
"""Channels of the widest layer up to which channels_last is expected to be faster than winograd."""

SLOWEST_PRODUCT = 1.2
"""Largest time of a matrix product in bfloat16, relative to float32, with which the engine bfloat16 is worth a measurement."""


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        megapixels: Of all contents.
        shapes: Number of different sizes, each of which some engines prepare for.
    """

    megapixels: float = 0.25
    shapes: int = 1


@dataclass(frozen=True)
class Timing:
    """What an engine takes.

    Attributes:
        preparation: Seconds before the first image of a size; 0 for engines that do not prepare.
        seconds: Seconds per megapixel.
    """

    preparation: float
    seconds: float

    def total(self, work: Work) -> float:
        """Returns the seconds for a job."""
        return self.preparation * work.shapes + self.seconds * work.megapixels


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model on a machine.

    Attributes:
        timings: By engine.
        obstacles: {engine: why it cannot run the model here}, in words that follow a colon.
        layers: What the engine winograd knows of the model's convolutions.
    """

    timings: Mapping[str, Timing]
    obstacles: Mapping[str, str]
    layers: Mapping[Layer, bool]


def choose_engine(model: StyleModel, work: Work | None = None, tell: Callable[[str], None] | None = None) -> Engine:
    """Returns the engine with which a job is done soonest, as far as is known.

    What an earlier measurement says is used in any case. Without one, the engine is `default_engine`, unless the job is
    long enough to pay for a measurement.

    Args:
        model: In eval mode, on its device.
        work: The job; None stands for a single small image.
        tell: Called with a line that says that engines are measured, as this takes a while.
    """
    work = work or Work()
    default = default_engine(model)
    known = read_measurement(model)
    if known is None and default.name != "eager" and work.megapixels >= SHORTEST:
        names = candidates(model)
        seconds = measured(default, *example(model)).seconds
        if pays(work, seconds, names):
            if tell is not None:
                tell(f"measuring {', '.join(names)} for {model.tag or model.system} once")
            known = measure_engines(model, names)
    if known is None:
        return default
    possible = {name: timing for name, timing in known.timings.items() if ENGINES[name].obstacle(model) is None}
    name = fastest(possible, work) or default.name
    if name == "winograd":
        return WinogradEngine(model, known.layers)
    return default if name == default.name else create_engine(name, model)


def default_engine(model: StyleModel) -> Engine:
    """Returns the engine for a model of which nothing was measured: on CPUs winograd, or channels_last if it is narrow."""
    if WinogradEngine.obstacle(model):
        return create_engine("eager", model)
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return create_engine("channels_last" if max(widths, default=0) <= NARROW else "winograd", model)


def fastest(timings: Mapping[str, Timing], work: Work) -> str | None:
    """Returns the name of the engine that takes least time for a job; None if there is none.

    >>> known = {"winograd": Timing(0.0, 4.0), "openvino": Timing(3.0, 2.5)}
    >>> fastest(known, Work(0.3)), fastest(known, Work(10.0)), fastest(known, Work(10.0, shapes=10))
    ('winograd', 'openvino', 'winograd')
    """
    return min(timings, key=lambda name: timings[name].total(work), default=None)


def pays(work: Work, seconds: float, names: Iterable[str]) -> bool:
    """Whether a job is expected to be done sooner if engines are measured first.

    >>> pays(Work(20.0), 4.0, ["winograd", "openvino"]), pays(Work(3.0), 4.0, ["winograd", "openvino"])
    (True, False)

    Args:
        work: The job.
        seconds: Seconds per megapixel without a measurement.
        names: The engines to measure.
    """
    return work.megapixels >= SHORTEST and GAIN * seconds * work.megapixels > sum(
        PREPARATION.get(n, 2.0) for n in names
    )


def candidates(model: StyleModel) -> list[str]:
    """Returns the engines that could run a model here, without torch.compile, which takes a minute, on CPUs."""
    names = [name for name, engine in ENGINES.items() if engine.obstacle(model) is None]
    return [name for name in names if name != "compiled" or model.device.type == "cuda"]


def check_names(names: Sequence[str] | None) -> list[str] | None:
    """Returns the names of engines, eager first, with which the others are compared; None for all.

    Raises:
        StylezooError: If there is no engine of a name.
    """
    for name in names or []:
        if name not in ENGINES:
            raise unknown_name("There is no engine", name, ENGINES, "the engines are")
    return None if names is None else list(dict.fromkeys(["eager", *names]))


def measure_engines(model: StyleModel, names: Iterable[str] | None = None) -> Measurement:
    """Measures engines with an image of 256 x 256 pixels, and remembers the result for this model on this machine.

    An engine whose outputs are not those of eager, up to `stylezoo.inference.engines.TOLERANCE`, is left out. So is bfloat16
    where a matrix product shows that the processor has no units for it.

    Args:
        model: In eval mode, on its device.
        names: Names of engines; None measures `candidates`.
    """
    content, style = example(model)
    expected = Engine(model).decode(content, [Engine(model).encode_style(style)])
    timings: dict[str, Timing] = {}
    obstacles = {name: reason for name, engine in ENGINES.items() if (reason := engine.obstacle(model)) is not None}
    layers: Mapping[Layer, bool] = {}
    for name in candidates(model) if names is None else names:
        if name == "bfloat16" and not has_fast_bfloat16():
            obstacles[name] = "bfloat16 is slower than float32 on this processor"
            continue
        try:
            if name == "winograd":
                layers = measure_layers(model, content, style)
            engine = WinogradEngine(model, layers) if name == "winograd" else create_engine(name, model)
            timings[name] = measured(engine, content, style, expected)
            obstacles.pop(name, None)
        except EngineError as error:
            obstacles[name] = error.reason
        except Exception as error:  # noqa: BLE001 - compilers and libraries raise errors of many kinds
            obstacles[name] = " ".join(f"{type(error).__name__} {error}".split())[:200]
    measurement = Measurement(timings, obstacles, layers)
    if timings:
        write_measurement(model, measurement)
    return measurement


def example(model: StyleModel) -> tuple[Tensor, Any]:
    """Returns a content (1, 3, 256, 256) with waves in all directions, and a style that the model takes."""
    y, x = torch.meshgrid(torch.arange(SIDE) / SIDE, torch.arange(SIDE) / SIDE, indexing="ij")
    waves = [0.5 + 0.45 * torch.sin(6.2832 * (x * (5 * c + 3) + y * (11 - 4 * c)) + c) for c in range(3)]
    content = torch.stack(waves)[None].to(model.some_weight())
    (style,) = model.check_styles(model.example_styles(content[0].flip(1))[:1])
    return content, style[None] if isinstance(style, Tensor) and style.ndim == 3 else style


def measured(engine: Engine, content: Tensor, style: Any, expected: Tensor | None = None) -> Timing:
    """Measures an engine.

    Args:
        engine: The engine.
        content: (1, 3, H, W).
        style: What `encode_style` takes.
        expected: The output in float32, (1, 3, H, W).

    Raises:
        EngineError: If its output is another one.
    """
    code = engine.encode_style(style)
    times = []
    for _ in range(1 + ROUNDS):
        start = _now(content)
        output = engine.decode(content, [code])
        times.append(_now(content) - start)
    if expected is not None:
        error = float((output.clamp(0, 1) - expected.clamp(0, 1)).abs().mean())
        if not error <= TOLERANCE[engine.bits]:
            raise EngineError(engine.name, engine.model, f"its output differs by {255 * error:.2g} of 255 on average")
    megapixels = content.shape[-2] * content.shape[-1] / 1e6
    seconds = min(times[1:])
    return Timing(max(0.0, times[0] - seconds) if engine.prepares else 0.0, seconds / megapixels)


def measure_layers(model: StyleModel, content: Tensor, style: Any) -> dict[Layer, bool]:
    """Measures each convolution of a model by NNPACK and by PyTorch's own library."""
    with torch.inference_mode():
        code = model.encode_style(style)
        with LayerTimer() as timer:
            for _ in range(2):
                model.decode(content, code)
    return dict(timer.measured)


def has_fast_bfloat16() -> bool:
    """Whether the processor computes matrix products in bfloat16 about as fast as in float32, or faster."""
    times = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.rand(192, 192, dtype=dtype)  # 14 million operations: a twentieth of a second where it is slow
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            matrix @ matrix
            runs.append(time.perf_counter() - start)
        times.append(min(runs))
    return times[1] <= SLOWEST_PRODUCT * times[0]


def _now(like: Tensor) -> float:
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


# What is remembered


def memory_file() -> Path:
    """Returns the file of all measurements, ``engines.json`` in `stylezoo.download.cache_folder`."""
    return cache_folder() / "engines.json"


def memory_key(model: StyleModel) -> str:
    """Returns what the speed of a model depends on: its system and settings, the machine, threads and versions."""
    settings = {name: value for name, value in model.hparams.items() if name not in model.local_settings}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
    device = model.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    parts = (model.system, digest, str(model.some_weight().dtype), machine, torch.get_num_threads())
    return " | ".join(map(str, (*parts, torch.__version__)))


def processor() -> str:
    """Returns the name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or platform.machine()


def read_measurement(model: StyleModel) -> Measurement | None:
    """Returns what was measured of a model on this machine; None if nothing was, or the file is damaged."""
    try:
        entry = _read_all()[memory_key(model)]
        return Measurement(
            {name: Timing(**timing) for name, timing in entry["timings"].items() if name in ENGINES},
            dict(entry["obstacles"]),
            {Layer(*map(int, layer)): bool(fast) for *layer, fast in entry["layers"]},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def write_measurement(model: StyleModel, measurement: Measurement) -> None:
    """Remembers a measurement; where the folder cannot be written, it is made again next time."""
    entry = {
        "timings": {name: asdict(timing) for name, timing in measurement.timings.items()},
        "obstacles": dict(measurement.obstacles),
        "layers": [[*layer, fast] for layer, fast in measurement.layers.items()],
    }
    with suppress(OSError), replacing(memory_file()) as file:
        file.write(json.dumps({**_read_all(), memory_key(model): entry}, indent=1).encode())


def _read_all() -> dict[str, Any]:
    try:
        content = json.loads(memory_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
