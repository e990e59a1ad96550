"""What a study is and what it leaves behind: `table` gives it a name, `run` writes its `Result` as CSV, LaTeX, PNG and
Markdown."""

from __future__ import annotations

import csv
import difflib
import importlib
import inspect
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from docstring_parser import parse as parse_docstring
from torch import Tensor

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
class Study:
    """A registered study.

    Attributes:
        name: What users type.
        source: Whose claim or table it is, with section or table number.
        paper: Address of the paper.
        function: Runs it; every parameter is a keyword with a default.
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
    def settings(self) -> dict[str, Any]:
        """The keywords and their defaults."""
        return {name: p.default for name, p in inspect.signature(self.function).parameters.items()}


_STUDIES: dict[str, Study] = {}

F = TypeVar("F", bound=Callable[..., Result])


def table(name: str, *, source: str, paper: str) -> Callable[[F], F]:
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
    importlib.import_module("stylezoo.tables")  # importing the studies registers them
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


def run(name: str, output: str | Path, **settings: Any) -> tuple[Result, list[Path]]:
    """Runs a study and writes what it found.

    All files are complete before the first takes its place: a failed run leaves older results as they were.

    Args:
        name: One of `studies`.
        output: The folder for NAME.md, NAME.csv, NAME.png and further files whose names begin with NAME.
        **settings: Keywords of the study; None stands for its default.

    Returns:
        The result and the files.

    Raises:
        ValueError: If there is no such study or setting, or matplotlib is missing.
    """
    study = get(name)
    given = {key: value for key, value in settings.items() if value is not None}
    unknown = [key for key in given if key not in study.settings]
    if unknown:
        raise ValueError(f"{name} takes no {' or '.join(unknown)}: its settings are {', '.join(study.settings)}.")
    new_figure(1, 1)  # whether matplotlib is missing is better known before the training than after it
    result = study.function(**given)
    return result, write(study, result, Path(output), given)


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


def write(study: Study, result: Result, output: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Writes a result to a folder; returns the files."""
    files: dict[str, bytes] = {
        f"{study.name}.csv": as_csv(result.rows).encode(),
        f"{study.name}.tex": as_latex(result.rows).encode(),
    }
    for suffix, rows in result.details.items():
        files[f"{study.name}_{suffix}.csv"] = as_csv(rows).encode()
    for suffix, figure in result.figures.items():
        files[f"{study.name}{suffix and '_'}{suffix}.png"] = as_png(figure)
    files[f"{study.name}.md"] = as_markdown(study, result, list(files), settings, output).encode()
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


def as_markdown(study: Study, result: Result, files: Sequence[str], settings: Mapping[str, Any], output: Path) -> str:
    """The summary: what was done, the table, what it says, the figures, and the command that made it all."""
    columns = list(result.rows[0])
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
        f"    {command(study.name, settings, output)}",
        f"Settings: {', '.join(f'{key} {value}' for key, value in {**study.settings, **settings}.items())}.",
    ]
    return "\n\n".join(line.strip("\n") for line in lines) + "\n"


def command(name: str, settings: Mapping[str, Any], output: Path) -> str:
    """The command line that runs a study with these settings."""
    words = ["python", "-m", "stylezoo", "reproduce", name, "--output", str(output)]
    for key, value in settings.items():
        words += [f"--{key}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return shlex.join(words)


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {**{c: rf"\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    return "".join(special.get(c, c) for c in text)


def _text(value: Value, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
