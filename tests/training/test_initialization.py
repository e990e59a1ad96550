"""Initialization by least squares: decoders that invert an encoder, and the runs that start from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import thin_model
from test_training import command, pairs, trainer
from torch import Tensor, nn

import stylezoo
from stylezoo import StylezooError
from stylezoo.checkpoints import save_model, take_weights
from stylezoo.cli import main
from stylezoo.data import Pairs, Synthetic
from stylezoo.data.stream import Framing
from stylezoo.module import StyleModel
from stylezoo.training import LeastSquares, PreconditionedAdam, Pruning, Training
from stylezoo.training.plans import compute_linearly, initialize_covariance, plan_of, trained_convolutions
from stylezoo.training.regression import columns, patches, some_positions
from stylezoo.training.training import some_images


def initialize(model: StyleModel, images: Tensor) -> dict[str, Tensor]:
    """The preconditioners of a model after its initialization."""
    model.build_loss_encoder()
    return LeastSquares()(plan_of(model), images)


def options(lr: float, crops: int = 12) -> Training:
    return Training(LeastSquares(crops), PreconditionedAdam(lr))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    root = str(tmp_path_factory.mktemp("drawn"))
    photos = Synthetic("photos", count=96, resolution=72, root=root, holdout=0.25)
    return Pairs(photos, batch_size=8, size=72, crop=64, num_workers=0, val_samples=8)


def held_out(data: Pairs) -> Tensor:
    data.prepare_data()
    data.setup("validate")
    return torch.cat([batch["content"] for batch in data.val_dataloader()])


FITTED = ["adaattn", "adain", "efdm", "multi_level_adain", "multi_level_attention", "sanet", "stytr2"]
WIDE = {"stytr2": {"loss_encoder": "vgg19_random/4"}}  # as wide as its decoder


@pytest.mark.parametrize(
    ("system", "settings"), [*((name, {}) for name in FITTED), ("multi_level_adain", {"concatenate": "full"})]
)
@pytest.mark.slow
def test_a_fitted_model_restores_pictures(system: str, settings: dict[str, str], data: Pairs) -> None:
    """Images that it has not seen, painted with themselves: most of their variance is there, where random weights have
    none; and attention gives each of two images something of the other."""
    torch.manual_seed(0)
    model = thin_model(system, **WIDE.get(system, {}), **settings).eval()
    pictures = held_out(data)
    variance = pictures.var((2, 3), keepdim=True).mean()

    @torch.no_grad()
    def unexplained() -> float:
        return float((model(pictures, pictures) - pictures).square().mean() / variance)

    before = unexplained()
    data.setup("fit")
    initialize(model, some_images(data, 96))
    assert before > 1 and unexplained() < 0.6
    with torch.no_grad():
        assert not torch.allclose(model(pictures, pictures.flip(0)), model(pictures, pictures), atol=0.02)


def test_stytr2_starts_with_the_mean_color_of_the_style(data: Pairs) -> None:
    """Tokens are decorrelated patches and constants; attention exchanges their means. Other matrices are nearly silent."""
    torch.manual_seed(0)
    model = thin_model("stytr2", **WIDE["stytr2"]).eval()
    pictures = held_out(data)
    content, style = pictures, pictures.roll(1, 0)

    @torch.no_grad()
    def color_distance(output: Tensor) -> float:
        return float((output.mean((2, 3)) - style.mean((2, 3))).norm() / (content - style).mean((2, 3)).norm())

    data.setup("fit")
    assert color_distance(model(content, style)) > 1
    initialize(model, some_images(data, 96))
    assert color_distance(model(content, style)) < 0.4
    with torch.no_grad():
        tokens = model.embedding(pictures).transpose(0, 1).flatten(1)
    assert tokens[:96].mean(1).abs().max() < 0.5 and (tokens[96:].abs() == 4).all()
    correlations = tokens[:96].corrcoef() - torch.eye(96)
    assert correlations.square().mean() < 0.01  # of images that it has not seen


@pytest.fixture(scope="module")
def teacher(data: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an AdaIN that makes negatives of images, and is wider than the other models of these tests."""
    torch.manual_seed(0)
    model = thin_model("adain", encoder="vgg19_random/8")
    data.prepare_data()
    data.setup("fit")
    initialize(model, some_images(data, 48))
    with torch.no_grad():
        last = model.decoder[-1]
        last.weight.neg_()
        last.bias.copy_(1 - last.bias)
    path = tmp_path_factory.mktemp("teacher") / "wide.safetensors"
    save_model(model, path)
    return path


@torch.no_grad()
def distance_to(teacher: Path, model: StyleModel, images: Tensor) -> float:
    """Mean squared difference of outputs, for images in the style of others, as a share of the outputs' variance."""
    wanted = stylezoo.load_model(str(teacher))(images, images.roll(1, 0))
    return float((model.eval()(images, images.roll(1, 0)) - wanted).square().mean() / wanted.var((2, 3)).mean())


def test_a_pruned_model_stylizes_nearly_as_its_teacher(teacher: Path, data: Pairs) -> None:
    """Of half the widths it makes negatives too, where one that is fitted to the identity does not; of the same it is the
    teacher."""
    images = held_out(data)
    data.setup("fit")
    crops = some_images(data, 96)
    distances = {}
    for name, initialization, divisor in [
        ("same", Pruning(str(teacher), crops=96), 8),
        ("half", Pruning(str(teacher), crops=96), 16),
        ("identity", LeastSquares(), 16),
    ]:
        model = thin_model("adain", encoder=f"vgg19_random/{divisor}")
        model.build_loss_encoder()
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        preconditioners = initialization(plan_of(model), crops)
        assert all(not torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        assert len(preconditioners) == len(trained_convolutions(model)) == 9 and model.training
        distances[name] = distance_to(teacher, model, images)
    assert distances["same"] < 0.02 < distances["half"] < 0.5 * distances["identity"], distances


def test_what_came_from_another_model_is_not_pruned(teacher: Path, data: Pairs) -> None:
    data.setup("fit")
    model = thin_model("adain")
    kept = {"decoder.1.weight", "decoder.1.bias"}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    Pruning(str(teacher), crops=8)(plan_of(model), some_images(data, 8), kept)
    assert kept == {key for key, tensor in model.state_dict().items() if torch.equal(before[key], tensor)}


@pytest.mark.parametrize("system", ["adaattn", "multi_level_adain", "multi_level_attention"])
def test_decoders_of_other_systems_are_fitted_to_the_teacher(system: str, teacher: Path, data: Pairs) -> None:
    """Images stylized with themselves become negatives, in the units of the system's own decoder."""
    torch.manual_seed(0)
    model = thin_model(system).eval()
    images = held_out(data)
    data.setup("fit")
    model.build_loss_encoder()
    Pruning(str(teacher), crops=48)(plan_of(model), some_images(data, 48))
    with torch.no_grad():
        output = model(images, images)
    assert (output - (1 - images)).square().mean() < 0.6 * images.var((2, 3)).mean()


@pytest.mark.parametrize(
    ("student", "sentence"),
    [
        ("johnson", "takes systems for any style, not johnson and adain"),
        ("adain/4", "has 32 channels where decoder.1 of the model has 64: name a model with a decoder as wide"),
    ],
)
def test_a_teacher_must_have_a_decoder_as_wide(student: str, sentence: str, teacher: Path, data: Pairs) -> None:
    data.setup("fit")
    system, _, divisor = student.partition("/")
    model = thin_model(system, encoder=f"vgg19_random/{divisor}") if divisor else thin_model(system)
    with pytest.raises(StylezooError, match=sentence):
        Pruning(str(teacher), crops=4)(plan_of(model), some_images(data, 4))


def test_a_teacher_must_have_a_decoder(tmp_path: Path, data: Pairs) -> None:
    data.setup("fit")
    save_model(thin_model("microast"), tmp_path / "microast.safetensors")
    with pytest.raises(StylezooError, match="microast. has no such convolution where decoder.1 of the model has 32"):
        Pruning(str(tmp_path / "microast.safetensors"), crops=4)(plan_of(thin_model("adain")), some_images(data, 4))


def test_crops_of_training_come_contents_first(tmp_path: Path) -> None:
    """Batches are cut where there are enough."""
    content, style = (Synthetic(kind, count=12, resolution=32, root=str(tmp_path)) for kind in ("photos", "paintings"))
    data = Pairs(content, style, batch_size=4, size=32, crop=16, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    crops = some_images(data, 10)
    assert torch.equal(crops[:4], batch["content"]) and torch.equal(crops[6:], batch["style"])
    assert torch.equal(some_images(data, 7), torch.cat([batch["content"], batch["style"][:3]]))


@pytest.mark.parametrize("layer", ["relu3_1", "relu4_1"])
def test_linear_transfer_starts_from_what_changes_least(layer: str, data: Pairs) -> None:
    """Principal components, matrices that are nearly the identity, and a fitted decoder if none is given: an image as its
    own style goes on as it is."""
    torch.manual_seed(0)
    model = thin_model("linear_transfer", relu3_1=layer == "relu3_1", relu4_1=layer == "relu4_1")
    model.eval()
    pictures = held_out(data)

    @torch.no_grad()
    def changed() -> float:
        code, kept = model.encode_style(pictures), model.decode(pictures, model.encode_style(pictures), alpha=0.0)
        return float((model.decode(pictures, code) - kept).square().mean() / kept.var((2, 3)).mean())

    @torch.no_grad()
    def unexplained() -> float:
        restored = model(pictures, pictures)
        return float((restored - pictures).square().mean() / pictures.var((2, 3)).mean())

    before = changed()
    assert unexplained() > 0.9
    data.setup("fit")
    preconditioners = initialize(model, some_images(data, 96))
    after = changed()
    assert unexplained() < 0.6
    assert after < 0.5 and after < 0.5 * before and len(preconditioners) == len(trained_convolutions(model)) == 8


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 8, stride=8),
        nn.Conv2d(3, 4, 1),
    ],
)
def test_patches_are_what_a_convolution_sees(conv: nn.Conv2d) -> None:
    x = torch.rand(2, 3, 32, 24)
    output = conv(x)
    where = some_positions(output, 5, torch.Generator().manual_seed(0))
    expected = columns(output, where)
    torch.testing.assert_close(F.linear(patches(x, where, conv), conv.weight.flatten(1), conv.bias), expected)


def test_images_and_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StylezooError, match="crops of a multiple of 16 pixels, not 40x32"):
        initialize(thin_model("adain"), torch.rand(1, 3, 40, 32))
    other = thin_model("adain")
    other.attach_loss_encoder("vgg19_random/4")
    with pytest.raises(StylezooError, match="name a VGG of the decoder's widths for the losses"):
        initialize(other, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("system", FITTED)
def test_a_run_starts_from_the_fit(system: str, pictures: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 the checkpoint holds the fit, whatever the decoder was before."""
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = thin_model(system, he_init=False, **WIDE.get(system, {}))
        trainer(tmp_path, max_steps=1, callbacks=[options(lr=0.0)], enable_checkpointing=False).fit(
            model, pairs(system, pictures)
        )
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1])
    name = next(iter(states[0]))
    assert not torch.allclose(states[0][name], thin_model(system).state_dict()[name])


@pytest.mark.parametrize("system", ["cin", "magenta"])
def test_conditional_networks_take_preconditioned_steps(system: str, pictures: Path, tmp_path: Path) -> None:
    """Adam's first step: scales and shifts of CIN's styles by the learning rate, a matrix by less; other sizes of styles."""
    states = []
    for lr in (0.0, 0.01):
        torch.manual_seed(0)
        model = thin_model(system)
        data = pairs(system, pictures, batch_size=4)
        if data.style is not None:
            data.style.framing = Framing(size=40, crop=40)
        trainer(tmp_path, max_steps=1, callbacks=[options(lr)], enable_checkpointing=False).fit(model, data)
        states.append(model.state_dict())
    steps = {name: (tensor - states[0][name]).abs().max().item() for name, tensor in states[1].items()}
    scale, inputs = ("transformer.scale", 1) if system == "cin" else ("transformer.scale.weight", 100)
    assert steps[scale] == pytest.approx(0.01 / inputs**0.5, rel=1e-3)
    convs = plan_of(model).convolutions
    assert len(convs) == 16 and all(steps[f"{name}.weight"] > 0 for name in convs)


def test_weights_of_another_model_are_not_fitted_again(pictures: Path, tmp_path: Path) -> None:
    """SANet takes AdaIN's decoder; its attention is that of a new model, and only the merging is fitted."""
    torch.manual_seed(1)
    adain, start = thin_model("adain"), tmp_path / "adain.safetensors"
    save_model(adain, start)
    model, training = thin_model("sanet"), options(lr=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training.kept = take_weights(model, start)
    trainer(tmp_path, max_steps=1, callbacks=[training], enable_checkpointing=False).fit(
        model, pairs("sanet", pictures)
    )
    after = model.state_dict()
    for name, tensor in adain.state_dict().items():
        torch.testing.assert_close(after[name], tensor)
    assert not torch.allclose(after["transform.merge_conv.weight"], before["transform.merge_conv.weight"])


@pytest.mark.parametrize("kernel", [1, 3])
def test_relus_let_a_matrix_pass(kernel: int) -> None:
    convs = [nn.Conv2d(12, 10, kernel), nn.ReLU(), nn.Conv2d(10, 8, kernel), nn.ReLU(), nn.Conv2d(8, 5, 1)]
    network, matrix = nn.Sequential(*convs), torch.randn(4, 12)
    with torch.no_grad():
        compute_linearly(network, matrix)
        x = torch.randn(2, 12, 9, 9)
        inner = x if kernel == 1 else x[..., 2:-2, 2:-2]
        torch.testing.assert_close(network(x)[:, :4], torch.einsum("kc,bchw->bkhw", matrix, inner))


@pytest.mark.parametrize("mode", ["art", "photo"])
def test_sct_starts_from_principal_components(mode: str, data: Pairs) -> None:
    """The features of an image that is stylized with itself come back in part, those of two styles are different."""
    model, images = thin_model("sct", mode=mode, encoder="vgg19_random/4"), held_out(data)
    with torch.no_grad():
        features = model.features(images)
        initialize_covariance(model.transformation, features)
        code = model.transformation.encode(features)
        wanted = features - code["mean"]
        error = model.transformation(features, code) - features
        other = model.transformation(features, {name: tensor.flip(0) for name, tensor in code.items()})
    assert error.square().mean() < 0.8 * wanted.square().mean()
    assert (other - features - error).square().mean() > 0.05 * wanted.square().mean()


def test_linear_transfer_knows_whether_a_start_brought_a_decoder(tmp_path: Path) -> None:
    """AdaIN's fits at relu4_1; at relu3_1 nothing of it does, and all of the decoder is to be fitted."""
    start = tmp_path / "adain.safetensors"
    save_model(thin_model("adain"), start)
    deep, shallow = (thin_model("linear_transfer", relu4_1=on, relu3_1=not on) for on in (True, False))
    take_weights(deep, start)
    assert plan_of(deep).targets == [] and len(plan_of(shallow).targets) == 5
    other = tmp_path / "linear_transfer.safetensors"
    save_model(thin_model("linear_transfer", relu4_1=True, relu3_1=True), other)
    taken = take_weights(shallow, other)  # its matrix at relu3_1
    assert any("matrix3_1" in name for name in taken) and len(plan_of(shallow).targets) == 5


FIT = [
    "--training.initialization=LeastSquares",
    "--training.initialization.crops=12",
    "--training.optimizer=PreconditionedAdam",
    "--training.optimizer.lr=0.003",
]
OLD_FIT = ["--model.first_pictures=12", "--model.lr=0.003"]
"""The same with the settings of earlier versions."""


def last_state(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(next(folder.rglob("last.ckpt")), weights_only=True)["state_dict"]
    return state


def test_a_resumed_run_keeps_its_preconditioners(pictures: Path, tmp_path: Path) -> None:
    whole, half, rest = (tmp_path / name for name in ("whole", "half", "rest"))
    main(command(pictures, whole, "--trainer.max_steps=4", *FIT))
    main(command(pictures, half, "--trainer.max_steps=2", *FIT))
    start = f"--ckpt_path={next(half.rglob('last.ckpt'))}"
    main(command(pictures, rest, "--trainer.max_steps=4", *FIT, start))
    torch.testing.assert_close(last_state(whole), last_state(rest), rtol=0, atol=0)
    with pytest.warns(DeprecationWarning, match="first_pictures is now called an option of training"):
        main(command(pictures, tmp_path / "old", "--trainer.max_steps=4", *OLD_FIT))
    torch.testing.assert_close(last_state(whole), last_state(tmp_path / "old"), rtol=0, atol=0)


def test_a_loaded_model_that_is_trained_on_is_no_resumed_run(pictures: Path, tmp_path: Path) -> None:
    """Its inputs are measured anew: no step of plain Adam in place of preconditioned ones."""
    save_model(thin_model("adain"), tmp_path / "adain.safetensors")
    states = []
    for model in (thin_model("adain"), stylezoo.load_model(tmp_path / "adain.safetensors").train()):
        run = trainer(tmp_path, max_steps=2, callbacks=[Training(optimizer=PreconditionedAdam(0.003, crops=12))])
        run.fit(model, pairs("adain", pictures))
        assert all("preconditioner" in run.optimizers[0].state[conv.weight] for conv in run.optimizers[0].convs)
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
