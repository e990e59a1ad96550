"""Inputs at the edge of what networks can take, for every system: tiny and flat images, odd sizes, other dtypes."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from conftest import thin_model
from torch import Tensor

import stylezoo
from stylezoo import StyleModel, StylezooError, registry
from stylezoo.losses import at_least_float32

SYSTEMS = stylezoo.list_models()
ARBITRARY = stylezoo.list_models("arbitrary")
TRAINED = [name for name in SYSTEMS if registry.get(name).kind != "optimization"]
SMALLEST_STYLES = [(1, 1), (3, 3), (7, 5), (1, 300), (300, 1), (2, 64), (1, 3000)]


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def example_style(model: StyleModel, size: int = 40) -> Any:
    return model.example_styles(images(1, 3, size, size, seed=2))[0]


def stylized(model: StyleModel, content: Tensor) -> Tensor:
    with torch.no_grad():
        return model.decode(content, model.encode_style(example_style(model)))


@pytest.mark.parametrize("name", ARBITRARY)
def test_styles_of_any_size_are_stylized_with(name: str) -> None:
    model = thin_model(name).eval()
    content = images(1, 3, 32, 40)
    with torch.no_grad():
        for height, width in SMALLEST_STYLES:
            code = model.encode_style(images(1, 3, height, width, seed=3))
            assert all(tensor.isfinite().all() for tensor in code.values()), (height, width)
            assert model.decode(content, code).isfinite().all(), (height, width)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("height", "width"), [(105, 33), (16, 130), (5, 19)])
def test_contents_of_any_size_keep_it(name: str, height: int, width: int) -> None:
    output = stylized(thin_model(name).eval(), images(1, 3, height, width))
    assert output.shape == (1, 3, height, width)
    assert output.isfinite().all()


def test_multi_level_adain_does_not_stretch_sizes_off_its_stride() -> None:
    """Levels of sizes that are rounded up meet where they belong: shifts and stretches would show in the content's own code."""
    model = thin_model("multi_level_adain").eval()
    content = images(1, 3, 57, 66)
    padded = torch.nn.functional.pad(content, (0, 6, 0, 7), mode="replicate")
    with torch.no_grad():
        code = model.encode_style(images(1, 3, 40, 40, seed=2))
        whole, cut = model.decode(padded, code, 0.0), model.decode(content, code, 0.0)
    torch.testing.assert_close(cut, whole[..., :57, :66])


@pytest.mark.parametrize("name", TRAINED)
def test_flat_images_in_a_batch_leave_gradients_of_usual_size(name: str) -> None:
    model = thin_model(name).train()
    content = images(4, 3, 48, 48)
    style = {"single": None, "multi": torch.arange(4) % 2}.get(model.kind, images(4, 3, 48, 48, seed=2))

    def gradient(content: Tensor) -> float:
        model.zero_grad()
        torch.stack(list(model.losses(content, style).values())).sum().backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        return float(torch.stack(norms).norm())

    usual = gradient(content)
    flat = content.clone()
    flat[1], flat[2] = 1.0, 0.0
    assert gradient(flat) < 1000 * usual  # also false for NaN


def test_equal_values_of_a_content_stay_equal_in_efdm() -> None:
    model = thin_model("efdm").eval()
    assert isinstance(model, registry.get("efdm"))
    content, style = images(1, 4, 8, 8), images(1, 4, 8, 8, seed=2)
    ranked = torch.empty_like(content).flatten(2)
    ranked.scatter_(2, content.flatten(2).argsort(2), style.flatten(2).sort(2).values)
    torch.testing.assert_close(model.match(content, style).flatten(2), ranked)  # where there are no ties, by rank
    content[..., :4] = 1.0
    matched = model.match(content, style)
    assert (matched[..., :4].flatten(2).std(2) < 1e-6).all()
    torch.testing.assert_close(matched.mean((2, 3)), style.mean((2, 3)))


@pytest.mark.parametrize("name", TRAINED)
def test_weights_of_other_dtypes(name: str) -> None:
    """float64 agrees but for rounding; with bfloat16's 8 bits images are near on average."""
    model, content = thin_model(name).eval(), images(1, 3, 32, 40)
    expected = stylized(model, content)
    scale = float(expected.abs().max()) + 1
    double = stylized(copy.deepcopy(model).double(), content.double())
    assert double.dtype == torch.float64
    assert float((double - expected).abs().mean()) < 1e-4 * scale
    half = at_least_float32(stylized(copy.deepcopy(model).bfloat16(), content.bfloat16()))
    assert float((half - expected).abs().mean()) < 0.1 * scale


@pytest.mark.parametrize("name", SYSTEMS)
def test_models_can_be_copied_and_looked_at(name: str) -> None:
    model = thin_model(name).eval()
    built = set(model._modules)
    content = images(1, 3, 32, 40)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        if model.kind != "optimization":
            torch.testing.assert_close(stylized(other, content), stylized(model, content))
    assert inspect.getmembers(model) and repr(model)
    assert set(model._modules) == built, "looking at a model builds no network"


@pytest.mark.parametrize("name", TRAINED)
def test_models_can_be_traced(name: str) -> None:
    model, content = thin_model(name).eval(), images(1, 3, 32, 40)
    inputs = (content,) if model.kind == "single" else (content, images(1, 3, 40, 40, seed=2))
    if model.kind == "multi":
        inputs = (content, torch.tensor([1]))
    with torch.no_grad():
        traced = torch.jit.trace(model, inputs, check_trace=False)
        assert bool(traced(*inputs).isclose(model(*inputs), atol=1e-4).all())  # a failing comparison would print models


@pytest.mark.parametrize("name", ARBITRARY)
def test_what_is_no_batch_of_images_is_one_sentence(name: str) -> None:
    model = thin_model(name).eval()
    code = model.encode_style(images(1, 3, 40, 40))
    for wrong in (
        images(3, 32, 32),
        images(1, 4, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        images(1, 3, 0, 32),
    ):
        with pytest.raises(StylezooError, match=r"takes a batch of images"):
            model.encode_style(wrong)
        with pytest.raises(StylezooError, match=r"takes a batch of images"):
            model.decode(wrong, code)
    with pytest.raises(StylezooError, match="one for each content"):
        model.decode(images(3, 3, 32, 32), model.encode_style(images(2, 3, 40, 40)))
    assert model.decode(images(0, 3, 32, 32), code).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_of_losses_and_rates_are_numbers_from_zero(name: str, value: float) -> None:
    for setting in ("content_weight", "lr"):
        if setting in inspect.signature(registry.get(name)).parameters:
            with pytest.raises(StylezooError, match=rf"{setting} .* not (nan|inf|-1)"):
                thin_model(name, **{setting: value})
