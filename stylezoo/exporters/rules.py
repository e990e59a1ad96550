"""Forms of operations that exporters can convert, whatever the size of images.

`Exportable` is a mode: inside of its ``with`` block, each operation that has an exportable form runs in that form. Models stay
as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stylezoo.determinism import adaptive_avg_pool2d


class Sorted(NamedTuple):
    """What sorting returns."""

    values: Tensor
    indices: Tensor


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Sorted:
    """Sorts by ONNX's TopK, which keeps the order of equal values; PyTorch's does not, and runs only while it is traced."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        values, indices = torch.sort(x, dim=dim, descending=descending, stable=True)
        return Sorted(values, indices)
    values, indices = torch.topk(x, x.shape[dim], dim, largest=descending, sorted=True)
    return Sorted(values, indices)


def diff(x: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None) -> Tensor:
    """Returns differences of neighbors."""
    assert n == 1
    x = x if prepend is None else torch.cat((prepend, x), dim)
    return x.narrow(dim, 1, x.shape[dim] - 1) - x.narrow(dim, 0, x.shape[dim] - 1)


def cumsum(x: Tensor, dim: int) -> Tensor:
    """Returns cumulative sums, of truth values as numbers."""
    with torch._C.DisableTorchFunction():
        return torch.cumsum(x.long() if x.dtype == torch.bool else x, dim)


def total(x: Tensor, dim: Any = None, keepdim: bool = False, **options: Any) -> Tensor:
    """Sums; integers (B, C, N) over channels by a matrix product: ONNX Runtime's sums do not wrap around, as PyTorch's do."""
    if x.dtype == torch.int64 and x.ndim == 3 and dim == 1 and not keepdim:
        return (x.new_ones(1, int(x.shape[1])) @ x).squeeze(1)
    return torch.sum(x, **options) if dim is None else torch.sum(x, dim, keepdim, **options)


def interpolate(x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **options: Any) -> Tensor:
    """Resizes; to a given size by indices where the nearest neighbors are taken: those of ONNX Runtime may be one off."""
    if mode != "nearest" or not isinstance(size, (tuple, list)):
        return F.interpolate(x, size, scale_factor, mode, **options)
    for axis, count in enumerate(size, 2):
        length = x.shape[axis]
        ratio = torch.ones((), device=x.device) * length / count  # in float32, as PyTorch has it
        index = (torch.arange(count, device=x.device) * ratio).floor().long()
        x = x.index_select(axis, torch.minimum(index, index.new_ones(()) * length - 1))
    return x


RULES: dict[Any, Callable[..., Any]] = {
    torch.sort: sort,
    Tensor.sort: sort,
    torch.diff: diff,
    Tensor.diff: diff,
    torch.cumsum: cumsum,
    Tensor.cumsum: cumsum,
    Tensor.sum: total,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.interpolate: interpolate,
}
"""{operation: its exportable form}."""


class Exportable(TorchFunctionMode):
    """Runs operations in exportable forms inside of a ``with`` block."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return RULES.get(func, func)(*args, **(kwargs or {}))
