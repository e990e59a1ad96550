"""The folder of a run: no run writes into another one's, and one that fails before its first step leaves none."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from stylezoo.errors import StylezooError
from stylezoo.files import problem
from stylezoo.training.saving import is_inside

try:
    import fcntl
except ImportError:  # Windows: runs are not kept from each other
    fcntl = None  # type: ignore[assignment]

RECORDS = ("metrics.csv", "config.yaml", "hparams.yaml")
"""Files that every command of a run writes."""
RESULTS = ("checkpoints", "images")
"""Folders that belong to one training run and to those that resume it."""
PATIENCE = 8.0
"""Seconds to wait for the processes of a run that was killed a moment ago."""

_locks: list[int] = []
if hasattr(os, "register_at_fork"):  # workers that outlive a killed run must not keep its folder
    os.register_at_fork(after_in_child=lambda: release())


class RunFolder:
    """Claims the folder of a run's logger for one process.

    A run without a version gets the next ``version_N``. In a folder with a fixed name, such as that of the quickstart, what an
    earlier run left keeps its place under a numbered name: ``checkpoints`` becomes ``checkpoints.1``, unless the run is
    resumed from one of these, and ``metrics.csv`` becomes ``metrics.1.csv``.

    Args:
        trainer: The run.
        resumed_from: The checkpoint that it goes on from.
    """

    def __init__(self, trainer: Trainer, resumed_from: str | None) -> None:
        self.trainer, self.resumed_from = trainer, resumed_from
        self.folder: Path | None = None
        self._created: list[Path] = []
        self._renamed: list[tuple[Path, Path]] = []
        self._before: set[str] = set()

    def claim(self) -> None:
        """Makes the folder, and locks it until the process ends.

        Raises:
            StylezooError: If it cannot be written to, or another run uses it.
        """
        logger = self.trainer.logger
        if not isinstance(logger, CSVLogger | TensorBoardLogger) or not self.trainer.is_global_zero:
            return
        fixed = logger._version is not None
        try:
            self.folder = self._make(Path(str(logger.log_dir)), fixed)
            while self.folder is None:  # another run was faster
                logger._version = None
                self.folder = self._make(Path(str(logger.log_dir)), fixed)
            lock(self.folder)
            self._put_aside()
        except OSError as error:
            where = error.filename or logger.log_dir
            raise StylezooError(
                f"The folder of the run, {logger.log_dir}, cannot be made: {where} {problem(error)}. Choose another one"
                " with --trainer.logger.save_dir."
            ) from error

    def _make(self, folder: Path, fixed: bool) -> Path | None:
        """Returns the folder, or None if it is no new one and has to be."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise NotADirectoryError(20, "is no folder", str(folder)) from None
            if not fixed:
                return None
        else:
            self._created = missing
        with open(folder / ".writable", "wb"):
            pass
        os.unlink(folder / ".writable")
        return folder

    def _put_aside(self) -> None:
        assert self.folder is not None
        new = self.trainer.state.fn in (None, TrainerFn.FITTING) and not (
            self.resumed_from is not None and is_inside(self.resumed_from, self.folder)
        )
        there = [self.folder / name for name in (*RECORDS, *(RESULTS if new else ()))]
        there = [path for path in there if path.exists()]
        number = 1
        while any(numbered(path, number).exists() for path in there):
            number += 1
        for path in there:
            path.rename(numbered(path, number))
            self._renamed.append((path, numbered(path, number)))
        self._before = set(os.listdir(self.folder))
        if self._renamed:
            names = ", ".join(path.name for _, path in self._renamed)
            print(f"{self.folder}: what an earlier run left there is called {names} from now on.", flush=True)

    def undo(self) -> None:
        """Removes what a run has written that ended before its first step, if that is nothing but records."""
        if self.folder is None or not self.folder.is_dir():
            return
        with suppress(OSError):
            new = [path for path in self.folder.iterdir() if path.name not in self._before]
            if not all(path.name in RECORDS or path.name.startswith("events.") for path in new):
                return
            for path in new:
                path.unlink()
            for old, renamed in self._renamed:
                renamed.rename(old)
            for path in self._created:
                path.rmdir()


def numbered(path: Path, number: int) -> Path:
    """Returns metrics.1.csv for metrics.csv."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def lock(folder: Path) -> None:
    """Locks a folder for this process and those that it starts; the system unlocks it when they end.

    Raises:
        StylezooError: If another process has locked it.
    """
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            os.close(descriptor)
            raise StylezooError(
                f"Another run is writing to {folder}: wait for its end, or choose another folder"
                " (--trainer.logger.version or --trainer.logger.save_dir)."
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        _locks.append(descriptor)
        return


def release() -> None:
    """Unlocks the folder."""
    while _locks:
        with suppress(OSError):
            os.close(_locks.pop())
