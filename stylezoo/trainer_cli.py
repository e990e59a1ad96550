"""Lightning's fit, validate, test and predict over every system and every data set."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from pkgutil import resolve_name
from traceback import walk_tb
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from stylezoo import recipes, registry
from stylezoo.checkpoints import check_resumable, take_weights, warn_of_encoders
from stylezoo.data import Folder, Pairs
from stylezoo.errors import StylezooError, check_number
from stylezoo.module import StyleModel
from stylezoo.training import (
    ChannelsLast,
    Compile,
    ImageGrid,
    ImageWriter,
    RunCheckpoint,
    RunProgressBar,
    Training,
    Winograd,
    guarded,
)
from stylezoo.training.ending import print_summary
from stylezoo.training.speed import Way, fastest, remembered, training_device
from stylezoo.usage import UsageError, behind, explained, one_line, options_with_values


class StyleCLI(LightningCLI):
    """LightningCLI over every system and every data set.

    Recipes set ``model``, ``data`` and ``trainer``; beyond these ``checkpoint`` (RunCheckpoint), ``images``
    (ImageGrid), ``training`` (Training), ``progress`` (RunProgressBar) and ``predictions`` (ImageWriter) can be set in YAML
    or by option.
    """

    def __init__(self, args: list[str], next_step: bool = True) -> None:
        """Runs a command.

        Args:
            args: The command, ``fit`` for example, and its options; or ``--config FILE`` and a command.
            next_step: Whether fit ends with what to type next.
        """
        self._next_step, self._started = next_step, 0.0
        registry.systems()  # imports them, so that class_path: SANet is known
        known = LightningCLI.subcommands()
        self._commands = {args[0]: known[args[0]]} if args and args[0] in known else known
        super().__init__(
            StyleModel,
            Pairs,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False},  # the data strides over processes itself
            parser_kwargs={"prog": "stylezoo", "exit_on_error": False},
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = super().init_parser(**kwargs)
        (config,) = (action for action in parser._actions if action.dest == "config")
        config.help = (
            "A recipe, in YAML; several are laid over each other. A recipe is code: class_path: x.Y imports the module x,"
            " from the working directory too, so use recipes of others only if you trust them."
        )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line; a mistake is a `UsageError` with one sentence."""
        command = next(iter(self._commands)) if len(self._commands) == 1 else ""
        with explained(self._parser(command or None), command):
            super().parse_arguments(parser, [args[0], *with_own_folders(args[1:])] if command else args)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        for action in parser._actions:
            if hasattr(action, "_typehint"):
                action._typehint = int_before_float(action._typehint)

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
            "--precision",
            type=Literal["auto", "64-true", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"] | None,
            default=None,
            help="what trainer.precision says, such as bf16-mixed, or auto: 32-true or bf16-mixed, whichever trains faster"
            " where it runs, as measured once per machine",
        )
        parser.add_argument(
            "--channels_last",
            type=bool | Literal["auto"],
            default=False,
            help="whether fit keeps the channels of a pixel side by side; auto: if it is faster, as measured",
        )
        parser.add_argument(
            "--winograd",
            type=bool | Literal["auto"],
            default=False,
            help="whether fit computes 3 x 3 convolutions by Winograd's algorithm, on CPUs; auto: if it is faster, as"
            " measured",
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
        parser.add_argument(
            "--start_any_encoder",
            type=bool,
            default=False,
            help="whether start may be a model that was trained on another encoder",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        trainer, callbacks = self._get(self.config_init, "trainer"), self._parser(self.subcommand).callback_keys
        for name, (meaning, low) in TRAINER_RANGES.items():
            if isinstance(trainer[name], (int, float)):
                check_number(f"trainer.{name}", trainer[name], meaning, low)
        if trainer["logger"] is False:  # nowhere to log the rate to
            callbacks.remove("lr_monitor")
        if trainer["enable_progress_bar"] is False:
            callbacks.remove("progress")
        with told("The trainer cannot be built with these settings"):
            return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        start = self._get(self.config, "start")
        if start is not None:
            parts, any_encoder = (self._get(self.config, f"start_{name}") for name in ("parts", "any_encoder"))
            taken = take_weights(self.model, start, parts, any_encoder)
            print(f"start: {len(taken)} of {len(self.model.state_dict())} tensors from {start}", flush=True)
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Training):
                    callback.kept = taken
        if self._get(self.config, "compile"):
            self.trainer.callbacks.insert(0, Compile())  # type: ignore[attr-defined]
        self._started = time.monotonic()
        for name, callback in (("channels_last", ChannelsLast), ("winograd", Winograd)):
            if self._get(self.config, name):
                self.trainer.callbacks.insert(0, callback())  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        if self._next_step and self.trainer.is_global_zero:
            print_summary(self.trainer, self.model, time.monotonic() - self._started)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the YAML decides, a checkpoint restores state. Lightning would let its settings win silently."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Returns the command that is asked for: the parsers of the others would take as long to build."""
        return self._commands

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise UsageError(f"--seed_everything must be a whole number from 0 to 4294967295, not {seed}.")
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        if self._get(self.config, "start_parts") is not None and self._get(self.config, "start") is None:
            raise UsageError("--start_parts says which submodules --start brings: give --start, too.")
        if self.subcommand == "fit":
            resolve_name(self._get(self.config, "model").class_path).check_trainable()
        resolve_speed(self.config[str(self.subcommand)])

    def instantiate_classes(self) -> None:
        """Builds the data first and checks that the images exist: missing images are the most common first error."""
        subcommand = str(self.subcommand)
        config = self.config.clone()
        own = Namespace(model=config[subcommand].pop("model"))  # type: ignore[no-untyped-call]
        model = Namespace(**{"subcommand": subcommand, subcommand: own})  # type: ignore[no-untyped-call]
        with told("The data and the options of the run do not fit"):
            self.config_init = self.parser.instantiate(config)  # everything except the model
        self.datamodule = self._get(self.config_init, "data")
        self.datamodule.check(subcommand)
        with told("The model cannot be built with these settings"):
            self.model = self._get(self.parser.instantiate(model, instantiate_groups=False), "model")
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint is not None:
            check_resumable(checkpoint, self.model, training=subcommand == "fit")
        if subcommand == "fit":
            warn_of_encoders(self.model)
        self.trainer = self.instantiate_trainer()

    def _run_subcommand(self, subcommand: str) -> None:
        settings = told(f"{subcommand} cannot run with these settings", is_of_settings)
        with settings, guarded(self.trainer, self._get(self.config, "ckpt_path"), fits=subcommand == "fit"):
            super()._run_subcommand(subcommand)


def resolve_speed(settings: Namespace) -> None:
    """Replaces ``auto`` of ``precision``, ``channels_last`` and ``winograd`` by what is fastest on the machine.

    ``precision`` becomes ``trainer.precision``, so that the configuration that is stored with a run says what was used.

    Args:
        settings: Of a command; they are changed.

    Raises:
        UsageError: If settings contradict each other, or several machines would have to agree on what they measure.
    """
    trainer = settings["trainer"]
    automatic = {name for name in Way._fields if settings[name] == "auto"}
    if settings["precision"] not in (None, "auto"):
        trainer["precision"] = settings["precision"]
    short = "16" in str(trainer["precision"]) and "precision" not in automatic
    if settings["winograd"] is True and (settings["compile"] or settings["channels_last"] is True or short):
        raise UsageError(
            "--winograd true is for float32 in the usual layout, and without --compile: leave the other options out."
        )
    if automatic and trainer["num_nodes"] > 1:
        raise UsageError(
            f"{', '.join(f'--{name} auto' for name in sorted(automatic))} would be measured by each of"
            f" {trainer['num_nodes']} machines: name what a run on one of them prints."
        )
    if automatic:
        given = {**settings, "precision": "bf16-mixed" if short else "32-true"}
        if settings["compile"] and "winograd" in automatic:
            automatic, given = automatic - {"winograd"}, {**given, "winograd": False}
        times = remembered(training_device(trainer["accelerator"]))
        way = fastest(times, lambda way: all(n in automatic or getattr(way, n) == given[n] for n in Way._fields))
        trainer["precision"] = way.precision if "precision" in automatic else trainer["precision"]
        settings["channels_last"], settings["winograd"] = way.channels_last, way.winograd
        print(f"auto: {way}", flush=True)
    settings["precision"] = None


@contextmanager
def told(problem: str, concerned: Callable[[Exception], bool] = lambda error: True) -> Iterator[None]:
    """Raises an error of what is built from the user's settings again as one sentence.

    Args:
        problem: How the sentence begins.
        concerned: The errors that this is for; others, which are bugs, keep their traceback.
    """
    try:
        yield
    except Exception as error:
        if behind(error, StylezooError) is not None or isinstance(error, OSError) or not concerned(error):
            raise
        first: BaseException = error
        while first.__cause__ is not None:  # the parser wraps what a constructor raises in a list of types
            first = first.__cause__
        reason = one_line(str(first) or type(first).__name__)
        raise StylezooError(f"{problem}: {reason} (STYLEZOO_TRACEBACK=1 shows where.)") from error


def is_of_settings(error: Exception) -> bool:
    """Whether an error of a run is one of its settings: Lightning, an optimizer or a data loader has refused a value."""
    if isinstance(error, MisconfigurationException):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return isinstance(error, ValueError) and frames[-1].startswith(("lightning.", "torch.optim.", "torch.utils.data."))


def int_before_float(hint: Any) -> Any:
    """Returns a union with int before float, so that 1 stays one batch and does not become 1.0, all of them.

    Python keeps one object for unions that differ in their order only, so that the order in Lightning's signatures depends
    on what was imported before.

    >>> int_before_float(float | int | None)
    int | float | None
    """
    kinds = get_args(hint)
    if (
        get_origin(hint) not in (Union, UnionType)
        or not {int, float} <= {*kinds}
        or kinds.index(int) < kinds.index(float)
    ):
        return hint
    others = [kind for kind in kinds if kind is not int]
    return reduce(or_, [part for kind in others for part in ((int, float) if kind is float else (kind,))])


TRAINER_RANGES: dict[str, tuple[Any, ...]] = {
    "accumulate_grad_batches": ("a number of batches, at least 1", 1),
    "check_val_every_n_epoch": ("a number of epochs, at least 1", 1),
    "gradient_clip_val": ("a finite number from 0 up; 0 and null clip nothing", 0),
    "log_every_n_steps": ("a number of steps from 0 up", 0),
    "val_check_interval": ("a number of batches or a share of an epoch, greater than 0", math.nextafter(0, 1)),
}
"""Meaning and range of settings of the trainer, as `check_number` takes them, which Lightning takes at any value."""

PLACES = ("root", "download")
"""Settings of a data set that say where its images are."""


def with_own_folders(words: list[str]) -> list[str]:
    """Returns options in which a data set that replaces another one looks for its images in a folder of its own.

    The parser would keep the settings of the other one that the new one has, too: Synthetic would draw into COCO's folder.

    Args:
        words: The options of a command; those of recipes are laid over each other in their order.

    Raises:
        UsageError: If the new one is a folder and none is named.
    """
    pairs = list(options_with_values(words))
    by_option = {
        (choice.role, place)
        for pair in pairs
        if pair[0] != "--config"
        for choice in _choices(*pair)
        for place in choice.places
    }
    result: list[str] = []
    classes: dict[str, str] = {}
    homeless: dict[str, str] = {}
    for option, value in pairs:
        result.append(option if value is None else f"{option}={value}")
        for role, name, places in _choices(option, value):
            own = {place for place in PLACES if place in places or (role, place) in by_option}
            if "root" in own:
                homeless.pop(role, None)
            if name is None:
                continue
            settings = _settings_of_data(name) if classes.get(role, name) != name else {}
            for place in settings.keys() & {*PLACES} - own:
                if settings[place].default is Parameter.empty:
                    homeless[role] = name
                else:
                    default = settings[place].default
                    result.append(
                        f"--data.{role}.{place}={default if isinstance(default, str) else json.dumps(default)}"
                    )
            classes[role] = name
    for role, name in homeless.items():
        raise UsageError(f"{name} needs a folder of images: --data.{role}.root FOLDER.")
    return result


class _Choice(NamedTuple):
    """What an option or a recipe says of a data set: its class, if it names one, and which of `PLACES` it gives."""

    role: str
    name: str | None
    places: frozenset[str]


def _choices(option: str, value: str | None) -> Iterator[_Choice]:
    """Yields what an option, or the recipe that it names, says of the data sets."""
    if value is None:
        return
    if option == "--config" and "://" not in value:
        data = recipes.given(value).get("data")
        for role, given in data.items() if isinstance(data, dict) else ():
            if isinstance(given, str):
                yield _Choice(role, given.rpartition(".")[2], frozenset())
            elif isinstance(given, dict):
                path, settings = given.get("class_path"), given.get("init_args", given)
                yield _Choice(role, path and path.rpartition(".")[2], frozenset(settings))
    elif match := re.fullmatch(r"--data\.(\w+)(?:\.class_path)?", option):
        yield _Choice(match[1], value.rpartition(".")[2], frozenset())
    elif match := re.fullmatch(r"--data\.(\w+)\.(?:init_args\.)?(\w+)", option):
        yield _Choice(match[1], None, frozenset({match[2]}))


def _settings_of_data(name: str) -> Mapping[str, Parameter]:
    """Returns the own settings of a data set; none if there is no such class, which the parser reports."""
    todo: list[type] = [Folder]
    while todo:
        cls = todo.pop()
        if cls.__name__ == name:
            return signature(cls).parameters
        todo += cls.__subclasses__()
    return {}
