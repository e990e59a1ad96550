"""What 16 bits cost: the same hundred training steps in 32 and in 16 bits, for every trainable system.

    python benchmarks/precision.py --output docs/precision.csv

Every system is trained from its own initialisation with its own learning rate, on procedural pictures, for ``warmup``
steps in 32 bits. From that checkpoint it goes on for ``steps`` steps three times: in ``32-true``, in ``bf16-mixed``,
and in ``32-true`` with noise of 1e-6 on the input pictures, which shows how far runs drift apart that differ by next to
nothing. The weights are then compared on fixed validation pictures, always in float32; columns ending in
``_difference`` are relative to the 32-bit run.
"""

from __future__ import annotations

import csv
import inspect
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

import stylezoo
from stylezoo import StyleModel
from stylezoo.data import Pairs, Synthetic
from stylezoo.registry import get


class NoisyPairs(Pairs):
    """Pairs whose pictures carry a little noise."""

    noise = 0.0

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return {name: x + self.noise * torch.randn_like(x) for name, x in batch.items()} if self.noise else batch


def create(system: str, encoder: str, encoder_weights: str | None, paintings: Synthetic) -> StyleModel:
    arguments = inspect.signature(get(system)).parameters
    choices = {
        "encoder": encoder,
        "encoder_weights": encoder_weights,
        "style_image": str(paintings.root / "00001.png"),
        "styles": str(paintings.root),
    }
    seed_everything(0, verbose=False)
    return stylezoo.create_model(system, **{name: choices[name] for name in choices if name in arguments})


def train(model: StyleModel, data: Pairs, steps: int, precision: Any, accelerator: str, start: Path | None) -> Trainer:
    """Trains up to a step, from the beginning or from a checkpoint."""
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
    )
    trainer.fit(model, data, ckpt_path=None if start is None else str(start), weights_only=True)
    return trainer


@torch.no_grad()
def validation_loss(model: StyleModel, data: Pairs) -> float:
    """The mean loss of some fixed pictures that training does not see, in float32."""
    data.setup("validate")
    model.cpu().eval()
    losses = [torch.stack(list(model.losses(**batch).values())).sum() for batch in data.val_dataloader()]
    model.train()
    return float(torch.stack(losses).mean())


def main(
    output: Path,
    systems: list[str] | None = None,
    warmup: int = 300,
    steps: int = 100,
    crop: int = 64,
    batch_size: int = 4,
    validation: int = 32,
    encoder: str = "vgg19_random/4",
    encoder_weights: str | None = None,
    precision: str = "bf16-mixed",
    accelerator: str = "cpu",
    root: str | None = None,
) -> None:
    """Trains the systems and writes the table, a row when its system is done; systems of an earlier run are kept.

    Args:
        output: The table, a CSV file.
        systems: Some of the trainable systems; null for all that the table lacks.
        warmup: Optimiser steps in 32 bits before the comparison.
        steps: Optimiser steps of each of the compared runs.
        crop: Side of the training pictures.
        batch_size: Pictures in a training batch.
        validation: Pictures that the trained weights are compared on.
        encoder: The encoder, and the network of the losses.
        encoder_weights: A file for it.
        precision: What is compared with 32-true: ``bf16-mixed``, or ``16-mixed`` on a GPU.
        accelerator: ``cpu`` or ``gpu``.
        root: Where the pictures are drawn; null for a temporary folder.
    """
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    rows = {}
    if output.exists():
        with output.open(newline="") as file:
            rows = {row["system"]: row for row in csv.DictReader(file)}
    trainable = [name for name in stylezoo.list_models() if get(name).kind != "optimisation"]
    with tempfile.TemporaryDirectory() as temporary:
        cache = root or temporary
        pictures = {"resolution": 2 * crop, "root": cache}
        styles = Synthetic("paintings", count=8, drawing_seed=1, **pictures)  # of systems with trained styles
        styles.prepare_data()
        for system in systems or [name for name in trainable if name not in rows]:
            arbitrary = get(system).kind == "arbitrary"
            data = NoisyPairs(
                Synthetic("photos", count=4 * validation, holdout=0.25, **pictures),
                Synthetic("paintings", count=4 * validation, holdout=0.25, **pictures) if arbitrary else None,
                batch_size=batch_size,
                size=crop + crop // 4,
                crop=crop,
                num_workers=0,
                val_samples=validation,
            )
            data.prepare_data()
            model = create(system, encoder, encoder_weights, styles)
            before, start = validation_loss(model, data), Path(temporary) / f"{system}.ckpt"
            train(model, data, warmup, "32-true", accelerator, None).save_checkpoint(start)
            losses = {"before": before, "warm": validation_loss(model, data)}
            for run, bits, noise in (("fp32", "32-true", 0.0), ("16 bits", precision, 0.0), ("noise", "32-true", 1e-6)):
                data.noise = noise
                model = create(system, encoder, encoder_weights, styles)
                train(model, data, warmup + steps, bits, accelerator, start)
                losses[run] = validation_loss(model, data)
            full = losses["fp32"]
            rows[system] = {
                "system": system,
                "precision": precision,
                **{run: f"{loss:.5g}" for run, loss in losses.items()},
                "16_bits_difference": f"{losses['16 bits'] / full - 1:+.4f}",
                "noise_difference": f"{losses['noise'] / full - 1:+.4f}",
            }
            print(*(f"{k}={v}" for k, v in rows[system].items()), flush=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            with output.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[system]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows[name] for name in sorted(rows))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
