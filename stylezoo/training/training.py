"""`Training`, the callback that attaches to a model what no paper has."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from stylezoo.errors import StylezooError
from stylezoo.module import StyleModel
from stylezoo.training.distillation import Distillation
from stylezoo.training.initialization import Initialization, measure_preconditioners
from stylezoo.training.optimizers import OptimizerSettings, PreconditionedAdam
from stylezoo.training.plans import Plan, plan_of


class Training(Callback):
    """Options of training that are in no paper, attached to any system from outside.

    In a recipe they stand under ``training``:

        training:
          initialization: {class_path: LeastSquares, init_args: {crops: 256}}
          optimizer: {class_path: PreconditionedAdam, init_args: {lr: 3.0e-3}}
          loss_encoder: vgg19_normalised

    Args:
        initialization: Sets the weights of a new run; a resumed run finds them in its checkpoint.
        optimizer: Replaces the paper's optimizer; the system's schedule is kept.
        objective: Replaces the system's `losses` in training, validation and test.
        loss_encoder: The network of the losses in place of the system's own, such as a whole VGG beside a slim encoder.
            Layers that its file does not reach are computed by the encoder.
        loss_encoder_weights: A file for it; None takes its own.
        freeze: Submodules that are not trained, such as ``[predictor]``; their batch norms keep their statistics too.
        batch_norm_momentum: Share of a batch in the running statistics of batch norms; None keeps the system's.
    """

    def __init__(
        self,
        initialization: Initialization | None = None,
        optimizer: OptimizerSettings | None = None,
        objective: Distillation | None = None,
        loss_encoder: str | None = None,
        loss_encoder_weights: str | None = None,
        freeze: list[str] | None = None,
        batch_norm_momentum: float | None = None,
    ) -> None:
        self.initialization, self.optimizer, self.objective = initialization, optimizer, objective
        self.loss_encoder, self.loss_encoder_weights = loss_encoder, loss_encoder_weights
        self.freeze, self.batch_norm_momentum = freeze or [], batch_norm_momentum
        self.kept: Collection[str] = ()
        """Names of the tensors that came from another model (``fit --start``): they are not initialized."""
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attaches the options to the model.

        Raises:
            StylezooError: If the model has no submodule of that name.
        """
        assert isinstance(pl_module, StyleModel)
        self._resumed = False
        if self.loss_encoder is not None or self.loss_encoder_weights is not None:
            pl_module.attach_loss_encoder(self.loss_encoder, self.loss_encoder_weights)
        if self.objective is not None:
            pl_module.objective = self.objective
        if stage != "fit":
            return
        for part in self._frozen(pl_module):
            part.requires_grad_(False)
        for norm in pl_module.modules():
            if isinstance(norm, nn.BatchNorm2d) and self.batch_norm_momentum is not None:
                norm.momentum = self.batch_norm_momentum
        if self.initialization is not None or self.optimizer is not None:
            pl_module.optimizer_factory = lambda: self.start(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes that the run is resumed."""
        self._resumed = True

    def start(self, trainer: Trainer, model: StyleModel) -> Optimizer:
        """Initializes a model on the device of the run, unless the run is resumed, and builds its optimizer."""
        context = {} if self.objective is None else {"teacher": self.objective.teacher}
        plan = plan_of(model, **context)
        preconditioners: dict[str, Tensor] | None = None
        if not self._resumed:
            preconditioners = self._initialize(trainer, plan)
        return model.optimizer() if self.optimizer is None else self.optimizer.build(plan, preconditioners)

    def _initialize(self, trainer: Trainer, plan: Plan) -> dict[str, Tensor] | None:
        if self.initialization is not None:
            return self.initialization(plan, shared_images(trainer, self.initialization.crops), self.kept)
        if isinstance(self.optimizer, PreconditionedAdam):
            return measure_preconditioners(plan, shared_images(trainer, self.optimizer.crops))
        return None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps frozen submodules in eval mode."""
        for part in self._frozen(pl_module):
            part.eval()

    def _frozen(self, model: LightningModule) -> list[nn.Module]:
        parts = dict(model.named_children())
        for name in self.freeze:
            if name not in parts:
                raise StylezooError(f"freeze must name submodules of the model ({', '.join(parts)}), got {name!r}.")
        return [parts[name] for name in self.freeze]


def some_images(data: LightningDataModule, count: int) -> Tensor:
    """Returns the first crops of training, (count, 3, H, W); the run's own order is not disturbed.

    Styles of another size than the contents are left out.
    """
    batches = data.train_dataloader()
    parts = (part for batch in batches for part in batch.values() if part.shape == batch["content"].shape)
    return torch.stack(list(itertools.islice(itertools.chain.from_iterable(parts), count)))


def shared_images(trainer: Trainer, count: int) -> Tensor:
    """Returns `some_images` of a run on its device, the same in all its processes.

    Raises:
        StylezooError: If the run has no datamodule.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise StylezooError("An initialization uses crops of a datamodule: train with one (Pairs).")
    images: Tensor = trainer.strategy.broadcast(some_images(data, count)).to(trainer.strategy.root_device)
    return images
