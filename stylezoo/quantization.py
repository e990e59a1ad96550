"""Quantization of model files: 8-bit integers with one scale per block, or half precision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

MIN_ELEMENTS = 30_000
"""Tensors of fewer elements are never quantized to 8 bits."""

BLOCK_SIZE = 16
"""Neighboring weights in a row of a matrix that share a scale."""

SUFFIX = ".unit"
"""Suffix of the name of the tensor that holds the scales of a quantized tensor; part of the file format."""


def quantize(tensors: Mapping[str, Tensor], bits: Literal[8, 16], half: Collection[str] = ()) -> dict[str, Tensor]:
    """Returns floating-point tensors in fewer bits, for storage.

    Vectors (biases, affine parameters of norms) keep their data type: they are small, and their errors add up over all
    pixels. With 16 bits all other tensors are cast to half precision. With 8 bits, matrices and convolutions of at least
    `MIN_ELEMENTS` elements become integers from -127 to 127. Each kernel of several pixels, or else each block of
    `BLOCK_SIZE` weights in a row, has its own half-precision scale, which is stored as ``NAME.unit``. In a kernel the
    running sums are rounded instead of the weights themselves, so that errors cancel where neighboring pixels are alike.
    All smaller tensors are cast to half precision.

    Args:
        tensors: Tensors by name, of any shape.
        bits: Bits per weight, 8 or 16.
        half: Names of tensors that are cast to half precision even if ``bits`` is 8.

    Returns:
        The tensors under their names, and the scales under ``NAME.unit``. Integer inputs are returned as they are.
    """
    result = {}
    for name, tensor in tensors.items():
        kernel = tensor[0, 0].numel() if tensor.ndim > 2 else 1
        length = kernel if kernel > 1 else BLOCK_SIZE
        large = tensor.ndim > 1 and tensor.numel() >= MIN_ELEMENTS
        if bits == 8 and large and tensor[0].numel() % length == 0 and name not in half:
            blocks = tensor.double().reshape(-1, length)
            scale = (blocks.abs().amax(1, keepdim=True) / 126).clamp_min(1e-7).half()
            counts = blocks / scale
            if kernel > 1:
                sums = counts.cumsum(1).round()
                counts = sums.diff(dim=1, prepend=torch.zeros_like(sums[:, :1]))
            result[name] = counts.round().to(torch.int8).reshape(tensor.shape)
            result[f"{name}{SUFFIX}"] = scale
        else:
            result[name] = tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
    return result


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of `quantize` with those of 8 bits multiplied by their scales, in float32.

    Args:
        tensors: Tensors by name, as `quantize` returns them. Tensors that have no scale are returned as they are.

    Returns:
        The tensors by name, without the scales.
    """
    scales = {name: tensors[f"{name}{SUFFIX}"].float() for name in tensors if f"{name}{SUFFIX}" in tensors}
    rest = {name: tensor for name, tensor in tensors.items() if name.removesuffix(SUFFIX) not in scales}
    restored = {
        name: (tensors[name].reshape(scale.numel(), -1) * scale.reshape(-1, 1)).reshape(tensors[name].shape)
        for name, scale in scales.items()
    }
    return rest | restored
