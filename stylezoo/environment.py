"""Environment variables that PyTorch and its libraries read when they are imported.

`settle` sets those that help where a command starts the work. It leaves alone what the user has set, and does nothing once
PyTorch is imported, as in a program that uses the package.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
"""Variables that say how threads of OpenMP wait for work."""

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how many processors a container may use."""


def settle(environment: MutableMapping[str, str] | None = None, quota: Path = QUOTA) -> None:
    """Sets what makes computing on a CPU faster, unless it is set already.

    * Threads that wait for work sleep (``OMP_WAIT_POLICY``). By default they spin, which takes the processor from all that
      runs beside: with two threads on two cores, anything else that computes can make PyTorch ten times slower.
    * There are no more threads than a container may use processors (``OMP_NUM_THREADS``).
    * Memory of tensors comes in pages of 2 MiB where Linux has them (``THP_MEM_ALLOC_ENABLE``), which takes less time to get.

    Args:
        environment: The variables; None takes those of the process.
        quota: Where the quota of the container is.
    """
    if environment is None:
        if "torch" in sys.modules:
            return
        environment = os.environ
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    processors = allowed_processors(quota)
    if processors is not None and processors < (os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(processors))


def allowed_processors(quota: Path = QUOTA) -> int | None:
    """Returns the number of processors that this container may use, rounded up; None if there is no limit.

    Args:
        quota: A file with two numbers, microseconds of computing per period and microseconds of the period, or ``max``.
    """
    try:
        allowance, period = quota.read_text(encoding="ascii").split()
        return max(1, math.ceil(int(allowance) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None
