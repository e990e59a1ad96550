"""`evaluate`: the same numbers whatever interrupts it, between two baselines, in the memory of one batch."""

from __future__ import annotations

import csv
import gc
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, thin_model
from torch import Tensor, nn

import stylezoo
from stylezoo import commands
from stylezoo.cli import main
from stylezoo.data import Folder
from stylezoo.data.stream import Framing
from stylezoo.evaluation import evaluate
from stylezoo.evaluation.measurement import ARTIFACT_METRICS, DEFAULT_METRICS, METRICS, MetricNetworks
from stylezoo.evaluation.runner import EvaluationModule
from stylezoo.evaluation.statistics import bootstrap, pair_ratios
from stylezoo.evaluation.store import (
    IDENTITY_BASELINE,
    STYLE_COPY_BASELINE,
    Score,
    part_path,
    read_settings,
    scores,
)
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.inference import Stylizer
from stylezoo.metrics import FID, LPIPS, ArtFID, HistoGANDistance

SMALL: dict[str, Any] = {"size": 40, "crop": 32, "encoder": "vgg19_random/8", "batch_size": 3, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def folders(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four contents, one of them in a folder inside, and three styles."""
    top = tmp_path_factory.mktemp("evaluation")
    files = sorted(pictures.iterdir())
    for index, name in enumerate(("content/a.png", "content/b.png", "content/more/c.png", "content/d.png")):
        write_image(read_image(files[index]), top / name)
    for index, name in enumerate(("style/x.png", "style/y.png", "style/z.png")):
        write_image(read_image(files[index + 5]), top / name)
    return {"content": top / "content", "style": top / "style"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of two arbitrary systems."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{name}.safetensors" for name in ("adain", "microast")]
    for path in paths:
        stylezoo.save_model(thin_model(path.stem), path)
    return paths


@pytest.fixture(scope="module")
def done(models: list[Path], folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results, of all twelve pairs."""
    output = tmp_path_factory.mktemp("done") / "out"
    evaluate(models, **folders, output=output, **SMALL)
    return output


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values(summary: list[Score], metric: str) -> dict[str, float]:
    """{model: mean} of one metric."""
    return {score.model: score.value.value for score in summary if score.value.key.metric == metric}


def framed(path: Path) -> Tensor:
    """Short side 40, the middle 32 x 32, as in training; tests/data holds that to torchvision."""
    return to_tensor(Framing(40, 32, "shorter", "center", False)(read_image(path), None))


def test_baselines(done: Path) -> None:
    """The unchanged content is perfect by content metrics, the copied style by style metrics; models are by neither."""
    summary = scores(done)
    assert list(dict.fromkeys(score.model for score in summary)) == [
        IDENTITY_BASELINE,
        STYLE_COPY_BASELINE,
        "adain",
        "microast",
    ]
    assert [score.value.key.metric for score in summary[:6]] == list(DEFAULT_METRICS)
    assert values(summary, "content_loss")[IDENTITY_BASELINE] == 0
    assert values(summary, "ssim")[IDENTITY_BASELINE] == pytest.approx(1)
    for metric in ("style_loss", "classic_style_loss", "balanced_style_loss", "histogan_distance"):
        found = values(summary, metric)
        assert found.pop(STYLE_COPY_BASELINE) == pytest.approx(0, abs=1e-6) and min(found.values()) > 1e-3
    assert min(value for model, value in values(summary, "content_loss").items() if model != IDENTITY_BASELINE) > 1e-3


def test_values_are_those_of_the_metrics(done: Path, models: list[Path], folders: dict[str, Path]) -> None:
    """Each value again, from single images and metrics that compute their own features."""
    network = stylezoo.load_model(models[1])
    metrics = {name: METRICS[name](MetricNetworks("vgg19_random/8", None)) for name in DEFAULT_METRICS}
    found = rows(done / "microast.csv")
    assert [(row["content"], row["style"]) for row in found] == [
        (content, style)
        for style in ("x.png", "y.png", "z.png")
        for content in ("a.png", "b.png", "d.png", "more/c.png")
    ]
    assert [(row["content"], row["style"]) for row in rows(done / "pairs.csv")] == [
        (row["content"], row["style"]) for row in found
    ]
    for row in found[::5]:
        content, style = (
            framed(folders["content"] / row["content"])[None],
            framed(folders["style"] / row["style"])[None],
        )
        output = Stylizer(network, [style])(content)
        for name, metric in metrics.items():
            reference = content if name in ("content_loss", "ssim") else style
            assert float(row[name]) == pytest.approx(float(metric.values(output, reference)), rel=1e-4), name


def test_summary(done: Path) -> None:
    """Means and intervals of what the tables of pairs hold, with all that tells them apart from other evaluations."""
    summary = rows(done / "summary.csv")
    assert len(summary) == 4 * len(DEFAULT_METRICS)
    for row in summary:
        if row["model"] in ("adain", "microast"):
            column = np.array([float(pair[row["metric"]]) for pair in rows(done / f"{row['model']}.csv")])
            assert float(row["mean"]) == pytest.approx(column.mean()) and row["n"] == "12"
            assert column.min() < float(row["low"]) < column.mean() < float(row["high"]) < column.max()
    style = next(row for row in summary if row["metric"] == "style_loss")
    network = MetricNetworks("vgg19_random/8", None).encoder
    assert (style["backbone"], style["sha256"], style["resize"]) == ("vgg19_random/8", network.sha256, "native")
    settings = json.loads(style["settings"])
    assert (settings["frame"], settings["statistic"]) == ("short40 crop32", "mean_std")
    assert settings["layers"] == " + ".join(f"0.2 relu{block}_1" for block in range(1, 6))
    shown = (done / "summary.md").read_text()
    assert "| microast | " in shown and "ssim ↑" in shown and network.sha256[:12] in shown and "12 pairs of 4" in shown
    assert [score.value.value for score in scores(done)] == [float(row["mean"]) for row in summary]


def test_medians_and_ratios(models: list[Path], folders: dict[str, Path], done: Path, tmp_path: Path) -> None:
    """Of the values per pair, by hand; the folder keeps its reference, and another one can be asked for at any time."""
    out = tmp_path / "out"
    summary = evaluate(models, **folders, output=out, reference="adain", **SMALL)
    values = {name: rows(out / f"{name}.csv") for name in ("adain", "microast")}
    shown = {(row["model"], row["metric"]): row for row in rows(out / "summary.csv")}
    for metric in DEFAULT_METRICS:
        own, other = (np.array([float(row[metric]) for row in values[name]]) for name in ("microast", "adain"))
        row = shown["microast", metric]
        assert row["reference"] == "adain" and row["ratio_n"] == "12"
        assert float(row["median"]) == pytest.approx(np.median(own))
        low, high = (
            sorted(own)[1:3],
            sorted(own)[9:11],
        )  # of 12 values the 10th percentile is 0.1 * 11 places from the first
        assert float(row["p10"]) == pytest.approx(low[0] + 0.1 * (low[1] - low[0]))
        assert float(row["p90"]) == pytest.approx(high[0] + 0.9 * (high[1] - high[0]))
        assert float(row["ratio_median"]) == pytest.approx(np.median(own / other))
        assert float(row["ratio_p90"]) == pytest.approx(np.quantile(own / other, 0.9))
        assert float(row["ratio_of_means"]) == pytest.approx(own.mean() / other.mean())
        for name in ("adain", IDENTITY_BASELINE, STYLE_COPY_BASELINE):
            assert shown[name, metric]["ratio_median"] == shown[name, metric]["reference"] == ""
    text = (out / "summary.md").read_text()
    assert "Values divided by those of adain, pair by pair: median" in text and text.count("| microast | ") == 3
    assert evaluate(models[:1], **folders, output=out, **SMALL) == summary
    turned = evaluate(models, **folders, output=out, reference="microast", **SMALL)
    assert {score.model for score in turned if score.ratio is not None} == {"adain"}
    assert {score.model for score in scores(done) if score.ratio is not None} == set()


def test_folders_without_medians_are_read(done: Path, tmp_path: Path) -> None:
    """What an earlier version has written has neither a split nor a reference in its settings."""
    for path in done.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((done / "settings.json").read_text())
    del settings["protocol"]["split"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert scores(tmp_path) == scores(done)
    settings["reference"] = "microast"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert {score.ratio.reference for score in scores(tmp_path) if score.ratio is not None} == {"microast"}


def test_ratios_leave_pairs_out() -> None:
    """Those on which a value is missing, or the reference 0."""
    own, other = np.array([1.0, 4.0, 9.0, np.nan, 5.0]), np.array([1.0, 2.0, 0.0, 1.0, np.inf])
    ratio = pair_ratios(own, other)
    assert (ratio.spread.n, ratio.spread.median, ratio.of_means) == (2, 1.5, pytest.approx(5 / 3))
    none = pair_ratios(np.array([1.0]), np.array([0.0]))
    assert none.spread.n == 0 and np.isnan(none.of_means) and np.isnan(none.spread.median)


def test_what_losses_miss(folders: dict[str, Path], models: list[Path], tmp_path: Path) -> None:
    """The metrics of artifacts and AdaIN's target, each again from single images; better is said for each."""
    names = ["target_content_loss", *ARTIFACT_METRICS]
    evaluate(models[:1], **folders, output=tmp_path / "out", metrics=names, pairs=4, **SMALL)
    network = stylezoo.load_model(models[0])
    metrics = {name: METRICS[name](MetricNetworks("vgg19_random/8", None)) for name in names}
    for row in rows(tmp_path / "out" / "adain.csv")[::2]:
        content, style = (framed(folders[side] / row[side])[None] for side in ("content", "style"))
        output = Stylizer(network, [style])(content)
        images = {"output": output, "content": content, "style": style, "reference": style}
        for name, metric in metrics.items():
            wanted = {key: images[key] for key in inspect.signature(metric.values).parameters}
            assert float(row[name]) == pytest.approx(float(metric.values(**wanted)), rel=1e-4), name
    better = {row["metric"]: row["better"] for row in rows(tmp_path / "out" / "summary.csv")}
    assert better == {**dict.fromkeys(names, "lower"), "colorfulness_ratio": "near 1"}
    assert "colorfulness_ratio →1" in (tmp_path / "out" / "summary.md").read_text()


def test_no_training_image_is_in_the_held_out_splits(pictures: Path, tmp_path: Path) -> None:
    """The images of a split are those that `Folder`, with which models are trained, keeps out of training."""
    data = Folder(str(pictures))
    names = {split: {path.name for path in data.files(split)} for split in ("train", "val", "test")}
    options = {**SMALL, "content": pictures, "style": pictures, "metrics": ["ssim"], "split": ["val", "test"]}
    evaluate([], **options, output=tmp_path / "held")
    used = {image for row in rows(tmp_path / "held" / "pairs.csv") for image in row.values()}
    assert used == names["val"] | names["test"] and not used & names["train"] and names["train"]
    assert "of the splits val and test" in (tmp_path / "held" / "summary.md").read_text()
    with pytest.raises(ValueError, match=r"split \(\['val', 'test'\], now None\)"):
        evaluate([], **{**options, "split": None}, output=tmp_path / "held")

    single = thin_model("johnson", style_name=min(names["train"]).partition(".")[0])
    (tmp_path / "style").mkdir()
    (style,) = (path for path in pictures.iterdir() if path.stem == single.styles[0])
    (tmp_path / "style" / style.name).write_bytes(style.read_bytes())
    evaluate({"single": single}, **{**options, "style": tmp_path / "style"}, output=tmp_path / "single")
    pairs = rows(tmp_path / "single" / "pairs.csv")  # its style is not held out, contents are
    assert {row["content"] for row in pairs} == used and {row["style"] for row in pairs} == {style.name}
    with pytest.raises(ValueError, match="has 1 images, too few to hold any out of training: leave split out"):
        evaluate([], **{**options, "style": tmp_path / "style"}, output=tmp_path / "few")


def test_bootstrap() -> None:
    """Close to the normal interval where that holds, and the same in every run; a constant column has no width."""
    column = np.random.default_rng(1).normal(5, 2, 400)
    (low, high), flat = bootstrap(np.stack([column, np.full(400, 0.5)], 1), seed=0)
    error = 1.96 * column.std() / 400**0.5
    assert low == pytest.approx(column.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(column.mean() + error, abs=0.1 * error)
    assert flat == [0.5, 0.5]
    again, other = (bootstrap(column[:, None], seed)[0] for seed in (0, 1))
    assert again == pytest.approx([low, high], rel=1e-12) and other != pytest.approx([low, high], rel=1e-6)


PREDICT_STEP = EvaluationModule.predict_step


class Interrupted(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Lets evaluations fail when they have done so many batches; returns the list of those that they begin."""
    begun: list[int] = []

    def failing(self: EvaluationModule, batch: Any, batch_idx: int) -> Any:
        if len(begun) == after:
            raise Interrupted
        begun.append(batch["number"])
        return PREDICT_STEP(self, batch, batch_idx)

    monkeypatch.setattr(EvaluationModule, "predict_step", failing)
    return begun


@pytest.mark.parametrize("after", [2, 8, 10, 13])
def test_interrupted_and_restarted_gives_the_same_bits(
    after: int,
    done: Path,
    models: list[Path],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a baseline, before a model, amid both models; an incomplete line of a killed process is dropped."""
    begun = interrupt(monkeypatch, after)
    with pytest.raises(Interrupted):
        evaluate(models, **folders, output=tmp_path, **SMALL)
    assert len(begun) == after and not (tmp_path / "summary.csv").exists()
    name = [IDENTITY_BASELINE, STYLE_COPY_BASELINE, "adain", "microast"][after // 4]  # of four batches each
    with part_path(tmp_path, name, rank=0).open("ab") as file:
        file.write(b'{"batch": 3, "rows": [[0.1')
    if after == 13:  # as if the run had had more processes
        part_path(tmp_path, name, rank=0).rename(part_path(tmp_path, name, rank=1))
    begun = interrupt(monkeypatch, 1000)
    evaluate(models, **folders, output=tmp_path, **SMALL)
    assert len(begun) == 16 - after
    assert files(tmp_path) == files(done)


def test_sigterm(
    done: Path, models: list[Path], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch at hand is finished, then the process ends; the next one goes on."""

    def killed(self: EvaluationModule, batch: Any, batch_idx: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return PREDICT_STEP(self, batch, batch_idx)

    monkeypatch.setattr(EvaluationModule, "predict_step", killed)
    with pytest.raises(SystemExit) as stop:
        evaluate(models, **folders, output=tmp_path, **SMALL)
    assert stop.value.code == 143
    begun = interrupt(monkeypatch, 1000)
    evaluate(models, **folders, output=tmp_path, **SMALL)
    assert len(begun) == 15 and files(tmp_path) == files(done)


def test_a_finished_evaluation_is_not_repeated(
    models: list[Path], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second command stylizes nothing, and another model is added beside those that are there."""
    evaluate(models[:1], **folders, output=tmp_path, **SMALL)
    before = files(tmp_path)
    begun = interrupt(monkeypatch, 1000)
    evaluate(models[:1], **folders, output=tmp_path, **SMALL)
    assert not begun and files(tmp_path) == before
    summary = evaluate(models[1:], **folders, output=tmp_path, **SMALL)
    assert len(begun) == 4 and files(tmp_path)["adain.csv"] == before["adain.csv"]
    assert [*values(summary, "ssim")] == [IDENTITY_BASELINE, STYLE_COPY_BASELINE, "adain", "microast"]


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(
    done: Path, models: list[Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    """By the command, over two real processes (gloo): every file is that of one process in Python."""
    options = {**SMALL, **folders, "output": tmp_path, "devices": 2, "strategy": "ddp"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    run = subprocess.run(
        [sys.executable, "-m", "stylezoo", "evaluate", *words, "--models", *map(str, models)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("microast") == 2 and "0.0" in run.stdout  # one process prints
    assert files(tmp_path) == files(done)


@pytest.mark.slow
def test_memory_does_not_grow(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While 200 pairs are measured there are never more images and features than while 20 are."""
    for role, count in (("content", 20), ("style", 10)):
        for index in range(count):
            write_image(torch.rand(3, 32, 32), tmp_path / role / f"{index:02d}.png")
    held: list[int] = []
    metric = HistoGANDistance.values

    def alive() -> int:
        return sum(thing.numel() for thing in gc.get_objects() if type(thing) is Tensor and thing.ndim >= 3)

    def counting(self: HistoGANDistance, output: Tensor, reference: Tensor) -> Tensor:
        held.append(0)
        if len(held) % (pairs // 5) == 0:  # a model's last batch
            held[-1] = alive() - before
        return metric(self, output, reference)

    monkeypatch.setattr(HistoGANDistance, "values", counting)
    settings = {**SMALL, "size": 32, "crop": 32, "batch_size": 5, "metrics": ["histogan_distance", "style_loss"]}
    model = thin_model("adain")
    most = {}
    for pairs in (20, 200):
        held.clear()
        gc.collect()
        before = alive()  # what other tests have left
        roles = (tmp_path / role for role in ("content", "style"))
        evaluate({"adain": model}, *roles, tmp_path / str(pairs), pairs=pairs, **settings)
        most[pairs] = max(held)
    assert most[200] <= 1.1 * most[20]  # to keep the other 180 images would double it
    assert 5 * 3 * 32 * 32 < most[20] < 180 * 3 * 32 * 32


def test_styles_are_encoded_once(
    models: list[Path], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although their pairs are spread over several batches."""
    model = stylezoo.load_model(models[0])
    encoded = []
    encode = type(model).encode_style

    def counting(self: Any, style: Tensor, **options: Any) -> Any:
        encoded.append(len(style))
        return encode(self, style, **options)

    monkeypatch.setattr(type(model), "encode_style", counting)
    evaluate({"adain": model}, **folders, output=tmp_path, **SMALL)
    assert encoded == [1, 1, 1]


def test_pairs(folders: dict[str, Path], tmp_path: Path) -> None:
    """Drawn without repetition by the seed, those of one style together; kept also when images are added."""
    for name in ("content", "style"):
        for path in folders[name].rglob("*.png"):
            write_image(read_image(path), tmp_path / name / path.name)
    settings = {**SMALL, "metrics": ["ssim"], "content": tmp_path / "content", "style": tmp_path / "style"}
    drawn = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        evaluate([], output=tmp_path / name, pairs=7, seed=seed, **settings)
        drawn.append([(row["content"], row["style"]) for row in rows(tmp_path / name / "pairs.csv")])
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 7
    assert [style for _, style in drawn[0]] == sorted(style for _, style in drawn[0])
    before = files(tmp_path / "a")
    write_image(torch.rand(3, 32, 32), tmp_path / "content" / "new.png")
    evaluate([], output=tmp_path / "a", pairs=7, **settings)
    assert files(tmp_path / "a") == before


@pytest.mark.slow
def test_sets(folders: dict[str, Path], models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FID and ArtFID, interrupted and resumed, are those of the metrics over all images at once."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    lpips = LPIPS(stylezoo.vgg.VGG("vgg16_random"))
    monkeypatch.setattr(MetricNetworks, "inception", pool)
    monkeypatch.setattr(MetricNetworks, "lpips", lpips)
    settings = {**folders, **SMALL, "metrics": ["art_fid"]}
    whole = evaluate(models[1:], **settings, output=tmp_path / "whole")
    interrupt(monkeypatch, 10)
    with pytest.raises(Interrupted):
        evaluate(models[1:], **settings, output=tmp_path / "again")
    interrupt(monkeypatch, 1000)
    evaluate(models[1:], **settings, output=tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    assert files(tmp_path / "whole").keys() >= {"microast.npy", "microast.csv", "style_copied.npy"}

    metric = ArtFID(pool, lpips, dimensions=48)
    network = stylezoo.load_model(models[1])
    for row in rows(tmp_path / "whole" / "pairs.csv"):
        content, style = (
            framed(folders["content"] / row["content"])[None],
            framed(folders["style"] / row["style"])[None],
        )
        metric.update(Stylizer(network, [style])(content), content, style)
    expected = metric.result()
    assert values(whole, "art_fid")["microast"] == pytest.approx(expected.value, rel=1e-4)
    assert values(whole, "fid")["microast"] == pytest.approx(float(FID.compute(metric)), rel=1e-4)
    assert values(whole, "fid")[STYLE_COPY_BASELINE] == pytest.approx(0, abs=1e-6)
    assert values(whole, "lpips")[IDENTITY_BASELINE] == 0
    score = next(score for score in whole if score.value.key.metric == "art_fid")
    theirs = dict(expected.key.settings)
    assert {name: value for name, value in score.value.key.settings if name in theirs} == theirs and score.low is None
    only = evaluate(models[1:], **{**settings, "metrics": ["fid"]}, output=tmp_path / "fid")
    assert values(only, "fid") == values(whole, "fid") and {score.value.key.metric for score in only} == {"fid"}


def test_sets_need_two_pairs(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is an error before anything is stylized."""
    monkeypatch.setattr(MetricNetworks, "inception", nn.Flatten())
    monkeypatch.setattr(MetricNetworks, "lpips", LPIPS(stylezoo.vgg.VGG("vgg16_random")))
    for metrics, named in ((["fid", "ssim"], "fid"), (["art_fid"], "fid and art_fid")):
        with pytest.raises(ValueError, match=f"^{named} compare sets of images and need two pairs or more, not 1"):
            evaluate([], **folders, **SMALL, output=tmp_path / "out", pairs=1, metrics=metrics)
    assert not (tmp_path / "out").exists()


def test_parquet(
    done: Path, models: list[Path], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values to the last bit, also after an interruption; the rest of the folder is the same."""
    parquet = pytest.importorskip("pyarrow.parquet")
    interrupt(monkeypatch, 9)
    with pytest.raises(Interrupted):
        evaluate(models, **folders, output=tmp_path, format="parquet", **SMALL)
    interrupt(monkeypatch, 1000)
    evaluate(models, **folders, output=tmp_path, format="parquet", **SMALL)
    here, there = files(tmp_path), files(done)
    tables = {"content_unchanged", "style_copied", "adain", "microast"}
    assert here.keys() - there.keys() == {f"{name}.parquet" for name in tables}
    assert there.keys() - here.keys() == {f"{name}.csv" for name in tables}
    assert {name: here[name] for name in here.keys() & there.keys()} == {
        name: there[name] for name in here.keys() & there.keys()
    }
    for name in tables:
        table = parquet.read_table(tmp_path / f"{name}.parquet")
        assert [str(field.type) for field in table.schema] == ["string"] * 2 + ["double"] * len(DEFAULT_METRICS)
        lines = [
            {key: value if key in ("content", "style") else float(value) for key, value in row.items()}
            for row in rows(done / f"{name}.csv")
        ]
        assert table.to_pylist() == lines
    begun = interrupt(monkeypatch, 1000)  # what is done in one format stays
    evaluate(models, **folders, output=tmp_path, **SMALL)
    assert not begun and files(tmp_path) == here


def test_without_pyarrow(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install pyarrow, or stylezoo\[parquet\], or use --format csv"):
        evaluate([], **folders, output=tmp_path / "out", format="parquet", **SMALL)
    assert not (tmp_path / "out").exists()


def test_kinds(folders: dict[str, Path], tmp_path: Path) -> None:
    """Multi- and single-style systems are measured against images named like their styles, which arbitrary systems take, too."""
    multi, single = thin_model("cin"), thin_model("johnson")
    for index, name in enumerate(multi.styles):
        write_image(torch.rand(3, 32 + index, 40), tmp_path / "many" / f"{name}.png")
    write_image(torch.rand(3, 32, 40), tmp_path / "one" / f"{single.styles[0]}.png")
    write_image(torch.rand(3, 32, 40), tmp_path / "unnamed" / "some.png")
    settings = {**SMALL, "content": folders["content"], "metrics": ["ssim"]}
    both = {"cin": multi, "gatys": thin_model("gatys")}
    evaluate(both, style=tmp_path / "many", output=tmp_path / "a", save_images=True, **settings)
    written = sorted((tmp_path / "a" / "images" / "cin").iterdir())
    assert len(written) == 4 * len(multi.styles) and written[5].name == f"00005_b_{multi.styles[1]}.png"
    expected = Stylizer(multi, [1])(framed(folders["content"] / "b.png")[None])[0]
    assert (to_tensor(read_image(written[5])) - expected).abs().max() < 1.1 / 255
    assert values(scores(tmp_path / "a"), "ssim")["gatys"] < 0.999
    evaluate({"johnson": single}, style=tmp_path / "one", output=tmp_path / "b", **settings)
    single.hparams["style_name"] = None
    evaluate({"johnson": single}, style=tmp_path / "unnamed", output=tmp_path / "c", **settings)
    for model, style in ((single, "many"), (multi, "unnamed")):
        with pytest.raises(ValueError, match="none of these: give a folder with images of its styles"):
            evaluate({"model": model}, style=tmp_path / style, output=tmp_path / "d", **settings)
    assert not (tmp_path / "d").exists()


def test_bf16(done: Path, models: list[Path], folders: dict[str, Path], tmp_path: Path) -> None:
    """Models run in bf16, metrics in float32: baselines do not change, models hardly."""
    half = evaluate(models, **folders, output=tmp_path, precision="bf16-mixed", **SMALL)
    for score, full in zip(half, scores(done), strict=True):
        same = score.model in (IDENTITY_BASELINE, STYLE_COPY_BASELINE)
        assert score.value.value == pytest.approx(full.value.value, rel=1e-6 if same else 0.02)
        assert same or score.value.value != full.value.value
        assert score.value.ratio(full.value) if full.value.value else same


def test_results_of_two_folders_can_be_compared_or_refused(
    done: Path, models: list[Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    again = evaluate(models[:1], **folders, output=tmp_path / "same", num_workers=1, **{**SMALL, "batch_size": 4})
    here = {(score.model, score.value.key.metric): score.value for score in scores(done)}
    for score in again:
        before = here[score.model, score.value.key.metric]
        assert score.value.difference(before) == pytest.approx(0, abs=1e-5 * abs(before.value))
    other = evaluate([], **folders, output=tmp_path / "other", **{**SMALL, "crop": 24})
    with pytest.raises(ValueError, match=r"frame \(short40 crop24, short40 crop32\)"):
        other[0].value.difference(here[IDENTITY_BASELINE, "content_loss"])
    fewer = evaluate([], **folders, output=tmp_path / "fewer", pairs=5, **SMALL)
    with pytest.raises(ValueError, match="pair_set"):
        fewer[0].value.difference(here[IDENTITY_BASELINE, "content_loss"])


def test_other_settings_are_refused(done: Path, models: list[Path], folders: dict[str, Path], tmp_path: Path) -> None:
    """In a folder that is there already, and without touching it."""
    before = files(done)
    for changes, message in (
        ({"batch_size": 4}, r"differs in batch_size \(3, now 4\)"),
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"pairs": 5}, r"pairs \(None, now 5\)"),
        ({"precision": "bf16-mixed"}, r"precision \(32-true, now bf16-mixed\)"),
        ({"metrics": ["ssim"]}, r"metrics \(content_loss .*, now ssim\)"),
        ({"encoder": "vgg19_random/16"}, r"content_loss: backbone \(vgg19_random/8, vgg19_random/16\)"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(models, **{**SMALL, **folders, **changes}, output=done)
    with pytest.raises(ValueError, match="the model adain"):
        evaluate({"adain": thin_model("adain", content_weight=2.0)}, **folders, output=done, **SMALL)
    for name in ("content", "style"):
        for path in folders[name].rglob("*.png"):
            write_image(read_image(path), tmp_path / name / path.relative_to(folders[name]))
    write_image(torch.rand(3, 40, 40), tmp_path / "style" / "y.png")
    with pytest.raises(ValueError, match=r"images \("):
        evaluate(models, tmp_path / "content", tmp_path / "style", done, **SMALL)
    (tmp_path / "style" / "y.png").unlink()
    with pytest.raises(ValueError, match=r"y\.png does not exist"):
        evaluate(models, tmp_path / "content", tmp_path / "style", done, **SMALL)
    assert files(done) == before


def test_mistakes(models: list[Path], folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(models: Any, **changes: Any) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            evaluate(models, **{**SMALL, **folders, "output": tmp_path / "out", **changes})
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "Two models are called adain" in refused([models[0], models[0]])
    assert "Two models are called style copied" in refused({"style copied": models[0]})
    assert "There is no system 'adane': did you mean 'adain'?" in refused(["adane"])
    assert "There is no metric 'ssin': did you mean 'ssim'?" in refused(models, metrics=["ssin"])
    assert "download alexnet_torchvision" in refused(models, metrics=["lpips"])
    assert "download art_inception" in refused(models, metrics=["fid"])
    assert "4 contents and 3 styles make 12 pairs, not 13" in refused(models, pairs=13)
    assert "crop 64 is larger than size 40" in refused(models, crop=64)
    assert "batch_size must be 1 or more, not 0" in refused(models, batch_size=0)
    assert "crop must be 16 pixels or more, not 8" in refused(models, crop=8)
    assert "There is no folder" in refused(models, style=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "There is no image in" in refused(models, style=tmp_path / "empty")
    for changes, message in (
        ({"pairs": 0}, "pairs must be 1 or more, not 0"),
        ({"pairs": -3}, "pairs must be 1 or more, not -3"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"size": 0}, "size 0 and crop 32 must be at least 1 pixel"),
        ({"size": 3_000_000}, "size must be 17320 pixels or less, not 3000000"),
        ({"num_workers": -1}, "num_workers must be 0 or more, not -1"),
        ({"metrics": []}, "There is no metric given: choose from content_loss"),
        ({"format": "xls"}, "format must be 'csv' or 'parquet', got 'xls'"),
        ({"reference": "adian"}, "There is no model 'adian': did you mean 'adain'?"),
        ({"split": ["vol"]}, "split must be 'train', 'val' or 'test', got 'vol'"),
        ({"split": []}, "There is no split given: choose from val, test and train"),
        ({"precision": "8"}, "precision must be '32-true', '16-mixed' or 'bf16-mixed', got '8'"),
        ({"accelerator": "nonsense"}, "These do not work on this machine (accelerator nonsense"),
        ({"strategy": "nonsense"}, "These do not work on this machine (accelerator cpu, devices 1, strategy nonsense"),
        ({"devices": 0}, "These do not work on this machine"),
    ):
        assert message in refused(models, **changes)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"not an image")
    assert "a.jpg is not an image" in refused(models, content=tmp_path / "broken")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot be written to .*file \(File exists\): choose another folder"):
        evaluate(models, **folders, output=tmp_path / "file", **SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "own.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"no settings\.json, but own\.csv"):
        evaluate(models, **folders, output=tmp_path / "full", **SMALL)


def test_an_encoder_file_that_stops_early(folders: dict[str, Path], tmp_path: Path) -> None:
    """Losses use the layers that the file holds, and their key names them."""
    encoder = stylezoo.vgg.VGG("vgg19_random/8", last="relu4_1")
    torch.save(dict(encoder.tensors), tmp_path / "encoder.pth")
    settings = {**SMALL, "encoder": "vgg19_normalised", "encoder_weights": str(tmp_path / "encoder.pth")}
    summary = evaluate([], **folders, output=tmp_path / "out", **settings)
    layers = {score.value.key.metric: dict(score.value.key.settings).get("layers") for score in summary}
    assert layers["content_loss"] == "1 relu4_1"
    assert layers["style_loss"] == " + ".join(f"0.25 relu{block}_1" for block in range(1, 5))
    assert layers["classic_style_loss"] == " + ".join(f"1 relu{block}_1" for block in range(1, 5))


def test_command(
    models: list[Path], folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for name, value in {**SMALL, **folders}.items() for word in (f"--{name}", str(value))]
    output = ["--output", str(tmp_path / "out"), "--pairs", "4", "--metrics", "ssim", "style_loss"]
    main(["evaluate", "--models", str(models[0]), f"again={models[0]}", *words, *output, "--reference", "adain"])
    lines = capsys.readouterr().out.splitlines()
    parts = [*(number for number, line in enumerate(lines) if line.endswith(":")), len(lines)]
    assert [lines[number].split(" over")[0].split(",")[0] for number in parts[:3]] == [
        "Means",
        "Medians",
        "Values divided by those of adain",
    ]
    assert any(line.split() == ["again", *["1", "[1,", "1]", "(1)"] * 2] for line in lines)
    shown = {line.split("  ")[0]: line.split()[-6:] for line in lines[parts[0] : parts[1]]}
    assert shown["adain"] == shown["again"] and {IDENTITY_BASELINE, STYLE_COPY_BASELINE} <= shown.keys()
    assert any("summary.md" in line for line in lines)
    commands._print_wide_table(["model", "a", "b"], [["x", "1" * 30, "2" * 30]], 50)
    wide = capsys.readouterr().out
    assert max(map(len, wide.splitlines())) <= 50 and wide.count("model") == 2 and "1" * 30 in wide and "2" * 30 in wide
    with pytest.raises(SystemExit, match="1"):
        main(["evaluate", "--models", str(models[0]), *words, *output, "--seed", "1"])
    said = capsys.readouterr().err.strip()
    assert "seed (0, now 1)" in said and "Traceback" not in said


@pytest.mark.parametrize("folder", sorted((ROOT / "results").glob("evaluation*")), ids=lambda folder: folder.name)
def test_committed_results_stay_readable(folder: Path) -> None:
    """The summary of every committed folder follows from its values and settings."""
    summary, settings = scores(folder), read_settings(folder)
    assert settings is not None
    names = ["content (unchanged)", "style (copied)", *settings["models"]]
    assert list(dict.fromkeys(score.model for score in summary)) == names
    for score, row in zip(summary, rows(folder / "summary.csv"), strict=True):
        key = score.value.key
        found = [score.model, key.metric, score.better, str(score.value.n)]
        found += [key.backbone, key.sha256, key.resize, key.images]
        assert found == [
            row[name] for name in ("model", "metric", "better", "n", "backbone", "sha256", "resize", "pictures")
        ]
        assert dict(key.settings) == json.loads(row["settings"])
        numbers = [score.value.value, score.low, score.high]
        assert numbers == pytest.approx([float(row[name]) for name in ("mean", "low", "high")], rel=1e-9, abs=1e-12)


def test_format_of_the_folder(done: Path) -> None:
    """The names that committed folders of results have do not change."""
    settings = json.loads((done / "settings.json").read_text())
    assert [*settings] == ["format", "content", "style", "protocol", "metrics", "models"]
    words = ["pairs", "seed", "size", "crop", "batch_size", "precision", "split", "device", "pictures"]
    assert [*settings["protocol"]] == words
    key = settings["metrics"]["style_loss"]["key"]
    assert [*key] == ["metric", "backbone", "sha256", "resize", "pictures", "settings"] and key["pictures"] == "float"
    columns = ["model", "metric", "mean", "low", "high", "n", "better"]
    columns += ["backbone", "sha256", "resize", "pictures", "settings", "median", "p10", "p90"]
    columns += ["reference", "ratio_median", "ratio_p10", "ratio_p90", "ratio_of_means", "ratio_n"]
    assert [*rows(done / "summary.csv")[0]] == columns
    assert {path.stem for path in done.glob("*.csv")} == {
        *("content_unchanged", "style_copied", "adain", "microast", "pairs", "summary")
    }
