"""The perceptual component: every flavor against an independent network, every file layout, every refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import Case, shared
from safetensors.torch import save_file
from torch import Tensor, nn

import stylezoo
from stylezoo import vgg, weights
from stylezoo.errors import MissingFileError
from stylezoo.vgg import VGG, canonical, conv_names

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
BGR_MEAN = torch.tensor([103.939, 116.779, 123.68])


@pytest.fixture(scope="module")
def reference() -> dict[int, nn.Module]:
    torch.manual_seed(0)
    return {16: torchvision.models.vgg16().features.eval(), 19: torchvision.models.vgg19().features.eval()}


def to_file(module: nn.Module, path: Path) -> str:
    torch.save(
        {f"features.{k}": v for k, v in module.state_dict().items()} | {"classifier.0.weight": torch.ones(2)}, path
    )
    return str(path)


def named_activations(layers: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Counts convolutions and pools of torchvision's Sequential to name what comes out of it."""
    found, block, index, x = {}, 1, 0, image
    for layer in layers:
        x = nn.functional.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        if isinstance(layer, nn.MaxPool2d):
            block, index = block + 1, 0
        elif isinstance(layer, nn.Conv2d):
            index += 1
            found[f"conv{block}_{index}"] = x
        else:
            found[f"relu{block}_{index}"] = x
    return found


@pytest.mark.parametrize("depth", [16, 19])
@pytest.mark.parametrize("flavor", ["torchvision", "caffe"])
def test_zero_padded_flavors(reference: dict[int, nn.Module], tmp_path: Path, flavor: str, depth: int) -> None:
    image = torch.rand(2, 3, 41, 52)
    if flavor == "torchvision":
        prepared = (image - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    else:
        prepared = image.flip(1) * 255 - BGR_MEAN.view(3, 1, 1)
    expected = named_activations(reference[depth], prepared)
    net = VGG(f"vgg{depth}_{flavor}", to_file(reference[depth], tmp_path / "vgg.pth"))
    names = [n for n in expected if n.startswith(("relu", "conv4"))]
    features = net(image, names)
    assert list(features) == sorted(names, key=lambda n: (n[4:], n[:4]))
    for name in names:
        torch.testing.assert_close(
            features[name], expected[name], rtol=1e-4, atol=1e-4 * float(expected[name].detach().abs().max())
        )


def test_normalized_flavor(tmp_path: Path) -> None:
    """Written out as the public file's nn.Sequential: 1x1 convolution, reflection pads, pools that round up."""
    torch.manual_seed(1)
    modules: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    channels, last = 3, 0
    for name in conv_names(19):
        if name.endswith("_1") and name != "conv1_1":
            modules.append(nn.MaxPool2d(2, ceil_mode=True))
        width = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}[int(name[4])]
        modules += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
        channels, last = width, len(modules)
    net = nn.Sequential(*modules)
    assert last == 53
    torch.save(net.state_dict(), tmp_path / "vgg_normalised.pth")
    image = torch.rand(1, 3, 37, 50)
    features = VGG("vgg19_normalised", str(tmp_path / "vgg_normalised.pth"))(image, ["relu3_1", "relu4_1", "relu5_1"])
    for name, stop in (("relu3_1", 18), ("relu4_1", 31), ("relu5_1", 44)):
        torch.testing.assert_close(features[name], net[:stop](image))
    assert features["relu4_1"].shape[-2:] == (5, 7)


def test_random_flavor_is_the_same_on_every_machine() -> None:
    net = VGG("vgg19_random/8", last="relu4_1")
    assert net.sha256 == "06e0af544721f2018886cff942050d8e6322fcf9785c5e6ef7a099b6769a4a6c"
    assert net.channels["relu4_1"] == 64
    means = net(torch.rand(1, 3, 64, 64), ["relu2_1", "relu4_1"])
    assert all(0.1 < float(f.mean()) < 10 for f in means.values())


def test_layouts_are_one_network(tmp_path: Path) -> None:
    """The same numbers in five layouts give the same features and the same sha256."""
    own = VGG("vgg19_random/8").tensors
    names = conv_names(19)
    positions = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    sequential = [2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51]
    renamings = {
        "features": {f"features.{i}": n for i, n in zip(positions, names, strict=True)},
        "sequential": {str(i): n for i, n in zip(sequential, names, strict=True)} | {"0": "preprocess"},
        "numbered": {f"conv{i + 2}": n for i, n in enumerate(names)} | {"conv1": "preprocess"},
        "named": {n: n for n in names},
        "encoder": {f"encoder.{n}": n for n in [*names, "preprocess"]},
    }
    hashes = set()
    for layout, renaming in renamings.items():
        tensors = {f"{k}.{kind}": own[f"{n}.{kind}"] for k, n in renaming.items() for kind in ("weight", "bias")}
        file = tmp_path / f"{layout}.safetensors"
        save_file(tensors, file)
        hashes.add(VGG("vgg19_random/8", str(file)).sha256)
        assert canonical(tensors, 19).keys() >= {f"{n}.weight" for n in names}
    assert len(hashes) == 1
    assert canonical({"1.weight": torch.ones(1), "5.weight": torch.ones(1)}, 19) == {}


def test_files_may_stop_early(reference: dict[int, nn.Module], tmp_path: Path) -> None:
    path = to_file(reference[19][:20], tmp_path / "to_relu4_1.pth")
    net = VGG("vgg19_torchvision", path)
    assert list(net.channels)[-1] == "relu4_1"
    assert net(torch.rand(1, 3, 32, 32), ["relu4_1"])["relu4_1"].shape == (1, 512, 4, 4)
    with pytest.raises(ValueError, match=r"has no relu5_1 here.*give a file that reaches deeper"):
        net(torch.rand(1, 3, 32, 32), ["relu5_1"])
    with pytest.raises(ValueError, match=r"stop at relu4_1, relu5_1 is needed"):
        VGG("vgg19_torchvision", path, last="relu5_1")


def test_only_the_layers_asked_for_are_built() -> None:
    assert list(VGG("vgg19_random/8", last="relu3_1").channels)[-1] == "relu3_1"
    assert sum(p.numel() for p in VGG("vgg19_random", last="relu3_1").parameters()) == 555_340


@pytest.mark.parametrize(
    "name", ["vgg13_caffe", "vgg19", "vgg19_caffe/4", "vgg19_random/3", "vgg19_random/0", "resnet"]
)
def test_unknown_encoders(name: str) -> None:
    with pytest.raises(ValueError, match="There is no encoder"):
        VGG(name)


def test_unknown_layer() -> None:
    with pytest.raises(ValueError, match="There is no VGG layer 'relu9_1'"):
        VGG("vgg19_random/8")(torch.rand(1, 3, 32, 32), ["relu9_1"])


@pytest.mark.parametrize("name", sorted(name for name, file in weights.table().encoders.items() if file.file is None))
def test_missing_files_say_how_to_get_them(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"(?s)python -m stylezoo download {name}.*encoder_weights.*quickstart"):
        VGG(name)


def test_wrong_files(tmp_path: Path, reference: dict[int, nn.Module]) -> None:
    reference = copy.deepcopy(reference)
    (tmp_path / "not.pth").write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        VGG("vgg19_caffe", str(tmp_path / "not.pth"))
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no VGG weights"):
        VGG("vgg19_caffe", str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="stop at relu3_3, relu4_1 is needed"):
        VGG("vgg19_caffe", to_file(reference[16], tmp_path / "vgg16.pth"), last="relu4_1")
    reference[16][5] = nn.Conv2d(32, 128, 3)
    with pytest.raises(ValueError, match="conv2_1 .* these are not VGG-16 weights"):
        VGG("vgg16_caffe", to_file(reference[16], tmp_path / "odd.pth"))


def test_torchvision_weights_are_those_of_its_folder(
    reference: dict[int, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file in torch.hub's folder is the one that is loaded; a download goes there, with the hash of its name."""
    file = weights.table().encoders["vgg16_torchvision"]
    asked = []
    monkeypatch.setattr(weights, "fetch", lambda url, path, sha256: asked.append((url, path, sha256)))
    weights.download("vgg16_torchvision")
    url = "https://download.pytorch.org/models/vgg16-397923af.pth"
    assert asked == [(url, file.path, "397923af")] and file.path.parent == Path(torch.hub.get_dir(), "checkpoints")
    file.path.parent.mkdir(parents=True, exist_ok=True)
    to_file(reference[16], file.path)
    net = VGG("vgg16_torchvision", last="relu1_2")
    torch.testing.assert_close(net.tensors["conv1_1.weight"], reference[16][0].weight)


def test_a_missing_file_is_asked_for_by_the_setting_that_names_it() -> None:
    with pytest.raises(MissingFileError, match=r"\(encoder_weights=\.\.\.; .* in evaluate and reproduce\)"):
        VGG("vgg19_caffe")
    with pytest.raises(
        MissingFileError, match=r"\(loss_encoder_weights=\.\.\.; --model\.loss_encoder_weights PATH in fit\)"
    ):
        VGG("vgg19_caffe", option="loss_encoder_weights")


def test_always_eval_and_frozen() -> None:
    net = VGG("vgg19_random/8").train()
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    net(image, ["relu4_1"])["relu4_1"].sum().backward()
    assert image.grad is not None and float(image.grad.abs().sum()) > 0


def test_pooling_and_padding_can_be_chosen() -> None:
    image = torch.rand(1, 3, 35, 35)
    features = {}
    for pooling in ("max", "avg"):
        for ceil_mode in (True, False):
            net = VGG("vgg19_random/8", last="relu2_1", pooling=pooling, ceil_mode=ceil_mode)
            features[pooling, ceil_mode] = net(image, ["relu2_1"])["relu2_1"]
            assert features[pooling, ceil_mode].shape[-1] == (18 if ceil_mode else 17)
    assert not torch.equal(features["max", False], features["avg", False])
    zeros = VGG("vgg19_random/8", last="relu1_1", padding="zeros")(image, ["relu1_1"])["relu1_1"]
    reflect = VGG("vgg19_random/8", last="relu1_1")(image, ["relu1_1"])["relu1_1"]
    torch.testing.assert_close(zeros[..., 1:-1, 1:-1], reflect[..., 1:-1, 1:-1])
    assert not torch.equal(zeros[..., 0, :], reflect[..., 0, :])


@pytest.mark.parametrize("size", [16, 17, 31, 40])
def test_padding_of_sizes_that_do_not_fit(size: int, tmp_path: Path, reference: dict[int, nn.Module]) -> None:
    image = torch.rand(1, 3, size, 50)
    ceil = VGG("vgg19_random/8")
    assert ceil(ceil.pad(image, "relu5_1"), ["relu5_1"])["relu5_1"].shape[-1] == 4
    assert ceil.pad(image, "relu4_1") is image
    floor = VGG("vgg19_torchvision", to_file(reference[19], tmp_path / "vgg.pth"), last="relu4_1")
    padded = floor.pad(image, "relu4_1")
    assert padded.shape[-2] == -(-size // 8) * 8 and padded.shape[-1] == 56
    torch.testing.assert_close(padded[..., :size, :50], image)


def test_public_files(parity: Callable[[str], Case]) -> None:
    """The trained networks that lie beside the repository load, and agree on what an image holds."""
    image = torch.rand(1, 3, 64, 64).cumsum(-1) / 64
    normalized = VGG("vgg19_normalised", str(shared("weights/vgg_normalised_to_relu4_1.pth")), last="relu4_1")
    caffe = VGG("vgg19_caffe", str(shared("weights/vgg19_caffe_bgr255_to_relu4_1.pth")))
    vgg16 = VGG("vgg16_caffe", str(shared("weights/vgg16_caffe_bgr255_to_relu3_3.pth")))
    assert list(vgg16.channels)[-1] == "relu3_3"
    assert sum(p.numel() for p in normalized.parameters()) == 3_505_740
    # The normalized network is the Oxford one re-scaled per filter: away from borders the maps are proportional.
    a, b = (net(image, ["relu2_1"])["relu2_1"][0, :, 8:-8, 8:-8].flatten(1) for net in (normalized, caffe))
    alive = (a.std(1) > 1e-3) & (b.std(1) > 1e-3)
    correlations = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a[alive], b[alive], strict=True)]
    )
    assert float(correlations.median()) > 0.99


def test_flavor_table_is_complete() -> None:
    assert set(vgg.FLAVORS) == {"torchvision", "normalised", "caffe", "random", "slim", "thin"}


def test_no_layers_take_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    vgg = VGG("vgg19_random/8")
    monkeypatch.setattr(vgg, "_forward", lambda *_: pytest.fail("a pass for nothing"))
    assert vgg(torch.rand(1, 3, 32, 32), []) == {}


def test_a_thin_encoder_is_the_slim_one_without_its_maps() -> None:
    slim, thin = VGG("vgg19_slim", last="relu4_1"), VGG("vgg19_thin", last="relu4_1")
    assert thin.channels["relu4_1"] == slim.channels["relu4_1"] // 2
    image = torch.rand(1, 3, 32, 40)
    features = thin(image, ["relu3_1", "conv4_1"])
    assert features["relu3_1"].shape == (1, 128, 8, 10)
    mapped = torch.relu(slim.maps["conv3_1"](features["relu3_1"]))
    torch.testing.assert_close(mapped, slim(image, ["relu3_1"])["relu3_1"])
    assert thin.continued(features["relu3_1"], "relu3_1", ["conv4_1"])["conv4_1"].equal(features["conv4_1"])


@pytest.mark.parametrize(
    "name", ["adain", "efdm", "linear_transfer", "multi_level_adain", "multi_level_attention", "sanet"]
)
def test_systems_work_with_the_thin_encoder(name: str) -> None:
    """Also those that add features of relu4_1 and relu5_1, whose numbers of channels differ."""
    torch.manual_seed(0)
    model = stylezoo.create_model(name, encoder="vgg19_thin")
    content, style = torch.rand(1, 3, 72, 88), torch.rand(1, 3, 64, 64)
    assert model(content, style).shape == content.shape
    wide = stylezoo.create_model(name, encoder="vgg19_slim")
    trained = [sum(p.numel() for p in each.parameters() if p.requires_grad) for each in (model, wide)]
    assert trained[0] < (0.3 if name != "linear_transfer" else 0.9) * trained[1]
