"""What a machine is, and the rates that it reaches: of matrix products, and of its memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stylezoo.studies.timing import now, processor

MIB = 2**20
Facts = dict[str, str | int | float]


def describe(device: torch.device) -> Facts:
    """Returns the names and numbers that a table of times is worthless without."""
    facts: Facts = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "memory, GiB": round(memory("MemTotal") / 1024),
        "torch": torch.__version__,
        "load average": round(os.getloadavg()[0], 1),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "device memory, GiB": round(properties.total_memory / 2**30),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    return facts


def memory(name: str) -> float:
    """Returns MemTotal or MemAvailable of this machine in MiB; infinity where the system does not say."""
    return _field(Path("/proc/meminfo"), name)


def process_memory(name: str, process: int | str = "self") -> float:
    """Returns VmRSS, the memory of a process, RssAnon, the part that is its own, or VmHWM, its peak, in MiB; infinity where unknown."""
    return _field(Path(f"/proc/{process}/status"), name)


def reset_peak() -> None:
    """Lets VmHWM begin anew from the memory that the process has now, where the system can do so (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _field(file: Path, name: str) -> float:
    lines = file.read_text().splitlines() if file.exists() else []
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(found[0][1]) / 1024 if found else float("inf")


def fastest(function: Callable[[], object], device: torch.device, seconds: float = 0.5, most: int = 50) -> float:
    """Returns the shortest time of a function's calls within a number of seconds, one call to warm up not counted."""
    function()
    end = now(device) + seconds
    times: list[float] = []
    while not times or (now(device) < end and len(times) < most):
        start = now(device)
        function()
        times.append(now(device) - start)
    return min(times)


def matrix_rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.5, largest: int = 8192) -> float:
    """Measures how many multiplications and additions per second square matrix products reach.

    The side is doubled as long as the product takes less than a fiftieth of the time, and as the rate grows with it; the
    best rate counts.

    Args:
        dtype: Of the matrices.
        device: Where they are multiplied.
        seconds: Roughly, for all.
        largest: The largest side.
    """
    best, side = 0.0, 256
    while side <= largest:
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        elapsed = fastest(lambda a=a, b=b: a @ b, device, seconds / 5, 20)  # type: ignore[misc]
        best = max(best, 2 * side**3 / elapsed)
        if elapsed > seconds / 50:
            break
        side *= 2
    return best


def bandwidth(device: torch.device, seconds: float = 0.5) -> float:
    """Measures bytes per second of copies within a memory, read and written bytes together."""
    count = 2**26 if device.type == "cpu" else 2**28  # numbers of four bytes: more than any cache holds
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * count / fastest(lambda: target.copy_(source), device, seconds)
