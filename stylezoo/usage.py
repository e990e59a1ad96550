"""Mistakes on the command line and in recipes, told in one sentence with the closest name that exists."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any, TypeVar, get_args

from jsonargparse import ArgumentError, ArgumentParser

from stylezoo.errors import StylezooError, did_you_mean

E = TypeVar("E", bound=BaseException)

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "Iterable": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
"""{type: what the parser expects for it, in words}."""


class UsageError(StylezooError):
    """A command line, or a recipe that it names, that cannot be understood; the exit code is 2."""


def see(command: str = "") -> str:
    """Returns the hint that ends the sentence of a usage error."""
    return f" (See {' '.join(filter(None, ['python -m stylezoo', command, '--help']))}.)"


def behind(error: BaseException | None, kind: type[E]) -> E | None:
    """Returns the error of a kind behind an error, also where a library has raised it again as its own."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def explained(parser: ArgumentParser, command: str = "", name_of: Mapping[str, str] | None = None) -> Iterator[None]:
    """Raises a parser's errors again as a `UsageError` with one sentence.

    Args:
        parser: The parser of the options, with ``exit_on_error=False``.
        command: The command whose help is recommended.
        name_of: {setting: its option} where it is not called ``--setting``.
    """
    try:
        yield
    except ArgumentError as error:
        if behind(error, StylezooError) is not None:
            raise
        raise UsageError(f"{explain(str(error), parser, name_of or {})}{see(command)}") from error


def unknown_option(word: str, options: Iterable[str]) -> str:
    """Says that there is no such option, and which one is meant.

    >>> unknown_option("--stlye", ["--style", "--size"])
    'There is no option --stlye: did you mean --style?'
    """
    option = word.partition("=")[0]
    return f"There is no option {shortened(option)}{meant(option, options)}"


def explain(message: str, parser: ArgumentParser, name_of: Mapping[str, str]) -> str:
    """Turns a message of a parser, which may have many lines, into a sentence.

    Args:
        message: The message of a `jsonargparse.ArgumentError`.
        parser: The parser.
        name_of: {setting: its option} where it is not called ``--setting``.
    """
    options = [option for action in parser._actions for option in action.option_strings]
    if match := re.match(r"unrecognized arguments: (\S*)", message):
        word = match[1]
        return unknown_option(word, options) if word.startswith("-") else f"No option takes {shortened(word)!r}."
    if match := re.match(r"(?:Subcommand|Group) '.*' does not accept option '(.*)'", message):
        return unknown_option(f"--{match[1]}", options)
    if match := re.match(r"the following arguments are required: (.*)", message):
        *names, last = (_option(name, name_of) for name in match[1].split(", "))
        return f"{', '.join(names)}{' and ' if names else ''}{last} must be given."
    if match := re.match(r"argument (\S+): (expected .*|ignored explicit argument .*)", message):
        return f"{match[1].split('/')[0]}: {match[2]}."
    if match := re.match(r"argument (\S+): invalid \w+ value: (.*)", message):
        return f"{match[1].split('/')[0]} is given alone, or with true or false, not with {shortened(match[2])}."
    if match := re.match(r'Parser key "([^"]+)":\s*(.*)', message, re.DOTALL):
        return _wrong_setting(_option(match[1], name_of), match[2], _classes(parser, match[1]))
    return one_line(message)


def _option(setting: str, name_of: Mapping[str, str]) -> str:
    return name_of.get(setting, f"--{re.sub('^(fit|validate|test|predict)[.]', '', setting)}")


def _wrong_setting(setting: str, details: str, classes: list[str]) -> str:
    """Says what is wrong with a setting, or with one inside of it where it is an object.

    Args:
        setting: Its name.
        details: What the parser says of it.
        classes: The classes that it may name.
    """
    if match := re.search(
        r"^( *)(?:- )?Problem with given class_path '(.*)':\n((?:\1 +.*\n?)*)", details, re.MULTILINE
    ):
        return _wrong_object(match[2], inspect.cleandoc(match[3]))
    if match := re.search(r"Expected a dot import path string: (.*)", details):
        return f"{setting}: there is no class {shortened(match[1])}{meant(match[1], classes)}"
    if match := re.search(r"does not correspond to a subclass of (\w+)", details):
        return f"{setting} must be a {match[1]}, not {_given(details)}."
    if match := re.search(r"Not a valid subclass of (\w+)", details):
        return f"{setting} must name a {match[1]} (class_path), not {_given(details)}."
    return _wrong_value(setting, details)


def _wrong_object(path: str, details: str) -> str:
    """Says what is wrong with the settings of a class."""
    name = path.rpartition(".")[2]
    if match := re.match(r"(?:Option|Key) '(.*)' is not", details):
        return f"{name} has no setting {shortened(match[1])}{meant(match[1], settings_of(resolve_name(path)))}"
    if match := re.match(r'Parser key "([^"]+)":\s*(.*)', details, re.DOTALL):
        return _wrong_setting(f"{name}'s {match[1]}", match[2], [])
    if match := re.match(r"the following arguments are required: (.*)", details):
        return f"{name} needs {' and '.join(match[1].split(', '))}."
    if details.startswith("No module named"):
        return f"There is no class {path} ({one_line(details).removesuffix('.')})."
    return f"{name}: {one_line(details)}"


def settings_of(cls: type) -> dict[str, inspect.Parameter]:
    """Returns the settings of a class by name, those of its bases included that it passes on."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            found = {**parameters, **found}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return {name: p for name, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD and name != "self"}


def options_with_values(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields each option of a command line with its value, None if it has none; ``-c`` is called ``--config``.

    >>> list(options_with_values(["--a=1", "--b", "2", "--c", "-c", "x.yaml"]))
    [('--a', '1'), ('--b', '2'), ('--c', None), ('--config', 'x.yaml')]
    """
    waiting: str | None = None
    for word in words:
        if waiting is not None and not re.match(r"--|-[a-zA-Z]$", word):
            yield waiting, word
            waiting = None
            continue
        if waiting is not None:
            yield waiting, None
        option, equals, value = word.partition("=")
        option = "--config" if option == "-c" else option
        waiting = None if equals or not option.startswith("--") else option
        if waiting is None:
            yield option if equals else word, value if equals else None
    if waiting is not None:
        yield waiting, None


def _classes(parser: ArgumentParser, setting: str) -> list[str]:
    """Returns the names of the classes that a setting may have."""
    found: list[str] = []
    todo: list[Any] = [getattr(action, "_typehint", None) for action in parser._actions if action.dest == setting]
    while todo:
        kind = todo.pop()
        todo += get_args(kind)
        if isinstance(kind, type) and kind.__module__ != "builtins" and not get_args(kind):
            found.append(kind.__name__)
            todo += kind.__subclasses__()
    return found


def _wrong_value(setting: str, details: str) -> str:
    """Says what a setting must be: the types that the parser has tried."""
    kinds = re.findall(r"Expected a (<class '[\w.]+'>|typing\.Literal\[[^\]]*\])", details)
    literals = [kind.removeprefix("typing.Literal[")[:-1].split(", ") for kind in kinds if kind.startswith("typing")]
    choices = [choice.strip("'") for literal in literals for choice in literal]
    named = [choice for choice in choices if not choice.isdigit()]
    types = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind) for kind in kinds if not kind.startswith("typing")]
    given, expected = _given(details), list(dict.fromkeys([*choices, *(WORDS.get(kind, kind) for kind in types)]))
    if given is None or not expected:
        return f"{setting}: {one_line(details)}"
    *rest, last = expected
    return f"{setting} must be {', '.join(rest)}{' or ' if rest else ''}{last}, not {given}{meant(given[1:-1], named)}"


def _given(details: str) -> str | None:
    """Returns the value that the parser was given, quoted."""
    match = re.search(r"Given value: (.*)\Z", details, re.DOTALL) or re.search(r"Got value: (.*)", details)
    if match is None:
        return None
    value = match[1].strip()
    nested = re.match(r"NestedArg\(key='.*?', val=(.*)\)\Z", value, re.DOTALL)
    return repr(shortened(nested[1].strip("'") if nested else value))


def meant(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence: the known name that is closest, also in small and capital letters."""
    by_letters = {word.lower().replace("_", ""): word for word in known}
    close = by_letters.get(name.lower().replace("_", "")) or did_you_mean(name, by_letters.values())
    return f": did you mean {close}?" if close else "."


def shortened(text: str, length: int = 80) -> str:
    """Returns one line of a text of any length."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}..."


def one_line(message: str) -> str:
    """Joins the lines of a message, and ends it with a full stop."""
    text = shortened(message, 400)
    return text if text.endswith((".", "?", "!")) else f"{text}."
