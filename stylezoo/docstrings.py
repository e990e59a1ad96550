"""Docstrings completed with arguments that are documented at one other place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from docstring_parser import parse

F = TypeVar("F", bound=Callable[..., Any])


def described(descriptions: Mapping[str, str]) -> Callable[[F], F]:
    """Decorates a function whose docstring is `completed` with descriptions."""

    def complete(function: F) -> F:
        function.__doc__ = completed(function, descriptions)
        return function

    return complete


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Returns {argument: description} of a docstring."""
    params = parse(function.__doc__ or "").params
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def completed(target: Callable[..., Any], descriptions: Mapping[str, str]) -> str:
    """Returns a docstring with those arguments of the signature added to ``Args:`` that it does not describe.

    Args:
        target: A function or a class.
        descriptions: {argument: description}, in the order in which they are added.
    """
    lines = inspect.cleandoc(target.__doc__ or "").splitlines()
    missing = inspect.signature(target).parameters.keys() - arguments(target)
    added = [f"    {name}: {text}" for name, text in descriptions.items() if name in missing]
    if not added:
        return "\n".join(lines)
    if "Args:" not in lines:
        lines += ["", "Args:"]
    start = lines.index("Args:") + 1
    end = next((i for i in range(start, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
    while end > start and not lines[end - 1]:
        end -= 1
    return "\n".join([*lines[:end], *added, *lines[end:]])
