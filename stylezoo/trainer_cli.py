"""Lightning's fit, validate, test and predict over every system and every data set."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import stylezoo.models  # noqa: F401 - so that class_path: SANet is known
from stylezoo.checkpoints import check_resumable, take_weights, warn_of_encoders
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
from stylezoo.usage import explained


class StyleCLI(LightningCLI):
    """LightningCLI over every system and every data set.

    Recipes set ``model``, ``data`` and ``trainer``; beyond these ``checkpoint`` (RunCheckpoint), ``images``
    (ImageGrid), ``training`` (Training), ``progress`` (RunProgressBar) and ``predictions`` (ImageWriter) can be set in YAML
    or by option.
    """

    def __init__(self, args: list[str]) -> None:
        """Runs a command.

        Args:
            args: The command, ``fit`` for example, and its options; or ``--config FILE`` and a command.
        """
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line; a mistake is a `UsageError` with one sentence."""
        command = next(iter(self._commands)) if len(self._commands) == 1 else ""
        with explained(self._parser(command or None), command):
            super().parse_arguments(parser, args)

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
        parser.add_argument(
            "--start_any_encoder",
            type=bool,
            default=False,
            help="whether start may be a model that was trained on another encoder",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        if self._get(self.config_init, "trainer")["logger"] is False:  # nowhere to log the rate to
            self._parser(self.subcommand).callback_keys.remove("lr_monitor")
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
        if self._get(self.config, "channels_last"):
            self.trainer.callbacks.insert(0, ChannelsLast())  # type: ignore[attr-defined]

    def _parse_ckpt_path(self) -> None:
        """Nothing: the YAML decides, a checkpoint restores state. Lightning would let its settings win silently."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Returns the command that is asked for: the parsers of the others would take as long to build."""
        return self._commands

    def before_instantiate_classes(self) -> None:
        if self.subcommand == "fit":
            resolve_name(self._get(self.config, "model").class_path).check_trainable()
        if self._get(self.config, "start") is None and self._get(self.config, "start_parts"):
            raise StylezooError("--start_parts says what --start brings: name the model with --start, too.")

    def instantiate_classes(self) -> None:
        """Builds the data first and checks that the images exist: missing images are the most common first error."""
        subcommand = str(self.subcommand)
        config = self.config.clone()
        own = Namespace(model=config[subcommand].pop("model"))  # type: ignore[no-untyped-call]
        model = Namespace(**{"subcommand": subcommand, subcommand: own})  # type: ignore[no-untyped-call]
        self.config_init = self.parser.instantiate(config)  # everything except the model
        self.datamodule = self._get(self.config_init, "data")
        self.datamodule.check(subcommand)
        self.model = self._get(self.parser.instantiate(model, instantiate_groups=False), "model")
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint is not None:
            check_resumable(checkpoint, self.model, training=subcommand == "fit")
        if subcommand == "fit":
            warn_of_encoders(self.model)
        self.trainer = self.instantiate_trainer()

    def _run_subcommand(self, subcommand: str) -> None:
        with guarded(self.trainer, self._get(self.config, "ckpt_path")):
            super()._run_subcommand(subcommand)
