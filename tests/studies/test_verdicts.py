"""Verdicts on the claims of papers: what decides them, and the page of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, load_module

from stylezoo import studies
from stylezoo.studies.verdicts import Verdict, most, numbers, order_of, read_rows, same_order, within

reproduction = load_module("reproduction", ROOT / "tools" / "reproduction.py")


def table(*pairs: tuple[Any, Any], **columns: Any) -> list[Any]:
    return [{"a": a, "b": b, **columns} for a, b in pairs]


def test_tau_is_kendalls_of_the_rows_that_have_both() -> None:
    values = np.random.default_rng(0).normal(size=(7, 2)).tolist()
    order = order_of([*table(*values), *table((1.0, None), (None, 2.0))], "a", "b")
    scipy = pytest.importorskip("scipy.stats", reason="the expected values are SciPy's, which comes with scikit-image")
    expected = scipy.kendalltau(*zip(*values, strict=True), alternative="greater", method="asymptotic")
    assert (order.count, order.tau) == (7, pytest.approx(expected.statistic))
    assert order.p == pytest.approx(expected.pvalue, abs=0.02)


def test_models_of_one_system_count_once() -> None:
    rows = [{"system": name, "a": a} for name, a in [("x", 1.0), ("x", 2.0), ("y", 3.0), ("z", None)]]
    assert numbers(rows, "a", by=["system"]) == [(1.0,), (3.0,)]
    assert numbers(rows, "a") == [(1.0,), (2.0,), (3.0,)]


@pytest.mark.parametrize(
    ("judge", "rows", "outcome"),
    [
        (same_order("a", "b"), table((1, 1), (2, 2), (3, 3)), "cannot be said"),  # too few
        (same_order("a", "b"), table(*((k, k * k) for k in range(1, 8))), "reproduced"),
        (same_order("a", "b"), table(*((k, -k) for k in range(1, 8))), "not reproduced"),
        (same_order("a", "b"), table((1, 1), (2, 2), (3, 4), (4, 3), (5, 2.5)), "cannot be said"),  # could be chance
        (within("a", "b", 2.0), table((1, 1), (3, 2), (4, 7)), "reproduced"),
        (within("a", "b", 2.0), table((1, 1), (9, 2)), "not reproduced"),
        (within("a", "b", 2.0), table((1, 1), (None, 2)), "cannot be said"),
    ],
)
def test_what_decides(judge: Any, rows: list[Any], outcome: str) -> None:
    assert judge(rows).outcome == outcome


@pytest.mark.parametrize(
    ("better", "of", "outcome"),
    [
        (8, 8, "reproduced"),
        (7, 8, "reproduced"),
        (6, 8, "cannot be said"),
        (4, 8, "not reproduced"),
        (0, 0, "cannot be said"),
    ],
)
def test_a_majority_is_more_than_chance(better: int, of: int, outcome: str) -> None:
    verdict = most([True] * better + [False] * (of - better), "models")
    assert verdict == Verdict(outcome, f"{better} of {of} models")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", studies.studies())
def test_every_study_has_a_claim_and_judges_its_stored_table(name: str) -> None:
    study, file = studies.get(name), ROOT / "results" / f"{name}.csv"
    assert study.claim.endswith(".") and study.claim[0].isupper()
    if not file.is_file():
        pytest.skip("its table is not stored")
    verdict = study.judge(read_rows(file))
    assert verdict.outcome in ("reproduced", "not reproduced", "cannot be said") and not verdict.reason.endswith(".")


def test_the_page_has_the_verdicts_of_the_stored_tables() -> None:
    """`python tools/reproduction.py` writes it again."""
    assert (ROOT / "docs" / "reproduction.md").read_text() == reproduction.page(ROOT / "results")


@pytest.mark.parametrize(
    ("name", "change", "outcome"),
    [
        ("norm_convergence", {"loss / instance": 0.9}, "not reproduced"),
        ("supremum_correlation", {"Pearson": 0.2}, "not reproduced"),
        ("upsampling_checkerboard", {"period 2, dB": 1.0}, "not reproduced"),
        ("alpha_sweep", {"style": 1.0, "content": 1.0}, "reproduced"),
        ("magenta_speed", {"ratio to Dumoulin et al.": 3.0}, "not reproduced"),
        ("identity", {"SSIM": 0.5}, "not reproduced"),
        ("levels", {"content": 0.5}, "not reproduced"),
        ("content_leak", {"content to the photo": 0.5}, "not reproduced"),
        ("loss_distributions", {"largest / smallest": 2000.0}, "not reproduced"),
        ("cin_styles", {"here": 1.0}, "reproduced"),
    ],
)
def test_verdicts_follow_the_numbers(name: str, change: dict[str, float], outcome: str) -> None:
    rows = [{**row, **change} for row in read_rows(ROOT / "results" / f"{name}.csv")]
    assert studies.get(name).judge(rows).outcome == outcome


def test_ccpl_is_judged_over_models() -> None:
    rows = [
        {"model": str(k), "training": training, "warp error": error}
        for k in range(6)
        for training, error in (("own losses", 0.2), ("with CCPL", 0.1))
    ]
    assert studies.get("temporal").judge(rows) == Verdict(
        "reproduced", "6 of 6 models have a smaller warp error with CCPL than without"
    )


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,"b, c",d\n1,x,\n2.5,-,nan\n')
    first, second = read_rows(tmp_path / "t.csv")
    assert first == {"a": 1.0, "b, c": "x", "d": None} and second["b, c"] == "-"
