"""SANet's table of speeds."""

from __future__ import annotations

from stylezoo.studies.base import Result, study
from stylezoo.studies.timing import Method, Paper, speed_table

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


@study("sanet_speed", source="SANet, table 1", paper="https://arxiv.org/abs/1812.02342")
def sanet_speed(*, models: tuple[str, ...] = (), size: int | None = None, pictures: int = 5) -> Result:
    """SANet's speed table: every system's time for an image, as a multiple of AdaIN's.

    AdaIN is 0.011 and 0.039 seconds here and 0.018 and 0.065 in its own paper: tables of different papers are of
    different machines, and only ratios within one table mean something.

    Args:
        models: Systems or model files to measure beside AdaIN, instead of all systems.
        size: Side of the images, instead of the paper's 256 and 512.
        pictures: Rounds, of which the median counts.
    """
    return speed_table(PAPER, models, size, pictures)
