"""What a study is and what it leaves behind: `table` gives it a name, `run` writes its `Result` as CSV, LaTeX, PNG and
Markdown."""

from __future__ import annotations

import csv
import difflib
import importlib
import inspect
import io
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from stylezoo import commands
from stylezoo.images import to_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = str | int | float | None
Row = dict[str, Value]
"""One line of a table, {column: value}; None is an empty cell."""


Provenance = Literal["found", "from memory"]
"""Whether a published number was read at its source, or is remembered and wants checking before it is quoted."""


def published(name: str, provenance: Provenance, by: str = "paper") -> str:
    """The heading of a column of published numbers: it says where they come from, and holds no others.

    >>> published("s at 512", "from memory")
    'paper: s at 512 (from memory)'
    """
    return f"{by}: {name} ({provenance})"


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        rows: The table, all with the same columns: NAME.csv, NAME.tex and the table in NAME.md. A table of a paper has
            published numbers in columns of their own beside ours, named by `published`.
        notes: What the numbers say and what they do not, one paragraph each.
        figures: {"": the main one, "pictures": ...}, matplotlib figures or contact sheets (3, H, W) in [0, 1]:
            NAME.png, NAME_pictures.png.
        details: Longer tables, such as the points of curves: {"curves": rows} is NAME_curves.csv.
    """

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    figures: Mapping[str, Figure | Tensor] = field(default_factory=dict)
    details: Mapping[str, Sequence[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A setting of a study.

    Attributes:
        name: What users type.
        type: Its annotation.
        default: Its value if it is not given.
        help: What it means.
    """

    name: str
    type: Any
    default: Any
    help: str

    @property
    def default_word(self) -> str:
        """The default as it would be typed."""
        return _word(self.default)

    def parse(self, text: str) -> Any:
        """The value of a text; several values are separated by commas.

        >>> Setting("rounds", tuple[int, ...], (), "").parse("1,5")
        (1, 5)

        Raises:
            ValueError: If the text is no such value.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=self.type)
        value = f"[{text}]" if get_origin(self.type) is tuple else text
        try:
            return parser.parse_args([f"--value={value}"]).value
        except ArgumentError:
            raise ValueError(f"{self.name} takes {inspect.formatannotation(self.type)}, not {text!r}.") from None


@dataclass(frozen=True)
class Study:
    """A registered study.

    Attributes:
        name: What users type.
        source: Whose claim or table it is, with section or table number.
        paper: Address of the paper.
        function: Runs it. Every parameter is a keyword with a default; that of one may be a dataclass, whose fields are
            then settings of the study like all others.
    """

    name: str
    source: str
    paper: str
    function: Callable[..., Result]

    @property
    def title(self) -> str:
        """One line."""
        return parse_docstring(self.function.__doc__ or "").short_description or self.name

    @property
    def description(self) -> str:
        """What is done, a paragraph or two."""
        return parse_docstring(self.function.__doc__ or "").long_description or ""

    @property
    def settings(self) -> dict[str, Setting]:
        """What it takes, by name."""
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
        """The settings of words like ``iterations=100``.

        Raises:
            ValueError: If a word is none like that, there is no such setting, or the value is none.
        """
        found = {}
        for word in words:
            name, equals, text = word.partition("=")
            self.check([name])
            if not equals:
                raise ValueError(
                    f"Settings are given as NAME=VALUE, such as {name}={self.settings[name].default_word}."
                )
            found[name] = self.settings[name].parse(text)
        return found

    def check(self, names: Iterable[str]) -> None:
        """Raises a ValueError that names the settings there are, if one of these is unknown."""
        unknown = [name for name in names if name not in self.settings]
        if unknown:
            raise ValueError(
                f"{self.name} takes no {' or '.join(unknown)}: its settings are {', '.join(self.settings)}."
            )

    def __call__(self, **settings: Any) -> Result:
        """Runs it with these settings, the others at their defaults."""
        arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if is_dataclass(parameter.default):
                own = {f.name: arguments.pop(f.name) for f in fields(parameter.default) if f.name in arguments}
                arguments[name] = replace(parameter.default, **own)  # type: ignore[type-var]
        return self.function(**arguments)


def _helps(documented: Any) -> dict[str, str]:
    """What a docstring says of arguments or attributes."""
    params = parse_docstring(documented.__doc__ or "").params
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


OF_TRAINING = ("systems", "system", "single", "steps", "crop", "batch_size", "lr")
"""Settings that mean nothing where models are given."""

_STUDIES: dict[str, Study] = {}

F = TypeVar("F", bound=Callable[..., Result])


def study(name: str, *, source: str, paper: str) -> Callable[[F], F]:
    """Function decorator that adds a study; the docstring's first line is its title.

    Args:
        name: What users type.
        source: Whose claim or table it is, with section or table number.
        paper: Address of the paper.
    """

    def add(function: F) -> F:
        if name in _STUDIES and _STUDIES[name].function.__module__ != function.__module__:
            raise ValueError(f"The name {name!r} is taken by {_STUDIES[name].function.__module__}: choose another.")
        _STUDIES[name] = Study(name, source, paper, function)
        return function

    return add


def studies() -> dict[str, Study]:
    """All studies by name, sorted."""
    importlib.import_module("stylezoo.studies")  # importing the studies registers them
    return dict(sorted(_STUDIES.items()))


def get(name: str) -> Study:
    """The study of a name.

    Raises:
        ValueError: If there is none; the message names the closest.
    """
    known = studies()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
        raise ValueError(f"There is nothing to reproduce called {name!r}: {hint}")
    return known[name]


def run(name: str, output: str | Path, *, charts_only: bool = False, **settings: Any) -> tuple[Result, list[Path]]:
    """Runs a study and writes what it found.

    All files are complete before the first takes its place: a failed run leaves older results as they were.

    Args:
        name: One of `studies`.
        output: The folder for NAME.md, NAME.csv, NAME.png and further files whose names begin with NAME.
        charts_only: Leave out figures that show images, which may not be anybody's to publish.
        **settings: Keywords of the study.

    Returns:
        The result and the files.

    Raises:
        ValueError: If there is no such study or setting, or matplotlib is missing.
    """
    study = get(name)
    study.check(settings)
    new_figure(1, 1)  # whether matplotlib is missing is better known before the training than after it
    result = study(**settings)
    if charts_only:
        charts = {suffix: figure for suffix, figure in result.figures.items() if not _shows_pictures(figure)}
        left_out = ["Images are left out (charts_only)."] if len(charts) < len(result.figures) else []
        result = replace(result, figures=charts, notes=[*result.notes, *left_out])
    return result, write(study, result, Path(output), settings, command(name, output, settings, charts_only))


def _shows_pictures(figure: Figure | Tensor) -> bool:
    return isinstance(figure, Tensor) or any(axis.images for axis in figure.axes)


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure, of a size in inches, that belongs to no window.

    Raises:
        ValueError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("Figures are drawn by matplotlib: pip install matplotlib, or stylezoo[docs].") from None
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def write(study: Study, result: Result, output: Path, settings: Mapping[str, Any], made_by: str) -> list[Path]:
    """Writes a result, with its settings and the command that made it, to a folder; returns the files."""
    files: dict[str, bytes] = {
        f"{study.name}.csv": as_csv(result.rows).encode(),
        f"{study.name}.tex": as_latex(result.rows).encode(),
    }
    for suffix, rows in result.details.items():
        files[f"{study.name}_{suffix}.csv"] = as_csv(rows).encode()
    for suffix, figure in result.figures.items():
        files[f"{study.name}{suffix and '_'}{suffix}.png"] = as_png(figure)
    files[f"{study.name}.md"] = as_markdown(study, result, list(files), settings, made_by).encode()
    output.mkdir(parents=True, exist_ok=True)
    parts = {output / file: output / f".{file}.part" for file in files}
    try:
        for part, data in zip(parts.values(), files.values(), strict=True):
            part.write_bytes(data)
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(parts)


def as_csv(rows: Sequence[Row]) -> str:
    """Comma-separated values, floats with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_text(row[column], 6) for column in rows[0]] for row in rows)
    return text.getvalue()


def as_latex(rows: Sequence[Row]) -> str:
    """A ``tabular`` in booktabs style, floats with four significant digits."""
    numbers = [all(isinstance(row[column], (int, float, type(None))) for row in rows) for column in rows[0]]
    lines = [[_latex(column) for column in rows[0]]]
    lines += [[_latex(_text(row[column], 4)) for column in rows[0]] for row in rows]
    head, *body = (" & ".join(cells) + r" \\" for cells in lines)
    layout = "".join("r" if number else "l" for number in numbers)
    return "\n".join(
        [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    )


def as_png(figure: Figure | Tensor) -> bytes:
    """A figure or a contact sheet as the bytes of a PNG file."""
    file = io.BytesIO()
    if isinstance(figure, Tensor):
        to_image(figure).save(file, format="PNG")
    else:
        figure.savefig(file, format="png")
    return file.getvalue()


def as_markdown(study: Study, result: Result, files: Sequence[str], settings: Mapping[str, Any], made_by: str) -> str:
    """The summary: what was done, the table, what it says, the figures, and the command that made it all."""
    columns = list(result.rows[0])
    every = {**{name: setting.default for name, setting in study.settings.items()}, **settings}
    if every.get("models"):
        every = {name: value for name, value in every.items() if name not in OF_TRAINING}
    lines = [
        f"# {study.title}",
        f"{study.description}\n\nSource: {study.source}, <{study.paper}>.",
        "\n".join(
            f"| {' | '.join(cells)} |"
            for cells in [
                columns,
                ["---"] * len(columns),
                *([_text(row[column], 4) for column in columns] for row in result.rows),
            ]
        ),
        *result.notes,
        *(f"![{Path(file).stem}]({file})" for file in files if file.endswith(".png")),
        f"    {made_by}",
        f"Settings: {', '.join(f'{name} {_word(value)}' for name, value in every.items())}.",
    ]
    return "\n\n".join(line.strip("\n") for line in lines) + "\n"


def command(name: str, output: str | Path, settings: Mapping[str, Any], charts_only: bool = False) -> str:
    """The command line that runs a study with these settings: what `commands.reproduce` has no option for goes by --set."""
    words = ["python", "-m", "stylezoo", "reproduce", name, "--output", str(output)]
    options = inspect.signature(commands.reproduce).parameters
    for key in (key for key in options if key in settings):
        value = settings[key]
        words += [f"--{key}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    others = [f"{key}={_word(value)}" for key, value in settings.items() if key not in options]
    words += ["--set", *others] if others else []
    return shlex.join([*words, "--charts_only"] if charts_only else words)


def _word(value: Any) -> str:
    """A setting as `Setting.parse` takes it."""
    if value is None:
        return "null"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {**{c: rf"\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    return "".join(special.get(c, c) for c in text)


def _text(value: Value, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
