"""The speed table of linear transfer."""

from __future__ import annotations

from stylezoo.studies.base import Result, study
from stylezoo.studies.timing import Method, Paper, speed_table

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
    "linear_transfer_speed", source="Linear style transfer, table of speeds", paper="https://arxiv.org/abs/1808.04537"
)
def linear_transfer_speed(*, models: tuple[str, ...] = (), size: int | None = None, pictures: int = 3) -> Result:
    """Linear transfer's speed table: every system's time for an image, as a multiple of linear transfer's.

    The published column is remembered with little confidence. It says AdaIN takes twice as long as linear transfer from
    relu4_1, which has the same encoder and decoder and more between them.

    Args:
        models: Systems or model files to measure beside linear transfer, instead of all systems.
        size: Side of the images, instead of the paper's 256, 512 and 1024.
        pictures: Rounds, of which the median counts.
    """
    return speed_table(PAPER, models, size, pictures)
