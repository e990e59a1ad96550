"""Trains the models that ship, one turn after another on one core, and resumes where it was stopped: ``make train-zoo``.

A plan (tools/train_zoo.yaml) names the runs. Each has ``recipes`` (overlays in order), ``options`` of `fit`, a ``priority``,
and a ``target``: ratios of its losses to those of the reference model, medians over held-out pairs. ``pretraining`` has further
options for its first steps. After each turn the
run is measured; the next turn goes to the run that is furthest from its target, weighed by its priority and by the hours
that it has had. A run without a measure counts as twice its target. Several queues can share a folder: each takes a run that
no other one has.

Checkpoints and logs are in one folder outside of the tree:

    FOLDER/log.csv              a line per turn: command, steps, seconds, measured ratios; model cards are written from it
    FOLDER/NAME/version_N/      Lightning's folder of a turn, with its checkpoints; only the newest is kept
"""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from stylezoo.errors import StylezooError
from stylezoo.evaluation import evaluate

COLUMNS = ("run", "finished", "first_step", "last_step", "seconds", "distance", "measured", "command")
UNMEASURED = 2.0
METRICS = ("content_loss", "style_loss", "target_content_loss")
"""What every run is measured by, whatever its target: queues with different plans share the measures of a folder."""


@dataclass
class Run:
    """An entry of the plan.

    Attributes:
        name: Tag that the model will have, which is also the name of its folder.
        recipes: Recipe and overlays, in order.
        options: Options of `fit` by name.
        priority: Weight in the choice of the next turn.
        seconds: Length of a turn.
        target: Largest ratios of losses to those of the reference model, by metric.
        start: Model whose weights the first turn starts from, or another run, whose checkpoint it waits for.
        teacher: Model or run whose decoder the first turn is fitted to, see `stylezoo.training.Pruning`.
        pretraining: ``steps`` and further ``options`` of the first so many steps, such as a teacher.
    """

    name: str
    recipes: list[str]
    seconds: int
    options: dict[str, Any] = field(default_factory=dict)
    priority: float = 1.0
    target: dict[str, float] = field(default_factory=dict)
    start: str | None = None
    teacher: str | None = None
    pretraining: dict[str, Any] = field(default_factory=dict)

    def settings(self, step: int) -> dict[str, Any]:
        """Returns the options of a turn that begins at a step; what is pretraining ends when it is done."""
        last = self.pretraining.get("steps", 0)
        stage = {**self.pretraining.get("options", {}), "trainer.max_steps": last} if step < last else {}
        return {**self.options, "trainer.max_steps": -1, "trainer.max_epochs": -1, "data.num_workers": 0, **stage}


def next_run(runs: list[Run], log: list[dict[str, str]], busy: Collection[str] = ()) -> Run | None:
    """Returns the run that is furthest from its target: priority * log(distance) / (1 + hours).

    A run that starts from another one, or is fitted to it, waits until that has had its pretraining. The names in ``busy`` are left out; None if
    there is no other run.
    """
    steps = {row["run"]: int(row["last_step"]) for row in log}
    waits_for = {run.name: run.pretraining.get("steps", 1) for run in runs}

    def is_ready(run: Run) -> bool:
        if run.name in busy:
            return False
        sources = {run.start, run.teacher} & waits_for.keys() - {run.name}
        return run.name in steps or all(steps.get(name, 0) >= waits_for[name] for name in sources)

    def gain(run: Run) -> float:
        turns = [row for row in log if row["run"] == run.name]
        hours = sum(float(row["seconds"]) for row in turns) / 3600
        distance = float(turns[-1]["distance"]) if turns else UNMEASURED
        return run.priority * max(math.log(distance), 0.01) / (1 + hours)  # what reached its target still gets turns

    return max(filter(is_ready, runs), key=gain, default=None)


@contextmanager
def reserved(run: Run, folder: Path) -> Iterator[bool]:
    """Keeps a run from other queues on the same folder; gives False if one of them has it. The lock ends with its process."""
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest checkpoint of a run, or None."""
    found = sorted(folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def steps_of(checkpoint: Path | None) -> int:
    """Returns the number of optimizer steps of a checkpoint; 0 for None."""
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)["global_step"])


def command_of(run: Run, folder: Path, overlays: list[str], checkpoint: Path | None) -> list[str]:
    """Returns the command of a turn."""
    words = [sys.executable, "-m", "stylezoo", "fit"]
    for config in (*run.recipes, *overlays):
        words += ["--config", config]
    for name, value in run.settings(steps_of(checkpoint)).items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    words += [
        "--trainer.logger",
        "CSVLogger",
        "--trainer.logger.save_dir",
        str(folder),
        "--trainer.logger.name",
        run.name,
    ]
    if run.teacher is not None:
        words += ["--training.initialization.teacher", str(newest_checkpoint(folder / run.teacher) or run.teacher)]
    if checkpoint is not None:
        words += ["--ckpt_path", str(checkpoint)]
    elif run.start is not None:
        words += ["--start", str(newest_checkpoint(folder / run.start) or run.start)]
    return words


def take_turn(command: list[str], seconds: int, output: Path, is_saved: Callable[[], bool] = lambda: True) -> float:
    """Trains for some seconds, stops the run by SIGTERM, which leaves a checkpoint, and returns the seconds that it took.

    Args:
        command: The command line.
        seconds: Length of the turn.
        output: File to which the output is appended.
        is_saved: Whether there is a checkpoint of this turn; a turn is not stopped before, since an initialization can
            take longer than a turn on a busy machine.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with output.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        stand_back(process.pid)
        try:
            while process.poll() is None and (time.monotonic() - started < seconds or not is_saved()):
                time.sleep(1)
        finally:  # also where the queue itself is stopped
            process.terminate()
            process.wait(600)
    return time.monotonic() - started


def stand_back(process: int) -> None:
    """Lets everything else on the machine come first, on Linux."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, process, 19)
        # Linux shares time among sessions before it shares it among the processes of each
        Path(f"/proc/{process}/autogroup").write_text("19")


@dataclass(frozen=True)
class Judge:
    """How runs are measured: folders of held-out photos and paintings, the reference model, the VGG of the losses, metrics."""

    content: str
    style: str
    reference: str
    encoder_weights: str | None
    pairs: int
    metrics: tuple[str, ...]


def measure(run: Run, checkpoint: Path, output: Path, judge: Judge) -> dict[str, float]:
    """Returns medians over held-out pairs of the run's losses divided by those of the reference model, by metric.

    The folder keeps the measures of all runs and of earlier steps; the reference is measured once.
    """
    if not run.target:
        return {}
    name = f"{run.name}_{steps_of(checkpoint)}"
    options: dict[str, Any] = {
        "pairs": judge.pairs,
        "split": ["val", "test"],
        "reference": "reference",
        "metrics": judge.metrics,
        "encoder_weights": judge.encoder_weights,
    }
    models = {"reference": judge.reference, name: str(checkpoint)}
    with FileLock(output.with_suffix(".lock")):  # of other queues
        try:
            summary = evaluate(models, judge.content, judge.style, output, **options)
        except StylezooError:  # the folder holds measures with other settings, of an older plan
            rmtree(output)
            summary = evaluate(models, judge.content, judge.style, output, **options)
    ratios = {score.value.key.metric: score.ratio for score in summary if score.model == name}
    return {metric: ratios[metric].spread.median for metric in run.target}


def read_log(path: Path) -> list[dict[str, str]]:
    """Reads the turns that were taken."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """Appends a turn to the log."""
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def keep_newest(folder: Path, checkpoint: Path) -> None:
    """Removes the checkpoints of earlier turns."""
    for other in folder.glob("version_*/checkpoints"):
        if other != checkpoint.parent:
            rmtree(other)


def turn_of(run: Run, folder: Path, overlays: list[str], judge: Judge) -> dict[str, Any]:
    """Trains and measures a run, and returns its row of the log."""
    place = folder / run.name
    before = newest_checkpoint(place)
    command = command_of(run, folder, overlays, before)
    first_step = steps_of(before)  # its file is removed below
    print(time.strftime("%H:%M"), run.name, "from step", first_step, flush=True)
    seconds = take_turn(command, run.seconds, place / "output.txt", lambda: newest_checkpoint(place) != before)
    after = newest_checkpoint(place)
    if after is None or after == before:
        raise SystemExit(f"{run.name} left no new checkpoint: see {place / 'output.txt'}")
    keep_newest(place, after)
    ratios = measure(run, after, folder / "measured", judge)
    distance = max((ratios[metric] / run.target[metric] for metric in run.target), default=UNMEASURED)
    return {
        "run": run.name,
        "finished": time.strftime("%Y-%m-%d %H:%M"),
        "first_step": first_step,
        "last_step": steps_of(after),
        "seconds": round(seconds),
        "distance": round(distance, 4),
        "measured": " ".join(f"{metric}={ratio:.3f}" for metric, ratio in ratios.items()),
        "command": " ".join(command[3:]),
    }


def train(runs: list[Run], folder: Path, overlays: list[str], judge: Judge, turns: int | None) -> None:
    """Takes turns until it is stopped, or until there were so many."""
    log = folder / "log.csv"
    taken, busy = 0, set[str]()
    while turns is None or taken < turns:
        run = next_run(runs, read_log(log), busy)
        if run is None:
            raise SystemExit("Other queues have every run of the plan that could be trained now.")
        with reserved(run, folder) as mine:
            if mine:
                append(log, turn_of(run, folder, overlays, judge))
                taken += 1
        busy = set() if mine else busy | {run.name}


def main() -> None:
    """Reads the options."""
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plan", default=str(Path(__file__).with_suffix(".yaml")), help="YAML file with the runs")
    parser.add_argument("--folder", default="runs/zoo", help="where checkpoints and the log are")
    parser.add_argument("--overlay", nargs="*", default=[], help="recipes laid over all runs: data and weights")
    parser.add_argument("--content", required=True, help="folder of photos whose held-out images are measured")
    parser.add_argument("--style", required=True, help="folder of paintings whose held-out images are measured")
    parser.add_argument("--reference", required=True, help="model, by name or file, to whose losses the ratios are")
    parser.add_argument("--encoder_weights", help="file of vgg19_normalised, which measures; its own if left out")
    parser.add_argument("--turns", type=int, help="number of turns; until it is stopped if left out")
    options = parser.parse_args()
    plan = yaml.safe_load(Path(options.plan).read_text())
    runs = [Run(name, **{"seconds": plan["seconds"], **entry}) for name, entry in plan["runs"].items()]
    metrics = tuple(sorted({*METRICS, *(metric for run in runs for metric in run.target)}))
    judge = Judge(options.content, options.style, options.reference, options.encoder_weights, plan["pairs"], metrics)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    train(runs, Path(options.folder), options.overlay, judge, options.turns)


if __name__ == "__main__":
    main()
