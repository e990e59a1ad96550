"""What ``--help`` prints: examples first, then options by topic, read in a second without PyTorch.

The help of a command is the docstring of its function; `TRAINER_HELP` is what most runs of `fit`, `validate`, `test` and
`predict` need, and ``--help_all`` has every option that Lightning and the recipes have.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, DefaultHelpFormatter

PROGRAM = "python -m stylezoo"

EXAMPLES = (
    "stylize --model adain --content photo.jpg --style painting.jpg --output out.png",
    "stylize --model johnson.starry_night --content photos/ --output stylized/",
    "list --pretrained",
    "train-style painting.jpg --output my_style.safetensors",
    "fit --config experiments/sanet.yaml --config experiments/quickstart.yaml",
)
"""Command lines that the overview shows."""

TOPICS = {
    "stylize": ("stylize", "stylize-dataset", "compare", "demo", "encode-style", "tune"),
    "train": ("train-style", "fit", "validate", "test", "predict", "prepare"),
    "models": ("list", "download", "import", "export"),
    "measure": ("evaluate", "reproduce"),
    "help": ("doctor", "completion"),
}
"""The commands by topic; those that are in none come under further commands."""

OPTION_TOPICS = {
    "style": ("alpha", "style_weights", "preserve_color", "masks", "style_size", "random_styles"),
    "clips": ("stability", "codec", "seconds", "report"),
    "files": ("pairs", "skip_existing", "format", "quality", "preview", "save_images", "charts_only"),
    "computing": (
        *("engine", "engines", "device", "batch_size", "tile", "tile_statistics", "accelerator", "devices", "strategy"),
        *("precision", "num_workers", "workers"),
    ),
}
"""Options of commands by topic, wherever a command has many; the others come first."""

MANY = 10
"""Options of a command from which on they are sorted by topic."""


@dataclass(frozen=True)
class TrainerHelp:
    """What the short help of a command of the Trainer says.

    Attributes:
        text: What the command does.
        examples: Command lines, without the name of the program.
        topics: {topic: {option with its value: description}}.
    """

    text: str
    examples: tuple[str, ...]
    topics: Mapping[str, Mapping[str, str]]


_RECIPE = {
    "--config RECIPE.yaml": "A recipe; several are laid over each other, and options come last. A recipe is code: use those of"
    " others only if you trust them.",
    "--print_config": "Print all settings that these options stand for, as a recipe, and end.",
}
_MODEL = {
    "--model CLASS": "The class of a system, such as SANet, in place of the recipe's.",
    "--model.SETTING VALUE": "A setting of the model, such as --model.style_weight 5.",
    "--model.help CLASS": "List the settings of a class.",
}
_DATA = {
    "--data.content CLASS": "Where photos come from: Folder, COCO, Flickr, Synthetic, Mixture ...",
    "--data.content.root FOLDER": "The folder of the photos; --data.content.help CLASS lists all settings.",
    "--data.style CLASS": "Where paintings come from: Folder, WikiArt, PainterByNumbers, Synthetic ...",
    "--data.batch_size N": "Pairs in a step, of each process.",
    "--data.size N": "Pixels to which images are resized.",
    "--data.crop N": "Pixels of the crops that are trained on.",
    "--data.num_workers N": "Additional processes that read images.",
}
_WHERE = {
    "--trainer.accelerator NAME": "auto, cpu, cuda, mps ...",
    "--trainer.devices N": "Number of devices.",
    "--trainer.strategy NAME": "How they work together, such as ddp.",
}
_RUN = {
    "--trainer.max_steps N": "Optimizer steps.",
    "--trainer.max_time DD:HH:MM:SS": "When to stop at the latest.",
    "--ckpt_path FILE.ckpt": "Continue the run of a checkpoint, exactly.",
    "--start MODEL": "Begin with the weights of another model: a name, .safetensors or .ckpt.",
    "--seed_everything N": "Seed of weights, crops and pairs.",
}
_SPEED = {
    "--precision NAME": "32-true, bf16-mixed, 16-mixed ..., or auto, the fastest as measured once.",
    "--channels_last VALUE": "true, false or auto: the memory layout of tensor cores and many CPUs.",
    "--winograd VALUE": "true, false or auto: faster convolutions on CPUs.",
    "--compile true": "Compile the training step.",
}
_FILES = {
    "--trainer.logger.save_dir FOLDER": "Folder of the runs; a run is NAME/version_N in it.",
    "--checkpoint.every_n_train_steps N": "Steps between two checkpoints.",
    "--images.every_n_steps N": "Steps between two grids of images; 0 for none.",
    "--trainer.val_check_interval N": "Steps between two validations.",
}
_LOADED = {"--ckpt_path FILE.ckpt": "The checkpoint to load."}

TRAINER_HELP = {
    "fit": TrainerHelp(
        "Train a model with a recipe. A recipe sets the model, the data and the trainer; options change single settings.",
        (
            "fit --config experiments/sanet.yaml --config experiments/quickstart.yaml",
            "fit --config experiments/adain.yaml --data.content Folder --data.content.root photos",
            "fit --config experiments/adain.yaml --ckpt_path runs/adain/version_0/checkpoints/last.ckpt",
            "fit --config experiments/sanet.yaml --trainer.devices 8 --trainer.strategy ddp",
        ),
        {"recipe": _RECIPE, "model": _MODEL, "data": _DATA, "run": _RUN, "computing": _WHERE | _SPEED, "files": _FILES},
    ),
    "validate": TrainerHelp(
        "Compute the losses on the validation images of a recipe.",
        ("validate --config runs/adain/version_0/config.yaml --ckpt_path runs/adain/version_0/checkpoints/last.ckpt",),
        {"recipe": _RECIPE, "model": _MODEL | _LOADED, "data": _DATA, "computing": _WHERE},
    ),
    "test": TrainerHelp(
        "Compute the losses on the test images of a recipe.",
        ("test --config runs/adain/version_0/config.yaml --ckpt_path runs/adain/version_0/checkpoints/last.ckpt",),
        {"recipe": _RECIPE, "model": _MODEL | _LOADED, "data": _DATA, "computing": _WHERE},
    ),
    "predict": TrainerHelp(
        "Stylize the test images of a recipe. For images of your own, stylize is simpler.",
        ("predict --config config.yaml --ckpt_path last.ckpt --predictions.folder stylized",),
        {
            "recipe": _RECIPE,
            "model": _MODEL | _LOADED,
            "data": _DATA,
            "computing": _WHERE,
            "files": {
                "--predictions.folder FOLDER": "Where the images go.",
                "--predictions.skip_existing VALUE": "true leaves images as they are that exist in that folder.",
            },
        },
    ),
}
"""The short help of the commands of the Trainer."""


def overview(summaries: Mapping[str, str]) -> str:
    """Returns the help of the program.

    Args:
        summaries: {command: one line}.
    """
    known = {name for names in TOPICS.values() for name in names}
    topics = {topic: [name for name in names if name in summaries] for topic, names in TOPICS.items()}
    topics["further commands"] = [name for name in summaries if name not in known]
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", "Neural style transfer: train, stylize, compare.", ""]
    lines += ["examples:", *(f"  {PROGRAM} {example}" for example in EXAMPLES), ""]
    for topic, names in topics.items():
        if names:
            lines += [f"{topic}:", *_definitions({name: summaries[name] for name in names}, 20), ""]
    lines += _definitions({"COMMAND --help": "Examples and options of a command.", "--version": "The version."}, 20)
    return "\n".join(lines)


def trainer_help(command: str) -> str:
    """Returns the short help of a command of the Trainer."""
    about = TRAINER_HELP[command]
    lines = [f"usage: {PROGRAM} {command} --config RECIPE.yaml [options]", "", *_wrapped(about.text), ""]
    lines += ["examples:", *(f"  {PROGRAM} {example}" for example in about.examples), ""]
    for topic, options in about.topics.items():
        lines += [f"{topic}:", *_definitions(options, 38), ""]
    lines += ["All options, those of Lightning's Trainer included:", f"  {PROGRAM} {command} --help_all"]
    return "\n".join(lines)


def description(function: Any) -> str:
    """Returns what the help of a command begins with: its docstring, the examples after the first line."""
    doc = parse_docstring(function.__doc__ or "")
    examples = "\n".join(f"  {line}" for example in doc.examples for line in (example.description or "").splitlines())
    parts = [doc.short_description, f"examples:\n{examples}" if examples else None, doc.long_description]
    return "\n\n".join(part for part in parts if part)


def topic_of(option: str, count: int) -> str | None:
    """Returns the topic under which an option of a command with so many options is shown; None for the first ones."""
    return next((topic for topic, names in OPTION_TOPICS.items() if count >= MANY and option in names), None)


class Formatter(DefaultHelpFormatter):
    """Options as people read them: no types where the value shows it, no defaults that say nothing, short invocations."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_width())  # type: ignore[no-untyped-call]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fills paragraphs, and leaves indented lines, which are examples, as they are."""
        paragraphs = (
            part if "\n  " in f"\n{part}" else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        )
        return "\n\n".join(paragraphs)

    def _get_help_string(self, action: Action) -> str:
        text = re.sub("``", "", action.help or "")
        silent = action.default is None or isinstance(action.default, bool) or action.default == SUPPRESS
        return text if silent or action.required else f"{text} (default: %(default)s)"

    def _format_action_invocation(self, action: Action) -> str:
        if isinstance(action, ActionYesNo):
            return action.option_strings[0]
        return super()._format_action_invocation(action)

    def _format_args(self, action: Action, default_metavar: str) -> str:
        words = super()._format_args(action, default_metavar)
        return f"{words.split()[0]} ..." if action.nargs == "+" else words


def usage(command: str, positional: Iterable[str], required: Iterable[str]) -> str:
    """Returns the first line of a command's help.

    Args:
        command: Its name.
        positional: What is given without an option.
        required: Options that must be given.
    """
    options = (f"--{name} {name.upper()}" for name in required)
    return " ".join([PROGRAM, command, *positional, *options, "[options]"])


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 110) - 2


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _definitions(entries: Mapping[str, str], column: int) -> list[str]:
    """Returns lines of names, and of their descriptions from a column on."""
    lines: list[str] = []
    for name, text in entries.items():
        described = _wrapped(text, " " * column)
        if len(name) + 4 <= column:
            described[0] = f"  {name}".ljust(column) + described[0][column:]
        else:
            described.insert(0, f"  {name}")
        lines += described
    return lines
