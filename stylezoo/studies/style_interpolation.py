"""Between four styles: bilinear weights over a square."""

from __future__ import annotations

import torch
from torch import Tensor

from stylezoo.images import grid
from stylezoo.inference import Stylizer
from stylezoo.studies.base import Result, Row, study
from stylezoo.studies.material import Judge, Material, trained_briefly

CORNERS = ("top left", "top right", "bottom left", "bottom right")


@study(
    "style_interpolation",
    source="AdaIN, section 7.3 (style interpolation) and figure 8",
    paper="https://arxiv.org/abs/1703.06868",
)
def style_interpolation(
    *,
    content: str | None = None,
    style: str | None = None,
    models: tuple[str, ...] = (),
    system: str = "multi_level_adain",
    steps: int = 400,
    size: int = 160,
    crop: int = 64,
    batch_size: int = 4,
    side: int = 5,
    lr: float = 1e-3,
    encoder: str = "vgg19_random/4",
    encoder_weights: str | None = None,
    seed: int = 0,
) -> Result:
    """Four styles at the corners of a square, and one photo painted with every blend between them.

    The photo is painted side x side times with bilinear weights of four paintings. Numbers: the style loss (means and
    standard deviations at relu1_1 to relu4_1, by the model's own encoder) of every image to each of the four.

    Args:
        content: Folder of photos; the first one is painted.
        style: Folder of paintings; the first four are the corners.
        models: One model for any style image.
        system: What is trained if there is none; multi-level AdaIN gets furthest in few steps.
        steps: Optimizer steps.
        size: Side of the painted images.
        crop: Side of training crops.
        batch_size: Pairs per step.
        side: Images along a side of the square.
        lr: Learning rate.
        encoder: Of the trained model.
        encoder_weights: A file for it.
        seed: Of training.
    """
    if side < 2 or len(models) > 1:
        raise ValueError(
            f"style_interpolation takes one model, not {len(models)}, and a side of 2 or more, not {side}."
        )
    material = Material(content, style, crop, batch_size, seed)
    photo = material.photos(1, size, held_out=not models)
    corners = material.paintings(4, size, held_out=not models)
    if len(corners) < 4:
        raise ValueError(f"{len(corners)} style images are not enough: the corners need four (give more with --style).")
    label, model = next(iter(material.arbitrary(models, [system], steps, encoder, encoder_weights, lr).items()))
    judge = Judge(model)
    content_features = judge.features(photo)
    targets = [judge.features(corner.unsqueeze(0)) for corner in corners]
    rows: list[Row] = []
    pictures: list[list[Tensor]] = []
    for i in range(side):
        pictures.append([])
        for j in range(side):
            weights = bilinear(i / (side - 1), j / (side - 1))
            output = Stylizer(model, list(corners), style_weights=weights)(photo).cpu()
            pictures[-1].append(output[0])
            features = judge.features(output)
            losses = [judge(features, content_features, target)[1] for target in targets]
            row: Row = {"model": label, "row": i, "column": j}
            row |= {f"weight {name}": weight for name, weight in zip(CORNERS, weights, strict=True)}
            row |= {f"style loss {name}": loss for name, loss in zip(CORNERS, losses, strict=True)}
            rows.append(row)
    nearest = sum(_nearest(rows, i, j) == k for k, (i, j) in enumerate(_positions(side)))
    notes = [
        trained_briefly(models, steps, encoder),
        f"{nearest} of the 4 corner images are, of all {side * side}, the nearest to the style of their corner.",
        "Figure: the four paintings at the outer corners, the photo at the left, its images between them.",
    ]
    return Result(rows, notes, {"": _sheet(pictures, corners, photo[0])})


def bilinear(down: float, right: float) -> list[float]:
    """Weights of `CORNERS` at a point of the unit square.

    >>> bilinear(0.0, 0.25)
    [0.75, 0.25, 0.0, 0.0]
    """
    return [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]


def _positions(side: int) -> list[tuple[int, int]]:
    last = side - 1
    return [(0, 0), (0, last), (last, 0), (last, last)]


def _nearest(rows: list[Row], i: int, j: int) -> int | None:
    """Which corner (i, j) is nearer to than any other image, if any."""
    for number, name in enumerate(CORNERS):
        best = min(rows, key=lambda row: float(row[f"style loss {name}"] or 0.0))
        if (best["row"], best["column"]) == (i, j):
            return number
    return None


def _sheet(pictures: list[list[Tensor]], corners: Tensor, photo: Tensor) -> Tensor:
    blank = torch.ones_like(photo)
    left, right = [blank] * len(pictures), [blank] * len(pictures)
    left[len(pictures) // 2] = photo
    left[0], right[0], left[-1], right[-1] = corners.cpu()
    return grid([[a, *row, b] for a, row, b in zip(left, pictures, right, strict=True)])
