"""Measures the peak memory of reading and writing images in windows, against PyTorch alone.

    python benchmarks/windows_memory.py --side 16384 --output docs/windows_memory.csv

Each row is a process of its own: it imports `stylezoo.images.windows`, writes or reads an image of side x side pixels in
windows of 512 x 512, and reports its peak memory (VmHWM of Linux) after the import and at the end. An image is written once
per format, and read from the file that was written. The figures count all that the process has, code of PyTorch included.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli

from stylezoo.images.windows import WindowWriter, open_windows

FORMATS = ("tif", "png", "jpg")
WINDOW = 512
COLUMNS = ["format", "what", "side", "seconds", "import_MB", "peak_MB", "file_MB"]


def peak() -> float:
    """Returns the peak memory of this process in MB (10^6 bytes)."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def write(path: str, side: int) -> None:
    """Writes an image: a color gradient with some noise."""
    noise = torch.rand(3, WINDOW, WINDOW, generator=torch.Generator().manual_seed(0)).mul_(0.05)
    with WindowWriter(path, side, side) as writer:
        for top in range(0, side, WINDOW):
            for left in range(0, side, WINDOW):
                height, width = min(WINDOW, side - top), min(WINDOW, side - left)
                color = torch.tensor([top / side, left / side, 0.5]).mul_(0.95)
                writer.write(top, left, noise[:, :height, :width] + color[:, None, None])


def read(path: str, side: int) -> None:
    """Reads all windows of an image."""
    with open_windows(path) as image:
        for top in range(0, side, WINDOW):
            for left in range(0, side, WINDOW):
                image.read(top, min(top + WINDOW, side), left, min(left + WINDOW, side))


def measure(what: str, path: str, side: int) -> None:
    """Runs one row in this process and prints its figures."""
    before, start = peak(), time.perf_counter()
    {"write": write, "read": read}[what](path, side)
    print(f"{time.perf_counter() - start:.1f} {before:.0f} {peak():.0f}")


def main(side: int = 16384, output: str | None = None, formats: tuple[str, ...] = FORMATS) -> None:
    """Measures all formats.

    Args:
        side: Side of the image in pixels.
        output: A CSV file for the figures.
        formats: Suffixes of the files.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in formats:
            path = Path(folder, f"image.{suffix}")
            for what in ("write", "read"):
                command = [sys.executable, __file__, what, str(path), str(side)]
                words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                rows.append([suffix, what, side, *words, f"{path.stat().st_size / 1e6:.0f}"])
                print(*rows[-1], flush=True)
            path.unlink()
    if output is not None:
        with open(output, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in ("write", "read"):
        measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        auto_cli(main, as_positional=False)
