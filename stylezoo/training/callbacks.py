"""What `fit` and `predict` show and leave behind: a progress bar over the whole run, image grids, images; and options
of training: averaged weights, a compiled training step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any

import rich
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, EMAWeightAveraging, ModelSummary, RichProgressBar, Timer
from lightning.pytorch.callbacks.progress.rich_progress import CustomTimeColumn, RichProgressBarTheme
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from rich.progress import ProgressColumn, Task, TaskID
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from stylezoo.data.folder import ImageModule
from stylezoo.errors import StylezooError, check_number
from stylezoo.images import grid, to_image, write_image
from stylezoo.module import Iteration, StyleModel
from stylezoo.training.loggers import warn_once
from stylezoo.training.winograd import WinogradTraining


class RunProgressBar(RichProgressBar):
    """Lightning's rich progress bar, counted in optimizer steps of the whole run: its time left is that of the run,
    not of the epoch, and at most what ``max_time`` leaves. Where the output is no terminal, a line every
    ``seconds_per_line`` seconds instead."""

    def __init__(self, seconds_per_line: float = 20.0) -> None:
        super().__init__(refresh_rate=4, leave=True, theme=RichProgressBarTheme(metrics_format=".4g"))
        meaning = "the seconds between two lines, from 0 up"
        self.seconds_per_line = check_number("seconds_per_line", seconds_per_line, meaning, 0)
        self._started = self._last_line = 0.0
        self._first_step = 0
        self._iterations: TaskID | None = None  # of an image that is optimized

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if isinstance(pl_module, StyleModel) and pl_module.kind == "optimization":
            pl_module.on_iteration = self._show_iteration

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        def limit(task: Task) -> float:
            return seconds_allowed(trainer) if task.id == self.train_progress_bar_id else math.inf

        columns: list[ProgressColumn] = super().configure_columns(trainer)
        return [TimeColumn(c.style, limit) if isinstance(c, CustomTimeColumn) else c for c in columns]

    def _show_iteration(self, now: Iteration) -> None:
        if self.progress is None:
            return
        if now.step == 1 or self._iterations is None:
            if self._iterations is not None:
                self.progress.remove_task(self._iterations)
            self._iterations = self._add_task(now.steps, "Iterations")
        self._update(self._iterations, now.step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._last_line = time.monotonic()
        self._first_step = trainer.global_step
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.progress is not None and self.train_progress_bar_id is None:
            total = trainer.estimated_stepping_batches
            self.train_progress_bar_id = self._add_task(total, "Training")
            self._update(self.train_progress_bar_id, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._update(self.train_progress_bar_id, trainer.global_step)
        self._update_metrics(trainer, pl_module)
        now = time.monotonic()
        if (
            self._console is not None
            and not self._console.is_terminal
            and now - self._last_line > self.seconds_per_line
        ):
            self._last_line = now
            self._console.print(self._line(trainer, now - self._started), highlight=False)

    def _line(self, trainer: Trainer, elapsed: float) -> str:
        total, done = trainer.estimated_stepping_batches, trainer.global_step - self._first_step
        left = min(elapsed / max(done, 1) * (total - trainer.global_step), seconds_allowed(trainer))
        remaining = f", {timedelta(seconds=round(left))} left" if math.isfinite(left) else ""
        loss = trainer.progress_bar_metrics.get("loss", float("nan"))
        return f"step {trainer.global_step}/{total}  loss {loss:.4g}  {timedelta(seconds=round(elapsed))}{remaining}"


class TimeColumn(CustomTimeColumn):
    """Lightning's column of the time that has passed and the time that is left, which ends at a limit.

    Args:
        style: Of the text.
        limit: Returns the seconds that a task may take from now on; infinity for no limit.
    """

    def __init__(self, style: str | Style, limit: Callable[[Task], float]) -> None:
        super().__init__(style)
        self.limit = limit

    def render(self, task: Task) -> Text:
        limit, left = self.limit(task), task.time_remaining
        if limit == math.inf:
            return super().render(task)
        elapsed = task.finished_time if task.finished else task.elapsed
        times = (elapsed or 0.0, limit if left is None else min(left, limit))
        return Text(" • ".join(str(timedelta(seconds=int(seconds))) for seconds in times), style=self.style)


def seconds_allowed(trainer: Trainer) -> float:
    """Returns the seconds until ``max_time`` stops a run, what it took before it was resumed included; infinity without."""
    timers = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return min((max(0.0, left) for left in timers if left is not None), default=math.inf)


class RunSummary(ModelSummary):
    """A table of the submodules and the number of their parameters; Lightning's, without the operations it cannot count."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        columns = {title: values for title, values in summary_data if title not in ("FLOPs", " ")}
        table = Table(*columns, caption_justify="left")
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        rich.get_console().print(table)
        rest = total_parameters - trainable_parameters
        rich.get_console().print(
            f"{trainable_parameters:,} parameters are trained, {rest:,} are not ({model_size:,.0f} MB in all)",
            highlight=False,
        )


class ImageGrid(Callback):
    """Logs a fixed grid of content, style and output images: the same validation pairs throughout a run.

    W&B and TensorBoard get it under ``images``; other loggers as PNG files in ``images/`` of their folder.

    Args:
        every_n_steps: Optimizer steps between two grids; 0 for none. One more is logged at the end of training.
        pairs: Number of pairs, one row each.
    """

    def __init__(self, every_n_steps: int = 500, pairs: int = 4) -> None:
        self.every_n_steps = check_number(
            "every_n_steps", every_n_steps, "a number of steps; 0 writes none", 0, whole=True
        )
        self.pairs = check_number("pairs", pairs, "a number of pairs, at least 1", 1, whole=True)
        self._batch: dict[str, Tensor] | None = None
        self._last_step = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._last_step:
            self._log(trainer, pl_module, batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps and self._last_step != trainer.global_step and self._batch is not None:
            self._log(trainer, pl_module, self._batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._batch is None and self.every_n_steps and trainer.is_global_zero:
            self._batch = self._validation_pairs(trainer) or {k: v[: self.pairs].cpu() for k, v in batch.items()}

    def _validation_pairs(self, trainer: Trainer) -> dict[str, Tensor] | None:
        loader = trainer.val_dataloaders
        if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, Sized):
            return None
        count = min(self.pairs, len(loader.dataset))
        batch: dict[str, Tensor] = default_collate([loader.dataset[i] for i in range(count)])
        return batch

    def _log(self, trainer: Trainer, model: LightningModule, batch: dict[str, Tensor]) -> None:
        self._last_step = trainer.global_step
        if not trainer.is_global_zero or self._batch is None:
            return
        modes = {module: module.training for module in model.modules()}  # a frozen submodule is in eval mode already
        model.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            output = model(**{name: images.to(model.device) for name, images in self._batch.items()})
        for module, training in modes.items():
            module.training = training
        columns = [*self._batch.values(), output.float().cpu()]
        sheet = grid([list(row) for row in zip(*columns, strict=True)])
        for logger in trainer.loggers:
            try:
                log_grid(logger, sheet, trainer.global_step)
            except Exception as error:  # noqa: BLE001 - a logger may raise anything, and training goes on
                warn_once(logger, error)


def log_grid(logger: Logger, sheet: Tensor, step: int) -> None:
    """Hands a grid (3, H, W) in [0, 1] to a logger."""
    if isinstance(logger, WandbLogger):
        logger.log_image("images", [to_image(sheet)], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image("images", sheet, step)
    elif logger.log_dir is not None:
        write_image(sheet, Path(logger.log_dir) / "images" / f"step_{step:07d}.png")


class ImageWriter(BasePredictionWriter):
    """Writes the outputs of ``predict`` as ``00000.png, 00001.png ...``, numbered like the pairs of the data.

    Of several processes each writes every W-th image.

    Args:
        folder: Where the images go; None takes ``predictions`` in the logger's folder.
        skip_existing: Whether images that exist in ``folder`` are left as they are, to continue an interrupted run.
    """

    def __init__(self, folder: str | None = None, skip_existing: bool = False) -> None:
        super().__init__("batch")
        if skip_existing and folder is None:
            raise StylezooError(
                "predictions.skip_existing continues the images of a folder: name it with --predictions.folder, because"
                " every run has a logger's folder of its own."
            )
        self.folder = folder
        self.skip_existing = skip_existing
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        # here, because the processes agree on the logger's folder, and later they have different numbers of batches
        self._folder = Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "predictions")
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.skip_existing and isinstance(data, ImageModule):
            data.is_predicted = lambda number: self.path(number).is_file()

    def path(self, number: int) -> Path:
        """Returns the file of an image."""
        return self._folder / f"{number:05d}.png"

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert isinstance(pl_module, StyleModel)
        assert batch_indices is not None
        for number, image in zip(batch_indices, prediction, strict=True):
            write_image(image, self.path(number))


class EMA(EMAWeightAveraging):
    """Exponential moving average of the weights, ``ema = decay * ema + (1 - decay) * weights`` after every step.

    Validation uses the averaged weights, and a checkpoint's ``state_dict`` holds them: `load_model` gets the average.
    The weights that the optimizer updates stand beside it as ``current_model_state``; a resumed run goes on from them, exactly.

    Lightning's class with three differences: additional losses are no part of the average, nor are frozen encoders, which rounding
    would slowly move away from their sha256; a checkpoint of the finished run keeps both sets of weights; so does one that is
    saved when validation is interrupted.
    """

    _swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, trained_part(pl_module), stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, trained_part(pl_module), outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, trained_part(pl_module))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, trained_part(pl_module))
        self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, trained_part(pl_module))
        self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: the last checkpoint is saved now."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, trained_part(pl_module))


def trained_part(model: LightningModule) -> LightningModule:
    """The model without its frozen encoders and additional losses; other modules and their tensors are the same ones."""
    outside = {*dict(model.encoders()), "additional"} if isinstance(model, StyleModel) else {}
    part = copy.copy(model)
    part._modules = {name: child for name, child in model._modules.items() if name not in outside}
    return part


class Compile(Callback):
    """Compiles the losses of training steps, networks and encoders included, with ``torch.compile``.

    Validation and inference run without. State dict and checkpoints are those of a run that is not compiled.
    """

    def __init__(self) -> None:
        self._losses: Callable[..., dict[str, Tensor]] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StyleModel)
        pl_module.prepare_losses()  # what lasts is built and measured outside of the compiled function
        self._losses = torch.compile(pl_module.losses)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        vars(pl_module)["losses"] = self._losses

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        vars(pl_module).pop("losses", None)


class ChannelsLast(Callback):
    """Trains in the memory layout ``channels_last``, which convolutions of many CPUs and of tensor cores prefer.

    The numbers are the same but for rounding.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.to(memory_format=torch.channels_last)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for name, tensor in batch.items():
            if tensor.ndim == 4:
                batch[name] = tensor.contiguous(memory_format=torch.channels_last)


class Winograd(Callback):
    """Trains with the convolutions of `stylezoo.training.winograd`, which are faster on CPUs; see `WinogradTraining`."""

    def __init__(self) -> None:
        self._mode: WinogradTraining | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._mode = WinogradTraining()  # type: ignore[no-untyped-call]
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._mode = None
