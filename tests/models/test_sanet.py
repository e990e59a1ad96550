"""SANet against the reference implementation (parity fixtures), and what the paper claims of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Case, gradient_norms, gradient_norms_by_loss

from stylezoo.layers import StyleAttention
from stylezoo.models.sanet import SANet

Parity = Callable[[str], Case]


def test_parameter_counts() -> None:
    model = SANet(encoder="vgg19_random")
    assert sum(p.numel() for p in model.decoder.parameters()) == 3_505_219
    assert sum(p.numel() for p in model.transform.parameters()) == 4_461_056
    assert sum(p.numel() for p in model.encoder.parameters()) == 12_944_972


def test_attention(parity: Parity) -> None:
    case = parity("sanet/attention")
    attention = StyleAttention(case.meta["options"]["in_planes"])
    attention.load_state_dict(case.part("sanet"))
    output = attention(case["content"], *attention.encode(case["style"]))
    loss = output.square().mean()
    case.check(output=output, loss=loss, **gradient_norms({"loss": loss}, sanet=attention))


def test_stylize(parity: Parity) -> None:
    case = parity("sanet/stylise_odd")
    model = case.model("sanet", "transform", "vgg", "decoder")
    height, width = case["content"].shape[-2:]
    expected = case["output"][..., :height, :width]
    output = model(case["content"], case["style"])
    torch.testing.assert_close(output, expected, rtol=0, atol=case.fixture.tolerance("output"))


def test_training_losses(parity: Parity) -> None:
    case = parity("sanet/train_b2_64x96")
    model = case.model("sanet", "vgg", "decoder", "transform")
    terms = model.losses(case["content"], case["style"])
    case.check(
        loss_content=terms["content"],
        loss_style=terms["style"] / 3,
        loss_identity1=terms["identity1"] / 50,
        loss_identity2=terms["identity2"],
        total=sum(terms.values()),
        output=model(case["content"], case["style"]),
    )


@pytest.mark.slow
def test_training_gradients_in_float64(parity: Parity) -> None:
    """In double precision: gradients through normalized features of tiny maps are ill-conditioned in float32."""
    case = parity("sanet/train_b2_64x96")
    model = case.model("sanet", "vgg", "decoder", "transform").double()
    terms = model.losses(case["content"].double(), case["style"].double())
    weights = {"content": 1, "style": 3, "identity1": 50, "identity2": 1}
    norms = gradient_norms_by_loss(terms, weights, decoder=model.decoder, transform=model.transform)
    values = {f"loss_{name}": terms[name] / weight for name, weight in weights.items()}
    values["total"] = torch.stack(list(terms.values())).sum()
    values |= {name: norm for name, norm in norms.items() if norm.ndim == 0}
    expected = case.meta["float64_scalars"]
    assert expected.keys() <= values.keys()
    for name, value in expected.items():
        assert float(values[name]) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (72, 41), (64, 88), (40, 104)])
def test_sizes_at_which_the_reference_fails(size: tuple[int, int]) -> None:
    """ceil(H/8) odd breaks the reference's sum of the two levels (its issue 1)."""
    model = SANet(encoder="vgg19_random/8").eval()
    content = torch.rand(1, 3, *size)
    assert model(content, torch.rand(1, 3, 50, 23)).shape == content.shape


def test_alpha_zero_lets_the_content_attend_to_itself() -> None:
    model = SANet(encoder="vgg19_random/8").eval()
    content, style = torch.rand(2, 1, 3, 48, 48).unbind()
    torch.testing.assert_close(model(content, style, alpha=0.0), model(content, content), rtol=1e-4, atol=1e-4)
