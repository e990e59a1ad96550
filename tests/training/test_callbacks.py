"""The progress bar's arithmetic and the image grid's images."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import thin_model
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger
from rich.progress import Task, TaskID

from stylezoo.data import Folder, Pairs
from stylezoo.images import grid, read_image, to_tensor
from stylezoo.training.callbacks import ImageGrid, RunProgressBar, TimeColumn


def fit(pictures: Path, folder: Path, *callbacks: object, **settings: object) -> tuple[Trainer, Pairs]:
    style = Folder(str(pictures), holdout=0.2)
    data = Pairs(Folder(str(pictures), holdout=0.2), style, batch_size=2, size=40, crop=32, num_workers=0)
    logger = CSVLogger(folder, name="", version="")
    quiet = {"enable_model_summary": False, "enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
    trainer = Trainer(callbacks=list(callbacks), logger=logger, **{**quiet, **settings})  # type: ignore[arg-type]
    trainer.fit(thin_model("adain"), data)
    return trainer, data


def test_time_left_is_that_of_the_run(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted in steps of the whole run, over epochs, whatever Lightning calls an epoch."""
    fit(pictures, tmp_path, RunProgressBar(seconds_per_line=0), max_epochs=3, limit_val_batches=0)
    lines = re.findall(r"step (\d+)/(\d+)  loss [\d.e+]+  \d:\d\d:\d\d, (\d:\d\d:\d\d) left", capsys.readouterr().out)
    assert [int(step) for step, _, _ in lines] == list(range(1, len(lines) + 1))
    assert {int(total) for _, total, _ in lines} == {len(lines)} and len(lines) > 5
    assert lines[-1][2] == "0:00:00"


def test_seconds_left_follow_from_the_speed() -> None:
    bar = RunProgressBar()
    bar._first_step = 100

    class Stub:
        estimated_stepping_batches, global_step, progress_bar_metrics = 1100, 200, {"loss": 2.5}
        callbacks: ClassVar[list[Timer]] = []

    assert bar._line(Stub(), elapsed=50.0) == "step 200/1100  loss 2.5  0:00:50, 0:07:30 left"  # type: ignore[arg-type]


def test_seconds_left_end_with_max_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a run that was resumed: 50 of 60 seconds were over before."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    timer = Timer("00:00:01:00")
    timer.load_state_dict({"time_elapsed": {"train": 50.0}})

    class Stub:
        estimated_stepping_batches, global_step, progress_bar_metrics = 600.0, 10, {"loss": 2.5}
        callbacks: ClassVar[list[Timer]] = [timer]

    bar = RunProgressBar()
    assert bar._line(Stub(), elapsed=5.0).endswith("0:00:05, 0:00:10 left")  # type: ignore[arg-type]
    Stub.global_step = 599
    assert bar._line(Stub(), elapsed=59.9).endswith("0:01:00, 0:00:00 left")  # type: ignore[arg-type]
    Stub.estimated_stepping_batches = float("inf")
    assert bar._line(Stub(), elapsed=5.0).endswith("0:00:05, 0:00:10 left")  # type: ignore[arg-type]
    bar.train_progress_bar_id = TaskID(1)
    (column,) = (c for c in bar.configure_columns(Stub()) if isinstance(c, TimeColumn))  # type: ignore[arg-type]
    for number, text in ((1, "0:00:00 • 0:00:10"), (2, "-:--:-- • -:--:--")):
        task = Task(TaskID(number), "", total=10, completed=0, _get_time=time.monotonic)
        assert str(column.render(task)) == text


def test_grid_shows_the_same_validation_pairs(pictures: Path, tmp_path: Path) -> None:
    trainer, data = fit(pictures, tmp_path, ImageGrid(every_n_steps=2, pairs=2), max_steps=5)
    files = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in files] == [f"step_000000{step}.png" for step in (2, 4, 5)]
    last = to_tensor(read_image(files[-1]))
    data.setup("validate")
    dataset = data.val_dataloader().dataset
    pairs = [dataset[i] for i in range(2)]
    model = trainer.lightning_module.eval()
    with torch.no_grad():
        rows = [[p["content"], p["style"], model(p["content"][None], p["style"][None])[0]] for p in pairs]
    expected = grid(rows)
    assert last.shape == expected.shape
    assert float((last - expected.clamp(0, 1)).abs().max()) <= 1 / 255
    first = to_tensor(read_image(files[0]))
    columns = 2 * (32 + 4) + 4
    torch.testing.assert_close(first[..., :columns], last[..., :columns])
    assert not torch.equal(first, last)


def test_no_grid_when_switched_off(pictures: Path, tmp_path: Path) -> None:
    fit(pictures, tmp_path, ImageGrid(every_n_steps=0), max_steps=2)
    assert not (tmp_path / "images").exists()
