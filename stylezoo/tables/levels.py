"""One level of features, three, or attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from stylezoo.images import grid
from stylezoo.tables.base import Result, Row, new_figure, table
from stylezoo.tables.material import Judge, Material, painted, trained_briefly
from stylezoo.vgg import VGG


@table(
    "levels",
    source="Revisiting and Refining AdaIN (Gao 2023), README.md, multi-level style transfer and attention",
    paper="https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN",
)
def levels(
    *,
    content: str | None = None,
    style: str | None = None,
    models: tuple[str, ...] = (),
    systems: tuple[str, ...] = ("adain", "multi_level_adain", "multi_level_attention", "sanet"),
    steps: int = 400,
    size: int = 160,
    crop: int = 64,
    batch_size: int = 4,
    pictures: int = 12,
    lr: float = 1e-3,
    encoder: str = "vgg19_random/4",
    encoder_weights: str | None = None,
    seed: int = 0,
) -> Result:
    """AdaIN at one level, at three, and attention: which keeps the content, which takes the style.

    All systems are trained on the same batches with the same encoder, number of steps, learning rate and style
    statistic; the weights and targets of their losses are their own. They are measured on held-out pairs with one
    network: content loss (normalised relu4_1 features, so that colour and contrast may change), style loss (means and
    standard deviations at relu1_1 to relu4_1) and SSIM of output and photo in grey.

    Args:
        content: Folder of photos.
        style: Folder of paintings.
        models: Models for any style picture.
        systems: What is trained if there are none.
        steps: Optimiser steps.
        size: Side of the painted pictures.
        crop: Side of training crops.
        batch_size: Pairs per step.
        pictures: Held-out pairs; the figure shows six.
        lr: Learning rate.
        encoder: Of the trained models, and what all are measured with.
        encoder_weights: A file for it.
        seed: Of training.
    """
    material = Material(content, style, crop, batch_size, seed)
    networks = material.arbitrary(models, systems, steps, encoder, encoder_weights, lr)
    contents = material.photos(pictures, size, held_out=not models)
    styles = material.paintings(pictures, size, held_out=not models)
    count = min(len(contents), len(styles))
    contents, styles = contents[:count], styles[:count]
    judge = Judge(VGG(encoder, encoder_weights, last="relu4_1"), normalised=True)
    rows: list[Row] = [_row("(the photo itself)", None, judge, contents, contents, styles)]
    columns = [contents, styles]
    for label, model in networks.items():
        outputs = painted(model, contents, styles)
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(_row(label, parameters, judge, outputs, contents, styles))
        columns.append(outputs)
    sheet = grid([list(row) for row in zip(*(column[:6] for column in columns), strict=True)])
    notes = [trained_briefly(models, steps, encoder), _findings(rows[1:])]
    notes.append(
        f"{count} pairs, {size} x {size} pixels, measured with {encoder}. Pictures: photo, painting, {', '.join(networks)}."
    )
    return Result(rows, notes, {"": _figure(rows), "pictures": sheet})


def _row(label: str, parameters: int | None, judge: Judge, outputs: Tensor, contents: Tensor, styles: Tensor) -> Row:
    content_loss, style_loss = judge(*map(judge.features, (outputs, contents, styles)))
    grey_output, grey_content = (pictures.mean(1, keepdim=True) for pictures in (outputs, contents))
    ssim = structural_similarity_index_measure(grey_output, grey_content, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {
        "model": label,
        "trained parameters": parameters,
        "content": content_loss,
        "style": style_loss,
        "SSIM": ssim.item(),
    }


def _findings(rows: Sequence[Row]) -> str:
    def order(column: str, best_first: bool) -> str:
        ordered = sorted(rows, key=lambda row: float(row[column] or 0.0), reverse=not best_first)
        return ", ".join(f"{row['model']} ({row[column]:.3g})" for row in ordered)

    return (
        f"Content kept, best first: {order('content', True)}; by SSIM: {order('SSIM', False)}. Style taken, best first:"
        f" {order('style', True)}. More of one usually costs some of the other: compare the two together."
    )


def _figure(rows: Sequence[Row]) -> Any:
    figure = new_figure(11, 3.8)
    left, right = figure.subplots(1, 2)
    for number, row in enumerate(rows):
        x, y, ssim = (float(row[key] or 0.0) for key in ("content", "style", "SSIM"))
        label = str(row["model"])
        colour = "grey" if number == 0 else f"C{number - 1}"
        left.scatter([x], [y], color=colour, label=label)
        right.barh([label], [ssim], color=colour)
        right.text(ssim, number, f" {ssim:.2f}", va="center", fontsize=8)
    left.set_xlabel("content loss")
    left.set_ylabel("style loss")
    left.set_xlim(left=-0.02)
    left.set_ylim(bottom=0)
    left.legend(fontsize=8)
    right.set_xlabel("SSIM with the photo")
    right.set_xlim(0, 1.1)
    right.invert_yaxis()
    return figure
