"""`export`: a model as a file that runs without this package."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylezoo import weights
from stylezoo.checkpoints import load_model, model_digest
from stylezoo.controls import ExportFormat, ExportPrecision, StyleInput
from stylezoo.errors import StylezooError, check_choice
from stylezoo.exporters.interface import CHECKED, SMALLEST, Interface, make_interface
from stylezoo.exporters.precision import converted
from stylezoo.exporters.program import shared, silent, to_onnx, to_torch
from stylezoo.files import replacing
from stylezoo.module import StyleModel

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}

TOLERANCE = {"float32": 0.5 / 255, "float16": 2 / 255, "int8": 2 / 255}
"""Largest mean absolute error of outputs in [0, 1] against PyTorch in float32, by precision."""

Run = Callable[[Mapping[str, Tensor]], Tensor]
"""A function of inputs by name that returns the output."""


@dataclass(frozen=True)
class Exported:
    """What `export` has written.

    Attributes:
        path: The file.
        bytes: Its size.
        inputs: {name: shape}, with names in the place of sizes that vary.
        largest_error: Of outputs clamped to [0, 1] against PyTorch in float32, at three sizes that were not traced.
        mean_error: The largest mean absolute error of these three outputs.
    """

    path: Path
    bytes: int
    inputs: dict[str, list[int | str]]
    largest_error: float
    mean_error: float


def export(
    model: StyleModel | str,
    path: str | os.PathLike[str],
    *,
    style_input: StyleInput | None = None,
    style: Any = None,
    alpha: float | None = None,
    precision: ExportPrecision = "float32",
    format: ExportFormat = "onnx",
) -> Exported:
    """Writes a model to a file that runs without this package: ONNX, or a program of torch.export.

    The file takes ``content``, (B, 3, H, W) in [0, 1] with sides from 64 pixels up, and returns ``output`` of the same size,
    which is not clamped; normalization, padding and cropping are inside. Before it is written it is compared with PyTorch
    at three sizes that were not traced.

    Args:
        model: A model, or what `stylezoo.load_model` takes.
        path: Ends in ``.onnx``, or in ``.pt2`` if ``format`` is ``torch``; a file there is replaced when the new one is complete.
        style_input: ``image``: the input ``style`` is an image (1 or B, 3, H', W'); ``code``: the inputs are what
            `StyleModel.encode_style` returns, by name. None takes images where the system does, and for systems with trained
            styles weights over these, ``style`` (1 or B, N).
        style: A style that is fixed instead: an image file, a tensor (3, H, W), or the number or name of a trained style.
        alpha: Strength of the style where it is fixed, 0 to 1. None makes it the input ``alpha``, a number of shape (),
            where it costs nothing: where it fades features. Elsewhere (adaattn, sanet, stytr2, magenta, microast,
            multi_level_attention) it is 1.
        precision: ``float16`` or ``int8`` make ONNX files half or a quarter as large, see `stylezoo.exporters.precision`.
        format: ``onnx`` or ``torch``.

    Returns:
        Size, inputs and errors of the file.

    Raises:
        StylezooError: If a package is missing, the system cannot be exported so, or the outputs differ from PyTorch's by more
            than 0.5 of 255 on average, 2 of 255 in float16 and int8.
        OSError: If the file cannot be written; an existing one is unchanged.
    """
    path = Path(path)
    check_export(path, precision, format)
    model = load_model(model) if isinstance(model, str) else model
    was_training = model.training
    model.eval()
    try:
        interface = make_interface(model, style_input, style, alpha)
        about = metadata(interface, precision)
        content, run = (_onnx if format == "onnx" else _torch)(interface, precision, about)
        try:
            largest, mean = errors(interface, run)
        except Exception as error:  # an operation that a runtime does not have
            raise _failed(interface, error) from error
    finally:
        model.train(was_training)
    _check_error(model, mean, precision)
    with replacing(path) as file:
        file.write(content)
    return Exported(path, len(content), about["inputs"], largest, mean)


def _check_error(model: StyleModel, mean: float, precision: ExportPrecision) -> None:
    if not mean <= TOLERANCE[precision]:
        advice = "it cannot be exported" if precision == "float32" else "export it in float32"
        raise StylezooError(
            f"{model.tag or model.system} in {precision} differs from PyTorch by {255 * mean:.2g} of 255 on average, more than"
            f" {255 * TOLERANCE[precision]:.2g}: {advice}."
        )


def check_export(path: Path, precision: str, format: str) -> None:
    """Raises a StylezooError if it is clear without a model that there is no such export here."""
    check_choice("precision", precision, ExportPrecision)
    check_choice("format", format, ExportFormat)
    if path.suffix != SUFFIXES[format]:
        raise StylezooError(f"Exported models of the format {format} end in {SUFFIXES[format]}: {path} does not.")
    if format == "torch" and precision != "float32":
        raise StylezooError(f"Programs of torch.export are written in float32: {precision} is for the format onnx.")
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if format == "onnx" and missing:
        raise StylezooError(f"Exporting to ONNX needs {' and '.join(missing)}: pip install stylezoo[onnxruntime].")


def metadata(interface: Interface, precision: str) -> dict[str, Any]:
    """Returns what an exported file says about itself."""
    model = interface.model
    entry = weights.table().models.get(model.tag or "")
    sizes = {name: interface.axes.get(name, {}) for name in interface.inputs}
    return {
        "system": model.system,
        "tag": model.tag or "",
        "sha256": model_digest(model),
        "license": (entry and entry.license) or "",
        "paper": model.paper,
        "version": _version(),
        "precision": precision,
        "inputs": {
            name: [sizes[name].get(axis, size) for axis, size in enumerate(tensor.shape)]
            for name, tensor in interface.inputs.items()
        },
        "style": interface.kind or "fixed",
        "styles": model.styles,
        "alpha": "input, 0 to 1" if interface.alpha is None else interface.alpha,
        "images": f"RGB in [0, 1], (B, 3, H, W), sides from {SMALLEST} up; the output has the content's size, not clamped",
    }


def _version() -> str:
    with suppress(PackageNotFoundError):  # a folder that is not installed
        return version("stylezoo")
    return "unknown"


def _onnx(interface: Interface, precision: ExportPrecision, about: Mapping[str, Any]) -> tuple[bytes, Run]:
    import onnx

    try:
        exported = shared(onnx.load_from_string(to_onnx(interface.program, interface.inputs, interface.axes)))
        with silent():
            exported = converted(exported, precision)
    except Exception as error:  # exporters raise errors of many kinds
        raise _failed(interface, error) from error
    exported.producer_name, exported.producer_version = "stylezoo", about["version"]
    words = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    onnx.helper.set_model_props(exported, words)
    content = exported.SerializeToString()
    return content, session(content)


def session(content: bytes) -> Run:
    """Loads an ONNX file into ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    loaded = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    wanted = {port.name for port in loaded.get_inputs()}

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted}
        return torch.from_numpy(loaded.run(None, arrays)[0])

    return run


def _torch(interface: Interface, precision: ExportPrecision, about: Mapping[str, Any]) -> tuple[bytes, Run]:
    try:
        program = to_torch(interface.program, interface.inputs, interface.axes, SMALLEST)
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={"stylezoo.json": json.dumps(about)})
    except Exception as error:  # of many kinds, as those of the other exporter
        raise _failed(interface, error) from error
    loaded = program.module()

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            output: Tensor = loaded(*inputs.values())
        return output

    return file.getvalue(), run


def _failed(interface: Interface, error: Exception) -> StylezooError:
    reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
    name = interface.model.tag or interface.model.system
    return StylezooError(f"{name} cannot be exported with these settings ({type(error).__name__}: {reason}).")


def errors(interface: Interface, run: Run) -> tuple[float, float]:
    """Compares outputs with those of PyTorch at the sizes of `CHECKED`, clamped to [0, 1].

    Returns:
        The largest error, and the largest mean absolute error of an output; infinity if the size is another one.
    """
    largest = mean = 0.0
    for sizes in CHECKED:
        inputs = interface.example(*sizes)
        expected, output = interface.expected(inputs), run(inputs)
        if output.shape != expected.shape:
            return float("inf"), float("inf")
        error = (output.clamp(0, 1) - expected.clamp(0, 1)).abs()
        largest, mean = max(largest, float(error.max())), max(mean, float(error.mean()))
    return largest, mean
