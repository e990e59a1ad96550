"""Errors that the package raises on purpose; each message is one sentence for the user.

The command line prints these without a traceback. Everything else is a bug and is shown in full.
"""

import difflib
from collections.abc import Iterable
from typing import Any, get_args


class StylezooError(ValueError):
    """Something that the user gave is wrong: the message says what, what was expected, and what to do."""


class MissingFileError(StylezooError, FileNotFoundError):
    """A file is not on this machine; the message says where it belongs or how to get it."""


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the known name that is closest to a mistyped one, or None.

    >>> did_you_mean("adian", ["adain", "sanet"])
    'adain'
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def unknown_name(problem: str, name: str, known: Iterable[str], otherwise: str) -> StylezooError:
    """Builds the error of a name that does not exist, with the closest one that does.

    >>> print(unknown_name("There is no system", "adian", ["adain", "sanet"], "the zoo has"))
    There is no system 'adian': did you mean 'adain'?

    Args:
        problem: How the sentence begins.
        name: What the user typed.
        known: The names that exist.
        otherwise: What introduces their list where none is close.
    """
    known = list(known)
    close = did_you_mean(name, known)
    hint = f"did you mean {close!r}?" if close else f"{otherwise} {', '.join(known)}."
    return StylezooError(f"{problem} {name!r}: {hint}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises an error that names the setting unless its value is one of the choices.

    Args:
        name: The setting.
        value: What it was set to.
        choices: A ``Literal`` type, or the allowed values.

    Raises:
        StylezooError: If the value is none of them.
    """
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        *rest, last = (repr(choice) for choice in allowed)
        raise StylezooError(f"{name} must be {', '.join(rest)} or {last}, got {value!r}.")
