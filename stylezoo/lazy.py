"""Names of a package that are imported when they are first used (PEP 562), because their modules import PyTorch."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Name of the package.
        modules: {public name: the module that defines it, as seen from the package}, such as ``.module``.
    """

    def get(name: str) -> Any:
        namespace = vars(sys.modules[package])
        if name in modules:
            namespace[name] = getattr(importlib.import_module(modules[name], package), name)
            return namespace[name]
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})
