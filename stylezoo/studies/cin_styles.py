"""One network for N styles against N networks of one style."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from stylezoo.checkpoints import create_model
from stylezoo.errors import StylezooError
from stylezoo.module import StyleModel
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.material import device, image_columns, square
from stylezoo.studies.setups import TrainingSetup
from stylezoo.studies.verdicts import Row, Verdict, numbers, verdict

PAPER = {"content": (8.7, 3.9), "style": (-8.9, 16.5)}  # percent, mean and standard deviation
SHOWN = 6


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether both differences are within two deviations of the paper's."""
    found = numbers(rows[:2], "here", "paper: value (found)", "paper: deviation (found)")
    near = all(abs(here - theirs) <= 2 * deviation for here, theirs, deviation in found)
    content, style = (here for here, _, _ in found)
    reason = f"content {content:+.1f} %, style {style:+.1f} %"
    return (
        verdict(True, reason) if near else Verdict("cannot be said", f"{reason} after a training as short as this one")
    )


@study(
    "cin_styles",
    source="Dumoulin et al. 2017, section 3 (N styles in one network)",
    paper="https://arxiv.org/abs/1610.07629",
    claim="One network of N styles has the losses of N networks: content 8.7 % more, style 8.9 % less.",
    judge=judge,
)
def cin_styles(
    *,
    setup: TrainingSetup = TrainingSetup(steps=400, style_weight=1.0),
    styles: int = 10,
) -> StudyResult:
    """The cost of N styles in one network: its final losses against those of N networks of one style each.

    All networks are CIN, trained for the same number of steps on the same photos with the same loss, so that the shared
    network has N times fewer batches of each style. Content and style losses are measured on held-out photos, in the
    units of training; the table has the difference of the shared network in percent, mean and standard deviation over
    styles. Parameters are those at full width. The paper has 10 styles and 40000 steps of 16 images. With ImageNet weights
    of the encoder, a style weight of 1e-4 is usual.

    Args:
        setup: The training, see `stylezoo.studies.setups.TrainingSetup`; size is also the long side of the paintings.
        styles: Number of styles N.
    """
    material = setup.material()
    files = material.style_files(setup.seed, styles, setup.size)
    if len(files) < styles:
        raise StylezooError(
            f"There are {len(files)} paintings for {styles} styles: give more (--style), or fewer styles."
        )
    photos = material.photos(setup.images, setup.size).to(device())
    each, columns = _compared(setup, files, photos)
    rows = _rows(each)
    return StudyResult(
        rows, _notes(setup, rows, len(photos)), {"": _figure(each), "images": image_columns(*columns)}, {"each": each}
    )


def _compared(setup: TrainingSetup, files: Sequence[Path], photos: Tensor) -> tuple[list[Row], list[list[Tensor]]]:
    """Trains all networks; returns the losses per style, and columns of images (3, H, W) of the first styles."""
    each: list[Row] = []
    columns = []
    with TemporaryDirectory() as folder:

        def train(name: str, chosen: Sequence[Path]) -> StyleModel:
            network = {"styles": _folder(Path(folder) / name, chosen), "style_size": setup.size, **setup.network}
            return setup.material().train("cin", setup.steps, with_styles=False, **network)

        print(f"{len(files)} styles in one network: {setup.steps} steps")
        shared = train("all", files)
        together = [_losses(shared, photos, shared.styles.index(_name(n, file))) for n, file in enumerate(files)]
        for number, (file, of_shared) in enumerate(zip(files, together, strict=True)):
            print(f"style {number + 1} of {len(files)} alone: {setup.steps} steps")
            model = train(str(number), [file])
            each.append(_row(file, _losses(model, photos, 0), of_shared))
            if number < SHOWN:
                outputs = (_stylized(model, photos[0], 0), _stylized(shared, photos[0], number))
                columns.append([photos[0].cpu(), square(file, setup.size), *outputs])
    return each, columns


def _row(file: Path, alone: Mapping[str, float], shared: Mapping[str, float]) -> Row:
    row: Row = {"painting": file.stem}
    for term in PAPER:
        difference = 100 * (shared[term] / alone[term] - 1)
        row |= {f"{term}, one": alone[term], f"{term}, shared": shared[term], f"{term}, %": difference}
    return row


def _notes(setup: TrainingSetup, rows: Sequence[Row], photos: int) -> list[str]:
    protocol = (
        f"**Trained briefly for this study**: {setup.steps} steps of {setup.batch_size} images of"
        f" {setup.size} x {setup.size} pixels for each network, width {setup.width}, loss network {setup.encoder}. The"
        " paper's networks have 40000 steps of 16 images of 256 x 256 pixels; after few steps, the differences also show"
        " the cost of N times fewer images of each style."
    )
    findings = [
        f"{row['quantity']}: {row['here']:+.1f} ± {row['here, deviation']:.1f} (paper {paper[0]:+.1f} ± {paper[1]:.1f})"
        for row, paper in zip(rows, PAPER.values(), strict=False)
    ]
    shown = "Images, from above: the photo, the painting, the outputs of networks of one style each, of the shared one."
    return [protocol, f"{'; '.join(findings)}. {photos} held-out photos.", shown]


def _name(number: int, file: Path) -> str:
    return f"{number:03d}_{file.stem}"


def _folder(folder: Path, files: Sequence[Path]) -> str:
    """Writes a folder in which style images sort in this order; returns its path."""
    folder.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{_name(number, file)}{file.suffix}")
    return str(folder)


@torch.no_grad()
def _losses(model: StyleModel, photos: Tensor, style: int) -> dict[str, float]:
    return {name: float(term) for name, term in model.losses(photos, style).items()}


@torch.no_grad()
def _stylized(model: StyleModel, photo: Tensor, style: int) -> Tensor:
    output: Tensor = model(photo.unsqueeze(0), style)[0].clamp(0, 1).cpu()
    return output


def _rows(each: Sequence[Row]) -> list[Row]:
    def row(
        quantity: str,
        here: float,
        deviation: float | None = None,
        paper: float | None = None,
        paper_deviation: float | None = None,
    ) -> Row:
        return {
            "quantity": quantity,
            "here": here,
            "here, deviation": deviation,
            published("value", "found"): paper,
            published("deviation", "found"): paper_deviation,
        }

    rows = []
    for term, paper in PAPER.items():
        deviation, mean = torch.std_mean(torch.tensor([float(line[f"{term}, %"] or 0.0) for line in each]))
        rows.append(row(f"{term} loss, shared over one, %", mean.item(), deviation.item(), *paper))
    one, two = (
        sum(p.numel() for p in create_model("cin", style_names=[str(n) for n in range(count)]).parameters())
        for count in (1, 2)
    )
    style, shared = two - one, 2 * one - two
    rows.append(row("parameters of all styles", shared, paper=1.6e6))
    rows.append(row("parameters of one style", style, paper=3e3))
    rows.append(row("parameters of one style, % of those of all", 100 * style / shared, paper=0.2))
    return rows


def _figure(each: Sequence[Row]) -> Any:
    figure = new_figure(10, 3.6)
    places = range(len(each))
    for axis, (term, (mean, deviation)) in zip(figure.subplots(1, 2), PAPER.items(), strict=True):
        values = [float(row[f"{term}, %"] or 0.0) for row in each]
        axis.bar(places, values, color="C0", label="here, each style")
        axis.axhline(sum(values) / len(values), color="C0", linestyle="--", label="here, mean")
        axis.axhline(mean, color="C1", label="paper, mean ± deviation")
        axis.axhspan(mean - deviation, mean + deviation, color="C1", alpha=0.2)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(places)
        axis.set_xlabel("style")
        axis.set_ylabel("shared over one network, %")
        axis.set_title(f"{term} loss", fontsize=10)
    figure.axes[0].legend(fontsize=8)
    return figure
