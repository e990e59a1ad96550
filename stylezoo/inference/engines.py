"""Engines: ways to run a model, with equal results and different speed.

    Stylizer(model, styles, engine="winograd")
    python -m stylezoo stylize --engine openvino ...

| engine      | what runs the model                                             | where                 |
|-------------|-----------------------------------------------------------------|-----------------------|
| eager       | PyTorch as it is: the reference                                 | everywhere            |
| winograd    | PyTorch with faster convolutions and pooling                    | CPUs                  |
| channels_last | the channels of a position side by side                       | CPUs                  |
| compiled    | torch.compile                                                   | where there is a compiler |
| bfloat16    | PyTorch with 16-bit weights and features                        | CPUs with bf16 units  |
| openvino    | OpenVINO (pip install stylezoo[openvino])                       | CPUs                  |
| onnxruntime | ONNX Runtime (pip install stylezoo[onnxruntime])                | CPUs                  |
| cuda        | PyTorch with 16 bits, channels last, and CUDA graphs            | NVIDIA GPUs           |

Outputs are those of eager in float32 up to a mean absolute error of `TOLERANCE`. `stylezoo.inference.tuning` chooses among
them for ``engine="auto"``.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import re
import shutil
from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from stylezoo.cpu import has_nnpack
from stylezoo.errors import StylezooError, unknown_name
from stylezoo.exporters.program import Program, to_onnx
from stylezoo.inference.winograd import Layer, Winograd, reuse_memory
from stylezoo.module import StyleCode, StyleModel

T = TypeVar("T")

TOLERANCE = {32: 0.5 / 255, 16: 2 / 255}
"""Largest mean absolute error of outputs in [0, 1] against eager in float32, by the number of bits."""

SHAPES_KEPT = 4
"""Number of image sizes for which an engine keeps what it has prepared; the one that was not used for longest goes first."""


class EngineError(StylezooError):
    """An engine cannot run a model on this machine.

    Args:
        engine: Name of the engine.
        model: The model.
        reason: Why, in words that follow a colon; an attribute, too.
    """

    def __init__(self, engine: str, model: StyleModel, reason: str) -> None:
        super().__init__(
            f"The engine {engine} cannot run {model.tag or model.system} here: {reason}. Choose another one, such as auto."
        )
        self.reason = reason


class Engine:
    """Runs a model with PyTorch as it is (``eager``); base class of the other engines.

    Args:
        model: In eval mode, on its device. It must not change afterwards: engines may hold copies of its weights.

    Raises:
        EngineError: If the engine cannot run the model here, see `obstacle`.
    """

    name: ClassVar[str] = "eager"
    bits: ClassVar[int] = 32
    prepares: ClassVar[bool] = False
    """Whether the engine prepares for each size of contents, which takes time."""

    def __init__(self, model: StyleModel) -> None:
        reason = self.obstacle(model)
        if reason is not None:
            raise EngineError(self.name, model, reason)
        self.model = model

    @classmethod
    def obstacle(cls, model: StyleModel) -> str | None:
        """Says why the engine cannot run a model on this machine; None if nothing is known to be in its way."""
        if cls.name != "eager" and model.kind == "optimization":
            return f"{model.system} optimizes images by gradients, which only the engine eager computes"
        return None

    def encode_style(self, style: Any, *, tile: int | None = None) -> StyleCode:
        """Encodes a style; see `StyleModel.encode_style`."""
        return self.run(self.model.encode_style, style, tile=tile)

    def decode(
        self,
        content: Tensor,
        codes: list[StyleCode],
        alpha: float = 1.0,
        weights: list[float] | None = None,
        **controls: Any,
    ) -> Tensor:
        """Stylizes contents; see `StyleModel.decode`."""
        return self.run(self.model.decode, content, codes, alpha, weights, **controls)

    def decode_regions(
        self, content: Tensor, codes: list[StyleCode], masks: Tensor, alpha: float = 1.0, **controls: Any
    ) -> Tensor:
        """Stylizes regions of contents; see `StyleModel.decode_regions`."""
        return self.run(self.model.decode_regions, content, codes, masks, alpha, **controls)

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls a function of the model, such as its encoder, as this engine runs PyTorch's operations.

        Args:
            function: Any function that computes with tensors and without gradients.
            *args: Its arguments.
            **kwargs: Its arguments.
        """
        with torch.inference_mode():
            return function(*args, **kwargs)


class WinogradEngine(Engine):
    """Runs a model with the operations of `stylezoo.inference.winograd`; tiles and regions as well.

    Args:
        model: See `Engine`.
        layers: {layer: whether it gains}, as `stylezoo.inference.winograd.LayerTimer` has measured.
    """

    name = "winograd"

    def __init__(self, model: StyleModel, layers: Mapping[Layer, bool] | None = None) -> None:
        super().__init__(model)
        self.layers = layers
        reuse_memory()

    @classmethod
    def obstacle(cls, model: StyleModel) -> str | None:
        if model.device.type != "cpu":
            return f"it is for CPUs, and the model is on {model.device}"
        if cls is WinogradEngine and not has_nnpack():
            return "this build of PyTorch, or this processor, does without NNPACK"
        return super().obstacle(model)

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with torch.inference_mode(), Winograd(self.layers):
            return function(*args, **kwargs)


class CompiledEngine(Engine):
    """Runs a model by torch.compile, which takes up to a minute for the first image of a size, and again for a second size."""

    name = "compiled"
    prepares = True

    def __init__(self, model: StyleModel) -> None:
        super().__init__(model)
        self.compiled = torch.compile(model.decode)
        if model.device.type == "cpu":
            reuse_memory()

    @classmethod
    def obstacle(cls, model: StyleModel) -> str | None:
        compilers = (os.environ.get("CXX", "g++"), "clang++", "cl")
        if model.device.type == "cpu" and not any(map(shutil.which, compilers)):
            return "torch.compile needs a C++ compiler (g++)"
        if model.device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton (pip install triton)"
        return super().obstacle(model)

    def decode(
        self,
        content: Tensor,
        codes: list[StyleCode],
        alpha: float = 1.0,
        weights: list[float] | None = None,
        **controls: Any,
    ) -> Tensor:
        function = self.compiled if _whole(controls) else self.model.decode
        return self.run(function, content, codes, alpha, weights, **controls)


class CopyEngine(Engine):
    """Base of engines that hold a copy of the model in the layout channels_last, in the type of numbers that the engine has."""

    def __init__(self, model: StyleModel) -> None:
        super().__init__(model)
        copied = copy.deepcopy(model).to(self.dtype(model))
        self.copied: StyleModel = copied.to(memory_format=torch.channels_last)

    @classmethod
    @abstractmethod
    def dtype(cls, model: StyleModel) -> torch.dtype:
        """Returns the type of numbers."""

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if getattr(function, "__self__", None) is self.model:
            function = getattr(self.copied, function.__name__)
        args = tuple(_channels_last(arg) for arg in args)
        result: T = _usual(super().run(function, *args, **kwargs), self.bits == 16)
        return result


class ChannelsLastEngine(CopyEngine, WinogradEngine):
    """Runs a model on a CPU with the channels of a position side by side, which suits networks of few channels."""

    name = "channels_last"

    @classmethod
    def dtype(cls, model: StyleModel) -> torch.dtype:
        return model.dtype  # type: ignore[return-value]


class Bfloat16Engine(CopyEngine):
    """Runs a model in bfloat16 on a CPU that has units for it; without these it is hundreds of times slower."""

    name = "bfloat16"
    bits = 16

    @classmethod
    def obstacle(cls, model: StyleModel) -> str | None:
        if model.device.type != "cpu":
            return f"it is for CPUs, and the model is on {model.device}"
        return super().obstacle(model)

    @classmethod
    def dtype(cls, model: StyleModel) -> torch.dtype:
        return torch.bfloat16


class CudaEngine(CopyEngine):
    """Runs a model on a GPU in bfloat16, or float16 on GPUs without it, and as a CUDA graph from the third image of a size on."""

    name = "cuda"
    bits = 16
    prepares = True

    def __init__(self, model: StyleModel) -> None:
        super().__init__(model)
        self.graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self.seen: Counter[Any] = Counter()

    @classmethod
    def obstacle(cls, model: StyleModel) -> str | None:
        if model.device.type != "cuda":
            return f"it is for NVIDIA GPUs (device, --device cuda), and the model is on {model.device}"
        return super().obstacle(model)

    @classmethod
    def dtype(cls, model: StyleModel) -> torch.dtype:
        with torch.cuda.device(model.device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def decode(
        self,
        content: Tensor,
        codes: list[StyleCode],
        alpha: float = 1.0,
        weights: list[float] | None = None,
        **controls: Any,
    ) -> Tensor:
        key = _key(content, codes, alpha, weights)
        self.seen[key] += 1
        if not _whole(controls) or self.seen[key] <= 2:  # libraries choose and load their kernels meanwhile
            return super().decode(content, codes, alpha, weights, **controls)
        if key not in self.graphs:
            try:
                self.graphs[key] = _Graph(self, content, codes, alpha, weights)
            except RuntimeError:  # an operation that must not be captured, such as one that waits for the GPU
                self.seen[key] = -(2**62)  # never again
                return super().decode(content, codes, alpha, weights)
        return _latest(self.graphs, key)(content, codes)


class _Graph:
    """The operations of a decoding, recorded for one size of contents."""

    def __init__(
        self,
        engine: CudaEngine,
        content: Tensor,
        codes: list[StyleCode],
        alpha: float,
        weights: list[float] | None,
    ) -> None:
        with torch.inference_mode(), torch.cuda.device(content.device):
            self.content = content.clone()
            self.codes = [{name: tensor.clone() for name, tensor in code.items()} for code in codes]
            self.graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(self.graph):
                self.output = engine.run(engine.model.decode, self.content, self.codes, alpha, weights)

    def __call__(self, content: Tensor, codes: list[StyleCode]) -> Tensor:
        with torch.inference_mode(), torch.cuda.device(content.device):
            self.content.copy_(content)
            for own, given in zip(self.codes, codes, strict=True):
                for name, tensor in own.items():
                    tensor.copy_(given[name])
            self.graph.replay()
            return self.output.clone()


class ConvertedEngine(WinogradEngine):
    """Base of engines that convert a model to ONNX, once per size of contents; tiles, regions and styles run as in winograd."""

    package: ClassVar[str]
    prepares = True

    def __init__(self, model: StyleModel) -> None:
        super().__init__(model)
        self.programs: OrderedDict[Any, Callable[[list[Any]], Any]] = OrderedDict()

    @classmethod
    def obstacle(cls, model: StyleModel) -> str | None:
        if importlib.util.find_spec(cls.package) is None:
            return f"it needs {cls.package} (pip install stylezoo[{cls.name}])"
        if model.some_weight().dtype != torch.float32:
            return "it runs models in float32"
        return super().obstacle(model)

    @abstractmethod
    def compile(self, onnx: bytes) -> Callable[[list[Any]], Any]:
        """Returns a function of arrays that returns an array, from an ONNX file."""

    def decode(
        self,
        content: Tensor,
        codes: list[StyleCode],
        alpha: float = 1.0,
        weights: list[float] | None = None,
        **controls: Any,
    ) -> Tensor:
        if not _whole(controls):
            return super().decode(content, codes, alpha, weights, **controls)
        content, codes = self.model.check_inputs(content, codes)
        tensors = [content, *(tensor for code in codes for tensor in code.values())]
        key = _key(content, codes, alpha, weights)
        if key not in self.programs:
            self.programs[key] = self._converted(tensors, codes, alpha, weights)
        output = _latest(self.programs, key)([tensor.contiguous().numpy() for tensor in tensors])
        return torch.from_numpy(output)

    def _converted(
        self, tensors: list[Tensor], codes: list[StyleCode], alpha: float, weights: list[float] | None
    ) -> Callable[[list[Any]], Any]:
        program = Program(self.model, [list(code) for code in codes], alpha=alpha, weights=weights)
        inputs = {f"input{index}": tensor for index, tensor in enumerate(tensors)}
        try:
            return self.compile(to_onnx(program, inputs))
        except Exception as error:  # exporters and compilers raise errors of many kinds
            reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
            raise EngineError(self.name, self.model, f"it cannot be converted ({reason})") from error


class OpenVINOEngine(ConvertedEngine):
    """Runs a model by OpenVINO (Intel)."""

    name = package = "openvino"

    def compile(self, onnx: bytes) -> Callable[[list[Any]], Any]:
        # From ONNX and not from PyTorch: openvino.convert_model would report its use to Intel over the network.
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = core.read_model(io.BytesIO(onnx))
        if any(
            op.get_type_name() == "TopK" and "int64" in str(op.input(0).get_element_type()) for op in model.get_ops()
        ):
            raise ValueError("it sorts integers of 64 bits, which OpenVINO computes with 32")
        program = core.compile_model(model, "CPU", options)
        names = [name for port in program.inputs for name in port.get_names() if re.fullmatch(r"input\d+", name)]
        wanted = [int(name.removeprefix("input")) for name in names]

        def run(arrays: list[Any]) -> Any:
            return program([arrays[index] for index in wanted])[0].copy()

        return run


class ONNXRuntimeEngine(ConvertedEngine):
    """Runs a model by ONNX Runtime (Microsoft)."""

    name = package = "onnxruntime"

    def compile(self, onnx: bytes) -> Callable[[list[Any]], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

        def run(arrays: list[Any]) -> Any:
            return session.run(None, {f"input{index}": array for index, array in enumerate(arrays)})[0]

        return run


ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (
        Engine,
        WinogradEngine,
        ChannelsLastEngine,
        CompiledEngine,
        Bfloat16Engine,
        OpenVINOEngine,
        ONNXRuntimeEngine,
        CudaEngine,
    )
}
"""The engines by name."""


def create_engine(name: str, model: StyleModel) -> Engine:
    """Builds the engine of a name.

    Args:
        name: One of `ENGINES`.
        model: In eval mode, on its device.

    Raises:
        StylezooError: If there is no such engine.
        EngineError: If it cannot run the model here.
    """
    if name not in ENGINES:
        raise unknown_name("There is no engine", name, ["auto", *ENGINES], "the engines are")
    return ENGINES[name](model)


def _whole(controls: Mapping[str, Any]) -> bool:
    """Whether images are to be decoded as a whole and without further controls: what engines prepare programs for."""
    return all(value is None for value in controls.values())


def _key(content: Tensor, codes: list[StyleCode], alpha: float, weights: list[float] | None) -> Any:
    """What a prepared program depends on."""
    shapes = tuple((name, tuple(tensor.shape)) for code in codes for name, tensor in code.items())
    return tuple(content.shape), shapes, len(codes), alpha, tuple(weights or ())


def _latest(kept: OrderedDict[Any, T], key: Any) -> T:
    """Returns what belongs to a key, as the one that was used last, and lets go of the oldest beyond `SHAPES_KEPT`."""
    kept.move_to_end(key)
    while len(kept) > SHAPES_KEPT:
        kept.popitem(last=False)
    return kept[key]


def _channels_last(value: Any) -> Any:
    """Returns images (B, C, H, W) in the layout channels_last, and everything else as it is."""
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _usual(value: Any, is_short: bool) -> Any:
    """Returns tensors, and those of style codes, in PyTorch's usual layout, and those of 16 bits in float32."""
    if isinstance(value, dict):
        return {name: _usual(tensor, is_short) for name, tensor in value.items()}
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return (value.float() if is_short else value).contiguous()
