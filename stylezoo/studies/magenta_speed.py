"""Magenta's arbitrary stylization beside the network of fixed styles that it comes from."""

from __future__ import annotations

from stylezoo.studies.base import Result, study
from stylezoo.studies.timing import Method, Paper, speed_table

PAPER = Paper(
    [
        Method("Dumoulin et al.", "cin"),
        Method("Ghiasi et al.", "magenta"),
        Method("Ghiasi et al., mobile", "magenta", {"predictor": "mobilenet_v2", "width": 0.25}),
    ],
    baseline="Dumoulin et al.",
)


@study("magenta_speed", source="Ghiasi et al. 2017, speed against CIN", paper="https://arxiv.org/abs/1705.06830")
def magenta_speed(*, models: tuple[str, ...] = (), size: int | None = None, pictures: int = 5) -> Result:
    """What any style costs Magenta over fixed styles: every system's time as a multiple of CIN's.

    With the style's code at hand, the network that paints is CIN's but for the batch normalization of three layers; its
    encoding is the style prediction network's, on a style of 256 pixels whatever the size of the content. The paper's
    own figures were not at hand: there is no published column.

    Args:
        models: Systems or model files to measure beside CIN, instead of all systems.
        size: Side of the images, instead of 256 and 512.
        pictures: Rounds, of which the median counts.
    """
    return speed_table(PAPER, models, size, pictures)
