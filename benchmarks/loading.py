"""Speed of the training loader on large JPEGs, and what decoding them at a fraction of their size changes.

    python benchmarks/loading.py --output docs/loading.csv
    python benchmarks/loading.py --output docs/reduced_decoding.csv --quality FOLDER_OF_LARGE_JPEGS

The first command writes JPEGs of 1600 x 2000 pixels, the size of WikiArt's, to a temporary folder, and reads batches of crops
from them in the process itself (no workers), in turns: decoded in full, decoded at a fraction of their size (what training
does), and prepared (`python -m stylezoo prepare`) as raw pixels and as JPEG. Times are milliseconds of the CPU per image,
medians of the rounds with the smallest and the largest, and ``speedup`` is relative to decoding in full. The second command
compares images that were decoded at a fraction and then resized with those that were decoded in full: mean absolute
difference in gray levels of 255, by the margin of `stylezoo.images.read_image`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stylezoo.data import Folder, stream
from stylezoo.data.prepared import prepare
from stylezoo.data.stream import shorter
from stylezoo.files import replacing
from stylezoo.images import folder_images, read_image
from stylezoo.images.reading import opened, parsed
from stylezoo.studies.base import as_csv

SIZE, CROP, BATCH = 512, 256, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quality", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = differences(arguments.quality) if arguments.quality else speeds(arguments.images, arguments.rounds)
    text = as_csv(rows)
    with replacing(arguments.output) as file:
        file.write(text.encode())
    print(text)


def speeds(count: int, rounds: int) -> list[dict[str, Any]]:
    """Returns a row per way of reading."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "jpegs")
        draw(root, count)
        prepare(root, Path(name, "jpegs.prepared"), SIZE)
        prepare(root, Path(name, "small.prepared"), SIZE, "jpeg")
        ways: dict[str, Callable[[], float]] = {
            "decoded in full": lambda: epoch(Folder(str(root), **options()), margin=float("inf")),
            "decoded at a fraction": lambda: epoch(Folder(str(root), **options())),
            "prepared, jpeg": lambda: epoch(Folder(str(Path(name, "small")), prepared=True, **options())),
            "prepared, raw": lambda: epoch(Folder(str(root), prepared=True, **options())),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way in list(ways) if number % 2 else reversed(list(ways)):
                milliseconds = ways[way]()
                if number:  # the first round fills the cache of the file system
                    times[way].append(milliseconds)
    full = statistics.median(times["decoded in full"])
    return [
        {
            "way": way,
            "ms_per_image": round(statistics.median(values), 3),
            "least": round(min(values), 3),
            "most": round(max(values), 3),
            "speedup": round(full / statistics.median(values), 1),
            "images": count,
            "rounds": rounds,
        }
        for way, values in times.items()
    ]


def options() -> dict[str, Any]:
    return {"batch_size": BATCH, "size": SIZE, "crop": CROP, "num_workers": 0, "holdout": 0}


def draw(folder: Path, count: int) -> None:
    """Writes JPEGs of smooth shapes with some grain, 0.7 MB each."""
    folder.mkdir()
    for index in range(count):
        rng = np.random.default_rng(index)
        shapes = Image.fromarray(rng.integers(0, 256, (25, 20, 3), dtype=np.uint8))
        image = np.asarray(shapes.resize((1600, 2000), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 6, (2000, 1600, 1))
        Image.fromarray((image + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{index:03}.jpg", quality=90)


def epoch(folder: Folder, margin: float | None = None) -> float:
    """Returns the milliseconds of the CPU per image of one pass of the loader."""
    before = stream.MARGIN
    stream.MARGIN = before if margin is None else margin
    try:
        folder.setup("fit")
        loader = folder.train_dataloader()
        start = time.process_time()
        count = sum(len(batch["content"]) for batch in loader)
        return 1000 * (time.process_time() - start) / count
    finally:
        stream.MARGIN = before


def differences(folder: Path) -> list[dict[str, Any]]:
    """Returns a row per margin: how much images of the folder differ that are decoded at half their size."""
    found: dict[float, list[float]] = {margin: [] for margin in (1.0, 1.25, 1.5, 1.75, 2.0)}
    for path in folder_images(folder):
        with opened(path) as (name, file):
            header = parsed(file, name)
            width, height = header.size
            if header.format != "JPEG" or not 900 <= min(header.size) <= 5000:
                continue
        whole = read_image(path)
        for margin, values in found.items():
            side = int(min(width, height) / 2 / margin)  # so that half the size is just enough
            reduced = read_image(path, side, margin)
            if reduced.size == whole.size:
                continue
            size = shorter(*whole.size, side)
            one, other = (
                np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
                for image in (whole, reduced)
            )
            values.append(float(np.abs(one - other).mean()))
    return [
        {
            "margin": margin,
            "mean": round(statistics.mean(values), 2),
            "median": round(statistics.median(values), 2),
            "largest": round(max(values), 2),
            "images": len(values),
        }
        for margin, values in found.items()
    ]


if __name__ == "__main__":
    main()
