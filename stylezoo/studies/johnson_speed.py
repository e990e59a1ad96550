"""The speed table of Johnson et al."""

from __future__ import annotations

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import within

OPTIMIZED = ("gatys", {"min_scale": None})
PAPER = Paper(
    [
        Method("Gatys et al., 100", *OPTIMIZED, iterations=100, times={256: 3.17, 512: 10.97, 1024: 42.89}),
        Method("Gatys et al., 300", *OPTIMIZED, iterations=300, times={256: 9.52, 512: 32.91, 1024: 128.66}),
        Method("Gatys et al., 500", *OPTIMIZED, times={256: 15.86, 512: 54.85, 1024: 214.44}),
        Method(
            "Johnson et al.",
            "johnson",
            {"norm": "batch", "upsample": "transposed", "padding": "reflect_start", "tail": "scaled_tanh"},
            times={256: 0.015, 512: 0.05, 1024: 0.21},
        ),
    ],
    baseline="Johnson et al.",
    machine="a GTX Titan X",
    sizes=(256, 512, 1024),
)


@study(
    "johnson_speed",
    source="Johnson et al. 2016, table 1",
    paper="https://arxiv.org/abs/1603.08155",
    claim="One pass is two to three orders of magnitude faster than 100 to 500 iterations of optimization.",
    judge=within("ratio to Johnson et al.", "paper: ratio to Johnson et al. (from memory)", 2.0),
)
def johnson_speed(*, setup: SpeedSetup = SpeedSetup(images=3)) -> StudyResult:
    """The speed-up over optimization of Johnson et al., and every system's time as a multiple of their network's.

    Their network is the paper's own, with batch normalization (experiments/johnson_paper.yaml); the row "johnson" is the
    network with instance normalization. Gatys et al. have 100, 300 and 500 iterations, and the ratio is the speed-up of
    the paper.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
