"""The names of the zoo: `register` gives a system its name, `get` finds it again."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml  # type: ignore[import-untyped]

from stylezoo import weights

if TYPE_CHECKING:
    from stylezoo.module import StyleModel

Kind = Literal["arbitrary", "multi", "single", "optimization"]
"""What a system takes as style: any image, one of its trained styles, nothing, or images it optimizes towards."""

KINDS: tuple[Kind, ...] = ("arbitrary", "multi", "single", "optimization")

_INSTALLED = Path(__file__).with_name("experiments")
RECIPES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1] / "experiments"
"""The recipes: in an installed package a part of it, in a checkout beside it."""

_SYSTEMS: dict[str, type[StyleModel]] = {}

M = TypeVar("M", bound="type[StyleModel]")


def register(name: str, *, paper: str, year: int, kind: Kind, code: str | None = None) -> Callable[[M], M]:
    """Class decorator that adds a system to the zoo.

    Args:
        name: What users type, also the name of its recipe ``experiments/<name>.yaml``.
        paper: Address of the paper.
        year: Year of the paper.
        kind: See `Kind`.
        code: The reference implementation, ``owner/repository@commit``.
    """

    def add(cls: M) -> M:
        if name in _SYSTEMS and _SYSTEMS[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"The name {name!r} is taken by {_SYSTEMS[name].__qualname__}: choose another.")
        cls.system, cls.paper, cls.year, cls.kind, cls.code = name, paper, year, kind, code
        _SYSTEMS[name] = cls
        return cls

    return add


def systems() -> dict[str, type[StyleModel]]:
    """All registered systems by name, sorted."""
    importlib.import_module("stylezoo.models")  # importing the models registers them
    return dict(sorted(_SYSTEMS.items()))


def get(name: str) -> type[StyleModel]:
    """The class of a system.

    Raises:
        ValueError: If there is none of that name; the message names the closest.
    """
    known = systems()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the zoo has {', '.join(known)}."
        raise ValueError(f"There is no system {name!r}: {hint}")
    return known[name]


def list_models(kind: Kind | None = None, pretrained: bool = False) -> list[str]:
    """Names of the zoo's systems.

    Args:
        kind: Only systems that take this kind of style.
        pretrained: Instead the tags that `load_model` loads on this machine: models of the package and of the user's
            folder, and recipes of systems that optimize, if what they see with is here.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r}: choose one of {', '.join(KINDS)}.")
    names = [name for name, cls in systems().items() if kind in (None, cls.kind)]
    if not pretrained:
        return names
    return [entry.tag for entry in pretrained_models() if entry.system in names and entry.missing is None]


@dataclass(frozen=True)
class Pretrained:
    """What `load_model` takes by name.

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
        encoder = yaml.safe_load(recipe.read_text())["model"]["init_args"]["encoder"]
        missing = encoder if encoder in table.encoders and not table.encoders[encoder].path.is_file() else None
        found.append(Pretrained(tag, tag.split(".")[0], recipe, missing))
    return sorted(found, key=lambda entry: entry.tag)


def optimization_recipes() -> dict[str, Path]:
    """The recipes of systems that optimize by tag: ``gatys.yaml`` is gatys, ``gatys_modern.yaml`` gatys.modern."""
    names = [name for name, cls in systems().items() if cls.kind == "optimization"]
    recipes = {name: RECIPES / f"{name}.yaml" for name in names}
    for name in names:
        recipes |= {f"{name}.{path.stem.removeprefix(f'{name}_')}": path for path in RECIPES.glob(f"{name}_*.yaml")}
    return recipes


def create_model(name: str, **init_args: Any) -> StyleModel:
    """An untrained model.

    Args:
        name: One of `list_models()`.
        **init_args: Arguments of the system's class.

    Raises:
        ValueError: If there is no such system.
    """
    return get(name)(**init_args)
