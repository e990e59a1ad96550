"""Studies: every one runs and writes what it says it writes; the checkerboard measure; the command."""

from __future__ import annotations

import csv
import inspect
import math
import os
import shlex
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from conftest import thin_model
from lightning.pytorch import Callback
from PIL import Image

from stylezoo import studies
from stylezoo.checkpoints import save_model
from stylezoo.cli import main
from stylezoo.commands import COMMANDS
from stylezoo.errors import StylezooError
from stylezoo.images import write_image
from stylezoo.metrics import checkerboard
from stylezoo.studies.base import COMMON_SETTINGS, RANGES, Setting, Study, StudyResult, as_latex, command, write
from stylezoo.studies.material import Material, encoder_by_its_name
from stylezoo.studies.pairs import product_pairs, random_pairs
from stylezoo.studies.style_interpolation import bilinear
from stylezoo.studies.upsampling_checkerboard import added
from stylezoo.studies.verdicts import cannot_be_said

pytest.importorskip("matplotlib", reason="studies draw figures (pip install stylezoo[docs])")

PAIRED = {"steps": 2, "crop": 32, "size": 48, "batch_size": 2, "encoder": "vgg19_random/8"}
SINGLE = {"steps": 2, "batch_size": 2, "images": 2, "width": 0.125, "encoder": "vgg16_random/8"}
CASES: dict[
    str, tuple[dict[str, Any], int, set[str], set[str]]
] = {  # settings, rows, some columns, files but md, csv and tex
    "norm_convergence": (
        {**SINGLE, "size": 32, "runs": 1},
        5,
        {"norm", "data", "content", "style", "loss", "loss / instance"},
        {"norm_convergence.png", "norm_convergence_curves.csv"},
    ),
    "upsampling_checkerboard": (
        {**SINGLE, "crop": 32, "size": 80, "initializations": 1},
        7,
        {"upsample", "step", "period 2, dB", "period 4, dB"},
        {"upsampling_checkerboard.png", "upsampling_checkerboard_images.png"},
    ),
    "alpha_sweep": (
        {**PAIRED, "images": 2, "alphas": 3},
        4,
        {"model", "alpha", "content", "style"},
        {"alpha_sweep.png", "alpha_sweep_images.png"},
    ),
    "style_interpolation": (
        {**PAIRED, "side": 3},
        9,
        {"row", "column", "weight top left", "style loss bottom right"},
        {"style_interpolation.png"},
    ),
    "identity": (
        {**PAIRED, "images": 2},
        8,
        {"model", "painted with", "PSNR", "SSIM", "mean difference"},
        {"identity.png"},
    ),
    "levels": (
        {**PAIRED, "images": 2},
        5,
        {"model", "trained parameters", "content", "style", "SSIM"},
        {"levels.png", "levels_images.png"},
    ),
    "balanced_loss": (
        {**PAIRED, "images": 3, "systems": ("adain",)},
        11,
        {"model", "trained with", "balanced", "classic", "paper: balanced (found)", "re-run: classic (found)"},
        {"balanced_loss.png", "balanced_loss_layers.csv", "balanced_loss_ratios.csv"},
    ),
    "loss_distributions": (
        {**PAIRED, "images": 3, "systems": ("adain",)},
        6,
        {"model", "loss", "median", "95 % / 5 %", "skewness"},
        {"loss_distributions.png", "loss_distributions_pairs.csv"},
    ),
    "supremum_correlation": (
        {**PAIRED, "images": 3, "systems": ("adain",)},
        8,
        {"model", "layer", "Pearson", "paper: Pearson, about (found)"},
        {"supremum_correlation.png"},
    ),
    "loss_exemplars": (
        {**PAIRED, "images": 3, "examples": 1},
        4,
        {"model", "chosen for", "photo", "painting", "classic", "balanced"},
        {"loss_exemplars.png"},
    ),
    "stytr2_losses": (
        {**PAIRED, "images": 2, "systems": ("adain",)},
        13,
        {"model", "system", "content", "style", "paper: style loss, unsure (from memory)"},
        {"stytr2_losses.png"},
    ),
    "content_leak": (
        {**PAIRED, "images": 2, "systems": ("adain",), "rounds": (1, 3)},
        2,
        {"model", "round", "content to round 1", "SSIM to the photo"},
        {"content_leak.png", "content_leak_images.png"},
    ),
    "temporal": (
        {**PAIRED, "images": 2, "systems": ("adain",)},
        3,
        {"model", "training", "warp error", "shift", "tilt", "content", "style"},
        {"temporal.png", "temporal_images.png"},
    ),
    "styleid": (
        {**PAIRED, "images": 2, "systems": ("adain",)},
        12,
        {"model", "system", "ArtFID", "HistoGAN", "CFSD", "paper: ArtFID (from memory)"},
        {"styleid.png"},
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images: four of them are held out."""
    folder = tmp_path_factory.mktemp("material")
    for index in range(20):
        image = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(index))
        write_image(torch.nn.functional.interpolate(image, size=(40, 48), mode="bilinear"), folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A model file that takes any style image."""
    path = tmp_path / "thin.safetensors"
    save_model(thin_model("adain"), path)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", CASES)
def test_every_study_runs(name: str, folder: Path, tmp_path: Path) -> None:
    settings, count, columns, others = CASES[name]
    result, files = studies.run(name, tmp_path, content=str(folder), style=str(folder), **settings)

    assert {path.name for path in files} == {f"{name}.csv", f"{name}.tex", f"{name}.md", *others}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}
    rows = read(tmp_path / f"{name}.csv")
    assert len(rows) == count and columns <= rows[0].keys()
    assert [list(row) for row in rows] == [list(result.rows[0])] * count
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert min(image.size) > 100 and image.convert("L").getextrema() != (255, 255)
    summary = (tmp_path / f"{name}.md").read_text()
    assert f"python -m stylezoo reproduce {name}" in summary and "--steps 2" in summary
    assert all(path.name in summary for path in files if path.suffix == ".png")
    if "models" in studies.get(name).settings:
        assert "Trained briefly" in summary


def test_no_study_is_forgotten() -> None:
    """A study is run here, or by name in a file of its own under tests/studies."""
    others = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in studies.studies() if name not in CASES and f'"{name}"' not in others] == []


def test_the_seed_decides(folder: Path) -> None:
    settings: dict[str, Any] = {**PAIRED, "images": 1, "content": str(folder), "style": str(folder)}
    first, again, other = (studies.get("levels")(**settings, seed=s, systems=("sanet",)) for s in (0, 0, 1))
    assert first.rows == again.rows
    assert first.rows[1] != other.rows[1]


@pytest.mark.parametrize("name", ["alpha_sweep", "style_interpolation", "identity", "levels"])
def test_given_models_are_studied(name: str, small_model: Path, folder: Path, tmp_path: Path) -> None:
    settings = {**CASES[name][0], "steps": 1_000_000}  # not used: nothing is trained
    result, _ = studies.run(
        name, tmp_path / "out", models=[str(small_model)], content=str(folder), style=str(folder), **settings
    )
    assert "thin" in {row["model"] for row in result.rows}
    assert result.notes[0] == "Models: thin.safetensors, as given."


def test_adain_with_itself_is_its_reconstruction(small_model: Path, folder: Path) -> None:
    settings = {"models": (str(small_model),), "content": str(folder), "size": 48, "images": 3}
    rows = {(r["model"], r["painted with"]): r for r in studies.get("identity")(**settings, style=str(folder)).rows}
    itself, reconstruction = rows["thin", "itself"], rows["thin", "itself, alpha 0 (floor)"]
    assert itself["SSIM"] == pytest.approx(
        reconstruction["SSIM"], abs=1e-4
    )  # AdaIN of features with their own statistics
    assert rows["(the photo itself)", ""] == {
        "model": "(the photo itself)",
        "painted with": "",
        "PSNR": None,
        "SSIM": pytest.approx(1),
        "mean difference": 0,
    }


def test_curves_have_both_modes_of_batch_normalization(folder: Path) -> None:
    settings = {**CASES["norm_convergence"][0], "content": str(folder), "style": str(folder)}
    result = studies.get("norm_convergence")(**settings)
    points = {(p["norm"], p["data"], p["step"]): p["loss"] for p in result.details["curves"]}
    for step in (0, 1, 2):
        assert points["instance", "val", step] == pytest.approx(points["instance", "val (batch statistics)", step])
        assert points["batch", "val", step] != pytest.approx(points["batch", "val (batch statistics)", step], rel=1e-6)


def test_evaluations_leave_training_alone(folder: Path) -> None:
    from stylezoo.studies.norm_convergence import Curve

    material = Material(str(folder), str(folder), crop=32, batch_size=2)
    settings = {"style_image": str(folder / "00.png"), "norm": "batch", "width": 0.125, "encoder": "vgg16_random/8"}
    curve = Curve(material.photos(2, 32), every=1)
    watched, plain = (material.train("johnson", 2, c, with_styles=False, **settings) for c in ([curve], []))
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True)
    )


def board(period: int, size: int = 128) -> torch.Tensor:
    """Squares of half a period, +1 and -1."""
    index = torch.arange(size) // (period // 2)
    return 1.0 - 2.0 * ((index[:, None] + index[None, :]) % 2)


def smooth(seed: int, size: int = 128) -> torch.Tensor:
    """Noise whose power falls with the square of the frequency, as in photos; (12, 3, size, size) around 0.5."""
    noise = torch.randn(12, 3, size, size, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None].square() + frequency.square()).sqrt().clamp_min(1 / size)
    image = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    return 0.5 + 0.15 * image / image.std((-2, -1), keepdim=True)


def test_checkerboards_are_found() -> None:
    clean = smooth(0)
    none = checkerboard(clean)
    assert abs(none[2]) < 3 and abs(none[4]) < 2
    for period, other in ((2, 4), (4, 2)):
        weak, strong = (checkerboard(clean + amplitude * board(period)) for amplitude in (0.005, 0.05))
        assert weak[period] > none[period] + 1
        assert strong[period] > weak[period] + 2
        assert strong[other] == pytest.approx(none[other], abs=2)
    # Stripes are no chequers but come from the same overlap: they count. Other periods, edges and borders do not.
    assert checkerboard(clean + 0.05 * (torch.arange(128) % 2))[2] > none[2] + 2
    sixteen = checkerboard(clean + 0.05 * torch.sin(torch.arange(128) * 2 * torch.pi / 16))
    assert sixteen == pytest.approx(none, abs=0.1)
    steps = clean + 0.3 * (torch.arange(128) > 50) + 0.3 * (torch.arange(128) > 77)[:, None]
    assert checkerboard(steps) == pytest.approx(none, abs=1.5)


def test_the_scale_of_outputs_does_not_count() -> None:
    photos, pattern = smooth(0), smooth(1) + 0.05 * board(2)
    nearest = added(0.001 * (pattern + 2 * photos), photos)
    assert checkerboard(nearest) == pytest.approx(checkerboard(added(pattern, photos)), abs=1e-3)
    assert added(3 * photos + 0.2, photos).abs().max() < 1e-5


def test_small_images_have_no_spectrum() -> None:
    with pytest.raises(ValueError, match="64 x 64 are needed"):
        checkerboard(torch.zeros(1, 3, 60, 80))


def test_bilinear_weights() -> None:
    assert bilinear(0, 0) == [1, 0, 0, 0] and bilinear(1, 0) == [0, 0, 1, 0]
    assert bilinear(0.5, 0.5) == [0.25] * 4
    assert sum(bilinear(0.3, 0.8)) == pytest.approx(1)


def test_procedural_images_without_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylezoo.studies.material.COUNT", 10)
    material = Material(crop=32, batch_size=2)
    assert material.photos(5, 32).shape == (2, 3, 32, 32)  # a fifth of them is held out
    assert material.photos(5, 32, held_out=False).shape == (5, 3, 32, 32)
    assert material.paintings(1, 32).shape == (1, 3, 32, 32)


def study(result: StudyResult) -> Study:
    def function(*, steps: int = 1) -> StudyResult:
        """What it shows.

        More of it.
        """
        return result

    return Study(
        "sample", "Somebody 2020, table 1", "https://example.org", "A claim.", cannot_be_said("of samples"), function
    )


def test_published_numbers_beside_ours(tmp_path: Path) -> None:
    rows = [{"method": "adain", "paper": 0.018, "ours": 1 / 3}, {"method": "ours, new", "paper": None, "ours": 2}]
    settings = {"models": ["a b", "c"]}
    write(
        study(StudyResult(rows)),
        StudyResult(rows, ["A note."]),
        tmp_path,
        settings,
        command("sample", tmp_path, settings),
    )
    assert (tmp_path / "sample.csv").read_text() == 'method,paper,ours\nadain,0.018,0.333333\n"ours, new",,2\n'
    summary = (tmp_path / "sample.md").read_text()
    assert "# What it shows.\n\nMore of it." in summary and "| adain | 0.018 | 0.3333 |" in summary
    assert f"reproduce sample --output {tmp_path} --models 'a b' c" in summary
    latex = (tmp_path / "sample.tex").read_text()
    assert latex.startswith("\\begin{tabular}{lrr}") and "adain & 0.018 & 0.3333 \\\\\n" in latex
    assert r"a\_b" in as_latex([{"a_b": "50 %"}]) and r"50 \%" in as_latex([{"a_b": "50 %"}])


def test_failed_writing_keeps_older_results(tmp_path: Path) -> None:
    result = StudyResult([{"a": 1}], figures={"": torch.zeros(3, 8, 8)})
    files = write(study(result), result, tmp_path, {}, "command")
    before = [path.read_bytes() for path in files]
    with pytest.raises(ValueError):
        write(study(result), StudyResult([{"a": 2}], figures={"": torch.zeros(1, 8)}), tmp_path, {}, "command")
    assert [path.read_bytes() for path in files] == before
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("flag", [["--list"], ["--list", "true"]])
def test_list(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["reproduce", *flag])
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(studies.studies())


def test_command(small_model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"models": [str(small_model)], "content": str(folder), "style": str(folder), "size": 32, "images": 1}
    assert COMMANDS["reproduce"]("identity", str(tmp_path / "out"), **options) == 0
    shown = capsys.readouterr().out
    assert "thin: SSIM" in shown and str(tmp_path / "out" / "identity.png") in shown


def test_name_needs_no_option(small_model: Path, folder: Path, tmp_path: Path) -> None:
    options = ["--content", str(folder), "--style", str(folder), "--size", "32", "--images", "1"]
    main(["reproduce", "identity", "--output", str(tmp_path / "out"), "--models", str(small_model), *options])
    assert (tmp_path / "out" / "identity.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "norm_convergance", "output": "x"}, "did you mean 'norm_convergence'"),
        ({"name": "zzz", "output": "x"}, "there are .*alpha_sweep.*identity"),
        ({}, "Say what to reproduce"),
        ({"name": "levels"}, "Say what to reproduce"),
        ({"name": "norm_convergence", "output": "x", "models": ["a"]}, "takes no models: its settings are content"),
        ({"name": "levels", "output": "x", "content": "nowhere"}, "no image in nowhere: give --content a folder"),
        ({"name": "levels", "output": "x", "models": ["a.safetensors"]}, "no model file a.safetensors"),
        (
            {"name": "content_leak", "output": "x", "settings": ["round=3"]},
            "takes no round: did you mean 'rounds'",
        ),
        (
            {"name": "adain_loss_vs_iterations", "output": "x", "settings": ["iteratons=3"]},
            "takes no iteratons: did you mean 'iterations'",
        ),
        (
            {"name": "levels", "output": "x", "settings": ["zzz=3"]},
            "takes no zzz: its settings are content, style, models",
        ),
        ({"name": "content_leak", "output": "x", "settings": ["rounds=a"]}, r"rounds takes tuple\[int, ...\], not 'a'"),
        ({"name": "content_leak", "output": "x", "settings": ["rounds"]}, "as NAME=VALUE, such as rounds=1,5,10,20"),
        ({"name": "content_leak", "output": "x", "steps": 1, "settings": ["steps=1"]}, "steps is given twice"),
    ],
)
def test_one_clear_sentence(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        COMMANDS["reproduce"](**arguments)
    assert not any(tmp_path.iterdir())


WHOLE = RANGES.keys() - {"ccpl_weight", "lr", "style_weight", "content_weight", "width"}


def test_every_number_has_a_range_that_has_its_default() -> None:
    for name, registered in studies.studies().items():
        for setting in registered.settings.values():
            if any(number in (setting.type, *get_args(setting.type)) for number in (int, float)):
                assert setting.name in RANGES, (name, setting.name)
            setting.check(setting.default)


def test_numbers_out_of_range_get_one_sentence() -> None:
    """Whatever study they are given to, and before anything is loaded or trained."""
    every = {setting.name: (setting, of) for of in studies.studies().values() for setting in of.settings.values()}
    assert RANGES.keys() <= every.keys()
    for name, (low, _, _) in RANGES.items():
        setting, of = every[name]
        wrong: list[Any] = [-1, 10**40, math.nan, math.inf, True, "3"]
        wrong += [2.5] if name in WHOLE else []
        wrong += [0] if low > 0 else []
        for value in wrong:
            with pytest.raises(StylezooError, match=rf"^{name} is an? .*, not .*\.$"):
                setting.check((value,) if name == "rounds" else value)
        with pytest.raises(StylezooError, match=f"^{name} is"):
            of(**{name: (-1,) if name == "rounds" else -1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"systems": ("adain", "sannet")}, "did you mean 'sanet'"),
        (
            {"systems": ("adain", "johnson")},
            "systems takes systems of the kind arbitrary .*, not johnson: it is single",
        ),
        ({"systems": "adain"}, "systems is a list of values, not 'adain'"),
        ({"single": "adain"}, "single takes systems of the kind single .*, not adain: it is arbitrary"),
        ({"init": "photo"}, "init must be 'noise' or 'content', got 'photo'"),
        ({"style": "nowhere"}, "There is no image in nowhere: give --style a folder of paintings"),
        ({"style": __file__}, "There is no image in .*: give --style a folder of paintings"),
        ({"encoder": "vgg19_slmi"}, "vgg19_slmi"),
        ({"style_loss": "meanstd"}, "meanstd"),
    ],
)
def test_mistakes_are_told_before_the_training(
    settings: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylezoo.studies.material.Trainer", None)
    with pytest.raises(ValueError, match=message):
        studies.get("adain_loss_vs_iterations")(**{"content": str(folder), "style": str(folder), **settings})


def test_a_study_without_models_and_systems() -> None:
    with pytest.raises(StylezooError, match="levels needs a system to train"):
        studies.get("levels")(systems=())


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_the_output_is_checked_before_the_training(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylezoo.studies.material.Trainer", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StylezooError, match="Cannot write to the folder"):
        studies.run("levels", tmp_path / "file" / ("x" if place == "below a file" else ""))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """The images of ``folder`` and files that are none, in every split."""
    target = tmp_path / "broken"
    shutil.copytree(folder, target)
    whole = (folder / "00.png").read_bytes()
    for number in range(12):
        (target / f"!cut{number}.png").write_bytes(whole[: len(whole) // 2])
        (target / f"!empty{number}.jpg").touch()
    write_image(torch.rand(3, 1, 40_000), target / "!strip.png")
    os.mkfifo(target / "!pipe.png")
    return target


def test_broken_images_end_no_study(
    small_model: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named and the next ones take their places."""
    material = Material(str(broken), str(broken))
    assert len(material.style_files(0, 20, 100)) == 20 and len(material.style_files(3, 2, 100)) == 2
    assert len(material.photos(20, 100, held_out=False)) == 20
    assert "skipped: " in capsys.readouterr().err
    for draw, count in (
        (lambda: random_pairs(material, 60, 100, False), 60),
        (lambda: product_pairs(material, 5000, 100, False), 400),
    ):
        pairs = draw()
        said = capsys.readouterr().err
        assert len(pairs) == count and not any(path.name.startswith("!") for pair in pairs.files for path in pair)
        assert all(line.startswith("skipped: ") for line in said.splitlines())
        assert all(said.count(f"!{name}") == 1 for name in ("cut3.png", "empty7.jpg", "strip.png"))
    settings = {**PAIRED, "images": 2, "content": str(broken), "style": str(broken), "systems": ("adain",)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result, _ = studies.run("levels", tmp_path / "out", **settings)
    assert len(result.rows) == 2


def test_only_broken_images(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    material = Material(str(tmp_path), str(tmp_path))
    for use in (lambda: material.photos(2, 32), lambda: random_pairs(material, 2, 32, False)):
        with pytest.raises(StylezooError, match="^None of the . images can be used: "):
            use()


def test_ctrl_c_keeps_older_results(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopping(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("stylezoo.studies.material.RunProgressBar", Stopping)
    (tmp_path / "levels.csv").write_text("older")
    words = ["reproduce", "levels", "--output", str(tmp_path), "--content", str(folder), "--style", str(folder)]
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--set", "systems=adain", "encoder=vgg19_random/8", "--size", "48", "--crop", "32"])
    finally:
        signal.signal(signal.SIGINT, handler)  # the Trainer ignores further signals
    assert stopped.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stylezoo: stopped"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def test_single_style_models_are_refused(folder: Path, tmp_path: Path) -> None:
    save_model(thin_model("johnson", encoder="vgg16_random/8", width=0.125), tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="single-style model: this study needs models for any style"):
        studies.run("identity", tmp_path / "out", models=[str(tmp_path / "one.safetensors")], content=str(folder))


def test_without_matplotlib_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install matplotlib, or stylezoo\[docs\]"):
        studies.run("norm_convergence", tmp_path)


def test_settings_are_keywords_with_defaults_and_help() -> None:
    for name, registered in studies.studies().items():
        for parameter in inspect.signature(registered.function).parameters.values():
            assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty, name
        assert all(setting.help for setting in registered.settings.values()), name
        assert registered.source and registered.paper.startswith("https://")


@pytest.mark.parametrize(("name", "left"), [("loss_exemplars", set()), ("alpha_sweep", {"alpha_sweep.png"})])
def test_charts_only(name: str, left: set[str], folder: Path, tmp_path: Path) -> None:
    """Neither contact sheets nor charts made of images."""
    result, files = studies.run(
        name, tmp_path, charts_only=True, content=str(folder), style=str(folder), **CASES[name][0]
    )
    assert {path.name for path in files} == {f"{name}.csv", f"{name}.tex", f"{name}.md", *left}
    assert result.notes[-1] == "Images are left out (charts_only)."


def test_common_settings_are_the_options_of_reproduce() -> None:
    own = {"name", "output", "list_studies", "settings", "charts_only"}
    assert [name for name in inspect.signature(COMMANDS["reproduce"]).parameters if name not in own] == [
        *COMMON_SETTINGS
    ]


def test_former_names_of_settings(small_model: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="the setting system is now called systems"):
        assert studies.get("alpha_sweep").parse(["system=adain", "alphas=3"]) == {"systems": ("adain",), "alphas": 3}
    settings = {"models": [str(small_model)], "content": str(folder), "style": str(folder), "size": 32}
    with pytest.warns(DeprecationWarning, match="the setting pictures is now called images"):
        studies.run("identity", tmp_path / "former", pictures=1, **settings)
    studies.run("identity", tmp_path / "current", images=1, **settings)
    former, current = ((tmp_path / name / "identity.md").read_text() for name in ("former", "current"))
    assert "--images 1" in current
    assert current == former.replace(str(tmp_path / "former"), str(tmp_path / "current"))


def test_the_encoder_has_the_name_that_a_system_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"encoder": "vgg16_random/8", "encoder_weights": None, "width": 0.5}
    assert encoder_by_its_name("adain", settings) == settings
    monkeypatch.setattr("stylezoo.registry.get", lambda name: lambda loss_encoder, loss_encoder_weights, width: None)
    renamed = {"loss_encoder": "vgg16_random/8", "loss_encoder_weights": None, "width": 0.5}
    assert encoder_by_its_name("johnson", settings) == renamed


@pytest.mark.slow
def test_every_setting_can_be_typed() -> None:
    """What --list prints as a default is understood, and is the default; an empty list alone has no word."""
    for name, registered in studies.studies().items():
        for setting in registered.settings.values():
            if setting.default != ():
                assert registered.parse([f"{setting.name}={setting.default_word}"]) == {
                    setting.name: setting.default
                }, (name, setting)


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        (tuple[str, ...], "adain,sanet", ("adain", "sanet")),
        (tuple[int, ...], "1", (1,)),
        (float, "1e-4", 1e-4),
        (str | None, "null", None),
        (str, "vgg19_random/8", "vgg19_random/8"),
        (int, "2.5", None),
        (Literal["noise", "content"], "photo", None),
    ],
)
def test_values_of_settings(type: Any, text: str, value: Any) -> None:
    setting = Setting("it", type, None, "")
    if value is None and text != "null":
        with pytest.raises(ValueError, match=f"^it takes .*, not '{text}'"):
            setting.parse(text)
    else:
        assert setting.parse(text) == value


def test_settings_of_one_study_by_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are listed; --set changes them; the command in the summary makes the same again."""
    main(["reproduce", "content_leak", "--list"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.strip().splitlines()}
    assert "1,5,10,20" in lines["rounds"] and "After how many rounds" in lines["rounds"] and "Side of" in lines["size"]
    options = ["--content", str(folder), "--style", str(folder), "--size", "48", "--images", "2", "--steps", "1"]
    options += ["--set", "rounds=1,3", "systems=adain", "crop=32", "encoder=vgg19_random/8", "--charts_only"]
    main(["reproduce", "content_leak", "--output", str(tmp_path / "out"), *options])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert before.keys() == {f"content_leak.{suffix}" for suffix in ("md", "csv", "tex", "png")}  # no sheet of images
    rows = read(tmp_path / "out" / "content_leak.csv")
    assert [(row["model"], row["round"]) for row in rows] == [("adain", "1"), ("adain", "3")]
    line = next(line for line in before["content_leak.md"].decode().splitlines() if line.startswith("    python"))
    main(shlex.split(line)[3:])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
