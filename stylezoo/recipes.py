"""Recipes: files of settings in YAML, read so that everything that can be wrong with them is one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.files import nearest, open_regular, problem

_INSTALLED = Path(__file__).with_name("experiments")
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1] / "experiments"
"""The recipes of the zoo: in an installed package a part of it, in a checkout beside it."""

LARGEST = 100_000
"""Bytes of the largest recipe; those of the zoo have two thousand."""

MOST_VALUES = 100_000
"""Values of the largest recipe, with what its aliases stand for."""

DEEPEST = 100
"""Brackets around a value at most."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML as the command line does, where 1e-4 is a number, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for index, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z"),
    list("-+0123456789."),
)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a recipe.

    Args:
        path: A YAML file whose content is a mapping.

    Returns:
        The values by section.

    Raises:
        MissingFileError: If there is no such file.
        StylezooError: If it is no regular file, too large, damaged, or something other than a mapping of sections.
    """
    name = os.fspath(path)
    try:
        with open_regular(path) as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise MissingFileError(f"The recipe {name} does not exist.{nearest(name)}") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise StylezooError(f"The recipe {name} {problem(error) if isinstance(error, OSError) else error}.") from error
    return parse(text, f"The recipe {name}")


def found(recipe: str) -> str:
    """Returns the recipe that ``--config`` is given; ``experiments/NAME.yaml`` is that of the package where there is no such file."""
    within = recipe.removeprefix("experiments/")
    shipped = os.path.join(FOLDER, within)
    return shipped if within != recipe and not os.path.lexists(recipe) and os.path.isfile(shipped) else recipe


def given(recipe: str) -> dict[str, Any]:
    """Reads what ``--config`` is given: a file, or YAML itself.

    Raises:
        StylezooError: See `read`.
    """
    is_text = "\n" in recipe or recipe.lstrip().startswith("{")
    return parse(recipe, "--config") if is_text and not os.path.lexists(recipe) else read(recipe)


def parse(text: str | bytes, name: str) -> dict[str, Any]:
    """Reads the text of a recipe.

    Args:
        text: YAML.
        name: What messages call it.

    Raises:
        StylezooError: See `read`.
    """
    if len(text) > LARGEST:
        raise StylezooError(f"{name} is no recipe: it has more than {LARGEST:,} bytes.")
    steps = ((character in "[{") - (character in "]}") for character in str(text))
    if max(accumulate(steps), default=0) > DEEPEST:  # PyYAML would take seconds to fail
        raise StylezooError(f"{name} is no recipe: it is nested too deeply.")
    try:
        values = yaml.load(text, _Loader)
        count = _count(values, {}, frozenset())
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = " ".join(f"{error.problem or error.context or ''}".split())
        raise StylezooError(f"{name} is damaged{line}: {reason}.") from error
    except yaml.YAMLError as error:
        raise StylezooError(f"{name} is no text in YAML.") from error
    except RecursionError as error:
        raise StylezooError(f"{name} is no recipe: it is nested too deeply.") from error
    except Exception as error:  # of a date or a number that cannot be: PyYAML raises anything from ValueError on
        raise StylezooError(f"{name} has a value that cannot be read: {error}.") from error
    if count > MOST_VALUES:
        raise StylezooError(f"{name} is no recipe: its aliases stand for more than {MOST_VALUES:,} values.")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise StylezooError(
            f"{name} must be a mapping of sections, such as model, data and trainer, not {kind(values)}."
        )
    check_objects(values, name)
    return values


def _count(value: Any, known: dict[int, int], around: frozenset[int]) -> int:
    """Returns how many values a value holds where every alias is written out.

    Args:
        value: What the YAML stands for; aliases are one object.
        known: {id: number} of the objects that have been counted.
        around: Identities of the objects that hold this one.
    """
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) in around:
        raise RecursionError
    if id(value) not in known:
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known, around | {id(value)}) for part in inside)
    return known[id(value)]


def check_objects(value: Any, name: str, where: str = "") -> None:
    """Checks everything that names a class: class_path is text, init_args a mapping.

    Raises:
        StylezooError: If something is not.
    """
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        place = f"{where}.{key}".removeprefix(".")
        if key == "class_path" and not isinstance(part, str):
            raise StylezooError(f"{name}: {place} must be the name of a class, not {kind(part)}.")
        if key == "init_args" and not isinstance(part, dict):
            raise StylezooError(f"{name}: {place} must be a mapping of settings, not {kind(part)}.")
        check_objects(part, name, place)


def kind(value: Any) -> str:
    """Returns what a value of a recipe is, in words.

    >>> kind(None), kind([1, 2])
    ('null', 'a list')
    """
    if isinstance(value, Mapping):
        return "a mapping" if all(isinstance(key, str) for key in value) else "a mapping with keys that are no text"
    return "null" if value is None else "a list" if isinstance(value, list) else repr(value)[:80]
