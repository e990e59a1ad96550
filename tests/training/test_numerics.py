"""Training computes the same numbers again, and in 16 bits, in parts and by a compiler numbers that are near."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import thin_model
from lightning.pytorch import seed_everything
from test_training import TRAINABLE, losses, pairs, trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import stylezoo
from stylezoo import StyleModel
from stylezoo.determinism import adaptive_avg_pool2d, deterministic_operations, interpolate, pad
from stylezoo.module import AdditionalLoss
from stylezoo.training import CAST, CCPL, Adversarial, IEContraAST

REFUSED = {
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "grid_sampler_2d_backward"),
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward"),
    *("max_unpool2d", "nll_loss2d_forward", "histc", "kthvalue", "median", "put_", "bincount", "scatter_reduce"),
}
"""Operations that CUDA devices refuse in deterministic mode, of the list of `torch.use_deterministic_algorithms` (2.15)."""


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic mode, also after a Trainer has set it."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Recorder(TorchDispatchMode):
    """Collects the names of operations, gradients included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def batch_of(name: str, folder: Path, size: int = 2) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = next(iter(pairs(name, folder, batch_size=size).train_dataloader()))
    return batch


def step(model: StyleModel, batch: dict[str, Tensor]) -> Tensor:
    """A training step without a Trainer, from the same random numbers each time."""
    torch.manual_seed(0)
    model.zero_grad()
    with deterministic_operations():
        loss = torch.stack([*model.losses(**batch).values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


SIMILAR: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], dict[str, Any]]] = {
    "both sides": (F.pad, pad, {"pad": (1, 1, 1, 1), "mode": "reflect"}),
    "one side": (F.pad, pad, {"pad": (0, 2, 0, 1), "mode": "reflect"}),
    "zeros": (F.pad, pad, {"pad": (1, 2), "value": 3.0}),
    "size": (F.interpolate, interpolate, {"size": (5, 11), "mode": "bilinear"}),
    "corners": (F.interpolate, interpolate, {"size": 9, "mode": "bilinear", "align_corners": True}),
    "factor": (F.interpolate, interpolate, {"scale_factor": 1.7, "mode": "bilinear"}),
    "factors": (F.interpolate, interpolate, {"scale_factor": (0.4, 2), "mode": "bicubic"}),
    "antialiased": (F.interpolate, interpolate, {"size": (3, 4), "mode": "bilinear", "antialias": True}),
    "nearest": (F.interpolate, interpolate, {"scale_factor": 2.0}),
    "pool": (F.adaptive_avg_pool2d, adaptive_avg_pool2d, {"output_size": (3, 2)}),
    "pool to a square": (F.adaptive_avg_pool2d, adaptive_avg_pool2d, {"output_size": 4}),
}


@pytest.mark.parametrize("name", SIMILAR)
@pytest.mark.parametrize(("height", "width"), [(8, 5), (4, 9)])
def test_replacements_have_the_values_and_gradients_of_pytorch(name: str, height: int, width: int) -> None:
    usual, ours, options = SIMILAR[name]
    x = torch.rand(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected, result = usual(x, **options), ours(x, **options)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-15)
    weights = torch.rand_like(expected)
    gradients = [torch.autograd.grad((weights * y).sum(), [x])[0] for y in (expected, result)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", TRAINABLE)
def test_no_operation_is_refused_in_deterministic_mode(name: str, pictures: Path) -> None:
    """What CUDA refuses is known by name; a run on the CPU shows that none of it is used, and two steps have the same bits."""
    batch = batch_of(name, pictures)
    model = thin_model(name)
    with Recorder() as recorder:
        loss = step(model, batch)
    assert recorder.names.isdisjoint(REFUSED), recorder.names & REFUSED
    assert {"convolution", "convolution_backward"} <= recorder.names
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    again = thin_model(name)
    assert torch.equal(step(again, batch), loss)
    assert all(torch.equal(p.grad, gradients[key]) for key, p in again.named_parameters() if p.grad is not None)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "loss", [CCPL(), IEContraAST(), Adversarial(scales=1), CAST()], ids=lambda loss: type(loss).__name__
)
def test_no_operation_of_an_additional_loss_is_refused(loss: AdditionalLoss, pictures: Path) -> None:
    batch = batch_of("sanet", pictures)
    model = thin_model("sanet")
    model.attach_losses([loss])
    with Recorder() as recorder:
        step(model, batch)
    assert recorder.names.isdisjoint(REFUSED), recorder.names & REFUSED


def test_the_usual_padding_would_be_refused(pictures: Path) -> None:
    """Without deterministic mode the padding is PyTorch's own, which is faster."""
    with Recorder() as recorder:
        step(thin_model("adain"), batch_of("adain", pictures))
    assert "reflection_pad2d_backward" in recorder.names


@pytest.mark.usefixtures("deterministic")
def test_a_recipe_asks_for_deterministic_mode(pictures: Path, tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        seed_everything(1)
        folder = tmp_path / str(number)
        trainer(folder, max_steps=3, deterministic=True).fit(thin_model("sanet"), pairs("sanet", pictures))
        runs.append(losses(folder))
    assert runs[0] == runs[1] and len(runs[0]) == 3


@pytest.mark.usefixtures("deterministic")
def test_gatys_has_the_same_bits_twice() -> None:
    content, style = torch.rand(2, 1, 3, 40, 48, generator=torch.Generator().manual_seed(1)).unbind()
    model = stylezoo.create_model("gatys", encoder="vgg19_random/16", iterations=5, first_padding="reflect")
    with Recorder() as recorder:
        first = model(content, style)
    assert recorder.names.isdisjoint(REFUSED), recorder.names & REFUSED
    assert torch.equal(model(content, style), first)


@pytest.mark.numerical
@pytest.mark.parametrize("name", TRAINABLE)
def test_sums_do_not_overflow_in_float16(name: str, pictures: Path) -> None:
    """Features near 1,000, whose products and sums have no float16: loss terms are finite, and near those of float32."""
    batch = batch_of(name, pictures)
    model = thin_model(name, he_init=False).eval()
    model.prepare_losses()
    encoder = model.loss_encoder
    layers = model.perceptual.layers
    with torch.no_grad():
        largest = largest_feature(encoder, batch, layers)
        first = next(
            conv for conv in encoder.modules() if isinstance(conv, torch.nn.Conv2d) and conv.kernel_size[0] > 1
        )
        first.weight.mul_(1000 / largest)
        assert 256 < largest_feature(encoder, batch, layers) < 2000  # squares of these are infinite in float16
        terms = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
                terms.append(model.losses(**batch))
    full, half = terms
    for key, term in full.items():
        assert half[key].dtype == torch.float32
        if key != "content" or model.perceptual.content_loss == "plain":  # see test_bf16_mixed
            assert float(half[key]) == pytest.approx(float(term), rel=0.05, abs=1e-3), key


def largest_feature(encoder: Any, batch: dict[str, Tensor], layers: list[str]) -> float:
    return max(
        float(features.abs().max()) for images in batch.values() for features in encoder(images, layers).values()
    )


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINABLE)
def test_compiled_steps_have_the_gradients_of_eager_ones(name: str, pictures: Path) -> None:
    """Traced and differentiated by the compiler, all but its last part, which generates code (test_training_options.py)."""
    batch = batch_of(name, pictures)
    model = thin_model(name).double()
    batch = {key: images.double() for key, images in batch.items()}
    model.prepare_losses()
    eager = step(model, batch)
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    vars(model)["losses"] = torch.compile(model.losses, backend="aot_eager")
    compiled = step(model, batch)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, parameter in model.named_parameters():
        if key in gradients:
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-6, atol=1e-10 * largest, msg=key)
