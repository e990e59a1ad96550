"""The speed of StyTr2 beside that of earlier systems."""

from __future__ import annotations

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import cannot_be_said

PAPER = Paper(
    [Method("StyTr2", "stytr2"), Method("AdaIN", "adain"), Method("SANet", "sanet")],
    baseline="AdaIN",
)


@study(
    "stytr2_speed",
    source="StyTr2, comparison of inference times",
    paper="https://arxiv.org/abs/2105.14576",
    claim="A transformer takes little more time than convolutional networks.",
    judge=cannot_be_said("published times contradict each other by more than a factor of three"),
)
def stytr2_speed(*, setup: SpeedSetup = SpeedSetup()) -> StudyResult:
    """StyTr2's cost: every system's time for an image, as a multiple of AdaIN's.

    There is no published column: times quoted for StyTr2 contradict each other by more than a factor of three at 512
    pixels.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
