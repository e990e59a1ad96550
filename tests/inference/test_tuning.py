"""How engine="auto" chooses: the rule with given timings, and what is remembered."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import thin_model

from stylezoo import StyleModel, cli, create_model
from stylezoo.cpu import has_nnpack
from stylezoo.inference import Stylizer, tuning
from stylezoo.inference.engines import Engine
from stylezoo.inference.tuning import Measurement, Timing, Work, choose_engine, fastest, measure_engines, pays
from stylezoo.inference.winograd import Layer

pytestmark = pytest.mark.skipif(not has_nnpack(), reason="PyTorch has no NNPACK here")

FAST = {"eager": Timing(0, 8.0), "winograd": Timing(0, 4.0), "onnxruntime": Timing(3.0, 2.0)}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StyleModel:
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tuning, "NARROW", 0)  # it stands for one of usual width
    return thin_model("johnson").eval()


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was measured: nothing really, as the timings are given."""
    calls: list[Any] = []

    def measure(model: StyleModel, names: Any = None) -> Measurement:
        calls.append(names)
        return Measurement(FAST, {}, {Layer(8, 8, 3, 16): False})

    monkeypatch.setattr(tuning, "measure_engines", measure)
    monkeypatch.setattr(tuning, "measured", lambda *arguments: Timing(0, 4.0))
    monkeypatch.setattr(tuning, "candidates", lambda model: ["eager", "winograd", "onnxruntime"])
    return calls


def test_preparation_counts_for_every_size() -> None:
    assert fastest(FAST, Work(0.25)) == "winograd"
    assert fastest(FAST, Work(20.0)) == "onnxruntime"
    assert fastest(FAST, Work(20.0, shapes=20)) == "winograd"
    assert fastest({}, Work(20.0)) is None


def test_a_measurement_must_pay() -> None:
    names = ["eager", "winograd", "openvino"]
    assert pays(Work(100.0), 4.0, names)
    assert not pays(Work(100.0), 0.1, names)  # done in 10 seconds
    assert not pays(Work(1.0), 100.0, names)  # a single image
    assert not pays(Work(100.0), 1.0, [*names, "compiled"])


def test_a_single_image_is_not_measured(model: StyleModel, measurements: list[Any]) -> None:
    assert choose_engine(model).name == "winograd"
    assert choose_engine(model, Work(1.0)).name == "winograd"
    assert measurements == []


def test_a_narrow_network_is_computed_in_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path))
    assert choose_engine(create_model("microast").eval()).name == "channels_last"


def test_a_long_job_is_measured_once(model: StyleModel, measurements: list[Any]) -> None:
    pytest.importorskip("onnxruntime")
    told: list[str] = []
    assert choose_engine(model, Work(100.0), told.append).name == "onnxruntime"
    assert measurements == [["eager", "winograd", "onnxruntime"]]
    assert told == ["measuring eager, winograd, onnxruntime for johnson once"]


def test_what_is_remembered_is_used_for_short_jobs_too(model: StyleModel, measurements: list[Any]) -> None:
    tuning.write_measurement(model, Measurement({"eager": Timing(0, 1.0), "winograd": Timing(0, 2.0)}, {}, {}))
    assert choose_engine(model).name == choose_engine(model, Work(100.0)).name == "eager"
    assert measurements == []
    layers = {Layer(8, 8, 3, 16): False}
    tuning.write_measurement(model, Measurement(FAST, {"cuda": "there is none"}, layers))
    engine = choose_engine(model)
    assert engine.name == "winograd" and engine.layers == layers  # type: ignore[attr-defined]
    assert tuning.read_measurement(model) == Measurement(FAST, {"cuda": "there is none"}, layers)


def test_the_memory_is_of_one_model_and_machine(model: StyleModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.write_measurement(model, Measurement(FAST, {}, {}))
    assert tuning.read_measurement(thin_model("johnson", norm="batch").eval()) is None
    assert tuning.read_measurement(thin_model("johnson").eval()) is not None
    monkeypatch.setattr(tuning, "processor", lambda: "another one")
    assert tuning.read_measurement(model) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"timings": {"eager": 1}}}', '{"KEY": {}}'])
def test_a_damaged_memory_is_no_obstacle(content: str, model: StyleModel) -> None:
    file = tuning.memory_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content.replace("KEY", tuning.memory_key(model).replace("\\", "")), encoding="utf-8")
    assert choose_engine(model).name == "winograd"
    tuning.write_measurement(model, Measurement(FAST, {}, {}))
    assert tuning.read_measurement(model) is not None


def test_engines_are_measured_and_checked(model: StyleModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SIDE", 64)
    result = measure_engines(model, ["eager", "winograd"])
    assert result.timings.keys() == {"eager", "winograd"}
    assert all(timing.preparation == 0 and timing.seconds > 0 for timing in result.timings.values())
    assert result.layers and "cuda" in result.obstacles
    assert tuning.read_measurement(model) == result
    original: Callable[..., torch.Tensor] = Engine.decode
    monkeypatch.setattr(tuning.WinogradEngine, "decode", lambda *args: original(*args) + 0.1)
    result = measure_engines(model, ["winograd"])
    assert not result.timings and "differs by 25 of 255" in result.obstacles["winograd"]


def test_slow_bfloat16_is_not_tried(model: StyleModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(tuning, "create_engine", lambda *arguments: pytest.fail("it was tried"))
    assert "slower" in measure_engines(model, ["bfloat16"]).obstacles["bfloat16"]


@pytest.mark.parametrize(("seconds", "fast"), [(1.0, True), (1.19, True), (1.3, False)])
def test_bfloat16_may_be_a_little_slower(seconds: float, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest of three products counts, in each type."""
    clock = itertools.accumulate([0, 9, 0, 1, 0, 2, 0, 9, 0, 8, 0, seconds])
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert tuning.has_fast_bfloat16() == fast and next(clock, None) is None


def test_the_command_shows_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "SIDE", 32)
    cli.main(["tune", "--models", "johnson.minotaur", "--engines", "winograd"])
    shown = capsys.readouterr().out
    assert "johnson.minotaur" in shown and "winograd" in shown and "eager" in shown and "NVIDIA" in shown
    with pytest.raises(SystemExit):
        cli.main(["tune", "--models", "johnson.minotaur", "--engines", "winogard"])
    assert "did you mean 'winograd'" in capsys.readouterr().err


def test_stylizers_share_an_engine(model: StyleModel) -> None:
    engine = choose_engine(model)
    assert Stylizer(model, engine=engine).engine is engine
