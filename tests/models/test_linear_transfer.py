"""Linear transfer against the reference implementation (parity fixtures), its files, and what the paper claims of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Case, gradient_norms, gradient_norms_by_loss, shared
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.utils import make_grid

import stylezoo
from stylezoo.data import Folder, Pairs
from stylezoo.inference import Stylizer, load_image
from stylezoo.losses import PerceptualLoss, gram_linear_transfer_loss, mean_std
from stylezoo.models.linear_transfer import DECODER_CONVS, LAYERS, LinearTransfer, Transformation
from stylezoo.module import inverse_time_decay
from stylezoo.vgg import conv_names

Parity = Callable[[str], Case]


def small(**settings: object) -> LinearTransfer:
    torch.manual_seed(0)
    return LinearTransfer(**{"encoder": "vgg19_random/8", **settings}).eval()  # type: ignore[arg-type]


def reference(case: Case, *, losses: bool = False) -> tuple[LinearTransfer, Transformation]:
    """The model with the parameters of a case, and its one matrix."""
    model = case.model("linear_transfer", "matrix", "vgg", "dec")
    if losses:
        model.attach_loss_encoder(weights=str(case.files("vgg_r51")[0]))
    assert isinstance(model, LinearTransfer) and len(model.levels) == 1
    assert model.levels == [{"r31": "relu3_1", "r41": "relu4_1"}[case.meta["options"]["layer"]]]
    return model, model.matrix(model.levels[0])


def product(matrix: Transformation, content: Tensor, style: Tensor) -> Tensor:
    """The whole matrix of two images' features."""
    return matrix.encode(style)[0] @ matrix.cnet(content - mean_std(content)[0])


def identity_path(matrix: Transformation, content: Tensor) -> Tensor:
    """The reference's trans=False: compressed and unzipped, with nothing in between."""
    mean, _ = mean_std(content)
    return matrix.transfer(content - mean, torch.eye(32)) + mean


@pytest.mark.parametrize(("layer", "matrix", "decoder"), [("3_1", 2_890_464, 555_075), ("4_1", 5_156_192, 3_505_219)])
def test_parameter_counts(layer: str, matrix: int, decoder: int) -> None:
    model = LinearTransfer(encoder="vgg19_random", relu3_1=layer == "3_1", relu4_1=layer == "4_1")
    assert sum(p.numel() for p in model.matrix(f"relu{layer}").parameters()) == matrix
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder
    assert sum(p.numel() for p in model.encoder.parameters()) == {"3_1": 555_340, "4_1": 3_505_740}[layer]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == matrix


@pytest.mark.parametrize(("layer", "channels"), [("r31", 256), ("r41", 512)])
def test_matrix(layer: str, channels: int, parity: Parity) -> None:
    case = parity(f"lst/matrix_{layer}")
    matrix = Transformation(channels)
    matrix.load_state_dict(case.part("matrix"))
    output = matrix(case["content"], *matrix.encode(case["style"]))
    loss = output.square().mean()
    case.check(
        output=output,
        transmatrix=product(matrix, case["content"], case["style"]),
        loss=loss,
        output_identity=identity_path(matrix, case["content"]),
        **gradient_norms({"loss": loss}, matrix=matrix),
    )


@pytest.mark.parametrize("layer", ["r31", "r41"])
def test_stylize(layer: str, parity: Parity) -> None:
    """Odd sizes: the reference cuts the content (by pooling) where `decode` extends it."""
    case = parity(f"lst/stylise_{layer}_odd")
    model, matrix = reference(case)
    content, style = case["content"], case["style"]
    with torch.no_grad():
        features, style_features = (model.encoder(image, model.levels) for image in (content, style))
        code = model.encode_style(style)
        case.check(
            output=model._decoded(features, code),
            transmatrix=product(matrix, features[model.levels[0]], style_features[model.levels[0]]),
            output_identity=model.decoder(identity_path(matrix, features[model.levels[0]])),
        )
        cut = content[..., :56, :80]
        decoded = model._decoded(model.encoder(cut, model.levels), code)
        torch.testing.assert_close(model.decode(cut, code), decoded)


@pytest.mark.parametrize("layer", ["r31", "r41"])
def test_training_losses_and_gradients(layer: str, parity: Parity) -> None:
    case = parity(f"lst/train_{layer}_b2_64x96")
    model, matrix = reference(case, losses=True)
    content, style = case["content"], case["style"]
    terms = model.losses(content, style)
    features, style_features = (model.encoder(image, model.levels)[model.levels[0]] for image in (content, style))
    norms = gradient_norms_by_loss(terms, {"content": 1, "style": 0.02}, matrix=matrix)
    case.check(
        loss_content=terms["content"],
        loss_style=terms["style"] / 0.02,
        loss_style_weighted=terms["style"],
        total=terms["content"] + terms["style"],
        output=model(content, style),
        transmatrix=product(matrix, features, style_features),
        **{key: norm for key, norm in norms.items() if not key.startswith("gradnorms_matrix_of")},
    )


def test_criterion(parity: Parity) -> None:
    case = parity("lst/criterion")
    output, style = ({f"relu{n}_1": case[f"{role}_r{n}1"] for n in (1, 2, 3, 4)} for role in ("t", "s"))
    loss = PerceptualLoss({"relu4_1": 1.0}, LAYERS, style_loss="gram_linear_transfer")
    terms = loss(output, content={"relu4_1": case["c_r41"]}, style=style)
    case.check(
        loss_content=terms["content"],
        loss_style=terms["style"],
        loss_style_layers=torch.stack([gram_linear_transfer_loss(output[n], style[n]) for n in LAYERS]),
        total=terms["content"] + 0.02 * terms["style"],
    )


def test_learning_rate(parity: Parity) -> None:
    """Set after step i = 1, 2 ... there, before step i = 0, 1 ... here: the same rates for the same steps."""
    case = parity("lst/lr")
    schedule = inverse_time_decay(SGD([torch.zeros(1, requires_grad=True)], lr=1e-4), decay=1e-5)
    factor = schedule.lr_lambdas[0]
    case.check(lr=torch.tensor([1e-4 * factor(int(i)) for i in case["iterations"]], dtype=torch.float64))


def test_a_chain_of_matrices() -> None:
    """What matrix3_1 made goes on through the encoder, whose next layers are written out here, to matrix4_1; both see
    the style's own features."""
    model = small(relu3_1=True).double()
    content, style = torch.rand(2, 1, 3, 48, 64, dtype=torch.float64).unbind()
    features, style_features = (model.encoder(image, ["relu3_1", "relu4_1"]) for image in (content, style))
    x = model.matrix3_1(features["relu3_1"], *model.matrix3_1.encode(style_features["relu3_1"]))
    for name in ("conv3_2", "conv3_3", "conv3_4", "conv4_1"):
        if name == "conv4_1":
            x = F.max_pool2d(x, 2)
        conv = model.encoder.convs[name]
        assert isinstance(conv, nn.Conv2d)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias).relu()
    x = model.matrix4_1(x, *model.matrix4_1.encode(style_features["relu4_1"]))
    torch.testing.assert_close(model(content, style), model.decoder(x))
    torch.testing.assert_close(model(content, style, alpha=0.0), model.decoder(features["relu4_1"]))


def test_the_matrix_of_a_style_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference makes it again for every frame of a video."""
    model, content, style = small(), torch.rand(2, 3, 32, 40), torch.rand(1, 3, 48, 33)
    expected, code = model(content, style), model.encode_style(style)
    monkeypatch.setattr(model.matrix4_1.snet, "forward", None)
    assert torch.equal(model.decode(content, code), expected)
    assert {name: tuple(t.shape) for name, t in code.items()} == {"matrix4_1": (1, 32, 32), "mean4_1": (1, 64, 1, 1)}


def test_blending_codes_blends_transferred_features() -> None:
    """All of it is linear in the code."""
    model, content = small(), torch.rand(1, 3, 48, 40)
    codes = [model.encode_style(torch.rand(1, 3, *size)) for size in ((48, 40), (64, 33))]
    features = model.encoder(content, model.levels)["relu4_1"]
    first, second = (model.matrix4_1(features, code["matrix4_1"], code["mean4_1"]) for code in codes)
    expected = model.decoder(0.25 * first + 0.75 * second)
    torch.testing.assert_close(model.decode(content, codes, weights=[1, 3]), expected, rtol=1e-4, atol=1e-5)


def test_stretched_images_are_those_that_torchvision_saves() -> None:
    model, stretched = small(), small(stretch=True)
    content, style = torch.rand(2, 2, 3, 32, 32).unbind()
    decoded = model(content, style)
    expected = [make_grid(p.clamp(0, 1)[None], normalize=True, scale_each=True) for p in decoded]
    torch.testing.assert_close(stretched(content, style), torch.stack(expected))
    torch.testing.assert_close(stretched.losses(content, style), model.losses(content, style))


@pytest.mark.parametrize("layers", [{}, {"relu3_1": True}, {"relu3_1": True, "relu4_1": False}])
def test_tiles_change_nothing(layers: dict[str, bool]) -> None:
    """Pools round down here, so the style's last rows and columns are dropped, in tiles too."""
    model = small(**layers).double()
    content, style = torch.rand(1, 3, 69, 90, dtype=torch.float64), torch.rand(3, 63, 71, dtype=torch.float64)
    whole = Stylizer(model, [style])(content)
    torch.testing.assert_close(Stylizer(model, [style], tile=40)(content), whole, rtol=0, atol=1e-10)


def numbered(model: LinearTransfer, folder: Path) -> dict[str, Path]:
    """The files that the reference would have saved of a model."""
    vgg = {name: f"conv{i}" for i, name in enumerate(["preprocess", *conv_names(19)], start=1)}
    convs = {str(index): conv for conv, index in DECODER_CONVS[model.levels[-1]].items()}
    parts = {
        "vgg": {f"{vgg[key.split('.')[0]]}.{key.split('.')[1]}": t for key, t in model.encoder.tensors.items()},
        "dec": {f"{convs[k.split('.')[0]]}.{k.split('.')[1]}": t for k, t in model.decoder.state_dict().items()},
        **{layer: model.matrix(layer).state_dict() for layer in model.levels},
    }
    for name, tensors in parts.items():
        torch.save(tensors, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in parts}


def test_import_sees_a_chain_in_the_files(tmp_path: Path) -> None:
    model = small(encoder="vgg19_random", relu3_1=True)
    files = numbered(model, tmp_path)
    loaded = stylezoo.import_checkpoint(
        "linear_transfer", [files[name] for name in ("relu4_1", "dec", "vgg", "relu3_1")]
    )
    content, style = torch.rand(2, 1, 3, 32, 40).unbind()
    assert isinstance(loaded, LinearTransfer) and loaded.levels == ["relu3_1", "relu4_1"]
    # The random encoder has another affine map in front, which its file brings along.
    torch.testing.assert_close(loaded(content, style), model(content, style))
    stylezoo.save_model(loaded, tmp_path / "chain.safetensors")
    again = stylezoo.load_model(tmp_path / "chain.safetensors")
    assert torch.equal(again(content, style), loaded(content, style))
    with pytest.raises(ValueError, match="no file for matrix4_1: its parts are encoder, matrix3_1, matrix4_1, decoder"):
        stylezoo.import_checkpoint("linear_transfer", [files[name] for name in ("vgg", "dec", "relu3_1")])


def test_the_public_decoder_restores_photographs() -> None:
    files = {part: str(shared(f"weights/linear_transfer/{part}_r31.pth")) for part in ("vgg", "dec")}
    model = LinearTransfer(False, True, encoder_weights=files["vgg"], decoder_weights=files["dec"]).eval()
    photo = load_image(min(shared("images/fullres/photos").iterdir()), size=128)[None]
    with torch.no_grad():
        restored = model(photo, photo, alpha=0.0).clamp(0, 1)
    assert float((restored - photo).abs().mean()) < 0.04
    with pytest.raises(ValueError, match="stop at relu3_1, relu4_1 is needed: give a file that reaches deeper"):
        model.losses(photo, photo)


def thin_normalized(folder: Path) -> str:
    """A file of thin weights that passes for the normalized VGG-19."""
    torch.save(small().encoder.tensors, folder / "vgg.pth")
    return str(folder / "vgg.pth")


def fit(model: LinearTransfer, pictures: Path, **settings: object) -> Trainer:
    folder = Folder(str(pictures))
    data = Pairs(folder, folder, batch_size=2, size=40, crop=32, num_workers=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = Trainer(accelerator="cpu", max_steps=2, enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
    trainer.fit(model, data, **settings)  # type: ignore[arg-type]
    return trainer


def test_training_needs_a_finished_decoder(pictures: Path, tmp_path: Path) -> None:
    settings = {"encoder": "vgg19_normalised", "encoder_weights": thin_normalized(tmp_path)}
    with pytest.raises(FileNotFoundError, match=r"finished decoder.*dec_r41\.pth at .*/weights/dec_r41\.pth, or name"):
        fit(small(**settings), pictures)
    with pytest.warns(UserWarning, match="it is random and its outputs will be noise"):
        fit(small(), pictures)

    trained = stylezoo.create_model("adain", **settings)
    stylezoo.save_model(trained, tmp_path / "adain.safetensors")
    model = small(**settings, decoder_weights=str(tmp_path / "adain.safetensors"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = fit(model, pictures)
    for key, value in trained.decoder.state_dict().items():
        assert torch.equal(model.decoder.state_dict()[key], value)  # frozen
    learned = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert learned == {key for key in before if key.startswith("matrix4_1.")}
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.matrix4_1.parameters()}

    trainer.save_checkpoint(tmp_path / "last.ckpt")  # brings the decoder
    resumed = small(**settings)
    fit(resumed, pictures, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert torch.equal(resumed.decoder[1].weight, trained.decoder[1].weight)


def test_decoder_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    file = numbered(model, tmp_path)["dec"]
    again = small(decoder_weights=str(file))
    assert all(torch.equal(a, b) for a, b in zip(model.decoder.parameters(), again.decoder.parameters(), strict=True))
    with pytest.raises(
        ValueError, match=r"dec\.pth holds no decoder from relu3_1 of .*: give dec_r31\.pth, or a model"
    ):
        small(decoder_weights=str(file), relu3_1=True, relu4_1=False)
    with pytest.raises(FileNotFoundError, match=r"There is no file nowhere\.pth"):
        small(decoder_weights="nowhere.pth")

    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path))  # the place where it is looked for
    (tmp_path / "weights").mkdir()
    file.rename(tmp_path / "weights" / "dec_r41.pth")
    found = small(encoder="vgg19_normalised", encoder_weights=thin_normalized(tmp_path))
    assert torch.equal(found.decoder[1].weight, model.decoder[1].weight)


def test_one_layer_at_least() -> None:
    with pytest.raises(ValueError, match="relu4_1, of relu3_1 or of both: switch one on"):
        small(relu4_1=False)
