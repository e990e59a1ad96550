"""The correlation of the classic style loss with its supremum, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef

from stylezoo.errors import StylezooError
from stylezoo.metrics import AST_LAYERS
from stylezoo.studies.balanced_loss import AstLosses, measured
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.pairs import IDENTITY, measured_with
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, by_model, median, numbers, verdict

PAPER = 1.0  # "nearly equal to 1" (Neroxn/ceng501-final-project README.md, on the paper's figure, its figure 3.4)


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the median over models and layers is at least 0.9."""
    values = [value for models in by_model(rows).values() for (value,) in numbers(models, "Pearson")]
    reason = f"median {median(values):.2f}, from {min(values):.2f} to {max(values):.2f} over models and layers"
    return verdict(median(values) >= 0.9, reason)


@study(
    "supremum_correlation",
    source="Cheng et al. 2021, as quoted in Neroxn/ceng501-final-project, figure 3.4",
    paper="https://arxiv.org/abs/2104.10064",
    claim="The classic style loss and its supremum correlate with a coefficient near 1.",
    judge=judge,
)
def supremum_correlation(*, setup: PairSetup = PairSetup(images=100)) -> StudyResult:
    """Pearson correlation of the classic style loss with its supremum, per layer.

    The paper finds a correlation of nearly 1 and concludes that the loss depends more on the size of the features than on
    the style that is missing. Losses are those of `balanced_loss`, for every pair. Pearson's coefficient depends on the
    few largest values; the coefficient of the logarithms is given as well. "(content unchanged)" is the identity baseline.
    The loss is the supremum times the balanced loss: the less the balanced loss varies from pair to pair, the closer to 1
    is the correlation. Protocol: 2000 pairs of 256 x 256 pixels.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
    """
    if setup.images < 3:
        raise StylezooError(f"A correlation needs at least three pairs (images), not {setup.images}.")
    networks, network, pairs, losses = measured(setup)
    labels = [*networks, IDENTITY]
    rows = [_row(label, layer, *_values(losses, label, i)) for label in labels for i, layer in enumerate(losses.layers)]
    notes = [setup.origin]
    for label in labels:
        found = ", ".join(f"{row['layer']} {row['Pearson']:.2f}" for row in rows if row["model"] == label)
        notes.append(f"{label}: Pearson {found}.")
    notes.append(_explained(rows))
    notes.append(
        "The scatter plots of the re-run (CENG501-Projects/CENG501-Spring2022@1951006 Project_Kargi) are not of what they say:"
        " an in-place += overwrites its series of relu1_1. Here every layer has its own values."
    )
    notes.append(measured_with(network, AST_LAYERS[network.depth], pairs))
    return StudyResult(rows, notes, {"": _figure(losses, labels, rows)})


def _values(losses: AstLosses, label: str, layer: int) -> tuple[Tensor, Tensor]:
    return losses.classic[label][:, layer], losses.supremum[label][:, layer]


def _row(label: str, layer: str, classic: Tensor, supremum: Tensor) -> Row:
    quotient = classic / supremum
    logs = (values.clamp_min(torch.finfo(values.dtype).tiny).log() for values in (classic, supremum))
    return {
        "model": label,
        "layer": layer,
        "Pearson": pearson_corrcoef(classic, supremum).item(),
        "Pearson of logarithms": pearson_corrcoef(*logs).item(),
        "variation of the supremum": (supremum.std() / supremum.mean()).item(),
        "variation of the balanced loss": (quotient.std() / quotient.mean()).item(),
        published("Pearson, about", "found"): None if label == IDENTITY else PAPER,
    }


def _explained(rows: list[Row]) -> str:
    pearson, supremum, quotient = (
        torch.tensor([float(row[name] or 0.0) for row in rows])
        for name in ("Pearson", "variation of the supremum", "variation of the balanced loss")
    )
    low = int(pearson.argmin())
    return (
        f"Standard deviation over mean: suprema {supremum.min():.2f} to {supremum.max():.2f}, balanced losses"
        f" {quotient.min():.2f} to {quotient.max():.2f}. The lowest correlation, {pearson[low]:.2f} for {rows[low]['model']}"
        f" at {rows[low]['layer']}, has {quotient[low]:.2f}: there pairs differ in how much of their style is missing."
    )


def _figure(losses: AstLosses, labels: list[str], rows: list[Row]) -> Any:
    figure = new_figure(3 * len(losses.layers), 2.8 * len(labels))
    axes = figure.subplots(len(labels), len(losses.layers), squeeze=False)
    values = iter(rows)
    for line, label in zip(axes, labels, strict=True):
        for number, axis in enumerate(line):
            classic, supremum = _values(losses, label, number)
            ends = [supremum.log10().min().item(), supremum.log10().max().item()]
            axis.plot(ends, ends, color="gray", linewidth=0.8)
            axis.scatter(supremum.log10().tolist(), classic.log10().tolist(), s=6)
            axis.set_title(f"{losses.layers[number]}: Pearson {next(values)['Pearson']:.2f}", fontsize=9)
        line[0].set_ylabel(f"{label}\nclassic loss, log10", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("supremum, log10", fontsize=9)
    return figure
