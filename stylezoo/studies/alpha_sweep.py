"""The strength of the style: alpha from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from stylezoo.module import StyleModel
from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.material import ContentStyleLosses, image_columns, stylized
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, by_model, numbers, verdict


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether both losses go in one direction, for AdaIN's models, whose claim it is."""
    monotone = {}
    for name, steps in by_model(rows).items():
        losses = numbers(steps, "content", "style")
        monotone[name] = all(b[0] >= a[0] and b[1] <= a[1] for a, b in pairwise(losses))
    own = [name for name in monotone if name.startswith("adain")]
    reason = f"so it is for {sum(monotone.values())} of {len(monotone)} models"
    if not own:
        return Verdict("cannot be said", f"no model of AdaIN was measured; {reason}")
    return verdict(all(monotone[name] for name in own), reason)


@study(
    "alpha_sweep",
    source="AdaIN, section 7.3 (content-style trade-off) and figure 7",
    paper="https://arxiv.org/abs/1703.06868",
    claim="Alpha trades content for style gradually: with each step the style loss falls and the content loss rises.",
    judge=judge,
)
def alpha_sweep(
    *,
    setup: PairSetup = PairSetup(systems=("multi_level_adain",), images=4),
    alphas: int = 6,
) -> StudyResult:
    """Alpha trades content for style: both losses and the images from alpha 0 to 1.

    Every photo is stylized with a painting of its own at evenly spaced alphas. Content loss: mean squared difference of
    relu4_1 features to those of the photo; style loss: that of means and standard deviations at relu1_1 to relu4_1 to
    those of the painting. One encoder measures all models, by default the first model's own. Without models, multi-level
    AdaIN is trained, which needs the fewest steps.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
        alphas: Number of values of alpha.
    """
    networks = setup.networks()
    contents, styles = setup.first_pairs()
    losses = ContentStyleLosses(setup.measuring(networks))
    values = [index / (alphas - 1) for index in range(alphas)]
    rows: list[Row] = []
    sheets = {}
    for number, (label, model) in enumerate(networks.items()):
        of_model, outputs = _sweep(label, model, values, losses, contents, styles)
        rows += of_model
        sheets["images" + (f"_{number + 1}" if number else "")] = image_columns(contents, *outputs, styles)
    content, style = (losses.features(images) for images in (contents, styles))
    baseline = losses(content, content, style)
    rows.append({"model": "(the photo itself)", "alpha": None, "content": baseline[0], "style": baseline[1]})
    notes = [setup.origin, *(_note(rows, label, baseline[1]) for label in networks)]
    notes.append(
        f"{len(contents)} pairs, {setup.size} x {setup.size} pixels, measured with {losses.network.name}. Images: photo, "
        f"alpha {', '.join(f'{v:.2g}' for v in values)}, painting."
    )
    return StudyResult(rows, notes, {"": _figure(rows, list(networks), baseline[1]), **sheets})


def _sweep(
    label: str,
    model: StyleModel,
    alphas: Sequence[float],
    losses: ContentStyleLosses,
    contents: Tensor,
    styles: Tensor,
) -> tuple[list[Row], list[Tensor]]:
    """Returns a row and the outputs (N, 3, H, W) per alpha."""
    content, style = losses.features(contents), losses.features(styles)
    outputs = [stylized(model, contents, styles, alpha) for alpha in alphas]
    rows: list[Row] = []
    for alpha, output in zip(alphas, outputs, strict=True):
        content_loss, style_loss = losses(losses.features(output), content, style)
        rows.append({"model": label, "alpha": alpha, "content": content_loss, "style": style_loss})
    return rows, outputs


def _note(rows: Sequence[Row], label: str, photo_style: float) -> str:
    first, last = (row for row in rows if row["model"] == label and row["alpha"] in (0.0, 1.0))
    return (
        f"{label}: from alpha 0 to 1 the content loss goes from {first['content']:.3g} to {last['content']:.3g} and"
        f" the style loss from {first['style']:.3g} to {last['style']:.3g}; the photos themselves are at"
        f" {photo_style:.3g}. {_monotonous(rows, label)}"
    )


def _monotonous(rows: Sequence[Row], label: str) -> str:
    style = torch.tensor([float(row["style"] or 0) for row in rows if row["model"] == label])
    content = torch.tensor([float(row["content"] or 0) for row in rows if row["model"] == label])
    if bool((style.diff() <= 0).all() and (content.diff() >= 0).all()):
        return "Both losses change monotonically with alpha."
    return "Not both losses change monotonically with alpha."


def _figure(rows: Sequence[Row], labels: Sequence[str], photo_style: float) -> Any:
    figure = new_figure(11, 3.8)
    against_alpha, against_each_other = figure.subplots(1, 2)
    other = against_alpha.twinx()
    for number, label in enumerate(labels):
        chosen = [row for row in rows if row["model"] == label]
        alpha, content, style = ([float(row[key] or 0) for row in chosen] for key in ("alpha", "content", "style"))
        color = f"C{number}"
        against_alpha.plot(alpha, style, "o-", color=color, label=f"{label}, style")
        other.plot(alpha, content, "s--", color=color, label=f"{label}, content")
        against_each_other.plot(content, style, "o-", color=color, label=label)
        for a, x, y in zip(alpha, content, style, strict=True):
            against_each_other.annotate(f"{a:.2g}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7)
    against_alpha.axhline(photo_style, color="gray", linestyle=":", label="photo itself, style")
    against_alpha.set_xlabel("alpha")
    against_alpha.set_ylabel("style loss (solid)")
    other.set_ylabel("content loss (dashed)")
    against_alpha.set_ylim(bottom=0)
    other.set_ylim(bottom=0)
    against_alpha.legend(fontsize=8)
    against_each_other.set_xlabel("content loss")
    against_each_other.set_ylabel("style loss")
    against_each_other.set_title("alpha beside each point", fontsize=9)
    against_each_other.legend(fontsize=8)
    return figure
