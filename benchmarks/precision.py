"""Measures the cost of 16 bits: the same hundred training steps in 32 and in 16 bits, for every trainable system.

    python benchmarks/precision.py --output docs/precision.csv

Every system's recipe is trained through the command line for ``warmup`` steps in 32 bits, from its own initialization.
From that checkpoint it is trained for ``steps`` more steps in ``32-true`` and in ``bf16-mixed``, with the same batches.
This is repeated several times, each time with other batches. The losses of validation images, evaluated in 32 bits, are
compared.

A single pair of runs would compare noise: at a learning rate of 1e-3 a step changes the loss by several percent, and two
runs that differ by a rounding soon take different steps. The loss is therefore that of the averaged weights (the callback
``EMA``: with a decay of 0.95 the last twenty steps), in which the fluctuations of single steps cancel, and the difference
is the mean over the repeats. There are as many repeats as it takes until the standard error of that mean is at most
``standard_error``, and at least ``repeats``; the size of the difference has no influence on their number.
"""

from __future__ import annotations

import csv
import logging
import tempfile
import warnings
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from jsonargparse import auto_cli
from short_runs import arguments, copy_styles, read_rows, recipes, write_rows

from stylezoo.cli import main as command_line
from stylezoo.data import Synthetic

OPTIONS = {
    "cin": ["--model.width=0.25"],
    "johnson": ["--model.width=0.25"],
    "magenta_mobile": ["--model.lr=1e-3", "--model.augment=false"],  # as the recipe says on training from scratch
    "msgnet": ["--model.ngf=8"],
    "stytr2_small": ["--model.warmup=50"],
}
"""Further options of recipes whose networks or schedules are too large for a few hundred steps on a CPU."""


def train(options: list[str], folder: Path, steps: int, precision: str, *more: str) -> tuple[Path, float]:
    """Trains up to a step; returns the checkpoint and its validation loss in 32 bits."""
    run = [*options, f"--trainer.logger.save_dir={folder}", "--trainer.logger.version=run"]
    fit = [f"--trainer.max_steps={steps}", f"--trainer.precision={precision}", "--trainer.limit_val_batches=0"]
    command_line(["fit", *run, "--trainer.logger.name=fit", *fit, *more])
    checkpoint = folder / "fit" / "run" / "checkpoints" / "last.ckpt"
    command_line(["validate", *run, "--trainer.logger.name=val", f"--ckpt_path={checkpoint}"])
    with (folder / "val" / "run" / "metrics.csv").open(newline="") as file:
        return checkpoint, float(next(csv.DictReader(file))["val/loss"])


def error(values: list[float]) -> float:
    """Computes the standard error of the mean."""
    return stdev(values) / sqrt(len(values))


@dataclass
class Options:
    """Options of the comparison of training in 32 and in 16 bits.

    Attributes:
        output: The table, a CSV file.
        systems: Systems, or recipes such as ``johnson_author``; null for all trainable systems that the table lacks.
        warmup: Optimizer steps in 32 bits before the comparison.
        steps: Optimizer steps of each of the compared runs.
        repeats: The smallest number of pairs of compared runs, at least 2.
        most_repeats: The largest number, however large the standard error is.
        standard_error: Standard error of the mean relative difference below which there are no further repeats.
        decay: Decay of the average of the weights; 0 compares the weights of the last step.
        crop: Side of the training images, which are drawn.
        batch_size: Images in a training batch.
        validation: Number of images of the compared loss.
        encoder: The encoder, and the network of the losses.
        encoder_weights: A file for it.
        precision: The precision that is compared with 32-true: ``bf16-mixed``, or ``16-mixed`` on a GPU.
        accelerator: ``cpu`` or ``gpu``.
        options: Further options of the command line by recipe.
    """

    output: Path
    systems: list[str] | None = None
    warmup: int = 200
    steps: int = 100
    repeats: int = 3
    most_repeats: int = 16
    standard_error: float = 0.01
    decay: float = 0.95
    crop: int = 32
    batch_size: int = 4
    validation: int = 32
    encoder: str = "vgg19_random/8"
    encoder_weights: str | None = None
    precision: str = "bf16-mixed"
    accelerator: str = "cpu"
    options: dict[str, list[str]] = field(default_factory=lambda: dict(OPTIONS))


def main(options: Options) -> None:
    """Trains the systems and writes the table, a row when its system is done; rows of an earlier run are kept."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = read_rows(options.output)
    with tempfile.TemporaryDirectory() as temporary:
        drawn = {"count": 4 * options.validation, "resolution": 2 * options.crop, "root": temporary}
        photos, paintings = (Synthetic(kind, **drawn) for kind in ("photos", "paintings"))
        for images in (photos, paintings):
            images.prepare_data()
        styles = Path(temporary) / "styles"
        copy_styles(paintings.root, styles)
        for recipe in options.systems or [name for name in recipes() if name not in rows]:
            framing = (options.crop, options.batch_size, options.encoder, options.encoder_weights)
            common = arguments(recipe, photos.root, paintings.root, styles, *framing)
            rows[recipe] = compare(options, recipe, common, Path(temporary) / recipe)
            print(*(f"{k}={v}" for k, v in rows[recipe].items()), flush=True)
            write_rows(rows, options.output)


def compare(options: Options, recipe: str, common: list[str], folder: Path) -> dict[str, str]:
    """Trains one recipe in both precisions, several times; returns its row.

    Args:
        options: The options.
        recipe: The recipe.
        common: Options of all runs.
        folder: A folder for the runs.
    """
    common += [f"--trainer.accelerator={options.accelerator}", "--trainer.devices=1", "--trainer.logger=CSVLogger"]
    common += ["--trainer.enable_model_summary=false", "--progress.seconds_per_line=1e9"]
    common += ["--trainer.val_check_interval=null", "--images.every_n_steps=0"]
    common += [f"--data.val_samples={options.validation}", "--data.content.holdout=0.25"]
    common += options.options.get(recipe, [])
    if "--data.style=Folder" in common:
        common.append("--data.style.holdout=0.25")
    start, warm = train(common, folder / "warm", options.warmup, "32-true")
    more = ["--trainer.callbacks+=EMA", f"--trainer.callbacks.decay={options.decay}", f"--ckpt_path={start}"]
    full: list[float] = []
    half: list[float] = []
    differences: list[float] = []
    while len(full) < options.repeats or (
        error(differences) > options.standard_error and len(full) < options.most_repeats
    ):
        batches = f"--data.seed={len(full) + 1}"
        for bits, losses in (("32-true", full), (options.precision, half)):
            run = folder / f"{len(losses)}-{bits}"
            losses.append(train(common, run, options.warmup + options.steps, bits, *more, batches)[1])
        differences.append(half[-1] / full[-1] - 1)
    return {
        "recipe": recipe,
        "encoder": options.encoder,
        "options": " ".join(options.options.get(recipe, [])),
        "precision": options.precision,
        "repeats": str(len(full)),
        "warm": f"{warm:.5g}",
        "32_bits": f"{fmean(full):.5g}",
        "16_bits": f"{fmean(half):.5g}",
        "difference": f"{fmean(differences):+.4f}",
        "standard_error": f"{error(differences):.4f}",
    }


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
