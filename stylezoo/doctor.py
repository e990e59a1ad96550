"""What `python -m stylezoo doctor` prints: versions, devices, engines, folders, what is downloaded, and what is wrong."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from stylezoo import environment, hub, plugins, weights
from stylezoo.checkpoints import load_model
from stylezoo.download import cache_folder
from stylezoo.errors import StylezooError
from stylezoo.inference.engines import ENGINES
from stylezoo.streaming.memory import MEMORY, free_memory

REQUIRED = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "safetensors",
    "numpy",
    "pillow",
    "rich",
)
"""Packages whose versions a bug report needs."""

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "STYLEZOO_HOME", MEMORY)
"""Environment variables that change what the package does."""

SMALLEST_DISK = 10**9
"""Bytes of free disk below which a warning is given."""


@dataclass
class Findings:
    """What was found.

    Attributes:
        sections: {title: {name: what it is}}.
        problems: Sentences: what is wrong, and what to do.
    """

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Returns the block for a bug report, without paths of this machine."""
        lines = ["<details><summary>python -m stylezoo doctor</summary>", ""]
        for title in ("versions", "machine", "threads and variables", "engines", "optional packages"):
            lines += [f"**{title}**", ""]
            lines += [f"* {name}: {text}" for name, text in self.sections.get(title, {}).items()] + [""]
        lines += [
            "**problems**",
            "",
            *(f"* {sentence}" for sentence in self.problems or ["none found"]),
            "",
            "</details>",
        ]
        return without_paths("\n".join(lines))


def examine() -> Findings:
    """Examines the installation and the machine; a part that fails becomes a problem, and the others go on."""
    found = Findings()
    parts: dict[str, Callable[[Findings], dict[str, str]]] = {
        "versions": _versions,
        "machine": _machine,
        "threads and variables": _threads,
        "engines": _engines,
        "optional packages": lambda found: _optional(),
        "folders": _folders,
        "weights": lambda found: _weights(),
    }
    for title, part in parts.items():
        try:
            found.sections[title] = part(found)
        except Exception as error:  # noqa: BLE001 - a broken installation is what this command is for
            found.problems.append(f"The {title} cannot be examined: {_one_line(error)}.")
    found.problems += plugins.load().values()
    return found


def without_paths(text: str) -> str:
    """Returns a text with ~ in place of the home folder, and ... in place of what other absolute paths begin with.

    >>> without_paths("in /srv/data/me/model.ckpt, see https://example.com/a/b")
    'in .../model.ckpt, see https://example.com/a/b'
    """
    home = str(Path.home())
    text = text.replace(home, "~") if len(home) > 1 else text
    return re.sub(r"(?<![\w~:/.])(?:[A-Za-z]:)?[/\\](?:[\w.@+-]+[/\\])+(?=[\w.@+-])", ".../", text)


def _versions(found: Findings) -> dict[str, str]:
    """Versions of the package, Python and what it needs; what is missing or does not fit together is a problem."""
    rows = {
        "stylezoo": _version("stylezoo") or "not installed (run from a checkout)",
        "Python": platform.python_version(),
    }
    for name in REQUIRED:
        version = _version(name)
        rows[name] = version or "missing"
        if version is None:
            found.problems.append(f"The package {name} is missing: install it (pip install -c constraints.txt -e .).")
    try:
        import torchvision  # noqa: F401 - its operators are compiled for one torch
    except Exception as error:  # noqa: BLE001 - RuntimeError, OSError, ImportError
        found.problems.append(
            f"torchvision does not fit torch ({_one_line(error)}): install both from one build (constraints.txt)."
        )
    return rows


def _machine(found: Findings) -> dict[str, str]:
    rows = {"system": f"{platform.system()} {platform.release()}, {platform.machine()}"}
    capability = torch.backends.cpu.get_cpu_capability()
    rows["cpu"] = f"{_processor()}, {os.cpu_count()} processors, {capability}"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        rows[f"cuda:{index}"] = f"{about.name}, {_size(about.total_memory)}, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        rows["mps"] = "available"
    if "cuda:0" not in rows and "mps" not in rows:
        rows["accelerator"] = f"none that this torch can use (built for {torch.version.cuda or 'CPUs only'})"
    rows["free memory"] = _size(free_memory(torch.device("cpu")))
    disks = {"temporary files": Path(tempfile.gettempdir()), "cache": cache_folder()}
    for name, folder in disks.items():
        free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
        rows[f"free disk for {name}"] = _size(free)
        if free < SMALLEST_DISK:
            found.problems.append(f"Only {_size(free)} are free for {name} in {folder}: remove files there.")
    return rows


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _threads(found: Findings) -> dict[str, str]:
    allowed = environment.allowed_processors()
    rows = {"threads of torch": str(torch.get_num_threads())}
    if allowed is not None:
        rows["processors that this container may use"] = str(allowed)
        if torch.get_num_threads() > allowed:
            found.problems.append(
                f"torch uses {torch.get_num_threads()} threads, but the container may use {allowed} processors: set"
                f" OMP_NUM_THREADS={allowed}."
            )
    return rows | {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _engines(found: Findings) -> dict[str, str]:
    """Which engines can run the smallest model that ships."""
    models = weights.table().models.values()
    smallest = min((file for file in models if file.path.is_file()), key=lambda file: file.path.stat().st_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(smallest.path).to(device)
    return {name: engine.obstacle(model) or "available" for name, engine in ENGINES.items()}


def _optional() -> dict[str, str]:
    """Optional packages with their versions, and the extra that installs them; nothing where the package is not installed."""
    try:
        wanted = metadata.requires("stylezoo") or []
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, list[str]] = defaultdict(list)
    for line in wanted:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name is not None and extra is not None and extra[1] != "dev":
            extras[name[0]].append(extra[1])
    return {
        name: _version(name) or f'not installed (pip install "stylezoo[{names[0]}]")'
        for name, names in sorted(extras.items())
    }


def _folders(found: Findings) -> dict[str, str]:
    """Folders of files that the package and its libraries keep, with their sizes."""
    folders = {"cache of stylezoo": cache_folder(), "cache of torch.hub": Path(torch.hub.get_dir())}
    hub_cache = hub.cache_folder()
    if hub_cache is not None:
        folders["cache of the Hugging Face Hub"] = hub_cache
    rows = {}
    for name, folder in folders.items():
        files = list(_files(folder))
        size = _size(sum(file.lstat().st_size for file in files))
        rows[name] = (
            f"{_tilde(folder)} ({f'{size} in {len(files):,} files' if folder.exists() else 'does not exist yet'})"
        )
    home = cache_folder()
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        found.problems.append(f"{place} cannot be written: set STYLEZOO_HOME to a folder of yours.")
    return rows


def _weights() -> dict[str, str]:
    """Public files that can be downloaded, and models in the user's folder."""
    rows = {}
    for name, file in weights.table().files.items():
        if file.file is None:
            there = file.path.is_file()
            rows[name] = (
                f"here, {_size(file.path.stat().st_size)}"
                if there
                else f"not here (python -m stylezoo download {name})"
            )
    rows |= {
        path.stem: f"yours, {_size(path.stat().st_size)}" for path in sorted(weights.folder().glob("*.safetensors"))
    }
    return rows


def _files(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder, links and what cannot be read left out."""
    for place, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(place, name)).is_file() and not path.is_symlink())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _size(count: float) -> str:
    """Returns a number of bytes in words.

    >>> _size(4_300_000), _size(24e9)
    ('4.3 MB', '24.0 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _tilde(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())[:200].removesuffix(".")
    return words if isinstance(error, StylezooError) else f"{type(error).__name__}: {words}"


def table(sections: Iterable[tuple[str, dict[str, str]]]) -> str:
    """Returns sections as lines of names and texts, the home folder written as ~."""
    lines = []
    for title, rows in sections:
        width = max((len(name) for name in rows), default=0) + 2
        lines += [f"{title}:", *(f"  {name.ljust(width)}{text}" for name, text in rows.items()), ""]
    return "\n".join(lines)
