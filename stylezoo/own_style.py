"""`train_style`: a network for the style of one image, by the recipe `experiments/own_style.yaml` and the ordinary `fit`."""

from __future__ import annotations

import math
import sys
from datetime import timedelta
from pathlib import Path

import torch

from stylezoo import checkpoints
from stylezoo.errors import StylezooError
from stylezoo.images import list_images, read_image
from stylezoo.registry import RECIPES
from stylezoo.trainer_cli import StyleCLI

LONG_SIDE = 512
"""Pixels that the longer side of a painting should have at least."""


def train_style(
    painting: str,
    output: str,
    content: str | None,
    run: str | None,
    minutes: float,
    steps: int | None,
    style_size: int | None,
    resume: bool,
) -> list[str]:
    """Trains a network, or continues its training, and writes it as a model file; see `stylezoo.commands.train_style`.

    Returns:
        Sentences that say where the run is, such as in runs/X/version_0, how far it came, and how to continue it.

    Raises:
        StylezooError: If an argument does not fit; the message says what to do.
        ImageError: If the painting cannot be read.
    """
    folder = Path(run) if run is not None else Path("runs") / Path(output).stem
    _check(painting, Path(output), content, minutes, steps, style_size)
    last = newest_checkpoint(folder) if resume else None
    if resume and last is None:
        raise StylezooError(f"There is no training to continue in {folder}: leave --resume out to start one.")
    seconds = 60 * minutes + (_seconds_trained(last) if last is not None else 0)
    options: dict[str, list[object]] = {
        "config": [RECIPES / "johnson.yaml", RECIPES / "own_style.yaml"],
        "model.style_image": [painting],
        "trainer.max_time": [_duration(seconds)],
        "trainer.logger.save_dir": [folder.parent],
        "trainer.logger.name": [folder.name],
    }
    if content is not None:
        options |= {"data.content": ["Folder"], "data.content.root": [content]}
    if steps is not None:
        options["trainer.max_steps"] = [steps]
    if style_size is not None:
        options["model.style_size"] = [style_size]
    if last is not None:
        options["ckpt_path"] = [last]
    try:
        cli = StyleCLI(
            ["fit", *(f"--{name}={value}" for name, values in options.items() for value in values)], next_step=False
        )
    except (KeyboardInterrupt, SystemExit):
        if newest_checkpoint(folder) is not None:
            print(f"The training is in {folder}: the same command with --resume continues it.")
        raise
    trained = newest_checkpoint(folder)
    assert trained is not None
    checkpoints.save_model(checkpoints.load_model(trained), output)
    return [f"The run is in {trained.parents[1]}.", ending(minutes, cli.trainer.global_step, cli.trainer.max_steps)]


def ending(minutes: float, done: int, steps: int) -> str:
    """Returns why a training has ended, and how to continue it.

    >>> ending(4.0, 96, 600)
    '4 minutes are over after step 96 of 600; --resume continues it.'
    >>> ending(4.0, 600, 600)
    'All 600 steps are done; --resume with more --steps continues it.'
    """
    if done >= steps:
        return f"All {steps} steps are done; --resume with more --steps continues it."
    time = "1 minute is" if minutes == 1 else f"{minutes:g} minutes are"
    return f"{time} over after step {done} of {steps}; --resume continues it."


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the last checkpoint of the last run in a folder, whose runs are version_0, version_1 ...; None if there is none."""
    return max(folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, default=None)


def _check(
    painting: str, output: Path, content: str | None, minutes: float, steps: int | None, style_size: int | None
) -> None:
    """Checks what can be checked in no time, and says if the painting is small."""
    if output.suffix != ".safetensors":
        raise StylezooError(f"--output is a file that ends in .safetensors, not {output}.")
    if not (math.isfinite(minutes) and minutes > 0):
        raise StylezooError(f"minutes must be more than 0, not {minutes}.")
    for name, value, lowest in (("steps", steps, 1), ("style_size", style_size, 16)):
        if value is not None and value < lowest:
            raise StylezooError(f"{name} must be {lowest} or more, not {value}.")
    if content is not None and not list_images(content):
        raise StylezooError(
            f"There is no image in {content}: give --content a folder of photos, or leave it out for procedural ones."
        )
    size, wanted = read_image(painting).size, style_size or LONG_SIDE
    if max(size) < wanted:
        print(
            f"stylezoo: {painting} has {size[0]} x {size[1]} pixels: an image with {wanted} or more on its longer side shows"
            " more of the style, if there is one.",
            file=sys.stderr,
        )


def _seconds_trained(checkpoint: Path) -> float:
    """How long the run of a checkpoint has trained, which counts towards the limit of a resumed run."""
    try:
        callbacks = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"]
        return float(callbacks["Timer"]["time_elapsed"]["train"])
    except Exception as error:  # torch.load raises anything on damaged files
        raise StylezooError(
            f"{checkpoint} cannot be continued: start anew in another folder (--run FOLDER)."
        ) from error


def _duration(seconds: float) -> str:
    """The time as DD:HH:MM:SS, at least a second.

    >>> _duration(90061)
    '01:01:01:01'
    """
    whole = timedelta(seconds=max(1, math.ceil(seconds)))
    hours, rest = divmod(whole.seconds, 3600)
    return f"{whole.days:02d}:{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
