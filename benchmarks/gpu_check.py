"""Checks and measures everything that only a GPU can show, in one run of less than eight minutes.

    python benchmarks/gpu_check.py --output benchmarks/results/my_gpu

16 bits (finiteness, error) of every model that ships, the engines with their CUDA graphs, throughput against the roofline of
the card at hand, memory at 2048 and 4096 pixels, the kernels of attention, training steps in 32 and 16 bits and compiled,
deterministic training, and the rate of the loader. Each part runs in a process of its own and has its share of the
time: what fails, or is not done by then, is recorded, and the rest goes on. The folder gets gpu_check.json and gpu_check.md, which
are written again after every part. It needs no data, no weights and no network.

``--device cpu --quick true`` runs every part with tiny networks, to see that the script works.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stylezoo.environment import settle

settle()
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products: read when CUDA starts

import torch
from gpu_parts import PARTS, Part, Setup, prepare
from jsonargparse import auto_cli
from machine import describe
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stylezoo.errors import StylezooError, check_choice
from stylezoo.files import replacing
from stylezoo.inference.stylizer import find_device
from stylezoo.studies.base import as_table
from stylezoo.studies.verdicts import Row

GRACE = 20.0
"""Seconds that the process of a part may take longer than its share, to start and to end."""


@dataclass
class Options:
    """Options of the check.

    Attributes:
        output: The folder of the results.
        device: Where to compute: ``cuda``, or ``cpu``.
        seconds: Time of the whole check.
        parts: Names of parts; null for all.
        quick: Tiny networks and images, and few of them.
        separate: Whether each part has a process of its own, which an error of CUDA ends; null does so on CUDA only.
        folder: Internal: runs one part in this process, with what is in this folder.
    """

    output: Path
    device: str = "cuda"
    seconds: float = 420.0
    parts: list[str] | None = None
    quick: bool = False
    separate: bool | None = None
    folder: Path | None = None


def rows_of(part: Part, setup: Setup, seconds: float) -> Iterator[Row]:
    """Measures the items of a part until its time is up; the others are named."""
    end = time.monotonic() + seconds
    for item in part.items(setup):
        label = dict(zip(part.labels, item, strict=True))
        if time.monotonic() > end:
            yield {**label, "error": "left out: the time of this part was up"}
            continue
        try:
            yield {**label, **part.measure(setup, *item)}
        except Exception as error:  # noqa: BLE001 - whatever fails is a result, and the rest goes on
            text = " ".join(f"{type(error).__name__}: {error}".split())
            yield {**label, "error": text[:300]}
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()


def shares(names: Sequence[str], seconds: float) -> float:
    """Returns the time of the first of some parts that have so many seconds together."""
    return seconds * PARTS[names[0]].share / sum(PARTS[name].share for name in names)


def in_process(options: Options, name: str, folder: Path, seconds: float) -> list[Row]:
    """Runs a part in a process of its own; returns its rows, and a last one with the reason if it ended early."""
    file = folder / f"{name}.json"
    command = [sys.executable, __file__, "--output", str(file), "--device", options.device, "--parts", f"[{name}]"]
    command += ["--quick", str(options.quick).lower(), "--seconds", str(seconds), "--folder", str(folder)]
    reason = None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE, check=False)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            reason = f"exit code {done.returncode}: {lines[-1][:300] if lines else 'no message'}"
    except subprocess.TimeoutExpired:
        reason = f"stopped after {seconds + GRACE:.0f} s"
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    return [*rows, {PARTS[name].labels[0]: "(the process)", "error": reason}] if reason else rows


def run_part(options: Options, folder: Path) -> None:
    """Runs the one part of ``options`` in this process and writes its rows, again after each of them."""
    (name,) = options.parts or []
    rows = []
    for row in rows_of(PARTS[name], Setup(find_device(options.device), options.quick, folder), options.seconds):
        rows.append(row)
        write(options.output, json.dumps(rows))


def write(file: Path, text: str) -> None:
    with replacing(file) as opened:
        opened.write(text.encode())


def page(facts: dict[str, Any], found: dict[str, list[Row]], seconds: float, command: str) -> str:
    """Returns the results in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = ["# GPU check", f"Machine: {machine}.", f"{seconds:.0f} seconds.", f"    {command}"]
    failed = [(name, row) for name, rows in found.items() for row in rows if row.get("error")]
    wrong = [
        (name, row) for name, rows in found.items() for row in rows if any(value is False for value in row.values())
    ]
    for title, chosen in (("Failed or left out", failed), ("Out of bounds", wrong)):
        entries = [
            f"- {name}, {', '.join(str(row[k]) for k in PARTS[name].labels if k in row)}" for name, row in chosen
        ]
        reasons = [f": {row['error']}" if row.get("error") else "" for _, row in chosen]
        texts = [entry + reason for entry, reason in zip(entries, reasons, strict=True)]
        lines.append(f"{title}: {len(chosen)}.\n\n" + "\n".join(texts) if chosen else f"{title}: none.")
    for name, rows in found.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines.append(f"## {PARTS[name].title}")
        lines += [PARTS[name].note] if PARTS[name].note else []
        cells = [{column: _shown(row.get(column)) for column in columns} for row in rows]
        lines.append(as_table(cells) if cells else "Nothing was measured.")
    return "\n\n".join(lines) + "\n"


def _shown(value: Any) -> str | int | float | None:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= 1000:
        return round(value)
    shown: str | int | float | None = float(f"{value:.3g}") if isinstance(value, float) else value
    return shown


def main(options: Options, command: str = "python benchmarks/gpu_check.py") -> dict[str, list[Row]]:
    """Runs all parts and writes the results; returns them by part."""
    names = options.parts or list(PARTS)
    for name in names:
        check_choice("parts", name, list(PARTS))
    device = find_device(options.device)
    separate = device.type == "cuda" if options.separate is None else options.separate
    begin, found = time.monotonic(), dict[str, list[Row]]()
    facts = describe(device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with TemporaryDirectory() as temporary, Progress(*columns) as progress:
        folder, bar = Path(temporary), progress.add_task("Preparing", total=len(names))
        prepare(folder, options.quick)
        for number, name in enumerate(names):
            progress.update(bar, description=PARTS[name].title, completed=number)
            seconds = shares(names[number:], max(0.0, options.seconds - (time.monotonic() - begin)))
            if separate:
                found[name] = in_process(options, name, folder, max(1.0, seconds - GRACE / 2))
            else:
                found[name] = list(rows_of(PARTS[name], Setup(device, options.quick, folder), seconds))
            taken = time.monotonic() - begin
            everything = {"machine": facts, "seconds": taken, "parts": found}
            write(options.output / "gpu_check.json", json.dumps(everything, indent=1))
            write(options.output / "gpu_check.md", page(facts, found, taken, command))
        progress.update(bar, completed=len(names))
    return found


def quiet() -> None:
    """Keeps Lightning's advice out of the output."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    given = auto_cli(Options, as_positional=False)
    quiet()
    try:
        if given.folder is not None:
            run_part(given, given.folder)
        else:
            main(given, " ".join(["python", "benchmarks/gpu_check.py", *sys.argv[1:]]))
            print(f"The results are in {given.output / 'gpu_check.md'}.")
    except StylezooError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # the parts that are done are written
        sys.exit(130)
