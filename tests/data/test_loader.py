"""Workers that are killed, stopped or signalled, and images that change while they are read."""

from __future__ import annotations

import gc
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from stylezoo.data import DataError, Folder
from stylezoo.data.loader import WorkerBatches, ignore_stop_signals
from stylezoo.data.stream import Files


def colors(folder: Path, count: int = 12) -> Path:
    for i in range(count):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(folder / f"{i:02}.png")
    return folder


def read(root: Path, workers: int, disturb: Callable[[list[int]], None] | None = None) -> tuple[Tensor, list[str]]:
    """The images of two epochs, with what is done to the workers after the first batch, and the warnings."""
    folder = Folder(str(root), batch_size=2, size=16, crop=16, num_workers=workers, holdout=0, timeout=1.5)
    values = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder.setup("fit")
        loader = folder.train_dataloader()
        for _ in range(2):
            for batch in loader:
                if not values and disturb is not None:
                    assert loader._iterator is not None
                    disturb([worker.pid for worker in loader._iterator._workers])
                values.append(batch["content"][:, 0, 0, 0].mul(255).round())
        processes = [] if loader._iterator is None else loader._iterator._workers
        loader._iterator = None
        assert not any(worker.is_alive() for worker in processes)
    return torch.cat(values), [str(w.message) for w in caught if "Loading images" in str(w.message)]


@pytest.mark.slow
def test_workers_end_soon(tmp_path: Path) -> None:
    """Also those of a second loader, for which torch waits ten seconds each."""
    folder = Folder(str(colors(tmp_path)), batch_size=4, size=16, crop=16, num_workers=2, holdout=0)
    folder.setup("fit")
    for _ in range(2):
        assert len(list(folder.train_dataloader())) == 3
        started = time.monotonic()
        gc.collect()
        assert time.monotonic() - started < 8


def send(number: int, every: bool = False) -> Callable[[list[int]], None]:
    return lambda workers: [os.kill(worker, number) for worker in (workers if every else workers[:1])] and None


@pytest.mark.parametrize(
    ("disturb", "warning"),
    [
        (send(signal.SIGKILL), "a worker process ended with code -9"),
        (send(signal.SIGKILL, every=True), "a worker process ended with code -9"),
        (send(signal.SIGSTOP), ""),
        (send(signal.SIGSTOP, every=True), ""),
    ],
)
@pytest.mark.slow
def test_lost_workers_are_replaced(disturb: Callable[[list[int]], None], warning: str, tmp_path: Path) -> None:
    """Killed or stopped: the batches are those of an undisturbed run."""
    expected, _ = read(colors(tmp_path), 0)
    values, messages = read(tmp_path, 2, disturb)
    assert torch.equal(values, expected)
    assert messages and warning in messages[0] and "New workers go on with the same batch" in messages[0]


def test_signals_to_the_group_do_not_reach_workers(tmp_path: Path) -> None:
    def disturb(workers: list[int]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            send(number, every=True)(workers)

    values, messages = read(colors(tmp_path), 2, disturb)
    assert not messages and torch.equal(values, read(tmp_path, 0)[0])


def late(worker: int) -> None:
    time.sleep(1)
    ignore_stop_signals(worker)


def test_signals_do_not_reach_workers_that_have_just_started(tmp_path: Path) -> None:
    folder = Folder(str(colors(tmp_path)), batch_size=2, size=16, crop=16, num_workers=2, holdout=0)
    loader = folder.train_dataloader()
    loader.worker_init_fn = late
    batches = WorkerBatches(loader)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        send(number, every=True)([worker.pid for worker in batches._workers])
    assert next(batches)["content"].shape == (2, 3, 16, 16)
    batches._shutdown_workers()


@pytest.mark.slow
def test_workers_that_are_lost_again_and_again_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "read", lambda *_: os._exit(3))
    folder = Folder(str(colors(tmp_path)), batch_size=2, size=16, crop=16, num_workers=1, holdout=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            DataError, match="failed 4 times in a row, a worker process ended with code 3: .*num_workers"
        ):
            next(iter(folder.train_dataloader()))


@pytest.mark.parametrize("workers", [0, 1])
def test_only_when_no_image_is_left_the_run_ends(tmp_path: Path, workers: int) -> None:
    """One by one, images disappear: the next one takes the place, for validation one of training."""
    folder = Folder(str(colors(tmp_path, 4)), batch_size=1, size=16, crop=16, num_workers=workers, holdout=0.2)
    folder.setup("fit")
    (held,) = folder.files("val")
    held.unlink()
    with pytest.warns(UserWarning, match="of training take its place"):
        assert len(list(folder.val_dataloader())) == 1
    for path in [*folder.files("train"), *folder.files("test")]:
        path.unlink()
    with pytest.raises(DataError, match=r"^None of the 2 images in .* can be read any more: .* does not exist\.$"):
        list(folder.train_dataloader())


def test_what_is_held_out_can_be_read(tmp_path: Path) -> None:
    """A broken image that would be the only one held out gets another one beside it."""
    names = {split: [p.name for p in Folder(str(colors(tmp_path))).files(split)] for split in ("train", "val", "test")}  # type: ignore[arg-type]
    (tmp_path / names["val"][0]).write_bytes(b"cut")
    folder = Folder(str(tmp_path))
    folder.setup("fit")
    held = [path.name for path in folder.files("val")]
    assert len(held) == 2 and names["val"][0] in held
    assert [path.name for path in folder.files("test")] == names["test"]
    assert not {*held, *names["test"]} & {path.name for path in folder.files("train")}
