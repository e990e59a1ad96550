"""One paper, one file. Every module in this folder is imported, so that a new file is all a new system needs."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
