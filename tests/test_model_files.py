"""Files of weights that are wrong in every way: one sentence that says what the file is, or which tensor does not fit."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, THIN, load_module, shared, thin_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import stylezoo
from stylezoo import checkpoints, encoder_check, weights
from stylezoo.checkpoints import check_resumable, take_weights
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.tensor_files import read_metadata, read_tensors
from stylezoo.vgg import VGG, random_weights

STATE = {"1.weight": torch.ones(2, 3), "1.bias": torch.zeros(2)}


def sentence(function: Callable[[], object]) -> str:
    """The message of the StylezooError that a call raises."""
    with pytest.raises(StylezooError) as info:
        function()
    message = str(info.value)
    assert "\n" not in message and "\x1b" not in message and "weights_only=False" not in message
    return message


# Reading


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "stored",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"net": {"module." + key: tensor for key, tensor in STATE.items()}},
        {"model_state_dict": STATE},
        {"generator": STATE, "discriminator": {"x": torch.ones(1)}},
        {"params": {"1.weight": torch.ones(9)}, "params_ema": STATE},
        {"model": {"state_dict": STATE}},
        {"model_ema": STATE},
        {"state_dict": {"model._orig_mod." + key: tensor for key, tensor in STATE.items()}},
        {"_orig_mod.module.net." + key: tensor for key, tensor in STATE.items()},
        {
            "state_dict": STATE,
            "args": argparse.Namespace(lr=1.0, path=Path("/x"), nested=argparse.Namespace()),
            "best": np.float64(3.0),
            "history": np.zeros(3),
            "kind": np.dtype("f4"),
        },
        {"1": {"weight": STATE["1.weight"], "bias": STATE["1.bias"]}, "optimizer": {"state": {0: {}}}},
    ],
)
def test_wrappers_and_prefixes(stored: dict[str, Any], zipped: bool, tmp_path: Path) -> None:
    """Whatever training scripts put around the weights is left out."""
    torch.save(stored, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tensors = read_tensors(tmp_path / "x.pth")
    assert tensors.keys() == STATE.keys() and all(torch.equal(tensors[key], STATE[key]) for key in STATE)


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name, harmful in {
        "posix.system": Calls(os.system, f"touch {trace}"),
        "builtins.eval": Calls(eval, f"open({str(trace)!r}, 'w')"),
        "shutil.copy": Calls(shutil.copy, "/etc/hostname", str(trace)),
    }.items():
        torch.save({**STATE, "x": harmful}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        assert f"would run code if it were loaded ({name})" in sentence(lambda: read_tensors(tmp_path / "x.pth"))
    torch.save({**STATE, "x": Calls(Path.touch, trace)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with contextlib.suppress(
        StylezooError
    ):  # what torch cannot do without calling is an error, what it can is the weights
        assert read_tensors(tmp_path / "x.pth").keys() == STATE.keys()
    assert not trace.exists()


def test_files_of_other_kinds_are_called_by_their_names(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.add(tmp_path / "zip", "zip")
    torch.save(STATE, tmp_path / "whole.pth")
    kinds = {
        "an HTML page": b"\n<!DOCTYPE html><html>",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "an empty file": b"",
        "a tar archive": (tmp_path / "tar").read_bytes(),
        "an ONNX file": b"\x08\x07\x12\x07pytorch\x1a\x032.0",
        "an HDF5 file, such as Keras writes": b"\x89HDF\r\n\x1a\n",
        "a TensorFlow Lite file": b"\x1c\x00\x00\x00TFL3",
        "a Torch7 file of Lua": b"\x04\x00\x00\x00\x01\x00\x00\x00",
        "a JPEG image": b"\xff\xd8\xff\xe0",
        "a gzip file": b"\x1f\x8b\x08",
        "damaged, cut off, or another kind of file": b"\x00" * 64,
    }
    for said, content in kinds.items():
        for suffix in (".pth", ".safetensors", ".npz"):
            path = tmp_path / f"x{suffix}"
            path.write_bytes(content)
            assert f"it is {said}" in sentence(lambda path=path: read_tensors(path)), suffix
    whole = (tmp_path / "whole.pth").read_bytes()
    for content in (whole[:-30], whole[:200], (tmp_path / "zip").read_bytes()):
        (tmp_path / "x.pth").write_bytes(content)
        assert "it is damaged, cut off, or another" in sentence(lambda: read_tensors(tmp_path / "x.pth"))
    (tmp_path / "model.ckpt.index").write_bytes(b"\x00\x00")
    assert "it is a TensorFlow file" in sentence(lambda: read_tensors(tmp_path / "model.ckpt.index"))


def test_what_is_no_file(tmp_path: Path) -> None:
    """Pipes do not block, in any function that takes a file."""
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / "pipe.ckpt")
    for read in (read_tensors, read_metadata, stylezoo.load_model, weights.encoder_tensors):
        arguments = ("vgg19_caffe",) if read is weights.encoder_tensors else ()
        for name, words in (("folder", "is a folder, not a file"), ("pipe", "is not a regular file")):
            assert words in sentence(lambda: read(*arguments, str(tmp_path / f"{name}.safetensors")))  # noqa: B023
        with pytest.raises(MissingFileError, match="There is no"):
            read(*arguments, str(tmp_path / "none.safetensors"))
    assert "is not a regular file" in sentence(lambda: stylezoo.load_model(tmp_path / "pipe.ckpt"))
    assert "is a folder: name a model file" in sentence(lambda: stylezoo.load_model(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float, tmp_path: Path) -> None:
    broken = {**STATE, "1.bias": torch.tensor([0.0, value])}
    torch.save(broken, tmp_path / "x.pth")
    save_file(broken, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{key: tensor.numpy() for key, tensor in broken.items()})
    for suffix in ("pth", "safetensors", "npz"):
        assert "holds NaN or infinite numbers in 1.bias" in sentence(
            lambda suffix=suffix: read_tensors(tmp_path / f"x.{suffix}")
        )
    model = thin_model("adain")
    with torch.no_grad():
        model.decoder[1].bias[0] = value
    assert "NaN or infinite numbers in decoder" in sentence(
        lambda: stylezoo.save_model(model, tmp_path / "m.safetensors")
    )
    assert not (tmp_path / "m.safetensors").exists()


def test_a_compressed_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylezoo.tensor_files.HARMLESS", 1_000_000)
    np.savez_compressed(tmp_path / "x.npz", weight=np.zeros(2_000_000))
    assert "would unpack to" in sentence(lambda: read_tensors(tmp_path / "x.npz"))


# Models


@pytest.fixture(scope="module")
def johnson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "johnson.safetensors"
    stylezoo.save_model(thin_model("johnson"), path)
    return path


def changed(source: Path, target: Path, tensors: dict[str, Tensor] | None = None, drop: str = "", **card: Any) -> Path:
    """A copy of a model file with other tensors and metadata."""
    about = {**read_metadata(source), **card}
    kept = {key: tensor for key, tensor in load_file(source).items() if key != drop}
    save_file({**kept, **(tensors or {})}, target, {"stylezoo": json.dumps(about)})
    return target


KEY = "transformer.contract.0.conv.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drop": KEY}, f"does not fit johnson: {KEY} is missing"),
        ({"tensors": {"more.weight": torch.ones(1)}}, "does not fit johnson: more.weight is not expected"),
        ({"tensors": {KEY: torch.ones(2, 2)}}, rf"{KEY} has the shape \(2, 2\) instead of \(8, 3, 9, 9\)"),
        ({"tensors": {KEY: torch.ones(8, 3, 9, 9, dtype=torch.int64)}}, f"{KEY} holds numbers of the type int64"),
        ({"tensors": {KEY: torch.full((8, 3, 9, 9), torch.nan)}}, f"NaN or infinite numbers in {KEY}"),
        ({"system": "nonesuch"}, "a model of the system 'nonesuch', which this zoo does not have"),
        ({"system": None}, "does not say which system it holds"),
        ({"settings": ["width"]}, "does not say which system it holds"),
        ({"encoders": 3}, "does not say which system it holds"),
        ({"encoders": {"encoder": {}}}, "does not say which system it holds"),
        ({"format": "other"}, "was not written by stylezoo"),
        ({"settings": {"widht": 0.25}}, "johnson has no setting 'widht' .*did you mean 'width'"),
        ({"settings": {"width": "wide"}}, "width of johnson must be float, got 'wide'"),
        ({"settings": {"lr": "fast"}}, "lr of johnson must be float, got 'fast'"),
        ({"settings": {"style_layers": {"relu1_2": "x"}}}, "style_layers of johnson must be dict"),
        ({"settings": {"width": -1}}, "johnson cannot be built with the settings of"),
        ({"settings": {}}, "does not fit johnson: .* has the shape"),
    ],
)
def test_models_that_are_damaged(change: dict[str, Any], words: str, johnson: Path, tmp_path: Path) -> None:
    path = changed(johnson, tmp_path / "x.safetensors", **change)
    for function in (stylezoo.load_model, lambda path: take_weights(thin_model("johnson"), path)):
        with pytest.raises(StylezooError, match=words) as info:
            function(path)
        assert "\n" not in str(info.value)


def test_metadata_that_is_damaged(tmp_path: Path) -> None:
    for text in ("{", "[1]", "3", "[" * 100_000):
        save_file(STATE, tmp_path / "x.safetensors", {"stylezoo": text})
        assert "The metadata of" in sentence(lambda: read_metadata(tmp_path / "x.safetensors"))
        assert "The metadata of" in sentence(lambda: stylezoo.load_model(tmp_path / "x.safetensors"))


def test_settings_that_do_not_exist_are_named() -> None:
    assert "no setting 'encodr' (create_model): did you mean 'encoder'?" in sentence(
        lambda: stylezoo.create_model("adain", encodr=THIN)
    )
    with pytest.warns(DeprecationWarning, match="first_pictures any more, so it has no effect here.*--training.init"):
        stylezoo.create_model("adain", encoder=THIN, first_pictures=3)


def test_names_are_found_however_they_are_spelled() -> None:
    for name in ("AdaIN", "Adain.slim", "ADAIN", "adain.Slim"):
        assert stylezoo.load_model(name).tag == "adain.slim"
    for name in ("MultiLevelAdaIN", "multi-level-adain", "multi level adain"):
        assert stylezoo.registry.get(name).system == "multi_level_adain"
    assert "did you mean 'adain.slim'" in sentence(lambda: stylezoo.load_model("adain.slm"))
    assert "did you mean 'vgg19_normalised'" in sentence(lambda: weights.download("vgg19_normalized"))
    assert "there is nothing to download" in sentence(lambda: weights.download("vgg19_slim"))


def test_the_network_of_the_losses_has_an_option_of_its_own() -> None:
    image = torch.rand(1, 3, 32, 32)
    for name, slim in (("stytr2", False), ("microast", True), ("johnson", False)):
        message = sentence(lambda: thin_model(name, loss_encoder="vgg19_caffe").losses(image, image))  # noqa: B023
        assert "loss_encoder_weights=..." in message and "--model.loss_encoder_weights PATH in fit" in message
        assert slim <= ("loss_encoder='vgg19_slim'" in message)


# Checkpoints


def checkpoint_of(model: stylezoo.StyleModel, path: Path, **changes: Any) -> Path:
    """What Lightning would write, as far as it is looked at."""
    content: dict[str, Any] = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    content |= dict.fromkeys(checkpoints.RESUMED, 0)
    model.on_save_checkpoint(content)
    torch.save({key: value for key, value in {**content, **changes}.items() if value is not None}, path)
    return path


def test_only_checkpoints_of_the_same_model_are_resumed(tmp_path: Path) -> None:
    """A sentence each, before anything is read or built."""
    adain, sanet = thin_model("adain"), thin_model("sanet")
    path = checkpoint_of(adain, tmp_path / "adain.ckpt")
    check_resumable(path, adain)
    check_resumable("last", adain)
    assert stylezoo.load_model(path).system == "adain"
    assert "a checkpoint of adain, but the model is sanet" in sentence(lambda: check_resumable(path, sanet))
    assert "a checkpoint of adain, but the model is efdm" in sentence(lambda: check_resumable(path, thin_model("efdm")))
    stylezoo.save_model(adain, tmp_path / "adain.safetensors")
    torch.save(adain.state_dict(), tmp_path / "adain.pth")
    for name in ("adain.safetensors", "adain.pth"):
        assert "no training checkpoint" in sentence(lambda name=name: check_resumable(tmp_path / name, adain))
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:-3000])
    (tmp_path / "folder.ckpt").mkdir()
    for name, words in (
        ("cut", "cannot be read as a checkpoint"),
        ("folder", "is a folder"),
        ("none", "There is no file"),
    ):
        assert words in sentence(lambda name=name: check_resumable(tmp_path / f"{name}.ckpt", adain))
    for changes, words in (
        ({"optimizer_states": None}, "holds weights alone (optimizer_states is missing)"),
        ({"state_dict": None}, "holds no weights"),
        ({"stylezoo": None}, "is not a checkpoint of stylezoo"),
        ({"stylezoo": 3}, "does not say which system"),
        ({"hyper_parameters": 3}, "does not say which system"),
        ({"state_dict": {**adain.state_dict(), "decoder.1.bias": torch.full((32,), torch.nan)}}, "NaN or infinite"),
        ({"state_dict": {**adain.state_dict(), "decoder.1.bias": torch.ones(3)}}, "decoder.1.bias has the shape (3,)"),
    ):
        broken = checkpoint_of(adain, tmp_path / "x.ckpt", **changes)
        assert words in sentence(lambda broken=broken: check_resumable(broken, adain))
    check_resumable(checkpoint_of(adain, tmp_path / "x.ckpt", optimizer_states=None), adain, training=False)


def test_a_start_has_the_same_encoder(tmp_path: Path) -> None:
    """Its weights mean nothing on another one; the files may end at different layers."""
    stylezoo.save_model(thin_model("adain"), tmp_path / "adain.safetensors")
    assert take_weights(thin_model("sanet"), tmp_path / "adain.safetensors")
    other = random_weights(19, 8, seed=1)
    save_file(other, tmp_path / "other.safetensors")
    model = thin_model("adain", encoder_weights=str(tmp_path / "other.safetensors"))
    assert "were trained on vgg19_random/8 with sha256" in sentence(
        lambda: take_weights(model, tmp_path / "adain.safetensors")
    )
    assert take_weights(model, tmp_path / "adain.safetensors", any_encoder=True)


# Public files


def test_a_part_that_nearly_fits_says_what_is_missing(tmp_path: Path) -> None:
    """And a wrong file is told before a missing encoder."""
    decoder = thin_model("adain").decoder.state_dict()
    for change, words in (
        ({"drop": "28.bias"}, "nearly decoder, but 28.bias is missing"),
        ({"more": "29.bias"}, "nearly decoder, but 29.bias is not expected"),
    ):
        state = {key: tensor for key, tensor in decoder.items() if key != change.get("drop")}
        state |= {"29.bias": torch.ones(1)} if "more" in change else {}
        torch.save(state, tmp_path / "x.pth")
        message = sentence(lambda: stylezoo.import_checkpoint("AdaIN", [tmp_path / "x.pth"], encoder=THIN))
        assert words in message
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "x.pth")
    assert "x.pth fits no part of adain" in sentence(lambda: stylezoo.import_checkpoint("adain", [tmp_path / "x.pth"]))


def test_names_of_files_tell_parts_apart_that_look_alike(tmp_path: Path) -> None:
    model = thin_model("microast")
    files = []
    for part, module in model.named_children():
        if module.state_dict() and part not in dict(model.encoders()):
            files.append(tmp_path / f"{part.replace('_', '-')}_iter.pth")
            torch.save(module.state_dict(), files[-1])
    loaded = stylezoo.import_checkpoint("microast", files)
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
    files[0] = files[0].rename(tmp_path / "a.pth")
    assert "fits content_encoder and style_encoder" in sentence(lambda: stylezoo.import_checkpoint("microast", files))


def wide_vgg(path: Path, change: Callable[[Tensor], Tensor] = lambda weight: weight, preprocess: bool = True) -> Path:
    """A file of two convolutions with the layout of vgg_normalised.pth."""
    state = random_weights(19)
    order = torch.eye(3)[:, :, None, None]
    tensors = {"0.weight": order, "0.bias": torch.ones(3)} if preprocess else {}
    for index, name in ((2, "conv1_1"), (5, "conv1_2")):
        tensors |= {f"{index}.weight": state[f"{name}.weight"], f"{index}.bias": state[f"{name}.bias"]}
    tensors["2.weight"] = change(tensors["2.weight"])
    torch.save(tensors, path)
    return path


def test_encoders_of_another_kind_are_told(tmp_path: Path) -> None:
    def doubt(name: str, path: Path) -> str | None:
        return encoder_check.doubt(VGG(name, str(path)), path)

    sound = wide_vgg(tmp_path / "x.pth")
    assert doubt("vgg19_normalised", sound) is None
    assert "begins with a 1x1 convolution" in str(doubt("vgg19_caffe", sound))
    assert "does not begin with the 1x1" in str(
        doubt("vgg19_normalised", wide_vgg(tmp_path / "x.pth", preprocess=False))
    )
    strong = wide_vgg(tmp_path / "x.pth", lambda weight: 1000 * weight)
    assert "answers images with" in str(doubt("vgg19_normalised", strong))


def test_a_wrong_vgg_is_not_imported(tmp_path: Path) -> None:
    """The original VGG, red and blue swapped, 0-255 as 0-1: refused, unless the user insists."""
    decoder = shared("weights/adain_decoder_8bit.pth")
    normalised = shared("weights/vgg_normalised_to_relu4_1.pth")
    original = shared("weights/vgg19_caffe_bgr255_to_relu4_1.pth")
    tensors = torch.load(normalised, weights_only=True)
    for name, weight in (("bgr", tensors["2.weight"].flip(1)), ("x255", 255 * tensors["2.weight"])):
        torch.save({**tensors, "2.weight": weight}, tmp_path / f"{name}.pth")
    for path, words in (
        (original, "does not begin with the 1x1 convolution"),
        (tmp_path / "bgr.pth", "has red and blue in the other order"),
        (tmp_path / "x255.pth", "answers images with"),
    ):
        message = sentence(lambda path=path: stylezoo.import_checkpoint("adain", [decoder, path]))
        assert words in message and "--any_encoder" in message
    assert stylezoo.import_checkpoint("adain", [decoder, original], any_encoder=True)
    assert stylezoo.import_checkpoint("adain", [decoder, normalised])
    for name, path, words in (
        ("vgg19_caffe", original, None),
        ("vgg19_torchvision", original, "holds the original VGG, which is vgg19_caffe"),
        ("vgg16_caffe", shared("weights/vgg16_caffe_bgr255_to_relu3_3.pth"), None),
    ):
        found = encoder_check.doubt(VGG(name, str(path)), path)
        assert found == words


@pytest.mark.parametrize("name", ["weights", "archives"])
def test_broken_files(name: str) -> None:
    """A little of what `tools/fuzz.py` does for as long as one likes."""
    fuzz = load_module("fuzz", ROOT / "tools" / "fuzz.py")
    count, failure = fuzz.fuzz(fuzz.FUZZERS[name], seconds=2, seed=0)
    assert failure is None and count > 5
