"""Loggers do not end a run: a log that cannot be written is a warning, and W&B that cannot be reached is logged offline."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

METHODS = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "save", "finalize", "after_save_checkpoint")
SECONDS = 5.0
"""How long W&B may take to answer."""


def make_lenient(trainer: Trainer) -> None:
    """Prepares the loggers of a run; those that cannot even start are left out."""
    for logger in list(trainer.loggers):
        if isinstance(logger, WandbLogger) and trainer.is_global_zero and not start_wandb(logger):
            trainer.loggers = [other for other in trainer.loggers if other is not logger]
            continue
        for name in METHODS:
            if hasattr(logger, name):
                setattr(logger, name, lenient(getattr(logger, name), logger))


def lenient(method: Callable[..., Any], logger: Logger) -> Callable[..., Any]:
    """Returns a method of a logger that warns where the method raises, the first time."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a logger may raise anything, and training goes on
            warn_once(logger, error)
            return None

    return call


def warn_once(logger: Logger, error: Exception) -> None:
    """Warns that a logger has failed, once for each logger."""
    if not getattr(logger, "_has_failed", False):
        logger._has_failed = True  # type: ignore[attr-defined]
        reason = " ".join(str(error).split()) or type(error).__name__
        rank_zero_warn(
            f"{type(logger).__name__} cannot log ({reason}). The run goes on; parts of its log may be missing."
        )


def start_wandb(logger: WandbLogger) -> bool:
    """Starts a W&B run, offline if W&B does not answer.

    Returns:
        Whether it could be started.
    """
    import wandb

    online = (
        not logger._offline and os.environ.get("WANDB_MODE", "online") in ("online", "shared") and wandb.run is None
    )
    reason = wandb_problem() if online else None
    if reason is None:
        try:
            if online:
                logger._wandb_init.setdefault("settings", wandb.Settings(init_timeout=30))
            _ = logger.experiment
            return True
        except Exception as error:  # noqa: BLE001
            reason = " ".join(str(error).split()) or type(error).__name__
    rank_zero_warn(f"W&B: {reason}. The run is logged offline; `wandb sync` uploads it later.")
    logger._offline = True
    logger._wandb_init["mode"] = "offline"
    try:
        _ = logger.experiment
    except Exception as error:  # noqa: BLE001
        rank_zero_warn(f"W&B cannot log offline either ({error}): the run goes on without it.")
        return False
    return True


def wandb_problem() -> str | None:
    """Says why W&B cannot be used, or returns None."""
    import requests
    import wandb

    address = wandb.Settings().base_url
    try:
        requests.get(address, timeout=SECONDS)
    except requests.RequestException as error:
        return f"{address} does not answer ({type(error).__name__})"
    return None
