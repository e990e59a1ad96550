"""The table of sizes and speeds of MSG-Net."""

from __future__ import annotations

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.timing import Method, Paper, SpeedSetup, speed_table
from stylezoo.studies.verdicts import same_order

PAPER = Paper(
    [
        Method("Gatys et al.", "gatys", {"min_scale": None}, times={256: 0.07, 512: 0.02}),
        Method("Johnson et al.", "johnson", times={256: 91.7, 512: 26.3}, megabytes=6.7),
        # The number of styles is not known; ten make 6.8 MB.
        Method(
            "Dumoulin et al.",
            "cin",
            {"style_names": [f"style{i}" for i in range(10)]},
            times={256: 88.3, 512: 24.7},
            megabytes=6.8,
        ),
        Method("Chen & Schmidt", times={256: 5.84, 512: 0.31}, megabytes=574.0),
        Method("Huang & Belongie", "adain", times={256: 37.0, 512: 10.2}, megabytes=28.1),
        Method("MSG-Net-100", "msgnet", times={256: 92.7, 512: 29.2}, megabytes=9.6),
        Method("MSG-Net-1K", times={256: 47.2, 512: 14.3}, megabytes=40.3),
    ],
    baseline="MSG-Net-100",
    machine="the paper's GPU",
    unit="fps",
)


@study(
    "msgnet_size_speed",
    source="MSG-Net, comparison of size and speed",
    paper="https://arxiv.org/abs/1703.06953",
    claim="MSG-Net is about as fast as networks of fixed styles, and faster than AdaIN.",
    judge=same_order("ratio to MSG-Net-100", "paper: ratio to MSG-Net-100 (from memory)"),
)
def msgnet_size_speed(*, setup: SpeedSetup = SpeedSetup()) -> StudyResult:
    """MSG-Net's table: the size of every system's file, and its time as a multiple of MSG-Net's.

    MSG-Net-100 is the zoo's default (128 channels). The wider network of 1000 styles is not measured, because no setting
    has its published size. The paper gives images per second, from which the ratios of times are computed. Sizes are
    those of files in 10^6 bytes with everything that inference needs, AdaIN's encoder included.

    Args:
        setup: What is measured, see `stylezoo.studies.timing.SpeedSetup`.
    """
    return speed_table(PAPER, setup)
