"""MSG-Net's table of sizes and speeds."""

from __future__ import annotations

from stylezoo.studies.base import Result, study
from stylezoo.studies.timing import Method, Paper, speed_table

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


@study("msgnet_size_speed", source="MSG-Net, comparison of size and speed", paper="https://arxiv.org/abs/1703.06953")
def msgnet_size_speed(*, models: tuple[str, ...] = (), size: int | None = None, pictures: int = 5) -> Result:
    """MSG-Net's table: how large every system's file is, and its time as a multiple of MSG-Net's.

    MSG-Net-100 is the zoo's default (128 channels). The wider network of 1000 styles is not measured: no setting has its
    published size. Published are images per second; ratios of times are computed from them. Sizes are files in 10^6
    bytes with all that painting needs, AdaIN's encoder too.

    Args:
        models: Systems or model files to measure beside MSG-Net, instead of all systems.
        size: Side of the images, instead of the paper's 256 and 512.
        pictures: Rounds, of which the median counts.
    """
    return speed_table(PAPER, models, size, pictures)
