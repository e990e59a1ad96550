"""Measures what docs/huge_images.md says: memory, passes and errors of runs in tiles.

    python benchmarks/huge.py --output docs/huge_images                       # errors, passes, and the difference image
    python benchmarks/huge.py --output docs/huge_images --memory              # SANet beside AdaIN, 1024 and 2048 pixels
    python benchmarks/huge.py --output docs/huge_images --sizes 4096 8192     # from file to file
    python benchmarks/huge.py --output docs/huge_images --sizes 16384 --every 64   # its memory, in little time

With ``--every N`` only each Nth tile of a pass is computed and the others are zeros, which are kept, read and written as all
are: memory and disk are those of the whole run.

Each measurement of memory is a process of its own, whose VmHWM is read (Linux); ``STYLEZOO_MEMORY`` says how much memory it
may count on. All images are generated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stylezoo
from stylezoo.images import grid, write_image
from stylezoo.images.windows import WindowWriter, open_windows
from stylezoo.inference import Stylizer
from stylezoo.inference.engines import ENGINES
from stylezoo.inference.tiles import stylize_windows
from stylezoo.streaming import Stream, StreamedMap, Window, maps, whole
from stylezoo.studies.base import as_csv
from stylezoo.vgg import VGG

MODELS = (
    *("adain.slim", "efdm.slim", "multi_level_adain.slim", "linear_transfer.slim", "microast.wikiart", "sanet.slim"),
    *("multi_level_attention.slim", "stytr2.small", "johnson.starry_night", "cin.sixteen", "magenta.distilled"),
    *("msgnet.sixteen", "texture_nets.ocean_waves"),
)
WITH_NORMS = MODELS[-5:]
LAYERS = ("relu1_1", "relu2_1", "relu3_1")
AMPLIFIED = 10_000
REPEATED = 3
"""Runs of each system at 1024 pixels: what the C library keeps of freed memory differs from run to run."""


def drawn(window: tuple[int, int, int, int], height: int, width: int, phase: float = 0.0) -> Tensor:
    """A window (top, bottom, left, right) of an image (3, h, w) in [0, 1]: waves of all scales with edges, any size."""
    y, x = torch.meshgrid(torch.arange(*window[:2]) / height, torch.arange(*window[2:]) / width, indexing="ij")
    planes = []
    for channel in range(3):
        value = torch.zeros_like(x)
        for octave in range(9):
            angle, rate = 2.4 * octave + channel + phase, 2.0**octave
            value += torch.sin(6.2832 * rate * (x * math.cos(angle) + y * math.sin(angle)) + 3 * value + phase) / (
                octave + 1
            )
        planes.append(torch.sigmoid(2 * value + 1.5 * torch.sign(torch.sin(9 * x + 7 * y + channel + phase))))
    return torch.stack(planes)


def image(side: int, phase: float = 0.0) -> Tensor:
    """A square image."""
    return drawn((0, side, 0, side), side, side, phase)


def peak() -> float:
    """MiB of memory that the process has held at most."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def stylizer_of(name: str, engine: str = "eager", **controls: Any) -> Stylizer:
    """A model with a style."""
    model = stylezoo.load_model(name)
    styles = model.example_styles(image(512, 2.0))[:1] if model.kind != "single" else []
    return Stylizer(model, styles, engine=engine, **controls)


def run_untiled(name: str, side: int, engine: str) -> dict[str, Any]:
    """Stylizes one image without tiles."""
    stylizer = stylizer_of(name, engine=engine, tile=None)
    content, start = image(side)[None], time.perf_counter()
    stylizer(content)
    return {
        "model": name,
        "side": side,
        "engine": engine,
        "MiB": round(peak()),
        "seconds": round(time.perf_counter() - start),
    }


def skip_tiles(every: int) -> None:
    """Computes only each Nth tile from now on."""
    evaluate, calls = maps.evaluate, itertools.count()

    def sampled(targets: Mapping[maps.Node, Window]) -> dict[maps.Node, Tensor]:
        if next(calls) % every == 0:
            return evaluate(targets)
        return {node: torch.zeros(*node.shape[:2], *window.size, dtype=node.dtype) for node, window in targets.items()}

    maps.evaluate = sampled


def run_files(name: str, side: int, tile: int, every: int) -> dict[str, Any]:
    """Stylizes an image from file to file."""
    if every > 1:
        skip_tiles(every)
    stylizer, seen = stylizer_of(name, engine="auto", tile=tile), {"passes": 0, "tiles": 0}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "content.tif"), Path(folder, "output.tif")
        pattern = image(1024)  # repeated in all of it
        with WindowWriter(source, side, side) as writer:
            for top in range(0, side, 256):
                rows = pattern[:, top % 1024 : top % 1024 + 256].repeat(1, 1, -(-side // 1024))
                writer.write(top, 0, rows[..., :side])
        start = time.perf_counter()

        def count(number: int, total: int, passes: int) -> None:
            seen.update(passes=passes, tiles=total)
            if number % 16 == 0:
                print(f"{name} {side}: pass {passes}, {number}/{total}, {peak():.0f} MiB", file=sys.stderr, flush=True)

        like = next(stylizer.model.parameters())
        with open_windows(source) as reader:
            stylizer.engine.run(stylize_windows, stylizer.stream, reader, target, tile, like, on_tile=count)
    seconds = time.perf_counter() - start
    return {
        "model": name,
        "side": side,
        "tile": tile,
        "MiB": round(peak()),
        "seconds": round(seconds),
        **seen,
        "computed": f"1/{every}",
    }


def measured(arguments: list[str], memory: int) -> dict[str, Any]:
    """Runs this script in a process of its own and returns what it prints."""
    environment = {**os.environ, "STYLEZOO_MEMORY": str(memory)}
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(result, flush=True)
    return result


def compare(name: str, side: int, tile: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    """A model at once and in tiles: the largest difference, and the number of passes.

    Beside it, how much rounding is worth: the difference of the whole image to itself, computed by PyTorch's own convolutions;
    and the largest difference of features of the encoder that are computed in tiles and assembled.
    """
    content = image(side)[None]
    expected = stylizer_of(name, tile=None)(content)
    with torch.backends.mkldnn.flags(enabled=False):
        rounding = (stylizer_of(name, tile=None)(content) - expected).abs().max()
    stylizer = stylizer_of(name, tile=tile)
    stream = Stream.of((side, side), tile, content.device)
    with torch.inference_mode():
        (output,) = whole(stylizer.stream(StreamedMap.of(content, stream)))
    difference = (output - expected).abs()
    encoder, assembled = getattr(stylizer.model, "encoder", None), ""
    if isinstance(encoder, VGG):
        with torch.inference_mode():
            whole_features, features = (encoder(content, LAYERS, tile=t) for t in (None, tile))
        assembled = f"{max(float((features[layer] - whole_features[layer]).abs().max()) for layer in LAYERS):.1e}"
    row = {
        "model": name,
        "side": side,
        "tile": tile,
        "passes": stream.passes,
        "largest difference": f"{float(difference.max()):.1e}",
        "other convolutions": f"{float(rounding):.1e}",
        "features": assembled,
    }
    return row, output, difference


def thumbnail(name: str, side: int, tile: int) -> dict[str, Any]:
    """The error of statistics of a thumbnail, in steps of 8 bits, beside the contrast of the output."""
    content = image(side)[None]
    exact = stylizer_of(name, tile=tile)(content)
    near = stylizer_of(name, tile=tile, tile_statistics="thumbnail")(content)
    error = 255 * (exact - near).abs()
    return {
        "model": name,
        "side": side,
        "mean error / 255": round(float(error.mean()), 2),
        "largest error / 255": round(float(error.max()), 1),
        "standard deviation of the output / 255": round(255 * float(exact.std()), 1),
    }


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as CSV."""
    path.write_text(as_csv(rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--side", type=int, default=512, help="of the images that are compared")
    parser.add_argument("--memory", action="store_true", help="SANet beside AdaIN")
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help="of images from file to file")
    parser.add_argument("--thumbnail", type=int, help="side of the images whose thumbnails are measured, above 1024")
    parser.add_argument(
        "--limit", type=int, default=1500, help="MiB of memory that runs from file to file may count on"
    )
    parser.add_argument("--every", type=int, default=1, help="compute only each Nth tile of a pass")
    parser.add_argument("--run", nargs=3, metavar=("HOW", "MODEL", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.run:
        how, name, side = options.run
        run = (
            run_untiled(name, int(side), how)
            if how in ENGINES
            else run_files(name, int(side), options.tile, options.every)
        )
        print(json.dumps(run))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    common = [f"--output={options.output}", f"--tile={options.tile}", f"--every={options.every}"]
    if options.memory:
        pairs = (*(("adain.slim", 1024), ("sanet.slim", 1024)) * REPEATED, ("sanet.slim", 2048))
        rows = [
            measured([*common, "--run", engine, name, str(side)], 10**6)
            for engine in ("eager", "winograd")
            for name, side in pairs
        ]
        table(options.output / "attention.csv", rows)
    elif options.sizes:
        rows = [
            measured([*common, "--run", "files", name, str(side)], options.limit)
            for name in options.models
            for side in options.sizes
        ]
        table(options.output / "memory.csv", rows)
    elif options.thumbnail:
        table(
            options.output / "thumbnail.csv",
            [thumbnail(name, options.thumbnail, options.tile) for name in WITH_NORMS if name in options.models],
        )
    else:
        rows = []
        for name in options.models:
            row, output, difference = compare(name, options.side, options.tile)
            print(row, flush=True)
            rows.append(row)
            if name == options.models[0]:
                write_image(
                    grid([[output[0], (AMPLIFIED * difference[0]).clamp(0, 1)]]), options.output / "difference.jpg"
                )
        table(options.output / "exact.csv", rows)


if __name__ == "__main__":
    main()
