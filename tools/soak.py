"""Kills a training run again and again, resumes it each time, and compares it with an undisturbed one, bit for bit.

    python tools/soak.py --steps 2000 --kills 20

A tiny AdaIN with averaged weights is trained on small images and saved every few steps, so that signals meet training,
validation and saving alike: SIGKILL to the process group, SIGTERM to the process and to the group, SIGINT to the group.
After each of them the newest last.ckpt must load, and nothing half-written may lie about. At the end weights, averaged
weights and the optimizer's state must equal those of the undisturbed run. The seed of a failure repeats its moments only
roughly, but its order exactly.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylezoo.images import write_image

ROOT = Path(__file__).resolve().parents[1]
WAYS = (
    ("SIGKILL to the group", signal.SIGKILL, True),
    ("SIGTERM to the process", signal.SIGTERM, False),
    ("SIGTERM to the group", signal.SIGTERM, True),
    ("SIGINT to the group", signal.SIGINT, True),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Kill and resume a training run, and compare it with an undisturbed one."
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the moments and signals; random by default")
    options = parser.parse_args(arguments)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it, and their children do
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}: {options.steps} steps, {options.kills} kills", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder), options.steps, options.kills, random.Random(seed))


def soak(folder: Path, steps: int, kills: int, rng: random.Random) -> None:
    """Trains both runs in a folder.

    Raises:
        SystemExit: If they differ, or something was lost on the way.
    """
    make_images(folder / "images")
    whole = start(folder, "whole", steps, workers=0, resume=None)
    for _ in whole.steps():
        pass
    check(whole.process.wait() == 0, "the undisturbed run failed", whole)
    moments = sorted(rng.sample(range(1, steps), kills))
    ways = [WAYS[index % len(WAYS)] for index in range(kills)]
    rng.shuffle(ways)
    for moment, (name, number, group) in zip(moments, ways, strict=True):
        workers = rng.choice((0, 1, 2))
        run = start(folder, "killed", steps, workers, newest(folder / "killed"))
        reached = next((step for step in run.steps() if step >= moment), steps)
        time.sleep(rng.random() * 0.3)
        (os.killpg if group else os.kill)(run.process.pid, number)
        code = run.wait()
        expected = -number if number == signal.SIGKILL else 128 + number
        finished = code == 0 and reached >= steps - 5
        check(finished or code == expected, f"{name} at step {reached} ended with code {code}", run)
        last = newest(folder / "killed")
        saved = 0 if last is None else torch.load(last, weights_only=True)["global_step"]
        check(number == signal.SIGKILL or saved >= reached, f"{name} at step {reached} saved step {saved}", run)
        orphans = [path for path in (folder / "killed").rglob("*") if path.name.endswith((".part", ".tmp"))]
        check(not orphans, f"{name} left {orphans}", run)
        print(f"step {reached:5} {name:24} {workers} workers, code {code}, saved step {saved}", flush=True)
    run = start(folder, "killed", steps, 0, newest(folder / "killed"))
    for _ in run.steps():
        pass
    check(run.process.wait() == 0, "the resumed run failed", run)
    pair = [torch.load(newest(folder / name), weights_only=True) for name in ("whole", "killed")]  # type: ignore[arg-type]
    parts = ("global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
    different = [part for part in parts if not equal(pair[0][part], pair[1][part])]
    check(not different, f"the runs differ in {different}", run)
    print(f"equal, bit for bit, after {steps} steps and {kills} kills")


class Run:
    """A training process; its lines are read in a thread, so that it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Returns the exit code of a process that should be ending; one that does not shows where it is."""
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            return self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip() for line in self.process.stdout)

    def _read_lines(self) -> Iterator[str]:
        index = 0
        while self._reader.is_alive() or index < len(self.lines):
            if index < len(self.lines):
                yield self.lines[index]
                index += 1
            else:
                time.sleep(0.002)

    def steps(self) -> Iterator[int]:
        """Yields the steps that the run has done, as it does them."""
        for line in self._read_lines():
            if line.startswith("step "):
                yield int(line.split()[1].split("/")[0])


def start(folder: Path, name: str, steps: int, workers: int, resume: Path | None) -> Run:
    """Starts a run, or goes on with one."""
    experiments = ROOT / "experiments"
    options = {
        "model.encoder": "vgg19_random/8",
        "model.lr": 1e-3,
        "data.content": "Folder",
        "data.style": "Folder",
        "data.content.root": folder / "images",
        "data.style.root": folder / "images",
        "data.size": 40,
        "data.crop": 32,
        "data.batch_size": 1,
        "data.num_workers": workers,
        "data.val_samples": 2,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": steps,
        "trainer.val_check_interval": 25,
        "trainer.log_every_n_steps": 10,
        "trainer.logger.save_dir": folder,
        "trainer.logger.name": name,
        "checkpoint.every_n_train_steps": 10,
        "checkpoint.save_top_k": 1,
        "images.every_n_steps": 0,
        "progress.seconds_per_line": 0,
        **({} if resume is None else {"ckpt_path": resume}),
    }
    command = [sys.executable, "-m", "stylezoo", "fit", f"--config={experiments / 'adain.yaml'}"]
    command += [f"--config={experiments / 'ema.yaml'}", *(f"--{key}={value}" for key, value in options.items())]
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": str(ROOT),
        **os.environ,
        "COLUMNS": "200",
    }
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return Run(subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True, **pipes))


def newest(folder: Path) -> Path | None:
    """Returns the last.ckpt of the latest version that has one."""
    found = sorted(folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: int(path.parts[-3].split("_")[1]))
    return found[-1] if found else None


def make_images(folder: Path) -> None:
    """Writes a few small images."""
    generator = torch.Generator().manual_seed(0)
    for index in range(8):
        picture = torch.nn.functional.interpolate(
            torch.rand(1, 3, 4, 4, generator=generator), size=(40, 40), mode="bilinear"
        )
        write_image(picture, folder / f"{index}.png")


def equal(one: Any, other: Any) -> bool:
    """Whether two nested structures hold the same numbers."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def check(holds: bool, message: str, run: Run) -> None:
    """Ends with a message and the last lines of a run unless something holds."""
    if not holds:
        raise SystemExit("\n".join([*run.lines[-60:], f"FAILED: {message}"]))


if __name__ == "__main__":
    main()
