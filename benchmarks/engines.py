"""Measures engines beside networks written as public code is (`public_style.py`), in turn, in one process.

    python benchmarks/engines.py --output docs/engines.csv

Each round runs every task once, and the ratio of a task is the time of the baseline in the same round over its own. The table has
the medians, and the smallest and largest ratio of a round. Weights are random where none ship, as times do not depend on
them. A task is an engine with the style's code kept, or with ``+ style`` for the encoding of the style as well.
The baseline runs with the memory allocator as it is by default, the engines with what they set.
On a machine that does other work beside, ``--threads 1 --clock cpu`` compares the processor time of one thread.
"""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from jsonargparse import auto_cli
from public_style import public_style
from torch import Tensor

import stylezoo
from stylezoo.inference import Stylizer, create_engine
from stylezoo.inference.tuning import processor
from stylezoo.inference.winograd import reuse_memory
from stylezoo.module import StyleModel

STYLE = " + style"


@dataclass
class Options:
    """Options of the comparison.

    Attributes:
        output: The CSV file to write.
        models: Systems, as in ``adain/vgg19_thin`` with another encoder, or names of weights; after a colon the system whose public network is the baseline.
        engines: Engines to measure; those that cannot run a model are left out.
        size: Side of content and style in pixels.
        rounds: Number of rounds.
        threads: Number of threads; 0 for PyTorch's own choice.
        clock: ``wall``, or ``cpu`` for the time of the process on all processors.
    """

    output: Path
    models: tuple[str, ...] = ("adain", "sanet", "johnson", "microast", "adain.slim:adain")
    engines: tuple[str, ...] = ("eager", "winograd", "channels_last", "openvino", "onnxruntime")
    size: int = 512
    rounds: int = 5
    threads: int = 0
    clock: Literal["wall", "cpu"] = "wall"


def build(name: str) -> StyleModel:
    """Loads weights, or creates a system, with another encoder behind a slash, with random ones."""
    if "." in name:
        return stylezoo.load_model(name)
    torch.manual_seed(0)
    name, _, encoder = name.partition("/")
    settings = {"encoder": encoder or "vgg19_random"} if name in ("adain", "sanet") else {}
    return stylezoo.create_model(name, **settings).eval()


def tasks(model: StyleModel, baseline: str, options: Options, content: Tensor, style: Tensor) -> dict[str, Callable]:
    """Returns the functions to measure by their names, the baseline first."""
    network = public_style(model if model.system == baseline and model.tag is None else build(baseline))

    def public() -> Tensor:
        reuse_memory(False)
        with torch.no_grad():
            output: Tensor = network(content, style)
        return output

    functions: dict[str, Callable] = {"public": public}
    styles = model.example_styles(style[0])[:1]
    for name in options.engines:
        try:
            engine = create_engine(name, model)
            Stylizer(model, styles, engine=engine)(content)
        except stylezoo.StylezooError as error:
            print(error)
            continue

        def kept(stylizer: Stylizer, engine: str) -> Tensor:
            reuse_memory(engine != "eager")
            return stylizer(content)

        functions[name] = partial(kept, Stylizer(model, styles, engine=engine), name)
        if model.kind == "arbitrary":

            def encoded(engine: object, name: str) -> Tensor:
                reuse_memory(name != "eager")
                return Stylizer(model, styles, engine=engine)(content)  # type: ignore[arg-type]

            functions[name + STYLE] = partial(encoded, engine, name)
    return functions


def main(options: Options) -> None:
    """Measures and writes the table."""
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    generator = torch.Generator().manual_seed(0)
    content, style = torch.rand(2, 1, 3, options.size, options.size, generator=generator)
    rows = []
    for entry in options.models:
        name, _, baseline = entry.partition(":")
        functions = tasks(build(name), baseline or name, options, content, style)
        seconds: dict[str, list[float]] = {task: [] for task in functions}
        for number in range(options.rounds + 1):
            for task, function in functions.items() if number % 2 else reversed(functions.items()):
                start = clock()
                function()
                if number:  # the first round warms up
                    seconds[task].append(clock() - start)
        for task, times in seconds.items():
            ratios = [public / own for public, own in zip(seconds["public"], times, strict=True)]
            values = (median(times), median(ratios), min(ratios), max(ratios))
            rows.append([name, baseline or name, task, *(f"{value:.3g}" for value in values)])
            print(*rows[-1], flush=True)
    about = f"{processor()}, {torch.get_num_threads()} threads, {options.clock} time, {options.size} px, torch {torch.__version__}"
    with options.output.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {about}, Python {platform.python_version()}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "public network", "task", "seconds", "ratio", "smallest ratio", "largest ratio"])
        writer.writerows(rows)


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
