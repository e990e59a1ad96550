"""Training with Winograd's convolutions: the gradients of 3 x 3 convolutions are such convolutions, too.

Of the convolutions of an AdaIN step with seven passes' worth of products, six are 3 x 3 convolutions of maps: the three
passes of the encoder and the one of the decoder, and the gradients that go back through the decoder and through the
encoder, whose weights get none. NNPACK, which PyTorch is built with but uses in few cases, computes them by Winograd's
minimal filtering (Lavin & Gray 2015, arXiv:1509.09308). Gradients of weights stay with oneDNN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylezoo.cpu import SMALLEST_WIDTH, has_nnpack, is_plain, var_mean

SMALLEST_MAP = 24 * 24
"""Positions from which it is faster: the kernels are transformed anew for every image."""

aten = torch.ops.aten


class WinogradTraining(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A ``with`` block in which 3 x 3 convolutions, and their gradients with respect to the input, are NNPACK's.

    Variances over positions take two passes of vectorized sums. What differs from PyTorch's own is rounding, relative errors
    of about 1e-6. Other convolutions (strides, groups, few
    channels), other dtypes and other devices are computed as usual. The backward pass must run in the block, too.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.convolution.default:
            x, weight, bias, *rest = args
            if _fits(x, weight, *rest[:6]):
                return convolved(x, weight, bias, rest[1][0])
        elif func is aten.convolution_backward.default:
            gradient, x, weight, _, *rest, mask = args
            padding = 2 - rest[1][0]  # of the convolution that goes back
            if mask[0] and padding >= 0 and _fits(gradient, weight, *rest[:6]) and x.is_contiguous():
                others = func(*args[:-1], [False, *mask[1:]]) if any(mask[1:]) else (None, None, None)
                back = weight.transpose(0, 1).flip(2, 3).contiguous()
                return convolved(gradient, back, None, padding), *others[1:]
        elif func is aten.var_mean.correction and (result := var_mean(*args, **(kwargs or {}))) is not None:
            return result
        return func(*args, **(kwargs or {}))


def _fits(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> bool:
    """Whether NNPACK computes a convolution faster: 3 x 3, stride 1, float32 on the CPU, in the usual layout."""
    return (
        weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= SMALLEST_WIDTH
        and {*stride, *dilation, groups} == {1}
        and len({*padding}) == 1
        and padding[0] <= 2
        and not transposed
        and weight.dtype == torch.float32
        and is_plain(x)
        and x.shape[2] * x.shape[3] >= SMALLEST_MAP
        and has_nnpack()
    )


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """A convolution of stride 1 by NNPACK, (B, C, H, W) -> (B, C', H', W').

    Image by image: for a batch NNPACK has another algorithm, which is slower than oneDNN.
    """
    weight = weight.contiguous()
    one = [torch._nnpack_spatial_convolution(image, weight, bias, [padding, padding], [1, 1]) for image in x.split(1)]  # type: ignore[no-untyped-call]
    return torch.cat(one) if len(one) > 1 else one[0]
