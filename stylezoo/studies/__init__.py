"""Studies: tables and claims of papers, one per file.

    python -m stylezoo reproduce --list
    python -m stylezoo reproduce norm_convergence --output results

Every module of this package is imported. A new study therefore takes one new file: a function that is decorated with
`stylezoo.studies.base.study` and returns a `stylezoo.studies.base.StudyResult`.
"""

import importlib
import pkgutil

from stylezoo.studies.base import Study, StudyResult, get, run, studies, study

__all__ = ["Study", "StudyResult", "get", "run", "studies", "study"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
