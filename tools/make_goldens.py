"""Writes `tests/goldens` anew from the fixtures of the folder ``shared``.

    python tools/make_goldens.py            # all files that there are
    python tools/make_goldens.py adain      # this one; a new file, too, for the fixtures shared/parity/adain

A file's ``runs`` (how a case is computed through public functions) are written by hand, and are kept.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import golden

KEPT = ("seed", "options", "inputs", "param_rules", "unused_keys", "aliases", "gradnorm_keys", "float64_scalars")


def main() -> None:
    """Writes the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=golden.files(), help="names of the fixtures' folders")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="the folder of the fixtures")
    arguments = parser.parse_args()
    for file in arguments.files:
        text = render(make(arguments.shared / "parity", file))
        (golden.FOLDER / f"{file}.json").write_text(text)
        print(f"{file:24} {len(text):8} bytes")


def make(fixtures: Path, file: str) -> dict[str, Any]:
    """Returns the content of a golden file.

    Args:
        fixtures: The folder with ``recipe.py``.
        file: Name of a folder in it.

    Raises:
        ValueError: If the seeds do not rebuild an input of a fixture bit for bit.
    """
    recipe, layouts, cases = load_recipe(fixtures), [], {}
    old = golden.read(file) if file in golden.files() else {"cases": {}}
    names = sorted(path.stem for path in (fixtures / file).glob("*.json"))
    for name in names:
        fixture = recipe.load(f"{file}/{name}")
        case = {key: fixture.meta[key] for key in KEPT if key in fixture.meta}
        case["parts"] = {}
        for part, layout in fixture.meta["state_dict"].items():
            if layout not in layouts:
                layouts.append(layout)
            case["parts"][part] = layouts.index(layout)
        for key, spec in case["inputs"].items():
            if not np.array_equal(golden.draw_input(case["seed"], key, spec), fixture.arrays[key]):
                raise ValueError(f"The seed of {file}/{name} does not rebuild its input {key}.")
        case["arrays"] = summaries(fixture)
        case["runs"] = old["cases"].get(name, {}).get("runs", [])
        cases[name] = case
    references = sorted({recipe.load(f"{file}/{name}").meta["reference"] for name in names})
    return {"references": references, "layouts": layouts, "cases": cases}


def load_recipe(fixtures: Path) -> Any:
    """Returns the fixtures' own module."""
    spec = importlib.util.spec_from_file_location("recipe", fixtures / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


def summaries(fixture: Any) -> dict[str, dict[str, Any]]:
    """Returns the numbers that are kept of the outputs of a fixture, and of images cut to the content's size."""
    content = fixture.meta["inputs"].get("content", {"shape": []})["shape"]
    entries: dict[str, dict[str, Any]] = {}
    for name, meaning in fixture.meta["arrays"].items():
        if meaning["role"] == "input":
            continue
        array, tolerance = fixture.arrays[name], fixture.tolerance(name)
        entries[name] = summary(fixture.meta["seed"], name, array, tolerance)
        if array.ndim == len(content) == 4 and list(array.shape) != content:
            cut = array[..., : content[-2], : content[-1]]
            if list(cut.shape) == content:
                entries[f"{name}_cut"] = summary(fixture.meta["seed"], f"{name}_cut", cut, tolerance)
    return entries


def summary(seed: int, name: str, array: NDArray[Any], tolerance: float) -> dict[str, Any]:
    """Returns an array, if it is small, or else samples of it and its moments."""
    entry: dict[str, Any] = {"shape": list(array.shape), "tolerance": float(f"{0.9995 * tolerance:.3e}")}  # never up
    if array.dtype != np.float32:
        entry["dtype"] = str(array.dtype)
    values = array.flatten()
    if array.size > golden.WHOLE:
        values = values[golden.positions(seed, name, array.size)]
        entry |= {moment: float(f"{value:.10g}") for moment, value in golden.moments(array).items()}
    entry["values"] = [shortest(value) for value in values]
    return entry


def shortest(value: np.generic) -> float | int:
    """Returns a number in as few digits as tell it from others of its type."""
    return int(value) if isinstance(value, np.integer) else float(str(value))


def render(content: Mapping[str, Any]) -> str:
    """Returns JSON with one line for each layout, and for each entry of a case."""
    layouts = ",\n".join(f"  {dense(layout)}" for layout in content["layouts"])
    cases = ",\n".join(f"  {json.dumps(name)}: {render_case(case)}" for name, case in content["cases"].items())
    references = json.dumps(content["references"], indent=1).replace("\n", "\n ")
    return f'{{\n "references": {references},\n "layouts": [\n{layouts}\n ],\n "cases": {{\n{cases}\n }}\n}}\n'


def render_case(case: Mapping[str, Any]) -> str:
    """Returns the JSON of a case."""
    lines = [f"   {json.dumps(key)}: {dense(value)}" for key, value in case.items() if key not in ("arrays", "runs")]
    arrays = ",\n".join(f"    {json.dumps(name)}: {dense(entry)}" for name, entry in case["arrays"].items())
    runs = ",\n".join(f"    {json.dumps(run)}" for run in case["runs"])
    lines.append(f'   "arrays": {{\n{arrays}\n   }}')
    lines.append(f'   "runs": [\n{runs}\n   ]' if runs else '   "runs": []')
    return "{\n" + ",\n".join(lines) + "\n  }"


def dense(value: Any) -> str:
    """Returns JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    main()
