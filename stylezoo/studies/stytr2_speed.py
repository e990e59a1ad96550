"""StyTr2 against the systems that came before."""

from __future__ import annotations

from stylezoo.studies.base import Result, study
from stylezoo.studies.timing import Method, Paper, speed_table

PAPER = Paper(
    [Method("StyTr2", "stytr2"), Method("AdaIN", "adain"), Method("SANet", "sanet")],
    baseline="AdaIN",
)


@study("stytr2_speed", source="StyTr2, comparison of inference times", paper="https://arxiv.org/abs/2105.14576")
def stytr2_speed(*, models: tuple[str, ...] = (), size: int | None = None, pictures: int = 5) -> Result:
    """StyTr2's cost: every system's time for an image, as a multiple of AdaIN's.

    There is no published column: the times that are in circulation for StyTr2 contradict each other by more than three
    times at 512 pixels.

    Args:
        models: Systems or model files to measure beside AdaIN, instead of all systems.
        size: Side of the images, instead of 256 and 512.
        pictures: Rounds, of which the median counts.
    """
    return speed_table(PAPER, models, size, pictures)
