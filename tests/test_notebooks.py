"""The notebooks run from top to bottom, with a thin model, and carry no outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, thin_model

import stylezoo

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stylezoo.save_model(thin_model("adain"), tmp_path / "model.safetensors")
    monkeypatch.setenv("STYLEZOO_MODEL", str(tmp_path / "model.safetensors"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), names)  # noqa: S102
    assert names["outputs"].shape == (3, 3, 256, 256)  # type: ignore[attr-defined]
