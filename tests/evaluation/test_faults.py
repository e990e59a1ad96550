"""`evaluate` past broken images, failing models, damaged files and a second run: named and left out, never averaged."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, thin_model
from processes import command, ends, start
from torch import Tensor

from stylezoo.cli import main
from stylezoo.evaluation import evaluate
from stylezoo.evaluation.measurement import MetricNetworks
from stylezoo.evaluation.runner import EvaluationModule
from stylezoo.evaluation.store import finished_batches, locked, part_path, read_settings, remarks, scores
from stylezoo.images import write_image
from stylezoo.models.adain import AdaIN

SMALL: dict[str, Any] = {"size": 40, "crop": 32, "batch_size": 3, "accelerator": "cpu", "metrics": ["ssim"]}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three contents and two styles."""
    generator = torch.Generator().manual_seed(0)
    for name in ("content/a.png", "content/b.png", "content/c.png", "style/x.png", "style/y.png"):
        write_image(torch.rand(3, 44, 48, generator=generator), tmp_path / name)
    return {"content": tmp_path / "content", "style": tmp_path / "style"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean(summary: Any, model: str, metric: str = "ssim") -> tuple[float, int]:
    """Mean and number of pairs."""
    value = next(s.value for s in summary if (s.model, s.value.key.metric) == (model, metric))
    return value.value, value.n


class Failing(AdaIN):
    """An AdaIN that fails on contents whose first pixel is nearly black, in the way that it is told to."""

    system = "adain"
    error: BaseException | None = None

    def transfer(self, content: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = super().transfer(content, *args, **kwargs)
        hurt = content[:, 0, 0, 0] < 0.01
        if self.error is not None and hurt.any():
            raise self.error
        return torch.where(hurt[:, None, None, None], torch.nan, output)


@pytest.fixture
def failing(folders: dict[str, Path]) -> Failing:
    """With an image on which it fails, b.png."""
    image = torch.rand(3, 40, 40)
    image[:, :8, :8] = 0
    write_image(image, folders["content"] / "b.png")
    model = Failing(encoder="vgg19_random/8")
    model.load_state_dict(thin_model("adain").state_dict())
    return model


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "is not finite"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nmore"),
            "memory for an image of 32 x 32",
        ),
        (MemoryError(), "memory for an image of 32 x 32"),
    ],
    ids=["nan", "runtime", "memory"],
)
def test_a_model_that_fails_on_one_image(
    error: BaseException | None, reason: str, failing: Failing, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Its other pairs count, those of the same batch too; the failed ones are named, in no mean and in no image."""
    failing.error = error
    out = tmp_path / "out"
    summary = evaluate({"adain": failing}, **folders, output=out, save_images=True, **SMALL)
    found = rows(out / "adain.csv")
    assert [row["ssim"] == "nan" for row in found] == [row["content"] == "b.png" for row in found]
    others = [float(row["ssim"]) for row in found if row["content"] != "b.png"]
    assert mean(summary, "adain") == (pytest.approx(sum(others) / 4), 4)
    assert mean(summary, "content (unchanged)") == (pytest.approx(1), 6)
    (sentence,) = remarks(out)
    assert sentence.startswith("adain failed on 2 of 6 pairs") and "b.png in the style of x.png (" in sentence
    assert reason in sentence and sentence in (out / "summary.md").read_text()
    failed = json.loads((out / "adain.failed.json").read_text())
    assert [(entry["content"], entry["style"]) for entry in failed] == [("b.png", "x.png"), ("b.png", "y.png")]
    assert len(list((out / "images" / "adain").iterdir())) == 4
    assert evaluate({"adain": failing}, **folders, output=out, **SMALL) == summary  # nothing is repeated


def test_a_model_that_fails_on_every_pair(folders: dict[str, Path], tmp_path: Path) -> None:
    """Is an error that names it, after the others are measured; the next run tries it again."""
    broken = thin_model("adain")
    for parameter in broken.decoder.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"^broken failed on all 6 pairs: The output of adain is not finite"):
        evaluate({"broken": broken, "whole": thin_model("adain")}, **folders, output=out, **SMALL)
    assert "| whole |" in (out / "summary.md").read_text() and not list(out.glob("broken*"))
    evaluate({"broken": thin_model("adain")}, **folders, output=out, **SMALL)
    assert (out / "broken.csv").is_file()


def test_sets_leave_failed_pairs_out(
    failing: Failing, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetricNetworks, "inception", torch.nn.AdaptiveAvgPool2d(2))
    settings = {**SMALL, "metrics": ["fid", "ssim"], "batch_size": 1}
    summary = evaluate({"adain": failing}, **folders, output=tmp_path / "all", **settings)
    value, n = mean(summary, "adain", "fid")
    assert n == 4 and value > 0 and mean(summary, "style (copied)", "fid")[1] == 6
    again = evaluate({"adain": failing}, **folders, output=tmp_path / "batches", **{**settings, "batch_size": 4})
    assert mean(again, "adain", "fid") == (pytest.approx(value, rel=1e-4), 4)


def test_a_metric_that_is_not_defined(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is NaN, its mean leaves the pair out and a sentence says so."""
    from stylezoo.metrics import SSIM

    values = SSIM.values

    def undefined(self: SSIM, output: Tensor, reference: Tensor) -> Tensor:
        found = values(self, output, reference)
        return torch.where(reference[:, 0, 0, 0] < 0.01, torch.nan, found)

    image = torch.rand(3, 40, 40)
    image[:, :8, :8] = 0
    write_image(image, folders["content"] / "b.png")
    monkeypatch.setattr(SSIM, "values", undefined)
    summary = evaluate([], **folders, output=tmp_path / "out", **SMALL)
    assert mean(summary, "content (unchanged)") == (pytest.approx(1), 4)
    said = remarks(tmp_path / "out")
    assert [text.split(" (images")[0] for text in said] == [
        f"ssim of {name} is not defined for 2 of 6 pairs" for name in ("content (unchanged)", "style (copied)")
    ]


def test_broken_images_are_left_out(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut and empty files, strips and pipes among the images: the pairs are drawn without them, and the exit code says so."""
    whole = (folders["content"] / "a.png").read_bytes()
    (folders["content"] / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folders["style"] / "empty.jpg").touch()
    write_image(torch.rand(3, 1, 40_000), folders["style"] / "strip.png")
    os.mkfifo(folders["style"] / "pipe.png")  # not even listed: opening it would wait for a writer
    settings = {**SMALL, "size": 100}
    evaluate([], **folders, output=tmp_path / "out", pairs=5, **settings)
    said = capsys.readouterr().err
    broken = ("cut.png", "empty.jpg", "strip.png")
    used = {name for row in rows(tmp_path / "out" / "pairs.csv") for name in row.values()}
    assert len(rows(tmp_path / "out" / "pairs.csv")) == 5 and not used & {*broken}
    assert all(line.startswith("skipped: ") and any(name in line for name in broken) for line in said.splitlines())
    out = ["--output", str(tmp_path / "every"), "--models", *(f"--{k}={v}" for k, v in folders.items())]
    write_model = tmp_path / "thin.safetensors"
    __import__("stylezoo").save_model(thin_model("adain"), write_model)
    out[3:3] = [str(write_model)]
    with pytest.raises(SystemExit, match="1"):
        main(["evaluate", *out, "--size=100", "--crop=32", "--metrics", "ssim", "--accelerator=cpu"])
    said = capsys.readouterr().err
    assert all(f"{name}" in said for name in broken) and "Left out because they cannot be used" in said
    assert len(rows(tmp_path / "every" / "pairs.csv")) == 6
    assert "Left out because" in (tmp_path / "every" / "summary.md").read_text()
    with pytest.raises(ValueError, match=r"without the 3 that cannot be used \(.*cut.png.*\) make 6 pairs, not 7"):
        evaluate([], **folders, output=tmp_path / "more", pairs=7, **settings)


def test_an_image_that_disappears_during_the_run(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pairs fail, and no others."""
    step = EvaluationModule.predict_step

    def deleting(self: EvaluationModule, batch: Any, batch_idx: int) -> Any:
        (folders["content"] / "c.png").unlink(missing_ok=True)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(EvaluationModule, "predict_step", deleting)
    evaluate([], **folders, output=tmp_path / "out", **{**SMALL, "batch_size": 2})
    (before, after) = remarks(tmp_path / "out")
    assert "content (unchanged) failed on 2 of 6 pairs" in before and "c.png does not exist" in before
    assert "style (copied) failed on 2 of 6 pairs" in after


def test_damaged_files(folders: dict[str, Path], tmp_path: Path) -> None:
    """Each gives one sentence that says what to do; following it gives the same numbers again."""
    out = tmp_path / "out"
    settings = {**SMALL, "metrics": ["ssim", "histogan_distance"]}
    summary = evaluate({"adain": thin_model("adain")}, **folders, output=out, **settings)

    def damaged(name: str, content: bytes, message: str, **changes: Any) -> None:
        before = (out / name).read_bytes()
        (out / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            evaluate({"adain": thin_model("adain")}, **folders, output=out, **{**settings, **changes})
        with pytest.raises(ValueError, match=message):
            scores(out)
        (out / name).write_bytes(before)

    whole = (out / "adain.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    delete = r"delete it, and the same command measures adain again\.$"
    damaged("adain.csv", whole[: len(whole) // 2], rf"adain\.csv is damaged .*{delete}")
    damaged("adain.csv", b"".join(lines[:-2]), rf"it has 4 of 6 pairs\): {delete}")
    damaged("adain.csv", b"".join([lines[0], *lines[:0:-1]]), rf"line 2 is not that of a.png .*{delete}")
    damaged("adain.csv", lines[0] + b"".join(lines[1:]).replace(b"0.", b"zero", 1), rf"that is no number\): {delete}")
    damaged("adain.csv", b"mine\n1\n", rf"its columns are mine instead of content, style, ssim.*{delete}")
    damaged("adain.csv", b"", rf"its columns are missing .*{delete}")
    damaged("adain.csv", b"\x89PNG\r\n\x00\x01\xff", rf"adain\.csv is damaged .*{delete}")
    damaged("settings.json", (out / "settings.json").read_bytes()[:-40], r"settings\.json is damaged: choose another")
    damaged("settings.json", b"\xff\xfe", r"settings\.json is damaged")
    damaged("settings.json", b"[]", r"settings\.json was not written by this version")
    damaged("settings.json", b'{"format": "stylezoo-evaluation-1"}', r"settings\.json is damaged")
    damaged("pairs.csv", b"content,style\na.png\n", r"pairs\.csv is damaged")
    damaged("pairs.csv", b"", r"pairs\.csv is damaged")
    (out / "adain.csv").unlink()
    assert evaluate({"adain": thin_model("adain")}, **folders, output=out, **settings) == summary
    assert (out / "adain.csv").read_bytes() == whole


def test_damaged_parquet_and_activations(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(MetricNetworks, "inception", torch.nn.AdaptiveAvgPool2d(2))
    out, settings = tmp_path / "out", {**SMALL, "metrics": ["fid", "ssim"], "format": "parquet"}
    summary = evaluate([], **folders, output=out, **settings)
    for name, message in (
        ("style_copied.parquet", "no complete Parquet file"),
        ("style_copied.npy", "damaged or miss"),
    ):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=message):
            evaluate([], **folders, output=out, **settings)
        (out / name).write_bytes(whole)
    assert evaluate([], **folders, output=out, **settings) == summary


def test_a_damaged_line_of_a_part_is_measured_again(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = EvaluationModule.predict_step

    def stopping(self: EvaluationModule, batch: Any, batch_idx: int) -> Any:
        if batch["number"] == 1:
            raise KeyError("stop")
        return step(self, batch, batch_idx)

    whole = evaluate([], **folders, output=tmp_path / "whole", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationModule, "predict_step", stopping)
        with pytest.raises(KeyError):
            evaluate([], **folders, output=tmp_path / "out", **SMALL)
    part = part_path(tmp_path / "out", "content (unchanged)", 0)
    part.write_bytes(b'{"batch": 0, "rows": [[0.\x00]]}\n[1]\n{"batch": "a", "rows": []}\n')
    assert finished_batches(tmp_path / "out", "content (unchanged)") == {}
    assert evaluate([], **folders, output=tmp_path / "out", **SMALL) == whole


def test_results_without_settings_are_not_taken_over(folders: dict[str, Path], tmp_path: Path) -> None:
    """Parts and activations of another evaluation neither; foreign files beside the settings do not matter."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("adain.part0.jsonl", "adain.npy"):
        (out / name).write_text("")
        with pytest.raises(ValueError, match=f"has no settings.json, but {name}: choose another folder"):
            evaluate([], **folders, output=out, **SMALL)
        (out / name).unlink()
    (out / "notes.txt").write_text("mine")
    summary = evaluate([], **folders, output=out, **SMALL)
    (out / "own.csv").write_text("mine")
    (out / "summary.md").write_bytes(b"\xff")
    assert evaluate([], **folders, output=out, **SMALL) == summary
    assert (out / "notes.txt").read_text() == (out / "own.csv").read_text() == "mine"


def test_two_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    """The second says so and changes nothing; when the first is done, it runs."""
    out = tmp_path / "out"
    with (
        locked(out),
        pytest.raises(ValueError, match=r"^Another evaluation is writing to .*out: wait until it is done"),
    ):
        evaluate([], **folders, output=out, **SMALL)
    assert not out.exists()
    evaluate([], **folders, output=out, **SMALL)
    assert not (out / ".lock").exists()


def test_a_full_disk(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and the run that follows gives the same numbers."""
    from stylezoo.evaluation import tables

    whole = evaluate([], **folders, output=tmp_path / "whole", **SMALL)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables.csv, "writer", full)
        with pytest.raises(
            ValueError, match=r"cannot be written to .* \(No space left on device\): what is finished stays"
        ):
            evaluate([], **folders, output=tmp_path / "out", **SMALL)
    assert evaluate([], **folders, output=tmp_path / "out", **SMALL) == whole


def test_the_encoder_that_ships_measures_where_the_other_one_is_missing(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so, and the summary; a folder keeps the network that it was begun with."""
    settings = {**SMALL, "metrics": ["style_loss"]}
    summary = evaluate([], **folders, output=tmp_path / "out", **settings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "vgg19_normalised is not on this machine: vgg19_slim, which ships with the package, measures"
    )
    assert {score.value.key.backbone for score in summary} == {"vgg19_slim"}
    assert "The losses are measured with vgg19_slim" in (tmp_path / "out" / "summary.md").read_text()
    there = tmp_path / "home" / "weights" / "vgg_normalised.pth"
    there.parent.mkdir(parents=True)
    torch.save(dict(stylezoo_vgg()), there)
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path / "home"))
    assert evaluate([], **folders, output=tmp_path / "out", **settings) == summary
    with pytest.raises(ValueError, match=r"style_loss: backbone \(vgg19_slim, vgg19_normalised\)"):
        evaluate([], **folders, output=tmp_path / "out", encoder="vgg19_normalised", **settings)
    evaluate([], **folders, output=tmp_path / "ssim", **SMALL)
    assert "vgg19_slim" not in capsys.readouterr().err  # no encoder measures these


def stylezoo_vgg() -> dict[str, Tensor]:
    """The weights of a small network in place of the normalized VGG-19."""
    from stylezoo.vgg import VGG

    return dict(VGG("vgg19_random/8", last="relu4_1").tensors)


def evaluate_slowly(*words: str) -> None:
    """The command, half a second per batch."""
    step = EvaluationModule.predict_step

    def slow(self: EvaluationModule, *arguments: Any) -> Any:
        print("at work", flush=True)
        time.sleep(0.5)
        return step(self, *arguments)

    EvaluationModule.predict_step = slow  # type: ignore[method-assign]
    command("evaluate", *words)


@pytest.mark.slow
def test_ctrl_c(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of a real process: exit code 130 and one sentence; the same command gives the numbers of a whole run."""
    settings = {**SMALL, **folders, "batch_size": 1, "output": tmp_path / "out"}
    words = [word for name, value in settings.items() if name != "metrics" for word in (f"--{name}", str(value))]
    log = tmp_path / "said"
    process = start(*(evaluate_slowly, "--models", "adain", "--metrics", "ssim", *words), folder=ROOT, log=log)
    while not Path(f"{log}.out").exists() or "at work" not in Path(f"{log}.out").read_text():
        assert process.exitcode is None, Path(f"{log}.err").read_text()
        time.sleep(0.05)
    time.sleep(0.1)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGINT)
    code, said = ends(process), Path(f"{log}.err").read_text()
    assert code == 130, said
    assert "Traceback" not in said and "the same command continues" in said
    continued = evaluate(["adain"], **folders, output=tmp_path / "out", **{**SMALL, "batch_size": 1})
    assert continued == evaluate(["adain"], **folders, output=tmp_path / "whole", **{**SMALL, "batch_size": 1})
    assert read_settings(tmp_path / "out") == read_settings(tmp_path / "whole")
