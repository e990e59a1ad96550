"""The command line: Lightning's fit, validate, test and predict, and the zoo's own commands, in one parser."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import stylezoo.models  # noqa: F401 - so that class_path: SANet is known
from stylezoo import legacy
from stylezoo.checkpoints import take_weights
from stylezoo.commands import COMMANDS, OPTION_NAMES
from stylezoo.data import Pairs
from stylezoo.errors import StylezooError
from stylezoo.module import StyleModel
from stylezoo.training import (
    ChannelsLast,
    Compile,
    ImageGrid,
    ImageWriter,
    RunCheckpoint,
    RunProgressBar,
    Training,
    guarded,
)


class StyleCLI(LightningCLI):
    """LightningCLI over every system and every data set, plus `COMMANDS`.

    Recipes set ``model``, ``data`` and ``trainer``; beyond these ``checkpoint`` (RunCheckpoint), ``images``
    (ImageGrid), ``training`` (Training), ``progress`` (RunProgressBar) and ``predictions`` (ImageWriter) can be set in YAML
    or by option.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            StyleModel,
            Pairs,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False},  # the data strides over processes itself
            parser_kwargs={"prog": "stylezoo", "description": "Neural style transfer: train, stylize, compare."},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.every_n_train_steps": 1000,
                "checkpoint.save_last": True,
                "checkpoint.save_on_exception": True,  # SIGTERM too
                "checkpoint.filename": "step_{step:07d}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,  # a folder has the files of one run, the newest replace older
            }
        )
        parser.add_lightning_class_args(Training, "training")
        parser.add_lightning_class_args(ImageGrid, "images")
        parser.add_lightning_class_args(RunProgressBar, "progress")
        parser.add_lightning_class_args(ImageWriter, "predictions")
        parser.add_lightning_class_args(LearningRateMonitor, "lr_monitor")
        parser.set_defaults({"lr_monitor.logging_interval": "step"})
        parser.add_argument("--compile", type=bool, default=False, help="whether fit compiles its training step")
        parser.add_argument(
            "--channels_last", type=bool, default=False, help="whether fit keeps the channels of a pixel side by side"
        )
        parser.add_argument(
            "--start",
            type=str | None,
            default=None,
            help="a model (name, .safetensors or .ckpt) whose weights fit starts from, wherever names and shapes agree; if it"
            " was trained on the same images, another data.seed gives it other crops and pairs",
        )
        parser.add_argument(
            "--start_parts",
            type=list[str] | None,
            default=None,
            help="the submodules whose weights start brings, such as [decoder]; all by default",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        if self._get(self.config_init, "trainer")["logger"] is False:  # nowhere to log the rate to
            self._parser(self.subcommand).callback_keys.remove("lr_monitor")
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            raise StylezooError(f"The trainer cannot be set up: {error}") from error

    def before_fit(self) -> None:
        start = self._get(self.config, "start")
        if start is not None:
            taken = take_weights(self.model, start, self._get(self.config, "start_parts"))
            print(f"start: {len(taken)} of {len(self.model.state_dict())} tensors from {start}", flush=True)
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Training):
                    callback.kept = taken
        if self._get(self.config, "compile"):
            self.trainer.callbacks.insert(0, Compile())  # type: ignore[attr-defined]
        if self._get(self.config, "channels_last"):
            self.trainer.callbacks.insert(0, ChannelsLast())  # type: ignore[attr-defined]

    def _parse_ckpt_path(self) -> None:
        """Nothing: the YAML decides, a checkpoint restores state. Lightning would let its settings win silently."""

    # Commands that are no Trainer methods. LightningCLI has no official way to add them: test_cli.py guards this.

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        for name, function in COMMANDS.items():
            doc = parse_docstring(function.__doc__ or "")
            subparser = LightningArgumentParser(description=doc.description or name)
            add_function(subparser, function)
            parser._subcommands_action.add_subcommand(name, subparser, help=doc.short_description)

    def _set_seed(self) -> None:
        if self.subcommand in COMMANDS:
            return
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise StylezooError(f"seed_everything must be from 0 to {2**32 - 1}, not {seed}.")
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        if self.subcommand == "fit":
            resolve_name(self._get(self.config, "model").class_path).check_trainable()

    def instantiate_classes(self) -> None:
        """Builds the data first and checks that the images exist: missing images are the most common first error."""
        subcommand = str(self.subcommand)
        if subcommand in COMMANDS:
            return
        config = self.config.clone()
        own = Namespace(model=config[subcommand].pop("model"))  # type: ignore[no-untyped-call]
        model = Namespace(**{"subcommand": subcommand, subcommand: own})  # type: ignore[no-untyped-call]
        self.config_init = self.parser.instantiate(config)  # everything except the model
        self.datamodule = self._get(self.config_init, "data")
        self.datamodule.check(subcommand)
        self.model = self._get(self.parser.instantiate(model, instantiate_groups=False), "model")
        self.trainer = self.instantiate_trainer()

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand not in COMMANDS:
            with guarded(self.trainer, self._get(self.config, "ckpt_path"), fits=subcommand == "fit"):
                super()._run_subcommand(subcommand)
            return
        arguments = self.config[subcommand].as_dict()
        arguments.pop("config", None)
        for name in number_lists(COMMANDS[subcommand]):
            arguments[name] = parse_numbers(arguments[name], f"--{name}")
        code = COMMANDS[subcommand](**arguments)
        if code:
            sys.exit(code)


def add_function(parser: LightningArgumentParser, function: Callable[..., int]) -> None:
    """Turns a function's signature into options.

    Lists of strings take several values (``--style a.jpg b.jpg``), lists of numbers one (``1,2,1``), booleans none
    (``--list``), and a parameter called ``name`` is given without an option (``reproduce alpha_sweep``). `OPTION_NAMES`
    has options that are not called like their parameters.
    """
    doc = {p.arg_name: p.description for p in parse_docstring(function.__doc__ or "").params}
    parameters = inspect.signature(function, eval_str=True).parameters
    numbers = number_lists(function)
    several = [name for name, p in parameters.items() if p.annotation in (list[str], list[str] | None)]
    switches = [name for name, p in parameters.items() if p.annotation is bool]
    positional = [name for name in parameters if name == "name"]
    parser.add_function_arguments(function, skip={*several, *switches, *positional, *numbers}, fail_untyped=True)
    required = {name: p.default is inspect.Parameter.empty for name, p in parameters.items()}
    for name in positional:
        parser.add_argument(name, type=str, nargs=None if required[name] else "?", help=doc[name])
    for name in several:
        option = f"--{OPTION_NAMES.get(name, name)}"
        parser.add_argument(option, dest=name, nargs="+", type=str, required=required[name], help=doc[name])
    for name in numbers:
        parser.add_argument(f"--{name}", type=str | None, default=None, help=doc[name])
    for name in switches:
        parser.add_argument(
            f"--{OPTION_NAMES.get(name, name)}", dest=name, action=ActionYesNo(), nargs="?", help=doc[name]
        )


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


UNHELPFUL_WARNINGS = (
    "does not have many workers",  # the number of workers is the recipe's choice
    "Found .* module.s. in eval mode",  # frozen encoders always are
    "Experiment logs directory",  # RunFolder has put aside what would be lost
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed from",  # every run has a folder of its own, a resumed one too
    "LightningCLI's args parameter is intended",  # main(args) is how tests and notebooks call a command
    ".isinstance.treespec, LeafSpec.. is deprecated",  # lightning 2.6 with torch 2.15
)


def main(args: list[str] | None = None) -> None:
    """Runs a command line; errors that this package raises are one sentence, not a traceback.

    ``STYLEZOO_TRACEBACK=1`` shows the traceback all the same.
    """
    for message in UNHELPFUL_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}")
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notes.addFilter(lambda record: "Tip: For seamless cloud" not in record.getMessage())  # an advertisement
    try:
        StyleCLI(legacy.upgrade_arguments(sys.argv[1:] if args is None else args))
    except Exception as error:
        raised = raised_on_purpose(error)
        if raised is None or os.environ.get("STYLEZOO_TRACEBACK"):
            raise
        print(f"stylezoo: {raised}", file=sys.stderr)
        sys.exit(1)


def raised_on_purpose(error: BaseException | None) -> StylezooError | None:
    """Returns the error that this package raised for the user, also where a library has raised it again as its own."""
    while error is not None and not isinstance(error, StylezooError):
        error = error.__cause__ or error.__context__
    return error
