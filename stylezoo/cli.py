"""The command line: `main` reads it, and imports PyTorch and Lightning only for commands that need them.

Four commands are those of Lightning's Trainer (`stylezoo.trainer_cli`); the others are the functions of
`stylezoo.commands`. Mistakes that can be seen without a model are told before anything that takes seconds is imported.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, ArgumentParser

from stylezoo import __version__, catalog, environment, files, help, legacy, recipes, usage
from stylezoo.commands import COMMANDS, OPTION_NAMES, POSITIONAL
from stylezoo.errors import MissingFileError, StylezooError, unknown_name
from stylezoo.usage import UsageError, behind, explained, see, unknown_option

TRAINER_COMMANDS = {name: about.text.partition(". ")[0].rstrip(".") + "." for name, about in help.TRAINER_HELP.items()}
"""The commands of Lightning's Trainer, {name: help}."""

STOPPED = 130
"""The exit code after Ctrl-C, as shells have it."""

UNHELPFUL_WARNINGS = (
    "does not have many workers",  # the number of workers is the recipe's choice
    "Found .* module.s. in eval mode",  # frozen encoders always are
    "Experiment logs directory",  # RunFolder has put aside what would be lost
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed from",  # every run has a folder of its own, a resumed one too
    "LightningCLI's args parameter is intended",  # main(args) is how tests and notebooks call a command
    "The number of training batches .* is smaller than the logging interval",  # the interval goes on over epochs
    ".isinstance.treespec, LeafSpec.. is deprecated",  # lightning 2.6 with torch 2.15
)

UNHELPFUL_MESSAGES = (
    "Tip: For seamless cloud",
    "Found current_model_state in the checkpoint",  # of EMA, in every run that continues
)


def main(args: list[str] | None = None) -> None:
    """Runs a command line; errors that this package raises are one sentence, not a traceback.

    ``STYLEZOO_TRACEBACK=1`` shows the traceback all the same.

    Args:
        args: The words of the command line; None takes those of the process.

    Raises:
        SystemExit: With code 1 after an error, 2 if the command line is wrong, 130 after Ctrl-C.
    """
    environment.settle()
    for message in UNHELPFUL_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}")
    warnings.formatwarning = _formatted  # Lightning, which is imported later, falls back to it
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_helpful)
    with told_in_one_sentence():
        run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()  # a closed pipe is noticed here, not when the interpreter ends


_format_warning = warnings.formatwarning


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Returns a warning of this package as one sentence, without the line of code that it comes from."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"stylezoo: {message}\n"
    return _format_warning(message, category, filename, lineno, line)


def _is_helpful(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in UNHELPFUL_MESSAGES)


def run(args: list[str]) -> None:
    """Runs the command that the first word names."""
    command = args[0] if args else ""
    if command == "help":
        return run([*args[1:2], "--help"])
    if command in ("--help", "-h"):
        _print_and_end(help.overview(summaries()))
    if command in TRAINER_COMMANDS and {"--help", "-h"} & {*args}:
        _print_and_end(help.trainer_help(command))
    if command in COMMANDS:
        code = COMMANDS[command](**parse(command, legacy.upgrade_arguments(args)[1:]))
        if code:
            sys.exit(code)
    elif command in TRAINER_COMMANDS or command.partition("=")[0] in ("--config", "-c"):
        if command in TRAINER_COMMANDS:
            args = [command, *checked_options(command, args[1:])]
            args = ["--help" if word == "--help_all" else word for word in args]
        from stylezoo.trainer_cli import StyleCLI  # imports Lightning

        StyleCLI(legacy.upgrade_arguments(args))
    elif command.startswith("-"):
        parser = ArgumentParser(prog="stylezoo", version=__version__, exit_on_error=False)
        with explained(parser):
            parser.parse_args(args)
    elif command:
        known = (*TRAINER_COMMANDS, *COMMANDS)
        raise UsageError(f"{unknown_name('There is no command', command, known, 'the commands are')}{see()}")
    else:
        raise UsageError(f"Say what to do, such as python -m stylezoo list.{see()}")


def summaries() -> dict[str, str]:
    """Returns all commands with one line about each."""
    return TRAINER_COMMANDS | {name: _doc(function).short_description for name, function in COMMANDS.items()}


def _print_and_end(text: str) -> NoReturn:
    print(text)
    sys.exit(0)


@contextlib.contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Ends the process with a sentence where its block ends with an error of the user, Ctrl-C or a closed pipe."""
    with contextlib.suppress(AttributeError, ValueError):  # not every stream can; names may have any bytes
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        yield
    except BrokenPipeError:
        # what reads our output has stopped, such as head: nothing more can be said there, not even when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except BaseException as error:
        if os.environ.get("STYLEZOO_TRACEBACK"):
            raise
        if behind(error, KeyboardInterrupt) is not None:
            print("stylezoo: stopped", file=sys.stderr)
            sys.exit(STOPPED)
        raised = behind(error, StylezooError)
        if raised is None and isinstance(error, OSError) and error.errno is not None:  # of the machine: no bug
            raised = StylezooError(f"{error.filename or 'A file'} {files.problem(error)}.")
        if raised is None or not isinstance(error, Exception):
            raise
        print(f"stylezoo: {raised}", file=sys.stderr)
        sys.exit(2 if isinstance(raised, UsageError) else 1)


# The commands of the Trainer, as far as they can be checked without Lightning

SECTIONS: dict[str, Any] = {
    "trainer": dict,
    "model": (dict, str),
    "data": (dict, str),
    "checkpoint": dict,
    "training": dict,
    "images": dict,
    "progress": dict,
    "predictions": dict,
    "lr_monitor": dict,
}
"""{section of a recipe: the types of its values}."""

SETTINGS = (
    "seed_everything",
    "compile",
    "channels_last",
    "winograd",
    "precision",
    "start",
    "start_parts",
    "start_any_encoder",
    "ckpt_path",
    "weights_only",
)
OPTIONS = (*SECTIONS, *SETTINGS, "verbose", "return_predictions", "config", "print_config", "help")
"""What options and recipes begin with."""

MORE_CLASSES = ("SlimEncoder",)
"""Models that are in no system's file."""


def checked_options(command: str, words: list[str]) -> list[str]:
    """Checks the options of a command of the Trainer as far as that takes no time: names, recipes and checkpoints.

    Args:
        command: A name of `TRAINER_COMMANDS`.
        words: What follows it on the command line.

    Returns:
        The words; a model that is called by the name of its system is called by that of its class, and a recipe that is not in
        the working directory but in the package by its path there.

    Raises:
        UsageError: If there is no such option or model.
        StylezooError: If a recipe cannot be read, or a checkpoint does not exist.
    """
    known = [f"--{option}" for option in (*OPTIONS, "help_all")]
    checked: list[str] = []
    for option, value in usage.options_with_values(words):
        root = option.partition(".")[0].rstrip("+")
        if option.startswith("--") and not any(name.startswith(root) for name in known):
            raise UsageError(f"{unknown_option(root, known)}{see(command)}")
        if value is None:
            checked.append(option)
            continue
        if option == "--config":
            value = recipes.found(value)
            check_recipe(command, value)
        elif option in ("--model", "--model.class_path"):
            value = model_class(value)
        elif option in ("--ckpt_path", "--start") and is_missing(option, value):
            raise MissingFileError(f"{option}: there is no checkpoint {value}.")
        checked.append(f"{option}={value}")
    named = {option.partition(".")[0].partition("=")[0] for option in checked}
    if not named & {"--config", "--model", "--help", "-h", "--help_all", "--print_config"}:
        raise UsageError(f"{command} needs a model and images: name a recipe, --config RECIPE.yaml.{see(command)}")
    return checked


def is_missing(option: str, value: str) -> bool:
    """Whether an option names a checkpoint of this machine that does not exist."""
    if "://" in value or os.path.exists(value):
        return False
    words = ("last", "best", "hpc", "null", "registry")  # what Lightning finds by itself
    return value.endswith(".ckpt") or (option == "--ckpt_path" and value.partition(":")[0] not in words)


def check_recipe(command: str, recipe: str) -> None:
    """Checks a recipe of the command line: a file, or the YAML itself.

    Raises:
        UsageError: If it has no such section or model.
        StylezooError: If it cannot be read, see `stylezoo.recipes.read`.
    """
    if "://" in recipe:
        return  # Lightning reads it
    for section, value in recipes.given(recipe).items():
        if section not in OPTIONS:
            raise UsageError(f"{recipe}: there is no section {section}{usage.meant(section, OPTIONS)}{see(command)}")
        if not isinstance(value, SECTIONS.get(section, object)):
            problem = f"{section} must be a mapping of settings, not {recipes.kind(value)}."
            raise UsageError(f"{recipe}: {problem}{see(command)}")
        if section == "model":
            name = value if isinstance(value, str) else value.get("class_path", "")
            if model_class(name) != name:
                raise UsageError(f"{recipe}: there is no class {name}: did you mean {model_class(name)}?{see(command)}")


def model_class(name: str) -> str:
    """Returns the class of a model that is called by the name of its system, such as SANet for sanet; or the name.

    Raises:
        UsageError: If there is certainly no such class.
    """
    system = catalog.systems().get(name)
    if system is not None:
        return system.class_name
    known = [*(system.class_name for system in catalog.systems().values()), *MORE_CLASSES]
    # a program that calls `main` may have classes of its own, which Lightning finds by their names
    if name in known or not name.isidentifier() or "stylezoo.module" in sys.modules:
        return name
    raise UsageError(f"There is no model {usage.shortened(name)}{usage.meant(name, known)}{see('fit')}")


# The zoo's own commands


def parse(command: str, words: list[str]) -> dict[str, Any]:
    """Reads the options of a command.

    Args:
        command: A name of `stylezoo.commands.COMMANDS`.
        words: What follows it on the command line.

    Returns:
        The arguments of its function.

    Raises:
        UsageError: If there is no such option, or a value has the wrong type.
    """
    function = COMMANDS[command]
    parser = command_parser(command)
    names = {name: f"--{option}" for name, option in OPTION_NAMES.items()} | {name: name.upper() for name in POSITIONAL}
    with explained(parser, command, names):
        arguments: dict[str, Any] = parser.parse_args(words).as_dict()
    for name in number_lists(function):
        arguments[name] = parse_numbers(arguments[name], f"--{name}")
    return arguments


def command_parser(command: str) -> ArgumentParser:
    """Returns the parser of a command's options, whose help has examples first and options by topic."""
    function = COMMANDS[command]
    parser = ArgumentParser(
        prog=f"{help.PROGRAM} {command}",
        description=help.description(function),
        formatter_class=help.Formatter,
        exit_on_error=False,
    )
    add_function(parser, function)
    actions = [action for action in parser._actions if action.dest not in ("help", "print_shtab")]
    parser.usage = help.usage(
        command,
        [
            action.dest.upper() if action.required else f"[{action.dest.upper()}]"
            for action in actions
            if not action.option_strings
        ],
        [
            action.option_strings[0].removeprefix("--")
            for action in actions
            if action.option_strings and action.required
        ],
    )
    return parser


def _doc(function: Callable[..., Any]) -> Any:
    return parse_docstring(function.__doc__ or "")


def add_function(parser: ArgumentParser, function: Callable[..., int]) -> None:
    """Turns a function's signature into options.

    Lists of strings take several values (``--style a.jpg b.jpg``), lists of numbers one (``1,2,1``), booleans none
    (``--list``), and those of `POSITIONAL` are given without an option (``reproduce alpha_sweep``). `OPTION_NAMES` has
    options that are not called like their parameters.
    """
    descriptions = {param.arg_name: param.description for param in _doc(function).params}
    numbers = number_lists(function)
    parameters = inspect.signature(function, eval_str=True).parameters
    group: dict[str | None, Any] = {None: parser}
    # jsonargparse's add_function_arguments would look for the function in the package, which imports all of it
    for name, parameter in parameters.items():
        topic = help.topic_of(name, len(parameters))
        if topic not in group:
            group[topic] = parser.add_argument_group(topic)
        kind, text, option = parameter.annotation, descriptions[name], f"--{OPTION_NAMES.get(name, name)}"
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        if name in POSITIONAL:
            word = kind if get_origin(kind) is Literal else str
            group[topic].add_argument(name, type=word, nargs=None if required else "?", metavar=name, help=text)
        elif kind in (list[str], list[str] | None):
            group[topic].add_argument(
                option, dest=name, nargs="+", type=str, required=required, default=default, help=text
            )
        elif name in numbers:
            group[topic].add_argument(option, type=str | None, default=default, help=text)
        elif kind is bool:
            group[topic].add_argument(option, dest=name, action=ActionYesNo(), nargs="?", default=default, help=text)
        elif required:
            group[topic].add_argument(option, type=kind, required=True, help=text)
        else:
            choices = _optional_choices(kind)
            shown = {"metavar": f"{{{','.join(choices)}}}"} if choices else {}
            group[topic].add_argument(option, type=kind, default=default, help=text, **shown)


def _optional_choices(kind: Any) -> tuple[str, ...]:
    """Returns the choices of a type such as ``Literal["a", "b"] | None``, for which the parser shows none."""
    first, *rest = get_args(kind) or (None,)
    return get_args(first) if get_origin(first) is Literal and rest == [type(None)] else ()


def number_lists(function: Callable[..., int]) -> list[str]:
    """Returns the names of a command's parameters that are lists of numbers."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return [name for name, parameter in parameters.items() if parameter.annotation == list[float] | None]


def parse_numbers(text: str | None, option: str = "The option") -> list[float] | None:
    """Reads the numbers of an option, such as 1,2,1.

    >>> parse_numbers("1,2,1")
    [1.0, 2.0, 1.0]

    Raises:
        StylezooError: If these are no numbers.
    """
    if text is None:
        return None
    try:
        return [float(word) for word in text.strip("[] ").split(",")]
    except ValueError:
        raise StylezooError(f"{option} takes numbers such as 1,2,1, not {text!r}.") from None
