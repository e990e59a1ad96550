"""Names of earlier versions: settings, tensors and options that have been renamed keep working for one release.

One mapping serves model files, checkpoints, recipes, command lines and `stylezoo.create_model`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

LOSSES_ONLY = ("cin", "johnson", "magenta", "microast", "msgnet", "stytr2", "texture_nets")
"""Systems whose only VGG is that of the losses; its setting was called ``encoder``."""

RENAMED_SETTINGS: dict[str, dict[str, str]] = {
    **{name: {"encoder": "loss_encoder", "encoder_weights": "loss_encoder_weights"} for name in LOSSES_ONLY},
    "slim_encoder": {"first_pictures": "crops", "first_weights": "initial_weights"},
}
"""{system: {old name: new name}} of constructor arguments."""

RENAMED_VALUES = {"normalised": "normalized", "normalised_outside": "normalized_outside"}
"""Names of content losses."""

LOSS_ENCODER = {"first_pictures", "loss_encoder", "loss_encoder_weights"}
TRAINING_SETTINGS: dict[str, set[str]] = {
    **dict.fromkeys(
        ("adain", "efdm", "linear_transfer", "multi_level_adain", "multi_level_attention", "sanet"), LOSS_ENCODER
    ),
    **{name: {"first_pictures"} for name in ("cin", "microast", "msgnet", "stytr2")},
    "magenta": {
        "first_pictures",
        "teacher",
        "distillation_weight",
        "imitation_weight",
        "freeze_predictor",
        "norm_momentum",
    },
}
"""{system: constructor arguments that have become options of `stylezoo.training.Training`}."""

TRAINING_OPTIONS = {
    "first_pictures": "initialization",
    "teacher": "objective",
    "distillation_weight": "objective",
    "imitation_weight": "objective",
    "freeze_predictor": "freeze",
    "norm_momentum": "batch_norm_momentum",
}
"""{former constructor argument: option of `stylezoo.training.Training` that has taken its place}."""

RENAMED_TENSORS = {"multi_level_attention": {"painter.": "network."}}
"""{system: {old prefix: new prefix}} of state dicts."""

RENAMED_METADATA = {"licence": "license"}
"""{old key: new key} of the metadata of model files."""

RENAMED_OPTIONS = {
    "stylize": {"--mask": "--masks"},
    "evaluate": {"--save_pictures": "--save_images", "--no_save_pictures": "--no_save_images"},
    "reproduce": {"--pictures": "--images"},
}
"""{command: {old option: new option}}."""

SYSTEM_OF_CLASS = {
    "AdaIN": "adain",
    "CIN": "cin",
    "EFDM": "efdm",
    "Johnson": "johnson",
    "LinearTransfer": "linear_transfer",
    "Magenta": "magenta",
    "MicroAST": "microast",
    "MSGNet": "msgnet",
    "MultiLevelAdaIN": "multi_level_adain",
    "MultiLevelAttention": "multi_level_attention",
    "SANet": "sanet",
    "SlimEncoder": "slim_encoder",
    "StyTr2": "stytr2",
    "TextureNets": "texture_nets",
}
"""Systems by the names that recipes have for them."""


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Issues the DeprecationWarning of a renamed thing; ``stacklevel`` 3 names the caller of the calling function."""
    warnings.warn(
        f"{old} is now called {new}; the old name works for one more release.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def moved_to_training(system: str, name: str) -> bool:
    """Whether a former constructor argument has become an option of training."""
    return name in TRAINING_SETTINGS.get(system, ())


def upgrade_settings(system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Renames constructor arguments of earlier versions, and leaves out those that only training had a use for."""
    renamed = RENAMED_SETTINGS.get(system, {})
    result: dict[str, Any] = {}
    for name, value in settings.items():
        new = renamed.get(name, name)
        if new != name and new in settings:
            continue
        if not moved_to_training(system, name):
            result[new] = RENAMED_VALUES.get(value, value) if name == "content_loss" else value
    return result


def given_settings(system: str, settings: Mapping[str, Any], stacklevel: int = 4) -> dict[str, Any]:
    """Returns `upgrade_settings` of what a user gave, with a DeprecationWarning for each old name."""
    upgraded = upgrade_settings(system, settings)
    for old in settings.keys() - upgraded.keys():
        if moved_to_training(system, old):
            warnings.warn(
                f"{system} has no setting {old} any more, so it has no effect here: it is an option of training"
                f" (stylezoo.training.Training, --training.{TRAINING_OPTIONS.get(old, old)} in fit).",
                DeprecationWarning,
                stacklevel=stacklevel - 1,
            )
        else:
            warn(f"{system}'s setting {old}", RENAMED_SETTINGS[system][old], stacklevel)
    return upgraded


def upgrade_tensors(system: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the tensors of a state dict of earlier versions."""
    result = dict(tensors)
    for old, new in RENAMED_TENSORS.get(system, {}).items():
        result = {re.sub(rf"^(module\.)?{re.escape(old)}", rf"\g<1>{new}", key): value for key, value in result.items()}
    return result


def upgrade_checkpoint(system: str, checkpoint: dict[str, Any]) -> None:
    """Changes a training checkpoint of earlier versions in place."""
    for part in ("state_dict", "current_model_state", "averaging_state"):
        if part in checkpoint:
            checkpoint[part] = upgrade_tensors(system, checkpoint[part])
    encoders = checkpoint.get("stylezoo", {}).get("encoders", {})
    if "_loss_network" in encoders:
        encoders["loss_encoder"] = encoders.pop("_loss_network")


# Recipes and command lines


def upgrade_arguments(args: list[str]) -> list[str]:
    """Rewrites a command line of earlier versions, the recipes that it names included; others come back unchanged."""
    if not args:
        return args
    if args[0] == "list" and "optimisation" in " ".join(args):
        warn("the kind optimisation", "optimization")
        return [word.replace("optimisation", "optimization") for word in args]
    if args[0] in RENAMED_OPTIONS:
        return [args[0], *(_renamed_option(args[0], word) for word in args[1:])]
    if args[0] not in ("fit", "validate", "test", "predict"):
        return args
    return _TrainerArguments().upgrade(args)


def _renamed_option(command: str, word: str) -> str:
    option, equals, value = word.partition("=")
    new = RENAMED_OPTIONS[command].get(option)
    if new is None:
        return word
    warn(option, new)
    return f"{new}{equals}{value}"


def _value(text: str) -> Any:
    """Returns what the text of an option stands for; the text itself where it is no YAML, which the parser reports."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


class _TrainerArguments:
    """Upgrades the arguments of one command of the Trainer: options, and settings in recipes."""

    def __init__(self) -> None:
        self.system = ""
        self.learning_rate: Any = None
        self.training: dict[str, Any] = {}

    def upgrade(self, args: list[str]) -> list[str]:
        words = [word for argument in self._joined(args[1:]) for word in self._upgraded(argument)]
        return [args[0], *words, *self._training_options(args[0])]

    @staticmethod
    def _joined(args: list[str]) -> Iterator[str]:
        """Yields each option together with its value, as ``--option=value``."""
        waiting: str | None = None
        for word in args:
            if waiting is not None:
                yield f"{waiting}={word}"
                waiting = None
            elif re.fullmatch(r"--(config|model(\.\w+)*)", word):
                waiting = word
            else:
                yield word
        if waiting is not None:
            yield waiting

    def _upgraded(self, argument: str) -> Iterator[str]:
        option, equals, value = argument.partition("=")
        if option == "--config":
            yield f"--config={self._recipe(value)}"
        elif option in ("--model", "--model.class_path"):
            self.system = SYSTEM_OF_CLASS.get(value.rpartition(".")[2], "")
            yield argument
        elif match := re.fullmatch(r"--model\.(?:init_args\.)?(\w+)", option):
            name = match[1]
            kept = self._settings({name: _value(value)})
            if name == "lr":
                self.learning_rate = _value(value)
            for new in kept:
                yield argument if new == name else f"--model.{new}{equals}{value}"
        else:
            yield argument

    def _recipe(self, path: str) -> str:
        """Returns the path of a recipe, or its text where that had to be changed."""
        try:
            recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return path  # the parser reports what is wrong with it
        model = recipe.get("model") if isinstance(recipe, dict) else None
        self._note_learning_rate(recipe)
        if isinstance(model, str):
            self.system = SYSTEM_OF_CLASS.get(model.rpartition(".")[2], "")
        if not isinstance(model, dict):
            return path
        if isinstance(model.get("class_path"), str):
            self.system = SYSTEM_OF_CLASS.get(model["class_path"].rpartition(".")[2], "")
        settings = model.get("init_args")
        if not isinstance(settings, dict):
            return path
        if "lr" in settings:
            self.learning_rate = settings["lr"]
        upgraded = self._settings(settings)
        if upgraded == settings:
            return path
        recipe["model"] = {**model, "init_args": upgraded}
        return str(yaml.safe_dump(recipe, sort_keys=False))

    def _note_learning_rate(self, recipe: Any) -> None:
        """Keeps the learning rate that a present recipe gives its optimizer, for old options that are laid over it."""
        training = recipe.get("training") if isinstance(recipe, dict) else None
        optimizer = training.get("optimizer") if isinstance(training, dict) else None
        if isinstance(optimizer, dict) and isinstance(optimizer.get("init_args"), dict):
            self.learning_rate = optimizer["init_args"].get("lr", self.learning_rate)

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        system = self.system
        for name, value in settings.items():
            new = RENAMED_SETTINGS.get(system, {}).get(name)
            if new is not None and new not in settings:
                warn(f"{system}'s setting {name}", new)
            elif moved_to_training(system, name):
                warn(f"the model's setting {name}", "an option of training")
                self.training[name] = value
        return upgrade_settings(system, settings)

    def _training_options(self, command: str) -> Iterator[str]:
        """Yields the options that take the place of what has left the constructors."""
        old = self.training
        for name in ("loss_encoder", "loss_encoder_weights"):
            if old.get(name) is not None:
                yield f"--training.{name}={old[name]}"
        if command != "fit":
            return
        if old.get("first_pictures") == 0:
            yield from ("--training.initialization=null", "--training.optimizer=null")
            if self.learning_rate is not None:
                yield f"--model.lr={self.learning_rate}"
        elif old.get("first_pictures"):
            yield "--training.initialization=LeastSquares"
            yield f"--training.initialization.crops={old['first_pictures']}"
            yield "--training.optimizer=PreconditionedAdam"
            if self.learning_rate is not None:
                yield f"--training.optimizer.lr={self.learning_rate}"
        if old.get("teacher") is not None:
            yield "--training.objective=Distillation"
            yield f"--training.objective.teacher={old['teacher']}"
            for name, new in (("distillation_weight", "weight"), ("imitation_weight", "imitation_weight")):
                if name in old:
                    yield f"--training.objective.{new}={old[name]}"
        if old.get("freeze_predictor"):
            yield "--training.freeze=[predictor]"
        if old.get("norm_momentum") is not None:
            yield f"--training.batch_norm_momentum={old['norm_momentum']}"
