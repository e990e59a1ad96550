"""Processes that start at once: forked from one that has imported the package, and has computed nothing.

Importing PyTorch and Lightning takes seconds, which each test of several processes or of signals would spend again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from conftest import ROOT

from stylezoo.cli import main

PRELOADED = ["conftest", "stylezoo.trainer_cli", "stylezoo.evaluation.runner", "stylezoo.inference.files"]


@cache
def server() -> multiprocessing.context.ForkServerContext:
    """The context of the server, which is started from the repository whatever the working directory of a test is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def start(
    function: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Starts a function in another process, which leads a group of its own.

    Args:
        function: A function of a module, whose SystemExit is the exit code.
        arguments: Its arguments, which can be pickled.
        folder: The working directory.
        log: What it prints goes to this path with ``.out`` and ``.err``.
        environment: Variables beside those of this process.
    """
    process = server().Process(
        target=_run, args=(function, arguments, folder, log, {**os.environ, **(environment or {})}), daemon=False
    )
    process.start()
    return process


def _run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    log: Path | None,
    environment: dict[str, str],
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if log is not None:
        for stream, suffix in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(f"{log}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    function(*arguments)


def command(*words: str) -> None:
    """What ``python -m stylezoo`` does with these words."""
    main([*words])


def ends(process: BaseProcess, seconds: float = 60) -> int | None:
    """The exit code of a process that ends within some time; kills it otherwise."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def launched(rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to one of two processes."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    names = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**place, **names}.items()}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    servers = [socket.socket() for _ in range(count)]
    for server in servers:
        server.bind(("127.0.0.1", 0))
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports
