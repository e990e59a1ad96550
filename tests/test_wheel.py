"""The wheel has what users need and nothing else."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from conftest import ROOT

import stylezoo.weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the sources, since building leaves files behind, and a folder for the wheel."""
    try:
        setuptools = version("setuptools")
    except PackageNotFoundError:
        setuptools = "0"
    if importlib.util.find_spec("pip") is None:
        pytest.skip("Wheels are built by pip.")
    if int(setuptools.partition(".")[0]) < 77:
        pytest.skip(f"Building without a network needs setuptools 77 or later, not {setuptools}.")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("stylezoo", "experiments", "tests", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "goldens"))
    return source, out


@pytest.fixture(scope="module")
def wheel(folders: tuple[Path, Path]) -> Path:
    return built(*folders)


def built(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command += ["--wheel-dir", str(out)]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, text=True)
    (wheel,) = out.glob("stylezoo-*-py3-none-any.whl")
    return wheel


@pytest.fixture(scope="module")
def members(wheel: Path) -> dict[str, int]:
    """{path: bytes} of the files in a wheel."""
    with zipfile.ZipFile(wheel) as file:
        return {info.filename: info.file_size for info in file.infolist()}


@pytest.mark.slow
def test_it_has_the_whole_package(members: dict[str, int]) -> None:
    package = ROOT / "stylezoo"
    modules = {f"stylezoo/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    recipes = {
        f"stylezoo/experiments/{path.relative_to(ROOT / 'experiments').as_posix()}"
        for path in (ROOT / "experiments").rglob("*.yaml")
    }
    weights = {
        f"stylezoo/pretrained/{file.file}" for file in stylezoo.weights.table().files.values() if file.file is not None
    }
    pictures = {f"stylezoo/pictures/{path.name}" for path in (package / "pictures").glob("*.jpg")}
    assert len(recipes) > 20 and len(weights) > 10 and len(pictures) > 10
    needed = modules | recipes | weights | pictures | {"stylezoo/py.typed", "stylezoo/pretrained/table.yaml"}
    assert needed <= members.keys(), needed - members.keys()
    assert all(members[name] == Path(ROOT, name).stat().st_size for name in weights)


def test_two_builds_are_equal(folders: tuple[Path, Path], wheel: Path, tmp_path: Path) -> None:
    """With SOURCE_DATE_EPOCH, as `make wheel` sets it, byte by byte."""
    assert built(folders[0], tmp_path).read_bytes() == wheel.read_bytes()


def test_every_direct_dependency_is_listed_with_its_license() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text().lower()
    named = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requires("stylezoo") or ()}
    assert named - {"stylezoo"} and not {name for name in named if name.replace("_", "-") not in page.replace("_", "-")}


def test_it_has_nothing_else(members: dict[str, int]) -> None:
    folders = {name.split("/")[0] for name in members}
    assert folders == {"stylezoo", f"stylezoo-{stylezoo.__version__}.dist-info"}
    assert {Path(name).suffix for name in members if name.startswith("stylezoo/")} <= {
        *(".py", ".typed", ".yaml", ".jpg", ".safetensors")
    }
    assert sum(members.values()) < 70e6  # tests, tools, data and images of the site are many times that
