"""Peak memory and time of an iteration of Gatys, with the features of the whole image and in tiles.

    python benchmarks/gatys_memory.py --output docs/gatys_memory.csv
    python benchmarks/gatys_memory.py --sizes 2896x2172 --memory low tile=1024 --output more.csv

Each case is a process of its own, so that its peak (VmHWM of Linux) is not that of another one; the memory of the process
with the model, before the optimization begins, is given beside it. The network is VGG-19 of full width without trained weights, which takes the
same memory and time, optimized by Adam at one scale as in ``experiments/gatys_modern.yaml``; the style has 512 x 384 pixels.
Memory is given in MiB, and time in seconds of the CPU, which do not depend on what else the machine does.
``--winograd`` computes convolutions as `fit --winograd true` does, in half the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from stylezoo.files import replacing
from stylezoo.models.gatys import Gatys
from stylezoo.studies.base import as_csv
from stylezoo.training.winograd import WinogradTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1024x1024"], help="WIDTHxHEIGHT")
    parser.add_argument("--memory", nargs="+", default=["fast", "low", "tile=1024"], help="fast, low or tile=N")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--winograd", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measured(**json.loads(arguments.case))))
        return
    rows = []
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        for memory in arguments.memory:
            tile = int(memory.removeprefix("tile=")) if memory.startswith("tile=") else None
            if tile is not None and tile >= max(width, height):
                continue  # the whole image
            case = {"width": width, "height": height, "memory": memory if tile is None else "fast", "tile": tile}
            options = json.dumps({**case, "iterations": arguments.iterations, "winograd": arguments.winograd})
            command = [sys.executable, __file__, "--output", str(arguments.output), "--case", options]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            found = json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {"failed": run.returncode}
            rows.append({"width": width, "height": height, "memory": memory, **found})
            print(rows[-1], flush=True)
            empty = dict.fromkeys(name for row in rows for name in row)  # a run that failed has no measurements
            with replacing(arguments.output) as file:
                file.write(as_csv([empty | row for row in rows]).encode())


def measured(
    width: int, height: int, memory: str, tile: int | None, iterations: int, winograd: bool
) -> dict[str, float | int | str | bool]:
    """Returns peak memory, and the median of the seconds per iteration."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Gatys(encoder="vgg19_random", memory=memory, iterations=iterations, min_scale=None, optimizer="adam")
    sizes = ((height, width), (384, 512))
    content, style = (F.interpolate(torch.rand(1, 3, 9, 12), size, mode="bicubic").clamp(0, 1) for size in sizes)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = status("VmRSS")
    moments = [time.process_time()]
    model.on_iteration = lambda now: moments.append(time.process_time())
    with WinogradTraining() if winograd else nullcontext():
        output = model.decode(content, model.encode_style(style), tile=tile)
    assert output.isfinite().all()
    seconds = [later - sooner for sooner, later in pairwise(moments)]
    return {
        "peak_mib": status("VmHWM"),
        "before_mib": before,
        "targets_and_first_iteration_s": round(seconds[0], 2),
        "iteration_s": round(statistics.median(seconds[1:]), 2) if seconds[1:] else "",
        "winograd": winograd,
    }


def status(name: str) -> int:
    """Returns a number of /proc/self/status in MiB."""
    lines: list[Any] = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024)


if __name__ == "__main__":
    main()
