"""Interpolation between four styles: bilinear weights over a square."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.images import grid
from stylezoo.inference import Stylizer
from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.material import ContentStyleLosses
from stylezoo.studies.setups import ModelSetup
from stylezoo.studies.verdicts import Row, Verdict, by_model, verdict

CORNERS = ("top left", "top right", "bottom left", "bottom right")


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the image with all of the weight has the smallest loss to a style."""
    hits, corners = 0, 0
    for images in by_model(rows).values():
        for place in CORNERS:
            best = min(images, key=lambda row: float(row[f"style loss {place}"] or 0))
            hits, corners = hits + (best[f"weight {place}"] == 1), corners + 1
    return verdict(hits == corners, f"{hits} of {corners} corners are the nearest of all images to their style")


CORNERS = ("top left", "top right", "bottom left", "bottom right")


@study(
    "style_interpolation",
    source="AdaIN, section 7.3 (style interpolation) and figure 8",
    paper="https://arxiv.org/abs/1703.06868",
    claim="Blends of four styles go gradually from corner to corner, and each corner has its own style.",
    judge=judge,
)
def style_interpolation(
    *, setup: ModelSetup = ModelSetup(systems=("multi_level_adain",)), side: int = 5
) -> StudyResult:
    """Four styles at the corners of a square, and one photo stylized with every blend between them.

    The first photo is stylized side x side times with bilinear weights of the first four paintings. Numbers: the style
    loss (means and standard deviations at relu1_1 to relu4_1) of every image to each of the four paintings. One model is
    studied, given or trained; multi-level AdaIN needs the fewest steps.

    Args:
        setup: The model and images, see `stylezoo.studies.setups.ModelSetup`.
        side: Number of images along a side of the square.
    """
    count = len(setup.models or setup.systems)
    if side < 2 or count != 1:
        raise StylezooError(f"style_interpolation takes one model, not {count}, and a side of 2 or more, not {side}.")
    photo, corners = setup.photos(1), setup.paintings(4)
    if len(corners) < 4:
        raise StylezooError(
            f"{len(corners)} style images are not enough: the corners need four (give more with --style)."
        )
    networks = setup.networks()
    ((label, model),) = networks.items()
    losses = ContentStyleLosses(setup.measuring(networks))
    content = losses.features(photo)
    targets = [losses.features(corner.unsqueeze(0)) for corner in corners]
    rows: list[Row] = []
    images: list[list[Tensor]] = []
    for i in range(side):
        images.append([])
        for j in range(side):
            weights = bilinear(i / (side - 1), j / (side - 1))
            output = Stylizer(model, list(corners), style_weights=weights, engine="eager")(photo).cpu()
            images[-1].append(output[0])
            features = losses.features(output)
            values = [losses(features, content, target)[1] for target in targets]
            row: Row = {"model": label, "row": i, "column": j}
            row |= {f"weight {name}": weight for name, weight in zip(CORNERS, weights, strict=True)}
            row |= {f"style loss {name}": value for name, value in zip(CORNERS, values, strict=True)}
            rows.append(row)
    nearest = sum(_nearest(rows, i, j) == k for k, (i, j) in enumerate(_positions(side)))
    notes = [
        setup.origin,
        f"{nearest} of the 4 corner images are, of all {side * side}, the nearest to the style of their corner.",
        "Figure: the four paintings at the outer corners, the photo at the left, its images between them.",
    ]
    return StudyResult(rows, notes, {"": _sheet(images, corners, photo[0])})


def bilinear(down: float, right: float) -> list[float]:
    """Computes the weights of `CORNERS` at a point of the unit square.

    >>> bilinear(0.0, 0.25)
    [0.75, 0.25, 0.0, 0.0]
    """
    return [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]


def _positions(side: int) -> list[tuple[int, int]]:
    last = side - 1
    return [(0, 0), (0, last), (last, 0), (last, last)]


def _nearest(rows: list[Row], i: int, j: int) -> int | None:
    """Returns the index of the corner that image (i, j) is nearer to than all other images, if there is one."""
    for number, name in enumerate(CORNERS):
        best = min(rows, key=lambda row: float(row[f"style loss {name}"] or 0.0))
        if (best["row"], best["column"]) == (i, j):
            return number
    return None


def _sheet(images: list[list[Tensor]], corners: Tensor, photo: Tensor) -> Tensor:
    blank = torch.ones_like(photo)
    left, right = [blank] * len(images), [blank] * len(images)
    left[len(images) // 2] = photo
    left[0], right[0], left[-1], right[-1] = corners.cpu()
    return grid([[a, *row, b] for a, row, b in zip(left, images, right, strict=True)])
