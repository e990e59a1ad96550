"""`make results`: current results are kept, changed ones are made anew, and no path of this machine is written."""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT, thin_model

import stylezoo
from stylezoo import weights
from stylezoo.studies.base import command
from stylezoo.vgg import VGG


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/update_results.py, with two studies."""
    spec = importlib.util.spec_from_file_location("results_script", ROOT / "tools" / "update_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.every_plan = module.plan  # type: ignore[attr-defined]
    chosen = ("identity", "stytr2_losses")
    monkeypatch.setattr(
        module, "plan", lambda *args: {k: v for k, v in module.every_plan(*args).items() if k in chosen}
    )
    return module


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tags of models on a machine that has no others."""
    tags = ["adain.one"]
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stylezoo, "list_models", lambda kind, pretrained=False: tags if kind == "arbitrary" else [])
    stylezoo.save_model(thin_model("adain"), weights.folder() / "adain.one.safetensors")
    return tags


@pytest.mark.slow
def test_results(
    script: ModuleType,
    home: list[str],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(dict(VGG("vgg19_random/8").tensors), tmp_path / "vgg_normalised_small.pth")

    def made(*more: str, **changes: Any) -> str:
        options = {"content": pictures, "style": pictures, "weights": tmp_path, "output": tmp_path / "out"}
        options |= {"size": 40, "pairs": 3, **changes}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["results.py", *words, *more])
        before = os.getcwd()
        script.main()
        assert os.getcwd() == before
        return capsys.readouterr().out

    assert "reproduce identity --output results --content photos" in made()
    folder = tmp_path / "out"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {"README.md", "models.csv", "identity.md", "stytr2_losses.png", "evaluation/summary.md"}
    assert "identity.png" not in names  # a sheet of images
    for name in names:
        text = (folder / name).read_bytes()
        assert str(tmp_path).encode() not in text and pictures.parent.name.encode() not in text, name
    index = (folder / "README.md").read_text()
    assert "[identity](identity.md)" in index and "[evaluation](evaluation/summary.md)" in index
    assert "adain.one" in (folder / "evaluation" / "summary.md").read_text()
    stored = {name: (folder / name).stat().st_mtime_ns for name in names if name.endswith((".csv", ".tex"))}

    def remade() -> set[str]:
        again = {name: (folder / name).stat().st_mtime_ns for name in stored}
        changed = {name for name in stored if again[name] != stored[name]}
        stored.update(again)
        return changed

    assert "identity: is there" in made()
    assert remade() <= {"models.csv", "evaluation/summary.csv"}

    home.append("microast.two")  # another model has a part in everything
    stylezoo.save_model(thin_model("microast"), weights.folder() / "microast.two.safetensors")
    assert "--models adain.one microast.two" in made()
    assert remade() >= {"identity.csv", "stytr2_losses.csv"} and "evaluation/adain.one.csv" in stored
    assert "microast.two" in (folder / "evaluation" / "summary.md").read_text()

    stylezoo.save_model(thin_model("microast", content_weight=2.0), weights.folder() / "microast.two.safetensors")
    assert "Made anew: all results of microast.two" in made()  # a name with other weights
    changed = remade()  # of the evaluation only the values of that model
    assert "identity.csv" in changed and "evaluation/adain.one.csv" not in changed
    assert (folder / "evaluation" / "microast.two.csv").stat().st_mtime_ns > stored["evaluation/adain.one.csv"]

    made(pairs=2)
    assert "2 pairs of" in (folder / "evaluation" / "summary.md").read_text()
    assert remade() >= {"stytr2_losses.csv", "evaluation/adain.one.csv"}
    assert "Made anew: everything" in made("--force", pairs=2)
    made("--split", "val", "test", "--reference", "adain.one", pairs=2)
    summary = (folder / "evaluation" / "summary.md").read_text()
    assert "of the splits val and test" in summary and "divided by those of adain.one, pair by pair" in summary
    assert all(f"| {metric} " in summary for metric in script.EVALUATED)


def test_what_is_missing_is_said(
    script: ModuleType, home: list[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["results.py", "--content", "nowhere", "--style", str(pictures)])
    with pytest.raises(SystemExit, match="There is no image in nowhere: make results CONTENT=photos"):
        script.main()
    home.clear()
    output = ["--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["results.py", "--content", str(pictures), "--style", str(pictures), *output])
    with pytest.raises(SystemExit, match="There is no model on this machine"):
        script.main()


UNMEASURED = {"temporal"}
"""Studies whose results are still to come: hours of training."""


def test_committed_results_are_current(script: ModuleType) -> None:
    """A setting that is called otherwise since makes no study run again."""
    with (ROOT / "results" / "models.csv").open(newline="") as file:
        models = sorted(row["model"] for row in csv.DictReader(file) if row["kind"] == "arbitrary")
    options = Namespace(size=256, pairs=20)
    encoder = {"encoder": "vgg19_normalised", "encoder_weights": script.ENCODER}
    planned = script.every_plan(options, models, encoder)
    assert planned.keys() == script.studies.studies().keys()
    for name, settings in planned.items():
        summary = ROOT / "results" / f"{name}.md"
        if name in UNMEASURED and not summary.exists():
            continue
        assert script.is_current(summary, command(name, "results", settings, charts_only=True)), name
        assert not script.is_current(summary, command(name, "results", {**settings, "seed": 1}, charts_only=True)), name
    fewer = {**planned["balanced_loss"], "images": 19}
    assert not script.is_current(
        ROOT / "results" / "balanced_loss.md", command("balanced_loss", "results", fewer, True)
    )
    assert not script.is_current(ROOT / "results" / "nothing.md", "python -m stylezoo reproduce nothing")


def test_settings_of_a_command(script: ModuleType) -> None:
    former = "python -m stylezoo reproduce alpha_sweep --pictures 3 --output results --set alphas=4 system=adain"
    current = "python -m stylezoo reproduce alpha_sweep --output results --images 3 --set systems=adain alphas=4"
    assert script.settings_of(former) == script.settings_of(current)
    assert script.settings_of(current)["systems"] == ["adain"]
    assert script.settings_of(current) != script.settings_of(current.replace("--images 3", "--images 4"))
