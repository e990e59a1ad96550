"""Preconditioned Adam: the steps of Adam on convolutions whose inputs are decorrelated. It is from no paper.

Features are positive and their neighbors alike, so that small steps of all weights add up: plain Adam would lose in its
first steps what a least-squares initialization has found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from stylezoo.errors import check_number
from stylezoo.training.plans import Plan
from stylezoo.training.regression import second_moments


class OptimizerSettings:
    """Base of the optimizers that `stylezoo.training.Training` can give a model."""

    def build(self, plan: Plan, preconditioners: Mapping[str, Tensor] | None) -> Optimizer:
        """Builds the optimizer of a model.

        Args:
            plan: Of the model.
            preconditioners: {name of a convolution: matrix}; None if a checkpoint will bring them.
        """
        raise TypeError(f"{type(self).__name__} does not build an optimizer.")


class PreconditionedAdam(OptimizerSettings):
    """Settings of `PreconditionedAdamOptimizer` for all trained convolutions of a model; other parameters take plain steps.

    Args:
        lr: Learning rate, in place of the model's; some 3e-3. The model's schedule is kept.
        betas: Decays of the running means of gradients and of their squares.
        crops: Number of training crops on which the inputs of convolutions are measured, unless the initialization has
            measured them.
    """

    def __init__(self, lr: float = 3e-3, betas: tuple[float, float] = (0.9, 0.99), crops: int = 64) -> None:
        self.lr = check_number("lr", lr, "the learning rate, a finite number from 0 up", 0)
        for beta in betas:
            check_number("betas", beta, "two numbers from 0 up to 1, without 1", 0, math.nextafter(1, 0))
        self.betas = betas
        self.crops = check_number("crops", crops, "a number of training crops, at least 1", 1, whole=True)

    def build(self, plan: Plan, preconditioners: Mapping[str, Tensor] | None) -> Optimizer:
        convs = plan.convolutions
        known: Sequence[Tensor | None] = [None] * len(convs)
        if preconditioners is not None:
            known = [preconditioners[name] for name in convs]
        preconditioned = {parameter for conv in convs.values() for parameter in conv.parameters()}
        trained = (p for p in plan.model.parameters() if p.requires_grad and p not in preconditioned)
        others = {parameter: plan.fan_in(parameter) for parameter in trained}
        return PreconditionedAdamOptimizer(list(convs.values()), known, self.lr, self.betas, others=others)


class PreconditionedAdamOptimizer(Optimizer):
    """Adam on the weights V of convolutions of decorrelated inputs: W = V T, where T x has the identity as second moments.

    The weights stay those of plain convolutions, only the steps differ. The learning rate is divided by the root of the
    number of inputs, so that a step changes the outputs of all convolutions about equally. The same holds for other
    parameters, which take plain steps.

    Args:
        convs: The convolutions, whose bias is one more input. One without a bias is followed by a normalization that
            removes the mean of its outputs: its inputs are decorrelated as if their mean were 0.
        preconditioners: T of each, (D + 1, D + 1) and lower triangular, see `preconditioner`; None for plain Adam, or until
            a checkpoint is loaded.
        lr: Learning rate.
        betas: Decays of the running means of gradients and of their squares.
        others: More parameters, with the number of inputs that each sums up.
    """

    def __init__(
        self,
        convs: Sequence[nn.Conv2d],
        preconditioners: Sequence[Tensor | None],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        others: Mapping[nn.Parameter, int] | None = None,
    ) -> None:
        self.convs, self.others = convs, others or {}
        groups: list[dict[str, Any]] = [{"params": [p for conv in convs for p in conv.parameters()]}]
        super().__init__([*groups, *([{"params": [*self.others]}] if others else [])], {"lr": lr, "betas": betas})
        for conv, matrix in zip(convs, preconditioners, strict=True):
            if matrix is not None:
                self.state[conv.weight]["preconditioner"] = matrix.to(
                    conv.weight
                ).contiguous()  # as in a checkpoint, to the last bit

    def state_dict(self) -> dict[str, Any]:
        """Returns the state; of the preconditioners, most of it, the triangles that are not zero, (D (D + 1) / 2,)."""
        whole = super().state_dict()
        packed = {
            key: {name: pack(value) if name == "preconditioner" else value for name, value in state.items()}
            for key, state in whole["state"].items()
        }
        return {**whole, "state": packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state; those of earlier versions call the preconditioner ``whitening``, and store it whole."""
        renamed = {
            key: {
                "preconditioner" if name == "whitening" else name: unpack(value)
                if name in ("preconditioner", "whitening")
                else value
                for name, value in state.items()
            }
            for key, state in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": renamed})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for conv in self.convs:
            if conv.weight.grad is None:
                continue
            gradient = F.pad(conv.weight.grad.flatten(1), (0, 1))
            if conv.bias is not None and conv.bias.grad is not None:
                gradient[:, -1] = conv.bias.grad
            change = self._change(conv.weight, gradient)
            conv.weight += change[:, :-1].reshape(conv.weight.shape)
            if conv.bias is not None:
                conv.bias += change[:, -1]
        for parameter, inputs in self.others.items():
            if parameter.grad is not None:
                parameter.add_(self._change(parameter, parameter.grad, inputs))
        return loss

    def _change(self, parameter: Tensor, gradient: Tensor, inputs: int | None = None) -> Tensor:
        group, state = self.param_groups[0], self.state[parameter]
        if "preconditioner" in state:
            gradient = product(gradient, state["preconditioner"], transpose=True)
        if "step" not in state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        change: Tensor = mean / ((state["square"] / (1 - second ** state["step"])).sqrt() + 1e-8)
        if "preconditioner" in state:
            change = product(change, state["preconditioner"])
        change *= -group["lr"] / (inputs or gradient.shape[-1]) ** 0.5
        return change


def preconditioner(inputs: Tensor, damping: float) -> Tensor:
    """Returns T with T M T^T = 1, lower triangular, (D + 1, D + 1).

    Args:
        inputs: (N, D); M are their second moments and those of the 1 of the bias.
        damping: Share of the mean of M's diagonal that is added to it.
    """
    return inverse_root(second_moments(inputs), damping)


def inverse_root(moments: Tensor, damping: float) -> Tensor:
    """Returns the inverse of the Cholesky factor of damped second moments, see `preconditioner`."""
    moments = moments.double()
    moments.diagonal().add_(damping * moments.diagonal().mean())
    identity = torch.eye(len(moments)).to(moments)
    root: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(moments), identity, upper=False)
    return root.float()


def pack(lower: Tensor) -> Tensor:
    """Returns the lower triangle of a matrix (D, D), row by row: (D (D + 1) / 2,)."""
    return torch.cat([row[: index + 1] for index, row in enumerate(lower)])


def unpack(packed: Tensor) -> Tensor:
    """Returns the lower triangular matrix that was packed; a matrix as it is."""
    if packed.ndim == 2:
        return packed
    size = int((2 * packed.numel() + 0.25) ** 0.5)
    lower = packed.new_zeros(size, size)
    for index, row in enumerate(torch.split(packed, [*range(1, size + 1)])):
        lower[index, : index + 1] = row
    return lower


def product(x: Tensor, lower: Tensor, transpose: bool = False, blocks: int = 6) -> Tensor:
    """Returns x L or x L^T for a lower triangular L, block by block, which skips most of the zeros."""
    edges = torch.linspace(0, len(lower), blocks + 1).long().tolist()
    if transpose:
        parts = [x[:, :end] @ lower[start:end, :end].T for start, end in itertools.pairwise(edges)]
    else:
        parts = [x[:, start:] @ lower[start:, start:end] for start, end in itertools.pairwise(edges)]
    return torch.cat(parts, 1)
