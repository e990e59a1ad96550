"""The commands of the first hour run as they stand, in any folder and without a download; training is cut to two steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import stylezoo
from stylezoo.cli import main
from stylezoo.images import load_image, write_image

SHORT = {
    "fit": [
        *("--trainer.max_steps=2", "--trainer.val_check_interval=2", "--training.optimizer.crops=4"),
        *("--data.size=64", "--data.crop=48"),
    ],
    "train-style": ["--steps=2"],
}
"""Options that are appended to commands that train."""


def commands() -> list[list[str]]:
    """The words of each command of the page, after ``python -m stylezoo``."""
    page = (ROOT / "docs" / "how_to" / "first_hour.md").read_text()
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return [shlex.split(line)[3:] for line in block[1].splitlines()]


@pytest.mark.slow
def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/cat.png", "photos/dog.png", "paintings/waves.png"):
        write_image(torch.rand(3, 64, 80), tmp_path / name)
    lines = commands()
    assert [words[0] for words in lines] == ["stylize", "compare", "evaluate", "train-style", "stylize", "fit", "fit"]
    for words in lines:
        more = SHORT.get(words[0], [])
        if "--ckpt_path" in words:
            more = ["--trainer.max_steps=3", *more[1:]]
        try:
            main([*("64" if word == "512" else word for word in words), *more])
        except SystemExit:
            pytest.fail(f"{words}: {capsys.readouterr().err}")
    said = capsys.readouterr()
    assert "vgg19_normalised is not on this machine: vgg19_slim" in said.err
    assert "has 80 x 64 pixels: an image with 512 or more" in said.err
    assert "All 2 steps are done; --resume with more --steps continues it." in said.out
    assert "smaller than the logging interval" not in said.err
    assert len(list((tmp_path / "stylized").iterdir())) == len(list((tmp_path / "in_my_style").iterdir())) == 2
    assert load_image(tmp_path / "sheet.png").shape[0] == 3 and "| adain |" in Path("measured/summary.md").read_text()
    assert stylezoo.load_model(tmp_path / "my_style.safetensors").styles == ["waves"]
    assert list((tmp_path / "runs" / "fine_tune").glob("version_*/checkpoints/last.ckpt"))
    train = next(words for words in lines if words[0] == "train-style")
    main([*train, "--steps=3", "--resume"])
    assert "current_model_state" not in "".join(capsys.readouterr())
    steps = {
        path.parts[-3]: torch.load(path, weights_only=True)["global_step"]
        for path in Path("runs/my_style").glob("version_*/checkpoints/last.ckpt")
    }
    assert steps == {"version_0": 2, "version_1": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train-style", "none.png", "--output=x.safetensors"], "none.png does not exist"),
        (["train-style", "none.png", "--output=x.png"], "--output is a file that ends in .safetensors, not x.png"),
        (["train-style", "none.png", "--output=x.safetensors", "--minutes=0"], "minutes must be more than 0, not 0"),
        (["train-style", "a", "--output=x.safetensors", "--resume"], "a does not exist"),
        (["train-style", "none.png", "--output=x.safetensors", "--content=none"], "There is no image in none"),
        (["compare", "--content=none.png", "--style=none.png", "--output=x.png"], "none.png does not exist"),
        (["compare", "--content=none.png", "--style=none.png", "--output=x.txt"], "--output is an image file such as"),
        (["compare", "--content=a", "--style=b", "--output=x.png", "--models", "adian"], "did you mean 'adain'"),
        (["compare", "--content=a", "--style=b", "--output=x.png", "--size=0"], "size must be 32 or more, not 0"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main(words)
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_sheet_goes_past_what_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken image and a model that fails are named; the exit code says so."""
    for name in ("a.png", "b.png"):
        write_image(torch.rand(3, 40, 48), tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    out = tmp_path / "sheet.png"
    contents = [str(tmp_path / f"{name}.png") for name in "abc"]
    with pytest.raises(SystemExit, match="1"):
        main(["compare", "--content", *contents, "--style", contents[0], "--output", str(out), "--models", "adain"])
    said = capsys.readouterr()
    assert "c.png" in said.err and "1 models, 2 contents, 1 styles, 1 failed" in said.out and out.is_file()
