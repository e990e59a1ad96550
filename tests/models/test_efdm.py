"""EFDM against the reference implementation (parity fixtures), and what the paper claims of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import Case, gradient_norms_by_loss
from torch import Tensor

from stylezoo.layers import adain
from stylezoo.losses import mean_std
from stylezoo.models.efdm import EFDM, distribution_loss, match_distribution, quantiles, sorted_values

Parity = Callable[[str], Case]


def small(**settings: str) -> EFDM:
    torch.manual_seed(0)
    return EFDM(encoder="vgg19_random/8", **settings).eval()  # type: ignore[arg-type]


def as_published(content: Tensor, style: Tensor) -> Tensor:
    """The definition with two sorts and the ranks of the content as a third."""
    x, y = content.flatten(2), style.flatten(2)
    ranks = x.argsort(stable=True).argsort(stable=True)
    return (x + (y.sort().values.gather(-1, ranks) - x)).reshape(content.shape)


def test_op(parity: Parity) -> None:
    case = parity("efdm/op")
    content, style = case["content"].requires_grad_(), case["style"]
    matched = match_distribution(content, sorted_values(style))
    weight = torch.arange(content.numel(), dtype=torch.float32).reshape(content.shape) / content.numel()
    (gradient,) = torch.autograd.grad((matched * weight).sum(), content)
    (mean, std), (style_mean, style_std) = mean_std(content), mean_std(style)
    case.check(
        efdm=matched,
        grad_content=gradient,
        loss_efdm=distribution_loss(content, style),
        adain=adain(content, style_mean, style_std),
        adamean=content - mean + style_mean,  # with adastd half of AdaIN each: the paper's comparison, no system here
        adastd=content / std * style_std,
    )


def test_op_with_ties(parity: Parity) -> None:
    case = parity("efdm/op_ties")
    matched = match_distribution(case["content"], sorted_values(case["style"]))
    case.check(efdm=matched, efdm_sorted=matched.flatten(2).sort().values)


def test_training_losses_and_gradients(parity: Parity) -> None:
    case = parity("efdm/train_b2_64x96")
    model = case.model("efdm", "decoder", "vgg")
    terms = model.losses(case["content"], case["style"])
    case.check(
        loss_content=terms["content"],
        loss_style=terms["style"] / 10,
        total=terms["content"] + terms["style"],
        output=model(case["content"], case["style"]),
    )
    norms = gradient_norms_by_loss(terms, {"content": 1, "style": 10}, decoder=model.decoder)
    case.check(**{key: norm for key, norm in norms.items() if not key.startswith("gradnorms_decoder_of")})


def test_parameter_counts() -> None:
    model = EFDM(encoder="vgg19_random")
    assert sum(p.numel() for p in model.decoder.parameters()) == 3_505_219
    assert sum(p.numel() for p in model.encoder.parameters()) == 3_505_740


def test_one_sort_gives_the_bits_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    content, style = torch.randn(2, 2, 16, 24, 20, generator=generator).relu().unbind()
    assert torch.equal(match_distribution(content, sorted_values(style)), as_published(content, style))


def test_output_takes_the_distribution_of_the_style() -> None:
    """Sort matching: channel by channel the style's values, in the content's order."""
    content, style = torch.rand(2, 16, 9, 11, dtype=torch.float64), torch.rand(2, 16, 9, 11, dtype=torch.float64) ** 3
    matched = match_distribution(content, sorted_values(style))
    torch.testing.assert_close(sorted_values(matched), sorted_values(style), rtol=0, atol=1e-15)
    assert torch.equal(matched.flatten(2).argsort(), content.flatten(2).argsort())


@pytest.mark.parametrize("count", [1, 7, 40, 41, 200])
def test_quantiles_are_those_of_numpy(count: int) -> None:
    values = sorted_values(torch.rand(2, 3, 5, 8, dtype=torch.float64))
    expected = np.quantile(values.numpy(), (np.arange(count) + 0.5) / count, axis=-1, method="hazen")
    torch.testing.assert_close(quantiles(values, count), torch.from_numpy(expected).movedim(0, -1))


def test_a_tiled_style_is_the_style() -> None:
    """The number of positions does not matter, only the distribution."""
    content, style = torch.rand(1, 4, 6, 5), torch.rand(1, 4, 6, 5)
    ordered = quantiles(sorted_values(style.repeat(1, 1, 3, 2)), 30)
    torch.testing.assert_close(match_distribution(content, ordered), match_distribution(content, sorted_values(style)))


def test_distribution_loss_is_the_distance_to_the_matched_output() -> None:
    output, style = torch.randn(2, 2, 5, 6, 7, dtype=torch.float64).relu().unbind()
    output.requires_grad_()
    expected = (output - as_published(output.detach(), style)).square().mean()
    loss = distribution_loss(output, style)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, output), torch.autograd.grad(expected, output))
    assert distribution_loss(style, style) == 0


def test_blending_codes_blends_matched_features() -> None:
    """Also where the styles differ in size; the content is ranked once."""
    model, content = small(), torch.rand(1, 3, 48, 40)
    codes = [model.encode_style(torch.rand(1, 3, *size)) for size in ((48, 40), (64, 33))]
    features = model.features(content)
    count = features.shape[-2] * features.shape[-1]
    matched = [match_distribution(features, quantiles(code["sorted"], count)) for code in codes]
    expected = model.decoder(0.25 * matched[0] + 0.75 * matched[1])
    torch.testing.assert_close(model.decode(content, codes, weights=[1, 3]), expected, rtol=1e-4, atol=1e-5)


def test_areas_of_one_color_stay_that() -> None:
    """Ties that are ranked by position would be stripes; all other positions keep the reference's numbers."""
    generator = torch.Generator().manual_seed(0)
    content, style = torch.randn(2, 1, 16, 24, 20, generator=generator).relu().unbind()
    content[..., :9, :], content[..., 15:, :] = content[..., :1, :1], content[..., :1, :1].clone()
    ordered = sorted_values(style)
    matched, flipped = (match_distribution(x, ordered) for x in (content, content.flip(-2)))
    bars = torch.cat([matched[..., :9, :], matched[..., 15:, :], flipped[..., :9, :]], -2)
    assert torch.equal(bars, bars[..., :1, :1].expand_as(bars))
    assert torch.equal(matched[..., 9:15, :], as_published(content, style)[..., 9:15, :])
    assert (bars[..., 0, 0].mean() - matched.mean()).abs() < 3 * matched.std()
    white, painting = torch.ones(1, 3, 64, 64), torch.rand(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        output = small()(white, painting)
    assert output.std((-2, -1)).max() < 1e-3


def test_unknown_style_loss() -> None:
    with pytest.raises(ValueError, match="There is no loss 'efdn': choose one of mean_std"):
        small(style_loss="efdn")


def test_a_traced_model_knows_areas_of_one_color() -> None:
    """Whatever the content that it was traced with."""
    generator = torch.Generator().manual_seed(0)
    photo, letterboxed, style = torch.rand(3, 1, 3, 64, 64, generator=generator).unbind()
    letterboxed[..., :40, :] = 1.0
    model = small().requires_grad_(False)
    with torch.no_grad():
        code = model.encode_style(style)
        traced = torch.jit.trace(lambda content: model.decode(content, code), photo)
        torch.testing.assert_close(traced(letterboxed), model.decode(letterboxed, code))
