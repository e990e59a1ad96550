"""One paper, one file. Every module in this folder is imported, so that a new file is all a new system needs.

The classes can be imported from here, too: ``from stylezoo.models import AdaIN``.
"""

import importlib
import pkgutil
from typing import Any

from stylezoo import catalog

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

_CLASSES = {system.class_name: system.name for system in catalog.systems().values()}


def __getattr__(name: str) -> Any:
    """Returns the class of a system."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stylezoo import registry

    return registry.get(_CLASSES[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *_CLASSES})
