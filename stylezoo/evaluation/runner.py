"""Runs one model over the batches that are left: a LightningModule that stylizes and measures, and a recorder."""

from __future__ import annotations

import base64
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import Progress, TaskID
from torch import Tensor
from torch.utils.data import DataLoader

from stylezoo.errors import StylezooError
from stylezoo.evaluation.measurement import PairMeasurement
from stylezoo.evaluation.pairs import Batch, Batches, single_pairs
from stylezoo.evaluation.store import (
    IDENTITY_BASELINE,
    STYLE_COPY_BASELINE,
    drop_torn_line,
    finished_batches,
    part_path,
    slug,
)
from stylezoo.images import write_image
from stylezoo.inference import Stylizer
from stylezoo.module import StyleModel
from stylezoo.vgg import Features

BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    IDENTITY_BASELINE: lambda content, style: content,
    STYLE_COPY_BASELINE: lambda content, style: style.expand_as(content),
}
"""Outputs without a network, from contents (B, 3, H, W) and a style (1, 3, H, W)."""


FAILURES = (StylezooError, RuntimeError, MemoryError)
"""Errors with which a model can fail on some images and not on others; memory that runs out is a RuntimeError, too."""


def _reason(error: BaseException) -> str:
    """The first line of an error, without its period."""
    text = str(error).strip().split("\n")[0].rstrip(".")
    return text[:300] or type(error).__name__


@dataclass(frozen=True)
class PreparedStyle:
    """A style that is encoded once for all its pairs.

    Attributes:
        name: File name of its image.
        stylize: Stylizes contents (B, 3, H, W) in it.
        features: Its features for the losses, (1, C, H, W) by layer.
    """

    name: str
    stylize: Callable[[Tensor], Tensor]
    features: Features


def trained_style(model: StyleModel, name: str, styles: list[str]) -> str | None:
    """Finds the style of a multi- or single-style model that belongs to a style image.

    Args:
        model: The model.
        name: File name of the style image; its stem is the name of the style.
        styles: All style images of the evaluation. A single-style model whose style has no name takes the only one.

    Returns:
        The name of the style; None for models whose style is not chosen by a name.

    Raises:
        StylezooError: If the model was not trained on that style.
    """
    if model.kind not in ("multi", "single") or (model.styles == ["unnamed"] and len(styles) == 1):
        return None
    stem = Path(name).stem
    if stem not in model.styles:
        raise StylezooError(
            f"{model.system} was trained on {', '.join(model.styles)}, and {name} is none of these: give a folder with"
            " images of its styles that have their names."
        )
    return stem if model.kind == "multi" else None


class EvaluationModule(LightningModule):
    """Stylizes and measures the batches of one model that are not finished yet.

    Args:
        name: Name of the model in the folder of results.
        model: The model, or None for one of `BASELINES`.
        measurement: The metrics.
        batches: All batches.
        folder: Folder of the results.
        num_workers: Number of processes that read images.
    """

    allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer batches left than processes

    def __init__(
        self,
        name: str,
        model: StyleModel | None,
        measurement: PairMeasurement,
        batches: Batches,
        folder: Path,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.measurement = measurement
        self.batches = batches
        self.folder = folder
        self.num_workers = num_workers
        self.styles = list(dict.fromkeys(style for _, style in batches.pairs))
        self._style: PreparedStyle | None = None

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Returns every W-th of the batches that are left, for W processes.

        All processes list the finished batches before the first one goes on, because Lightning synchronizes them here.
        """
        done = finished_batches(self.folder, self.name)
        left = [number for number in range(len(self.batches)) if number not in done]
        rank, world = self.trainer.global_rank, self.trainer.world_size
        drop_torn_line(part_path(self.folder, self.name, rank))
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=left[rank::world],
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Stylizes and measures a batch; if that fails, its pairs one by one, so that only those that fail are lost.

        Returns:
            ``output``: the outputs (B, 3, H, W); ``values``: {metric: values (B,), or activations of the pairs that did not
            fail}; ``failed``: {place of a pair in the batch: reason}. Failed pairs have the value NaN and a black output.
        """
        if not batch["failed"]:
            try:
                output, values = self._measure(batch)
                return {"output": output, "values": values, "failed": {}}
            except FAILURES:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return self._measure_singly(batch)

    def _measure(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The outputs of a batch and their values.

        Raises:
            StylezooError: If an output is not finite.
        """
        outputs, features = [], []
        contents = torch.split(batch["content"], batch["counts"])
        for name, image, content in zip(batch["names"], torch.split(batch["style"], 1), contents, strict=True):
            style = self._prepare_style(name, image)
            outputs.append(style.stylize(content).float())
            features.append({layer: value.expand(len(content), -1, -1, -1) for layer, value in style.features.items()})
        counts = torch.tensor(batch["counts"], device=self.device)
        style_features = {layer: torch.cat([part[layer] for part in features]) for layer in features[0]}
        output, styles = torch.cat(outputs), batch["style"].repeat_interleave(counts, dim=0)
        if not torch.isfinite(output).all():
            raise StylezooError("its output has values that are not finite (NaN or infinity)")
        with torch.autocast(output.device.type, enabled=False):
            values = self.measurement(output, batch["content"], styles, style_features)
        return output, values

    def _measure_singly(self, batch: Batch) -> dict[str, Any]:
        """What `predict_step` returns, pair by pair."""
        outputs, values, failed = list(torch.zeros_like(batch["content"])), [], dict[int, str]()
        for index, pair in enumerate(single_pairs(batch)):
            if pair["failed"]:
                failed[index] = pair["failed"][0]
                continue
            try:
                output, of_pair = self._measure(pair)
            except FAILURES as error:
                failed[index] = _reason(error)
                continue
            outputs[index] = output[0]
            values.append(of_pair)
        joined = {name: torch.cat([of_pair[name] for of_pair in values]) for name in (values[0] if values else ())}
        measured = [index for index in range(len(outputs)) if index not in failed]
        for name in self.measurement.columns:
            column = batch["content"].new_full((len(outputs),), float("nan"))
            if values:
                column[measured] = joined[name].to(column)
            joined[name] = column
        return {"output": torch.stack(outputs), "values": joined, "failed": failed}

    def _prepare_style(self, name: str, image: Tensor) -> PreparedStyle:
        """The style of an image (1, 3, H, W); that of the previous pair is kept."""
        if self._style is None or self._style.name != name:
            with torch.autocast(image.device.type, enabled=False):
                self._style = PreparedStyle(name, self._stylizer(name, image), self.measurement.features(image))
        return self._style

    def _stylizer(self, name: str, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Stylizes contents in the style of an image (1, 3, H, W)."""
        if self.model is None:
            return lambda content: BASELINES[self.name](content, image)
        if self.model.kind in ("multi", "single"):
            trained = trained_style(self.model, name, self.styles)
            return Stylizer(self.model, [] if trained is None else [trained], engine="eager")
        return Stylizer(self.model, [image], engine="eager")


class Recorder(Callback):
    """Appends each batch to the file of its process as soon as it is measured.

    Args:
        folder: Folder of the results.
        save_images: Whether to write the outputs, too.
        progress: Progress display.
        task: The model's line in the display.
    """

    def __init__(self, folder: Path, save_images: bool, progress: Progress, task: TaskID) -> None:
        self.folder = folder
        self.save_images = save_images
        self.progress = progress
        self.task = task
        self.interrupted = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Notes that the user has interrupted the run, of which Lightning makes an exit with code 1."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows how many pairs are finished."""
        assert isinstance(pl_module, EvaluationModule)
        batches = pl_module.batches
        done = sum(len(batches.pairs_of(number)) for number in finished_batches(self.folder, pl_module.name))
        self.progress.update(self.task, completed=done)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Writes the values of a batch, and its outputs if they are wanted."""
        assert isinstance(pl_module, EvaluationModule)
        number, pairs = batch["number"], pl_module.batches.pairs_of(batch["number"])
        if self.save_images and pl_module.model is not None:
            self._write_images(pl_module, number, outputs)
        columns = [outputs["values"][name].tolist() for name in pl_module.measurement.columns]
        line: dict[str, Any] = {
            "batch": number,
            "rows": [[column[index] for column in columns] for index in range(len(pairs))],
        }
        if outputs["failed"]:
            line["failed"] = outputs["failed"]
        if "fid" in outputs["values"]:
            line["activations"] = base64.b64encode(outputs["values"]["fid"].float().cpu().numpy().tobytes()).decode()
        with part_path(self.folder, pl_module.name, trainer.global_rank).open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
        self.progress.advance(self.task, len(pairs) * trainer.world_size)
        if trainer.received_sigterm:  # Lightning catches the signal, but its predict loop does not stop for it
            sys.exit(128 + signal.SIGTERM)

    def _write_images(self, module: EvaluationModule, number: int, outputs: dict[str, Any]) -> None:
        """Writes outputs, but not those of failed pairs, as images/MODEL/NUMBER_CONTENT_STYLE.png."""
        first, pairs = number * module.batches.batch_size, module.batches.pairs_of(number)
        for index, (output, names) in enumerate(zip(outputs["output"], pairs, strict=True)):
            if index not in outputs["failed"]:
                stem = "_".join([f"{first + index:05d}", *(Path(name).stem for name in names)])
                write_image(output, self.folder / "images" / slug(module.name) / f"{stem}.png")
