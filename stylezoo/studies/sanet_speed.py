"""The speed table of SANet."""

from __future__ import annotations

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import within

PAPER = Paper(
    [
        Method("Gatys et al.", "gatys", {"min_scale": None}, times={256: 15.863, 512: 50.804}),
        Method("WCT", times={256: 0.689, 512: 0.997}),
        Method("Avatar-Net", times={256: 0.248, 512: 0.356}),
        Method("AdaIN", "adain", times={256: 0.011, 512: 0.039}),
        Method("SANet, relu4_1 alone", times={256: 0.012, 512: 0.042}),
        Method("SANet", "sanet", times={256: 0.017, 512: 0.055}),
    ],
    baseline="AdaIN",
    machine="the paper's GPU",
)


@study(
    "sanet_speed",
    source="SANet, table 1",
    paper="https://arxiv.org/abs/1812.02342",
    claim="SANet takes about 1.5 times as long as AdaIN, and far less than optimization.",
    judge=within("ratio to AdaIN", "paper: ratio to AdaIN (from memory)", 2.0),
)
def sanet_speed(*, setup: SpeedSetup = SpeedSetup()) -> StudyResult:
    """SANet's speed table: every system's time for an image, as a multiple of AdaIN's.

    AdaIN takes 0.011 and 0.039 seconds in this table and 0.018 and 0.065 in its own paper: tables of different papers
    were measured on different machines, and only ratios within one table can be compared.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
