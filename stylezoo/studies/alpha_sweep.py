"""The strength of the style: alpha from 0 to 1."""

from __future__ import annotations

from typing import Any

import torch

from stylezoo.images import grid
from stylezoo.studies.base import Result, Row, new_figure, study
from stylezoo.studies.material import Judge, Material, painted, trained_briefly


@study(
    "alpha_sweep",
    source="AdaIN, section 7.3 (content-style trade-off) and figure 7",
    paper="https://arxiv.org/abs/1703.06868",
)
def alpha_sweep(
    *,
    content: str | None = None,
    style: str | None = None,
    models: tuple[str, ...] = (),
    system: str = "multi_level_adain",
    steps: int = 400,
    size: int = 160,
    crop: int = 64,
    batch_size: int = 4,
    pictures: int = 4,
    alphas: int = 6,
    lr: float = 1e-3,
    encoder: str = "vgg19_random/4",
    encoder_weights: str | None = None,
    seed: int = 0,
) -> Result:
    """Alpha trades content for style: both losses and the images from alpha 0 to 1.

    Every photo is painted with a painting of its own at evenly spaced alphas. Content loss: mean squared difference of
    relu4_1 features to the photo's; style loss: that of means and standard deviations at relu1_1 to relu4_1 to the
    painting's; both by the first model's own encoder, for all models.

    Args:
        content: Folder of photos.
        style: Folder of paintings.
        models: Models for any style image.
        system: What is trained if there are none; multi-level AdaIN gets furthest in few steps.
        steps: Optimizer steps.
        size: Side of the painted images.
        crop: Side of training crops.
        batch_size: Pairs per step.
        pictures: Photos, each with another painting.
        alphas: How many values of alpha.
        lr: Learning rate.
        encoder: Of the trained model.
        encoder_weights: A file for it.
        seed: Of training.
    """
    if alphas < 2:
        raise ValueError(f"alphas is a number of values from 0 to 1, at least 2, not {alphas}.")
    material = Material(content, style, crop, batch_size, seed)
    networks = material.arbitrary(models, [system], steps, encoder, encoder_weights, lr)
    contents = material.photos(pictures, size, held_out=not models)
    styles = material.paintings(pictures, size, held_out=not models)
    count = min(len(contents), len(styles))
    contents, styles = contents[:count], styles[:count]
    judge = Judge(next(iter(networks.values())))
    content_features, style_features = judge.features(contents), judge.features(styles)
    values = [index / (alphas - 1) for index in range(alphas)]
    rows: list[Row] = []
    sheets = {}
    for number, (label, model) in enumerate(networks.items()):
        outputs = [painted(model, contents, styles, alpha) for alpha in values]
        for alpha, output in zip(values, outputs, strict=True):
            content_loss, style_loss = judge(judge.features(output), content_features, style_features)
            rows.append({"model": label, "alpha": alpha, "content": content_loss, "style": style_loss})
        columns = [contents, *outputs, styles]
        sheets["pictures" + (f"_{number + 1}" if number else "")] = grid([list(r) for r in zip(*columns, strict=True)])
    floor = judge(content_features, content_features, style_features)
    rows.append({"model": "(the photo itself)", "alpha": None, "content": floor[0], "style": floor[1]})
    notes = [trained_briefly(models, steps, encoder)]
    for label in networks:
        first, last = (row for row in rows if row["model"] == label and row["alpha"] in (0.0, 1.0))
        notes.append(
            f"{label}: from alpha 0 to 1 the content loss goes from {first['content']:.3g} to {last['content']:.3g} and"
            f" the style loss from {first['style']:.3g} to {last['style']:.3g}; the photos themselves are at"
            f" {floor[1]:.3g}. {_monotonous(rows, label)}"
        )
    notes.append(
        f"{count} pairs, {size} x {size} pixels, measured with {judge.network.name}. Images: photo, "
        f"alpha {', '.join(f'{v:.2g}' for v in values)}, painting."
    )
    return Result(rows, notes, {"": _figure(rows, list(networks), floor[1]), **sheets})


def _monotonous(rows: list[Row], label: str) -> str:
    style = torch.tensor([float(row["style"] or 0) for row in rows if row["model"] == label])
    content = torch.tensor([float(row["content"] or 0) for row in rows if row["model"] == label])
    if bool((style.diff() <= 0).all() and (content.diff() >= 0).all()):
        return "Every step of alpha moves both in one direction."
    return "Not every step of alpha moves both in one direction."


def _figure(rows: list[Row], labels: list[str], floor: float) -> Any:
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
    against_alpha.axhline(floor, color="gray", linestyle=":", label="photo itself, style")
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
