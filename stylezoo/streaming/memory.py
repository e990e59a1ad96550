"""How much memory there is, and where maps are kept that do not fit into it."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MEMORY = "STYLEZOO_MEMORY"
"""Environment variable: mebibytes of memory that the package may count on, where that is less than what is free."""

KEPT_SHARE = 0.4
"""Share of the free memory that kept maps may take; the rest is for what is computed."""

DISK_SHARE = 0.5
"""Share of the free space in the folder of temporary files that they may take."""


class Window(NamedTuple):
    """Rows from ``top`` up to ``bottom`` and columns from ``left`` up to ``right`` of a map, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Where the window is in another one that contains it."""
        rows = slice(self.top - outer.top, self.bottom - outer.top)
        return rows, slice(self.left - outer.left, self.right - outer.left)

    def hull(self, other: Window) -> Window:
        """The smallest window that contains both."""
        return Window(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def contains(self, other: Window) -> bool:
        """Whether the other window lies inside of this one."""
        return self.hull(other) == self


class Storage(Protocol):
    """A map (B, C, H, W) that is written and read by windows."""

    def read(self, window: Window) -> Tensor:
        """Returns (B, C, h, w)."""

    def write(self, window: Window, values: Tensor) -> None:
        """Takes over (B, C, h, w)."""


class InMemory:
    """A map in memory.

    Args:
        values: (B, C, H, W).
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def read(self, window: Window) -> Tensor:
        return self.values[..., window.top : window.bottom, window.left : window.right]

    def write(self, window: Window, values: Tensor) -> None:
        self.read(window).copy_(values)


class OnDisk:
    """A map in a temporary file without a name, which vanishes with the process. Rows of positions, not of channels, so that
    a row of a window is read at once; and read, not mapped, so that its pages do not count as memory of the process.

    Args:
        shape: (B, C, H, W).
        dtype: Of the values.
        device: Of the values that are read.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self._cell = shape[0] * shape[1] * dtype.itemsize  # bytes of a position
        self._file = tempfile.TemporaryFile(prefix="stylezoo-", buffering=0)  # noqa: SIM115 - open as long as the map

    def _rows(self, window: Window) -> range:
        first = (window.top * self.shape[3] + window.left) * self._cell
        step = self.shape[3] * self._cell
        return range(first, first + step * (window.bottom - window.top), step)

    def read(self, window: Window) -> Tensor:
        height, width = window.size
        values = torch.empty(height, width, *self.shape[:2], dtype=self.dtype)
        rows = values.view(torch.uint8).reshape(height, -1).numpy()
        for place, row in zip(self._rows(window), rows, strict=True):
            if os.preadv(self._file.fileno(), [row], place) != row.nbytes:
                raise OSError("A temporary file of stylezoo has become shorter than it was.")
        return values.permute(2, 3, 0, 1).contiguous().to(self.device)

    def write(self, window: Window, values: Tensor) -> None:
        height, _ = window.size
        positions = values.cpu().permute(2, 3, 0, 1).contiguous()
        rows = positions.view(torch.uint8).reshape(height, -1).numpy()
        for place, row in zip(self._rows(window), rows, strict=True):
            written = 0
            while written < row.nbytes:
                written += os.pwritev(self._file.fileno(), [row[written:]], place + written)


class Budget:
    """The memory, and the space for temporary files, that kept maps may take.

    Args:
        limit: Bytes of memory.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._sizes: weakref.WeakKeyDictionary[InMemory, int] = weakref.WeakKeyDictionary()
        self._on_disk: weakref.WeakKeyDictionary[OnDisk, int] = weakref.WeakKeyDictionary()

    @property
    def left(self) -> float:
        """Bytes of memory that are not taken."""
        return self.limit - sum(self._sizes.values())

    def place(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Storage | None:
        """Returns room for a map: in memory, or else in a temporary file, or None where there is neither."""
        size = math.prod(shape) * dtype.itemsize
        if size <= self.left:
            kept = InMemory(torch.empty(shape, dtype=dtype, device=device))
            self._sizes[kept] = size
            return kept
        if size + sum(self._on_disk.values()) <= DISK_SHARE * (free_disk() + sum(self._on_disk.values())):
            stored = OnDisk(shape, dtype, device)
            self._on_disk[stored] = size
            return stored
        return None


def free_disk() -> int:
    """Bytes that are free for temporary files; 0 where these lie in memory."""
    folder = os.path.realpath(tempfile.gettempdir())
    if not hasattr(os, "preadv") or _file_system(folder) in ("tmpfs", "ramfs"):
        return 0
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _file_system(folder: str) -> str:
    """The type of the file system that holds a folder, as Linux names it; "" where that is not known."""
    longest, kind = "", ""
    for line in _lines("/proc/mounts"):
        _, place, found, *_ = line.split(" ")
        if len(place) >= len(longest) and os.path.join(folder, "").startswith(os.path.join(place, "")):
            longest, kind = place, found
    return kind


def free_memory(device: torch.device) -> float:
    """Bytes of memory that a computation on a device can still take, without swapping; infinite where that is not known.

    On the CPU the least of what the machine has available, what the limits of its control groups leave, what the limit of
    the address space leaves (``ulimit -v``), and `MEMORY`.
    """
    limit = float(os.environ.get(MEMORY) or "inf") * 2**20
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return min(limit, free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return min(limit, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return min(limit, _available(), _left_in_groups(), _left_in_address_space())


def _available() -> float:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    try:  # what macOS and others have; there "available" is not told, so half of all memory counts as such
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    except (AttributeError, ValueError, OSError):
        return math.inf


def _left_in_groups() -> float:
    """What the control groups of the process leave: containers, jobs of SLURM, services. Files in the cache do not count."""
    left = math.inf
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        new = not controllers
        top = Path("/sys/fs/cgroup" if new else "/sys/fs/cgroup/memory")
        limit_file, used_file = (
            ("memory.max", "memory.current") if new else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        for folder in (top / path.strip("/"), *(top / path.strip("/")).parents):
            limit, used = (_number(folder / name) for name in (limit_file, used_file))
            if limit is not None and used is not None:
                cached = (
                    line.split()[1] for line in _lines(folder / "memory.stat") if line.startswith("inactive_file ")
                )
                left = min(left, limit - used + sum(map(int, cached)))
            if folder == top:
                break
    return left


def _left_in_address_space() -> float:
    if sys.platform != "linux":
        return math.inf
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = next((int(line.split()[0]) for line in _lines("/proc/self/statm")), 0)
    return math.inf if soft == resource.RLIM_INFINITY else soft - pages * resource.getpagesize()


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _number(path: Path) -> int | None:
    """The number in a file of the kernel; None if there is none, or no limit ("max")."""
    words = _lines(path)
    return int(words[0]) if words and words[0].isdecimal() else None
