"""What a run of `fit` ends with: a table of what was done, and the command to type next."""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from pathlib import Path

import rich
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.markup import escape
from rich.table import Table

from stylezoo.module import StyleModel


def print_summary(trainer: Trainer, model: LightningModule, seconds: float) -> None:
    """Prints steps, time, losses and the checkpoint of a run, and how to stylize with it.

    Args:
        trainer: After its run.
        model: What was trained.
        seconds: How long the run took.
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    checkpoint = last_checkpoint(trainer)
    table.add_row("steps", f"{trainer.global_step:,}")
    table.add_row("time", str(timedelta(seconds=round(seconds))))
    for name, value in sorted(trainer.callback_metrics.items()):
        if name.startswith(("train/", "val/")) or name == "loss":
            table.add_row(escape(name), f"{float(value):.4g}")
    table.add_row("checkpoint", escape(str(checkpoint or "none was written")))
    console = rich.get_console()
    console.print(table)
    if checkpoint is not None and isinstance(model, StyleModel):
        # not by the console, which would break the line
        print(f"Next: {next_command(model, checkpoint)}", flush=True)


def next_command(model: StyleModel, checkpoint: Path) -> str:
    """Returns the command that stylizes with a checkpoint.

    Args:
        model: What was trained.
        checkpoint: The file.
    """
    style = {"single": "", "multi": " --style 0"}.get(model.kind, " --style painting.jpg")
    path = shlex.quote(str(checkpoint))
    return f"python -m stylezoo stylize --model {path} --content photo.jpg{style} --output out.png"


def last_checkpoint(trainer: Trainer) -> Path | None:
    """Returns the newest checkpoint of a run, as seen from the working directory; None if there is none."""
    written = (
        path
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        for path in (callback.last_model_path, callback.best_model_path)
    )
    path = next((path for path in written if path and os.path.exists(path)), None)
    if path is None:
        return None
    return Path(os.path.relpath(path)) if Path(path).resolve().is_relative_to(Path.cwd()) else Path(path)
