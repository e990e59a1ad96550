"""Measures `stylezoo.transforms.RandomStylize`: a batch in one call against one image at a time, in turn, in one process.

    python benchmarks/augmentation.py --output docs/augmentation.csv

Each round times three ways with the same images and styles, and a ratio is that of the times of one round. ``one`` calls the transform
for each image, ``batch`` once for the batch, in both of which every image has a style of its own; ``encode`` is what a loop
around `stylezoo.inference.Stylizer` does that reads and encodes the style for each image. The table has medians, and the smallest
and largest ratio of a round.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from jsonargparse import auto_cli

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.images import to_tensor
from stylezoo.inference import Stylizer
from stylezoo.inference.tuning import processor
from stylezoo.studies.base import as_csv
from stylezoo.transforms import RandomStylize


@dataclass
class Options:
    """Options of the measurement.

    Attributes:
        output: The CSV file to write.
        models: Names of weights, or model files.
        sizes: Sides of the images in pixels.
        batch: Number of images.
        styles: Number of styles, which are procedural paintings.
        style_size: Side of the styles in pixels.
        rounds: Number of rounds.
        threads: Number of threads; 0 for PyTorch's own choice.
        device: Where to compute.
        clock: ``wall``, or ``cpu`` for the time of the process on all processors.
    """

    output: Path
    models: tuple[str, ...] = ("adain.slim", "microast.wikiart", "johnson.starry_night")
    sizes: tuple[int, ...] = (32, 64, 128)
    batch: int = 16
    styles: int = 8
    style_size: int = 256
    rounds: int = 3
    threads: int = 1
    device: str = "cpu"
    clock: Literal["wall", "cpu"] = "wall"


def ways(name: str, size: int, options: Options) -> dict[str, Callable[[], object]]:
    """Returns the functions to measure by name."""
    model = stylezoo.load_model(name).to(options.device)
    paintings = [draw("paintings", index, options.style_size) for index in range(options.styles)]
    if model.kind == "single":
        paintings = []
    stylize = RandomStylize(1.0, styles=paintings or None, model=model)
    images = torch.stack([to_tensor(draw("photos", index, size)) for index in range(options.batch)]).to(options.device)
    tensors = [to_tensor(painting) for painting in paintings]

    def encode() -> list[torch.Tensor]:
        outputs = []
        for index, image in enumerate(images):
            style = tensors[index % len(tensors) :][:1] if tensors else []
            outputs.append(Stylizer(model, style, engine=stylize.runner)(image[None]))
        return outputs

    return {
        "encode": encode,
        "one": lambda: [stylize(image) for image in images],
        "batch": lambda: stylize(images),
    }


def main(options: Options) -> None:
    """Measures and writes the table."""
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    rows = []
    for name in options.models:
        for size in options.sizes:
            functions = ways(name, size, options)
            seconds: dict[str, list[float]] = {way: [] for way in functions}
            for number in range(options.rounds + 1):
                for way, function in functions.items() if number % 2 else reversed(functions.items()):
                    start = clock()
                    function()
                    if options.device.startswith("cuda"):
                        torch.cuda.synchronize()
                    if number:  # the first round warms up
                        seconds[way].append(clock() - start)
            row: dict[str, object] = {"model": name, "size": size, "batch": options.batch}
            row |= {f"{way} ms": round(1000 * median(times) / options.batch, 2) for way, times in seconds.items()}
            for way in ("one", "encode"):
                ratios = [slow / fast for slow, fast in zip(seconds[way], seconds["batch"], strict=True)]
                row[f"{way} / batch"] = round(median(ratios), 2)
                row[f"{way} / batch, range"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {processor()}, torch {torch.__version__}, Python {platform.python_version()}, ")
        file.write(f"threads {torch.get_num_threads()}, device {options.device}, clock {options.clock}\n")
        file.write(as_csv(rows))


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
