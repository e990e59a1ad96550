"""Banks of encoded styles as the command line names them: styles.safetensors, or styles.safetensors:waves.

`stylezoo.inference.codes` writes and reads them. Nothing here imports PyTorch unless a word of ``--style`` names a bank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stylezoo.errors import StylezooError, unknown_name

FORMAT = "stylezoo-codes-1"

SUFFIX = ".safetensors"


def read_card(path: str | Path) -> dict[str, Any]:
    """Reads what a file of style codes says about itself: system, model, sha256 and the names of its styles.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If it is no such file.
    """
    from stylezoo.tensor_files import read_metadata  # imports PyTorch

    card = read_metadata(path)
    if card.get("format") != FORMAT:
        what = "it is a model" if "settings" in card else "stylezoo did not write it"
        raise StylezooError(
            f"{path} holds no style codes ({what}): make some with `python -m stylezoo encode-style --model ... --style"
            f" ... --output X{SUFFIX}`."
        )
    styles = card.get("styles")
    texts = all(isinstance(card.get(name), str) for name in ("system", "model", "sha256"))
    names = isinstance(styles, list) and all(map(is_name, styles)) and 0 < len(set(styles)) == len(styles)
    if not (texts and names):
        raise StylezooError(f"The metadata of {path} is damaged: encode the styles again.")
    return card


def is_name(name: Any) -> bool:
    """Whether a style can be called so: outputs have its name in theirs."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def is_reference(word: str) -> bool:
    """Whether a word of ``--style`` names style codes: styles.safetensors, or styles.safetensors:waves.

    >>> [is_reference(word) for word in ("styles.safetensors", "a/b.safetensors:waves", "waves.jpg")]
    [True, True, False]
    """
    return re.fullmatch(rf".+\{SUFFIX}(:.+)?", word, re.DOTALL) is not None


def split_reference(word: str) -> tuple[Path, str | None]:
    """Returns the file and the style that a word of ``--style`` names; None for all styles.

    >>> split_reference("a/b.safetensors:waves")[1]
    'waves'
    """
    file, _, name = word.rpartition(f"{SUFFIX}:")
    return (Path(f"{file}{SUFFIX}"), name) if file else (Path(word), None)


def expand_reference(word: str) -> list[str]:
    """Returns the single styles that a word of ``--style`` stands for, as FILE:NAME.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If it holds no style codes, or not the one that is named.
    """
    path, name = split_reference(word)
    known = read_card(path)["styles"]
    if name is not None and name not in known:
        raise unknown_name(f"{path} has no style", name, known, "it has")
    return [f"{path}:{known_name}" for known_name in (known if name is None else [name])]


def style_name(word: str) -> str:
    """Returns what a style of a run over files is called in the names of outputs.

    >>> style_name("paintings/waves.jpg"), style_name("styles.safetensors:waves"), style_name("waves")
    ('waves', 'waves', 'waves')
    """
    name = split_reference(word)[1] if is_reference(word) else None
    return Path(word).stem if name is None else name


def named(paths: Iterable[Path]) -> dict[str, Path]:
    """Gives each image file the name of its style, its stem; further ones of the same stem are numbered.

    >>> list(named([Path("a/waves.jpg"), Path("b/waves.png")]))
    ['waves', 'waves_2']
    """
    found: dict[str, Path] = {}
    for path in paths:
        name, number = path.stem, 1
        while name in found:
            number += 1
            name = f"{path.stem}_{number}"
        found[name] = path
    return found
