"""The balanced loss, which is the share of the largest possible style loss: three systems with three trainings each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.metrics import AST_LAYERS, classic_style_loss, ssim, style_supremum
from stylezoo.module import StyleModel
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.material import device
from stylezoo.studies.pairs import IDENTITY, ImagePairs, measured_with, outputs, present
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, order_of, same_order
from stylezoo.vgg import VGG

OWN, CLASSIC, BALANCED = "own loss", "classic loss", "balanced loss"

SYSTEM_AND_TRAINING = ("system", "trained with")
"""Columns that tell apart what has a published number."""

# Cheng et al. 2021 as quoted by the re-run's report (Neroxn/ceng501-final-project README.md, table 3.1), and that re-run.
PAPER: dict[tuple[str, str], dict[str, float]] = {
    ("adain", OWN): {"balanced": 0.33, "classic": 7.05e8},
    ("adain", CLASSIC): {"balanced": 0.43, "classic": 6.62e8},
    ("adain", BALANCED): {"balanced": 0.31, "classic": 6.58e8},
    ("sanet", OWN): {"balanced": 0.28, "classic": 5e8},
    ("sanet", CLASSIC): {"balanced": 0.41, "classic": 5.25e8},
    ("sanet", BALANCED): {"balanced": 0.21, "classic": 4.03e8},
    ("linear_transfer", OWN): {"balanced": 0.33, "classic": 6.11e8},
    ("linear_transfer", CLASSIC): {"balanced": 0.47, "classic": 6.78e8},
    ("linear_transfer", BALANCED): {"balanced": 0.25, "classic": 4.27e8},
}
RERUN: dict[tuple[str, str], dict[str, float]] = {
    ("adain", OWN): {"balanced": 0.17, "classic": 1.8e9},
    ("adain", CLASSIC): {"balanced": 0.56, "classic": 6.32e9},
    ("adain", BALANCED): {"balanced": 0.16, "classic": 1.5e9},
    ("sanet", OWN): {"balanced": 0.48, "classic": 1.4e9},
    ("sanet", CLASSIC): {"balanced": 2.80, "classic": 2.9e10},
    ("sanet", BALANCED): {"balanced": 0.60, "classic": 2.1e9},
    ("linear_transfer", OWN): {"balanced": 0.21, "classic": 1.2e9},
    ("linear_transfer", CLASSIC): {"balanced": 2.0, "classic": 3.2e9},
    ("linear_transfer", BALANCED): {"balanced": 0.19, "classic": 1.0e9},
}
QUANTITIES = ("balanced", "classic")


@dataclass(frozen=True)
class AstLosses:
    """Style losses of Cheng et al. for every pair and layer, {model: (pairs, layers)}, float64.

    Attributes:
        layers: Names of the layers.
        classic: `stylezoo.metrics.classic_style_loss`.
        supremum: `stylezoo.metrics.style_supremum`.
        similarity: SSIM of output and content, {model: (pairs,)}: 1 if the output is the content.
    """

    layers: list[str]
    classic: Mapping[str, Tensor]
    supremum: Mapping[str, Tensor]
    similarity: Mapping[str, Tensor]

    def balanced(self, model: str) -> Tensor:
        """Returns the quotient of classic loss and supremum, (pairs, layers) in [0, 1]."""
        supremum = self.supremum[model]
        return self.classic[model] / supremum.clamp_min(torch.finfo(supremum.dtype).tiny)

    def totals(self, model: str) -> dict[str, Tensor]:
        """Returns the sums over the layers, {quantity: (pairs,)}."""
        return {"balanced": self.balanced(model).sum(1), "classic": self.classic[model].sum(1)}


@torch.inference_mode()
def ast_losses(networks: Mapping[str, StyleModel], pairs: ImagePairs, network: VGG) -> AstLosses:
    """Measures models and both baselines on pairs.

    Args:
        networks: {label: model for any style image}.
        pairs: The pairs of content and style.
        network: The network that measures, at those layers of `AST_LAYERS` that it has.

    Raises:
        StylezooError: If a balanced loss is not between 0 and 1.
    """
    layers = present(network, AST_LAYERS[network.depth])
    found: dict[str, dict[str, list[Tensor]]] = {"classic": {}, "supremum": {}, "similarity": {}}
    for content, style in pairs:
        target = network(style.to(device()), layers)
        for label, output in outputs(networks, content, style).items():
            features = network(output.to(device()), layers)
            values = {
                "classic": torch.cat([classic_style_loss(features[n], target[n]) for n in layers]),
                "supremum": torch.cat([style_supremum(features[n], target[n]) for n in layers]),
                "similarity": ssim(output, content)[0],
            }
            for name, value in values.items():
                found[name].setdefault(label, []).append(value.double().cpu())
    losses = AstLosses(layers, **{n: {k: torch.stack(v) for k, v in by.items()} for n, by in found.items()})
    for label in losses.classic:
        balanced = losses.balanced(label)
        if not bool(((balanced >= 0) & (balanced <= 1)).all()):
            raise StylezooError(
                f"The balanced loss of {label} lies between {balanced.min():.4g} and {balanced.max():.4g}, not in [0, 1]:"
                " its images are not finite, or the features that it is measured with are negative."
            )
    return losses


class Measured(NamedTuple):
    """Models, the network that measures them, the pairs, and the losses."""

    networks: dict[str, StyleModel]
    network: VGG
    pairs: ImagePairs
    losses: AstLosses


@lru_cache(maxsize=1)  # four studies evaluate the same pairs: one process stylizes them once
def measured(setup: PairSetup, twice: bool = False) -> Measured:
    """Stylizes pairs with all models and measures the outputs.

    Args:
        setup: The models and pairs.
        twice: Whether every system is trained twice, with its own loss and with the balanced one.
    """
    pairs = setup.random_pairs()  # an empty set is reported before the training
    networks = _trained_twice(setup) if twice else setup.networks()
    network = setup.measuring(networks)
    return Measured(networks, network, pairs, ast_losses(networks, pairs, network))


def _trained_twice(setup: PairSetup) -> dict[str, StyleModel]:
    networks = {}
    for system in setup.systems:
        for suffix, loss in (("", "mean_std"), (", balanced", "balanced_gram")):
            print(f"{system}{suffix}: {setup.steps} steps")
            networks[system + suffix] = setup.train(system, style_loss=loss)
    return networks


def trained_with(model: StyleModel) -> str:
    """Returns which of the table's trainings a model had: the system's own style loss, a Gram loss, or the balanced loss."""
    loss = str(model.hparams.get("style_loss"))
    parameter = inspect.signature(type(model)).parameters.get("style_loss")
    if parameter is None or loss == parameter.default:
        return OWN
    return next((name for start, name in (("balanced", BALANCED), ("gram", CLASSIC)) if loss.startswith(start)), loss)


@study(
    "balanced_loss",
    source="Cheng et al. 2021 and its re-run, Neroxn/ceng501-final-project, table 3.1",
    paper="https://arxiv.org/abs/2104.10064",
    claim="Of AdaIN, linear transfer, SANet and others, the balanced loss has this order.",
    judge=same_order("balanced", "paper: balanced (found)", SYSTEM_AND_TRAINING),
)
def balanced_loss(*, setup: PairSetup = PairSetup()) -> StudyResult:
    """Balanced and classic style loss of every model on random pairs, beside the paper's and a re-run's.

    Classic: mean squared difference of raw Gram matrices, summed over layers. Balanced: the loss of each layer is divided
    by its supremum, the largest possible difference of two such matrices, so that it lies between 0 and 1 per layer.
    Layers: relu1_2, relu2_2, relu3_3 and relu4_3 of a VGG-16 as in the paper, relu1_1 to relu4_1 of a VGG-19 as in the
    re-run. Classic losses depend on the network by orders of magnitude, balanced losses only a little. Protocol: 2000
    random pairs of 256 x 256 pixels. Without models every system is trained twice, with its own loss and with the
    balanced one.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
    """
    networks, network, pairs, losses = measured(setup) if setup.models else measured(setup, twice=True)
    rows = _rows(losses, networks)
    notes = [setup.origin, *_findings(rows, losses)]
    if network.flavor == "normalised" and len(losses.layers) == 4:  # with what the re-run measured
        notes.append(_beyond_identity(losses.totals(IDENTITY)["balanced"].mean().item()))
    notes.append(
        f"{measured_with(network, AST_LAYERS[network.depth], pairs)} {_comparable(network)} The re-run's training with the"
        " classic loss divided Gram matrices by C H W."
    )
    details = {"layers": _layers(losses), "ratios": _ratios(rows)}
    return StudyResult(rows, notes, {"": _figure(rows, losses)}, details)


def _rows(losses: AstLosses, networks: Mapping[str, StyleModel]) -> list[Row]:
    """Returns our rows, then the published ones of models that are not among ours."""
    rows: list[Row] = []
    for label in losses.classic:
        model = networks.get(label)
        place = ("", "") if model is None else (model.system, trained_with(model))
        rows.append(_row(label, place, losses.totals(label)))
    ours = {(row["system"], row["trained with"]) for row in rows}
    return rows + [_row("", place, {}) for place in PAPER if place not in ours]


def _row(label: str, place: tuple[str, str], totals: Mapping[str, Tensor]) -> Row:
    row: Row = {"model": label, "system": place[0], "trained with": place[1]}
    for quantity in QUANTITIES:
        values = totals.get(quantity)
        row[quantity] = None if values is None else values.mean().item()
        several = values is not None and len(values) > 1
        row[f"{quantity}, standard error"] = (values.std() / len(values) ** 0.5).item() if several else None  # type: ignore
    for by, numbers in (("paper", PAPER), ("re-run", RERUN)):
        row |= {published(quantity, "found", by): numbers.get(place, {}).get(quantity) for quantity in QUANTITIES}
    return row


def _layers(losses: AstLosses) -> list[Row]:
    return [
        {
            "model": label,
            "layer": layer,
            "classic": losses.classic[label][:, number].mean().item(),
            "supremum": losses.supremum[label][:, number].mean().item(),
            "balanced": balanced[:, number].mean().item(),
            "smallest balanced": balanced[:, number].min().item(),
            "largest balanced": balanced[:, number].max().item(),
        }
        for label in losses.classic
        for balanced in [losses.balanced(label)]
        for number, layer in enumerate(losses.layers)
    ]


def _ratios(rows: list[Row]) -> list[Row]:
    """Returns all losses divided by those of AdaIN with its own loss, column by column."""
    places = [(row["system"], row["trained with"]) for row in rows]
    reference = rows[places.index(("adain", OWN))]  # published, so that there is one even if no model of ours is
    columns = [c for c in reference if c not in ("model", "system", "trained with") and "error" not in c]
    return [
        {
            **{c: row[c] for c in ("model", "system", "trained with")},
            **{c: _quotient(row[c], reference[c]) for c in columns},
        }
        for row in rows
    ]


def _quotient(value: Any, reference: Any) -> float | None:
    return None if value is None or not reference else float(value) / float(reference)


def _findings(rows: list[Row], losses: AstLosses) -> list[str]:
    every = torch.cat([losses.balanced(label).flatten() for label in losses.classic])
    bound = f"Per layer the balanced loss lies between {every.min():.3g} and {every.max():.3g}: the bound 0 to 1 holds."
    sentences = []
    for quantity in QUANTITIES:
        names = [published(quantity, "found", by) for by in ("paper", "re-run")]
        for ours, theirs in ((quantity, names[0]), (quantity, names[1]), (names[1], names[0])):
            sentences.append(f"{ours} with {theirs}: {order_of(rows, ours, theirs, SYSTEM_AND_TRAINING)}")
    ratios = [
        f"{row['system']}, {row['trained with']}: "
        + " / ".join(
            "-" if row[c] is None else f"{row[c]:.2f}"
            for c in ("balanced", published("balanced", "found"), published("balanced", "found", "re-run"))
        )
        for row in _ratios(rows)
        if row["system"] and (row["model"] == "" or row["balanced"] is not None)
    ]
    return [
        bound,
        f"Order of the systems that both sides have: {'; '.join(sentences)}.",
        f"Balanced loss over AdaIN's, ours / paper / re-run: {'; '.join(ratios)}.",
    ]


def _comparable(network: VGG) -> str:
    published_by = "the paper's" if network.depth == 16 else "the re-run's"
    sentence = f"Classic losses compare with {published_by} at best, and only at 256 x 256 pixels."
    if network.flavor == "caffe":
        sentence += " Fed 0 to 255, caffe's features are some 57 times torchvision's, and classic losses 57^4 times."
    return sentence


def _beyond_identity(unchanged: float) -> str:
    """Compares the re-run's largest numbers, of the same layers, with the identity baseline."""
    worse = [
        f"{system}, {training}: {v['balanced']}" for (system, training), v in RERUN.items() if v["balanced"] > unchanged
    ]
    return (
        f"The unchanged photos have {unchanged:.3g}. Of the re-run's models, measured with the same network, these are"
        f" no closer to the styles: {'; '.join(worse) or 'none'}."
    )


def _figure(rows: list[Row], losses: AstLosses) -> Any:
    measured = [row for row in rows if row["model"]]
    figure = new_figure(12, 2.2 + 0.35 * max(len(measured), len(PAPER)))
    left, right = figure.subplots(1, 2)
    start = torch.zeros(len(measured), dtype=torch.float64)
    labels = [str(row["model"]) for row in measured]
    means = torch.stack([losses.balanced(label).mean(0) for label in labels])  # (models, layers)
    for number, layer in enumerate(losses.layers):
        left.barh(labels, means[:, number].tolist(), left=start.tolist(), label=layer)
        start += means[:, number]
    for by, marker in (("paper", "x"), ("re-run", "+")):
        points = [(row[published("balanced", "found", by)], row["model"]) for row in measured]
        points = [(x, y) for x, y in points if x is not None]
        if points:
            left.scatter(*zip(*points, strict=True), marker=marker, color="black", zorder=3, label=by)
    left.set_xlabel("balanced loss, summed over layers")
    left.invert_yaxis()
    left.legend(fontsize=8)
    ratios = [row for row in _ratios(rows) if row["system"]]
    names = [f"{row['system']}, {row['trained with']}" for row in ratios]
    series = {"ours": "balanced"} | {by: published("balanced", "found", by) for by in ("paper", "re-run")}
    for (label, column), marker in zip(series.items(), "ox+", strict=True):
        points = [(row[column], name) for row, name in zip(ratios, names, strict=True) if row[column] is not None]
        if points:
            right.scatter(*zip(*points, strict=True), marker=marker, label=label)
    right.set_xscale("log")
    right.set_xlabel("balanced loss over that of AdaIN with its own loss")
    right.axvline(1, color="gray", linewidth=0.8)
    right.invert_yaxis()
    right.legend(fontsize=8)
    return figure
