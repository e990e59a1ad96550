"""Measures one case of the table of `inference.py`, in a process of its own: its times, or its memory and its work.

    python benchmarks/inference_case.py '{"what": "memory", "model": "adain", "size": 512, "tasks": ["eager/encoded"]}'

prints the measured numbers as JSON. A task is an engine and a mode: ``eager/encoded`` encodes the style and stylizes,
``eager/kept`` stylizes with a style that was encoded before, ``eager+tile1024/kept`` does so in tiles of 1024 pixels, and
``public/encoded`` is the baseline of `public_style.py`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from machine import MIB, process_memory, reset_peak
from public_style import NETWORKS, public_style
from torch import Tensor
from work import count

from stylezoo import registry, weights
from stylezoo.checkpoints import load_model
from stylezoo.inference import Stylizer
from stylezoo.inference.engines import ENGINES, create_engine
from stylezoo.inference.winograd import reuse_memory
from stylezoo.module import StyleModel
from stylezoo.studies.timing import Method, interleaved, now, untrained

PUBLIC = "public"
MATRIX = "matrix product"
Mode = Literal["encoded", "kept"]
Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Case:
    """What is measured in one process.

    Attributes:
        what: ``time`` measures all tasks in turn, round by round; ``memory`` one of them, which is its first.
        model: A system, whose weights are random, or a name of weights such as ``adain.slim``.
        size: Side of content and style in pixels.
        tasks: ENGINE/MODE.
        rounds: Rounds that count.
        threads: Of the CPU.
        device: Where to compute.
        clock: ``wall``, or ``cpu`` for the processor time of all threads, which other load on the machine hardly changes.
    """

    what: Literal["time", "memory"]
    model: str
    size: int
    tasks: tuple[str, ...]
    rounds: int = 5
    threads: int = 1
    device: str = "cpu"
    clock: Clock = "wall"


def parse(engine: str) -> tuple[str, int | None]:
    """Splits an engine of the table into the package's and the side of its tiles.

    >>> parse("winograd+tile1024"), parse("eager")
    (('winograd', 1024), ('eager', None))
    """
    name, _, tile = engine.partition("+tile")
    return name, int(tile) if tile else None


def tiles(model: str) -> bool:
    """Whether a model works in tiles."""
    return registry.get(system_of(model)).supports_tiles


def system_of(model: str) -> str:
    """Returns the system of a model that is given by a system or by a name of weights."""
    file = weights.table().models.get(model)
    return model if file is None else file.system


def has_baseline(model: str) -> bool:
    """Whether there is a baseline for a model."""
    return system_of(model) in NETWORKS


def modes(model: str) -> tuple[Mode, ...]:
    """Returns the modes of a model: systems whose styles are in the network have nothing to encode."""
    return ("encoded", "kept") if registry.get(system_of(model)).kind == "arbitrary" else ("kept",)


def build(model: str, device: torch.device) -> StyleModel:
    """Creates a system with random weights, or loads weights that are on this machine."""
    if model in registry.systems():
        (built,) = untrained([Method(model, model)]).values()
        return built.to(device)
    return load_model(model).to(device)


def steps(name: str, case: Case, model: StyleModel | None, content: Tensor, style: Tensor) -> list[Callable[[], Any]]:
    """Returns the functions that a task calls one after the other; the last one returns the output.

    Args:
        name: The task.
        case: The case.
        model: The model; None builds it, and lets go of it where the baseline takes its weights over.
        content: (1, 3, size, size).
        style: The same.
    """
    engine, mode = name.split("/")
    if engine == PUBLIC:
        same = model is not None and model.system == case.model
        network = public_style(model if model is not None and same else build(system_of(case.model), content.device))
        return [torch.no_grad()(partial(network, content, style))]
    model = model or build(case.model, content.device)
    engine, tile = parse(engine)
    make = partial(Stylizer, model, model.example_styles(style)[:1], engine=create_engine(engine, model), tile=tile)
    stylizer = [] if mode == "encoded" else [make()]

    def encode() -> None:
        stylizer[:] = [make()]

    def decode() -> Tensor:
        return stylizer[0](content)

    return [encode, decode] if mode == "encoded" else [decode]


def images(case: Case) -> tuple[Tensor, Tensor]:
    """A content and a style of noise, (1, 3, size, size): times do not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    content, style = torch.rand(2, 1, 3, case.size, case.size, generator=generator).to(case.device)
    return content, style


def measure_times(case: Case) -> dict[str, Any]:
    """Measures the tasks in turn, and a matrix product among them.

    Returns:
        ``seconds`` {task: one number per round}, ``matrix`` (operations per second of a product in float32, one number per
        round), and ``difference`` {engine: largest difference from the baseline's output, over its largest value}.
    """
    content, style = images(case)
    device = content.device
    model = build(case.model, device)
    tasks = {name: steps(name, case, model, content, style) for name in case.tasks}
    side = 1024 if device.type == "cpu" else 8192
    a, b = torch.rand(2, side, side, device=device)
    tasks[MATRIX] = [lambda: a @ b]
    outputs: dict[str, Tensor] = {}

    def timed(name: str) -> float:
        engine = name.partition("/")[0]
        # Engines of CPUs change the allocator of the whole process; public code and eager have the system's.
        reuse_memory(device.type == "cpu" and engine not in (PUBLIC, MATRIX, "eager"))
        start = now(device) if case.clock == "wall" else time.process_time()
        for step in tasks[name]:
            output = step()
        seconds = (now(device) if case.clock == "wall" else time.process_time()) - start
        outputs[engine] = output
        return seconds

    seconds = interleaved({name: partial(timed, name) for name in tasks}, case.rounds)
    matrix = [2 * side**3 / value for value in seconds.pop(MATRIX)]
    return {"seconds": seconds, "matrix": matrix, "difference": _differences(case, outputs, content.shape[-2:])}


def _differences(case: Case, outputs: dict[str, Tensor], size: torch.Size) -> dict[str, float]:
    if PUBLIC not in outputs or system_of(case.model) != case.model:  # other weights than those of the baseline
        return {}
    baseline = outputs[PUBLIC][..., : size[0], : size[1]].clamp(0, 1)
    largest = float(baseline.abs().max())
    engines = [name for name in outputs if name not in (PUBLIC, MATRIX)]
    return {name: float((outputs[name] - baseline).abs().max()) / largest for name in engines}


def measure_memory(case: Case) -> dict[str, Any]:
    """Measures the memory of one task, which runs once.

    Returns:
        ``loaded``, the memory of the process before (MiB; of the CUDA device, where there is one), ``peak``, the most until its
        end, ``first``, the seconds that it took, ``seconds`` that it takes from the second image on, where engines prepare
        for a size, and ``flops``, multiplications and additions of its steps: none where an engine hides them.
    """
    content, style = images(case)
    device = content.device
    (name,) = case.tasks
    calls = steps(name, case, None, content, style)
    gc.collect()
    with suppress(AttributeError, OSError):  # glibc keeps freed memory, which the task would find again
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        loaded = torch.cuda.memory_allocated(device) / MIB
    else:
        reset_peak()
        loaded = process_memory("VmRSS")
    start = now(device)
    engine, _ = parse(name.partition("/")[0])
    counted = engine in (
        PUBLIC,
        "eager",
    )  # the compiler does not work below a counter, and kernels of libraries are hidden
    flops = []
    for call in calls:
        if counted:
            flops.append(count(call).flops)
        else:
            call()
    first = seconds = now(device) - start
    peak = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else process_memory("VmHWM")
    if engine in ENGINES and ENGINES[engine].prepares:
        start = now(device)
        for call in calls:
            call()
        seconds = now(device) - start
    return {"loaded": loaded, "peak": peak, "first": first, "seconds": seconds, "flops": flops}


def measure(case: Case) -> dict[str, Any]:
    """Measures a case in this process."""
    torch.set_num_threads(case.threads)
    return measure_times(case) if case.what == "time" else measure_memory(case)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(measure(Case(**{**given, "tasks": tuple(given["tasks"])}))))
