"""ONNX files of fewer bits: computations in float16, or weights in int8."""

from __future__ import annotations

from typing import Any

from stylezoo.controls import ExportPrecision
from stylezoo.quantization import SUFFIX, quantize

SMALLEST_TENSOR = 1024
"""Numbers from which a tensor is stored in fewer bits for int8; smaller ones save nothing."""

FLOAT = 1
"""float32 in ONNX (TensorProto.FLOAT)."""

KEPT = (
    "ReduceMean",
    "ReduceSum",
    "ReduceProd",
    "InstanceNormalization",
    "Softmax",
    "Sqrt",
    "Pow",
    "TopK",
    "ScatterElements",
)
"""Operations that stay in float32: sums over positions and their roots, which float16 cannot hold."""


def converted(model: Any, precision: ExportPrecision) -> Any:
    """Converts an ONNX model in float32 to another precision; inputs and the output stay float32.

    Args:
        model: An ``onnx.ModelProto``.
        precision: ``float16``: weights and computations, but for `KEPT`; half the size. ``int8``: weights in 8
            bits, those of small tensors in 16, with which float32 is computed; about a third of the size.

    Returns:
        An ``onnx.ModelProto``.
    """
    if precision == "float16":
        from onnxruntime.transformers import float16

        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *KEPT]
        return float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    return _int8(model) if precision == "int8" else model


def _int8(model: Any) -> Any:
    """Stores weights as `stylezoo.quantization` does for model files, and restores them at the head of the graph, which runtimes
    compute once, when they load the file."""
    import torch
    from onnx import helper, numpy_helper

    tensors, nodes = [], []

    def add(name: str, op: str, *inputs: str, **options: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **options))
        return name

    def store(name: str, tensor: torch.Tensor) -> str:
        tensors.append(numpy_helper.from_array(tensor.numpy(), name))
        return name

    for tensor in model.graph.initializer:
        name, weight = tensor.name, torch.from_numpy(numpy_helper.to_array(tensor).copy())
        if weight.ndim < 2 or weight.dtype != torch.float32 or weight.numel() < SMALLEST_TENSOR:
            tensors.append(tensor)
            continue
        stored = quantize({name: weight}, 8)
        scale = stored.get(f"{name}{SUFFIX}")
        if scale is None:
            add(name, "Cast", store(f"{name}_half", stored[name]), to=FLOAT)
            continue
        counts = add(f"{name}_counts", "Cast", store(f"{name}_int8", stored[name].reshape(len(scale), -1)), to=FLOAT)
        scales = add(f"{name}_scales", "Cast", store(f"{name}_unit", scale), to=FLOAT)
        blocks = add(f"{name}_blocks", "Mul", counts, scales)
        add(name, "Reshape", blocks, store(f"{name}_shape", torch.tensor(weight.shape)))
    nodes += list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(tensors)
    model.graph.node.extend(nodes)
    return model
