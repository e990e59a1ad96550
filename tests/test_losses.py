"""Losses against their formulas written out with loops and einsum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo import losses
from stylezoo.losses import CONTENT_LOSSES, STYLE_STATISTICS, Moments, PerceptualLoss, gram, mean_std

OUTPUT = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STYLE = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 2
C, M = 5, 42


def raw_gram(x: Tensor) -> Tensor:
    return torch.einsum("bchw,bdhw->bcd", x, x)


S = float((raw_gram(OUTPUT) - raw_gram(STYLE)).square().sum((1, 2)).mean())
"""Sum over C*C of the squared difference of raw Gram matrices, mean over the batch."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gram_gatys", S / (4 * C**2 * M**2)),
        ("gram_author", S / (C**2 * M**2) * 1e3 / C**2),
        ("gram_johnson", S / (C**4 * M**2)),
        ("gram_magenta", S / (C**2 * M**2)),
        ("gram_raw", S / C**2),
    ],
)
def test_gram_normalizations(name: str, expected: float) -> None:
    assert float(STYLE_STATISTICS[name](OUTPUT, STYLE)) == pytest.approx(expected, rel=1e-12)


def test_linear_transfer_adds_the_means() -> None:
    means = float((OUTPUT.mean((2, 3)) - STYLE.mean((2, 3))).square().sum(1).mean())
    expected = S / (C**2 * M**2) + means
    assert float(STYLE_STATISTICS["gram_linear_transfer"](OUTPUT, STYLE)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [n for n in STYLE_STATISTICS if n != "gram_raw"])
def test_sizes_may_differ(name: str) -> None:
    """A style tiled to four times its area has the same statistics: each side is divided by its own H*W."""
    tiled = STYLE.repeat(1, 1, 2, 2)
    one, two = STYLE_STATISTICS[name](OUTPUT, STYLE), STYLE_STATISTICS[name](OUTPUT, tiled)
    torch.testing.assert_close(one, two, rtol=1e-2 if name.startswith("mean_std") else 1e-9, atol=0)  # n - 1 differs


@pytest.mark.parametrize("name", STYLE_STATISTICS)
def test_statistics_vanish_at_the_style_and_have_gradients(name: str) -> None:
    rounding = 1e-15 if name == "wasserstein" else 1e-20  # a difference of traces, not of what is squared
    assert float(STYLE_STATISTICS[name](STYLE, STYLE)) == pytest.approx(0, abs=rounding)
    output = OUTPUT.clone().requires_grad_()
    STYLE_STATISTICS[name](output, STYLE).backward()
    assert output.grad is not None and torch.isfinite(output.grad).all() and float(output.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", STYLE_STATISTICS)
def test_mean_over_the_batch(name: str) -> None:
    """What data-parallel training averages over processes is the loss of the joined batch."""
    joined = STYLE_STATISTICS[name](OUTPUT, STYLE)
    single = torch.stack([STYLE_STATISTICS[name](OUTPUT[i : i + 1], STYLE[i : i + 1]) for i in range(2)]).mean()
    torch.testing.assert_close(joined, single)


def test_balanced_gram_is_the_classic_loss_over_its_supremum() -> None:
    expected = []
    for output, style in zip(OUTPUT, STYLE, strict=True):
        a, b = raw_gram(output[None]), raw_gram(style[None])
        classic = F.mse_loss(a, b)
        supremum = (a.square().sum() + b.square().sum()) / C**2  # N^l = C^2
        expected.append(classic / supremum)
    torch.testing.assert_close(losses.balanced_gram_loss(OUTPUT, STYLE), torch.stack(expected).mean())


def test_balanced_gram_is_bounded() -> None:
    """0 <= loss <= 1 for any ReLU features, and both ends are reached."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        channels, side = (int(torch.randint(1, 40, (), generator=generator)) for _ in range(2))
        scale = 10 ** float(6 * torch.rand((), generator=generator) - 3)
        output = F.relu(torch.randn(1, channels, side, side, generator=generator)) * scale
        style = F.relu(torch.randn(1, channels, side, 7, generator=generator))
        assert 0 <= float(losses.balanced_gram_loss(output, style)) <= 1 + 1e-6
    first, second = torch.zeros(2, 1, 2, 4, 4)
    first[:, 0], second[:, 1] = 1, 1
    assert float(losses.balanced_gram_loss(first, second)) == pytest.approx(1)
    assert float(losses.balanced_gram_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))) == 0
    assert float(losses.balanced_gram_hw_loss(OUTPUT, STYLE)) == pytest.approx(
        float(losses.balanced_gram_loss(OUTPUT, STYLE)) * M / C**2
    )


def test_mean_std_is_unbiased_with_eps_inside() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]], dtype=torch.float64)
    mean, std = mean_std(x)
    assert float(mean) == 3
    assert float(std) == pytest.approx(((4 + 1 + 0 + 9) / 3 + 1e-5) ** 0.5, rel=1e-12)
    assert float(mean_std(torch.ones(1, 1, 1, 1))[1]) == pytest.approx(1e-5**0.5)
    expected = F.mse_loss(OUTPUT.mean((2, 3)), STYLE.mean((2, 3))) + F.mse_loss(
        (OUTPUT.var((2, 3)) + 1e-5).sqrt(), (STYLE.var((2, 3)) + 1e-5).sqrt()
    )
    torch.testing.assert_close(losses.mean_std_loss(OUTPUT, STYLE), expected)


def test_gram_accumulates_in_float32_under_autocast() -> None:
    x = torch.rand(1, 8, 64, 64)
    exact = raw_gram(x.bfloat16().double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = gram(x.bfloat16())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=0)
    in_16_bits = torch.einsum("bchw,bdhw->bcd", x.bfloat16(), x.bfloat16()).double()
    assert float((in_16_bits - exact).abs().max()) > 10 * float((result.double() - exact).abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "loss", [*STYLE_STATISTICS.values(), *CONTENT_LOSSES.values()], ids=[*STYLE_STATISTICS, *CONTENT_LOSSES]
)
def test_losses_of_16_bits_are_computed_in_float32(loss: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
    """Exactly what the same rounded features give in float32, also where the features hardly vary."""
    for output, style in ((OUTPUT, STYLE), (1 + OUTPUT / 100, 1 + STYLE / 100)):
        output, style = output.to(dtype), style.to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = loss(output, style)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, loss(output.float(), style.float()), rtol=0, atol=0)


def test_content_losses() -> None:
    torch.testing.assert_close(CONTENT_LOSSES["plain"](OUTPUT, STYLE), (OUTPUT - STYLE).square().mean())
    normalized = CONTENT_LOSSES["normalized"]
    assert float(normalized(OUTPUT, 3 * OUTPUT + 7)) == pytest.approx(0, abs=1e-4)  # blind to scale and shift
    assert float(normalized(OUTPUT, STYLE)) > 0.1


def test_identity_losses() -> None:
    restored, image = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    features = {"a": torch.rand(2, 4, 3, 3), "b": torch.rand(2, 4, 2, 2)}
    others = {name: f + 0.5 for name, f in features.items()}
    pixels, deep = losses.identity_losses(restored, image, others, features)
    torch.testing.assert_close(pixels, (restored - image).square().mean())
    assert float(deep) == pytest.approx(0.5)  # 0.25 at each of two layers


def test_total_variation() -> None:
    image = torch.tensor([[[[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]]]])
    assert float(losses.total_variation(image, power=2)) == (0 + 1 + 9) + (1 + 4 + 0 + 0)
    assert float(losses.total_variation(image, power=1)) == (0 + 1 + 3) + (1 + 2)
    assert float(losses.total_variation(image.repeat(4, 1, 1, 1))) == 15


def test_perceptual_loss_composes_weighted_layers() -> None:
    loss = PerceptualLoss({"relu4_1": 2.0}, {"relu1_1": 1.0, "relu4_1": 3.0}, style_loss="gram_magenta")
    assert loss.layers == ["relu1_1", "relu4_1"]
    output, other = {"relu1_1": OUTPUT, "relu4_1": STYLE}, {"relu1_1": STYLE, "relu4_1": OUTPUT}
    terms = loss(output, content={"relu4_1": OUTPUT}, style=other)
    assert set(terms) == {"content", "style"}
    assert float(terms["content"]) == pytest.approx(2 * float((OUTPUT - STYLE).square().mean()))
    assert float(terms["style"]) == pytest.approx(4 * S / (C**2 * M**2))
    assert set(loss(output, style=other)) == {"style"}


@pytest.mark.parametrize("settings", [{"style_loss": "gramm"}, {"content_loss": "l1"}])
def test_unknown_losses_name_the_known(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="There is no loss '.*': (choose one of|did you mean)"):
        PerceptualLoss({}, {}, **settings)


@pytest.mark.parametrize("name", STYLE_STATISTICS)
def test_images_of_one_color_have_finite_losses_and_gradients(name: str) -> None:
    """As contents and as styles, also as moments: rounding must not pass for a negative variance."""
    generator = torch.Generator().manual_seed(0)
    varied, color = torch.rand(2, 32, 6, 7, generator=generator), torch.rand(2, 32, 1, 1, generator=generator)
    for scale in (0.0, 1.0, 300.0):
        flat = (scale * color).expand_as(varied)
        for output, style in ((varied * scale, flat), (flat, varied * scale), (flat, flat.flip(1)), (flat, flat)):
            for target in (style, Moments.of(style)):
                image = output.clone().requires_grad_()
                loss = STYLE_STATISTICS[name](image, target)
                (gradient,) = torch.autograd.grad(loss, image)
                assert loss.isfinite() and gradient.isfinite().all(), scale
