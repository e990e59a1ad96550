"""The picture check: no model that ships is outside of the ranges, except those that are named with their values."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT, load_module

check = load_module("picture_check", ROOT / "tools" / "picture_check.py")
TAGS = [*check.table().models]


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """The medians of all models that ship, by tag and metric."""
    return {tag: check.measure(tag) for tag in TAGS}


def cases() -> Iterator[object]:
    """Every model with every metric; a known exception is an expected failure, which has to fail."""
    for tag in TAGS:
        for metric, (low, high) in check.RANGES.items():
            value = check.OUTSIDE.get(tag, {}).get(metric)
            reason = f"{metric} of {tag} is {value}, outside of {low} to {high}"
            marks = [] if value is None else [pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)]
            yield pytest.param(tag, metric, marks=marks, id=f"{tag}-{metric}")


@pytest.mark.parametrize(("tag", "metric"), [*cases()])
@pytest.mark.slow
def test_a_model_that_ships_is_in_the_ranges(tag: str, metric: str, measured: dict[str, dict[str, float]]) -> None:
    if metric not in measured[tag]:
        assert metric == "colorfulness_ratio"  # the styles of models of given styles are not part of the package
        return
    assert check.is_inside(metric, measured[tag][metric]), f"{metric} of {tag} is {measured[tag][metric]:.3g}"


def test_the_known_exceptions_are_up_to_date(measured: dict[str, dict[str, float]]) -> None:
    """`python tools/picture_check.py` prints the values for `OUTSIDE`."""
    assert check.OUTSIDE.keys() <= set(TAGS)
    for tag, values in check.OUTSIDE.items():
        for metric, value in values.items():
            assert measured[tag][metric] == pytest.approx(value, rel=0.05), (tag, metric)


def test_what_a_card_says_of_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "OUTSIDE", {"a": {"grid_2": 22.84, "colorfulness_ratio": 0.5}})
    assert check.sentence("a") == (
        "In the picture check (tools/picture_check.py), `grid_2` is 22.8, where at most 12 is expected;"
        " `colorfulness_ratio` is 0.5, where 0.75 to 1.33 is expected."
    )
    assert check.sentence("b") is None


def test_a_checkerboard_pale_colors_and_clipping_leave_the_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Added to an output that passes, the style itself, each moves its own metric out of its range."""
    style = check.image("painting", 0)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(64, 64)
    stripes = torch.tensor([1.0, 1.0, -1.0, -1.0]).tile(32)
    outputs = {
        None: style,
        "grid_2": style
        + 0.1 * (board + torch.tensor([1.0, -1.0]).tile(64) + torch.tensor([1.0, -1.0]).tile(64)[:, None]),
        "grid_4": style + 0.3 * (stripes * stripes[:, None] + stripes * board),
        "colorfulness_ratio": style.mean(1, keepdim=True).expand_as(style)
        + 0.2 * (style - style.mean(1, keepdim=True)),
        "clipped_share": 3 * (style - 0.5) + 0.5,
    }

    model = SimpleNamespace(kind="arbitrary", styles=[])
    monkeypatch.setattr(check.stylezoo, "load_model", lambda name: model)
    monkeypatch.setattr(check, "PAIRS", ((0, 0),))
    for expected, output in outputs.items():
        monkeypatch.setattr(check, "Stylizer", lambda *_, output=output, **options: lambda content: output)
        found = check.measure("any")
        outside = [metric for metric, value in found.items() if not check.is_inside(metric, value)]
        assert (expected in outside) if expected else not outside, (expected, found)
