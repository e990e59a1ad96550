"""The losses of IEContraAST and CAST against numbers of the reference implementations, and in training runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import thin_model
from lightning.pytorch.callbacks import ModelCheckpoint
from losses_process import small_losses
from test_training import losses, pairs, trainer
from torch import Tensor, nn

import stylezoo
from stylezoo import StyleModel
from stylezoo.errors import StylezooError
from stylezoo.module import AdditionalLoss, Stylization
from stylezoo.training import CAST, EMA, Adversarial, IEContraAST, Training
from stylezoo.training.iecontraast import MultiScaleDiscriminator, partner_loss

ARBITRARY = stylezoo.list_models("arbitrary")
CHANNELS = {"relu1_1": 4, "relu2_1": 6, "relu3_1": 8, "relu4_1": 16}


def drawn(random: np.random.RandomState, *shape: int) -> Tensor:
    return torch.from_numpy(random.standard_normal(shape))


def draw_weights(module: nn.Module, random: np.random.RandomState, scale: float) -> None:
    """Replaces all parameters in their order."""
    for parameter in module.parameters():
        parameter.data = scale * drawn(random, *parameter.shape)


def stylization(output: Tensor, style: Tensor, features: dict[str, Tensor] | None = None) -> Stylization:
    """Of a content that is never looked at."""
    return Stylization(torch.zeros_like(output), style, output, features or {}, lambda image: {})


def pair_inputs(count: int) -> tuple[IEContraAST, dict[str, Tensor]]:
    random = np.random.RandomState(count)
    loss = IEContraAST(1.0, 1.0, width=16)
    loss.build(CHANNELS)
    draw_weights(loss, random, 0.5)
    features = {"relu3_1": drawn(random, 2 * count, 8, 4, 4), "relu4_1": drawn(random, 2 * count, 16, 2, 2)}
    return loss, {layer: x.requires_grad_() for layer, x in features.items()}


PAIRS = {
    2: (6.501534841531616, 2.7064137492613525, 2.2339217668946194, 13.392062447559619),
    3: (11.624461720759747, 4.482593013823855, 8.928351884858104, 8.167038258708653),
    4: (23.075243284163392, 33.84000065656326, 13.12244567630521, 14.507518927570544),
    6: (42.47820077615201, 37.045273256412116, 18.341643698218732, 14.345271775362203),
}
"""Of N contents and styles: style term, content term, norms of the gradients of their sum at relu3_1 and relu4_1."""


@pytest.mark.numerical
@pytest.mark.parametrize("count", PAIRS)
def test_pairs_have_the_numbers_of_the_reference(count: int) -> None:
    """HalbertCH/IEContraAST@50ee949 net.py, Net.forward with these features and projections, in float64."""
    loss, features = pair_inputs(count)
    terms = loss(stylization(torch.zeros(2 * count, 3, 8, 8), torch.zeros(0), features))
    gradients = torch.autograd.grad(torch.stack([*terms.values()]).sum(), [*features.values()])
    found = [*terms.values(), *(gradient.norm() for gradient in gradients)]
    assert [float(number.detach()) for number in found] == pytest.approx(PAIRS[count], rel=1e-9)


def judged_inputs() -> tuple[Adversarial, Tensor, Tensor]:
    random = np.random.RandomState(7)
    loss = Adversarial()
    loss.build({})
    draw_weights(loss, random, 0.02)
    style, output = (torch.from_numpy(random.random_sample((1, 3, 128, 144))) for _ in range(2))
    return loss, style, output.requires_grad_()


JUDGED = (5.704815422420764, 22.448148405830423, 194.65775186978973, 10.590788552478456)
"""Both terms, the norm of the discriminator's gradients, that of the output's gradient."""


@pytest.mark.numerical
def test_the_discriminator_has_the_numbers_of_the_reference() -> None:
    """HalbertCH/IEContraAST@50ee949 net.py, MultiDiscriminator.compute_loss with the weights of train.py, in float64."""
    loss, style, output = judged_inputs()
    terms = loss(stylization(output, style))
    own = torch.autograd.grad(terms["discriminator"], [*loss.parameters()], retain_graph=True)
    (gradient,) = torch.autograd.grad(terms["adversarial"], output, retain_graph=True)
    norm = torch.stack([g.norm() for g in own]).norm()
    found = [terms["discriminator"], terms["adversarial"], norm, gradient.norm()]
    assert [float(number.detach()) for number in found] == pytest.approx(JUDGED, rel=1e-6)
    others = torch.autograd.grad(terms["adversarial"], [*loss.parameters()], allow_unused=True, retain_graph=True)
    assert others == (None,) * len(others)
    assert torch.autograd.grad(terms["discriminator"], output, allow_unused=True) == (None,)
    assert sum(p.numel() for p in loss.parameters()) == 8_283_459


def bank_inputs() -> tuple[CAST, np.random.RandomState]:
    random = np.random.RandomState(5)
    loss = CAST(weight=1.0, bank=10, widths=(12, 24, 20))
    loss.build(CHANNELS)
    draw_weights(loss, random, 0.5)
    bank = drawn(random, 4, 10, 20)
    loss.bank = bank / bank.norm(dim=2, keepdim=True)
    return loss, random


def bank_maps(random: np.random.RandomState) -> list[list[Tensor]]:
    """Features of two crops of five styles, and of a crop of their outputs, layer by layer."""
    return [[drawn(random, 5, count, 3, 4).relu() for count in CHANNELS.values()] for _ in range(3)]


def bank_terms(loss: CAST, first: list[Tensor], second: list[Tensor], output: list[Tensor]) -> dict[str, Tensor]:
    """What the loss computes where crops have these features."""
    styles = [torch.cat(both) for both in zip(first, second, strict=True)]
    features = iter([dict(zip(CHANNELS, styles, strict=True)), dict(zip(CHANNELS, output, strict=True))])
    images = torch.zeros(5, 3, 32, 32)
    terms: dict[str, Tensor] = loss(Stylization(images, images, images, {}, lambda image: next(features)))
    return terms


BANK = [
    (3.8346237088408204, 3.8879067910828957, 2.2525261180697704, 0.3505697768991288),
    (5.214460067720195, 6.076553548518593, 7.244122390078819, 0.6665487816194013),
    (4.533663355937542, 4.886223782309658, 2.225913469638551, 0.3773670097493998),
]
"""Of three steps without training between them: both terms, the norms of the gradients of projector and output features."""


@pytest.mark.numerical
def test_a_bank_has_the_numbers_of_the_reference() -> None:
    """zyxElsa/CAST_pytorch@67a7d9c MSP.py with narrow layers, in float64; the third step begins the bank anew."""
    loss, random = bank_inputs()
    for step, expected in enumerate(BANK):
        first, second, output = bank_maps(random)
        output = [x.requires_grad_() for x in output]
        terms = bank_terms(loss, first, second, output)
        own = torch.autograd.grad(terms["cast_projector"], [*loss.parameters()], retain_graph=True)
        gradients = torch.autograd.grad(terms["cast"], output, retain_graph=True)
        norms = [torch.stack([g.norm() for g in part]).norm() for part in (own, gradients)]
        found = [terms["cast"], terms["cast_projector"], *norms]
        assert [float(number.detach()) for number in found] == pytest.approx(expected, rel=1e-9)
        others = torch.autograd.grad(terms["cast"], [*loss.parameters()], allow_unused=True, retain_graph=True)
        assert others == (None,) * len(others) and int(loss.position) == (5 * step + 5) % 10
        unmoved = torch.autograd.grad(terms["cast_projector"], output, allow_unused=True)
        assert unmoved == (None,) * len(unmoved)


def test_a_style_that_fits_costs_log_2() -> None:
    """Its own code is in the bank, too, as in the reference."""
    loss, random = bank_inputs()
    loss.temperature = 1e-9
    same = bank_maps(random)[0]
    terms = bank_terms(loss, same, same, same)
    assert float(terms["cast"].detach()) == pytest.approx(0.5 * 4 * np.log(2), rel=1e-4)


def test_the_bank_wraps_around_and_rests_outside_of_training() -> None:
    loss = CAST(bank=7, widths=(3,))
    loss.build(CHANNELS)
    codes = torch.arange(20.0).reshape(1, 20, 1).expand(4, -1, 3)
    for start in (0, 5, 10, 15):
        loss._store(codes[:, start : start + 5])
    assert loss.bank[2, :, 1].tolist() == [14, 15, 16, 17, 18, 19, 13] and int(loss.position) == 6
    with pytest.raises(StylezooError, match=r"holds 7 codes and a batch of all processes has 8: raise bank"):
        loss._store(codes[:, :8])
    model = thin_model("adain").eval()
    loss = CAST(bank=16, widths=(8,), crop=32)
    model.attach_losses([loss])
    bank = loss.bank.clone()
    images = torch.rand(2, 3, 32, 32)
    model.losses(images, images)
    assert torch.equal(loss.bank, bank)
    model.train().losses(images, images)
    assert (loss.bank != bank).any(2).sum(1).tolist() == [2] * 4 and int(loss.position) == 2


def test_two_outputs_share_each_style_and_each_content() -> None:
    contents, styles = IEContraAST().batch(torch.arange(3.0)[:, None], torch.arange(3.0)[:, None])
    assert contents.flatten().tolist() == [0, 1, 2, 1, 2, 0] and styles.flatten().tolist() == [0, 1, 2] * 2


def test_outputs_are_compared_with_those_that_share_nothing() -> None:
    """Written out for three contents and styles: what shares the other one of style and content does not count."""
    codes = torch.eye(6, dtype=torch.float64) + 0.1 * torch.arange(36.0, dtype=torch.float64).view(6, 6).sin()
    content, style = torch.tensor([0, 1, 2, 1, 2, 0]), torch.tensor([0, 1, 2, 0, 1, 2])
    partners, others = (3, 4, 5, 0, 1, 2), ((1, 2, 4), (0, 2, 5), (0, 1, 3), (2, 4, 5), (0, 3, 5), (1, 3, 4))
    expected = 0.0
    for query, partner in enumerate(partners):
        logits = codes[[partner, *others[query]]] @ codes[query] / 0.2
        expected -= float(logits.log_softmax(0)[0])
    assert float(partner_loss(codes, style, content, 0.2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ARBITRARY)
def test_systems_for_any_style_train_with_them(name: str) -> None:
    model, added = thin_model(name), small_losses()
    own = model.losses(*torch.rand(2, 2, 3, 40, 48)).keys()
    model.attach_losses(added)
    optimizer = model.optimizer()
    for _ in range(2):
        terms = model.losses(*torch.rand(2, 2, 3, 40, 48))
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for loss in added for p in loss.parameters())
        optimizer.step()
    names = {"style_contrastive", "content_contrastive", "discriminator", "adversarial", "cast", "cast_projector"}
    assert terms.keys() == own | names and all(term.isfinite() for term in terms.values())


def trained_on(model: StyleModel, term: str, steps: int) -> float:
    """Trains a model on four images; the ratio of a term in the last five steps to that in the first five."""
    images = torch.rand(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1)).flatten(0, 1)
    content, style = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear").chunk(2)
    optimizer, values = model.optimizer(), []
    for _ in range(steps):
        terms = model.losses(content, style)
        values.append(float(terms[term].detach()))
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        optimizer.step()
    return float(np.mean(values[-5:]) / np.mean(values[:5]))


@pytest.mark.parametrize("term", ["style_contrastive", "content_contrastive"])
def test_outputs_come_to_resemble_their_partners(term: str) -> None:
    model = thin_model("adain", content_weight=0.0, style_weight=0.0, lr=1e-3)
    model.attach_losses([IEContraAST(width=16)])
    assert trained_on(model, term, 25) < 0.8


def test_outputs_come_to_resemble_their_styles() -> None:
    """The projector learns to tell the styles apart, and then the model to follow it."""
    model = thin_model("adain", content_weight=0.0, style_weight=0.0, lr=1e-3)
    loss = CAST(weight=0.0, bank=4, widths=(16, 16), crop=32)
    model.attach_losses([loss])
    assert trained_on(model, "cast_projector", 30) < 0.85
    loss.weight, loss.projector_weight = 1.0, 0.0
    assert trained_on(model, "cast", 20) < 0.7


@pytest.mark.parametrize("loss", small_losses(), ids=lambda loss: type(loss).__name__)
def test_trained_styles_are_refused(loss: AdditionalLoss) -> None:
    with pytest.raises(
        StylezooError, match=f"^{type(loss).__name__} compares outputs with style images, but johnson is"
    ):
        thin_model("johnson").attach_losses([loss])


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2)])
def test_batches_without_partners_are_refused(sizes: Sequence[int]) -> None:
    model = thin_model("adain")
    model.attach_losses([IEContraAST()])
    content, style = (torch.rand(size, 3, 32, 32) for size in sizes)
    with pytest.raises(StylezooError, match=rf"not {sizes[0]} and {sizes[1]}: raise data\.batch_size"):
        model.losses(content, style)


def test_a_last_pair_of_validation_costs_nothing() -> None:
    """Validation may end with a batch of one pair."""
    model = thin_model("adain").eval()
    model.attach_losses([IEContraAST().eval()])
    terms = model.losses(*torch.rand(2, 1, 3, 32, 32))
    assert float(terms["style_contrastive"].detach()) == pytest.approx(0, abs=1e-5)


def test_small_images_are_refused() -> None:
    discriminator = MultiScaleDiscriminator(scales=3, width=1)
    with pytest.raises(StylezooError, match=r"of at least 128 pixels, not 130x96: raise data\.crop"):
        discriminator(torch.rand(1, 3, 96, 130))
    assert [x.shape[2:] for x in discriminator(torch.rand(1, 3, 128, 130))] == [(8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CAST(layers=[]), "at least one layer"),
        (lambda: CAST(bank=0), "bank is a number of codes, at least 1, not 0"),
        (lambda: CAST(temperature=0), "temperature is"),
        (lambda: IEContraAST(style_weight=-1), "style_weight is a finite number from 0 up"),
        (lambda: Adversarial(scales=0), "scales is a number of discriminators"),
    ],
)
def test_settings_without_meaning_are_refused(make: object, message: str) -> None:
    with pytest.raises(StylezooError, match=message):
        make()  # type: ignore[operator]


def test_a_resumed_run_is_bit_exact(pictures: Path, tmp_path: Path) -> None:
    """Projections, discriminator and bank go on as they were; averaged weights are without them."""

    def fit(name: str, steps: int, checkpoint: str | None = None) -> list[AdditionalLoss]:
        training = Training(losses=small_losses())
        saving = ModelCheckpoint(tmp_path / name, filename="at", every_n_train_steps=2, save_top_k=-1)
        run = trainer(tmp_path / name, max_steps=steps, callbacks=[training, EMA(decay=0.5), saving])
        run.fit(thin_model("adain"), pairs("adain", pictures), ckpt_path=checkpoint, weights_only=True)
        return training.losses

    torch.manual_seed(3)
    whole, _, rest = fit("whole", 5), fit("first", 2), fit("rest", 5, str(tmp_path / "first" / "at.ckpt"))
    logged = [losses(tmp_path / name) for name in ("whole", "first", "rest")]
    assert logged[1] | logged[2] == logged[0] and len(logged[0]) == 5
    for one, other in zip(whole, rest, strict=True):
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key
    assert int(rest[2].position) == 5 * 4  # IEContraAST has doubled the styles
    state = torch.load(tmp_path / "first" / "at.ckpt", weights_only=True)
    assert not any("additional" in key for key in (*state["state_dict"], *state["current_model_state"]))


def test_validation_after_training_keeps_what_was_trained(pictures: Path, tmp_path: Path) -> None:
    training = Training(losses=small_losses())
    run, model = trainer(tmp_path, max_steps=2, callbacks=[training], enable_checkpointing=False), thin_model("adain")
    run.fit(model, pairs("adain", pictures))
    trained = {key: tensor.clone() for key, tensor in training.losses[2].state_dict().items()}
    run.validate(model, pairs("adain", pictures), verbose=False)
    assert all(torch.equal(tensor, trained[key]) for key, tensor in model.additional_losses[2].state_dict().items())


def test_a_skipped_step_leaves_the_bank_as_it_was(pictures: Path, tmp_path: Path) -> None:
    class Spoiled(CAST):
        def forward(self, stylization: Stylization) -> dict[str, Tensor]:
            return {name: float("nan") * term for name, term in super().forward(stylization).items()}

    loss = Spoiled(bank=16, widths=(8,), crop=32)
    model = thin_model("adain")
    torch.manual_seed(1)
    loss.build(model.encoder.channels)
    before = loss.bank.clone()
    torch.manual_seed(1)
    training = Training(losses=[loss], skip_nonfinite=2)
    run = trainer(tmp_path, max_steps=2, callbacks=[training], enable_checkpointing=False)
    with pytest.warns(UserWarning, match="skipped, 2 of 2"):
        run.fit(model, pairs("adain", pictures))
    assert torch.equal(loss.bank, before) and int(loss.position) == 0


def test_bf16_mixed(pictures: Path, tmp_path: Path) -> None:
    training = Training(losses=small_losses())
    run = trainer(tmp_path, max_steps=3, precision="bf16-mixed", callbacks=[training], enable_checkpointing=False)
    model = thin_model("adain")
    run.fit(model, pairs("adain", pictures))
    logged = [float(loss) for loss in losses(tmp_path).values()]
    assert len(logged) == 3 and np.isfinite(logged).all()


def test_similarities_are_of_32_bits_under_autocast() -> None:
    loss, features = pair_inputs(3)
    loss.float()
    images = torch.zeros(6, 3, 8, 8)
    shared = stylization(images, images, {layer: x.detach().float() for layer, x in features.items()})
    bank, random = bank_inputs()
    bank.eval().float()
    maps = [[x.float() for x in part] for part in bank_maps(random)]
    full = {**loss(shared), **bank_terms(bank, *maps)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = {**loss(shared), **bank_terms(bank, *maps)}
    for name, term in full.items():
        torch.testing.assert_close(mixed[name], term, rtol=1e-6, atol=0, msg=name)
