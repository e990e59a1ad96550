"""Registers studies and writes their results: `study` registers a function under a name, `run` calls it and writes the
`StudyResult` as CSV, LaTeX, PNG and Markdown."""

from __future__ import annotations

import csv
import importlib
import inspect
import io
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from stylezoo import registry
from stylezoo.checkpoints import find_model
from stylezoo.errors import StylezooError, check_choice, check_number, did_you_mean, unknown_name
from stylezoo.files import replacing
from stylezoo.images import list_images, to_image
from stylezoo.inference.plan import check_folder
from stylezoo.legacy import warn
from stylezoo.studies.verdicts import Judge, Row, Value, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Provenance = Literal["found", "from memory"]
"""Whether a published number was read at its source, or was written down from memory and has to be checked before it is
quoted."""

COMMON_SETTINGS = (
    "content",
    "style",
    "models",
    "steps",
    "seed",
    "size",
    "crop",
    "batch_size",
    "images",
    "encoder",
    "encoder_weights",
)
"""Settings that ``reproduce`` has an option for, in the order of its options; all others are given by ``--set``."""

RENAMED_SETTINGS = {"pictures": "images", "system": "systems"}
"""{former name of a setting: its name}. Former names are accepted with a DeprecationWarning."""

_COUNT, _WEIGHT = (1, 10**9, "a whole number from 1 up"), (0, 1e30, "a finite number from 0 up")
_SIDE = (32, 8192, "a side in pixels from 32 to 8192")

RANGES: dict[str, tuple[float, float, str]] = {
    "alphas": (2, 1000, "a number of values from 0 to 1, at least 2"),
    "batch_size": _COUNT,
    "ccpl_weight": _WEIGHT,
    "cfsd_pairs": _COUNT,
    "content_weight": _WEIGHT,
    "crop": _SIDE,
    "examples": (1, 10**9, "a number of pairs from 1 to images"),
    "images": (1, 10**9, "a number of images or pairs, at least 1"),
    "initializations": _COUNT,
    "iterations": _COUNT,
    "lr": (1e-12, 1e3, "a learning rate greater than 0"),
    "paintings": _COUNT,
    "rounds": (1, 10**6, "a list of whole numbers from 1 up"),
    "runs": _COUNT,
    "seed": (0, 2**32 - 1, "a whole number from 0 to 4294967295"),
    "side": (2, 100, "a number of images from 2 to 100"),
    "size": _SIDE,
    "steps": _COUNT,
    "style_weight": _WEIGHT,
    "styles": (2, 10**6, "a number of paintings, at least 2"),
    "width": (0.01, 16, "a factor from 0.01 to 16"),
}
"""{number among the settings of studies: (smallest value, largest value, what it is)}, the same in all studies."""

SYSTEMS = {"systems": "arbitrary", "single": "single"}
"""{setting that names systems: the kind that they have to be of}, see `stylezoo.controls.Kind`."""

FOLDERS = {"content": "photos", "style": "paintings"}
"""{setting that names a folder of images: what they show}."""


def published(name: str, provenance: Provenance, by: str = "paper") -> str:
    """Returns the heading of a column that holds published numbers only, with their source.

    Args:
        name: The quantity.
        provenance: Whether the numbers were read at their source.
        by: Who published them.

    >>> published("s at 512", "from memory")
    'paper: s at 512 (from memory)'
    """
    return f"{by}: {name} ({provenance})"


@dataclass(frozen=True)
class StudyResult:
    """The table, notes and figures of a study.

    Attributes:
        rows: The table, whose rows have the same columns: NAME.csv, NAME.tex and the table in NAME.md. A table of a paper
            has the published numbers in columns of their own beside ours, named by `published`.
        notes: Paragraphs on what the numbers show and what they do not show.
        figures: {"": main figure, "images": ...}, matplotlib figures or contact sheets (3, H, W) in [0, 1], which are
            written to NAME.png and NAME_images.png.
        details: Longer tables, such as the points of curves: {"curves": rows} is written to NAME_curves.csv.
    """

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    figures: Mapping[str, Figure | Tensor] = field(default_factory=dict)
    details: Mapping[str, Sequence[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A setting of a study.

    Attributes:
        name: The name that users type.
        type: The annotation of the parameter.
        default: The value if none is given.
        help: The description in the docstring.
    """

    name: str
    type: Any
    default: Any
    help: str

    @property
    def default_word(self) -> str:
        """The default as a user would type it."""
        return _word(self.default)

    def parse(self, text: str) -> Any:
        """Converts a text to a value of the setting's type; commas separate several values.

        >>> Setting("rounds", tuple[int, ...], (), "").parse("1,5")
        (1, 5)

        Raises:
            StylezooError: If the text cannot be converted.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=self.type)
        value = f"[{text}]" if get_origin(self.type) is tuple else text
        try:
            return parser.parse_args([f"--value={value}"]).value
        except ArgumentError:
            raise StylezooError(f"{self.name} takes {inspect.formatannotation(self.type)}, not {text!r}.") from None

    def check(self, value: Any) -> None:
        """Checks a value: the range of a number, choices, names of systems and models, and whether a folder has images.

        Raises:
            StylezooError: If it is out of range, unknown, or a folder without images.
        """
        if value is None and type(None) in get_args(self.type):
            return
        several = get_origin(self.type) is tuple
        if several and not isinstance(value, (list, tuple)):
            raise StylezooError(f"{self.name} is a list of values, not {value!r}.")
        for one in value if several else [value]:
            self._check(one)

    def _check(self, value: Any) -> None:
        if self.name in RANGES:
            low, high, meaning = RANGES[self.name]
            check_number(self.name, value, meaning, low, high, whole=self.type is not float)
        elif self.name in SYSTEMS:
            kind, wanted = registry.get(value).kind, SYSTEMS[self.name]
            if kind != wanted:
                known = ", ".join(registry.list_models(wanted))  # type: ignore[arg-type]
                raise StylezooError(
                    f"{self.name} takes systems of the kind {wanted} ({known}), not {value}: it is {kind}."
                )
        elif self.name == "models" and value not in registry.systems():
            find_model(value)
        elif self.name in FOLDERS and not list_images(value):
            shows = FOLDERS[self.name]
            raise StylezooError(
                f"There is no image in {value}: give --{self.name} a folder of {shows}, or leave it out."
            )
        elif get_origin(self.type) is Literal:
            check_choice(self.name, value, self.type)


@dataclass(frozen=True)
class Study:
    """A registered study.

    Attributes:
        name: The name that users type.
        source: The paper whose claim or table is reproduced, with section or table number.
        paper: The address of the paper.
        claim: What the paper says, one sentence.
        judge: Whether a table says the same, see `stylezoo.studies.verdicts`.
        function: The function that runs the study. Every parameter is a keyword with a default. If a default is a
            dataclass, its fields are settings of the study like all others.
    """

    name: str
    source: str
    paper: str
    claim: str
    judge: Judge
    function: Callable[..., StudyResult]

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return parse_docstring(self.function.__doc__ or "").short_description or self.name

    @property
    def description(self) -> str:
        """The paragraphs of the docstring before the settings."""
        return parse_docstring(self.function.__doc__ or "").long_description or ""

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings, {name: setting}."""
        return {setting.name: setting for setting in self._settings()}

    def _settings(self) -> Iterator[Setting]:
        types, helps = get_type_hints(self.function), _helps(self.function)
        for name, parameter in inspect.signature(self.function).parameters.items():
            shared = parameter.default
            if not is_dataclass(shared):
                yield Setting(name, types[name], shared, helps.get(name, ""))
                continue
            of = type(shared)
            for field_ in fields(shared):
                name = field_.name
                yield Setting(name, get_type_hints(of)[name], getattr(shared, name), _helps(of).get(name, ""))

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """Converts words such as ``iterations=100`` to settings.

        Raises:
            StylezooError: If a word has no such form, the study has no such setting, or the value has the wrong type.
        """
        found = {}
        for word in words:
            name, equals, text = word.partition("=")
            (name,) = self.current_names({name: text})
            self.check([name])
            if not equals:
                raise StylezooError(
                    f"Settings are given as NAME=VALUE, such as {name}={self.settings[name].default_word}."
                )
            found[name] = self.settings[name].parse(text)
        return found

    def current_names(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings with former names replaced, see `RENAMED_SETTINGS`."""
        found = {}
        for name, value in settings.items():
            new = RENAMED_SETTINGS.get(name, name)
            if name not in self.settings and new in self.settings:
                warn(f"the setting {name}", new)
                name = new
            found[name] = value
        return found

    def check(self, names: Iterable[str]) -> None:
        """Checks that the study has settings of these names.

        Raises:
            StylezooError: If it lacks one; the message names similar settings, or else those that the study has.
        """
        known = self.settings
        unknown = [name for name in names if name not in known]
        if unknown:
            close = [word for name in unknown if (word := did_you_mean(name, known)) is not None]
            guess = f"did you mean {' and '.join(map(repr, close))}?" if len(close) == len(unknown) else None
            hint = guess or f"its settings are {', '.join(known)}."
            raise StylezooError(f"{self.name} takes no {' or '.join(unknown)}: {hint}")

    def check_values(self, settings: Mapping[str, Any]) -> None:
        """Checks names and values of settings, see `Setting.check`; this reads no image and loads no model.

        Raises:
            StylezooError: If one is wrong.
        """
        self.check(settings)
        for name, setting in self.settings.items():
            if name in settings:
                setting.check(settings[name])
        trains = "systems" in settings and "single" not in self.settings
        if trains and not settings["systems"] and not settings.get("models"):
            raise StylezooError(f"{self.name} needs a system to train (systems), or models that are trained (models).")

    def __call__(self, **settings: Any) -> StudyResult:
        """Runs the study with these settings; the others have their defaults.

        Raises:
            StylezooError: If a setting is wrong, before anything is loaded or trained.
        """
        self.check_values(settings)
        arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if is_dataclass(parameter.default):
                own = {f.name: arguments.pop(f.name) for f in fields(parameter.default) if f.name in arguments}
                arguments[name] = replace(parameter.default, **own)  # type: ignore[type-var]
        return self.function(**arguments)


def _helps(documented: Any) -> dict[str, str]:
    """Returns the descriptions of arguments or attributes in a docstring, those of base classes included."""
    found: dict[str, str] = {}
    for owner in reversed(documented.__mro__) if isinstance(documented, type) else [documented]:
        params = parse_docstring(owner.__doc__ or "").params
        found |= {param.arg_name: " ".join((param.description or "").split()) for param in params}
    return found


TRAINING_SETTINGS = ("systems", "single", "steps", "crop", "batch_size", "lr")
"""Settings that have no effect if trained models are given."""

_STUDIES: dict[str, Study] = {}

F = TypeVar("F", bound=Callable[..., StudyResult])


def study(name: str, *, source: str, paper: str, claim: str, judge: Judge) -> Callable[[F], F]:
    """Returns a decorator that registers a function as a study; the first line of its docstring is the title.

    Args:
        name: The name that users type.
        source: The paper whose claim or table is reproduced, with section or table number.
        paper: The address of the paper.
        claim: What the paper says, one sentence.
        judge: Whether the rows of a table say the same, see `stylezoo.studies.verdicts`.
    """

    def add(function: F) -> F:
        if name in _STUDIES and _STUDIES[name].function.__module__ != function.__module__:
            raise StylezooError(f"The name {name!r} is taken by {_STUDIES[name].function.__module__}: choose another.")
        _STUDIES[name] = Study(name, source, paper, claim, judge, function)
        return function

    return add


def studies() -> dict[str, Study]:
    """Returns all studies, {name: study}, sorted by name."""
    importlib.import_module("stylezoo.studies")  # importing the studies registers them
    return dict(sorted(_STUDIES.items()))


def get(name: str) -> Study:
    """Returns the study of a name.

    Raises:
        StylezooError: If there is no such study; the message names the most similar one.
    """
    known = studies()
    if name not in known:
        raise unknown_name("There is nothing to reproduce called", name, known, "there are")
    return known[name]


def run(name: str, output: str | Path, *, charts_only: bool = False, **settings: Any) -> tuple[StudyResult, list[Path]]:
    """Runs a study and writes its result.

    All files are complete before the first of them replaces an older one: a failed run leaves older results unchanged.

    Args:
        name: The name of a study, see `studies`.
        output: The folder for NAME.md, NAME.csv, NAME.png and further files whose names begin with NAME.
        charts_only: Whether figures that show images are left out, because the images may not be published.
        **settings: Settings of the study.

    Returns:
        The result and the files.

    Raises:
        StylezooError: If there is no such study, a setting is wrong, nothing can be written to the folder, or matplotlib is
            missing; all this is known before anything is loaded or trained.
    """
    chosen = get(name)
    settings = chosen.current_names(settings)
    chosen.check_values(settings)
    check_folder(Path(output))
    new_figure(1, 1)  # a missing matplotlib is reported before the training, not after it
    result = chosen(**settings)
    if charts_only:
        charts = {suffix: figure for suffix, figure in result.figures.items() if not _shows_images(figure)}
        left_out = ["Images are left out (charts_only)."] if len(charts) < len(result.figures) else []
        result = replace(result, figures=charts, notes=[*result.notes, *left_out])
    return result, write(chosen, result, Path(output), settings, command(name, output, settings, charts_only))


def _shows_images(figure: Figure | Tensor) -> bool:
    return isinstance(figure, Tensor) or any(axis.images for axis in figure.axes)


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty matplotlib figure that belongs to no window.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        StylezooError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StylezooError("Figures are drawn by matplotlib: pip install matplotlib, or stylezoo[docs].") from None
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def write(study: Study, result: StudyResult, output: Path, settings: Mapping[str, Any], made_by: str) -> list[Path]:
    """Writes a result to a folder.

    Args:
        study: The study.
        result: Its result.
        output: The folder, which is created if it is missing.
        settings: The settings that were given.
        made_by: The command line that reproduces the files.

    Returns:
        The files.
    """
    files: dict[str, bytes] = {
        f"{study.name}.csv": as_csv(result.rows).encode(),
        f"{study.name}.tex": as_latex(result.rows).encode(),
    }
    for suffix, rows in result.details.items():
        files[f"{study.name}_{suffix}.csv"] = as_csv(rows).encode()
    for suffix, figure in result.figures.items():
        files[f"{study.name}{suffix and '_'}{suffix}.png"] = as_png(figure)
    files[f"{study.name}.md"] = as_markdown(study, result, list(files), settings, made_by).encode()
    try:
        with ExitStack() as opened:  # all are complete before the first one replaces an older file
            for name, data in files.items():
                opened.enter_context(replacing(output / name)).write(data)
    except OSError as error:
        raise StylezooError(
            f"The results cannot be written to {output} ({error.strerror or error}): choose another folder."
        ) from error
    return [output / name for name in files]


def as_csv(rows: Sequence[Row]) -> str:
    """Returns rows as comma-separated values; floats have six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_text(row[column], 6) for column in rows[0]] for row in rows)
    return text.getvalue()


def as_table(rows: Sequence[Row]) -> str:
    """Returns rows as a Markdown table; floats have four significant digits."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_text(row[column], 4) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_latex(rows: Sequence[Row]) -> str:
    """Returns rows as a ``tabular`` in booktabs style; floats have four significant digits."""
    numbers = [all(isinstance(row[column], (int, float, type(None))) for row in rows) for column in rows[0]]
    lines = [[_latex(column) for column in rows[0]]]
    lines += [[_latex(_text(row[column], 4)) for column in rows[0]] for row in rows]
    head, *body = (" & ".join(cells) + r" \\" for cells in lines)
    layout = "".join("r" if number else "l" for number in numbers)
    return "\n".join(
        [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    )


def as_png(figure: Figure | Tensor) -> bytes:
    """Returns a figure or a contact sheet as the bytes of a PNG file."""
    file = io.BytesIO()
    if isinstance(figure, Tensor):
        to_image(figure).save(file, format="PNG")
    else:
        figure.savefig(file, format="png")
    return file.getvalue()


def as_markdown(
    study: Study, result: StudyResult, files: Sequence[str], settings: Mapping[str, Any], made_by: str
) -> str:
    """Returns the summary: description, table, notes, figures, and the command that reproduces them.

    Args:
        study: The study.
        result: Its result.
        files: The names of all files; those that end in .png are shown.
        settings: The settings that were given.
        made_by: The command line that reproduces the files.
    """
    every = {**{name: setting.default for name, setting in study.settings.items()}, **settings}
    if every.get("models"):
        every = {name: value for name, value in every.items() if name not in TRAINING_SETTINGS}
    lines = [
        f"# {study.title}",
        f"{study.description}\n\nSource: {study.source}, <{study.paper}>.",
        as_table(result.rows),
        f"Claim: {study.claim} {sentence(study.judge(result.rows))}",
        *result.notes,
        *(f"![{Path(file).stem}]({file})" for file in files if file.endswith(".png")),
        f"    {made_by}",
        f"Settings: {', '.join(f'{name} {_word(value)}' for name, value in every.items())}.",
    ]
    return "\n\n".join(line.strip("\n") for line in lines) + "\n"


def sentence(verdict: Verdict) -> str:
    """Returns a verdict as a sentence in Markdown."""
    return f"**{verdict.outcome.capitalize()}**: {verdict.reason}."


def command(name: str, output: str | Path, settings: Mapping[str, Any], charts_only: bool = False) -> str:
    """Returns the command line that runs a study with these settings, see `COMMON_SETTINGS`."""
    words = ["python", "-m", "stylezoo", "reproduce", name, "--output", str(output)]
    for key in (key for key in COMMON_SETTINGS if key in settings):
        value = settings[key]
        words += [f"--{key}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    others = [f"{key}={_word(value)}" for key, value in settings.items() if key not in COMMON_SETTINGS]
    words += ["--set", *others] if others else []
    return shlex.join([*words, "--charts_only"] if charts_only else words)


def _word(value: Any) -> str:
    """Returns a value as `Setting.parse` accepts it."""
    if value is None:
        return "null"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _latex(text: str) -> str:
    """Returns the text with LaTeX's special characters escaped."""
    special = {**{c: rf"\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    return "".join(special.get(c, c) for c in text)


def _text(value: Value, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
