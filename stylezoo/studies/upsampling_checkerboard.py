"""The checkerboard artifacts of transposed convolutions, nearest neighbors and sub-pixel shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from stylezoo.images import grid
from stylezoo.metrics import checkerboard
from stylezoo.module import StyleModel
from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.material import device
from stylezoo.studies.setups import TrainingSetup
from stylezoo.studies.verdicts import Row, Verdict, verdict

UPSAMPLING = ("nearest", "transposed", "subpixel")
PERIODS = (2, 4)  # pixels: the last of the two enlargements leaves traces of period 2, the one before it of period 4
BORDER = 8  # pixels at each side that depend on padding


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the power of the pattern of 2 pixels is 3 dB larger with either, at the end of training."""
    power = {str(row["upsample"]): float(row["period 2, dB"] or 0) for row in rows}  # the last step of each
    nearest, others = power["nearest"], [power["transposed"], power["subpixel"]]
    reason = f"{min(others):.1f} to {max(others):.1f} dB over neighboring frequencies, {nearest:.1f} dB with nearest up-sampling"
    return verdict(min(others) > nearest + 3, reason)


@study(
    "upsampling_checkerboard",
    source='Odena, Dumoulin & Olah 2016, "Deconvolution and Checkerboard Artifacts"; Dumoulin et al. 2017, section 3',
    paper="https://distill.pub/2016/deconv-checkerboard/",
    claim="Transposed and sub-pixel convolutions leave checkerboards, which nearest up-sampling does not.",
    judge=judge,
)
def upsampling_checkerboard(
    *,
    setup: TrainingSetup = TrainingSetup(size=160),
    crop: int = 64,
    initializations: int = 4,
) -> StudyResult:
    """Checkerboards of three ways to upsample feature maps, measured in the spectrum.

    The network of Johnson et al. is trained with each way of upsampling, on the same batches with the same seeds, loss
    and style. The difference that it makes to held-out photos (the output less the nearest multiple of the photo) is
    Fourier transformed: a pattern that repeats every 2 or 4 pixels has power at multiples of half the Nyquist frequency,
    given in dB over neighboring frequencies (about 0 dB: no pattern). The same measure of the photos themselves tells how
    much of that is no artifact. At the start of training the measure is a mean over several seeds.

    Args:
        setup: The training, see `stylezoo.studies.setups.TrainingSetup`; images have at least 80 x 80 pixels.
        crop: Side of training crops.
        initializations: Number of seeds that untrained networks are measured with.
    """
    (style,) = setup.material().style_files(setup.seed, 1, setup.size)
    network = {"style_image": str(style), **setup.network}
    photos = setup.material().photos(setup.images, setup.size)
    rows = [_row("(photos)", "-", [checkerboard(_inner(photos))])]
    shown = [photos]
    for upsample in UPSAMPLING:
        print(f"{upsample}: {setup.steps} steps")
        start = []
        for number in range(initializations):
            fresh = setup.material(number, crop).untrained("johnson", upsample=upsample, **network).to(device()).eval()
            start.append(checkerboard(_inner(added(_outputs(fresh, photos), photos))))
        rows.append(_row(upsample, 0, start))
        model = setup.material(crop=crop).train("johnson", setup.steps, with_styles=False, upsample=upsample, **network)
        outputs = _outputs(model, photos)
        rows.append(_row(upsample, setup.steps, [checkerboard(_inner(added(outputs, photos)))]))
        shown.append(outputs.clamp(0, 1))
    sheet = grid([[_detail(column[index]) for column in shown] for index in range(min(4, len(photos)))])
    notes = _notes(rows, len(photos), setup.size)
    return StudyResult(rows, notes, {"": _figure(rows), "images": sheet})


def added(outputs: Tensor, photos: Tensor) -> Tensor:
    """Subtracts from outputs the nearest multiple of the photo (least squares, per image and channel).

    The outputs of an untrained network are close to zero, so that their plain difference to the photo would be the photo.

    Args:
        outputs: (N, 3, H, W).
        photos: (N, 3, H, W).

    Returns:
        (N, 3, H, W), with a mean of zero.
    """
    outputs, photos = (images - images.mean((-2, -1), keepdim=True) for images in (outputs, photos))
    power = photos.square().sum((-2, -1), keepdim=True).clamp_min(1e-12)
    return outputs - (outputs * photos).sum((-2, -1), keepdim=True) / power * photos


@torch.inference_mode()
def _outputs(model: StyleModel, photos: Tensor) -> Tensor:
    return torch.cat([model(photo.to(device())[None]).cpu() for photo in photos])


def _inner(images: Tensor) -> Tensor:
    return images[..., BORDER:-BORDER, BORDER:-BORDER]


def _detail(image: Tensor) -> Tensor:
    """Returns the middle, three times enlarged, because a checkerboard is too fine to be visible otherwise."""
    height, width = image.shape[-2:]
    top, left = height // 4, width // 4
    middle = image[:, top : height - top, left : width - left]
    return middle.repeat_interleave(3, -1).repeat_interleave(3, -2)


def _row(upsample: str, step: int | str, measured: Sequence[dict[int, float]]) -> Row:
    means = {f"period {p}, dB": sum(m[p] for m in measured) / len(measured) for p in PERIODS}
    return {"upsample": upsample, "step": step, **means}


def _notes(rows: Sequence[Row], count: int, size: int) -> list[str]:
    def values(step: int) -> str:
        chosen = rows[1 + step :: 2]
        return "; ".join(
            f"{row['upsample']} {row['period 2, dB']:+.1f} / {row['period 4, dB']:+.1f} dB" for row in chosen
        )

    findings = (
        f"Over neighboring frequencies, period 2 / period 4: untrained {values(0)}. After {rows[2]['step']} steps"
        f" {values(1)}. The photos themselves: {rows[0]['period 2, dB']:+.1f} / {rows[0]['period 4, dB']:+.1f} dB."
    )
    protocol = (
        f"{count} held-out photos, {size} x {size} pixels. Images: the middle of the photo and of the outputs with"
        f" {', '.join(UPSAMPLING)}, three times enlarged."
    )
    return [findings, protocol]


def _figure(rows: Sequence[Row]) -> Any:
    figure = new_figure(10, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, period in zip(axes, PERIODS, strict=True):
        column = f"period {period}, dB"
        for number, (label, chosen) in enumerate((("untrained", rows[1::2]), ("trained", rows[2::2]))):
            heights = [cast(float, row[column]) for row in chosen]
            places = [index + 0.36 * (number - 0.5) for index in range(len(chosen))]
            bars = axis.bar(places, heights, 0.34, label=label)
            axis.bar_label(bars, fmt="%.1f", fontsize=8)
        axis.axhline(cast(float, rows[0][column]), color="gray", linestyle=":", label="the photos")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(UPSAMPLING)), UPSAMPLING)
        axis.set_title(f"patterns with a period of {period} pixels", fontsize=10)
    axes[0].set_ylabel("dB over neighboring frequencies")
    axes[1].legend(fontsize=8)
    return figure
