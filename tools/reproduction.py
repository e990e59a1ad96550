"""Writes the page of claims: what each paper says, and whether the tables in the folder of results say the same.

    python tools/reproduction.py --results results --output docs/reproduction.md

Nothing is measured: verdicts are computed from the tables (`stylezoo.studies.verdicts`). `make results` runs it after the tables.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from stylezoo import studies
from stylezoo.files import replacing
from stylezoo.studies.verdicts import Verdict, read_rows

INTRODUCTION = """\
# Claims of the papers, and our verdicts

Each study of `python -m stylezoo reproduce --list` measures what a paper claims. A verdict is computed from its table:

* **reproduced**: the table says the same, up to the bound that is named in the code of the study (`judge` in `stylezoo/studies`);
* **not reproduced**: the table says something else;
* **cannot be said**: there are too few numbers, the agreement could be chance (p of 0.05 or more), or no number decides.

Published orders are compared by Kendall's tau, over systems that have both numbers, where there are at least four. A verdict is about
these tables: their models are public weights and the small ones that ship, on the number of pairs and the size that each
table states. Numbers marked "from memory" in a table were not read at their source."""


def verdicts(results: Path) -> dict[str, Verdict]:
    """Returns the verdicts of the studies whose tables there are, by name."""
    files = {name: results / f"{name}.csv" for name in studies.studies()}
    return {name: studies.get(name).judge(read_rows(file)) for name, file in files.items() if file.is_file()}


def page(results: Path) -> str:
    """Returns the page."""
    found = verdicts(results)
    lines = ["| paper | claim | verdict | because | table |", "|---|---|---|---|---|"]
    for name, study in studies.studies().items():
        verdict = found.get(name, Verdict("cannot be said", "not measured yet"))
        table = f"[{name}](../results/{name}.md)" if name in found else f"`reproduce {name}`"
        cells = (f"[{study.source}]({study.paper})", study.claim, verdict.outcome, verdict.reason, table)
        lines.append(f"| {' | '.join(cells)} |")
    outcomes = [verdict.outcome for verdict in found.values()]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes), reverse=True))
    made = "Made by `python tools/reproduction.py --results results --output docs/reproduction.md`."
    return "\n\n".join([INTRODUCTION, f"{len(found)} tables: {counts}.", "\n".join(lines), f"<sub>{made}</sub>"]) + "\n"


def write(results: Path = Path("results"), output: Path = Path("docs/reproduction.md")) -> None:
    """Writes the page.

    Args:
        results: Folder of the tables.
        output: The page.
    """
    with replacing(output) as file:
        file.write(page(results).encode())


if __name__ == "__main__":
    auto_cli(write, as_positional=False)
