"""The names of the zoo: `register` gives a system its name, `get` finds it again."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from stylezoo import weights

if TYPE_CHECKING:
    from stylezoo.module import StyleModel

Kind = Literal["arbitrary", "multi", "single", "optimisation"]
"""What a system takes as style: any picture, one of its trained styles, nothing, or pictures it optimises towards."""

KINDS: tuple[Kind, ...] = ("arbitrary", "multi", "single", "optimisation")

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
        pretrained: Instead the tags of weights on this machine: what `load_model` loads by name.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r}: choose one of {', '.join(KINDS)}.")
    names = [name for name, cls in systems().items() if kind in (None, cls.kind)]
    if not pretrained:
        return names
    tags = sorted(path.stem for path in weights.folder().glob("*.safetensors"))
    return [tag for tag in tags if tag.split(".")[0] in names]


def create_model(name: str, **init_args: Any) -> StyleModel:
    """An untrained model.

    Args:
        name: One of `list_models()`.
        **init_args: Arguments of the system's class.

    Raises:
        ValueError: If there is no such system.
    """
    return get(name)(**init_args)
