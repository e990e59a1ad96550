"""The attention variant of multi-level AdaIN against the reference implementation (parity fixtures)."""

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
from stylezoo.models.multi_level_attention import ATTENDED, MultiLevelAttention
from stylezoo.vgg import FLAVORS

Parity = Callable[[str], Case]
WEIGHTS = {"content": 1, "style": 3, "identity1": 50, "identity2": 1}


def reference(case: Case) -> MultiLevelAttention:
    """The model with the parameters of a case, read from a file as the reference saves it and an encoder's own."""
    whole = case.part("model")
    encoder = {re.sub(r"vgg_encoder\.slice\d", "features", k): v for k, v in whole.items() if k.startswith("vgg_")}
    path = case.folder / "vgg19.pth"
    torch.save(encoder, path)
    model = stylezoo.import_checkpoint("multi_level_attention", [*case.files("model"), path])
    assert isinstance(model, MultiLevelAttention)
    return model


def in_float64(model: MultiLevelAttention) -> MultiLevelAttention:
    """In double precision, ImageNet's mean and standard deviation included, which the encoder has as float32."""
    model = model.double()
    flavor, preprocess = FLAVORS["torchvision"], model.encoder.preprocess
    with torch.no_grad():
        preprocess.weight.copy_(torch.tensor(flavor.matrix, dtype=torch.float64)[:, :, None, None])
        preprocess.bias.copy_(torch.tensor(flavor.bias, dtype=torch.float64))  # type: ignore[union-attr]
    return model


def test_parameter_counts() -> None:
    model = MultiLevelAttention(encoder="vgg19_random")
    assert sum(p.numel() for p in model.network.att1.parameters()) == 1_050_624
    assert sum(p.numel() for p in model.network.decoder.parameters()) == 5_865_027
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 7_966_275
    preprocess = sum(p.numel() for p in model.encoder.preprocess.parameters())  # no convolution in the reference
    assert sum(p.numel() for p in model.parameters()) - preprocess == 20_911_235


def test_stylize(parity: Parity) -> None:
    """Odd sizes: the reference cuts the content (by pooling) where `decode` extends it."""
    case = parity("gao_attention/stylise_odd")
    model = reference(case)
    with torch.no_grad():
        code = model.encode_style(case["style"])
        features = model.encoder(case["content"], ATTENDED)
        case.check(output=model.network.decoder(model.network.merge(features, code)))
        content = case["content"][..., :64, :96]
        output = model.decode(content, code)
        decoded = model.network.decoder(model.network.merge(model.encoder(content, ATTENDED), code))
    torch.testing.assert_close(output, imagenet_restored(decoded))


def test_training_losses(parity: Parity) -> None:
    case = parity("gao_attention/train_b2_64x96")
    model = reference(case)
    with torch.no_grad():
        terms = model.losses(case["content"], case["style"])
        output = imagenet_normalized(model(case["content"], case["style"]))
    case.check(**{f"loss_{name}": terms[name] / weight for name, weight in WEIGHTS.items()})
    case.check(total=torch.stack(list(terms.values())).sum(), output=output)


@pytest.mark.slow
def test_training_gradients_in_float64(parity: Parity) -> None:
    """In double precision: gradients through normalized features of tiny maps are ill-conditioned in float32."""
    case = parity("gao_attention/train_b2_64x96")
    model = in_float64(reference(case))
    parts = {"decoder": model.network.decoder, "att1": model.network.att1, "att2": model.network.att2}
    terms = model.losses(case["content"].double(), case["style"].double())
    values = gradient_norms_by_loss(terms, WEIGHTS, **parts)
    case.check(**{key: norm for key, norm in values.items() if "_of_loss_" not in key})
    values |= {f"loss_{name}": (terms[name] / weight).detach() for name, weight in WEIGHTS.items()}
    values["total"] = torch.stack(list(terms.values())).sum().detach()
    expected = case.meta["float64_scalars"]
    assert expected.keys() <= values.keys()
    for name, value in expected.items():
        assert float(values[name]) == pytest.approx(value, rel=1e-9), name


def test_file_keys_are_the_references(parity: Parity) -> None:
    case = parity("gao_attention/stylise_odd")
    state, whole = reference(case).network.state_dict(), case.part("model")
    assert state.keys() == {key for key in whole if not key.startswith("vgg_encoder.")}
    assert all(torch.equal(state[key], whole[key]) for key in state)


@pytest.mark.parametrize("flavor", ["vgg19_random/8", "vgg19_torchvision"])
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (40, 104), (72, 41)])
def test_sizes_at_which_the_reference_fails(size: tuple[int, int], flavor: str, tmp_path: Path) -> None:
    """floor(H/8) odd breaks the reference's sum of the two levels; pools may also round up."""
    source = MultiLevelAttention(encoder="vgg19_random/8").encoder.tensors
    torch.save({k: v for k, v in source.items() if not k.startswith("preprocess")}, tmp_path / "thin.pth")
    model = MultiLevelAttention(encoder=flavor, encoder_weights=str(tmp_path / "thin.pth")).eval()
    content, style = torch.rand(1, 3, *size), torch.rand(1, 3, 16, 35)
    with torch.no_grad():
        assert model(content, style).shape == content.shape
        assert all(torch.isfinite(term) for term in model.losses(content, style).values())


@pytest.mark.parametrize("size", [(100, 84), (97, 131), (64, 96)])
def test_tiles_change_nothing(size: tuple[int, int]) -> None:
    """Encoder and decoder in tiles, attention between them; in double precision, for convolutions of another size may
    round differently."""
    torch.manual_seed(0)
    model = MultiLevelAttention(encoder="vgg19_random/8").double()
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand(1, 3, *s, generator=generator, dtype=torch.float64) for s in (size, (90, 70)))
    whole = Stylizer(model, [style], alpha=0.7)(content)
    assert whole.shape == content.shape and whole.std() > 0.01
    for tile in (32, 48):
        tiled = Stylizer(model, [style], alpha=0.7, tile=tile)(content)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-10)


def test_alpha_zero_lets_the_content_attend_to_itself() -> None:
    model = MultiLevelAttention(encoder="vgg19_random/8").eval()
    content, style = torch.rand(2, 1, 3, 48, 48).unbind()
    torch.testing.assert_close(model(content, style, alpha=0.0), model(content, content), rtol=1e-4, atol=1e-4)
