"""AdaIN against the reference implementation (parity fixtures), and what the paper claims of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Case, gradient_norms_by_loss
from torch.optim import SGD

import stylezoo
from stylezoo.layers import adain
from stylezoo.losses import mean_std
from stylezoo.models.adain import AdaIN
from stylezoo.module import inverse_time_decay

Parity = Callable[[str], Case]


def small() -> AdaIN:
    torch.manual_seed(0)
    return AdaIN(encoder="vgg19_random/8").eval()


def test_parameter_counts() -> None:
    model = AdaIN(encoder="vgg19_random")
    assert sum(p.numel() for p in model.decoder.parameters()) == 3_505_219
    assert sum(p.numel() for p in model.encoder.parameters()) == 3_505_740


def test_op(parity: Parity) -> None:
    case = parity("adain/op")
    content_mean, content_std = mean_std(case["content"])
    style_mean, style_std = mean_std(case["style"])
    case.check(
        content_mean=content_mean,
        content_std=content_std,
        style_mean=style_mean,
        style_std=style_std,
        output=adain(case["content"], style_mean, style_std),
    )


def test_encoder_of_odd_size(parity: Parity) -> None:
    case = parity("adain/encoder_odd")
    model = stylezoo.create_model("adain", encoder_weights=str(case.files("vgg")[0]))
    vgg = type(model.encoder)("vgg19_normalised", str(case.files("vgg")[0]))
    case.check(**vgg(case["content"], [f"relu{block}_1" for block in (1, 2, 3, 4, 5)]))


def test_stylize(parity: Parity) -> None:
    case = parity("adain/stylise_64x96_style80x64")
    model = case.model("adain", "decoder", "vgg")
    case.check(output=model(case["content"], case["style"]))


def test_stylize_odd_size_is_the_top_left_crop(parity: Parity) -> None:
    case = parity("adain/stylise_odd_alpha06")
    model = case.model("adain", "vgg", "decoder")
    assert isinstance(model, AdaIN)
    content, style = case["content"], case["style"]
    features = model.features(content)
    target = 0.6 * adain(features, *mean_std(model.features(style))) + 0.4 * features
    case.check(t=target, output=model.decoder(target))
    height, width = content.shape[-2:]
    torch.testing.assert_close(
        model(content, style, alpha=0.6),
        case["output"][..., :height, :width],
        rtol=0,
        atol=case.fixture.tolerance("output"),
    )


def test_style_interpolation(parity: Parity) -> None:
    case = parity("adain/interpolation3")
    model = case.model("adain", "vgg", "decoder")
    codes = [model.encode_style(style[None]) for style in case["styles"]]
    output = model.decode(case["content"], codes, weights=[1, 2, 3])
    height, width = case["content"].shape[-2:]
    expected = case["output"][..., :height, :width]
    torch.testing.assert_close(output, expected, rtol=0, atol=case.fixture.tolerance("output"))


def test_training_losses_and_gradients(parity: Parity) -> None:
    case = parity("adain/train_b2_64x96")
    model = case.model("adain", "vgg", "decoder")
    terms = model.losses(case["content"], case["style"])
    content, style = terms["content"], terms["style"]
    case.check(loss_content=content, loss_style=style / 10, total=content + style)
    norms = gradient_norms_by_loss(terms, {"content": 1, "style": 10}, decoder=model.decoder)
    case.check(**{key: norm for key, norm in norms.items() if not key.startswith("gradnorms_decoder_of")})


def test_learning_rate(parity: Parity) -> None:
    case = parity("adain/lr")
    schedule = inverse_time_decay(SGD([torch.zeros(1, requires_grad=True)], lr=1e-4), decay=5e-5)
    factor = schedule.lr_lambdas[0]
    case.check(lr=torch.tensor([1e-4 * factor(int(i)) for i in case["iterations"]], dtype=torch.float64))


def test_output_takes_the_statistics_of_the_style() -> None:
    """Equation 8: the decoder's input has the style's mean and standard deviation, channel by channel."""
    content, style = torch.rand(2, 16, 9, 11), 3 * torch.rand(2, 16, 5, 6) + 1
    mean, std = mean_std(adain(content, *mean_std(style)))
    torch.testing.assert_close(mean, mean_std(style)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(std, mean_std(style)[1], rtol=1e-3, atol=1e-4)


def test_regions_take_their_own_style() -> None:
    model, content = small(), torch.rand(1, 3, 64, 64)
    codes = [model.encode_style(torch.rand(1, 3, 40, 40) * s) for s in (1.0, 0.3)]
    left = torch.zeros(64, 64)
    left[:, :32] = 1
    masks = torch.stack([left, 1 - left])
    features = model.features(content)
    expected = features.clone()
    for code, columns in zip(codes, (slice(0, 4), slice(4, 8)), strict=True):
        expected[..., columns] = adain(features[..., columns], code["mean"], code["std"])
    torch.testing.assert_close(model.decode_regions(content, codes, masks), model.decoder(expected))
    torch.testing.assert_close(
        model.decode_regions(content, [codes[0], codes[0]], torch.stack([left * 0 + 1, left * 0])),
        model.decode(content, codes[0]),
    )
    with pytest.raises(ValueError, match="2 styles need masks"):
        model.decode_regions(content, codes, masks[:1])
