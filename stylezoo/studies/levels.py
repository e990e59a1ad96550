"""AdaIN of one level of features, of three levels, and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.material import ContentStyleLosses, image_columns, stylized
from stylezoo.studies.pairs import present
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, verdict


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the content loss falls, among models of one training."""
    losses = {str(row["model"]): float(row["content"] or 0) for row in rows}
    others = {name: "adain" + "".join(name.partition(".")[1:]) for name in losses if name.startswith("multi_level")}
    better = [losses[name] < losses[other] for name, other in others.items() if other in losses]
    if not better:
        return Verdict("cannot be said", "no models of one training were measured")
    return verdict(
        all(better), f"{sum(better)} of {len(better)} have a smaller content loss than AdaIN of the same training"
    )


@study(
    "levels",
    source="Revisiting and Refining AdaIN (Gao 2023), README.md, multi-level style transfer and attention",
    paper="https://github.com/GAOChengzhan/Revisiting_and_Refining_AdaIN",
    claim="AdaIN at several levels, and attention, preserve more of the content than AdaIN at one level.",
    judge=judge,
)
def levels(
    *, setup: PairSetup = PairSetup(systems=("adain", "multi_level_adain", "multi_level_attention", "sanet"), images=12)
) -> StudyResult:
    """AdaIN at one level, at three, and attention: which preserves the content, which transfers the style.

    All systems are trained on the same batches with the same encoder, number of steps, learning rate and style
    statistic; the weights and targets of the losses are those of each system. They are measured on held-out pairs with one
    network: content loss (normalized relu4_1 features, so that color and contrast may change), style loss (means and
    standard deviations at relu1_1 to relu4_1) and SSIM of output and photo in gray.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`. The figure shows six pairs.
    """
    networks = setup.networks()
    network = setup.measuring(networks)
    present(network, ["relu4_1"])
    contents, styles = setup.first_pairs()
    losses = ContentStyleLosses(network, normalized=True)
    rows: list[Row] = [_row("(the photo itself)", None, losses, contents, contents, styles)]
    columns = [contents, styles]
    for label, model in networks.items():
        outputs = stylized(model, contents, styles)
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(_row(label, parameters, losses, outputs, contents, styles))
        columns.append(outputs)
    sheet = image_columns(*(column[:6] for column in columns))
    notes = [setup.origin, _findings(rows[1:])]
    notes.append(
        f"{len(contents)} pairs, {setup.size} x {setup.size} pixels, measured with {network.name}. Images: photo, painting, {', '.join(networks)}."
    )
    return StudyResult(rows, notes, {"": _figure(rows), "images": sheet})


def _row(
    label: str, parameters: int | None, losses: ContentStyleLosses, outputs: Tensor, contents: Tensor, styles: Tensor
) -> Row:
    content_loss, style_loss = losses(*map(losses.features, (outputs, contents, styles)))
    gray_output, gray_content = (images.mean(1, keepdim=True) for images in (outputs, contents))
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
        f"Content preserved, best first: {order('content', True)}; by SSIM: {order('SSIM', False)}. Style transferred, best first:"
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
