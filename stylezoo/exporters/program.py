"""Models as programs of tensors alone, and their conversion to ONNX; engines and the command `export` share them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from stylezoo.controls import blending_shares
from stylezoo.exporters.rules import Exportable
from stylezoo.module import Blend, StyleCode, StyleModel

OPSET = 18
"""Version of ONNX's operations: the first with all that models need, which every ONNX Runtime since 1.14 has."""


class Strength:
    """An alpha that is an input: its value is unknown, so that it is never equal to 1.

    Args:
        value: (), 0 to 1.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    __rmul__ = __mul__


class CostlyAlpha(Exception):
    """A system encodes the content as a style for any alpha below 1."""


@dataclass(frozen=True)
class CheapBlend(Blend):
    """Style codes that are not blended with that of the content by an alpha that is an input."""

    def faded(self, alpha: Any, own: Any) -> Blend:
        if isinstance(alpha, Strength):
            raise CostlyAlpha
        return super().faded(alpha, own)


class Program(nn.Module):
    """A model as a function of tensors alone: the content, the styles, and alpha where it is an input.

    Args:
        model: In eval mode.
        names: Of the tensors of each style code that is an input; None takes a style as `StyleModel.encode_style` does.
        code: A fixed style in place of an input.
        alpha: Strength of the style; None makes it the last input, a tensor of shape ().
        weights: See `StyleModel.decode`.
    """

    def __init__(
        self,
        model: StyleModel,
        names: Sequence[Sequence[str]] | None = None,
        *,
        code: StyleCode | None = None,
        alpha: float | None = 1.0,
        weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.names, self.alpha, self.weights = model, names, alpha, weights
        self.fixed = None if code is None else list(code)
        for name, tensor in (code or {}).items():
            self.register_buffer(name, tensor.detach().clone(), persistent=False)
        self.eval()

    def forward(self, content: Tensor, *tensors: Tensor) -> Tensor:
        """(B, 3, H, W) and the further inputs -> (B, 3, H, W), not clamped."""
        with Exportable():
            alpha: Any = self.alpha if self.alpha is not None else Strength(tensors[-1])
            codes = self._codes(tensors)
            blend = CheapBlend(codes, blending_shares(self.weights, len(codes)))
            return self.model.decode_blend(content, blend, alpha)

    def _codes(self, tensors: Sequence[Tensor]) -> list[StyleCode]:
        if self.fixed is not None:
            return [{name: self.get_buffer(name) for name in self.fixed}]
        if self.names is None:
            return [self.model.encode_style(tensors[0])]
        rest = iter(tensors)
        return [{name: next(rest) for name in names} for names in self.names]


def to_onnx(
    program: Program, inputs: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]] | None = None
) -> bytes:
    """Converts a program to an ONNX file in float32.

    The recorded branches are those of the example: sizes that vary must not be multiples of the strides, nor be equal.

    Args:
        program: In eval mode.
        inputs: {name: example}, in their order.
        axes: {name: {axis: name of its size}}, of inputs and of ``output``, where sizes vary; None fixes all sizes.

    Raises:
        Exception: Of any kind, from the exporter, if it cannot convert an operation.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        warnings.catch_warnings(),
        TemporaryDirectory() as folder,
        silent(),
    ):
        warnings.simplefilter("ignore")  # of traced branches: see above
        torch.onnx.export(
            program,
            tuple(tensor.clone() for tensor in inputs.values()),
            f"{folder}/model.onnx",
            input_names=list(inputs),
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,  # that one needs onnxscript, and ten times as long
        )
        return Path(folder, "model.onnx").read_bytes()


def shared(model: Any) -> Any:
    """Returns an ``onnx.ModelProto`` whose weights are initializers, each stored once: a network that encodes content and style is
    recorded twice, with its weights as constants."""
    graph = model.graph
    stored: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    tensors, nodes = [], []

    def store(tensor: Any, name: str) -> None:
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if stored.setdefault(key, name) == name:
            tensor.name = name
            tensors.append(tensor)
        else:
            renamed[name] = stored[key]

    for tensor in graph.initializer:
        store(tensor, tensor.name)
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute[0].t.raw_data) > 256:
            store(node.attribute[0].t, node.output[0])
        else:
            nodes.append(node)
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    kept, tensors = list(nodes), list(tensors)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(kept)
    return model


def to_torch(
    program: Program, inputs: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]], smallest: int
) -> torch.export.ExportedProgram:
    """Converts a program to one of torch.export; the batch of styles is 1.

    Args:
        program: In eval mode.
        inputs: See `to_onnx`.
        axes: See `to_onnx`.
        smallest: Pixels of the shortest side of images.

    Raises:
        Exception: Of any kind, from the exporter.
    """
    dim = torch.export.Dim

    def sizes(name: str) -> dict[int, Any]:
        own = {axis: size for axis, size in axes.get(name, {}).items() if size != "style_batch"}
        return {axis: dim.AUTO(min=smallest) if len(own) > 1 and axis > 1 else dim.AUTO for axis in own}

    shapes = [sizes(name) for name in inputs]
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            program,
            tuple(tensor.clone() for tensor in inputs.values()),
            dynamic_shapes=(shapes[0], *([tuple(shapes[1:])] if len(shapes) > 1 else [])),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return _without_assertions(exported)


def _without_assertions(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Removes the assertions that sizes are like those of the example, such as no multiples of a stride: the operations do not
    depend on it."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_async.msg):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


@contextmanager
def silent() -> Iterator[None]:
    """Drops what libraries write to standard output by themselves: the exporter prints all of a network that it fails on."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
