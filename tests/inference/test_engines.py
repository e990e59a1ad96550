"""Engines compute what eager computes, with every model that ships; and what each of them is made of."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import thin_model
from torch import Tensor

from stylezoo import cpu
from stylezoo.checkpoints import load_model
from stylezoo.cpu import grouped_conv2d, has_nnpack, nnpack, var_mean
from stylezoo.errors import StylezooError
from stylezoo.inference import Stylizer, create_engine, engines
from stylezoo.inference.engines import (
    ENGINES,
    TOLERANCE,
    Bfloat16Engine,
    CompiledEngine,
    CudaEngine,
    Engine,
    EngineError,
)
from stylezoo.inference.winograd import Layer, LayerTimer, Winograd, reuse_memory
from stylezoo.module import StyleCode, StyleModel
from stylezoo.weights import table

needs_nnpack = pytest.mark.skipif(not has_nnpack(), reason="PyTorch has no NNPACK here")

GENERATOR = torch.Generator().manual_seed(0)
CONTENT, STYLE = (
    F.interpolate(torch.rand(2, 3, 9, 8, generator=GENERATOR), (72, 64), mode="bicubic").clamp(0, 1).split(1)
)

CONVERTED = ("adain.slim", "cin.sixteen", "microast.wikiart")
"""Models with which the engines that convert are tested: statistics and slices, trained styles, grouped convolutions."""


@cache
def shipped(tag: str) -> tuple[StyleModel, Any, StyleCode, Tensor]:
    """A model, a style for it, its code and the output in float32 by PyTorch as it is."""
    model = load_model(tag)
    (style,) = model.check_styles(model.example_styles(STYLE[0])[:1])
    style = STYLE if isinstance(style, Tensor) and style.ndim >= 3 else style
    code = Engine(model).encode_style(style)
    return model, style, code, Engine(model).decode(CONTENT, [code]).clamp(0, 1)


def difference(engine: Engine, style: Any, expected: Tensor) -> float:
    """The mean absolute difference of an engine's output."""
    output = engine.decode(CONTENT, [engine.encode_style(style)])
    assert output.shape == expected.shape and output.dtype == torch.float32
    return float((output.clamp(0, 1) - expected).abs().mean())


@needs_nnpack
@pytest.mark.parametrize("name", ["winograd", "channels_last"])
@pytest.mark.parametrize("tag", table().models)
def test_faster_operations_compute_what_eager_computes(tag: str, name: str) -> None:
    model, style, _, expected = shipped(tag)
    assert 0 < difference(create_engine(name, model), style, expected) <= TOLERANCE[32]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("tag", CONVERTED)
def test_converted_models_compute_what_eager_computes(name: str, tag: str) -> None:
    pytest.importorskip(name)
    pytest.importorskip("onnx")
    model, style, code, expected = shipped(tag)
    engine = create_engine(name, model)
    assert difference(engine, style, expected) <= TOLERANCE[32]
    again = engine.decode(CONTENT.flip(3), [code])  # the same program with another image
    assert float((again - Engine(model).decode(CONTENT.flip(3), [code])).abs().mean()) <= TOLERANCE[32]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("tag", [tag for tag in table().models if tag not in CONVERTED and "johnson" not in tag])
def test_every_model_is_converted_or_says_why_not(name: str, tag: str) -> None:
    pytest.importorskip(name)
    pytest.importorskip("onnx")
    model, style, _, expected = shipped(tag)
    try:
        assert difference(create_engine(name, model), style, expected) <= TOLERANCE[32]
    except EngineError as error:
        assert "cannot be converted" in str(error) and len(str(error)) < 300
        assert (tag, name) == ("efdm.slim", "openvino")


def test_what_cannot_be_converted_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    model, _, code, _ = shipped("efdm.slim")
    with pytest.raises(EngineError, match=r"openvino cannot run efdm.slim here: it cannot be converted \(it sorts"):
        create_engine("openvino", model).decode(CONTENT, [code])
    assert capfd.readouterr().out == ""


def test_compiled_computes_what_eager_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # captured, but not compiled in seconds
    model, style, _, expected = shipped("johnson.minotaur")
    assert difference(create_engine("compiled", model), style, expected) <= TOLERANCE[32]


def test_compiled_passes_controls_on_and_leaves_tiles_to_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(CompiledEngine, "obstacle", classmethod(lambda cls, model: None))
    model = thin_model("adain").eval()
    engine, eager = CompiledEngine(model), Engine(model)
    codes = [eager.encode_style(style) for style in (STYLE, 1 - STYLE)]
    arguments: tuple[Any, ...] = (CONTENT, codes, 0.5, [0.2, 0.8])
    assert torch.equal(engine.decode(*arguments), eager.decode(*arguments))
    monkeypatch.setattr(engine, "compiled", lambda *_, **__: pytest.fail("tiles have many sizes"))
    assert torch.equal(engine.decode(*arguments, tile=32), eager.decode(*arguments, tile=32))


@pytest.mark.parametrize("tag", ["johnson.minotaur", "magenta.distilled"])
def test_bfloat16_is_close_to_float32(tag: str) -> None:
    model, style, _, expected = shipped(tag)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert 0 < difference(Bfloat16Engine(model), style, expected) <= TOLERANCE[16]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("tag", table().models)
def test_cuda_computes_what_eager_computes(tag: str) -> None:
    _, style, _, expected = shipped(tag)
    moved = load_model(tag).cuda()
    engine = create_engine("cuda", moved)
    style = style.cuda() if isinstance(style, Tensor) else style
    code = engine.encode_style(style)
    for _ in range(4):  # the third and the fourth are a graph
        output = engine.decode(CONTENT.cuda(), [code])
        assert float((output.cpu().clamp(0, 1) - expected).abs().mean()) <= TOLERANCE[16]


@pytest.mark.parametrize("can_be_captured", [True, False])
def test_when_cuda_takes_a_graph(can_be_captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third image of a size on, not for tiles, and never again where recording one has failed."""
    model = thin_model("adain").eval()
    eager, recorded, replayed = Engine(model), [], []
    codes = [eager.encode_style(style) for style in (STYLE, 1 - STYLE)]
    arguments: tuple[Any, ...] = (CONTENT, codes, 0.5, [0.2, 0.8])

    class Graph:
        def __init__(self, engine: Engine, *given: Any) -> None:
            recorded.append(engine)
            if not can_be_captured:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.given = given

        def __call__(self, content: Tensor, codes: list[StyleCode]) -> Tensor:
            replayed.append(content)
            assert all(
                torch.equal(own[name], code[name])
                for own, code in zip(self.given[1], codes, strict=True)
                for name in code
            )
            return eager.decode(content, codes, *self.given[2:])

    monkeypatch.setattr(engines, "_Graph", Graph)
    monkeypatch.setattr(CudaEngine, "obstacle", classmethod(lambda cls, model: None))
    monkeypatch.setattr(CudaEngine, "dtype", classmethod(lambda cls, model: model.dtype))
    engine = CudaEngine(model)
    for number in range(1, 6):
        for controls in ({}, {"tile": 32}):
            torch.testing.assert_close(engine.decode(*arguments, **controls), eager.decode(*arguments, **controls))
            assert len(recorded) == (number >= 2) and len(replayed) == (max(0, number - 1) if can_be_captured else 0)
    size = CONTENT[..., :32, :32]
    torch.testing.assert_close(engine.decode(size, codes), eager.decode(size, codes))
    assert recorded == [engine]


@needs_nnpack
def test_winograd_works_with_tiles_and_regions() -> None:
    model = thin_model("adain").eval()
    masks = torch.zeros(2, 72, 64)
    masks[0, :, :30], masks[1, :, 30:] = 1, 1
    for controls in ({"tile": 32}, {"masks": masks}):
        outputs = [
            Stylizer(model, [STYLE[0], CONTENT[0]], engine=name, **controls)(CONTENT) for name in ("eager", "winograd")
        ]
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)


def test_an_engine_that_is_not_possible_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model = thin_model("johnson")
    with pytest.raises(EngineError, match="The engine cuda cannot run johnson here: it is for NVIDIA GPUs"):
        create_engine("cuda", model)
    with pytest.raises(StylezooError, match="There is no engine 'winogard': did you mean 'winograd'"):
        create_engine("winogard", model)
    with pytest.raises(StylezooError, match="There is no engine 'fast': the engines are auto, eager"):
        Stylizer(model, engine="fast")  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"it needs openvino \(pip install stylezoo\[openvino\]\)"):
        create_engine("openvino", model)


def test_systems_that_optimize_have_one_engine() -> None:
    model = thin_model("gatys")
    for name in ENGINES.keys() - {"eager", "cuda"}:
        if name in ("openvino", "onnxruntime") and importlib.util.find_spec(name) is None:
            continue
        with pytest.raises(EngineError, match="gradients"):
            create_engine(name, model)
    assert Stylizer(model, [STYLE[0]]).engine.name == "eager"


# The operations of winograd


@needs_nnpack
@pytest.mark.parametrize(
    ("shape", "kernel", "padding"),
    [((1, 16, 19, 23), 3, 1), ((2, 16, 8, 8), 3, 0), ((1, 3, 24, 20), 9, 4), ((1, 3, 24, 20), 5, 0)],
)
def test_convolutions_by_nnpack(shape: tuple[int, ...], kernel: int, padding: int) -> None:
    x = torch.rand(shape, generator=GENERATOR)
    weight = torch.randn(17, shape[1], kernel, kernel, generator=GENERATOR) / kernel / shape[1]
    bias = torch.randn(17, generator=GENERATOR)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    calls = []

    class Recorded(Winograd):
        def convolution(self, *arguments: Any) -> Tensor | None:
            result = super().convolution(*arguments)
            calls.append(result is not None)
            return result

    with torch.inference_mode(), Recorded():
        found = F.conv2d(x, weight, bias, padding=padding)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert calls == [True]
    torch.testing.assert_close(nnpack(x, weight, bias, [padding, padding]), found)


@needs_nnpack
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (9, 4)])
def test_large_maps_are_computed_in_strips(kernel: int, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.rand(2, 4, 50, 30, generator=GENERATOR), torch.randn(5, 4, kernel, kernel, generator=GENERATOR)
    whole = nnpack(x, weight, None, [padding, padding])
    monkeypatch.setattr(cpu, "WORKSPACE", 1)
    assert cpu.strip_rows(9, kernel, 30) == (6 if kernel == 3 else 8)
    torch.testing.assert_close(nnpack(x, weight, None, [padding, padding]), whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [{"stride": 2}, {"dilation": 2}, {"groups": 16}, {"padding": "same"}],
    ids=["stride", "dilation", "groups", "same"],
)
def test_other_convolutions_are_pytorchs_own(arguments: dict[str, Any]) -> None:
    x = torch.rand(1, 16, 20, 20, generator=GENERATOR)
    weight = torch.randn(16, 1 if "groups" in arguments else 16, 3, 3, generator=GENERATOR)
    expected = F.conv2d(x, weight, **arguments)
    with torch.inference_mode(), Winograd():
        assert torch.equal(F.conv2d(x, weight, **arguments), expected)
        assert F.conv2d(x.double(), weight.double(), **arguments).dtype == torch.float64


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": "same"}, {"dilation": 2}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "inputs", "outputs"), [(6, 2, 1), (3, 1, 2), (4, 2, 2), (9, 3, 1)])
def test_small_groups_are_sums_of_depthwise_convolutions(
    channels: int, inputs: int, outputs: int, layout: torch.memory_format, options: dict[str, Any]
) -> None:
    groups = channels // inputs
    x = torch.rand(2, channels, 15, 18, generator=GENERATOR).contiguous(memory_format=layout)
    weight = torch.randn(groups * outputs, inputs, 3, 3, generator=GENERATOR)
    bias = torch.randn(groups * outputs, generator=GENERATOR)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), groups=groups, **options)
    filled = {"stride": 1, "padding": 0, "dilation": 1, **options}
    assert grouped_conv2d(x, weight, bias, groups=groups, **filled) is not None
    with torch.inference_mode(), Winograd():
        found = F.conv2d(x, weight, bias, groups=groups, **options)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_variances_in_two_passes(layout: torch.memory_format, correction: int, keepdim: bool) -> None:
    x = 1000 + torch.rand(
        2, 3, 40, 50, generator=GENERATOR
    )  # a mean far from 0, where squares alone would lose the variance
    x = x.contiguous(memory_format=layout)
    options = {"dim": (2, 3), "correction": correction, "keepdim": keepdim}
    expected = torch.var_mean(x.double(), **options)
    with torch.inference_mode(), Winograd():
        found = torch.var_mean(x, **options)
        assert var_mean(x, (-1, -2)) is not None
        others = [torch.var_mean(x, dim=(0, 2, 3)), torch.var_mean(x), torch.var_mean(x.double(), dim=(2, 3))]
        assert torch.var_mean(x[..., :1, :1], dim=(2, 3))[0].isnan().all()
    torch.testing.assert_close([value.double() for value in found], list(expected), rtol=1e-4, atol=1e-6)
    own = [torch.var_mean(x, dim=(0, 2, 3)), torch.var_mean(x), torch.var_mean(x.double(), dim=(2, 3))]
    assert all(torch.equal(a, b) for pair in zip(others, own, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("affine", [False, True])
def test_instance_normalization_in_channels_last_is_exact(affine: bool) -> None:
    x = 10 + torch.rand(2, 3, 40, 50, generator=GENERATOR)
    weight, bias = torch.rand(2, 3, generator=GENERATOR) if affine else (None, None)
    double = [value if value is None else value.double() for value in (weight, bias)]
    expected = F.group_norm(x.double(), 3, *double)
    with torch.inference_mode(), Winograd():
        found = F.group_norm(x.contiguous(memory_format=torch.channels_last), 3, weight, bias)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-5)
    assert cpu.group_norm(x, 3) is None and cpu.group_norm(x.contiguous(memory_format=torch.channels_last), 1) is None


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 11), (7, 7), (3, 2)])
def test_max_pooling_without_indices(size: tuple[int, int], ceil_mode: bool) -> None:
    x = torch.randn(2, 3, *size, generator=GENERATOR)
    x[0, 0, 0, 0] = torch.nan
    expected = F.max_pool2d(x, 2, ceil_mode=ceil_mode)
    with torch.inference_mode(), Winograd():
        found = F.max_pool2d(x, 2, ceil_mode=ceil_mode)
        other = F.max_pool2d(x, 3, 2, 1)
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    assert torch.equal(other.nan_to_num(9), F.max_pool2d(x, 3, 2, 1).nan_to_num(9))


@needs_nnpack
def test_whether_memory_is_reused_is_said() -> None:
    assert reuse_memory() == reuse_memory(False) == (platform.libc_ver()[0] == "glibc")


def test_layers_are_chosen_by_what_was_measured() -> None:
    x, weight = torch.rand(1, 16, 16, 16, generator=GENERATOR), torch.rand(16, 16, 3, 3, generator=GENERATOR)
    layer = Layer.of(x, weight)
    assert layer == Layer(16, 16, 3, 8) and layer.gains and not Layer(3, 64, 3, 8).gains
    with torch.inference_mode():
        with LayerTimer() as timer:
            F.conv2d(x, weight)
        assert timer.measured.keys() == {layer}
        with Winograd({layer: False}):
            assert torch.equal(F.conv2d(x, weight), F.conv2d(x, weight))
        plain = F.conv2d(x, weight)
        with Winograd({layer: False}):
            assert torch.equal(F.conv2d(x, weight), plain)
        with Winograd({layer: True}):
            assert not torch.equal(F.conv2d(x, weight), plain)
