"""CIN against magenta (parity fixtures), the public Android network, and what the paper claims."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Case, shared

import stylezoo
from stylezoo.cli import main
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.layers import measure_styles
from stylezoo.losses import STYLE_STATISTICS, Moments, PerceptualLoss, gram
from stylezoo.models.cin import CIN

Parity = Callable[[str], Case]
TINY = {"loss_encoder": "vgg16_random/8", "width": 0.25}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of different sizes to learn the styles of."""
    generator = torch.Generator().manual_seed(3)
    for index, name in enumerate(("monet", "gogh", "klee")):
        image = torch.rand(3, 32 + 8 * index, 40, generator=generator) * (0.4 + 0.3 * index)
        write_image(image, tmp_path / "styles" / f"{name}.png")
    return tmp_path / "styles"


def small(folder: Path, **settings: object) -> CIN:
    torch.manual_seed(0)
    model = CIN(str(folder), **{**TINY, **settings})
    torch.nn.init.normal_(model.transformer.scale, 1, 0.3)
    torch.nn.init.normal_(model.transformer.shift, 0, 0.3)
    return model


def test_parameter_counts() -> None:
    for count in (1, 10, 32):
        model = CIN(style_names=[f"{i}" for i in range(count)])
        assert sum(p.numel() for p in model.parameters()) == 1_674_432 + 3_206 * count
    thin = CIN(style_names=["a"], width=0.25)
    assert sum(p.numel() for p in thin.parameters()) == 107_568 + 806
    assert sum(conv.weight.numel() for conv in thin.transformer.convs()) == 107_568


@pytest.mark.parametrize("name", ["transform_b2_64x96", "transform_odd_alpha025"])
def test_transform(name: str, parity: Parity) -> None:
    case = parity(f"magenta_cin/{name}")
    model = case.model("cin", "ckpt")
    assert isinstance(model, CIN) and len(model.styles) == case.meta["options"]["num_styles"]
    for style, array in (
        (torch.tensor(case.meta["options"]["labels"]), "output"),
        (torch.tensor(case.meta["options"]["weights"]), "output_weighted"),
    ):
        code = model.encode_style(style)
        case.check(**{array: model.transformer(case["content"], code["scale"], code["shift"])})
        height, width = case["content"].shape[-2:]
        tolerance = case.fixture.tolerance(array)
        expected = case[array][..., :height, :width]
        torch.testing.assert_close(model(case["content"], style), expected, rtol=0, atol=tolerance)


def test_gram(parity: Parity) -> None:
    case = parity("magenta_losses/gram")
    case.check(gram=gram(case["feature"]) / (case["feature"].shape[-2] * case["feature"].shape[-1]))


@pytest.mark.parametrize("name", ["losses_b2_64x96", "losses_odd"])
def test_losses(name: str, parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = parity(f"magenta_losses/{name}")
    tensors = {}
    for key, tensor in case.part("ckpt").items():
        conv, kind = key.split("/")[-2:]
        kind = {"weights": "weight", "biases": "bias"}[kind]
        tensors[f"{conv}.{kind}"] = tensor.permute(3, 2, 0, 1) if kind == "weight" else tensor
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)  # slim takes RGB, caffe BGR
    torch.save(tensors, tmp_path / "vgg16.pth")

    ids = list(range(len(case["style"])))
    model = CIN(style_names=[f"s{i}" for i in ids], width=0.25, loss_encoder_weights=str(tmp_path / "vgg16.pth"))
    model.build_loss_encoder()
    model._measured = measure_styles(
        model.loss_encoder, (case["style"][i : i + 1] for i in ids), model.perceptual.style_layers
    )
    monkeypatch.setattr(model, "forward", lambda content, style: case["stylized"])
    terms = model.losses(case["content"], torch.tensor(ids))
    case.check(content_loss=terms["content"], total_cin=terms["content"] + terms["style"])
    features = model.loss_encoder(case["stylized"], model.perceptual.style_layers)
    each = [
        PerceptualLoss({}, {layer: 1.0}, style_loss="gram_magenta")(features, style=model._measured)["style"]
        for layer in model.perceptual.style_layers
    ]
    area = case["stylized"].shape[-2] * case["stylized"].shape[-1]
    case.check(style_losses=torch.stack(each), gram_conv1_mean=(gram(features["relu1_2"]) / area).mean((1, 2)))


def test_android_network_stylizes_with_26_styles() -> None:
    model = stylezoo.import_checkpoint("cin", [shared("weights/cin26_google_android.pth")])
    assert len(model.styles) == 26 and model.styles[25] == "style25"
    photo = to_tensor(read_image(shared("images/fullres/photos/chicago.jpg")).resize((90, 61)))[None]
    with torch.no_grad():
        outputs = model(photo.expand(26, -1, -1, -1), torch.arange(26))
    assert outputs.shape == (26, 3, 61, 90) and torch.isfinite(outputs).all()
    distance = torch.cdist(outputs.flatten(1), outputs.flatten(1)) / outputs[0].numel() ** 0.5
    assert (distance + torch.eye(26)).min() > 0.02  # no two styles alike
    assert outputs.std((1, 2, 3)).min() > 0.05  # none gray


def test_a_style_by_number_name_and_weights(folder: Path) -> None:
    model, content = small(folder), torch.rand(2, 3, 32, 40)
    assert model.styles == ["gogh", "klee", "monet"]
    klee = model(content, 1)
    for same in (
        "klee",
        "1",
        torch.tensor(1),
        torch.tensor([1, 1]),
        ["klee", 1],
        [0.0, 1.0, 0.0],
        torch.eye(3)[[1, 1]],
    ):
        torch.testing.assert_close(model(content, same), klee)
    mixed = model(content, torch.tensor([2, 0]))  # a style of its own for each sample
    torch.testing.assert_close(mixed[:1], model(content[:1], "monet"))
    torch.testing.assert_close(mixed[1:], model(content[1:], "gogh"))
    torch.testing.assert_close(model(content), model(content, torch.tensor([0, 1])))  # in turn
    gogh, monet = model.encode_style(0), model.encode_style(2)
    for name, tensor in model.encode_style(torch.tensor([2.0, 0.0, -0.5])).items():  # not normalized
        torch.testing.assert_close(tensor, 2 * gogh[name] - 0.5 * monet[name])
    blend = model.decode(content, [gogh, monet], weights=[3, 1])
    torch.testing.assert_close(blend, model(content, [0.75, 0.0, 0.25]))
    assert stylezoo.stylize(content[0], ["gogh", 2], model, style_weights=[3, 1]).size == (40, 32)


def test_what_it_cannot_do_is_said(folder: Path) -> None:
    model, content = small(folder), torch.rand(1, 3, 32, 32)
    for wrong, named in (
        (3, "3"),
        (-1, "-1"),
        ("7", "7"),
        ("dali", "dali"),
        (torch.tensor([0, 7]), "[0, 7]"),
        (True, "True"),
    ):
        known = "it has 3, by number from 0 or by name: gogh, klee, monet"
        with pytest.raises(ValueError, match=re.escape(f"cin has no style {named}: {known}")):
            model(content, wrong)
    for wrong in (content, torch.rand(2)):
        with pytest.raises(ValueError, match="3 styles of cin .* trained on: gogh, klee, monet"):
            model(content, wrong)
    with pytest.raises(ValueError, match="leave alpha at 1"):
        model(content, 0, alpha=0.5)
    with pytest.raises(ValueError, match="learns the styles of a folder"):
        CIN()
    with pytest.raises(FileNotFoundError, match="no style images in .*nowhere: training needs"):
        CIN(str(folder / "nowhere"))
    with pytest.raises(ValueError, match="style_coefficients name 'dali'"):
        small(folder, style_coefficients={"dali": 2.0})
    (folder / "klee.png").unlink()
    with pytest.raises(FileNotFoundError, match="no image of the style 'klee'"):
        model.losses(content, 0)


def test_a_style_is_only_scales_and_shifts(folder: Path) -> None:
    """Section 2.2: 0.2 % of the parameters; the loss of one style leaves the rows of the others alone."""
    model = small(folder)
    terms = model.losses(torch.rand(2, 3, 32, 32), torch.tensor([1, 1]))
    (terms["content"] + terms["style"]).backward()
    for parameter in (model.transformer.scale, model.transformer.shift):
        assert parameter.grad is not None and parameter.grad[1].abs().sum() > 0
        assert parameter.grad[[0, 2]].abs().sum() == 0
    full = CIN(style_names=["a"])
    assert full.transformer.scale.numel() + full.transformer.shift.numel() == 3_206


def test_output_takes_the_statistics_of_its_row(folder: Path) -> None:
    """Equation 5: after the last layer, before the sigmoid, channels have the row's shift as mean and scale as std."""
    model = small(folder)
    output = torch.logit(model(torch.rand(1, 3, 64, 64), "monet").double())
    code = model.encode_style("monet")
    torch.testing.assert_close(output.mean((2, 3)).float(), code["shift"][:, -3:], rtol=1e-3, atol=1e-3)
    std = output.std((2, 3), correction=0).float()
    torch.testing.assert_close(std, code["scale"][:, -3:].abs(), rtol=2e-2, atol=1e-3)


def test_styles_are_measured_once_and_weigh_as_asked(folder: Path) -> None:
    content, ids = torch.rand(3, 3, 32, 32), torch.tensor([0, 2, 2])
    plain, factors = small(folder), small(folder, style_coefficients={"monet": 3.0})
    base, weighted = plain.losses(content, ids), factors.losses(content, ids)
    assert plain._measured["relu1_2"].positions.flatten().tolist() == [40 * 40, 48 * 40, 32 * 40]
    singles = [plain.losses(content[i : i + 1], ids[i : i + 1])["style"].item() for i in range(3)]
    assert float(base["style"]) == pytest.approx(sum(singles) / 3, rel=1e-4)
    assert float(weighted["style"]) == pytest.approx((singles[0] + 3 * singles[1] + 3 * singles[2]) / 3, rel=1e-4)
    assert float(weighted["content"]) == pytest.approx(float(base["content"]), rel=1e-5)
    for path in folder.iterdir():
        path.unlink()
    torch.testing.assert_close(plain.losses(content, ids), base)


@pytest.mark.parametrize("statistic", STYLE_STATISTICS)
def test_moments_stand_in_for_features_of_any_size(statistic: str) -> None:
    loss = STYLE_STATISTICS[statistic]
    output, a, b = torch.rand(3, 5, 8, 6), torch.rand(1, 5, 7, 9), torch.rand(1, 5, 4, 4)
    moments = Moments.cat([Moments.of(a), Moments.of(b)])
    expected = torch.stack([loss(output[i : i + 1], style) for i, style in enumerate((b, a, b))]).mean()
    torch.testing.assert_close(loss(output, moments[torch.tensor([1, 0, 1])]), expected)


def test_inference_needs_neither_folder_nor_loss_encoder(folder: Path, tmp_path: Path) -> None:
    model, content = small(folder), torch.rand(1, 3, 32, 32)
    stylezoo.save_model(model, tmp_path / "cin.safetensors")
    for path in folder.iterdir():
        path.unlink()
    loaded = stylezoo.load_model(tmp_path / "cin.safetensors")
    assert loaded.styles == ["gogh", "klee", "monet"] and "loss_encoder" not in loaded._modules
    torch.testing.assert_close(loaded(content, "monet"), model(content, "monet"), rtol=0, atol=0)
    assert str(folder).encode() not in (tmp_path / "cin.safetensors").read_bytes()


def test_names_that_only_differ_in_their_suffix(folder: Path) -> None:
    write_image(torch.rand(3, 32, 32), folder / "klee.jpg")
    assert small(folder).styles == ["gogh.png", "klee.jpg", "klee.png", "monet.png"]


def test_styles_drawn_are_a_function_of_seed_batch_and_rank(folder: Path) -> None:
    model = small(folder)
    draws = torch.stack([model.draw(8, batch, rank) for batch in range(50) for rank in range(2)])
    assert torch.equal(draws[13], model.draw(8, 6, 1)) and not torch.equal(draws[12], draws[13])
    assert not torch.equal(draws[0], small(folder, seed=1).draw(8, 0, 0))
    share = torch.bincount(draws.flatten(), minlength=3) / draws.numel()
    assert (share - 1 / 3).abs().max() < 0.06


def fit(folder: Path, pictures: Path, tmp_path: Path, steps: int, *options: str) -> Path:
    """Trains the recipe on tiny images; the folder of the run."""
    common = [
        f"--config={ROOT / 'experiments' / 'cin.yaml'}",
        "--data.content=Folder",
        f"--data.content.root={pictures}",
    ]
    common += [f"--model.styles={folder}", "--model.loss_encoder=vgg16_random/8", "--model.width=0.25"]
    common += ["--data.size=40", "--data.crop=32", "--data.batch_size=2", "--data.num_workers=0"]
    common += ["--trainer.accelerator=cpu", f"--trainer.logger.save_dir={tmp_path}", f"--trainer.max_steps={steps}"]
    common += ["--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
    main(["fit", *common, "--images.every_n_steps=0", *options])
    return max((tmp_path / "cin").iterdir(), key=lambda path: path.stat().st_mtime)


def test_a_resumed_run_draws_the_same_styles(folder: Path, pictures: Path, tmp_path: Path) -> None:
    whole = fit(folder, pictures, tmp_path / "whole", 7) / "checkpoints" / "last.ckpt"
    half = fit(folder, pictures, tmp_path / "half", 3) / "checkpoints" / "last.ckpt"
    rest = fit(folder, pictures, tmp_path / "rest", 7, f"--ckpt_path={half}") / "checkpoints" / "last.ckpt"
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, rest))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_finetune_trains_a_new_style_alone(folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Section 3.2: a style is added by training its scales and shifts, the rest of the network stays."""
    base = small(folder)
    stylezoo.save_model(base, tmp_path / "base.safetensors")
    new = tmp_path / "new"
    write_image(torch.rand(3, 32, 32), new / "miro.png")
    run = fit(new, pictures, tmp_path, 3, f"--model.finetune={tmp_path / 'base.safetensors'}")
    (tmp_path / "base.safetensors").unlink()
    tuned = stylezoo.load_model(run / "checkpoints" / "last.ckpt")
    assert isinstance(tuned, CIN) and tuned.styles == ["miro"]
    for ours, theirs in zip(tuned.transformer.convs(), base.transformer.convs(), strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    assert not torch.equal(tuned.transformer.scale, torch.ones_like(tuned.transformer.scale))
    stylezoo.save_model(base, tmp_path / "base.safetensors")
    model = CIN(str(new), finetune=str(tmp_path / "base.safetensors"), **TINY)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"transformer.scale", "transformer.shift"}
    assert torch.equal(model.transformer.scale, torch.ones_like(model.transformer.scale))
    model = CIN(str(new), finetune=str(tmp_path / "base.safetensors"), finetune_from="average", **TINY)
    for start, known in (
        (model.transformer.scale, base.transformer.scale),
        (model.transformer.shift, base.transformer.shift),
    ):
        torch.testing.assert_close(start, known.mean(0, keepdim=True))
    with pytest.raises(ValueError, match="finetune_from must be 'ones' or 'average', got 'zeros'"):
        CIN(str(new), finetune=str(tmp_path / "base.safetensors"), finetune_from="zeros", **TINY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a cin of the same shape, but .* is a cin with width 0.25"):
        CIN(str(new), finetune=str(tmp_path / "base.safetensors"))


def test_a_checkpoint_of_other_styles_is_refused(folder: Path, pictures: Path, tmp_path: Path) -> None:
    checkpoint = fit(folder, pictures, tmp_path, 1) / "checkpoints" / "last.ckpt"
    (folder / "klee.png").rename(folder / "miro.png")
    with pytest.raises(
        ValueError, match="trained on the styles gogh, klee, monet, but there are gogh, miro, monet here"
    ):
        small(folder).on_load_checkpoint(torch.load(checkpoint, weights_only=True))
    assert stylezoo.load_model(checkpoint).styles == ["gogh", "klee", "monet"]
