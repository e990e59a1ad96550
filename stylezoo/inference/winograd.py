"""Faster operations for CPUs, in place of PyTorch's own, for any network and without a change to it.

`Winograd` is a mode: inside of its ``with`` block, each operation that has a faster form on this machine runs in that form.

* Convolutions of stride 1 run in NNPACK, which PyTorch is built with but uses for large batches alone: 3 x 3 kernels by
  Winograd's minimal filtering (Lavin & Gray 2015, arXiv:1509.09308; tiles of 6 x 6 outputs, 1.8 instead of 9
  multiplications per output and input channel), larger ones by Fourier transforms of 16 x 16 tiles. Which layers gain by it
  is a rule here, and a measurement where `LayerTimer` has made one.
* 2 x 2 max pooling is computed by element-wise maxima, without the indices that only gradients need.

`reuse_memory` lets the process reuse what it has freed: by default the C library of Linux returns every block of more than
32 MiB to the system at once, which hands it out again page by page, filled with zeros. For maps of 64 channels at 512 x 512
pixels that takes longer than padding, ReLU and pooling together.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

SMALLEST_WIDTH = 16
"""Channels from which 3 x 3 convolutions gain: transforms cost as much as the products of this many."""

LARGEST_KERNEL = 16
"""Side of the tiles of NNPACK's Fourier transforms."""

WORKSPACE = 256 * 2**20
"""Bytes that the transforms of a convolution may take."""

aten = torch.ops.aten


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


@cache
def has_nnpack() -> bool:
    """Whether PyTorch has NNPACK, and the processor what that needs; the first call initializes it."""
    is_available: Callable[[], bool] = torch.backends.nnpack.is_available
    return hasattr(torch, "_nnpack_spatial_convolution") and is_available()


class Winograd(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs convolutions and max pooling in faster forms inside of a ``with`` block, which must be in inference mode.

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
        result = None
        if func is aten.conv2d.default:
            result = self.conv2d(*args, **(kwargs or {}))
        elif func is aten.max_pool2d.default:
            result = max_pool2d(*args, **(kwargs or {}))
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
        if set(_listed(stride)) | set(_listed(dilation)) != {1} or groups != 1 or not fits_nnpack(x, weight):
            return None
        return self.convolution(x, weight, bias, _listed(padding))

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


def fits_nnpack(x: Tensor, weight: Tensor) -> bool:
    """Whether NNPACK computes a convolution of stride 1: float32 on the CPU, in PyTorch's usual layout, a square kernel."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 4
        and 1 < weight.shape[-1] == weight.shape[-2] <= LARGEST_KERNEL
        and x.numel() > 0
        and x.is_contiguous()
        and has_nnpack()
    )


def nnpack(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    """Computes a convolution of stride 1 by NNPACK, (B, C, H, W) -> (B, C', H', W').

    NNPACK keeps the transforms of all tiles in memory. Large maps are computed in strips of rows, so that these take no more
    than `WORKSPACE`.
    """
    weight, kernel = weight.contiguous(), weight.shape[-1]
    rows = strip_rows(weight.shape[0] + weight.shape[1], kernel, x.shape[-1])
    if rows >= x.shape[-2]:
        return torch._nnpack_spatial_convolution(x, weight, bias, padding, [1, 1])
    if any(padding):
        x = pad(x, (padding[-1], padding[-1], padding[0], padding[0]))
    height, width = (side - kernel + 1 for side in x.shape[-2:])
    output = x.new_empty(x.shape[0], weight.shape[0], height, width)
    for top in range(0, height, rows):
        strip = x[..., top : top + rows + kernel - 1, :].contiguous()
        output[..., top : top + rows, :] = torch._nnpack_spatial_convolution(strip, weight, bias, [0, 0], [1, 1])
    return output


def strip_rows(channels: int, kernel: int, width: int) -> int:
    """Returns the number of rows of a map that NNPACK computes at once, whole tiles.

    Args:
        channels: Of input and output together.
        kernel: Side of the kernel.
        width: Of the map.
    """
    inside, tile = (6, 8) if kernel == 3 else (LARGEST_KERNEL + 1 - kernel, LARGEST_KERNEL)
    row_of_tiles = channels * 4 * tile**2 * math.ceil(width / inside)  # bytes
    return inside * max(1, WORKSPACE // row_of_tiles)


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    ceil_mode: bool = False,
) -> Tensor | None:
    """Returns the maxima of 2 x 2 areas, or None for other pooling; the arguments are those of `torch.max_pool2d`."""
    strides = _listed(stride) or _listed(kernel_size)
    if set(_listed(kernel_size)) | set(strides) != {2} or set(_listed(padding)) != {0} or set(_listed(dilation)) != {1}:
        return None
    if x.device.type != "cpu" or x.ndim != 4 or min(x.shape[-2:]) < 2 or not x.is_contiguous():
        return None
    return _halved(_halved(x, -2, ceil_mode), -1, ceil_mode)


def _halved(x: Tensor, dim: int, ceil_mode: bool) -> Tensor:
    """Returns the larger of every two neighbors along a dimension; a last one that is alone stays if ``ceil_mode``."""
    pairs = x.shape[dim] // 2
    even = x.narrow(dim, 0, 2 * pairs)
    every = [slice(None)] * x.ndim
    every[dim] = slice(0, None, 2)
    first = even[tuple(every)]
    every[dim] = slice(1, None, 2)
    larger = torch.maximum(first, even[tuple(every)])
    if ceil_mode and x.shape[dim] % 2:
        larger = torch.cat((larger, x.narrow(dim, 2 * pairs, 1)), dim)
    return larger


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


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
