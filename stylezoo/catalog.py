"""The systems and studies of the zoo as their files announce them, read from the source: nothing here imports PyTorch.

`stylezoo.registry` and `stylezoo.studies` hold the classes and functions themselves. Systems of other packages
(`stylezoo.plugins`) are read from their source, too.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from stylezoo import plugins
from stylezoo.controls import Kind

MODELS, STUDIES = (Path(__file__).with_name(name) for name in ("models", "studies"))
"""The folders of the systems and of the studies."""


@dataclass(frozen=True, kw_only=True)
class System:
    """What the decorator `stylezoo.registry.register` says of a system.

    Attributes:
        name: What users type.
        class_name: What recipes call it.
        kind: See `stylezoo.controls.Kind`.
        year: Year of the paper.
        paper: Address of the paper.
        reference: The reference implementation, ``owner/repository@commit``.
    """

    name: str
    class_name: str
    kind: Kind
    year: int
    paper: str
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study says of itself.

    Attributes:
        name: What users type.
        title: The first line of its docstring.
        source: The paper whose claim or table it reproduces.
    """

    name: str
    title: str
    source: str


@cache
def systems() -> dict[str, System]:
    """Returns the systems by name, sorted: those of the package, and those of others whose source says what they are."""
    found = [*_systems(sorted(MODELS.glob("*.py")))]
    for entry in plugins.entries():
        path = plugins.source(entry)
        try:
            found += [] if path is None else _systems([path])
        except (OSError, SyntaxError, TypeError, ValueError, LookupError):  # only importing it tells
            continue
    return {system.name: system for system in sorted(found, key=lambda system: system.name)}


def is_system(name: str) -> bool:
    """Whether there is a system of that name, or a package announces one that only importing it shows."""
    return name in systems() or any(entry.name == name for entry in plugins.entries())


def _systems(paths: Iterable[Path]) -> list[System]:
    """Returns the systems that files announce.

    Raises:
        OSError, SyntaxError, TypeError, ValueError, LookupError: If a file does not announce them by plain values.
    """
    return [
        System(
            name=about["name"],
            class_name=node.name,
            kind=about["kind"],
            year=about["year"],
            paper=paper_address(about["paper"]),
            reference=about.get("reference", about.get("code")),
        )
        for node, about in _announced(paths, "register")
    ]


def spelled(name: str, known: Iterable[str] | None = None) -> str:
    """Returns a system or a tag as the zoo spells it: multi-level-adain, MultiLevelAdaIN and Adain.Slim are known, too.

    Args:
        name: What a user typed; unknown names come back as they are.
        known: The systems; None takes those of the package.
    """
    system, dot, rest = name.partition(".")
    plain = {known_name.replace("_", ""): known_name for known_name in known or systems()}
    found = plain.get(system.lower().replace("-", "").replace("_", "").replace(" ", ""))
    return name if found is None else f"{found}{dot}{rest.lower().replace('-', '_').replace(' ', '_')}"


@cache
def studies() -> dict[str, Study]:
    """Returns the studies by name, sorted."""
    found = [
        Study(
            name=about["name"],
            title=(ast.get_docstring(node) or about["name"]).splitlines()[0],
            source=about["source"],
        )
        for node, about in _announced(sorted(STUDIES.glob("*.py")), "study")
    ]
    return {study.name: study for study in sorted(found, key=lambda study: study.name)}


def weight_files() -> list[str]:
    """Returns the names in the table of weight files, see `stylezoo.weights.table`."""
    return [name for section in _table().values() for name in section]


def model_tags() -> list[str]:
    """Returns the tags of the trained models in that table, such as adain.slim."""
    return list(_table()["models"])


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = MODELS.with_name("pretrained").joinpath("table.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table


def _announced(
    paths: Iterable[Path], decorator: str
) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef, dict[str, Any]]]:
    """Yields the decorated classes and functions of files, with those arguments of the decorator that are literals."""
    for path in paths:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        constants = {
            target.id: node.value.value
            for node in body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in body:
            for call in node.decorator_list if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else []:
                if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == decorator:
                    assert isinstance(node, (ast.ClassDef, ast.FunctionDef))
                    words = {"name": call.args[0], **{word.arg: word.value for word in call.keywords if word.arg}}
                    yield node, dict(_literals(words, constants))


def _literals(words: Mapping[str, ast.expr], constants: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the arguments that are literals or names of constants of the file; others, such as functions, need an import."""
    for name, expression in words.items():
        with suppress(KeyError, ValueError):
            yield name, constants[expression.id] if isinstance(expression, ast.Name) else ast.literal_eval(expression)


def paper_address(paper: str) -> str:
    """Returns the address of a paper that is given as an address, or as ``arXiv:`` with its number.

    >>> paper_address("arXiv:1812.02342")
    'https://arxiv.org/abs/1812.02342'
    """
    return paper.replace("arXiv:", "https://arxiv.org/abs/")
