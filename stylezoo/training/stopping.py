"""Signals that end a run: the current step is finished and a checkpoint is saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import Self

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ONE_EVENT = 3.0
"""Seconds within which signals are one: ``timeout``, ``make`` and ``torchrun`` send theirs beside that of the group."""


class StopOnSignal(Callback):
    """Ends a run with a checkpoint after Ctrl-C, SIGTERM or SIGHUP; a second signal ends it at once.

    The step that is under way is finished first, so that the checkpoint continues exactly. All processes of a run stop after
    the same step. What is no training (setup, validation, prediction) stops immediately. Used as a context manager around
    the run; the exit code is that of a process that the signal has ended, 130 for Ctrl-C and 143 for SIGTERM.

    Args:
        trainer: The run.

    Attributes:
        received: The signal that stops the run.
        batches: Number of batches that the run has trained.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.received: signal.Signals | None = None
        self.batches = 0
        self._since = 0.0
        self._training = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.trainer.callbacks.insert(0, self)  # type: ignore[attr-defined]
        if threading.current_thread() is threading.main_thread():
            ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
            self._before = {number: signal.signal(number, self._handle) for number in ours}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received is not None and isinstance(error, SIGTERMException):
            if self.trainer.is_global_zero:
                print(f"stylezoo: {self._farewell()}", file=sys.stderr, flush=True)
            raise SystemExit(128 + self.received) from None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of the step.

        Lightning has meanwhile put a handler of its own before this one, which calls into torch.distributed wherever the
        program is at that moment.
        """
        self._training = True
        for number in self._before:
            signal.signal(number, self._handle)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agrees with the other processes on whether to stop, before the trainer looks at that."""
        self.batches += 1
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)
            self.received = self.received or (signal.SIGTERM if stop else None)
        self._tell_trainer(self.received is not None)

    def _tell_trainer(self, stop: bool) -> None:
        self.trainer._signal_connector.received_sigterm = stop

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process or (self.received is not None and now - self._since > ONE_EVENT):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.received is not None:
            return
        self.received, self._since = signal.Signals(number), now
        if not self._training:
            raise SIGTERMException
        if self.trainer.world_size == 1:
            self._tell_trainer(True)
        if self.trainer.is_global_zero:
            text = (
                f"{self.received.name}: the run stops after this step and saves a checkpoint; once more stops at once."
            )
            os.write(2, f"\nstylezoo: {text}\n".encode())  # print may be what the signal has interrupted

    def _farewell(self) -> str:
        assert self.received is not None
        if not self._training:
            return f"Stopped by {self.received.name} before the first step."
        last = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
        resume = f"; --ckpt_path {last} goes on from there" if last and os.path.exists(last) else ""
        return f"Stopped by {self.received.name} after step {self.trainer.global_step}{resume}."
