"""What surrounds every run of the command line: its folder, its loggers, whole checkpoints, signals, clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichModelSummary

from stylezoo.errors import StylezooError
from stylezoo.training.callbacks import RunSummary
from stylezoo.training.loggers import make_lenient
from stylezoo.training.run_folder import RunFolder, release
from stylezoo.training.saving import WholeFiles
from stylezoo.training.stopping import StopOnSignal


@contextmanager
def guarded(trainer: Trainer, resumed_from: str | None = None) -> Iterator[None]:
    """Guards a run of a Trainer, from its setup to its end.

    It has its folder for itself (`RunFolder`), goes on where a logger fails, writes checkpoints whole or not at all
    (`WholeFiles`), ends with one after a signal (`StopOnSignal`), and says in one sentence where memory is short.

    Args:
        trainer: The run.
        resumed_from: The checkpoint that it goes on from.

    Raises:
        StylezooError: If the folder cannot be used.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [RunSummary() if type(callback) is RichModelSummary else callback for callback in callbacks]
    folder = RunFolder(trainer, resumed_from)
    with StopOnSignal(trainer) as stop:
        try:
            folder.claim()
            make_lenient(trainer)
            yield
        except BaseException as error:
            if stop.batches == 0:
                folder.undo()
            if is_out_of_memory(error):
                raise StylezooError(
                    f"There is not enough memory for step {trainer.global_step + 1}: lower data.batch_size (and accumulate,"
                    " trainer.accumulate_grad_batches) or data.crop."
                ) from error
            raise
        finally:
            release()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, on a GPU or on the CPU, where torch raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
