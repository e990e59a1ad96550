"""One level of features, three, or attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from stylezoo.images import grid
from stylezoo.studies.base import Result, Row, new_figure, study
from stylezoo.studies.material import Judge, painted
from stylezoo.studies.pairs import OnPairs, present


@study(
    "levels",
    source="Revisiting and Refining AdaIN (Gao 2023), README.md, multi-level style transfer and attention",
    paper="https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN",
)
def levels(
    *,
    on: OnPairs = OnPairs(systems=("adain", "multi_level_adain", "multi_level_attention", "sanet"), pictures=12),
) -> Result:
    """AdaIN at one level, at three, and attention: which keeps the content, which takes the style.

    All systems are trained on the same batches with the same encoder, number of steps, learning rate and style
    statistic; the weights and targets of their losses are their own. They are measured on held-out pairs with one
    network: content loss (normalized relu4_1 features, so that color and contrast may change), style loss (means and
    standard deviations at relu1_1 to relu4_1) and SSIM of output and photo in gray.

    Args:
        on: What is painted, see `stylezoo.studies.pairs.OnPairs`; the figure shows six pairs.
    """
    networks = on.networks()
    network = on.measuring(networks)
    present(network, ["relu4_1"])
    contents, styles = on.first_pairs()
    judge = Judge(network, normalized=True)
    rows: list[Row] = [_row("(the photo itself)", None, judge, contents, contents, styles)]
    columns = [contents, styles]
    for label, model in networks.items():
        outputs = painted(model, contents, styles)
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(_row(label, parameters, judge, outputs, contents, styles))
        columns.append(outputs)
    sheet = grid([list(row) for row in zip(*(column[:6] for column in columns), strict=True)])
    notes = [on.origin, _findings(rows[1:])]
    notes.append(
        f"{len(contents)} pairs, {on.size} x {on.size} pixels, measured with {network.name}. Images: photo, painting, {', '.join(networks)}."
    )
    return Result(rows, notes, {"": _figure(rows), "pictures": sheet})


def _row(label: str, parameters: int | None, judge: Judge, outputs: Tensor, contents: Tensor, styles: Tensor) -> Row:
    content_loss, style_loss = judge(*map(judge.features, (outputs, contents, styles)))
    gray_output, gray_content = (pictures.mean(1, keepdim=True) for pictures in (outputs, contents))
    ssim = structural_similarity_index_measure(gray_output, gray_content, data_range=1.0)
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
        color = "gray" if number == 0 else f"C{number - 1}"
        left.scatter([x], [y], color=color, label=label)
        right.barh([label], [ssim], color=color)
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
