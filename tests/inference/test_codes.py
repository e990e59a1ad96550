"""Banks of style codes: what is written is what is read, for the model that it belongs to; and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import thin_model
from safetensors.torch import save_file
from torch import Tensor

import stylezoo
from stylezoo import cli
from stylezoo.checkpoints import save_model
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.images import read_image, write_image
from stylezoo.inference import Stylizer, load_codes, save_codes
from stylezoo.inference.banks import read_card
from stylezoo.module import StyleCode, StyleModel

GENERATOR = torch.Generator().manual_seed(0)
CONTENT, FIRST, SECOND = torch.rand(3, 3, 40, 48, generator=GENERATOR).unbind()


@pytest.fixture(scope="module")
def adain() -> StyleModel:
    return thin_model("adain").eval()


@pytest.fixture
def codes(adain: StyleModel) -> dict[str, StyleCode]:
    with torch.inference_mode():
        return {"first": adain.encode_style(FIRST[None]), "zwei Wellen": adain.encode_style(SECOND[None])}


@pytest.fixture
def bank(adain: StyleModel, codes: dict[str, StyleCode], tmp_path: Path) -> Path:
    save_codes(tmp_path / "styles.safetensors", codes, adain)
    return tmp_path / "styles.safetensors"


def test_a_bank_gives_back_what_was_saved(adain: StyleModel, codes: dict[str, StyleCode], bank: Path) -> None:
    loaded = load_codes(bank, adain)
    assert list(loaded) == list(codes)
    assert all(torch.equal(loaded[name][key], tensor) for name, code in codes.items() for key, tensor in code.items())
    assert list(load_codes(bank, adain, ["zwei Wellen"])) == ["zwei Wellen"]
    assert bank.stat().st_size < 3000


@pytest.mark.parametrize("name", ["sanet", "efdm", "microast"])
def test_codes_of_other_systems(name: str, tmp_path: Path) -> None:
    model = thin_model(name).eval()
    with torch.inference_mode():
        code = model.encode_style(FIRST[None])
    save_codes(tmp_path / "styles.safetensors", {"first": code}, model)
    loaded = load_codes(tmp_path / "styles.safetensors", model)["first"]
    outputs = [Stylizer(model, [style], engine="eager")(CONTENT[None]) for style in (FIRST, loaded)]
    torch.testing.assert_close(*outputs)


def test_stylizers_take_codes_beside_images(adain: StyleModel, codes: dict[str, StyleCode], bank: Path) -> None:
    expected = Stylizer(adain, [FIRST, SECOND], style_weights=[1, 3])(CONTENT[None])
    styles: list[Any] = [codes["first"], SECOND]
    torch.testing.assert_close(Stylizer(adain, styles, style_weights=[1, 3])(CONTENT[None]), expected)
    image = stylezoo.stylize(CONTENT, f"{bank}:first", adain)
    assert np.array_equal(np.asarray(image), np.asarray(stylezoo.stylize(CONTENT, FIRST, adain)))
    with pytest.raises(StylezooError, match=r"holds 2 styles: name one of them, such as .*:first"):
        stylezoo.stylize(CONTENT, bank, adain)
    with pytest.raises(StylezooError, match="encoded already"):
        Stylizer(adain, styles, preserve_color="coral")


def test_codes_belong_to_weights(adain: StyleModel, bank: Path, tmp_path: Path) -> None:
    load_codes(bank, thin_model("adain").eval())  # the same weights again
    other = thin_model("adain").eval()
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1e-3)  # type: ignore[operator, union-attr]
    with pytest.raises(StylezooError, match="holds styles that adain has encoded, with other weights"):
        load_codes(bank, other)
    with pytest.raises(StylezooError, match="encode them with this model"):
        load_codes(bank, thin_model("sanet").eval())


def test_names_and_numbers_are_checked(adain: StyleModel, codes: dict[str, StyleCode], tmp_path: Path) -> None:
    path = tmp_path / "styles.safetensors"
    for name in ("", "a/b", "..", "a\\b"):
        with pytest.raises(StylezooError, match="cannot be called"):
            save_codes(path, {name: codes["first"]}, adain)
    with pytest.raises(StylezooError, match="at least one"):
        save_codes(path, {}, adain)
    with pytest.raises(StylezooError, match=r"ends in \.safetensors"):
        save_codes(tmp_path / "styles.pt", codes, adain)
    broken = {"first": {key: tensor * torch.nan for key, tensor in codes["first"].items()}}
    with pytest.raises(StylezooError, match="NaN"):
        save_codes(path, broken, adain)
    assert not list(tmp_path.iterdir())


def rewritten(bank: Path, card: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Path:
    """A bank with another card, and other tensors."""
    target = bank.with_name("other.safetensors")
    save_file(tensors or {"0.mean": torch.zeros(1)}, target, {"stylezoo": json.dumps({**read_card(bank), **card})})
    return target


def test_damaged_banks_are_told_in_one_sentence(adain: StyleModel, bank: Path, tmp_path: Path) -> None:
    for styles in (["../x"], [], ["a", "a"], "a", None):
        with pytest.raises(StylezooError, match="damaged"):
            load_codes(rewritten(bank, {"styles": styles}), adain)
    with pytest.raises(StylezooError, match="no numbers for the style zwei Wellen"):
        load_codes(rewritten(bank, {}), adain)
    with pytest.raises(StylezooError, match="NaN"):
        load_codes(rewritten(bank, {"styles": ["a"]}, {"0.mean": torch.full((1,), torch.nan)}), adain)
    save_model(adain, tmp_path / "model.safetensors")
    with pytest.raises(StylezooError, match="holds no style codes \\(it is a model\\)"):
        load_codes(tmp_path / "model.safetensors", adain)
    bank.write_bytes(bank.read_bytes()[:100])
    with pytest.raises(StylezooError, match="cannot be read"):
        load_codes(bank, adain)
    with pytest.raises(MissingFileError):
        load_codes(tmp_path / "none.safetensors", adain)


def test_the_command_line_encodes_and_uses_banks(
    adain: StyleModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(adain, tmp_path / "model.safetensors")
    model = str(tmp_path / "model.safetensors")
    for folder, image in (("a", FIRST), ("b", SECOND)):
        write_image(image, tmp_path / folder / "waves.png")
    write_image(CONTENT, tmp_path / "photo.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    bank = str(tmp_path / "styles.safetensors")
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode-style", "--model", model, "--style", f"{tmp_path}/a", f"{tmp_path}/b", "--output", bank])
    captured = capsys.readouterr()
    assert stop.value.code == 1 and "2 styles of model, 1 failed" in captured.out and "broken.png" in captured.err
    assert read_card(bank)["styles"] == ["waves", "waves_2"]

    photo, output = str(tmp_path / "photo.png"), tmp_path / "output"
    cli.main(["stylize", "--model", model, "--content", photo, "--style", bank, "--output", str(output)])
    names = ["photo_stylized_waves.png", "photo_stylized_waves_2.png"]
    assert sorted(path.name for path in output.iterdir()) == names
    single = str(tmp_path / "single.png")
    cli.main(["stylize", "--model", model, "--content", photo, "--style", f"{bank}:waves_2", "--output", single])
    assert np.array_equal(np.asarray(read_image(single)), np.asarray(read_image(output / names[1])))
    (tmp_path / "pairs.csv").write_text("content,style\nphoto.png,styles.safetensors:waves\n", encoding="utf-8")
    pairs = tmp_path / "of_pairs"
    cli.main(["stylize", "--model", model, "--pairs", str(tmp_path / "pairs.csv"), "--output", str(pairs)])
    assert np.array_equal(np.asarray(read_image(pairs / names[0])), np.asarray(read_image(output / names[0])))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stylize", "--content", "{photo}", "--style", "{bank}:third", "--output", "x.png"], "has no style 'third'"),
        (
            ["stylize", "--content", "{photo}", "--style", "{photo}.safetensors", "--output", "x.png"],
            "There is no file",
        ),
        (["encode-style", "--style", "{photo}", "--output", "x.png"], "ends in .safetensors"),
        (
            ["encode-style", "--style", "{photo}", "--output", "{bank}", "--engine", "fast"],
            "--engine must be auto, eager",
        ),
    ],
)
def test_mistakes_are_told(
    words: list[str], message: str, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(CONTENT, tmp_path / "photo.png")
    places = {"photo": str(tmp_path / "photo.png"), "bank": str(bank)}
    before = bank.read_bytes()
    with pytest.raises(SystemExit):
        cli.main([*(word.format(**places) for word in words), "--model", "adain.slim"])
    assert message in capsys.readouterr().err and bank.read_bytes() == before


def test_systems_with_styles_of_their_own_encode_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Path
) -> None:
    words = ["--style", f"{pictures}/00.png", "--output", str(tmp_path / "styles.safetensors")]
    with pytest.raises(SystemExit):
        cli.main(["encode-style", "--model", "johnson.minotaur", *words])
    assert "johnson has its own styles" in capsys.readouterr().err and not list(tmp_path.iterdir())
