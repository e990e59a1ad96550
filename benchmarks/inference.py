"""Measures the inference of all systems, engines and sizes beside a baseline that is written as public code is.

    python benchmarks/inference.py --output benchmarks/results/my_machine

Times are measured in rounds: in one process every engine and the baseline (`public_style.py`) stylize one image in turn, in
alternating order, and so does a matrix product, whose rate says what the machine can do. A ratio is the median of the
rounds' ratios of the baseline's time to the engine's, with the smallest and the largest of them. Memory is the
peak of a process that stylizes one image (VmHWM). Sizes that would take too long or need too much memory are left out,
by an estimate from smaller sizes, and are named below the table.

The folder gets cases.json, all measured numbers, inference.csv and README.md, the tables. A run that was interrupted, or
ended by ``--minutes``, goes on where it was: cases stay until the code changes (``--keep`` keeps them nevertheless).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from inference_case import PUBLIC, Case, Clock, has_baseline, modes, parse, tiles
from inference_table import Measured, Result, page, rows
from jsonargparse import auto_cli
from machine import describe, memory
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import stylezoo
from stylezoo import registry
from stylezoo.checkpoints import create_model, find_model
from stylezoo.environment import settle
from stylezoo.errors import StylezooError, check_choice, check_number
from stylezoo.files import replacing
from stylezoo.inference.engines import ENGINES
from stylezoo.inference.tuning import candidates, has_fast_bfloat16
from stylezoo.studies.base import as_csv
from stylezoo.studies.timing import processor

SIZES = (256, 512, 1024, 2048, 4096, 8192)
SCRIPTS = ("public_style.py", "inference_case.py", "work.py", "machine.py")
FEWEST_ROUNDS = 3


@dataclass
class Options:
    """Options of the benchmark.

    Attributes:
        output: The folder of the results.
        models: Systems, with random weights, and names of weights; null for all systems that do not optimize, and adain.slim.
        sizes: Sides of content and style in pixels.
        engines: The engines, in tiles with a suffix such as ``+tile1024``; null for those that ``auto`` chooses from on this
            machine, and the one for tiles.
        rounds: Rounds of timings; fewer, at least 3, where they would exceed ``seconds``.
        seconds: The most that one case may take, by the estimate.
        memory_gib: The most memory that a case may take, by the estimate; null for nine tenths of what is available.
        minutes: Begins no further case after this time; null for no limit.
        threads: Threads of the CPU; null for as many as PyTorch takes.
        device: Where to compute: ``cpu`` or ``cuda``.
        clock: ``wall``, or ``cpu`` for the processor time of all threads: for machines that do other work, with one thread.
        keep: Keeps cases that other versions of the code have measured.
    """

    output: Path
    models: list[str] | None = None
    sizes: list[int] = field(default_factory=lambda: list(SIZES))
    engines: list[str] | None = None
    rounds: int = 5
    seconds: float = 60.0
    memory_gib: float | None = None
    minutes: float | None = None
    threads: int | None = None
    device: str = "cpu"
    clock: Clock = "wall"
    keep: bool = False


def engines(device: str) -> list[str]:
    """Returns the engines that ``auto`` chooses from on a machine, without torch.compile on CPUs, and one of them in tiles."""
    model = create_model("johnson", width=0.25).to(device).eval()
    names = [name for name in candidates(model) if name != "bfloat16" or has_fast_bfloat16()]
    in_tiles = next(name for name in ("cuda", "winograd", "eager") if name in names)
    return [*names, f"{in_tiles}+tile1024"]


def extrapolated(known: Mapping[int, float], size: int) -> float | None:
    """Estimates a quantity at a size from what it is at smaller sizes.

    It is a s^2 + b s^4, as convolutions and attention over all pairs of positions are, with a and b from the two largest known
    sizes and neither of them negative.

    >>> extrapolated({256: 1.0, 512: 4.0}, 1024), extrapolated({256: 1.0, 512: 16.0}, 1024), extrapolated({}, 1024)
    (16.0, 256.0, None)

    Args:
        known: {side: quantity}.
        size: The side.

    Returns:
        The estimate; None if nothing is known.
    """
    smaller = sorted(side for side in known if side < size)[-2:]
    if not smaller:
        return None
    last = smaller[-1]
    linear, quadratic = known[last] / last**2, 0.0
    if len(smaller) == 2:
        first = smaller[0]
        quadratic = (known[last] / last**2 - known[first] / first**2) / (last**2 - first**2)
        quadratic = min(max(0.0, quadratic), known[last] / last**4)
        linear -= quadratic * last**2
    return linear * size**2 + quadratic * size**4


def code_version() -> str:
    """Returns a digest of all that decides what is measured: the sources of the package and of the scripts, and the machine."""
    here, package = Path(__file__).parent, Path(stylezoo.__file__).parent
    sources = [*sorted(package.rglob("*.py")), *(here / name for name in SCRIPTS)]
    parts = [source.read_bytes() for source in sources] + [processor().encode(), torch.__version__.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def in_process(case: Case, timeout: float) -> Result:
    """Measures a case in a process of its own.

    Returns:
        The measured numbers, or ``error``, the reason why there are none.
    """
    command = [sys.executable, str(Path(__file__).with_name("inference_case.py")), json.dumps(asdict(case))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads)}
    settle(environment)  # as the command line does
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {timeout:.0f} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = "it was killed, which a lack of memory does" if done.returncode < 0 else f"exit code {done.returncode}"
        return {"error": lines[-1].strip() if lines and done.returncode > 0 else reason}
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


class TimeIsUp(Exception):
    """Ends a run before its next case."""


class Benchmark:
    """The cases of a table: it measures what is not there yet, and leaves out what would take too much.

    Args:
        options: The options.
        measure: Measures a case within a number of seconds, see `in_process`.
        tell: Told what is measured, the number of pairs of models and sizes that are done, and that of all.
    """

    def __init__(
        self,
        options: Options,
        measure: Callable[[Case, float], Result] = in_process,
        tell: Callable[[str, int, int], None] = lambda text, done, total: None,
    ) -> None:
        self.options, self.measure, self.tell = options, measure, tell
        self.threads = options.threads or torch.get_num_threads()
        self.limit = 1024 * options.memory_gib if options.memory_gib else 0.9 * memory("MemAvailable")
        self.measured = Measured(self._models(), options.engines or engines(options.device), sorted(options.sizes))
        self.version = code_version()
        self.file = options.output / "cases.json"
        self.cases = self._stored()
        self.done, self.total = 0, len(self.measured.sizes) * len(self.measured.models)
        self.deadline = time.monotonic() + 60 * options.minutes if options.minutes is not None else float("inf")

    def _models(self) -> list[str]:
        if self.options.models is None:
            names = [name for name, system in registry.systems().items() if system.kind != "optimization"]
            return [*names, "adain.slim"]
        for name in self.options.models:
            if name not in registry.systems():
                find_model(name)
            elif registry.get(name).kind == "optimization":
                raise StylezooError(f"{name} optimizes its images: `reproduce adain_speed` times it, not this table.")
        return self.options.models

    def _stored(self) -> dict[str, Result]:
        """What earlier runs have measured."""
        if not self.file.exists():
            return {}
        try:
            cases: dict[str, Result] = json.loads(self.file.read_text())
            return {key: case for key, case in cases.items() if self.options.keep or case["version"] == self.version}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StylezooError(f"{self.file} is damaged: delete it, or name another folder (--output).") from error

    def run(self) -> list[str]:
        """Measures all cases, size by size.

        Returns:
            What a next run would measure, ``MODEL at SIZE px``, if the time was up.
        """
        todo = [(model, size) for size in self.measured.sizes for model in self.measured.models]
        for self.done, (model, size) in enumerate(todo):
            try:
                self._measure_memory(model, size)
                self._measure_times(model, size)
            except TimeIsUp:
                return [f"{m} at {s} px" for m, s in todo[self.done :]]
        return []

    def _engines(self, model: str, size: int) -> list[str]:
        """The baseline and the engines; those in tiles only where there is more than one."""
        found = [PUBLIC] if has_baseline(model) else []
        for name in self.measured.engines:
            tile = parse(name)[1]
            if tile is None or (tile < size and tiles(model)):
                found.append(name)
        return found

    def _measure_memory(self, model: str, size: int) -> None:
        """Runs every engine once."""
        for engine in self._engines(model, size):
            key = (model, engine, size)
            reason = self._too_much(model, engine, size)
            if reason is None:
                case = self._case("memory", model, size, (f"{engine}/{modes(model)[0]}",), 1)
                result = self._result(case)
                if "error" not in result:
                    self.measured.memories[key] = result
                reason = result.get("error")
            if reason is not None:
                self.measured.left_out[key] = reason

    def _too_much(self, model: str, engine: str, size: int) -> str | None:
        """Says by an estimate from smaller sizes why a case is left out; None if it is not."""
        failed = [s for m, e, s in self.measured.left_out if (m, e) == (model, engine) and s < size]
        if failed:
            return f"left out already at {min(failed)} px"
        smaller = {s: r for (m, e, s), r in self.measured.memories.items() if (m, e) == (model, engine) and s < size}
        seconds = extrapolated({s: r["seconds"] for s, r in smaller.items()}, size)
        beyond = extrapolated({s: r["peak"] - r["loaded"] for s, r in smaller.items()}, size)
        if seconds is not None and seconds > self.options.seconds:
            return f"about {seconds:.0f} s per image, and a case may take {self.options.seconds:g} s"
        if beyond is not None:
            need = beyond + max(result["loaded"] for result in smaller.values())
            if need > self.limit:
                return f"about {need / 1024:.1f} GiB, and a case may take {self.limit / 1024:.1f} GiB"
        return None

    def _measure_times(self, model: str, size: int) -> None:
        """Times all engines that ran, and fit into the time with the fewest rounds."""
        expected: dict[str, float] = {}
        for engine in self._engines(model, size):
            once = self.measured.memories.get((model, engine, size))
            if once is None:
                continue
            for mode in modes(model)[:1] if engine == PUBLIC else modes(model):
                task = f"{engine}/{mode}"
                known = {s: median(x) for s in self.measured.sizes if (x := self.measured.seconds(model, s, task))}
                expected[task] = min(once["seconds"], extrapolated(known, size) or float("inf"))
                if (FEWEST_ROUNDS + 1) * expected[task] > self.options.seconds:
                    self.measured.left_out[model, f"time of {task}", size] = (
                        f"about {expected.pop(task):.0f} s in each of {FEWEST_ROUNDS + 1} rounds, and a case may take"
                        f" {self.options.seconds:g} s"
                    )
        if not expected:
            return
        fitting = int(self.options.seconds / max(*expected.values(), 1e-9)) - 1
        case = self._case("time", model, size, tuple(expected), max(FEWEST_ROUNDS, min(self.options.rounds, fitting)))
        result = self._result(case)
        if "error" in result:
            self.measured.left_out[model, "times", size] = result["error"]
        else:
            self.measured.times[model, size] = result

    def _case(
        self, what: Literal["memory", "time"], model: str, size: int, tasks: tuple[str, ...], rounds: int
    ) -> Case:
        return Case(what, model, size, tasks, rounds, self.threads, self.options.device, self.options.clock)

    def _result(self, case: Case) -> Result:
        """What was measured before, or is measured now and stored, unless it fails."""
        key = json.dumps(asdict(case))
        if key in self.cases:
            return self.cases[key]
        if time.monotonic() > self.deadline:
            raise TimeIsUp
        self.tell(f"{case.model} at {case.size} px, {case.what}", self.done, self.total)
        timeout = 120 + 5 * self.options.seconds * max(1, len(case.tasks))
        result = {"version": self.version, **self.measure(case, timeout)}
        if "error" not in result:
            self.cases[key] = result
            with replacing(self.file) as file:
                file.write(json.dumps(self.cases, indent=0).encode())
        return result

    def write(self, waiting: list[str], command: str) -> None:
        """Writes the tables, inference.csv and README.md."""
        rates = [rate for result in self.measured.times.values() for rate in result["matrix"]]
        facts = describe(torch.device(self.options.device)) | {"threads": self.threads}
        facts |= {"clock": self.options.clock, "code": self.version}
        text = page(self.measured, facts, median(rates) if rates else None, command, waiting)
        files = {"README.md": text, "inference.csv": as_csv(found) if (found := rows(self.measured)) else ""}
        for name, content in files.items():
            with replacing(self.options.output / name) as file:
                file.write(content.encode())


def main(options: Options) -> None:
    """Measures all cases that are not there yet, and writes the tables."""
    check_number("rounds", options.rounds, "a whole number from 3 up", FEWEST_ROUNDS, whole=True)
    check_number("seconds", options.seconds, "a number of seconds greater than 0", 1e-3)
    for engine in options.engines or []:
        check_choice("engines", engine.partition("+tile")[0], list(ENGINES))
    for size in options.sizes:
        check_number("sizes", size, "sides in pixels from 32 to 65536", 32, 65536, whole=True)
    benchmark = Benchmark(options)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    command = shlex.join(["python", "benchmarks/inference.py", *sys.argv[1:]])
    with Progress(*columns) as progress:
        bar = progress.add_task("Measuring", total=benchmark.total)
        benchmark.tell = lambda text, done, total: progress.update(bar, description=text, completed=done)
        waiting: list[str] = []
        try:
            waiting = benchmark.run()
        finally:
            benchmark.write(waiting, command)
    print(f"The tables are in {options.output}.")


if __name__ == "__main__":
    try:
        main(auto_cli(Options, as_positional=False))
    except StylezooError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # the tables are written, and the next run goes on
        sys.exit(130)
