"""Multi-level AdaIN against the reference implementation (parity fixtures), and what its text claims."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Case, gradient_norms_by_loss

import stylezoo
from stylezoo.inference import Stylizer
from stylezoo.layers import imagenet_normalized, imagenet_restored
from stylezoo.losses import mean_std
from stylezoo.models.multi_level_adain import LEVELS, MultiLevelAdaIN
from stylezoo.module import Blend
from stylezoo.vgg import FLAVORS

Parity = Callable[[str], Case]


def reference(case: Case) -> MultiLevelAdaIN:
    """The model with the parameters of a case, read from a file as the reference saves it and an encoder's own."""
    whole = case.part("model")
    encoder = {re.sub(r"vgg_encoder\.slice\d", "features", k): v for k, v in whole.items() if k.startswith("vgg_")}
    path = case.folder / "vgg19.pth"
    torch.save(encoder, path)
    model = stylezoo.import_checkpoint("multi_level_adain", [*case.files("model"), path])
    assert isinstance(model, MultiLevelAdaIN)
    return model


def in_float64(model: MultiLevelAdaIN) -> MultiLevelAdaIN:
    """In double precision, ImageNet's mean and standard deviation included, which the encoder has as float32."""
    model = model.double()
    flavor, preprocess = FLAVORS["torchvision"], model.encoder.preprocess
    with torch.no_grad():
        preprocess.weight.copy_(torch.tensor(flavor.matrix, dtype=torch.float64)[:, :, None, None])
        preprocess.bias.copy_(torch.tensor(flavor.bias, dtype=torch.float64))  # type: ignore[union-attr]
    return model


def small(**settings: str) -> MultiLevelAdaIN:
    torch.manual_seed(0)
    return MultiLevelAdaIN(encoder="vgg19_random/8", **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("concatenate", ["downsampled", "full"])
def test_parameter_counts(concatenate: str) -> None:
    model = MultiLevelAdaIN(encoder="vgg19_random", concatenate=concatenate)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.decoder.parameters()) == 3_800_003
    preprocess = sum(p.numel() for p in model.encoder.preprocess.parameters())  # no convolution in the reference
    assert sum(p.numel() for p in model.parameters()) - preprocess == 7_305_731


def test_standard_deviation_has_its_eps_outside_the_root() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[4.0, 4.0], [4.0, 4.0]]]], dtype=torch.float64, requires_grad=True)
    mean, std = mean_std(x, 1e-6, outside=True)
    assert mean.flatten().tolist() == [3, 4]
    assert std.flatten().tolist() == pytest.approx([((4 + 1 + 0 + 9) / 3) ** 0.5 + 1e-6, 1e-6], rel=1e-12)
    (gradient,) = torch.autograd.grad(std.sum(), x)
    assert torch.isfinite(gradient).all() and not gradient[0, 1].any()  # a channel without variation


def test_stylize_with_an_alpha_per_level(parity: Parity) -> None:
    """Odd sizes: the reference cuts the content (by pooling) where `decode` extends it."""
    case = parity("gao_multilevel/stylise_odd_alphas")
    model = reference(case)
    alphas = case.meta["options"]["alpha_lst"]
    with torch.no_grad():
        code = model.encode_style(case["style"])
        decoded: list[torch.Tensor] = []
        hook = model.decoder.register_forward_hook(lambda module, inputs, output: decoded.append(output))
        content = case["content"][..., :56, :80]
        for image in (case["content"], content):
            model.transfer(image, Blend([code], [1.0]), 1.0, None, level_alphas=tuple(alphas))
        hook.remove()
        case.check(output=decoded[0])
        output = model.decode(content, code, level_alphas=tuple(alphas))
    torch.testing.assert_close(output, imagenet_restored(decoded[1]))


def test_training_losses(parity: Parity) -> None:
    case = parity("gao_multilevel/train_b2_64x96")
    model = reference(case)
    with torch.no_grad():
        terms = model.losses(case["content"], case["style"])
        output = imagenet_normalized(model(case["content"], case["style"]))
    content, style = terms["content"], terms["style"]
    case.check(loss_content=content, loss_style=style / 10, total=content + style, output=output)


def test_training_gradients_in_float64(parity: Parity) -> None:
    """In double precision: a ReLU or a pool that switches moves the norm of float32 gradients.

    Nine orders of summation (five convolution codes, noise of 1e-7) gave 4302.71 to 4302.91; float64 is 4302.7537.
    """
    case = parity("gao_multilevel/train_b2_64x96")
    model = in_float64(reference(case))
    terms = model.losses(case["content"].double(), case["style"].double())
    weights = {"content": 1, "style": 10}
    norms = gradient_norms_by_loss(terms, weights, decoder=model.decoder)
    values = {key: norm for key, norm in norms.items() if not key.startswith("gradnorms_decoder_of")}
    values |= {f"loss_{name}": (terms[name] / weight).detach() for name, weight in weights.items()}
    values["total"] = torch.stack(list(terms.values())).sum().detach()
    case.check(**values)
    for name, value in case.meta["float64_scalars"].items():
        assert float(values[name]) == pytest.approx(value, rel=1e-9), name


def test_file_keys_are_the_references(parity: Parity, tmp_path: Path) -> None:
    case = parity("gao_multilevel/train_b2_64x96")
    model, whole = reference(case), case.part("model")
    state = model.state_dict()
    assert state.keys() == {key for key in whole if key.startswith("decoder.")}
    assert all(torch.equal(state[key], whole[key]) for key in state)
    decoder = {key.removeprefix("decoder."): value for key, value in state.items()}
    torch.save(decoder, tmp_path / "decoder.pth")  # a bare decoder is understood, too
    again = stylezoo.import_checkpoint(
        "multi_level_adain", [tmp_path / "decoder.pth"], encoder_weights=str(case.folder / "vgg19.pth")
    )
    content = case["content"][:1, :, :32, :32]
    with torch.no_grad():
        torch.testing.assert_close(again(content, content), model(content, content), rtol=0, atol=0)


def test_every_level_takes_the_statistics_of_the_style() -> None:
    model = small()
    content, style = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 48, 48) ** 2
    levels: dict[str, torch.Tensor] = {}
    model.decoder.register_forward_pre_hook(lambda _, inputs: levels.update(inputs[0]))
    features = model.encoder(style, LEVELS)
    with torch.no_grad():
        model(content, style)
        for name in LEVELS:
            for got, wanted in zip(mean_std(levels[name]), mean_std(features[name]), strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-2)


def test_level_alphas_are_shares_of_alpha() -> None:
    model, content = small(), torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        code = model.encode_style(torch.rand(1, 3, 32, 32) ** 2)
        torch.testing.assert_close(
            model.decode(content, code, alpha=0.5, level_alphas=(1, 1, 1)),
            model.decode(content, code, level_alphas=(0.5, 0.5, 0.5)),
        )
        outputs = [model.decode(content, code, level_alphas=a) for a in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(not torch.equal(outputs[i], outputs[i - 1]) for i in range(3))
    with pytest.raises(ValueError, match="2 level_alphas: give one each for relu2_1, relu3_1, relu4_1"):
        model.decode(content, code, level_alphas=(1, 1))  # type: ignore[arg-type]


def test_the_reference_drops_positions_of_the_shallow_levels() -> None:
    """Nearest shrinking by half keeps every second row and column; ``full`` sees all of them."""
    sensitive = {}
    for concatenate in ("downsampled", "full"):
        model = small(concatenate=concatenate)
        features = {n: f.requires_grad_() for n, f in model.encoder(torch.rand(1, 3, 64, 64), LEVELS).items()}
        model.decoder(features).square().sum().backward()
        used = [(features[n].grad.abs().sum((0, 1)) > 0) for n in LEVELS]  # type: ignore[union-attr]
        sensitive[concatenate] = [float(u.float().mean()) for u in used]
    assert sensitive["downsampled"] == [0.25, 0.25, 1.0]
    assert sensitive["full"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("flavor", ["vgg19_random/8", "vgg19_torchvision"])
@pytest.mark.parametrize("size", [(16, 16), (37, 50), (41, 64)])
@pytest.mark.parametrize("concatenate", ["downsampled", "full"])
def test_sizes(concatenate: str, size: tuple[int, int], flavor: str, tmp_path: Path) -> None:
    """Inference and losses at any size, with pools that round down (torchvision's) and up."""
    source = small().encoder.tensors
    torch.save({k: v for k, v in source.items() if not k.startswith("preprocess")}, tmp_path / "thin.pth")
    model = MultiLevelAdaIN(
        encoder=flavor,
        encoder_weights=str(tmp_path / "thin.pth"),
        concatenate=concatenate,  # type: ignore[arg-type]
    )
    content, style = torch.rand(1, 3, *size), torch.rand(1, 3, 16, 35)
    with torch.no_grad():
        assert model(content, style).shape == content.shape
        assert all(torch.isfinite(term) for term in model.losses(content, style).values())


@pytest.mark.parametrize("size", [(100, 84), (97, 131), (64, 96)])
def test_tiles_change_nothing(size: tuple[int, int]) -> None:
    """In double precision: convolutions of another size may round differently."""
    model = small().double()
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand(1, 3, *s, generator=generator, dtype=torch.float64) for s in (size, (90, 70)))
    whole = Stylizer(model, [style], alpha=0.7)(content)
    assert whole.shape == content.shape and whole.std() > 0.01
    for tile in (32, 48):
        tiled = Stylizer(model, [style], alpha=0.7, tile=tile)(content)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-10)


def test_the_version_as_drawn_works_in_tiles() -> None:
    """Its levels join the decoder in their own sizes."""
    model = small(concatenate="full").double()
    content, style = torch.rand(
        2, 1, 3, 90, 75, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    whole = Stylizer(model, [style], tile=None)(content)
    torch.testing.assert_close(Stylizer(model, [style], tile=32)(content), whole, rtol=0, atol=1e-10)


def test_concatenate_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="concatenate must be 'downsampled' or 'full', got 'up'"):
        small(concatenate="up")
