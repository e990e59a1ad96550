"""Errors that the package raises on purpose; each message is one sentence for the user.

The command line prints these without a traceback. Everything else is a bug and is shown in full.
"""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, get_args


class StylezooError(ValueError):
    """Something that the user gave is wrong: the message says what, what was expected, and what to do."""


class MissingFileError(StylezooError, FileNotFoundError):
    """A file is not on this machine; the message says where it belongs or how to get it."""


class NotEnoughMemoryError(StylezooError, MemoryError):
    """An image does not fit into the memory of the device; the message says what to try."""


class Stopped(KeyboardInterrupt):
    """Raised after Ctrl-C or SIGTERM, when what was done until then is saved; the message is one sentence.

    Attributes:
        number: The signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "bad allocation")
"""How the errors of PyTorch and its libraries say it, most of them plain RuntimeErrors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that memory has run out, on the CPU or on another device.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."))
    True
    """
    words = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in words for sign in OUT_OF_MEMORY)
    )


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


def check_number(
    name: str, value: Any, meaning: str, low: float = -math.inf, high: float = math.inf, *, whole: bool = False
) -> Any:
    """Returns a finite number as a Python number; NumPy's count, booleans, strings and None do not.

    >>> check_number("alpha", 0.5, "the strength between 0 and 1", 0, 1)
    0.5

    Args:
        name: The setting.
        value: What it was set to.
        meaning: What the setting is, with its range; the sentence reads ``{name} is {meaning}, not {value}.``
        low: Smallest value.
        high: Largest value.
        whole: Whether it must be an integer.

    Raises:
        StylezooError: If it is no such number.
    """
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        shown = repr(value) if len(repr(value)) <= 60 else f"a {type(value).__name__}"
        raise StylezooError(f"{name} is {meaning}, not {shown}.")
    return int(value) if whole else float(value)


def check_weights(weights: Any) -> list[float]:
    """Returns blending weights, a list, tuple, array or tensor of finite numbers, as a list.

    Raises:
        StylezooError: If they are something else.
    """
    weights = weights.tolist() if hasattr(weights, "tolist") else weights
    meaning = "a list of finite numbers, one per style, such as 1,2,1"
    if not isinstance(weights, (list, tuple)):
        raise StylezooError(f"style_weights is {meaning}, not {weights!r}.")
    return [check_number("style_weights", weight, meaning) for weight in weights]
