"""ONNX files of fewer bits: computations in float16, or weights in int8."""

from __future__ import annotations

from typing import Any, Literal

Precision = Literal["float32", "float16", "int8"]

SMALLEST_TENSOR = 1024
"""Numbers from which a tensor of weights is stored in 8 bits; smaller ones save nothing."""

KEPT = ("ReduceMean", "ReduceSum", "ReduceProd", "InstanceNormalization", "Softmax", "Sqrt", "Pow", "TopK", "Resize")
"""Operations that stay in float32: sums over positions and their roots, which float16 cannot hold."""


def converted(model: Any, precision: Precision) -> Any:
    """Converts an ONNX model in float32 to another precision; inputs and the output stay float32.

    Args:
        model: An ``onnx.ModelProto``.
        precision: ``float16``: weights and computations, but for `KEPT`; half the size. ``int8``: weights of convolutions and
            matrix products, one scale for each output channel, computed with as float32; a quarter of the size.

    Returns:
        An ``onnx.ModelProto``.
    """
    if precision == "float16":
        from onnxruntime.transformers import float16

        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *KEPT]
        return float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    return _int8(model) if precision == "int8" else model


def _int8(model: Any) -> Any:
    """Stores weights in 8 bits, each behind a DequantizeLinear."""
    import numpy as np
    from onnx import helper, numpy_helper

    axes = _weight_axes(model.graph)
    nodes, tensors = [], []
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if tensor.name not in axes or weight.dtype != np.float32 or weight.size < SMALLEST_TENSOR:
            tensors.append(tensor)
            continue
        axis = axes[tensor.name] % weight.ndim
        others = tuple(dim for dim in range(weight.ndim) if dim != axis)
        scale = np.maximum(np.abs(weight).max(others, keepdims=True) / 127, np.finfo(np.float32).tiny)
        name = tensor.name
        tensors += [
            numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), f"{name}_int8"),
            numpy_helper.from_array(scale.reshape(-1).astype(np.float32), f"{name}_scale"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis))
    graph = model.graph
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)
    return model


def _weight_axes(graph: Any) -> dict[str, int]:
    """{weight of a convolution or matrix product: the axis of its output channels}."""
    axes = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            axes[node.input[1]] = 0 if node.op_type == "Conv" else 1
        elif node.op_type == "MatMul":
            axes[node.input[1]] = -1
        elif node.op_type == "Gemm":
            axes[node.input[1]] = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return axes
