"""The flicker of models, and what training with CCPL does to it."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stylezoo.errors import StylezooError
from stylezoo.metrics.temporal import MOTIONS, Stylizer, warp_error
from stylezoo.module import StyleCode, StyleModel
from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.material import ContentStyleLosses, device, image_columns, stylized
from stylezoo.studies.pairs import IDENTITY
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, most
from stylezoo.training import Training

GIVEN, OWN, CCPL = "as given", "own losses", "with CCPL"
"""The trainings that are compared."""

Measures = Mapping[tuple[str, str], Mapping[str, float]]
"""Quantities by model and training."""


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the warp error of most models falls."""
    errors = {(row["model"], row["training"]): float(row["warp error"] or 0) for row in rows}
    better = [errors[name, CCPL] < error for (name, training), error in errors.items() if training == OWN]
    return most(better, "models have a smaller warp error with CCPL than without")


@study(
    "temporal",
    source="CCPL (Wu et al. 2022), temporal consistency",
    paper="https://arxiv.org/abs/2207.04808",
    claim="Training with CCPL makes outputs flicker less.",
    judge=judge,
)
def temporal(*, setup: PairSetup = PairSetup(images=8, steps=200), ccpl_weight: float = 5.0) -> StudyResult:
    """The flicker of every model, and whether it falls when a model is trained further with CCPL.

    Each model goes on for the same steps on the same batches twice: with the losses of its system, and with CCPL besides these.
    Flicker is the error between the output of a moved image and the moved output of the image (`stylezoo.metrics.warp_error`),
    for four known motions, which needs no optical flow; the paper warps frames of videos by a flow. The content unchanged does
    not flicker, and a network flickers less, too, if it stylizes less: style and content loss are therefore in the table.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
        ccpl_weight: Weight of CCPL; 5 in the paper's code.
    """
    contents, styles = setup.first_pairs()
    given = setup.networks() if setup.models else {name: setup.untrained(name) for name in setup.systems}
    losses = ContentStyleLosses(setup.measuring(given))
    found = {(IDENTITY, ""): _measured(None, contents, styles, losses)}
    sheets: dict[str, Any] = {}
    notes = [setup.origin]
    for number, (label, model) in enumerate(given.items()):
        networks = {GIVEN: model} if setup.models else {}
        try:
            networks |= {OWN: _trained(setup, model, 0.0), CCPL: _trained(setup, model, ccpl_weight)}
        except StylezooError as error:  # the network of its losses is not on this machine
            notes.append(f"{label} could not be trained further: {error}")
        for training, network in networks.items():
            found[label, training] = _measured(network, contents, styles, losses)
        outputs = (stylized(network, contents[:4], styles[:4]) for network in networks.values())
        sheets["images" + (f"_{number + 1}" if number else "")] = image_columns(contents[:4], styles[:4], *outputs)
    notes += [
        *_findings(found),
        f"{len(contents)} pairs, {setup.size} x {setup.size} pixels, {setup.steps} steps of training.",
    ]
    rows: list[Row] = [{"model": label, "training": training, **row} for (label, training), row in found.items()]
    return StudyResult(rows, notes, {"": _figure(found), **sheets})


def _trained(setup: PairSetup, model: StyleModel, ccpl_weight: float) -> StyleModel:
    """Returns a copy of a model that is trained further."""
    training = Training(ccpl_weight=ccpl_weight, loss_encoder=setup.encoder, loss_encoder_weights=setup.encoder_weights)
    student = copy.deepcopy(model)
    student.lr, student.lr_decay = setup.lr, 0.0
    print(f"{model.system}, CCPL {ccpl_weight:g}: {setup.steps} steps")
    return setup.material.fit(student, setup.steps, [training])


@torch.inference_mode()
def _measured(
    model: StyleModel | None, contents: Tensor, styles: Tensor, losses: ContentStyleLosses
) -> dict[str, float]:
    """Returns the mean flicker, by motion and over all, and losses of a model; None is the content unchanged."""
    errors, terms = [], []
    for content, style in zip(contents.to(device())[:, None], styles.to(device())[:, None], strict=True):
        stylize: Stylizer = nn.Identity() if model is None else partial(_stylize, model, model.encode_style(style))
        errors.append([float(warp_error(stylize, content, [motion])) for motion in MOTIONS])
        terms.append(losses(*(losses.features(image) for image in (stylize(content), content, style))))
    by_motion = [statistics.fmean(column) for column in zip(*errors, strict=True)]
    content_loss, style_loss = (statistics.fmean(column) for column in zip(*terms, strict=True))
    total = {"warp error": statistics.fmean(by_motion)}
    return total | dict(zip(MOTIONS, by_motion, strict=True)) | {"content": content_loss, "style": style_loss}


def _stylize(model: StyleModel, code: StyleCode, content: Tensor) -> Tensor:
    return model.decode(content, code).clamp(0, 1)


def _findings(found: Measures) -> list[str]:
    """Returns a sentence on the effect of CCPL in each model, and one on all of them."""
    notes, ratios = [], []
    for label in (label for label, training in found if training == CCPL):
        without, with_ccpl = found[label, OWN], found[label, CCPL]
        ratio = {quantity: with_ccpl[quantity] / without[quantity] for quantity in without}
        ratios.append(ratio["warp error"])
        notes.append(
            f"{label}: with CCPL the warp error is {ratio['warp error']:.3f} times that without, the style loss"
            f" {ratio['style']:.2f} times, the content loss {ratio['content']:.2f} times."
        )
    if ratios:
        notes.append(
            f"The warp error of {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} models is lower with CCPL; the median"
            f" of the ratios is {statistics.median(ratios):.3f}."
        )
    return notes


def _figure(found: Measures) -> Any:
    figure = new_figure(8, 3.6)
    axis = figure.subplots()
    labels = list(dict.fromkeys(label for label, training in found if training))
    for place, training in enumerate((GIVEN, OWN, CCPL)):
        bars = [(index, found[label, training]) for index, label in enumerate(labels) if (label, training) in found]
        x = [index + (place - 1) * 0.28 for index, _ in bars]
        axis.bar(x, [row["warp error"] for _, row in bars], 0.26, label=training)
    axis.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axis.set_ylabel("warp error")
    axis.legend(fontsize=8)
    return figure
