"""Runs of several processes: which share of the images is whose, and what has become of all.

Rank, number of processes and their meeting point are those that torchrun, SLURM (srun), LSF or MPI give to each process,
read by Lightning's cluster environments. A share depends on the names of all images alone, never on which outputs exist, so
that processes which look at an output folder at different times share out the same images.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

from stylezoo.environment import allowed_processors
from stylezoo.errors import StylezooError

T = TypeVar("T")

VARIABLES = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "JSM_NAMESPACE_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Variables of which one is set where a launcher has started this process; without them nothing is imported."""

_LONGEST_START = timedelta(minutes=30)
"""Until all processes have started."""

_LONGEST_WAIT = timedelta(days=30)
"""Until all processes have done their share."""


@dataclass(frozen=True)
class Shard:
    """The place of this process among those of a run.

    Attributes:
        rank: Its number, from 0.
        world: The number of processes.
        local_rank: Its number on its machine, which chooses the GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def speaker(self) -> str:
        """What messages begin with where there are several processes."""
        return f"process {self.rank} of {self.world}: " if self.world > 1 else ""

    def share(self, items: Sequence[T], key: Callable[[T], object]) -> list[T]:
        """Returns the share of this process: all items of every W-th key, or every W-th item if there are fewer keys.

        >>> Shard(1, 2).share(["a1", "a2", "b1", "b2", "c1"], key=lambda item: item[0])
        ['b1', 'b2']
        >>> Shard(1, 2).share(["a1", "a2", "a3"], key=lambda item: item[0])
        ['a2']

        Args:
            items: The same ones, in the same order, in all processes.
            key: What items have in common that should be one process's, such as a content that is read once.
        """
        places = {name: place for place, name in enumerate(dict.fromkeys(map(key, items)))}
        if len(places) < self.world:
            return list(items[self.rank :: self.world])
        return [item for item in items if places[key(item)] % self.world == self.rank]


def find_shard() -> Shard:
    """Returns the place of this process, as its launcher says; a single process has them all.

    Raises:
        StylezooError: If a SLURM job of several tasks has started one process only, or is requested in another way than
            by ``--ntasks-per-node``.
    """
    environment = _environment()
    if environment is None:
        return Shard()
    return Shard(environment.global_rank(), environment.world_size(), environment.local_rank())


def _environment() -> Any:
    """Returns Lightning's description of the launcher, None if there is none."""
    if not any(name in os.environ for name in VARIABLES):
        return None
    from lightning.fabric.plugins.environments.lsf import LSFEnvironment
    from lightning.fabric.plugins.environments.mpi import MPIEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if kind is SLURMEnvironment and "SLURM_NTASKS" not in os.environ:
            continue  # asking warns where srun is installed and not wanted
        if kind.detect():
            if kind is SLURMEnvironment:
                _check_srun()
            try:
                return kind()
            except RuntimeError as error:  # of variables that contradict each other
                raise StylezooError(" ".join(str(error).split())) from error
    return None


def _check_srun() -> None:
    """Checks that srun has started as many processes as the job has tasks: alone, this one would do its share only.

    Raises:
        StylezooError: If not.
    """
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks > 1 and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) != tasks:
        raise StylezooError(
            f"This SLURM job has {tasks} tasks, but srun has not started this process for all of them: write"
            " `srun python -m stylezoo ...` into the script, or request one task."
        )


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
"""The signals that PyTorch's launcher handles."""


def launch(function: Callable[..., T], arguments: Sequence[Any], processes: int) -> list[T]:
    """Calls a function in several processes of this machine, which find their places as if torchrun had started them.

    The processors are shared out: each process has its part of the threads, unless ``OMP_NUM_THREADS`` says how many.

    Args:
        function: A function of a module, which returns what can be pickled.
        arguments: Its arguments, which can be pickled.
        processes: The number of processes.

    Returns:
        What it returned in each.

    Raises:
        StylezooError: If a process has ended before its function.
        KeyboardInterrupt: After Ctrl-C or SIGTERM.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [each for each in logging.root.manager.loggerDict if each.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say is told in one sentence
    config = LaunchConfig(
        1,
        1,
        processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    threads = str(max(1, (allowed_processors() or os.cpu_count() or 1) // processes))
    own = os.environ.get("OMP_NUM_THREADS")
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        if own is None or own == str(allowed_processors()):
            os.environ["OMP_NUM_THREADS"] = threads
        results: dict[int, T] = elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        raise StylezooError(
            "A process has ended before its share was done, perhaps for lack of memory: the same command continues, with fewer"
            " --processes if need be."
        ) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:
        if own is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = own
        for number, handler in handlers.items():
            with suppress(ValueError, TypeError):  # outside of the main thread the launcher sets none
                signal.signal(number, handler)
    return [results[rank] for rank in sorted(results)]


class Meeting:
    """Processes that wait for each other at the end of a run, to say once what has become of all images.

    torchrun ends all processes as soon as one has failed, so none may end before the others have done their share.

    Args:
        shard: The place of this process; a single one meets nobody.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._group: Any = None
        if shard.world > 1:
            from torch import distributed

            environment = _environment()
            os.environ["MASTER_ADDR"] = environment.main_address
            os.environ["MASTER_PORT"] = str(environment.main_port)
            distributed.init_process_group("gloo", rank=shard.rank, world_size=shard.world, timeout=_LONGEST_START)
            self._group = distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)

    def sums(self, *numbers: int) -> list[int] | None:
        """Returns the sums of some numbers over all processes, for which it waits; None if one has ended before."""
        if self._group is None:
            return list(numbers)
        import torch
        from torch import distributed

        values = torch.tensor(numbers)
        try:
            distributed.all_reduce(values, group=self._group)
        except RuntimeError:  # the connection to a process that was killed
            return None
        return [int(value) for value in values]

    def close(self) -> None:
        """Leaves; the others notice it if they still wait."""
        if self._group is not None:
            from torch import distributed

            with suppress(RuntimeError):  # gloo's threads may abort a process that leaves them running
                distributed.destroy_process_group()
            self._group = None
