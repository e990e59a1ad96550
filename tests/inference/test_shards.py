"""Runs of several processes: who does what, what two of them make together, and how they go on after one was killed."""

from __future__ import annotations

import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import shard_process
import torch
from conftest import NARROW, thin_model
from lightning.pytorch import Trainer
from processes import ends, free_ports, launched, start

import stylezoo
from stylezoo.errors import StylezooError
from stylezoo.images import write_image
from stylezoo.inference import shards
from stylezoo.inference.plan import MANIFEST, Request, make_plan, read_manifest
from stylezoo.inference.shards import VARIABLES, Shard, find_shard
from stylezoo.training import ImageWriter

CONTENTS = 6


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*VARIABLES, *launched(0, 0), "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NAME"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("world", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(("contents", "styles"), [(10, 3), (2, 9), (1, 1)])
def test_shares_are_disjoint_complete_and_even(contents: int, styles: int, world: int) -> None:
    jobs = [(content, style) for style in range(styles) for content in range(contents)]
    shares = [Shard(rank, world).share(jobs, key=lambda job: job[0]) for rank in range(world)]
    assert sorted(job for share in shares for job in share) == sorted(jobs)
    by_content = contents >= world
    assert max(map(len, shares)) - min(map(len, shares)) <= (styles if by_content else 1)
    if by_content:  # each content is read by one process
        assert sum(len({content for content, _ in share}) for share in shares) == contents


def test_a_share_does_not_depend_on_what_exists(tmp_path: Path) -> None:
    """A process that starts later finds images of the others; what is left is shared out as before."""
    for number in range(CONTENTS):
        write_image(torch.rand(3, 16, 16), tmp_path / "contents" / f"{number}.png")
    write_image(torch.rand(3, 16, 16), tmp_path / "style.png")

    def names(rank: int) -> list[str]:
        request = Request(
            [str(tmp_path / "contents")],
            [str(tmp_path / "style.png")],
            tmp_path / "output",
            skip_existing=True,
            shard=Shard(rank, 2),
        )
        return [job.target.name for job in make_plan(request).jobs]

    before = names(0), names(1)
    assert len(before[0]) == len(before[1]) == 3 and not {*before[0]} & {*before[1]}
    write_image(torch.rand(3, 16, 16), tmp_path / "output" / before[0][0])
    assert (names(0), names(1)) == (before[0][1:], before[1])


def test_the_place_is_that_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_shard() == Shard(0, 1) and find_shard().speaker == ""
    with monkeypatch.context() as patch:
        for name, value in launched(1, 1).items():
            patch.setenv(name, value)
        assert find_shard() == Shard(1, 2, 1)
        assert find_shard().speaker == "process 1 of 2: "
    slurm = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "stylize"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StylezooError, match="has 8 tasks, but srun has not started this process for all of them"):
        find_shard()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(StylezooError, match="Use `--ntasks-per-node=8` instead"):
        find_shard()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert find_shard() == Shard(5, 8, 1)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # an interactive shell in a job
    assert find_shard() == Shard(0, 1)


@pytest.mark.parametrize(("own", "expected"), [(None, "4"), ("8", "4"), ("3", "3")])
def test_started_processes_share_the_processors(
    own: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the user has said how many threads each of them has; this process keeps its own."""
    seen: list[str] = []

    def launcher(config: Any, function: Any) -> Any:
        return lambda *arguments: {
            rank: seen.append(os.environ["OMP_NUM_THREADS"]) or (rank, *arguments) for rank in (1, 0)
        }

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launcher)
    monkeypatch.setattr(shards, "allowed_processors", lambda: 8)
    if own is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    assert shards.launch(print, ("a",), 2) == [(0, "a"), (1, "a")]
    assert seen == [expected] * 2 and os.environ.get("OMP_NUM_THREADS") == own


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a model, and what one process makes of them."""
    place = tmp_path_factory.mktemp("shards")
    generator = torch.Generator().manual_seed(0)
    for folder, count in (("contents", CONTENTS), ("styles", 2)):
        for number in range(count):
            write_image(torch.rand(3, 40, 48, generator=generator), place / folder / f"{number}.png")
    (place / "contents" / "broken.png").write_bytes(b"nothing")
    model = thin_model("adain")
    stylezoo.save_model(model, place / "model.safetensors")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(place / "model.ckpt")
    settings = "".join(f"    {name}: {value}\n" for name, value in NARROW.items() if name in model.hparams)
    (place / "model.yaml").write_text(f"model:\n  class_path: AdaIN\n  init_args:\n{settings}")
    return place


def start_other(place: Path, word: str, ports: list[int], monkeypatch: pytest.MonkeyPatch) -> BaseProcess:
    """Starts the second process, and makes this one the first."""
    for name, value in launched(0, ports[0]).items():
        monkeypatch.setenv(name, value)
    environment = {**launched(1, ports[0]), "CUDA_VISIBLE_DEVICES": ""}
    return start(shard_process.second, word, ports[1], folder=place, log=place / word, environment=environment)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed and started again, every image is there once, with the bytes of one process."""
    monkeypatch.chdir(place)
    assert shard_process.stylize("one") == 1  # a content is broken
    assert shard_process.predict("predicted_by_one") == 0
    assert len(files_of(place / "one")) == CONTENTS and len(files_of(place / "predicted_by_one")) == 7
    capsys.readouterr()

    with monkeypatch.context() as patch:
        other = start_other(place, "first", free_ports(2), patch)
        try:
            assert shard_process.stylize("two") == 1
            assert ends(other) == -9
        finally:
            other.kill()
    said = capsys.readouterr()
    assert "process 0 of 2: another process has ended before its share was done" in said.err
    assert len(files_of(place / "two")) == 4  # three of this process, one of the other
    before = {file.name: file.stat().st_mtime_ns for file in (place / "two").glob("*.png")}

    with monkeypatch.context() as patch:
        ports = free_ports(2)
        other = start_other(place, "again", ports, patch)
        try:
            assert shard_process.stylize("two", "--skip_existing") == 1
            said = capsys.readouterr()
            patch.setenv("MASTER_PORT", str(ports[1]))
            again = ["--trainer.devices=2", "--predictions.skip_existing=true"]
            assert shard_process.predict("predicted", *again) == 0
            assert ends(other) == 0
        finally:
            other.kill()
    assert files_of(place / "predicted") == files_of(place / "predicted_by_one")
    assert said.out == "2 of 7 images stylized, 1 failed, 4 exist already: two\n"
    assert "images stylized" not in (place / "again.out").read_text() + (place / "again.err").read_text()
    assert (place / "codes").read_text() == "1 0"
    assert files_of(place / "two") == files_of(place / "one")
    for name, written in before.items():
        assert (place / "two" / name).stat().st_mtime_ns == written
    listed, expected = (read_manifest(place / folder / MANIFEST) for folder in ("two", "one"))
    assert sorted(row["output"] for row in listed) == sorted(row["output"] for row in expected)
    assert {row["output"]: row for row in listed} == {row["output"]: row for row in expected}


def test_prediction_goes_on_where_it_was_interrupted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert shard_process.predict("interrupted") == 0
    whole = files_of(place / "interrupted")
    lost = max(whole)
    (place / "interrupted" / lost).unlink()
    for name in {*whole} - {lost}:
        (place / "interrupted" / name).write_bytes(b"left alone")
    assert shard_process.predict("interrupted", "--predictions.skip_existing=true") == 0
    assert files_of(place / "interrupted") == dict.fromkeys(whole, b"left alone") | {lost: whole[lost]}
    assert shard_process.predict("interrupted", "--predictions.skip_existing=true") == 0  # nothing is left to do
    with pytest.raises(StylezooError, match="name it with --predictions.folder"):
        ImageWriter(skip_existing=True)
