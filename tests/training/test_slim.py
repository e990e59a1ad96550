"""The slim encoder: the file that ships, the flavor that reads it, and the distillation that makes it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, THIN, shared
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch import Tensor

import stylezoo
from stylezoo import weights
from stylezoo.cli import main
from stylezoo.data import Folder, Pairs
from stylezoo.inference import load_image
from stylezoo.losses import gram
from stylezoo.training.optimizers import PreconditionedAdamOptimizer
from stylezoo.training.regression import choose, fit_relu
from stylezoo.training.slim_encoder import (
    LAYERS,
    SlimEncoder,
    fit_to_teachers,
    preconditioners,
    untrained_weights,
)
from stylezoo.vgg import VGG

FILE = weights.table().encoders["vgg19_slim"].path
WIDTHS = (4, 8, 16, 32, 16)
"""Half of the channels of the teacher `THIN`."""


def photos() -> Tensor:
    """scikit-image's public-domain photos, (4, 3, 256, 256)."""
    data = pytest.importorskip("skimage.data", reason="its photos are stylized")
    squares = [p()[:300, 80:380] for p in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
    pictures = torch.stack([torch.from_numpy(square).permute(2, 0, 1) / 255 for square in squares])
    return F.interpolate(pictures, size=256, mode="area")


def test_the_file_that_ships() -> None:
    assert FILE.is_relative_to(Path(stylezoo.__file__).parent) and FILE.stat().st_size <= 4_000_000
    assert {tensor.dtype for tensor in weights.read_tensors(FILE).values()} == {torch.float16}
    told = weights.read_metadata(FILE)
    assert told["license"] == "MIT" and told["data"] and told["recipe"] == "experiments/slim_encoder.yaml"
    assert told["steps"] > 0 and told["settings"]["widths"] == [32, 64, 128, 256, 128]
    assert told["teachers"]["teacher"]["name"] == "vgg19_normalised"
    assert {(row["pictures"], row["layer"]) for row in told["measured"]} == {
        (pictures, layer) for pictures in ("photos", "paintings") for layer in LAYERS
    }
    assert sum(p.numel() for p in VGG("vgg19_slim").parameters()) == 1_856_236


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (64, 41)])
def test_features_have_the_shapes_of_vgg(size: tuple[int, int]) -> None:
    slim, full = VGG("vgg19_slim"), VGG("vgg19_random")
    image = torch.rand(2, 3, *size)
    features, wide = (network(network.pad(image, "relu5_1"), LAYERS) for network in (slim, full))
    assert list(features) == list(wide) == list(LAYERS)
    for name, x in features.items():
        assert x.shape == wide[name].shape and float(x.min()) >= 0 and float(x.std()) > 0
    assert slim.channels == {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512, "relu5_1": 512}


def test_features_written_out() -> None:
    """The trunk convolution by convolution, and the maps, from the tensors of the file."""
    tensors = {key: tensor.float() for key, tensor in weights.read_tensors(FILE).items()}
    image = torch.rand(1, 3, 37, 50)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1), {}
    for block, count in enumerate((2, 2, 4, 4, 1), start=1):
        x = F.max_pool2d(x, 2, ceil_mode=True) if block > 1 else x
        for index in range(1, count + 1):
            name = f"conv{block}_{index}"
            padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
            x = F.relu(F.conv2d(padded, tensors[f"{name}.weight"], tensors[f"{name}.bias"]))
            if index == 1:
                wide = F.conv2d(x, tensors[f"maps.{name}.weight"], tensors[f"maps.{name}.bias"])
                expected[f"relu{block}_1"] = F.relu(wide)
    for name, features in VGG("vgg19_slim")(image, LAYERS).items():
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-4)


def test_fidelity() -> None:
    """Against the real VGG on photos that no training saw: cosine and Gram error are about those of the card."""
    teacher = VGG("vgg19_normalised", str(shared("weights/vgg_normalised_to_relu4_1.pth")))
    targets, features = (network(photos(), LAYERS[:4]) for network in (teacher, VGG("vgg19_slim")))
    measured = {row["layer"]: row for row in weights.read_metadata(FILE)["measured"] if row["pictures"] == "photos"}
    for name, floor in zip(LAYERS, (0.995, 0.975, 0.935, 0.945), strict=False):
        cosine = float(F.cosine_similarity(features[name].flatten(1), targets[name].flatten(1)).mean())
        grams = gram(features[name]), gram(targets[name])
        difference = (grams[0] - grams[1]).flatten(1).norm(dim=1) / grams[1].flatten(1).norm(dim=1)
        assert cosine >= floor and cosine == pytest.approx(measured[name]["cosine"], abs=0.02), name
        assert 100 * float(difference.mean()) < 1.5 * measured[name]["gram_error_percent"], name


def test_layers_that_it_lacks() -> None:
    slim, image = VGG("vgg19_slim"), torch.rand(1, 3, 32, 32)
    for layer in ("relu3_3", "conv4_1", "relu5_4"):
        with pytest.raises(ValueError, match=rf"has no {layer} here: its weights hold relu1_1, relu2_1"):
            slim(image, [layer])
    with pytest.raises(ValueError, match=r"have maps for relu1_1, relu2_1, relu3_1, none for relu3_3"):
        VGG("vgg19_slim", last="relu3_3")
    assert list(VGG("vgg19_slim", last="relu3_1").channels) == ["relu1_1", "relu2_1", "relu3_1"]
    with pytest.raises(ValueError, match="cannot go on from changed features of relu3_1"):
        slim.continued(slim(image, ["relu3_1"])["relu3_1"], "relu3_1", ["relu4_1"])
    with pytest.raises(ValueError, match="There is no encoder 'vgg16_slim'"):
        VGG("vgg16_slim")


def test_files_that_are_no_slim_encoder(tmp_path: Path) -> None:
    save_file(VGG(THIN).tensors, tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match=r"have maps for no layer, none for relu1_1: give a slim encoder's file"):
        VGG("vgg19_slim", str(tmp_path / "vgg.safetensors"))


def test_layout_of_collaborative_distillation(tmp_path: Path) -> None:
    """The same numbers under the public encoders' names: conv0, conv11 ... conv51, conv11_aux ..."""
    own = VGG("vgg19_slim")
    renamed = {}
    for key, tensor in own.tensors.items():
        key = key.replace("preprocess", "conv0").replace("_", "", 1)
        renamed[key.removeprefix("maps.").replace(".", "_aux.") if key.startswith("maps.") else key] = tensor
    assert {"conv0.bias", "conv11.weight", "conv44.weight", "conv51_aux.bias"} <= renamed.keys()
    torch.save({"model": renamed, "epoch": 1}, tmp_path / "16x.pth")
    assert VGG("vgg19_slim", str(tmp_path / "16x.pth")).sha256 == own.sha256


def test_tiles_are_the_whole() -> None:
    slim, image = VGG("vgg19_slim"), torch.rand(1, 3, 200, 136)
    whole = slim(image, ["relu1_1", "relu4_1"])
    for name, features in slim(image, ["relu1_1", "relu4_1"], tile=64).items():
        torch.testing.assert_close(features, whole[name], rtol=1e-4, atol=1e-4)


def test_models_on_it_are_self_contained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = stylezoo.create_model("adain", encoder="vgg19_slim").eval()
    assert model.decoder[1].weight.shape == (256, 512, 3, 3)
    stylezoo.save_model(model, tmp_path / "adain.safetensors")
    content, style = torch.rand(2, 1, 3, 40, 48)
    again = stylezoo.load_model(tmp_path / "adain.safetensors")
    torch.testing.assert_close(again(content, style), model(content, style), rtol=0, atol=0)


# The distillation


def test_chosen_channels_explain_the_others() -> None:
    """Mixtures of four sources: the first choice is the best single predictor, four choices leave nothing."""
    torch.manual_seed(0)
    mixing = torch.randn(12, 4)
    features = torch.randn(500, 4) @ mixing.T + 3

    def left(channels: list[int]) -> float:
        inputs = torch.cat([features[:, channels], torch.ones(500, 1)], 1)
        return float((inputs @ torch.linalg.lstsq(inputs, features).solution - features).square().sum())

    first = choose(features, torch.eye(12), 1)
    assert left(first) == min(left([i]) for i in range(12))
    four = choose(features, torch.eye(12), 4)
    assert len(set(four)) == 4 and left(four) < 1e-5 * left(first)
    only = torch.zeros(12, 12)
    only[7, 7] = 1  # nothing matters but channel 7, which predicts itself
    assert choose(features, only, 1) == [7]


def test_a_fit_through_relu_finds_the_weights() -> None:
    """What a ReLU hides costs nothing: targets that are wrong below zero do not disturb."""
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(4000, 5), torch.randn(3, 5), torch.randn(3)
    target = inputs @ weight.T + bias
    found, offset = fit_relu(inputs, target)
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-3)
    torch.testing.assert_close(offset, bias, rtol=0, atol=1e-3)
    spoilt = torch.where(target < 0, target * torch.rand(4000, 3) * 5, target)
    plain, repeated = (fit_relu(inputs, spoilt, rounds) for rounds in (1, 20))
    error = [float((F.relu(inputs @ w.T + b) - F.relu(target)).square().mean()) for w, b in (plain, repeated)]
    assert error[1] < 0.1 * error[0]


def relative_error(student: VGG, teacher: VGG, images: Tensor) -> dict[str, float]:
    targets, features = teacher(images, LAYERS), student(images, LAYERS)
    return {
        name: float(F.mse_loss(features[name], target) / target.square().mean()) for name, target in targets.items()
    }


def test_initialization() -> None:
    """As wide as its teacher the student becomes its teacher; half as wide it is far better than noise."""
    torch.manual_seed(0)
    images, held = photos().unfold(2, 64, 64).unfold(3, 64, 64).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).split([48, 16])
    model = SlimEncoder((8, 16, 32, 64, 64), teacher=THIN)
    fit_to_teachers(model.encoder, model.teacher, None, images)
    assert max(relative_error(model.encoder, model.teacher, held).values()) < 0.01
    model = SlimEncoder(WIDTHS, teacher=THIN)
    noise = relative_error(model.encoder, model.teacher, held)
    fit_to_teachers(model.encoder, model.teacher, None, images)
    fitted = relative_error(model.encoder, model.teacher, held)
    assert all(fitted[name] < 0.2 * noise[name] for name in LAYERS), (noise, fitted)


def test_losses() -> None:
    """Written out, at two layers; and every weight learns, but not the teacher's."""
    torch.manual_seed(0)
    model, (content, style) = SlimEncoder(WIDTHS, gram_weight=3.0, teacher=THIN), torch.rand(2, 2, 3, 48, 48)
    terms = model.losses(content, style)
    assert list(terms) == [*LAYERS, "gram"]
    image = torch.cat([content, style])
    features, targets = model.encoder(image, LAYERS), model.teacher(image, LAYERS)
    for name in ("relu1_1", "relu5_1"):
        expected = (features[name] - targets[name]).square().sum() / targets[name].square().sum()
        torch.testing.assert_close(terms[name], expected)
    balanced = torch.zeros(())
    for name in LAYERS:
        g, t = (x[name].flatten(2) @ x[name].flatten(2).mT for x in (features, targets))
        balanced += ((g - t).square().sum((1, 2)) / (g.square().sum((1, 2)) + t.square().sum((1, 2)))).mean()
    torch.testing.assert_close(terms["gram"], 3 * balanced)
    torch.stack(list(terms.values())).sum().backward()
    trained = {key for key, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}
    assert trained == {f"encoder.{kind}" for kind in dict(model.encoder.named_parameters()) if "preprocess" not in kind}


def test_a_second_teacher_for_the_deep_layers(tmp_path: Path) -> None:
    save_file(VGG(THIN, last="relu4_1").tensors, tmp_path / "to_relu4_1.safetensors")
    files = {"teacher": THIN, "teacher_weights": str(tmp_path / "to_relu4_1.safetensors")}
    assert list(SlimEncoder(WIDTHS, **files).encoder.channels) == list(LAYERS[:4])
    model = SlimEncoder(WIDTHS, **files, deep_teacher_weights=str(FILE))
    assert model.encoder.channels["relu4_1"] == 64 and model.encoder.channels["relu5_1"] == 512
    images = photos()[..., :64, :64]
    deep = VGG("vgg19_slim")(images, ["relu5_1"])["relu5_1"]
    torch.testing.assert_close(model.targets(images)["relu5_1"], deep)
    before = float(model.losses(images)["relu5_1"])
    fit_to_teachers(model.encoder, model.teacher, model.deep_teacher, images)
    assert float(model.losses(images)["relu5_1"]) < 0.5 * before


def trained(pictures: Path, folder: Path, steps: int, ckpt_path: Path | None = None, **settings: int) -> SlimEncoder:
    torch.manual_seed(0)
    model = SlimEncoder(WIDTHS, teacher=THIN, warmup=5, lr_decay=0.0, **settings)
    pairs = Pairs(Folder(str(pictures)), Folder(str(pictures)), batch_size=2, size=48, crop=32, num_workers=0)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(model, pairs, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return model


def test_training(pictures: Path, tmp_path: Path) -> None:
    """The error falls below that of the initialization, a resumed run is the uninterrupted one, bit for bit, and a
    checkpoint holds the encoder alone, names its teacher, and is a file of encoder weights."""
    images = torch.stack([load_image(path)[:, :48, :48] for path in sorted(pictures.iterdir())])
    start = trained(pictures, tmp_path, 0, crops=16)
    whole = trained(pictures, tmp_path, 20, crops=16)
    errors = [sum(relative_error(m.encoder, m.teacher, images).values()) for m in (start, whole)]
    assert errors[1] < 0.9 * errors[0]
    trained(pictures, tmp_path, 12, crops=16)
    resumed = trained(pictures, tmp_path, 20, tmp_path / "12.ckpt", crops=16)
    for key, tensor in whole.encoder.tensors.items():
        assert torch.equal(resumed.encoder.tensors[key], tensor), key

    saved = torch.load(tmp_path / "20.ckpt", weights_only=True)
    assert saved["stylezoo"]["encoders"] == {"teacher": {"name": THIN, "sha256": VGG(THIN).sha256}}
    assert all(key.startswith("encoder.") for key in saved["state_dict"])
    loaded = VGG("vgg19_slim", str(tmp_path / "20.ckpt"))
    for key, tensor in resumed.encoder.tensors.items():
        assert torch.equal(loaded.tensors[key], tensor), key


def test_recipe(pictures: Path, tmp_path: Path) -> None:
    """fit, resume and validate through the command line; another system trains on the checkpoint."""
    sides = [f"--data.{side}{rest}" for side in ("content", "style") for rest in ("=Folder", f".root={pictures}")]
    common = [*sides, "--data.size=40", "--data.crop=32", "--data.batch_size=2", "--data.num_workers=0"]
    common += ["--trainer.accelerator=cpu", f"--trainer.logger.save_dir={tmp_path}", "--trainer.log_every_n_steps=1"]
    recipe = [f"--config={ROOT / 'experiments' / 'slim_encoder.yaml'}", *common, f"--model.teacher={THIN}"]
    recipe += ["--model.widths=[4,8,16,32,16]", "--model.crops=8", "--trainer.val_check_interval=1"]
    main(["fit", *recipe, "--trainer.max_steps=2"])
    checkpoint = tmp_path / "slim_encoder" / "version_0" / "checkpoints" / "last.ckpt"
    main(["fit", *recipe, "--trainer.max_steps=3", f"--ckpt_path={checkpoint}"])
    main(["validate", *recipe, f"--ckpt_path={checkpoint}"])
    rows = list(csv.DictReader((tmp_path / "slim_encoder" / "version_1" / "metrics.csv").open()))
    assert sum(bool(row["train/relu5_1"]) for row in rows) == 1 and "val/gram" in rows[0]

    files = ["--model.encoder=vgg19_slim", f"--model.encoder_weights={checkpoint}", "--images.every_n_steps=0"]
    main(["fit", f"--config={ROOT / 'experiments' / 'adain.yaml'}", *common, *files, "--trainer.max_steps=1"])
    loaded = stylezoo.load_model(tmp_path / "adain" / "version_0" / "checkpoints" / "last.ckpt")
    assert loaded.encoder.sha256 == VGG("vgg19_slim", str(checkpoint), last="relu4_1").sha256


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("preconditioned", [True, False])
def test_steps_of_preconditioned_adam(preconditioned: bool, bias: bool) -> None:
    """Written out in the coordinates of decorrelated inputs; without preconditioner it is torch's Adam."""
    torch.manual_seed(0)
    images, target = torch.rand(4, 3, 24, 24) + torch.rand(4, 3, 1, 1), torch.rand(4, 4, 576)
    encoder = VGG("vgg19_slim", untrained_weights((4, 4, 4, 4, 4), {"relu1_1": 6}))
    prepared = encoder.preprocess(images)
    inputs = F.unfold(F.pad(prepared, (1, 1, 1, 1), mode="reflect"), 3)
    inputs = torch.cat([inputs, torch.ones(4, 1, 576)], 1)  # (4, 28, 576)
    transform = preconditioners(encoder, images, positions=576, damping=1e-6)[0] if preconditioned else torch.eye(28)
    moments = torch.einsum("bip,bjp->ij", transform @ inputs, transform @ inputs) / (4 * 576)
    assert torch.allclose(moments, torch.eye(28), atol=1e-2) == preconditioned

    conv = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=bias)
    constant = torch.zeros(4) if conv.bias is None else conv.bias.detach()
    weight = torch.column_stack([conv.weight.detach().flatten(1), constant])
    used = torch.tensor([1.0] * 27 + [float(bias)]).double()[:, None]
    reference = (weight.double() @ torch.linalg.inv(transform.double())).requires_grad_()
    theirs = torch.optim.Adam([reference], lr=0.01 / 28**0.5, betas=(0.9, 0.99))
    ours = PreconditionedAdamOptimizer([conv], [transform if preconditioned else None], lr=0.01)
    for _ in range(5):
        expected = reference @ transform.double() @ (inputs * used)
        torch.testing.assert_close(conv(prepared).flatten(2), expected.float(), rtol=1e-3, atol=1e-3)
        for optimizer, output in ((ours, conv(prepared).flatten(2)), (theirs, expected)):
            optimizer.zero_grad()
            F.mse_loss(output, target.to(output)).backward()
            optimizer.step()
    assert not torch.allclose(conv(prepared).flatten(2), (weight @ inputs), atol=0.01)
