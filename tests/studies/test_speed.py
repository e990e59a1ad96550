"""Tables of speed, size and convergence: every line is measured, and published numbers stay what they are."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pytest
import torch
from conftest import thin_model
from PIL import Image

import stylezoo
from stylezoo import StyleModel, studies
from stylezoo.checkpoints import create_model, save_model
from stylezoo.registry import get
from stylezoo.studies import adain_loss_vs_iterations as convergence
from stylezoo.studies import cin_styles, timing
from stylezoo.studies.verdicts import Row
from stylezoo.vgg import VGG

pytest.importorskip("matplotlib", reason="studies draw figures (pip install stylezoo[docs])")

SPEED = {
    "adain_speed": "AdaIN",
    "johnson_speed": "Johnson et al.",
    "msgnet_size_speed": "MSG-Net-100",
    "sanet_speed": "AdaIN",
    "linear_transfer_speed": "Linear transfer, relu4_1",
    "magenta_speed": "Dumoulin et al.",
    "stytr2_speed": "AdaIN",
}
THIN = {"encoder": "vgg19_random/8", "steps": 2, "crop": 32, "size": 32, "batch_size": 2}


def by_method(rows: Sequence[Row], size: int) -> dict[str, Row]:
    return {str(row["method"]): row for row in rows if row["size"] == size}


# Speed, measured


@pytest.mark.slow
def test_every_system_is_measured(tmp_path: Path) -> None:
    result, files = studies.run("adain_speed", tmp_path, size=48, images=2)

    assert {path.name for path in files} == {f"adain_speed{s}" for s in (".md", ".csv", ".tex", ".png", "_rounds.csv")}
    rows = by_method(result.rows, 48)
    assert len(rows) == len(result.rows)
    measured = {row["system"]: row for row in rows.values() if row["ms"] is not None}
    assert set(measured) == set(stylezoo.list_models())
    parameters = {
        "adain": 3_505_740 + 3_505_219,
        "johnson": 1_679_235,
        "msgnet": 2_386_147,
        "magenta": 10_986_562,
        "stytr2": 35_394_115,
        "texture_nets": 116_915,
    }
    assert {name: measured[name]["parameters"] for name in parameters} == parameters
    assert rows["Dumoulin et al."]["parameters"] == 1_674_432 + 32 * 3_206
    for system, row in measured.items():
        assert row["kind"] == get(str(system)).kind
        assert 0 < row["ms"] <= row["ms with style encoding"]
        assert row["ratio to AdaIN"] == pytest.approx(row["ms"] / rows["AdaIN"]["ms"])
        megabytes = None if row["kind"] == "optimization" else pytest.approx(4e-6 * row["parameters"], rel=0.05)
        assert row["MB"] == megabytes
    assert rows["Gatys et al."]["ms"] > 50 * rows["AdaIN"]["ms"]
    assert rows["Chen & Schmidt"]["ms"] is None
    # Nothing is published for 48 pixels.
    assert all(value is None for row in rows.values() for column, value in row.items() if "paper" in column)

    with (tmp_path / "adain_speed_rounds.csv").open(newline="") as file:
        rounds = [row for row in csv.DictReader(file) if row["model"] == "adain"]
    assert [row["round"] for row in rounds] == ["1", "2"]
    assert 1000 * median(float(row["paint, s"]) for row in rounds) == pytest.approx(rows["AdaIN"]["ms"], rel=1e-4)
    summary = (tmp_path / "adain_speed.md").read_text()
    assert timing.machine() in summary and "Untrained weights" in summary
    with Image.open(tmp_path / "adain_speed.png") as image:
        assert min(image.size) > 200 and image.convert("L").getextrema() != (255, 255)


def test_the_machine_is_named() -> None:
    assert torch.__version__ in timing.machine()
    if not torch.cuda.is_available():
        assert f"{torch.get_num_threads()} of " in timing.machine()


def test_chosen_systems_and_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_model(thin_model("microast"), path)
    result = studies.get("stytr2_speed")(models=("efdm", str(path)), size=48, images=1)
    rows = by_method(result.rows, 48)
    assert {method for method, row in rows.items() if row["ms"] is not None} == {"AdaIN", "efdm", "mine"}
    assert rows["mine"]["MB"] == path.stat().st_size / 1e6


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def once(model: Any, content: torch.Tensor, style: torch.Tensor) -> timing.Sample:
        order.append((model, content.shape[-1]))
        return 0.0, float(len(order))

    monkeypatch.setattr(timing, "time_once", once)
    samples = timing.measure({"a": "A", "b": "B"}, [32, 48], 2)  # type: ignore[dict-item]
    assert order == [(m, size) for size in (32, 48) for m in "ABBAAB"]  # no model always follows the same
    assert samples["b", 32] == [(0.0, 3.0), (0.0, 6.0)]  # the first round does not count


def test_what_the_clock_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, *(10.0, 11.0, 14.0, 16.0, 18.0, 20.0), 0.0, 2.0, 5.0])
    monkeypatch.setattr(timing, "now", lambda device: next(clock))
    images = torch.rand(2, 1, 3, 32, 32)
    assert timing.time_once(thin_model("adain"), *images) == (1.0, 4.0)
    optimizes = thin_model("gatys", iterations=3)
    assert timing.time_once(optimizes, *images) == (4.0, 2.0)  # 10 seconds, 3 iterations of 2 after the first
    assert optimizes.on_iteration is None
    assert timing.time_once(thin_model("cin"), *images) == (2.0, 3.0)


# Speed, published


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """report(name) makes a speed table as if every image had taken 2 seconds to encode and 4 to decode, AdaIN's half."""
    seconds = {"adain []": (1.0, 2.0)}
    monkeypatch.setattr(timing, "untrained", lambda methods: {m.key: _Kind(m.system) for m in methods})
    monkeypatch.setattr(timing, "footprint", lambda model: (1000, 0.004))
    monkeypatch.setattr(
        timing,
        "measure",
        lambda models, sizes, rounds: {(k, size): [seconds.get(k, (2.0, 4.0))] for size in sizes for k in models},
    )
    return lambda name, **settings: studies.get(name)(**settings)


class _Kind:
    """Stands for a model of a system."""

    def __init__(self, system: str) -> None:
        self.kind = get(system).kind


@pytest.mark.parametrize(("name", "baseline"), SPEED.items())
def test_published_ratios_beside_ours(name: str, baseline: str, report: Any) -> None:
    result = report(name)
    sizes = list(dict.fromkeys(row["size"] for row in result.rows))
    assert sizes == ([256, 512, 1024] if name in ("johnson_speed", "linear_transfer_speed") else [256, 512])
    published = [column for column in result.rows[0] if column.startswith("paper")]
    provenance = "(found)" if name == "adain_speed" else "(from memory)"
    assert all(column.endswith(provenance) for column in published)
    assert bool(published) == (name not in ("magenta_speed", "stytr2_speed"))
    for size in sizes:
        rows = by_method(result.rows, size)
        assert rows[baseline][f"ratio to {baseline}"] == 1
        for column in published:
            if "ratio" in column and rows[baseline][column] is not None:
                assert rows[baseline][column] == 1
    if published:
        assert any("their times may not" in note for note in result.notes)
        assert any("check before quoting" in note for note in result.notes) == (provenance == "(from memory)")


def test_adain_table(report: Any) -> None:
    rows = by_method(report("adain_speed").rows, 512)
    gatys, chen, cin = (rows[name] for name in ("Gatys et al.", "Chen & Schmidt", "Dumoulin et al."))
    assert gatys["paper: ratio to AdaIN (found)"] == pytest.approx(719, abs=0.5)  # 720 in the authors' README
    assert gatys["ratio to AdaIN"] == 500 * 4 / 2 and gatys["ratio to AdaIN with encoding"] == (2 + 500 * 4) / 3
    assert chen["paper: ratio to AdaIN with encoding (found)"] == pytest.approx(4.144 / 0.098)
    assert chen["ms"] is None and cin["paper: s with encoding on a Titan X (Pascal) (found)"] is None
    assert (cin["ms"], cin["ms with style encoding"], cin["ratio to AdaIN"]) == (4000, 6000, 2)


def test_johnson_table(report: Any) -> None:
    rows = by_method(report("johnson_speed").rows, 1024)
    column = "paper: ratio to Johnson et al. (from memory)"
    assert [round(float(rows[f"Gatys et al., {n}"][column])) for n in (100, 300, 500)] == [204, 613, 1021]
    assert [rows[f"Gatys et al., {n}"]["ratio to Johnson et al."] for n in (100, 300, 500)] == [100, 300, 500]


def test_msgnet_table(report: Any) -> None:
    rows = by_method(report("msgnet_size_speed").rows, 256)
    huang = rows["Huang & Belongie"]
    assert huang["paper: ratio to MSG-Net-100 (from memory)"] == pytest.approx(92.7 / 37.0)  # from images per second
    assert huang["paper: fps on the paper's GPU (from memory)"] == 37.0 and huang["paper: MB (from memory)"] == 28.1
    assert rows["MSG-Net-1K"]["MB"] is None and rows["MSG-Net-100"]["MB"] == 0.004


def test_conflicting_and_missing_times_are_not_quoted(report: Any) -> None:
    assert "contradict" in studies.get("stytr2_speed").description
    assert "not available" in studies.get("magenta_speed").description
    for name in ("stytr2_speed", "magenta_speed"):
        assert not any("paper" in note for note in report(name).notes)


@pytest.mark.parametrize("settings", [{"images": 0}, {"size": 16}])
def test_nothing_to_measure(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0|pixels from 32 to 8192, not 16"):
        studies.get("sanet_speed")(**settings)


def test_unknown_model() -> None:
    with pytest.raises(ValueError, match="did you mean 'adain'"):
        studies.get("sanet_speed")(models=("adian",), size=32, images=1)


# Losses over iterations


def iterations(pictures: Path, **settings: Any) -> studies.StudyResult:
    found: studies.StudyResult = studies.get("adain_loss_vs_iterations")(
        **{**THIN, "content": str(pictures), "style": str(pictures), "images": 2, "iterations": 12, **settings}
    )
    return found


def test_losses_over_iterations(pictures: Path) -> None:
    result = iterations(pictures)
    rows = {str(row["method"]): row for row in result.rows}
    names = ["(the photo itself)", "AdaIN", "Ulyanov et al.", *(f"Gatys et al., {n}" for n in (12, 50, 100, 500))]
    assert list(rows) == names
    assert all(column.endswith("(found)") for column in rows["AdaIN"] if column.startswith("paper"))
    assert rows["AdaIN"]["paper: ln style less the photo's (found)"] == pytest.approx(2.62 - 5.17)
    assert rows["Gatys et al., 50"]["ln style"] is None  # there are fewer iterations
    curve = {int(point["iteration"]): point for point in result.details["curve"]}
    assert set(curve) == set(range(1, 13))
    assert curve[12]["ln style"] == rows["Gatys et al., 12"]["ln style"] < curve[1]["ln style"]
    for name in ("AdaIN", "Ulyanov et al."):
        for term in ("style", "content"):
            reached, loss = rows[name][f"iterations to this {term} loss"], float(rows[name][f"ln {term}"])
            below = [step for step in curve if all(curve[s][f"ln {term}"] <= loss for s in curve if s >= step)]
            assert reached == min(below, default=None)
    assert "Trained briefly" in result.notes[0]


def test_the_photo_is_measured_by_the_formula(pictures: Path) -> None:
    from stylezoo.studies.material import Material

    result = iterations(pictures, iterations=1, systems=(), single=None)
    assert [row["method"] for row in result.rows][:3] == ["(the photo itself)", "AdaIN", "Ulyanov et al."]
    assert result.rows[1]["ln style"] is None and result.rows[1]["paper: ln style (found)"] == 2.62
    material = Material(str(pictures), str(pictures), crop=32)
    photos, (painting,) = material.photos(2, 32), material.paintings(1, 32)
    network, total = VGG("vgg19_random/8"), 0.0
    for photo in photos:
        for layer in ("relu1_1", "relu2_1", "relu3_1", "relu4_1"):
            p, s = (network(image[None], [layer])[layer][0].flatten(1) for image in (photo, painting))
            variances = [(x.var(1) + 1e-5).sqrt() for x in (p, s)]
            total += float((p.mean(1) - s.mean(1)).square().mean() + (variances[0] - variances[1]).square().mean())
    assert float(result.rows[0]["ln style"]) == pytest.approx(math.log(total / 2), abs=1e-4)


def test_a_dip_is_not_reached() -> None:
    curve = {1: (9.0, 0.0), 2: (1.0, 0.0), 3: (5.0, 0.0), 4: (2.0, 0.0), 5: (1.0, 0.0)}
    assert convergence._reached(curve, 0, 2.0) == 4
    assert convergence._reached(curve, 0, 0.5) is None
    assert convergence._reached(curve, 1, 0.0) == 1


def test_given_models_stand_on_the_curve(pictures: Path, tmp_path: Path) -> None:
    save_model(thin_model("adain"), tmp_path / "mine.safetensors")
    result = iterations(pictures, models=(str(tmp_path / "mine.safetensors"),), steps=10**6, iterations=2, paintings=2)
    rows = {str(row["method"]): row for row in result.rows}
    assert rows["mine"]["ln style"] is not None and rows["mine"]["paper: ln style (found)"] == 2.62
    assert "AdaIN" not in rows and rows["Ulyanov et al."]["ln style"] is None
    assert "2 x 2 photos and paintings" in result.notes[-1]


# N styles in one network


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[studies.StudyResult, Path]:
    output = tmp_path_factory.mktemp("cin_styles")
    settings = {key: value for key, value in THIN.items() if key != "crop"} | {"encoder": "vgg16_random/8"}
    folders = {"content": str(pictures), "style": str(pictures)}
    result, _ = studies.run("cin_styles", output, styles=3, width=0.125, images=2, seed=1, **settings, **folders)
    return result, output


def test_percent_of_the_networks_of_one_style(styles: tuple[studies.StudyResult, Path]) -> None:
    result, output = styles
    assert {path.suffix for path in output.iterdir()} == {".md", ".csv", ".tex", ".png"}
    each = result.details["each"]
    assert [row["painting"] for row in each] == ["01", "02", "03"]
    for number, term in enumerate(("content", "style")):
        differences = [100 * (row[f"{term}, shared"] - row[f"{term}, one"]) / row[f"{term}, one"] for row in each]
        row = result.rows[number]
        assert (row["here"], row["here, deviation"]) == pytest.approx((mean(differences), stdev(differences)), rel=1e-4)
        assert any(abs(difference) > 1e-3 for difference in differences)
    assert [row["paper: value (found)"] for row in result.rows] == [8.7, -8.9, 1.6e6, 3e3, 0.2]
    assert [row["paper: deviation (found)"] for row in result.rows[:2]] == [3.9, 16.5]
    shared, one, share = (row["here"] for row in result.rows[2:])
    assert (shared, one) == (1_674_432, 3_206) and share == pytest.approx(0.1915, abs=1e-4)


def test_numbers_of_styles_are_those_of_their_files(tmp_path: Path, pictures: Path) -> None:
    files = [pictures / name for name in ("07.png", "03.png", "11.png")]
    folder = cin_styles._folder(tmp_path / "styles", files)
    model: StyleModel = create_model("cin", styles=folder, width=0.125)
    assert model.styles == [cin_styles._name(number, file) for number, file in enumerate(files)]
    assert [Path(folder, f"{n}.png").read_bytes() for n in model.styles] == [file.read_bytes() for file in files]


@pytest.mark.parametrize(("count", "message"), [(1, "at least 2"), (13, "12 paintings for 13 styles")])
def test_too_few_styles(count: int, message: str, pictures: Path) -> None:
    with pytest.raises(ValueError, match=message):
        studies.get("cin_styles")(styles=count, size=32, content=str(pictures), style=str(pictures))
