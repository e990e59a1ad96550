"""Operations whose gradients are the same in every run, on CUDA devices, too.

With `torch.use_deterministic_algorithms`, or ``trainer.deterministic: true`` in a recipe, PyTorch refuses the gradients of its own
reflection padding, linear interpolation and adaptive pooling on CUDA devices, which add up in any order. Networks and encoders of
this package reflect nearly everywhere. In deterministic mode these three are made of operations with gradients in one order;
their values are those of PyTorch's but for rounding, and they are slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def deterministic_operations() -> Iterator[None]:
    """A ``with`` block, or a decorator, for what is differentiated; it does nothing unless PyTorch is in deterministic mode.

    Compiled code needs none of it: the compiler has gradients of its own.
    """
    if not torch.are_deterministic_algorithms_enabled() or torch.compiler.is_compiling():
        yield
        return
    with _DeterministicOperations():
        yield


class _DeterministicOperations(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in REPLACEMENTS:
            return func(*args, **(kwargs or {}))
        device = next(x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)).device
        with torch.autocast(device.type, enabled=False):  # as the operations themselves, which keep the dtype
            return REPLACEMENTS[func](*args, **(kwargs or {}))


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """`torch.nn.functional.pad`, whose reflection is made of slices.

    Args:
        input: (..., H, W), or with as many axes as there are pairs of numbers in ``pad``.
        pad: Numbers of elements before and after the last axis, the one before it, and so on.
        mode: See there.
        value: See there.
    """
    if mode != "reflect":
        return F.pad(input, pad, mode, value)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        length = input.shape[-axis]
        first = [input.narrow(-axis, 1, before).flip(-axis)] if before else []
        last = [input.narrow(-axis, length - 1 - after, after).flip(-axis)] if after else []
        input = torch.cat([*first, input, *last], -axis) if first or last else input
    return input


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *args: Any, **options: Any
) -> Tensor:
    """`torch.nn.functional.interpolate`, of which the modes that PyTorch refuses are matrix products along each axis."""
    if mode not in ("bilinear", "bicubic"):
        return F.interpolate(input, size, scale_factor, mode, *args, **options)
    sizes, factors = _both(size), _both(scale_factor)
    for axis in (0, 1):
        # The weights, from a batch of rows in either case: PyTorch 2.15's antialiased columns of a width of 1 pixel are wrong.
        basis = torch.eye(input.shape[axis - 2], dtype=input.dtype, device=input.device)[:, None, None]  # (L, 1, 1, L)
        new = (None if size is None else (1, sizes[axis]), None if scale_factor is None else (1.0, factors[axis]))
        matrix = F.interpolate(basis, *new, mode, *args, **options)[:, 0, 0]  # (L, L')
        input = input @ matrix if axis else matrix.T @ input
    return input


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """`torch.nn.functional.adaptive_avg_pool2d` as two matrix products, whatever the size of images: exporters have no other form.

    Args:
        input: (B, C, H, W).
        output_size: Height and width of the grid of areas, or one number for both.

    Returns:
        The mean of each area, (B, C, h, w).
    """
    height, width = _both(output_size)
    if height == width == 1:
        return input.mean((2, 3), keepdim=True)
    return _areas(input.shape[2], height, input) @ input @ _areas(input.shape[3], width, input).T


def _areas(length: int, count: int, like: Tensor) -> Tensor:
    """The share of each of ``length`` positions in the mean of each of ``count`` areas, (count, length)."""
    number = torch.arange(count, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)
    start, stop = number * length // count, (number * length + length + count - 1) // count
    return ((position >= start) & (position < stop)).to(like) / (stop - start).to(like)


def _both(size: Any) -> tuple[Any, Any]:
    """Returns what PyTorch takes as one number for both axes, or as a pair."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


REPLACEMENTS: dict[Any, Callable[..., Tensor]] = {
    F.pad: pad,
    F.interpolate: interpolate,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
}
"""The operations of deterministic mode, by PyTorch's own."""
