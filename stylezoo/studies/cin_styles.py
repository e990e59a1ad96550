"""One network for N styles against N networks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from stylezoo.checkpoints import create_model
from stylezoo.images import grid
from stylezoo.module import StyleModel
from stylezoo.studies.base import Result, Row, new_figure, published, study
from stylezoo.studies.material import Material, device, square

PAPER = {"content": (8.7, 3.9), "style": (-8.9, 16.5)}  # percent, mean and standard deviation
SHOWN = 6


@study(
    "cin_styles",
    source="Dumoulin et al. 2017, section 3 (N styles in one network)",
    paper="https://arxiv.org/abs/1610.07629",
)
def cin_styles(
    *,
    content: str | None = None,
    style: str | None = None,
    styles: int = 10,
    steps: int = 400,
    size: int = 64,
    batch_size: int = 4,
    pictures: int = 8,
    width: float = 0.5,
    lr: float = 1e-3,
    content_weight: float = 1.0,
    style_weight: float = 1.0,
    encoder: str = "vgg16_random/4",
    encoder_weights: str | None = None,
    seed: int = 0,
) -> Result:
    """What a network loses by painting N styles: its final losses against those of N networks of one style each.

    All networks are CIN, trained for the same number of steps on the same photos with the same loss, so that each style
    of the shared one is seen N times less often. Content and style losses are measured on held-out photos, in the units
    of training; printed is the difference of the shared network in percent, mean and standard deviation over styles.
    Parameters are those at full width.

    Args:
        content: Folder of photos.
        style: Folder of paintings.
        styles: N, 10 in the paper.
        steps: Optimizer steps of each network; the paper's are 40000.
        size: Side of training crops, of held-out images, and long side of the paintings.
        batch_size: Images per step; the paper's are 16.
        pictures: Held-out photos.
        width: Multiplies the channels.
        lr: Learning rate.
        content_weight: Weight of the content loss.
        style_weight: Weight of the style loss; with ImageNet weights 1e-4 is usual.
        encoder: Network of the losses.
        encoder_weights: A file for it.
        seed: Decides weights, batches, and which styles there are.
    """
    if styles < 2:
        raise ValueError(f"styles is a number of paintings, at least 2, not {styles}.")
    material = Material(content, style, size, batch_size, seed)
    photos = material.photos(pictures, size).to(device())
    settings: dict[str, Any] = {
        "style_size": size,
        "width": width,
        "lr": lr,
        "content_weight": content_weight,
        "style_weight": style_weight,
        "encoder": encoder,
        "encoder_weights": encoder_weights,
    }
    files = list(dict.fromkeys(material.style_file(seed + number) for number in range(styles)))
    if len(files) < styles:
        raise ValueError(f"There are {len(files)} paintings for {styles} styles: give more (--style), or fewer styles.")
    with TemporaryDirectory() as folder:
        print(f"{styles} styles in one network: {steps} steps")
        folders = [_folder(Path(folder) / "all", files)]
        shared = material.train("cin", steps, with_styles=False, styles=folders[0], **settings)
        together = [_losses(shared, photos, shared.styles.index(_name(n, file))) for n, file in enumerate(files)]
        alone, columns = [], []
        for number, file in enumerate(files):
            print(f"style {number + 1} of {styles} alone: {steps} steps")
            own = _folder(Path(folder) / str(number), [file])
            model = material.train("cin", steps, with_styles=False, styles=own, **settings)
            alone.append(_losses(model, photos, 0))
            if number < SHOWN:
                outputs = (_painted(model, photos[0], 0), _painted(shared, photos[0], number))
                columns.append([photos[0].cpu(), square(file, size), *outputs])
    each: list[Row] = []
    for file, one, all_ in zip(files, alone, together, strict=True):
        row: Row = {"painting": file.stem}
        for term in PAPER:
            difference = 100 * (all_[term] / one[term] - 1)
            row |= {f"{term}, one": one[term], f"{term}, shared": all_[term], f"{term}, %": difference}
        each.append(row)
    rows = _rows(each)
    sheet = grid([list(line) for line in zip(*columns, strict=True)])
    protocol = (
        f"**Trained briefly for this study**: {styles + 1} networks, {steps} steps of {batch_size} images of"
        f" {size} x {size} pixels, width {width}, loss network {encoder}. The paper's have 40000 steps of 16 images of"
        " 256 x 256 pixels; after few steps, what N times fewer images of each style cost shows as well."
    )
    findings = [
        f"{row['quantity']}: {row['here']:+.1f} ± {row['here, deviation']:.1f} (paper {paper[0]:+.1f} ± {paper[1]:.1f})"
        for row, paper in zip(rows, PAPER.values(), strict=False)
    ]
    shown = "Images, from above: the photo, the painting, the outputs of networks of one style each, of the shared one."
    notes = [protocol, f"{'; '.join(findings)}. {len(photos)} held-out photos.", shown]
    return Result(rows, notes, {"": _figure(each), "pictures": sheet}, {"each": each})


def _name(number: int, file: Path) -> str:
    return f"{number:03d}_{file.stem}"


def _folder(folder: Path, files: Sequence[Path]) -> str:
    """A folder of style images in this order."""
    folder.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{_name(number, file)}{file.suffix}")
    return str(folder)


@torch.no_grad()
def _losses(model: StyleModel, photos: Tensor, style: int) -> dict[str, float]:
    return {name: float(term) for name, term in model.losses(photos, style).items()}


@torch.no_grad()
def _painted(model: StyleModel, photo: Tensor, style: int) -> Tensor:
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
