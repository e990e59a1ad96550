"""Draws the loss curves of a run.

python tools/plot_losses.py METRICS.csv OUT.png
"""

import csv
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(metrics: str, out: str) -> None:
    """Writes the figure.

    Args:
        metrics: The file metrics.csv that the CSVLogger of the run wrote.
        out: The image file.
    """
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with open(metrics) as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if "/" in name and value:
                    curves[name].append((int(row["step"]) + 1, float(value)))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, points in sorted(curves.items()):
        validation = name.startswith("val/")
        axes.plot(*zip(*points, strict=True), "o-" if validation else "-", label=name, alpha=1 if validation else 0.5)
    axes.set(xlabel="step", ylabel="weighted loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
