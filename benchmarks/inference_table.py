"""The tables of `inference.py`: ratios and their spreads, rows, the lines that must hold, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from inference_case import PUBLIC, modes, system_of
from machine import MIB, Facts

from stylezoo.studies.base import as_table
from stylezoo.studies.verdicts import Row

Result = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median, the smallest and the largest of some numbers."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratios(baseline: Sequence[float], seconds: Sequence[float]) -> Spread:
    """Returns how many times faster something is than the baseline, from the times of the same rounds.

    >>> ratios([3.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    Spread(median=3.0, low=2.0, high=3.0)
    """
    each = [theirs / ours for theirs, ours in zip(baseline, seconds, strict=True)]
    return Spread(median(each), min(each), max(each))


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Attributes:
        models: The models, in the order of the table.
        engines: The engines; the baseline is none of them.
        sizes: Sides in pixels.
        times: {(model, size): what `inference_case.measure_times` returned}.
        memories: {(model, engine, size): what `inference_case.measure_memory` returned}.
        left_out: {(model, engine or task, size): why there are no numbers}.
    """

    models: Sequence[str]
    engines: Sequence[str]
    sizes: Sequence[int]
    times: dict[tuple[str, int], Result] = field(default_factory=dict)
    memories: dict[tuple[str, str, int], Result] = field(default_factory=dict)
    left_out: dict[tuple[str, str, int], str] = field(default_factory=dict)

    def seconds(self, model: str, size: int, task: str) -> list[float] | None:
        """The times of a task, one per round; None if it was not measured."""
        found: list[float] | None = self.times.get((model, size), {}).get("seconds", {}).get(task)
        return found

    def ratio(self, model: str, size: int, engine: str, mode: str) -> Spread | None:
        """How many times faster an engine is than the baseline, which encodes the style."""
        baseline, ours = (
            self.seconds(model, size, f"{PUBLIC}/{modes(model)[0]}"),
            self.seconds(model, size, f"{engine}/{mode}"),
        )
        return None if engine == PUBLIC or baseline is None or ours is None else ratios(baseline, ours)

    def flops(self, model: str, engine: str, size: int) -> list[int]:
        """Multiplications and additions of a whole image and of one whose style is kept; engines do the work of eager."""
        name = engine if engine == PUBLIC else "eager"
        counted = self.memories.get((model, name, size), {}).get("flops", [])
        return [sum(counted), counted[-1]] if counted else []


@dataclass(frozen=True)
class RatioClaim:
    """A line that must hold: a model is at least so many times faster than the baseline.

    Attributes:
        model: The model.
        size: The side in pixels.
        mode: ``encoded`` with the encoding of the style, ``kept`` without.
        least: The ratio.
        engine: The only engine that it is about; None for all.
    """

    model: str
    size: int
    mode: str
    least: float
    engine: str | None = None

    def __str__(self) -> str:
        ways = {"encoded": " with the style encoded", "kept": " with the style's code kept"}
        way = ways[self.mode] if len(modes(self.model)) == 2 else ""
        way += f" in {self.engine}" if self.engine else ""
        return f"{self.model} at {self.size} px{way}: at least {self.least:g} x as fast as the public {system_of(self.model)}"

    def verdict(self, measured: Measured, engine: str) -> tuple[bool, float, str] | None:
        """Whether the line holds for an engine, a number that is larger the better, and what was measured."""
        spread = measured.ratio(self.model, self.size, engine, self.mode)
        if self.engine not in (None, engine):
            return None
        return None if spread is None else (spread.median >= self.least, spread.median, f"{spread} x")


@dataclass(frozen=True)
class MemoryClaim:
    """A line that must hold: the peak memory of a model is at most so much above that of another one.

    Attributes:
        model: The model.
        size: The side in pixels.
        other: The other model.
        most: MiB.
    """

    model: str
    size: int
    other: str
    most: float

    def __str__(self) -> str:
        return f"{self.model} at {self.size} px: peak memory at most {self.most:g} MiB above that of {self.other}"

    def verdict(self, measured: Measured, engine: str) -> tuple[bool, float, str] | None:
        """See `RatioClaim`."""
        found = [measured.memories.get((model, engine, self.size), {}) for model in (self.model, self.other)]
        if not all("peak" in result for result in found):
            return None
        beyond = found[0]["peak"] - found[1]["peak"]
        weights = found[0]["loaded"] - found[1]["loaded"]
        return beyond <= self.most, -beyond, f"{beyond:.0f} MiB, of which {weights:.0f} are there before the image"


@dataclass(frozen=True)
class PeakClaim:
    """A line that must hold: a model needs at most so much memory.

    Attributes:
        model: The model.
        size: The side in pixels.
        most: MiB, of the whole process.
    """

    model: str
    size: int
    most: float

    def __str__(self) -> str:
        return f"{self.model} at {self.size} px: peak memory at most {self.most:.0f} MiB"

    def verdict(self, measured: Measured, engine: str) -> tuple[bool, float, str] | None:
        """See `RatioClaim`."""
        peak = measured.memories.get((self.model, engine, self.size), {}).get("peak")
        return None if peak is None else (peak <= self.most, -peak, f"{peak:.0f} MiB")


CLAIMS: tuple[RatioClaim | MemoryClaim | PeakClaim, ...] = (
    RatioClaim("adain", 512, "encoded", 1.5),
    RatioClaim("adain", 512, "kept", 2.4),
    RatioClaim("adain", 512, "kept", 3.0, "bfloat16"),
    RatioClaim("johnson", 512, "kept", 1.4),
    RatioClaim("sanet", 512, "kept", 2.0),
    RatioClaim("microast", 512, "encoded", 1.5),
    RatioClaim("adain.slim", 512, "encoded", 5.0),
    MemoryClaim("sanet", 1024, "adain", 64.0),
    PeakClaim("sanet", 2048, 4e9 / MIB),
)
"""What was aimed at on two CPU cores: in float32, and in bfloat16 where a processor has units for it."""


def rows(measured: Measured) -> list[Row]:
    """Returns one row per model, size and engine, the baseline among them, where anything was measured."""
    found = []
    for model in measured.models:
        for size in measured.sizes:
            for engine in (PUBLIC, *measured.engines):
                timed = measured.times.get((model, size), {}).get("seconds", {})
                if (model, engine, size) in measured.memories or any(t.startswith(f"{engine}/") for t in timed):
                    found.append(row(measured, model, engine, size))
    return found


def row(measured: Measured, model: str, engine: str, size: int) -> Row:
    """Returns the row of one model, engine and size."""
    times, memory = measured.times.get((model, size), {}), measured.memories.get((model, engine, size), {})
    flops = measured.flops(model, engine, size)
    single = modes(model) == ("kept",)
    encoded, kept = (measured.seconds(model, size, f"{engine}/{mode}") for mode in ("encoded", "kept"))
    cells: Row = {"model": model, "size": size, "engine": engine}
    for name, seconds in (("style encoded", encoded), ("code kept", kept)):
        cells[f"s, {name}"] = median(seconds) if seconds else None
    last, done = (encoded, flops[:1]) if engine == PUBLIC and not single else (kept, flops[1:])
    cells["images per s"] = 1 / median(last) if last else None
    for name, mode in (("style encoded", "encoded"), ("code kept", "kept")):
        spread = measured.ratio(model, size, engine, mode)
        for part in ("median", "low", "high"):
            cells[f"ratio, {name}, {part}"] = getattr(spread, part) if spread else None
    cells["s, preparation"] = (
        memory["first"] - memory["seconds"] if memory.get("first", 0) > memory.get("seconds", 0) else None
    )
    cells["peak, MiB"] = memory.get("peak")
    cells["peak less loaded, MiB"] = memory["peak"] - memory["loaded"] if "peak" in memory else None
    cells["GFLOP, style encoded"] = flops[0] / 1e9 if flops and not single else None
    cells["GFLOP, code kept"] = flops[1] / 1e9 if flops and (engine != PUBLIC or single) else None
    rate = median(times["matrix"]) if "matrix" in times else None
    cells["share of matrix rate"] = done[0] / median(last) / rate if last and done and rate else None
    cells["difference"] = times.get("difference", {}).get(engine)
    cells["must show"] = "; ".join(verdicts(measured, model, engine, size)) or None
    return cells


def verdicts(measured: Measured, model: str, engine: str, size: int) -> list[str]:
    """Says which of the lines that must hold do so in a row."""
    found = []
    for claim in CLAIMS:
        if (claim.model, claim.size) == (model, size) and engine != PUBLIC:
            verdict = claim.verdict(measured, engine)
            limit = f">= {claim.least:g} {claim.mode}" if isinstance(claim, RatioClaim) else f"<= {claim.most:.0f} MiB"
            if verdict is not None:
                found.append(f"{limit}: {'holds' if verdict[0] else 'does not hold'}")
    return found


def claim_rows(measured: Measured) -> list[Row]:
    """Returns one row per line that must hold, with the best engine for it."""
    found: list[Row] = []
    for claim in CLAIMS:
        each = {engine: claim.verdict(measured, engine) for engine in measured.engines}
        known = {engine: verdict for engine, verdict in each.items() if verdict is not None}
        if known:
            best = max(known, key=lambda engine: known[engine][1])
            holds, _, text = known[best]
            found.append({"line": str(claim), "measured": text, "engine": best, "holds": "yes" if holds else "no"})
        else:
            found.append({"line": str(claim), "measured": "not measured", "engine": None, "holds": None})
    return found


def page_rows(table: Sequence[Row]) -> list[Row]:
    """Returns the rows as the page shows them: ratios with their spread in one cell, few digits."""
    found: list[Row] = []
    for cells in table:
        shown: Row = {name: cells[name] for name in ("model", "size", "engine")}
        for name in ("style encoded", "code kept"):
            shown[f"s, {name}"] = _digits(cells[f"s, {name}"], 3)
        shown["images per s"] = _digits(cells["images per s"], 3)
        for name in ("style encoded", "code kept"):
            numbers = [cells[f"ratio, {name}, {part}"] for part in ("median", "low", "high")]
            shown[f"ratio, {name}"] = str(Spread(*numbers)) if None not in numbers else None  # type: ignore[arg-type]
        shown["s, preparation"] = _digits(cells["s, preparation"], 2)
        for name in ("peak, MiB", "peak less loaded, MiB"):
            shown[name] = _digits(cells[name], 4)
        for name in ("GFLOP, style encoded", "GFLOP, code kept"):
            shown[name] = _digits(cells[name], 4)
        shown["share of matrix rate"] = _digits(cells["share of matrix rate"], 2)
        shown["difference"] = _digits(cells["difference"], 1)
        shown["must show"] = cells["must show"]
        found.append(shown)
    return found


def _digits(value: Any, digits: int) -> str | None:
    """A number in so many significant digits, whole numbers with all of theirs."""
    if value is None:
        return None
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def page(measured: Measured, facts: Facts, rate: float | None, command: str, waiting: Sequence[str]) -> str:
    """Returns the page in Markdown.

    Args:
        measured: All that was measured.
        facts: Those of the machine.
        rate: Operations per second of a matrix product in float32.
        command: The command that writes the page.
        waiting: What a next run will measure.
    """
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    table = rows(measured)
    parts = ["# Inference: all systems, engines and sizes", f"Machine: {machine}."]
    if rate:
        parts.append(f"Matrix product in float32, median of all rounds: {rate / 1e9:.1f} GFLOP/s.")
    parts.append(f"    {command}")
    parts += ["## Lines that must hold", as_table(claim_rows(measured)), "## All cases", EXPLANATION]
    parts.append(as_table(page_rows(table)) if table else "Nothing was measured yet.")
    if measured.left_out:
        lines = [f"- {m} at {s} px, {what}: {why}" for (m, what, s), why in measured.left_out.items()]
        parts += ["## Left out", "\n".join(lines)]
    if waiting:
        parts += ["## Not measured yet", f"The same command goes on with {', '.join(waiting)}."]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
Square images, batches of one, noise as content and style. The engine `public` is the baseline (`benchmarks/public_style.py`).
*s*: median of the rounds; *images per s*: with the style's code kept (the baseline encodes it each time). *Ratio*: the
baseline's time over the engine's in the same round, median (smallest to largest). *s, preparation*: what the first image of
a size takes longer, where an engine compiles or converts for it. *Peak*: VmHWM of a process that
encodes the style and stylizes one image; *less loaded*: without what the process had before. *GFLOP*: multiplications
and additions of convolutions, matrix products and attention. *Share of matrix rate*: GFLOP over time, over the rate of
matrix products in the same rounds; Winograd's convolutions do with fewer operations and may exceed 1. *Difference*:
largest difference from the baseline's output, over its largest value, where both have the same weights."""
