"""The data loader of a run: workers that are killed or stand still are replaced, and signals do not reach them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from stylezoo.data.stream import ResumableSampler, Samples
from stylezoo.download import DataError

RESTARTS = 3
"""How many times in a row workers are replaced before a batch arrives."""
POLL = 1.0
"""Seconds between two looks at the workers while a batch is awaited."""
GRACE = 1.0
"""Seconds that workers have to end by themselves when nothing more is wanted of them."""
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class WorkerLost(Exception):
    """A worker process died, or sent nothing for too long."""


def ignore_stop_signals(worker: int) -> None:
    """Leaves signals to the main process, which ends its workers when it is done; they also end when it dies.

    Schedulers and Ctrl-C send a signal to all processes of a group.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_back(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Delivers signals to this thread after the block; processes that it starts hold them back, too."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerBatches(_MultiProcessingDataLoaderIter):
    """torch's iterator over the batches of worker processes; see `Loader` for what differs.

    A lost worker is noticed where the next batch is awaited. torch itself raises the error from a signal handler, wherever
    the program is: in the middle of an optimizer step, or while a checkpoint is saved.
    """

    def __init__(self, loader: Loader) -> None:
        self._owner = loader
        self._waiting_since: float | None = None
        with held_back(STOP_SIGNALS):  # until a worker ignores them, they would end it
            super().__init__(loader)
        threading.Thread(target=watch, args=(weakref.ref(self),), daemon=True, name="data_watch").start()
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGCHLD)
            if getattr(handler, "__module__", "").startswith("torch.utils.data"):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _try_get_data(self, timeout: float = 0.0) -> tuple[bool, Any]:
        self._waiting_since = started = time.monotonic()
        try:
            while True:
                success, data = super()._try_get_data(POLL)  # type: ignore[no-untyped-call]
                if success:
                    return success, data
                if self._owner.is_stopped():
                    raise SIGTERMException
                if time.monotonic() - started > self._timeout:
                    raise WorkerLost(f"the workers sent nothing for {self._timeout:g} seconds")
        except (RuntimeError, EOFError, OSError) as error:
            codes = self._exit_codes()
            if not codes:
                raise
            raise WorkerLost(f"a worker process ended with code {', '.join(map(str, codes))}") from error
        finally:
            self._waiting_since = None

    def _exit_codes(self) -> list[int]:
        """Returns the exit codes of workers that have ended; one whose connection broke may take a moment."""
        deadline = time.monotonic() + POLL
        while True:
            codes = sorted({worker.exitcode for worker in self._workers if worker.exitcode is not None})
            if codes or time.monotonic() > deadline:
                return codes
            time.sleep(0.01)

    def is_stuck(self) -> bool:
        """Whether the main process waits for a worker in a way that no timeout of torch ends."""
        since = self._waiting_since
        return since is not None and time.monotonic() - since > self._timeout + 2 * POLL

    def _shutdown_workers(self) -> None:
        if not self._shutdown:
            for worker in self._workers:
                if is_halted(worker.pid):
                    worker.kill()  # it would never answer
        impatient = threading.Timer(GRACE, kill, [self._workers])  # torch waits 10 seconds for each worker
        impatient.start()
        super()._shutdown_workers()
        impatient.cancel()
        kill(self._workers)


def kill(workers: Sequence[BaseProcess]) -> None:
    """Ends processes that have nothing to lose."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def watch(reference: weakref.ref[WorkerBatches]) -> None:
    """Kills the workers of an iterator that is stuck, as long as there is one.

    A batch is sent as a file descriptor, which its worker hands over when it is asked: one that was stopped in between
    never answers, and the question has no timeout. Once the worker is dead it fails.
    """
    while True:
        time.sleep(POLL)
        batches = reference()
        if batches is None or batches._shutdown:
            return
        if batches.is_stuck():
            for worker in batches._workers:
                worker.kill()
        del batches


def is_halted(process: int | None) -> bool:
    """Whether a process was stopped by SIGSTOP or a debugger (Linux)."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


class Loader(DataLoader[dict[str, Tensor]]):
    """A DataLoader that reports broken files from the main process, outlives its workers, and has no state of its own.

    A worker that is killed (by the system when memory runs out) or sends nothing for ``timeout`` seconds (stopped, or a disk
    that does not answer) is replaced together with the others, with a warning; the batches are the same ones.
    """

    def _get_iterator(self) -> Any:
        return super()._get_iterator() if self.num_workers == 0 else WorkerBatches(self)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        """Yields batches, {"content": (B, 3, H, W), ...}.

        Raises:
            DataError: If no image can be read, or workers are lost again and again.
        """
        assert isinstance(self.dataset, Samples)
        done = lost = 0
        while True:
            try:
                for batch in super().__iter__():
                    for stream in self.dataset.streams.values():
                        stream.warn()
                    done, lost = done + 1, 0
                    yield batch
                return
            except WorkerLost as error:
                lost += 1
                self._replace_workers(error, done, lost)
            except DataError as error:  # a worker's error holds its traceback
                raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None

    def _replace_workers(self, error: WorkerLost, done: int, lost: int) -> None:
        if isinstance(self._iterator, WorkerBatches):
            self._iterator._shutdown_workers()
            self._iterator = None
        sampler = self.batch_sampler.sampler if type(self.batch_sampler) is BatchSampler else None
        if lost > RESTARTS or not isinstance(sampler, ResumableSampler):
            raise DataError(
                f"Loading images failed {lost} times in a row, {error}: if memory is short, use fewer workers"
                " (data.num_workers, 0 for none) or smaller batches; if the disk is slow, raise data.timeout."
            ) from error
        sampler.skip = done * sampler.batch_size
        warnings.warn(f"Loading images: {error}. New workers go on with the same batch.", stacklevel=3)

    def is_stopped(self) -> bool:
        """Whether a signal has asked the run to stop, which an endless wait for a batch must not delay."""
        trainer = getattr(self.sampler, "trainer", None)
        return isinstance(trainer, Trainer) and trainer.received_sigterm

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state: `ResumableSampler` reads the trainer's counters. Without this method Lightning warns."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores nothing."""


def sources_of_batch(trainer: Trainer, batch: int, limit: int = 8) -> dict[str, list[str]]:
    """Returns the names of the image files that a training batch was made of, by role.

    Args:
        trainer: The run.
        batch: Number of the batch in the whole run, from 0.
        limit: Largest number of names per role.

    Returns:
        Names of files; empty if the run has another kind of data.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, Loader) or not isinstance(loader.sampler, ResumableSampler):
        return {}
    assert isinstance(loader.dataset, Samples)
    numbers = loader.sampler.numbers_of_batch(batch)
    names = {role: [stream.source(i) for i in numbers[:limit]] for role, stream in loader.dataset.streams.items()}
    return {role: [*found, *(["..."] if len(numbers) > limit else [])] for role, found in names.items()}
