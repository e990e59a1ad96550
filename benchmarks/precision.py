"""What bf16-mixed costs: the same training run in 32 and in 16 bits, for every trainable system.

    python benchmarks/precision.py --output docs/precision.csv

Every system is trained from its own initialisation with its own learning rate, on procedural pictures, four times:
in ``32-true``; twice in ``32-true`` with noise of 1e-6 on the input pictures, which shows how far runs drift apart that
differ by next to nothing; and in ``bf16-mixed``. The weights are then compared on one fixed batch of validation
pictures, always in float32. Columns ending in ``_difference`` are relative to the first run; that of the noise is the
larger of two. ``train_`` columns are means of the losses of the last ten steps, as training computes them.
"""

from __future__ import annotations

import csv
import inspect
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

import stylezoo
from stylezoo import StyleModel
from stylezoo.data import Pairs, Synthetic
from stylezoo.registry import get


class NoisyPairs(Pairs):
    """Pairs whose pictures carry a little noise."""

    noise = 0.0

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return {name: x + self.noise * torch.randn_like(x) for name, x in batch.items()} if self.noise else batch


class Losses(Callback):
    """The training loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def in_float32(module: nn.Module) -> None:
    """Keeps a module out of mixed precision."""
    forward = module.forward

    def full(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(next(module.parameters()).device.type, enabled=False):
            return forward(*(a.float() if isinstance(a, Tensor) else a for a in args), **kwargs)

    module.forward = full


def create(system: str, encoder: str, encoder_weights: str | None, paintings: Synthetic) -> StyleModel:
    settings: dict[str, Any] = {"encoder": encoder, "encoder_weights": encoder_weights}
    arguments = inspect.signature(get(system)).parameters
    if "style_image" in arguments:
        settings["style_image"] = str(paintings.root / "00001.png")
    if "styles" in arguments:
        settings["styles"] = str(paintings.root)
    seed_everything(0, verbose=False)
    return stylezoo.create_model(system, **settings)


def train(
    model: StyleModel, data: Pairs, steps: int, precision: Any, accelerator: str, seed: int
) -> tuple[float, float, float, float]:
    """(validation loss before, validation loss after, mean of the last 10 training losses, seconds)."""
    losses = Losses()
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[losses],
    )
    before = validation_loss(model, data)
    seed_everything(seed, verbose=False)  # of the noise; the order of the pictures is the data's
    started = time.monotonic()
    trainer.fit(model, data)
    seconds = time.monotonic() - started
    return before, validation_loss(model.cpu(), data), sum(losses.values[-10:]) / len(losses.values[-10:]), seconds


def validation_loss(model: StyleModel, data: Pairs) -> float:
    """The mean loss of some fixed pictures that training does not see, in float32."""
    data.setup("validate")
    model.eval()
    with torch.no_grad():
        losses = [torch.stack(list(model.losses(**batch).values())).sum() for batch in data.val_dataloader()]
    model.train()
    return float(torch.stack(losses).mean())


def main(
    output: Path,
    systems: list[str] | None = None,
    steps: int = 100,
    crop: int = 64,
    batch_size: int = 4,
    validation: int = 32,
    encoder: str = "vgg19_random/4",
    encoder_weights: str | None = None,
    float32_encoder: bool = False,
    accelerator: str = "cpu",
    root: str | None = None,
) -> None:
    """Trains the systems and writes the table.

    Args:
        output: The table, a CSV file.
        systems: Some of the trainable systems; null for all.
        steps: Optimiser steps of each run.
        crop: Side of the training pictures.
        batch_size: Pictures in a training batch.
        validation: Pictures that the trained weights are compared on.
        encoder: The encoder, and the network of the losses.
        encoder_weights: A file for it.
        float32_encoder: Whether the frozen encoder stays in float32 when the rest is bf16.
        accelerator: ``cpu`` or ``gpu``.
        root: Where the pictures are drawn; null for a temporary folder.
    """
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = root or temporary
        styles = Synthetic("paintings", count=8, resolution=2 * crop, root=cache, drawing_seed=1)  # of cin
        styles.prepare_data()
        for system in systems or [n for n in stylezoo.list_models() if get(n).kind != "optimisation"]:
            runs = []
            for precision, noise, seed in (
                ("32-true", 0.0, 0),
                ("bf16-mixed", 0.0, 0),
                ("32-true", 1e-6, 1),
                ("32-true", 1e-6, 2),
            ):
                style = None
                if get(system).kind == "arbitrary":
                    style = Synthetic("paintings", count=4 * validation, resolution=2 * crop, root=cache, holdout=0.25)
                data = NoisyPairs(
                    Synthetic("photos", count=4 * validation, resolution=2 * crop, root=cache, holdout=0.25),
                    style,
                    batch_size=batch_size,
                    size=crop + crop // 4,
                    crop=crop,
                    num_workers=0,
                    val_samples=validation,
                )
                data.noise = noise
                data.prepare_data()
                model = create(system, encoder, encoder_weights, styles)
                if float32_encoder:
                    for network in [vgg for _, vgg in model.encoders()] or [model.loss_network]:
                        in_float32(network)
                runs.append(train(model, data, steps, precision, accelerator, seed))
            full, half, *noisy = runs
            differences = [run[1] / full[1] - 1 for run in noisy]
            row = {"system": system, "before": full[0], "fp32": full[1], "bf16": half[1]}
            row |= {"bf16_difference": half[1] / full[1] - 1, "noise_difference": max(differences, key=abs)}
            train_differences = [run[2] / full[2] - 1 for run in noisy]
            row |= {"train_fp32": full[2], "train_bf16": half[2], "train_bf16_difference": half[2] / full[2] - 1}
            row |= {"train_noise_difference": max(train_differences, key=abs)}
            row |= {"seconds_fp32": full[3], "seconds_bf16": half[3]}
            rows.append({k: v if isinstance(v, str) else float(f"{v:.5g}") for k, v in row.items()})
            print(*(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
