"""Checkpoints of a run: whole files only, of finite weights only, and a disk that is full does not end the run."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.files import replacing
from stylezoo.training.finite import NonFiniteError, are_finite


class SavingError(StylezooError):
    """A checkpoint could not be written; the older ones are as they were."""


class WholeFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, except that a local file is replaced whole or not at all.

    Lightning writes into the folder of temporary files, and copies from there if that is on another disk: a process that
    is killed while it copies leaves a part of the new file in place of the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: The state of model and trainer.
            path: The file; addresses such as ``s3://...`` are left to Lightning.
            storage_options: None.

        Raises:
            SavingError: If the file cannot be written; an older one is unchanged.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            reason = os_error(error)
            if reason is None:
                raise
            raise SavingError(f"Cannot write the checkpoint {path} ({reason.strerror or reason}).") from error


def os_error(error: BaseException | None) -> OSError | None:
    """Returns the OSError behind an exception: torch's writer of archives raises its own while it handles one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


class RunCheckpoint(ModelCheckpoint):
    """Lightning's checkpoints with four differences.

    One more is saved after the last step of a run: ``last.ckpt`` is what it came to, also where ``every_n_train_steps``
    does not divide its steps, and where ``max_time`` stops it.

    A file that cannot be written does not end the run: a warning says so once, the next interval tries again, and only a run
    that could not be saved at its end fails. Older checkpoints are removed after the new one is on the disk.

    Weights that are not finite are never saved, and a run that stops for this reason leaves its last checkpoint as it was.
    After any other error, and after a signal, ``last.ckpt`` is the state after the last whole step.

    The files of another run are never replaced: a run refuses a folder with checkpoints that it does not go on from.
    """

    _unsaved: SavingError | None = None
    _training = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolves the folder.

        Raises:
            StylezooError: If it has the checkpoints of another run.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or not trainer.is_global_zero or "://" in str(self.dirpath):
            return
        folder = Path(str(self.dirpath))
        resumed = trainer.ckpt_path is not None and is_inside(trainer.ckpt_path, folder)
        if not (resumed or self._last_checkpoint_saved) and next(folder.glob("*.ckpt"), None) is not None:
            raise StylezooError(
                f"{folder} has the checkpoints of another run: go on with it (--ckpt_path {folder / 'last.ckpt'}), choose"
                " another folder, or move them away."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        over = trainer.should_stop or trainer.global_step == trainer.max_steps
        if over and self.save_last and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what could not be saved so far.

        Raises:
            SavingError: If that fails, too.
        """
        super().on_train_end(trainer, pl_module)
        if self._unsaved is not None and self.save_last:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if self._unsaved is not None:
            raise self._unsaved

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves ``last.ckpt`` unless the weights are those that the exception is about, or not even complete yet."""
        started, self._training = self._training, False
        if not started or isinstance(exception, NonFiniteError | SavingError):
            return
        if self._should_save_on_exception(trainer) and are_finite(pl_module):
            candidates = self._monitor_candidates(trainer)
            if self.save_last:
                self._save_last_checkpoint(trainer, candidates)
            else:
                self._save_topk_checkpoint(trainer, candidates)

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._attempt(super()._save_topk_checkpoint, trainer, monitor_candidates)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._attempt(super()._save_last_checkpoint, trainer, monitor_candidates)

    def _attempt(
        self, save: Callable[[Trainer, dict[str, Tensor]], None], trainer: Trainer, candidates: dict[str, Tensor]
    ) -> None:
        """Saves; where that fails, the callback still knows the older checkpoints and removes none of them."""
        names = ("best_k_models", "best_model_path", "best_model_score", "current_score", "kth_best_model_path")
        before = {name: copy.copy(getattr(self, name)) for name in (*names, "kth_value", "last_model_path")}
        try:
            save(trainer, candidates)
        except SavingError as error:
            vars(self).update(before)
            if self._unsaved is None:
                rank_zero_warn(
                    f"{error} Training goes on, older checkpoints are kept, and the next interval tries again."
                )
            self._unsaved = error
        else:
            self._unsaved = None

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if not trainer.strategy.reduce_boolean_decision(are_finite(trainer.lightning_module), all=True):
            raise NonFiniteError(
                f"The weights are not finite after step {trainer.global_step} and were not saved: go on from the last"
                " checkpoint with a lower learning rate (model.lr), or clip gradients (trainer.gradient_clip_val)."
            )
        failure: SavingError | None = None
        try:
            super()._save_checkpoint(trainer, filepath)
        except SavingError as error:
            failure = error
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other processes are waiting
        if not trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            raise failure or SavingError(f"Cannot write the checkpoint {filepath}.")

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        try:
            super()._remove_checkpoint(trainer, filepath)
        except OSError as error:
            rank_zero_warn(f"Cannot remove the old checkpoint {filepath} ({error.strerror or error}).")


def is_inside(path: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a file lies in a folder, links resolved."""
    return folder.resolve() in Path(path).resolve().parents
