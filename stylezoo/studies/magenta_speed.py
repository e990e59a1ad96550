"""The speed of Magenta's network for any style beside that of the network for fixed styles that it is built on."""

from __future__ import annotations

from collections.abc import Sequence

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import Row, Verdict, median, numbers, verdict

PAPER = Paper(
    [
        Method("Dumoulin et al.", "cin"),
        Method("Ghiasi et al.", "magenta"),
        Method("Ghiasi et al., mobile", "magenta", {"predictor": "mobilenet_v2", "width": 0.25}),
    ],
    baseline="Dumoulin et al.",
)


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether Magenta's network takes at most a quarter more time than CIN's."""
    ratios = numbers([row for row in rows if row["method"] == "Ghiasi et al."], "ratio to Dumoulin et al.")
    return verdict(all(r <= 1.25 for (r,) in ratios), f"{median([r for (r,) in ratios]):.2f} times CIN's time")


@study(
    "magenta_speed",
    source="Ghiasi et al. 2017, speed against CIN",
    paper="https://arxiv.org/abs/1705.06830",
    claim="Once a style is encoded, any style costs Magenta what a fixed style costs CIN.",
    judge=judge,
)
def magenta_speed(*, setup: SpeedSetup = SpeedSetup()) -> StudyResult:
    """The cost of any style in Magenta over fixed styles: every system's time as a multiple of CIN's.

    If the style is encoded before, the network is that of CIN except for the batch normalization of three layers. The
    encoding is that of the style prediction network, on a style of 256 pixels whatever the size of the content. There is
    no published column, because the paper's own numbers were not available.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
