"""The distributions of the classic and the balanced style loss over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stylezoo.metrics import AST_LAYERS
from stylezoo.studies.balanced_loss import QUANTITIES, AstLosses, measured
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.pairs import measured_with
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, numbers, verdict

SPREAD = published("largest / smallest, more than", "found")
SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the classic losses of some model do, and balanced ones of all models differ less."""
    spread = {kind: numbers([row for row in rows if row["loss"] == kind], "largest / smallest") for kind in QUANTITIES}
    classic, balanced = (max(value for (value,) in spread[kind]) for kind in ("classic", "balanced"))
    reason = f"classic losses differ by up to {classic:.0f} times, balanced ones by up to {balanced:.0f} times"
    return verdict(classic > 1000 > balanced, reason)


@study(
    "loss_distributions",
    source="Cheng et al. 2021, as quoted in Neroxn/ceng501-final-project, figures 2.3 and 3.1",
    paper="https://arxiv.org/abs/2104.10064",
    claim="Classic losses of pairs differ by more than a thousand times, balanced ones far less.",
    judge=judge,
)
def loss_distributions(*, setup: PairSetup = PairSetup(images=100)) -> StudyResult:
    """Classic style losses of one model are spread over orders of magnitude, balanced ones are not.

    Both losses are those of `balanced_loss`, for every pair. According to the paper, classic losses of different styles
    can differ by more than a factor of a thousand, so that few styles dominate the training. Skewness is that of the
    values themselves: 0 is symmetric, and above 0 a few pairs have most of the loss. Protocol: 2000 pairs of 256 x 256
    pixels.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
    """
    networks, network, pairs, losses = measured(setup)
    totals = {label: losses.totals(label) for label in losses.classic}
    shown = [label for label in totals if label in networks]
    rows = [_row(label, quantity, totals[label][quantity]) for label in totals for quantity in QUANTITIES]
    notes = [setup.origin]
    for label in shown:
        classic, balanced = (spread(totals[label][quantity]) for quantity in reversed(QUANTITIES))
        notes.append(
            f"{label}: the classic loss of nine pairs of ten spans a factor of {classic:.3g}, the balanced loss one of"
            f" {balanced:.3g}."
        )
    notes.append(measured_with(network, AST_LAYERS[network.depth], pairs))
    return StudyResult(rows, notes, {"": _figure(totals, shown)}, {"pairs": _pairs(losses, pairs.files)})


def spread(values: Tensor) -> float:
    """Computes the ratio of the 95th percentile to the 5th."""
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=values.dtype)).tolist()
    return high / low if low else float("inf")


def _row(label: str, quantity: str, values: Tensor) -> Row:
    smallest, low, median, high, largest = torch.quantile(values, torch.tensor(SHARES, dtype=values.dtype)).tolist()
    centered = values - values.mean()
    variance = centered.square().mean()
    return {
        "model": label,
        "loss": quantity,
        "mean": values.mean().item(),
        "smallest": smallest,
        "5 %": low,
        "median": median,
        "95 %": high,
        "largest": largest,
        "95 % / 5 %": high / low if low else None,
        "largest / smallest": largest / smallest if smallest else None,
        "skewness": (centered.pow(3).mean() / variance.pow(1.5)).item() if variance > 0 else None,
        SPREAD: 1000 if quantity == "classic" and not label.startswith("(") else None,
    }


def _pairs(losses: AstLosses, files: Any) -> list[Row]:
    return [
        {
            "model": label,
            "photo": files[index][0].name,
            "painting": files[index][1].name,
            **{quantity: values[index].item() for quantity, values in losses.totals(label).items()},
            "SSIM with the photo": losses.similarity[label][index].item(),
            **{f"classic {n}": losses.classic[label][index, i].item() for i, n in enumerate(losses.layers)},
            **{f"supremum {n}": losses.supremum[label][index, i].item() for i, n in enumerate(losses.layers)},
        }
        for label in losses.classic
        for index in range(len(files))
    ]


def _figure(totals: Mapping[str, Mapping[str, Tensor]], shown: list[str]) -> Any:
    figure = new_figure(10, 2.6 * len(shown))
    axes = figure.subplots(len(shown), 2, squeeze=False, sharex="col")
    for (left, right), label in zip(axes, shown, strict=True):
        left.hist(totals[label]["classic"].clamp_min(1e-12).log10().tolist(), bins=30, color="C0")
        right.hist(totals[label]["balanced"].tolist(), bins=30, color="C1")
        left.set_ylabel(f"{label}\npairs")
    axes[-1][0].set_xlabel("classic loss, log10")
    axes[-1][1].set_xlabel("balanced loss")
    return figure
