"""The speed table of AdaIN."""

from __future__ import annotations

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import same_order

PAPER = Paper(
    [
        Method(
            "Gatys et al.",
            "gatys",
            {"min_scale": None},
            times={256: 14.17, 512: 46.75},
            times_with_encoding={256: 14.19, 512: 46.79},
        ),
        Method("Chen & Schmidt", times={256: 0.171, 512: 3.214}, times_with_encoding={256: 0.407, 512: 4.144}),
        # The paper's times for it are those of Dumoulin's network: the residual one, not the pyramid.
        Method("Ulyanov et al.", "texture_nets", {"generator": "johnson"}, times={256: 0.011, 512: 0.038}),
        Method(
            "Dumoulin et al.",
            "cin",
            {"style_names": [f"style{i}" for i in range(32)]},
            times={256: 0.011, 512: 0.038},
        ),
        Method("AdaIN", "adain", times={256: 0.018, 512: 0.065}, times_with_encoding={256: 0.027, 512: 0.098}),
    ],
    baseline="AdaIN",
    machine="a Titan X (Pascal)",
    provenance="found",
)


@study(
    "adain_speed",
    source="AdaIN, table 1",
    paper="https://arxiv.org/abs/1703.06868",
    claim="AdaIN takes hundreds of times less time than optimization, and about as long as networks of fixed styles.",
    judge=same_order("ratio to AdaIN", "paper: ratio to AdaIN (found)"),
)
def adain_speed(*, setup: SpeedSetup = SpeedSetup()) -> StudyResult:
    """AdaIN's speed table: every system's time for an image, as a multiple of AdaIN's.

    Every system stylizes one image at a time, content and style have the same size, and times are given with and without
    the encoding of the style. Gatys et al. have 500 iterations, where the paper's curves of losses over iterations end.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
