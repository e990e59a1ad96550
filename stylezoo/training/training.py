"""`Training`, the callback that attaches to a model what no paper has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from stylezoo.errors import StylezooError, check_number
from stylezoo.module import AdditionalLoss, StyleModel
from stylezoo.training.ccpl import CCPL
from stylezoo.training.distillation import Distillation, Imitation
from stylezoo.training.finite import FiniteGuard
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
          ccpl_weight: 5.0

    Args:
        initialization: Sets the weights of a new run; a resumed run finds them in its checkpoint.
        optimizer: Replaces the paper's optimizer; the system's schedule is kept.
        objective: Replaces the system's `losses`, the additional ones too, in training, validation and test: `Imitation` of
            another model's outputs, or `Distillation` of a magenta.
        losses: Losses besides the system's own, such as `CCPL`, `IEContraAST`, `Adversarial` and `CAST`.
        ccpl_weight: Weight of `CCPL` with the settings of its paper; ``losses`` takes it with others.
        loss_encoder: The network of the losses in place of the system's own, such as a whole VGG beside a slim encoder.
            Layers that its file does not reach are computed by the encoder.
        loss_encoder_weights: A file for it; None takes its own.
        freeze: Submodules that are not trained, such as ``[predictor]``; their batch norms keep their statistics too.
        batch_norm_momentum: Share of a batch in the running statistics of batch norms; None keeps the system's.
        skip_nonfinite: Number of steps whose loss or gradient may be infinite or not a number: they change nothing, and a
            warning names their images. One more stops the run, by default the first.
    """

    def __init__(
        self,
        initialization: Initialization | None = None,
        optimizer: OptimizerSettings | None = None,
        objective: Distillation | Imitation | None = None,
        losses: list[AdditionalLoss] | None = None,
        ccpl_weight: float = 0.0,
        loss_encoder: str | None = None,
        loss_encoder_weights: str | None = None,
        freeze: list[str] | None = None,
        batch_norm_momentum: float | None = None,
        skip_nonfinite: int = 0,
    ) -> None:
        check_number("skip_nonfinite", skip_nonfinite, "a number of steps from 0 up", 0, whole=True)
        if batch_norm_momentum is not None:
            check_number("batch_norm_momentum", batch_norm_momentum, "a share between 0 and 1", 0, 1)
        self.initialization, self.optimizer, self.objective = initialization, optimizer, objective
        check_number("ccpl_weight", ccpl_weight, "a finite number from 0 up", 0)
        self.losses = [*(losses or []), *([CCPL(ccpl_weight)] if ccpl_weight else [])]
        self.loss_encoder, self.loss_encoder_weights = loss_encoder, loss_encoder_weights
        self.freeze, self.batch_norm_momentum = freeze or [], batch_norm_momentum
        self.kept: Collection[str] = ()
        """Names of the tensors that came from another model (``fit --start``): they are not initialized."""
        self._resumed = False
        self._attached: list[AdditionalLoss] | None = None  # not in predictions
        self._guard = FiniteGuard(skip_nonfinite)
        self._given: list[dict[str, Any]] = []  # settings of the optimizer as the recipe has them

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attaches the options to the model.

        Raises:
            StylezooError: If the model has no submodule of that name.
        """
        assert isinstance(pl_module, StyleModel)
        self._resumed = False
        if self.loss_encoder is not None or self.loss_encoder_weights is not None:
            pl_module.attach_loss_encoder(self.loss_encoder, self.loss_encoder_weights)
        replaced = self.objective is not None and not getattr(self.objective, "own_losses", False)
        self._attached = None if stage == "predict" else [] if replaced else self.losses
        if self._attached is not None and self._attached != [*pl_module.additional_losses]:  # else what fit has trained
            pl_module.attach_losses(self._attached)
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
        context = {"teacher": self.objective.teacher} if isinstance(self.objective, Distillation) else {}
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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers the settings of the optimizer, which a checkpoint is about to replace."""
        self._given = [
            {name: value for name, value in group.items() if name != "params"}
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives a resumed run the learning rate and the other settings of its recipe."""
        if self._resumed:
            restore_settings(trainer, self._given)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps frozen submodules in eval mode."""
        for part in self._frozen(pl_module):
            part.eval()
        self._guard.before_batch(pl_module)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Takes note of the loss."""
        self._guard.before_backward(loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Stops the run, or skips the step, if loss or gradient are not finite."""
        self._guard.before_step(trainer, pl_module, optimizer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how many steps were skipped."""
        self._guard.report()

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of skipped steps and what additional losses have learned."""
        return {"skipped": self._guard.skipped, "losses": [loss.state_dict() for loss in self._attached or []]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of skipped steps and additional losses.

        Raises:
            StylezooError: If the checkpoint was trained with other losses.
        """
        self._guard.skipped = state_dict["skipped"]
        if self._attached is None:
            return
        states = state_dict.get("losses", [])
        try:
            for loss, state in zip(self._attached, states, strict=True):
                loss.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise StylezooError(
                "The checkpoint was trained with other additional losses (training.losses, training.ccpl_weight): go on with"
                " those, or begin a new run with its weights (--start)."
            ) from error

    def _frozen(self, model: LightningModule) -> list[nn.Module]:
        parts = dict(model.named_children())
        for name in self.freeze:
            if name not in parts:
                raise StylezooError(f"freeze must name submodules of the model ({', '.join(parts)}), got {name!r}.")
        return [parts[name] for name in self.freeze]


def restore_settings(trainer: Trainer, given: list[dict[str, Any]]) -> None:
    """Sets what an optimizer has from a checkpoint to what the recipe says, and prints what that changes.

    Args:
        trainer: A run that is resumed.
        given: The settings of each group of parameters, before the checkpoint was loaded.
    """
    changed: dict[str, str] = {}
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    for group, settings in zip(groups, given, strict=True):
        first, second = group.get("initial_lr", group["lr"]), settings.get("initial_lr", settings["lr"])
        if first != second:
            changed["learning rate"] = f"{second:g} instead of {first:g}"
            group["lr"] = group["lr"] * second / first if first else second
        for name, value in settings.items():
            if name not in ("lr", "initial_lr") and group.get(name) != value:
                changed[name] = f"{value} instead of {group.get(name)}"
        group.update({name: value for name, value in settings.items() if name != "lr"})
    for config in trainer.lr_scheduler_configs:
        if changed and hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs = [group["initial_lr"] for group in config.scheduler.optimizer.param_groups]
    if changed:
        words = ", ".join(f"{name} {values}" for name, values in changed.items())
        rank_zero_info(f"The run goes on with other settings than its checkpoint: {words}.")


def some_images(data: LightningDataModule, count: int) -> Tensor:
    """Returns the first crops of training, (count, 3, H, W), contents before styles; the run's own order is not disturbed.

    Styles of another size than the contents are left out.
    """
    taken: dict[str, list[Tensor]] = {"content": [], "style": []}
    for batch in data.train_dataloader():
        for name, images in batch.items():
            if images.shape == batch["content"].shape:
                taken[name].extend(images[: count - sum(map(len, taken.values()))])
        if sum(map(len, taken.values())) == count:
            break
    return torch.stack([*taken["content"], *taken["style"]])


def shared_images(trainer: Trainer, count: int) -> Tensor:
    """Returns `some_images` of a run on its device and in the precision of its weights, the same in all its processes.

    Raises:
        StylezooError: If the run has no datamodule.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise StylezooError("An initialization uses crops of a datamodule: train with one (Pairs).")
    images: Tensor = trainer.strategy.broadcast(some_images(data, count)).to(trainer.strategy.root_device)
    return images.to(next(trainer.lightning_module.parameters()).dtype)
