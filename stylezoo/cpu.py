"""Faster forms of operations on CPUs, each equal to PyTorch's own but for rounding; None where there is none.

`stylezoo.inference.winograd` and `stylezoo.training.winograd` put them in the place of PyTorch's.

* Convolutions of stride 1 by NNPACK, which PyTorch is built with but uses for large batches alone: 3 x 3 kernels by
  Winograd's minimal filtering (Lavin & Gray 2015, arXiv:1509.09308; tiles of 6 x 6 outputs, 1.8 instead of 9
  multiplications per output and input channel), larger ones by Fourier transforms of 16 x 16 tiles.
* Convolutions in groups of few channels as sums of depthwise ones, which oneDNN has a kernel for.
* 2 x 2 max pooling by element-wise maxima, without the indices that only gradients need.
* Variances in two passes of vectorized sums, where PyTorch goes through the values one by one, and with
  them instance normalization in channels_last, where PyTorch's variances are less exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

SMALLEST_WIDTH = 16
"""Channels from which 3 x 3 convolutions gain by NNPACK: transforms cost as much as the products of this many."""

LARGEST_KERNEL = 16
"""Side of the tiles of NNPACK's Fourier transforms."""

WORKSPACE = 256 * 2**20
"""Bytes that the transforms of a convolution may take."""

SMALL_GROUP = 4
"""Products of input and output channels of a group up to which a convolution is a sum of depthwise ones."""


@cache
def has_nnpack() -> bool:
    """Whether PyTorch has NNPACK, and the processor what that needs; the first call initializes it."""
    is_available: Callable[[], bool] = torch.backends.nnpack.is_available
    return hasattr(torch, "_nnpack_spatial_convolution") and is_available()


def fits_nnpack(x: Tensor, weight: Tensor) -> bool:
    """Whether NNPACK computes a convolution of stride 1: float32 on the CPU, in PyTorch's usual layout, a square kernel."""
    fits = 1 < weight.shape[-1] == weight.shape[-2] <= LARGEST_KERNEL
    return fits and is_plain(x) and weight.dtype == torch.float32 and has_nnpack()


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
    strides = listed(stride) or listed(kernel_size)
    if set(listed(kernel_size)) | set(strides) != {2} or set(listed(padding)) != {0} or set(listed(dilation)) != {1}:
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


def listed(value: Any) -> list[int]:
    """Returns the argument of a convolution as a list, also where it is one number for all axes."""
    return [value] if isinstance(value, int) else list(value)


def grouped_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor | None:
    """Returns a convolution in groups of few channels, or None for others; the arguments are those of `torch.conv2d`."""
    inputs, outputs = weight.shape[1], weight.shape[0] // groups  # of a group
    layout = layout_of(x)
    if groups == 1 or not 1 < inputs * outputs <= SMALL_GROUP or layout is None or x.dtype != weight.dtype:
        return None
    parts = []
    for o in range(outputs):
        own = weight[o::outputs]
        part = torch.conv2d(
            x[:, ::inputs].contiguous(memory_format=layout),
            own[:, :1],
            None if bias is None else bias[o::outputs],
            stride,
            padding,
            dilation,
            groups,
        )
        for i in range(1, inputs):
            every = x[:, i::inputs].contiguous(memory_format=layout)
            part += torch.conv2d(every, own[:, i : i + 1], None, stride, padding, dilation, groups)
        parts.append(part)
    return parts[0] if outputs == 1 else torch.stack(parts, 2).flatten(1, 2)


def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor] | None:
    """Returns variances and means over positions, or None for other axes; the arguments are those of `torch.var_mean`."""
    if dim is None or layout_of(x) is None or {d % 4 for d in dim} != {2, 3}:
        return None
    mean = x.mean((2, 3), keepdim=True)
    count = x.shape[2] * x.shape[3] - (1 if correction is None else correction)
    variance = (x - mean).square_().sum((2, 3), keepdim=True) / max(count, 0)
    return (variance, mean) if keepdim else (variance[..., 0, 0], mean[..., 0, 0])


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor | None:
    """Returns a map in channels_last with each channel normalized, or None for others; arguments of `torch.group_norm`."""
    if groups != x.shape[1] or is_plain(x) or not is_plain(x, torch.channels_last):
        return None
    found = var_mean(x, (2, 3), correction=0, keepdim=True)
    assert found is not None
    variance, mean = found
    scale = (variance + eps).rsqrt_()
    scale = scale if weight is None else scale * weight[:, None, None]
    normalized = (x - mean).mul_(scale)
    return normalized if bias is None else normalized.add_(bias[:, None, None])


def is_plain(x: Tensor, layout: torch.memory_format = torch.contiguous_format) -> bool:
    """Whether a tensor (B, C, H, W) is of single precision, on the CPU, and in a layout."""
    is_single = x.device.type == "cpu" and x.dtype == torch.float32
    return is_single and x.ndim == 4 and x.numel() > 0 and x.is_contiguous(memory_format=layout)


def layout_of(x: Tensor) -> torch.memory_format | None:
    """Returns the layout of a tensor (B, C, H, W) that has a faster form in both of PyTorch's; None for other tensors."""
    layouts = (torch.contiguous_format, torch.channels_last)
    return next((layout for layout in layouts if is_plain(x, layout)), None)
