"""Whether a table says what a paper claims: functions from the rows of a study to a `Verdict`.

They need nothing but the table, so that tables which are stored are judged again without measuring anything.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torchmetrics.functional import kendall_rank_corrcoef

Value = str | int | float | None
Row = dict[str, Value]
"""One row of a table, {column: value}; None is an empty cell."""

Outcome = Literal["reproduced", "not reproduced", "cannot be said"]

FEWEST = 4
"""Rows from which an order is compared."""

CHANCE = 0.05
"""Probability from which on an order, or a majority, could be chance."""


@dataclass(frozen=True)
class Verdict:
    """What a table says about a claim.

    Attributes:
        outcome: One of three answers.
        reason: A clause with the numbers that decided, without a period.
    """

    outcome: Outcome
    reason: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"


Judge = Callable[[Sequence[Row]], Verdict]
"""A function from the rows of a study to a verdict."""


def verdict(holds: bool, reason: str) -> Verdict:
    """Returns that a claim is reproduced, or that it is not."""
    return Verdict("reproduced" if holds else "not reproduced", reason)


def cannot_be_said(reason: str) -> Judge:
    """Returns a judge of what no number of the table decides."""
    return lambda rows: Verdict("cannot be said", reason)


def read_rows(path: Path) -> list[Row]:
    """Reads a table that `stylezoo.studies.base.as_csv` wrote."""

    def value(text: str) -> Value:
        try:
            return float(text)
        except ValueError:
            return text or None

    with path.open(newline="") as file:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def numbers(rows: Sequence[Row], *columns: str, by: Sequence[str] = ()) -> list[tuple[float, ...]]:
    """Returns the numbers of rows that have all of these columns.

    Args:
        rows: The table.
        columns: Names of columns.
        by: Columns of which each value counts once, such as ``system`` where one has several models: its first row.
    """
    found: dict[Any, tuple[float, ...]] = {}
    for index, row in enumerate(rows):
        values = [row.get(column) for column in columns]
        if all(isinstance(value, (int, float)) for value in values):
            found.setdefault(tuple(row[name] for name in by) or index, tuple(map(float, values)))  # type: ignore[arg-type]
    return [*found.values()]


@dataclass(frozen=True)
class Order:
    """How far two columns agree in their order.

    Attributes:
        count: Rows that have both.
        tau: Kendall's tau-b, in [-1, 1]; None for fewer than `FEWEST` rows.
        p: Probability of such a tau, or a larger one, if the orders had nothing to do with each other.
    """

    count: int
    tau: float | None = None
    p: float = 1.0

    def __str__(self) -> str:
        if self.tau is None:
            return f"too few models have both numbers ({self.count})"
        return f"Kendall's tau {self.tau:+.2f} over {self.count} models (p = {self.p:.2g})"


def order_of(rows: Sequence[Row], ours: str, theirs: str, by: Sequence[str] = ()) -> Order:
    """Compares the order of two columns, see `numbers`."""
    both = numbers(rows, ours, theirs, by=by)
    if len(both) < FEWEST:
        return Order(len(both))
    first, second = torch.tensor(both, dtype=torch.float64).unbind(1)
    tau, p = kendall_rank_corrcoef(first, second, t_test=True, alternative="greater")
    return Order(len(both), float(tau), float(p))


def same_order(ours: str, theirs: str, by: Sequence[str] = ()) -> Judge:
    """Returns a judge of a published order of at least `FEWEST` models."""

    def judge(rows: Sequence[Row]) -> Verdict:
        order = order_of(rows, ours, theirs, by)
        if order.tau is None or (order.tau > 0 and not order.p < CHANCE):
            return Verdict("cannot be said", str(order))
        return verdict(order.tau > 0, str(order))

    return judge


def within(ours: str, theirs: str, factor: float) -> Judge:
    """Returns a judge of published numbers that ours are to be met within a factor."""

    def judge(rows: Sequence[Row]) -> Verdict:
        both = [(a, b) for a, b in numbers(rows, ours, theirs) if a > 0 and b > 0 and (a, b) != (1, 1)]
        if not both:
            return Verdict("cannot be said", "no row has both numbers")
        worst = max(max(a / b, b / a) for a, b in both)
        return verdict(worst <= factor, f"published numbers and ours differ by a factor of up to {worst:.2f}")

    return judge


def most(better: Sequence[bool], what: str) -> Verdict:
    """Judges whether something holds for most models, more than chance would have it (a sign test).

    Args:
        better: Whether it holds, for each model.
        what: A clause that goes on from "K of N".
    """
    count, total = sum(better), len(better)
    reason = f"{count} of {total} {what}"
    tail = sum(math.comb(total, k) for k in range(count, total + 1)) / 2**total
    if count * 2 <= total:
        return Verdict("not reproduced" if total else "cannot be said", reason)
    return Verdict("reproduced" if tail < CHANCE else "cannot be said", reason)


def by_model(rows: Sequence[Row], column: str = "model") -> Mapping[str, list[Row]]:
    """Returns the rows of each model, without baselines, whose names are in parentheses."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = str(row[column] or "")
        if name and not name.startswith("("):
            found.setdefault(name, []).append(row)
    return found


def median(values: Sequence[float]) -> float:
    """Returns the median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")
