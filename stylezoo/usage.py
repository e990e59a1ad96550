"""Mistakes on the command line and in recipes, told in one sentence with the closest name that exists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

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
        options = [option for action in parser._actions for option in action.option_strings]
        raise UsageError(f"{explain(str(error), options, name_of or {})}{see(command)}") from error


def unknown_option(word: str, options: Iterable[str]) -> str:
    """Says that there is no such option, and which one is meant.

    >>> unknown_option("--stlye", ["--style", "--size"])
    'There is no option --stlye: did you mean --style?'
    """
    option = word.partition("=")[0]
    close = did_you_mean(option, options)
    return f"There is no option {option}: did you mean {close}?" if close else f"There is no option {option}."


def explain(message: str, options: Sequence[str], name_of: Mapping[str, str]) -> str:
    """Turns a message of the parser, which may have many lines, into a sentence.

    Args:
        message: The message of a `jsonargparse.ArgumentError`.
        options: The options of the command.
        name_of: {setting: its option} where it is not called ``--setting``.

    >>> explain('Parser key "size":\\n  Expected a <class \\'int\\'>. Got value: big', [], {})
    "--size must be a whole number, not 'big'."
    """
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        word = match[1]
        return unknown_option(word, options) if word.startswith("-") else f"No option takes {word!r}."
    if match := re.match(r"the following arguments are required: (.*)", message):
        *names, last = (_option(name, name_of) for name in match[1].split(", "))
        return f"{', '.join(names)}{' and ' if names else ''}{last} must be given."
    if match := re.match(r"argument (\S+): (expected .*|ignored explicit argument .*)", message):
        return f"{match[1].split('/')[0]}: {match[2]}."
    if match := re.match(r"argument (\S+): invalid \w+ value: (.*)", message):
        return f"{match[1].split('/')[0]} is given alone, or with true or false, not with {match[2]}."
    if match := re.match(r'Parser key "([^"]+)":\s*(.*)', message, re.DOTALL):
        return _wrong_value(_option(match[1], name_of), match[2])
    return _one_line(message)


def _option(setting: str, name_of: Mapping[str, str]) -> str:
    return name_of.get(setting, f"--{setting}")


def _wrong_value(option: str, details: str) -> str:
    """Says what an option expects: the types that the parser has tried."""
    given = re.search(r"Given value: (.*)\Z", details, re.DOTALL) or re.search(r"Got value: (.*?)(?:\n|\Z)", details)
    kinds = re.findall(r"Expected a (<class '[\w.]+'>|typing\.Literal\[[^\]]*\]|\w+)", details)
    choices = [choice for kind in kinds for choice in re.findall(r"'([^']*)'", kind) if kind.startswith("typing.L")]
    others = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind) for kind in kinds if not kind.startswith("typing.L")]
    expected = list(dict.fromkeys([*choices, *(WORDS.get(kind, kind) for kind in others)]))
    if given is None or not expected:
        return f"{option}: {_one_line(details)}"
    value = given[1].strip()
    close = did_you_mean(value, choices) if choices else None
    hint = f": did you mean {close!r}?" if close else "."
    *rest, last = expected
    return f"{option} must be {', '.join(rest)}{' or ' if rest else ''}{last}, not {_short(value)!r}{hint}"


def _short(value: str, length: int = 80) -> str:
    return value if len(value) <= length else f"{value[:length]}..."


def _one_line(message: str) -> str:
    """Joins the lines of a message."""
    text = " ".join(message.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."
