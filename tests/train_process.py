"""A training run in processes of its own, for test_training.py: python train_process.py SYSTEM PICTURES DEVICES BATCH OUT

Trains two steps on the CPU, with as many processes as DEVICES, and writes the averaged gradients of the last step.
"""

import sys
from pathlib import Path

import torch
from conftest import thin_model
from lightning.pytorch import Callback, LightningModule, Trainer

from stylezoo.data import Folder, Pairs
from stylezoo.registry import get


class SaveGradients(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if trainer.is_global_zero:
            gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
            torch.save(gradients, self.path)


if __name__ == "__main__":
    system, pictures, devices, batch_size, out = sys.argv[1:]
    style = Folder(pictures) if get(system).kind == "arbitrary" else None
    data = Pairs(Folder(pictures), style, batch_size=int(batch_size), size=48, crop=32, num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=int(devices),
        strategy="ddp" if int(devices) > 1 else "auto",
        max_steps=2,
        precision="64-true",  # some gradients are ill-conditioned in float32
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SaveGradients(Path(out))],
    )
    trainer.fit(thin_model(system), data)
