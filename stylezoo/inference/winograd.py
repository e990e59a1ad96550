"""Faster operations for CPUs, in place of PyTorch's own, for any network and without a change to it.

`Winograd` is a mode: inside of its ``with`` block, each operation that has a faster form on this machine runs in that form.

Which convolutions gain by NNPACK is a rule here, and a measurement where `LayerTimer` has made one. The forms themselves are
those of `stylezoo.cpu`.

`reuse_memory` lets the process reuse what it has freed: by default the C library of Linux returns every block of more than
32 MiB to the system at once, which hands it out again page by page, filled with zeros. For maps of 64 channels at 512 x 512
pixels that takes longer than padding, ReLU and pooling together.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylezoo.cpu import SMALLEST_WIDTH, fits_nnpack, group_norm, grouped_conv2d, listed, max_pool2d, nnpack, var_mean

aten = torch.ops.aten

FASTER: dict[Any, Callable[..., Any]] = {
    aten.group_norm.default: group_norm,
    aten.max_pool2d.default: max_pool2d,
    aten.var_mean.correction: var_mean,
}
"""{operation: its faster form, which returns None where there is none}, besides convolutions."""


class Layer(NamedTuple):
    """What the speed of a convolution depends on.

    Attributes:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the kernel.
        scale: Base-2 logarithm of the number of pixels, rounded.
    """

    in_channels: int
    out_channels: int
    kernel: int
    scale: int

    @classmethod
    def of(cls, x: Tensor, weight: Tensor) -> Layer:
        """Describes the convolution of an input (B, C, H, W) with a weight (C', C, k, k)."""
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        return cls(weight.shape[1], weight.shape[0], weight.shape[-1], round(math.log2(max(1, pixels))))

    @property
    def gains(self) -> bool:
        """Whether NNPACK is expected to be faster, where nothing has been measured."""
        if self.kernel == 3:
            return min(self.in_channels, self.out_channels) >= SMALLEST_WIDTH
        return self.kernel >= 5


class Winograd(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations in faster forms inside of a ``with`` block, which must be in inference mode.

    Outputs differ from PyTorch's by rounding: relative errors of convolutions are about 1e-5 in float32. Other dtypes and
    devices run as they are.

    Args:
        measured: {layer: whether NNPACK is faster}, as `LayerTimer` has measured; others follow `Layer.gains`.
    """

    def __init__(self, measured: Mapping[Layer, bool] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.measured = dict(measured or {})

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        faster = self.conv2d if func is aten.conv2d.default else FASTER.get(func)
        result = None if faster is None else faster(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is None else result

    def conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> Tensor | None:
        """Returns the convolution, or None where PyTorch's own is to run; the arguments are those of `torch.conv2d`."""
        if groups > 1:
            return grouped_conv2d(x, weight, bias, stride, padding, dilation, groups)
        if {*listed(stride), *listed(dilation)} != {1} or not fits_nnpack(x, weight):
            return None
        return self.convolution(x, weight, bias, listed(padding))

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor | None:
        """Returns a convolution that NNPACK can compute, or None where PyTorch's own is faster."""
        layer = Layer.of(x, weight)
        return nnpack(x, weight, bias, padding) if self.measured.get(layer, layer.gains) else None


class LayerTimer(Winograd):  # type: ignore[no-untyped-call]
    """Computes each convolution in both ways, and keeps which is faster in ``measured``."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[Layer, tuple[float, float]] = {}

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor | None:
        layer = Layer.of(x, weight)
        start = time.perf_counter()
        result = nnpack(x, weight, bias, padding)
        middle = time.perf_counter()
        torch.conv2d(x, weight, bias, padding=padding)
        times = (middle - start, time.perf_counter() - middle)
        known = self.seconds.get(layer, times)
        self.seconds[layer] = (min(known[0], times[0]), min(known[1], times[1]))
        self.measured = {layer: fast < plain for layer, (fast, plain) in self.seconds.items()}
        return result


# Memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, as malloc.h has them."""

KEPT_BLOCK, KEPT_IN_ALL = 128 * 2**20, 512 * 2**20
"""Bytes of the largest block that is kept for reuse, and of free memory that is kept in all."""

SYSTEM_BLOCK, SYSTEM_IN_ALL = 32 * 2**20, 64 * 2**20
"""The same as glibc sets them itself, once a program has freed blocks of the largest size that it keeps."""


def reuse_memory(reuse: bool = True) -> bool:
    """Lets the process reuse the memory of freed tensors instead of returning it to the system, as far as Linux is concerned.

    At most 512 MiB stay with the process; blocks of more than 128 MiB are returned in any case.

    Args:
        reuse: Whether to do so; False goes back to what the system does.

    Returns:
        Whether the C library has such a setting.
    """
    block, total = (KEPT_BLOCK, KEPT_IN_ALL) if reuse else (SYSTEM_BLOCK, SYSTEM_IN_ALL)
    try:
        library = ctypes.CDLL(None)
        done = bool(library.mallopt(M_MMAP_THRESHOLD, block) and library.mallopt(M_TRIM_THRESHOLD, total))
        if not reuse:
            library.malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # macOS, musl, Windows
        return False
    return done
