"""The notebooks as files; `make notebooks` runs them, with the weights that ship."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    names = ["01_stylize", "02_train_your_own_style", "03_compare_the_zoo", "04_add_a_system"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_code_without_outputs(notebook: Path) -> None:
    """No output, no run number, no path of a machine; a heading first, and cells that can be told apart."""
    cells = json.loads(notebook.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        text = "".join(cell["source"])
        assert not re.search(r"[\"' =](/home|/root|/Users|/tmp|/work|C:)", text), text
        if cell["cell_type"] == "code":
            ast.parse(text)
            assert cell["outputs"] == [] and cell["execution_count"] is None
