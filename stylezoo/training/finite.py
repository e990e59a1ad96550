"""Losses, gradients and weights that are not finite: found before an optimizer step takes them over."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from stylezoo.data import sources_of_batch
from stylezoo.errors import StylezooError
from stylezoo.module import StyleModel


class NonFiniteError(StylezooError):
    """A loss, a gradient or a weight is infinite or not a number."""


def are_finite(model: nn.Module) -> bool:
    """Whether all numbers of a model's state dict are finite."""
    tensors = [value for value in model.state_dict().values() if value.is_floating_point()]
    if not tensors:
        return True
    return bool(torch.stack([value.isfinite().all() for value in tensors]).all())


class FiniteGuard:
    """Looks at losses and gradients before each optimizer step.

    A gradient counts as finite if its square is a number, too: Adam sums up squares, and an infinite sum would freeze a
    weight for good.

    Args:
        allowed: Number of steps of a run that may be skipped; the next one stops it. A skipped step counts as a step, but
            changes no weight, no statistic of a batch norm, no memory of an additional loss, and nothing in the optimizer.

    Attributes:
        skipped: Number of steps skipped so far.
    """

    def __init__(self, allowed: int = 0) -> None:
        self.allowed, self.skipped = allowed, 0
        self._losses: list[Tensor] = []  # of the batches whose gradients are added up for one step
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def before_batch(self, model: nn.Module) -> None:
        """Remembers what a forward pass changes: the running statistics of batch norms, and buffers of additional losses."""
        if self.allowed and not self._losses:
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
            losses = model.additional_losses if isinstance(model, StyleModel) else ()
            self._statistics = [(buffer, buffer.clone()) for module in (*norms, *losses) for buffer in module.buffers()]

    def before_backward(self, loss: Tensor) -> None:
        """Remembers a loss."""
        self._losses.append(loss.detach())

    def before_step(self, trainer: Trainer, model: LightningModule, optimizer: Optimizer) -> None:
        """Checks the losses and gradients of a step, in all processes alike.

        Raises:
            NonFiniteError: If they are not finite and no more steps may be skipped.
        """
        losses, self._losses = self._losses, []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        largest = get_total_norm(gradients, norm_type=float("inf"))
        limit = min(torch.finfo(gradient.dtype).max for gradient in gradients) ** 0.5
        loss_is_finite = torch.stack(losses).isfinite().all() if losses else torch.tensor(True)
        # one transfer from the device; the comparison is false for nan
        finite, loss_finite = torch.stack([loss_is_finite & (largest < limit), loss_is_finite]).tolist()
        decide = trainer.strategy.reduce_boolean_decision
        if decide(finite, all=True):
            return
        loss_finite = decide(loss_finite, all=True)
        if loss_finite and is_rescaled(trainer):
            return
        problem = describe(trainer, loss_finite, float(largest))
        if self.skipped >= self.allowed:
            spent = f" {self.skipped} steps were skipped before." if self.skipped else ""
            raise NonFiniteError(
                f"{problem}: lower the learning rate (model.lr), clip gradients (trainer.gradient_clip_val), use another"
                " precision (trainer.precision), or allow some steps to be skipped (training.skip_nonfinite)."
                f"{spent} Checkpoints are as they were."
            )
        self.skipped += 1
        rank_zero_warn(f"{problem}: skipped, {self.skipped} of {self.allowed} (training.skip_nonfinite).")
        optimizer.zero_grad(set_to_none=True)  # optimizers pass over parameters without a gradient
        for buffer, value in self._statistics:
            buffer.copy_(value)

    def report(self) -> None:
        """Says at the end of a run how many steps were skipped."""
        if self.skipped:
            rank_zero_warn(f"{self.skipped} steps of this run were skipped, their losses or gradients were not finite.")


def is_rescaled(trainer: Trainer) -> bool:
    """Whether infinite gradients are expected: 16-mixed multiplies the loss, skips the step and lowers its factor."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() > 1


def describe(trainer: Trainer, loss_is_finite: bool, largest: float) -> str:
    """Says which step has which losses, and which images they are of."""
    batch = trainer.fit_loop.epoch_loop.batch_progress.total.ready
    metrics = trainer.callback_metrics
    terms = [
        f"{name.removeprefix('train/')} {float(v):.4g}" for name, v in metrics.items() if name.startswith("train/")
    ]
    values = f" ({', '.join(terms)})" if terms else ""
    images = "".join(
        f"; its {role} images: {', '.join(names)}" for role, names in sources_of_batch(trainer, batch - 1).items()
    )
    where = f"batch {batch} (step {trainer.global_step + 1})"
    if loss_is_finite:
        return f"The gradient of {where} is not finite or too large (up to {largest:.3g}), its loss is{values}{images}"
    return f"The loss of {where} is not finite{values}{images}"
