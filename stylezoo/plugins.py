"""Systems of other packages: entry points of the group ``stylezoo.systems``, found without importing them.

A package announces its systems in its pyproject.toml, and stylezoo then knows them everywhere::

    [project.entry-points."stylezoo.systems"]
    toy = "my_package.toy"          # the module whose import registers the system toy
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "stylezoo.systems"
"""The group of entry points."""


@cache
def entries() -> tuple[EntryPoint, ...]:
    """Returns the entry points of all installed packages, sorted by name."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)))


def source(entry: EntryPoint) -> Path | None:
    """Returns the file of an entry point's module; None if that does not show without importing its package."""
    first, *rest = entry.module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def load() -> dict[str, str]:
    """Imports the modules of all entry points, once; those that cannot be imported are told by a warning.

    Returns:
        {name of an entry point that failed: the sentence that says why}.
    """
    failed: dict[str, str] = {}
    for entry in entries():
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001 - modules of others raise anything, and the zoo goes on without them
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300].removesuffix(".")
            package = f" of the package {entry.dist.name}" if entry.dist is not None else ""
            failed[entry.name] = (
                f"The system {entry.name}{package} cannot be imported ({entry.value}: {reason}): repair, update or"
                " uninstall that package."
            )
            warnings.warn(failed[entry.name], stacklevel=2)
    return failed
