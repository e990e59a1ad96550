"""Training runs in processes of their own, for test_training.py."""

import inspect
import os
from collections.abc import Sequence
from pathlib import Path

import losses_process
import torch
from conftest import thin_model
from lightning.pytorch import Callback, LightningModule, Trainer

from stylezoo.data import Folder, Pairs
from stylezoo.registry import get


class Save(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        torch.save(batch, self.path.with_suffix(f".{trainer.global_rank}.pt"))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if trainer.is_global_zero:
            gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
            torch.save(gradients, self.path)


def train(system: str, pictures: str, batch_size: int, folder: Path, batches: int = 1) -> None:
    """Trains two steps on the CPU, over as many processes as there are, each of so many batches.

    It writes the averaged gradients of the last step to FOLDER/SYSTEM.pt and its batch to FOLDER/SYSTEM.RANK.pt.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    style = Folder(pictures) if get(system).kind == "arbitrary" else None
    data = Pairs(Folder(pictures), style, batch_size=batch_size, size=48, crop=32, num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=2,
        accumulate_grad_batches=batches,
        precision="64-true",  # some gradients are ill-conditioned in float32
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Save(folder / f"{system}.pt")],
    )
    # The masks of two processes cannot be those of one.
    undropped = {"dropout": 0.0} if "dropout" in inspect.signature(get(system)).parameters else {}
    model = thin_model(system, **undropped)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # nor the statistics of two batches those of one, without the GPUs of trainer.sync_batchnorm
    trainer.fit(model, data)


def train_all(systems: Sequence[str], pictures: str, batch_size: int, folder: Path, batches: int = 1) -> None:
    """The same for several systems; the name ``losses`` stands for a run of losses_process.py in two processes."""
    for name in systems:
        if name == "losses":
            losses_process.train(pictures, folder)
        else:
            train(name, pictures, batch_size, folder, batches)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # gloo's threads may abort a process that leaves them running
