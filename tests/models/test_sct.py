"""SCT and CCPL against the reference implementation (parity fixtures)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Case, gradient_norms
from torch import Tensor

from stylezoo.models.sct import SCT, Transformation
from stylezoo.module import Stylization
from stylezoo.training import CCPL
from stylezoo.training.ccpl import sampled_pairs

Parity = Callable[[str], Case]
WIDTHS = {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512}


@pytest.mark.parametrize(("mode", "count"), [("art", 8_675_279), ("photo", 2_045_135)])
def test_parameter_counts(mode: str, count: int) -> None:
    """8.675 and 2.045 million, with the encoder up to the transferred layer."""
    model = SCT(mode, encoder="vgg19_random")  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("mode", "channels"), [("art", 512), ("pho", 256)])
def test_transformation(parity: Parity, mode: str, channels: int) -> None:
    case = parity(f"ccpl/sct_{mode}")
    transformation = Transformation(channels, halvings=2 if mode == "art" else 1)
    transformation.load_state_dict(case.part("sct"))
    output = transformation(case["content"], transformation.encode(case["style"]))
    loss = output.square().mean()
    case.check(output=output, loss=loss, **gradient_norms({"loss": loss}, sct=transformation))


@pytest.mark.parametrize(("mode", "setting"), [("art", "art"), ("pho", "photo")])
def test_stylize(parity: Parity, mode: str, setting: str) -> None:
    case = parity(f"ccpl/stylise_odd_{mode}")
    model = case.model("sct", "vgg", "decoder", "sct")
    assert model.hparams["mode"] == setting
    height, width = case["content"].shape[-2:]
    expected = case["output"][..., :height, :width]
    output = model(case["content"], case["style"])
    torch.testing.assert_close(output, expected, rtol=0, atol=case.fixture.tolerance("output"))


def projections(loss: CCPL, tensors: dict[str, Tensor]) -> CCPL:
    """The loss with the reference's projections, two linear layers of each level of VGG: 3k and 3k + 2 of level k."""
    loss.build(WIDTHS)
    for layer, projection in zip(loss.layers, loss.projections, strict=True):
        first = 3 * (int(layer[4]) - 1)
        for index in (0, 2):
            own = {kind: tensors[f"{first + index}.{kind}"] for kind in ("weight", "bias")}
            projection[index].load_state_dict(own)  # type: ignore[index]
    return loss


def test_ccpl(parity: Parity) -> None:
    case = parity("ccpl/ccp_loss")
    loss = projections(CCPL(weight=1.0, samples=case.meta["options"]["num_s"]), case.part("mlp"))
    output, content = ({layer: case[f"{kind}{int(layer[4]) - 1}"] for layer in loss.layers} for kind in "qk")
    image = torch.zeros(2, 3, 8, 8)
    stylization = Stylization(image, None, image, output, features_of=lambda _: content)
    torch.manual_seed(case.meta["options"]["sample_seed"])
    term = loss(stylization)
    norm = gradient_norms(term, mlp=loss)["gradnorm_mlp"]
    case.check(loss_ccp=term["ccpl"], gradnorm_mlp=norm)


def test_sampled_positions(parity: Parity) -> None:
    case = parity("ccpl/ccp_loss")
    torch.manual_seed(case.meta["options"]["sample_seed"])
    for index in (1, 2, 3):
        centers, neighbors = sampled_pairs(*case[f"q{index}"].shape[-2:], samples=8)
        assert torch.equal(centers.int(), case[f"center_ids_{index - 1}"])
        assert torch.equal(neighbors.int(), case[f"neighbour_ids_{index - 1}"])


def trained(case: Case, dtype: torch.dtype) -> tuple[SCT, CCPL]:
    """The model of the training case, with the loss attached as `Training` attaches it."""
    model = case.model("sct", "vgg", "decoder", "sct")
    loss = CCPL(weight=5.0)
    model.attach_losses([loss])
    projections(loss, case.part("mlp"))
    assert isinstance(model, SCT)
    return model.to(dtype), loss


def test_training_losses(parity: Parity) -> None:
    case = parity("ccpl/train_b2_64x96")
    model, _ = trained(case, torch.float32)
    torch.manual_seed(case.meta["options"]["sample_seed"])
    terms = model.losses(case["content"], case["style"])
    case.check(
        loss_content=terms["content"],
        loss_style=terms["style"] / 10,
        loss_ccp=terms["ccpl"] / 5,
        total=sum(terms.values()),
        output=model(case["content"], case["style"]),
    )


@pytest.mark.slow
def test_training_gradients_in_float64(parity: Parity) -> None:
    case = parity("ccpl/train_b2_64x96")
    model, loss = trained(case, torch.float64)
    torch.manual_seed(case.meta["options"]["sample_seed"])
    terms = model.losses(case["content"].double(), case["style"].double())
    own = {"decoder": model.decoder, "sct": model.transformation}
    weights = {"content": 1, "style": 10, "ccpl": 5}
    names = {"content": "loss_content", "style": "loss_style", "ccpl": "loss_ccp"}
    values = {names[name]: terms[name] / weight for name, weight in weights.items()}
    values["total"] = torch.stack(list(terms.values())).sum()
    values |= gradient_norms(terms, **own, mlp=loss)
    for name, weight in weights.items():
        parts = own | ({"mlp": loss} if name == "ccpl" else {})
        norms = gradient_norms({name: terms[name] / weight}, **parts)
        values |= {f"{key}_of_{names[name]}": norm for key, norm in norms.items() if norm.ndim == 0}
    for name, value in case.meta["float64_scalars"].items():
        if value:  # the projections get no gradient from the other terms
            assert values[name].item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("mode", ["art", "photo"])
@pytest.mark.parametrize("size", [(1, 1), (16, 39), (33, 24)])
def test_small_styles(mode: str, size: tuple[int, int]) -> None:
    model = SCT(mode, encoder="vgg19_random/8").eval()  # type: ignore[arg-type]
    assert model(torch.rand(1, 3, 24, 40), torch.rand(1, 3, *size)).isfinite().all()
