"""Studies and tables of papers, one per file. Every module in this folder is imported, so that a new file is all a new
table needs: a function with `stylezoo.studies.base.study` above it that returns a `stylezoo.studies.base.Result`.

    python -m stylezoo reproduce --list
    python -m stylezoo reproduce norm_convergence --output results
"""

import importlib
import pkgutil

from stylezoo.studies.base import Result, Study, get, run, studies, study

__all__ = ["Result", "Study", "get", "run", "studies", "study"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
