"""The names of the zoo: `register` gives a system its name, `get` finds it again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stylezoo import catalog, legacy, plugins, recipes, weights
from stylezoo.catalog import paper_address
from stylezoo.controls import Kind
from stylezoo.docstrings import completed
from stylezoo.errors import StylezooError, check_choice, unknown_name
from stylezoo.module import COMMON_SETTINGS, StyleModel

RECIPES = recipes.FOLDER

_SYSTEMS: dict[str, type[StyleModel]] = {}

M = TypeVar("M", bound="type[StyleModel]")


def register(
    name: str, *, paper: str, year: int, kind: Kind, reference: str | None = None, code: str | None = None
) -> Callable[[M], M]:
    """Class decorator that adds a system to the zoo.

    Args:
        name: What users type, also the name of its recipe ``experiments/<name>.yaml``.
        paper: Address of the paper, or ``arXiv:`` with its number.
        year: Year of the paper.
        kind: See `stylezoo.controls.Kind`.
        reference: The reference implementation, ``owner/repository@commit``.
        code: The former name of ``reference``.
    """
    if code is not None:
        legacy.warn("register's argument code", "reference")
        reference = code
    paper = paper_address(paper)

    def add(cls: M) -> M:
        if name in _SYSTEMS and _SYSTEMS[name].__qualname__ != cls.__qualname__:
            raise StylezooError(f"The name {name!r} is taken by {_SYSTEMS[name].__qualname__}: choose another.")
        cls.system, cls.paper, cls.year, cls.kind, cls.reference = name, paper, year, kind, reference
        cls.__doc__ = completed(cls, COMMON_SETTINGS)
        _SYSTEMS[name] = cls
        return cls

    return add


def systems() -> dict[str, type[StyleModel]]:
    """All registered systems by name, sorted: those of the package, and those of others (`stylezoo.plugins`).

    A package whose system cannot be imported is told by a warning.
    """
    importlib.import_module("stylezoo.models")  # importing the models registers them
    plugins.load()
    return dict(sorted(_SYSTEMS.items()))


def get(name: str) -> type[StyleModel]:
    """The class of a system, also by other spellings of its name, see `stylezoo.catalog.spelled`.

    Raises:
        StylezooError: If there is none of that name; the message names the closest. Or it is one of another package that
            cannot be imported.
    """
    known = systems()
    found = known.get(name) or known.get(catalog.spelled(name, known))
    if found is None and name in plugins.load():
        raise StylezooError(plugins.load()[name])
    if found is None:
        raise unknown_name("There is no system", name, known, "the zoo has")
    return found


def about(cls: type[StyleModel]) -> catalog.System:
    """Returns what a registered class says of itself."""
    return catalog.System(
        name=cls.system, class_name=cls.__name__, kind=cls.kind, year=cls.year, paper=cls.paper, reference=cls.reference
    )


def list_models(kind: Kind | None = None, pretrained: bool = False) -> list[str]:
    """Names of the zoo's systems.

    Args:
        kind: Only systems that take this kind of style.
        pretrained: Instead the tags that `load_model` loads on this machine: models of the package and of the user's
            folder, and recipes of systems that optimize, if their encoder is here.

    Raises:
        StylezooError: If there is no such kind.
    """
    kind = _current_kind(kind)
    names = [name for name, cls in systems().items() if kind in (None, cls.kind)]
    if not pretrained:
        return names
    return [entry.tag for entry in pretrained_models() if entry.system in names and entry.missing is None]


def _current_kind(kind: str | None) -> Kind | None:
    if kind == "optimisation":
        legacy.warn("the kind optimisation", "optimization")
        return "optimization"
    if kind is not None:
        check_choice("kind", kind, Kind)
    return kind  # type: ignore[return-value]


@dataclass(frozen=True)
class Pretrained:
    """A model that `load_model` takes by name.

    Attributes:
        tag: The name.
        system: Whose weights or settings these are.
        path: The file.
        missing: A file of `stylezoo.weights.table` that must be downloaded first; None if all is here.
    """

    tag: str
    system: str
    path: Path
    missing: str | None = None


def pretrained_models() -> list[Pretrained]:
    """All models that `load_model` takes by name, sorted: shipped, public and the user's own ones, and recipes of systems
    that optimize."""
    known, table = systems(), weights.table()
    own = {path.stem: path for path in weights.folder().glob("*.safetensors") if path.stem.split(".")[0] in known}
    files = {tag: file.path for tag, file in table.models.items()} | own
    found = [Pretrained(tag, tag.split(".")[0], path, None if path.is_file() else tag) for tag, path in files.items()]
    for tag, recipe in optimization_recipes().items():
        encoder = read_recipe(recipe)["model"]["init_args"]["encoder"]
        missing = encoder if encoder in table.encoders and not table.encoders[encoder].path.is_file() else None
        found.append(Pretrained(tag, tag.split(".")[0], recipe, missing))
    return sorted(found, key=lambda entry: entry.tag)


def recipe_files(recipe: Path) -> list[Path]:
    """Returns the files that make up a recipe, in the order in which ``--config`` takes them.

    ``experiments/<system>.yaml`` is complete. ``experiments/<system>_<variant>.yaml`` and files of folders, such as
    ``experiments/balanced/<system>.yaml``, are overlays, which hold what differs from the recipe of their system. Any
    other file, such as one of the user's own, is complete, too.

    Args:
        recipe: The recipe, or the overlay.
    """
    folder, name = recipe.resolve().parent, recipe.stem
    known = systems()
    if folder == RECIPES.resolve() and name not in known:
        bases = [system for system in known if name.startswith(f"{system}_")]
    else:
        bases = [name] if folder.parent == RECIPES.resolve() and name in known else []
    return [RECIPES / f"{max(bases, key=len)}.yaml", recipe] if bases else [recipe]


def read_recipe(recipe: Path) -> dict[str, Any]:
    """Returns the values of a recipe: those of its files, laid over each other as on the command line.

    Args:
        recipe: The recipe, or the overlay, see `recipe_files`.

    Raises:
        MissingFileError: If it does not exist.
        StylezooError: If it cannot be read as a recipe, see `stylezoo.recipes.read`.
    """
    values: dict[str, Any] = {}
    for file in recipe_files(recipe):
        for section, value in recipes.read(file).items():
            values[section] = _overlaid(values[section], value) if isinstance(values.get(section), dict) else value
    return values


def _overlaid(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """A section, or the arguments of an object, under an overlay; settings that are mappings are replaced as a whole."""
    merged = dict(base)
    for key, value in overlay.items():
        nested = key == "init_args" or (isinstance(value, dict) and value.keys() & {"class_path", "init_args"})
        merged[key] = _overlaid(base[key], value) if nested and isinstance(base.get(key), dict) else value
    return merged


def optimization_recipes() -> dict[str, Path]:
    """The recipes of systems that optimize by tag: ``gatys.yaml`` is gatys, ``gatys_modern.yaml`` gatys.modern."""
    names = [name for name, cls in systems().items() if cls.kind == "optimization"]
    found = {name: RECIPES / f"{name}.yaml" for name in names}
    for name in names:
        found |= {f"{name}.{path.stem.removeprefix(f'{name}_')}": path for path in RECIPES.glob(f"{name}_*.yaml")}
    return found
