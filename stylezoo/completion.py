"""Scripts that complete the command line in a shell, written by shtab from the same signatures as the options."""

from __future__ import annotations

import inspect
from argparse import Action, ArgumentParser
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from docstring_parser import parse as parse_docstring

from stylezoo import catalog
from stylezoo.controls import EngineName
from stylezoo.errors import StylezooError
from stylezoo.help import TRAINER_HELP

PROGRAM = "stylezoo"

MODELS = ("model", "models", "start")
"""Options that take the name of a model, or a file."""

FILES = (
    *("content", "style", "output", "masks", "pairs", "painting", "files", "run", "encoder_weights"),
    *("config", "ckpt_path", "root", "save_dir", "folder"),
)
"""Options that take a file or a folder; of dotted ones the last word."""

FUNCTIONS = {
    "bash": '_stylezoo_models() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_stylezoo_models() {{ _alternative 'models:model:({names})' 'files:file:_files' }}",
    "fish": "function _stylezoo_models; printf '%s\\n' {names}; __fish_complete_path (commandline -ct); end",
}
"""{shell: a function that completes names of models and files}."""

COMPLETE_MODEL = {"bash": "_stylezoo_models", "zsh": "_stylezoo_models", "fish": "(_stylezoo_models)"}


def script(
    shell: str,
    commands: Mapping[str, Callable[..., int]],
    option_names: Mapping[str, str],
    positional: Collection[str],
) -> str:
    """Returns the script for a shell.

    Args:
        shell: bash, zsh or fish.
        commands: The commands by name.
        option_names: {parameter: its option} where they differ.
        positional: Parameters that are given without an option.

    Raises:
        StylezooError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise StylezooError(
            'Scripts for completion are written by shtab: pip install "stylezoo[completion]".'
        ) from error
    parser = ArgumentParser(prog=PROGRAM)
    subparsers = parser.add_subparsers()
    for name, function in commands.items():
        doc = parse_docstring(function.__doc__ or "")
        subparser = subparsers.add_parser(name, help=doc.short_description)
        texts = {param.arg_name: (param.description or "").split(". ")[0] for param in doc.params}
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            option = (
                parameter.name
                if parameter.name in positional
                else f"--{option_names.get(parameter.name, parameter.name)}"
            )
            _add(subparser, option, name, parameter.name, parameter.annotation, texts[parameter.name], shtab.FILE)
    for name, about in TRAINER_HELP.items():
        subparser = subparsers.add_parser(name, help=about.text.partition(". ")[0])
        options = {option: text for topic in about.topics.values() for option, text in topic.items()}
        for option, about_option in options.items():
            word, _, value = option.partition(" ")
            if not word.endswith("SETTING"):
                kind = str if value else bool
                _add(subparser, word, name, word.removeprefix("--").rpartition(".")[2], kind, about_option, shtab.FILE)
    names = " ".join(sorted([*catalog.systems(), *catalog.model_tags()]))
    preamble: Any = {shell: text.format(names=names) for shell, text in FUNCTIONS.items()}
    written: str = shtab.complete(parser, shell, preamble=preamble)
    return written


def _add(parser: ArgumentParser, option: str, command: str, name: str, kind: Any, text: str, file: Any) -> None:
    """Adds an option with what completes its value."""
    if kind is bool:
        parser.add_argument(option, action="store_true", help=text)
        return
    action: Action = parser.add_argument(option, nargs="+" if "list" in str(kind) else None, help=text)
    choices = _names(command, name) or list(_literals(kind))
    if choices:
        action.choices = choices
    elif name in MODELS and command not in ("validate", "test", "predict") and option != "--model.help":
        action.complete = COMPLETE_MODEL  # type: ignore[attr-defined]
    elif name in FILES:
        action.complete = file  # type: ignore[attr-defined]


def _names(command: str, name: str) -> list[str]:
    """Returns the names that an option takes, as far as the catalog knows them."""
    if (command, name) == ("import", "system"):
        return list(catalog.systems())
    if (command, name) == ("download", "name"):
        return [name for name in catalog.weight_files() if name not in catalog.model_tags()]
    if (command, name) == ("reproduce", "name"):
        return list(catalog.studies())
    if (command, name) in (("fit", "model"), ("validate", "model"), ("test", "model"), ("predict", "model")):
        return [system.class_name for system in catalog.systems().values()]
    return [engine for engine in get_args(EngineName) if engine != "auto"] if name == "engines" else []


def _literals(kind: Any) -> Iterable[str]:
    """Yields the words that a type allows."""
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for part in get_args(kind):
            yield from _literals(part)
