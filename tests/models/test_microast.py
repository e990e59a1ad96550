"""MicroAST against the reference implementation (parity fixtures), its released weights, and what the paper claims."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import Case, gradient_norms_by_loss, shared, thin_model

import stylezoo
from stylezoo.images import read_image, to_tensor
from stylezoo.inference import Stylizer
from stylezoo.layers import adain
from stylezoo.losses import mean_std
from stylezoo.models.microast import FILTERS, MicroAST, contrastive_loss
from stylezoo.training import LeastSquares
from stylezoo.training.plans import plan_of

Parity = Callable[[str], Case]
WEIGHTS = {"content": 1, "style": 3, "contrastive": 3}
PARTS = ("content_encoder", "style_encoder", "modulator", "decoder")


def imported(case: Case, *more: str, **settings: str) -> MicroAST:
    files = dict(zip((*PARTS, *more), case.files(*PARTS, *more), strict=True))
    if more:
        files["encoder"] = files.pop("vgg")
    model = stylezoo.import_checkpoint("microast", files, **settings)
    assert isinstance(model, MicroAST)
    return model


def released() -> MicroAST:
    """The authors' own weights; the two encoders have the same keys and shapes, so they are named."""
    files = [shared(f"weights/microast/{part}_iter_160000.pth.tar") for part in PARTS]
    model = stylezoo.import_checkpoint("microast", [f"{PARTS[0]}={files[0]}", f"{PARTS[1]}={files[1]}", *files[2:]])
    assert isinstance(model, MicroAST)
    return model


def images(size: int = 128) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A photograph and three paintings."""
    names = ["cnt/00", "sty/03", "sty/15", "sty/27"]
    paths = [shared(f"images/styleid/{name}.jpg") for name in names]
    tensors = [to_tensor(read_image(path).resize((size, size)))[None] for path in paths]
    return tensors[0], tensors[1:]


def test_parameter_counts() -> None:
    model = MicroAST()
    counts = [sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS]
    assert counts == [157_792, 157_792, 2_560, 153_843] and sum(counts) == 471_987  # the paper's 0.472 M
    assert not list(model.encoders())


def test_stylize_as_the_reference_fades(parity: Parity) -> None:
    case = parity("microast/stylise_odd_alpha07")
    content, style = case["content"], case["style"]
    model = imported(case, fade="features")
    code = model.encode_style(style)
    for name, key in (("filter_weights", "weight"), ("filter_biases", "bias")):
        case.check(**{name: torch.stack([code[f"{key}1"], code[f"{key}2"]])[..., 0, 0]})
    _, features = model.content_encoder(content)
    case.check(output=model.decoder(features, code, case.meta["options"]["alpha"]))
    height, width = content.shape[-2:]
    torch.testing.assert_close(
        model(content, style, alpha=case.meta["options"]["alpha"]),
        case["output"][..., :height, :width],
        rtol=0,
        atol=case.fixture.tolerance("output"),
    )


def test_training_losses_and_gradients(parity: Parity) -> None:
    case = parity("microast/train_b2_64x96")
    model = imported(case, "vgg")
    terms = model.losses(case["content"], case["style"])
    case.check(
        **{f"loss_{name}": terms[name] / weight for name, weight in WEIGHTS.items()},
        total=sum(terms.values()),
        output=model(case["content"], case["style"]),
    )
    parts = {name: getattr(model, name) for name in PARTS}
    norms = gradient_norms_by_loss(terms, WEIGHTS, **parts)
    case.check(**{key: norm for key, norm in norms.items() if norm.ndim == 0 or "_of_loss_" not in key})


def test_training_in_float64(parity: Parity) -> None:
    case = parity("microast/train_b2_64x96")
    model = imported(case, "vgg").double()
    terms = model.losses(case["content"].double(), case["style"].double())
    parts = {name: getattr(model, name) for name in PARTS}
    values = {f"loss_{name}": terms[name] / weight for name, weight in WEIGHTS.items()}
    values |= {"total": torch.stack(list(terms.values())).sum(), **gradient_norms_by_loss(terms, WEIGHTS, **parts)}
    expected = case.meta["float64_scalars"]
    assert expected.keys() <= values.keys()
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-9), name


def test_released_weights_stylize() -> None:
    """Outputs keep the drawing of the photograph and take the colors of the painting."""
    model, (content, styles) = released(), images()
    with torch.no_grad():
        outputs = [model(content, style) for style in styles]
    for output, style in zip(outputs, styles, strict=True):
        assert (output - output.clamp(0, 1)).abs().mean() < 0.02
        # Against the photograph's colors, those of the output are much nearer to the painting's.
        far = (content.mean((2, 3)) - style.mean((2, 3))).norm()
        assert (output.mean((2, 3)) - style.mean((2, 3))).norm() < 0.5 * far
        gray = torch.stack([image.mean(1).flatten() for image in (content, output)])
        assert torch.corrcoef(gray)[0, 1] > 0.5
    distances = [(a - b).abs().mean() for i, a in enumerate(outputs) for b in outputs[:i]]
    assert min(distances) > 0.05


def test_alpha_fades_from_the_content_to_the_style() -> None:
    """With the released weights; the reference's alpha leaves the range of colors everywhere between 0 and 1."""
    model, (content, styles) = released(), images()
    with torch.no_grad():
        code = model.encode_style(styles[1])
        steps = [model.decode(content, code, alpha=alpha) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert all((step - step.clamp(0, 1)).abs().mean() < 0.02 for step in steps)
        to_end = [float((step - steps[-1]).abs().mean()) for step in steps]
        assert to_end == sorted(to_end, reverse=True)
        torch.testing.assert_close(steps[0], model(content, content), rtol=1e-4, atol=1e-4)
        model.fade = "features"
        assert float((model.decode(content, code, alpha=0.5) - 1).mean()) > 1
    with pytest.raises(ValueError, match="fade must be 'code' or 'features', got 'linear'"):
        MicroAST(fade="linear")  # type: ignore[arg-type]


def test_released_weights_fulfil_the_contrastive_loss() -> None:
    """The style signals of an output are nearer to those of its own style than to those of others."""
    model, (content, styles) = released(), images()
    with torch.no_grad():
        codes = [model.encode_style(style) for style in styles]
        again = [model.encode_style(model.decode(content, code)) for code in codes]
    for own, result in enumerate(again):
        distance = [sum((result[key] - code[key]).square().mean() for key in FILTERS) for code in codes]
        assert min(range(3), key=lambda i: distance[i]) == own


def test_contrastive_loss_written_out() -> None:
    output, style = torch.rand(2, 4, 8, 64, dtype=torch.float64).unbind()
    expected = 0.0
    for i in range(4):
        own, others = 0.0, 0.0
        for j in range(4):
            for signal in range(8):
                other = output[j] if signal < 2 and i != j else style[j]  # the reference's slip
                distance = float(((output[i] - other)[signal] ** 2).mean())
                own, others = (own + distance, others) if i == j else (own, others + distance)
        expected += own / others
    assert float(contrastive_loss(output, style)) == pytest.approx(expected, rel=1e-12)
    assert contrastive_loss(output[:1], style[:1]) == 0  # nothing to contrast with
    model = thin_model("microast")
    terms = model.losses(*torch.rand(2, 1, 3, 32, 32).unbind())
    assert terms["contrastive"] == 0 and all(torch.isfinite(term) for term in terms.values())


def test_a_style_modulates_features_and_filters() -> None:
    """Weight 1 and bias 0 modulate nothing; then the decoder is AdaIN, twice, between plain residual blocks."""
    model = thin_model("microast").eval()
    features, code = torch.rand(1, 64, 6, 5), model.encode_style(torch.rand(1, 3, 32, 32))
    for name in FILTERS:
        code[name] = torch.full_like(code[name], 1.0 if name.startswith("weight") else 0.0)
    decoder = model.decoder
    x = decoder.dec1(adain(features, code["mean2"], code["std2"]))
    x = adain(x, code["mean1"], code["std1"])
    torch.testing.assert_close(torch.cat(mean_std(x)), torch.cat([code["mean1"], code["std1"]]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoder(features, code), decoder.dec3(decoder.dec2(x)))
    assert sum(tensor.numel() for tensor in code.values()) == 8 * 64


@pytest.mark.parametrize("size", [(200, 131), (97, 161)])
def test_tiles_change_nothing(size: tuple[int, int]) -> None:
    model = thin_model("microast").double()
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand(1, 3, *s, generator=generator, dtype=torch.float64) for s in (size, (90, 70)))
    whole = Stylizer(model, [style], alpha=0.7)(content)
    for tile in (32, 90):
        tiled = Stylizer(model, [style], alpha=0.7, tile=tile)(content)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-10)


def test_initialization_restores_images() -> None:
    """The last convolution finds the image in random features, and an output has the mean colors of its style more
    than those of its content; depthwise convolutions are not preconditioned."""
    torch.manual_seed(0)
    model = thin_model("microast").eval()
    smooth = F.interpolate(torch.rand(24, 3, 6, 6), size=(48, 48), mode="bicubic").clamp(0, 1)
    plan = plan_of(model)
    convs = plan.convolutions
    with torch.no_grad():
        before = (model(smooth, smooth) - smooth).square().mean()
        preconditioners = LeastSquares(crops=24)(plan, smooth)
        restored, swapped = model(smooth, smooth), model(smooth, smooth.roll(1, 0))
    colors = smooth.mean((2, 3))
    to_style, to_content = (swapped.mean((2, 3)) - colors.roll(1, 0)).abs(), (swapped.mean((2, 3)) - colors).abs()
    assert to_style.mean() < 0.5 * to_content.mean()
    assert (restored - smooth).square().mean() < 0.4 * smooth.var() < before
    sizes = {name: conv.weight[0].numel() + 1 for name, conv in convs.items()}
    assert {name: len(matrix) for name, matrix in preconditioners.items()} == sizes
    assert "decoder.dec3.1" not in convs and "decoder.dec3.3" in convs and len(convs) == 21
