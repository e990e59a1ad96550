"""The speed table of linear transfer."""

from __future__ import annotations

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import same_order

PAPER = Paper(
    [
        Method(
            "Ulyanov et al.",
            "texture_nets",
            {"generator": "johnson"},
            times={256: 0.013, 512: 0.028, 1024: 0.092},
        ),
        Method("Gatys et al.", "gatys", {"min_scale": None}, times={256: 16.51, 512: 59.45}),
        Method("AdaIN", "adain", times={256: 0.019, 512: 0.071}),
        Method("WCT", times={256: 0.922, 512: 1.080}),
        Method(
            "Linear transfer, relu3_1",
            "linear_transfer",
            {"relu4_1": False, "relu3_1": True},
            times={256: 0.007, 512: 0.025, 1024: 0.100},
        ),
        Method("Linear transfer, relu4_1", "linear_transfer", times={256: 0.010, 512: 0.036, 1024: 0.146}),
    ],
    baseline="Linear transfer, relu4_1",
    machine="the paper's GPU",
    sizes=(256, 512, 1024),
)


@study(
    "linear_transfer_speed",
    source="Linear style transfer, table of speeds",
    paper="https://arxiv.org/abs/1808.04537",
    claim="Linear transfer takes less time than AdaIN, and a thousandth of optimization.",
    judge=same_order("ratio to Linear transfer, relu4_1", "paper: ratio to Linear transfer, relu4_1 (from memory)"),
)
def linear_transfer_speed(*, setup: SpeedSetup = SpeedSetup(images=3)) -> StudyResult:
    """Linear transfer's speed table: every system's time for an image, as a multiple of linear transfer's.

    The published column is from memory and uncertain. In it AdaIN takes twice as long as linear transfer from relu4_1,
    which has the same encoder and decoder and more layers between them.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
