"""The picture check: grids, colors and clipped pixels of outputs on generated images, which losses do not show.

    python tools/picture_check.py [MODEL ...]

Each model stylizes the same generated photos in generated paintings; a model of given styles does so in its own, of which
grids are compared with the photos alone, and colors with nothing. `RANGES` says what is expected of the medians over
pairs, `OUTSIDE` which models that ship are known to be outside; tests/test_picture_check.py holds both, and the model
cards name the latter.
"""

from __future__ import annotations

import math
import statistics
import sys
from functools import cache

from PIL import Image
from torch import Tensor

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.evaluation.measurement import ARTIFACT_METRICS
from stylezoo.images import to_tensor
from stylezoo.inference import Stylizer
from stylezoo.metrics import clipped_share, colorfulness_ratio, grid_contrast
from stylezoo.weights import table

SIZE = 128
"""Side of the images in pixels."""

PAIRS = ((0, 0), (1, 4), (2, 10), (3, 12))
"""Numbers of the generated photos and paintings."""

RANGES = {
    "grid_2": (0.0, 12.0),
    "grid_4": (0.0, 3.4),
    "grid_8": (0.0, 3.2),
    "colorfulness_ratio": (0.75, 1.33),
    "clipped_share": (0.0, 0.1),
}
"""{metric: (lowest, highest)} of the median over `PAIRS` that is expected of a model.

The limits of grids separate AdaIN and EFDM, in whose outputs a canvas can be recognized at 512 pixels, and MSG-Net and
SANet with noise from pixel to pixel, from MicroAST and multi-level AdaIN, which have neither. Colors are a quarter off at
most.
"""

OUTSIDE: dict[str, dict[str, float]] = {
    "adain.slim": {"grid_2": 22.8, "grid_4": 4.46, "grid_8": 4.27},
    "efdm.slim": {"grid_2": 26.3, "grid_4": 4.32, "grid_8": 4.52},
    "msgnet.sixteen": {"grid_2": 21.4, "grid_4": 5.34, "grid_8": 3.85},
    "cin.sixteen": {"grid_2": 17.4, "grid_4": 4.65},
    "linear_transfer.slim": {"grid_2": 16.1, "grid_4": 3.53},
    "stytr2.small": {"grid_2": 15.7, "grid_4": 3.67},
    "sanet.slim": {"grid_2": 16.3},
    "magenta.distilled": {"colorfulness_ratio": 0.723},
}
"""{tag: {metric: median}} of the models that ship and are outside of `RANGES`."""


@cache
def image(kind: str, index: int) -> Tensor:
    """Returns a generated photo or painting, (1, 3, SIZE, SIZE) in [0, 1].

    It is drawn at half the size: the edges of drawings have as much energy from pixel to pixel as a grid has, those of
    photos have not.
    """
    drawing = draw("photos" if kind == "photo" else "paintings", index, SIZE // 2)
    return to_tensor(drawing.resize((SIZE, SIZE), Image.Resampling.BICUBIC))[None]


def measure(name: str) -> dict[str, float]:
    """Returns the medians over `PAIRS` of a model, by metric; colors only of models that take any image as their style.

    Args:
        name: A model as `stylezoo.load_model` accepts it.
    """
    model = stylezoo.load_model(name)
    values: dict[str, list[float]] = {metric: [] for metric in ARTIFACT_METRICS}
    for number, (photo, painting) in enumerate(PAIRS):
        content, style = image("photo", photo), image("painting", painting)
        given = {"multi": model.styles[number * len(model.styles) // len(PAIRS) :][:1], "single": []}.get(
            model.kind, [style]
        )
        output = Stylizer(model, given, engine="eager")(content)
        compared = style if model.kind == "arbitrary" else content
        for period in (2, 4, 8):
            values[f"grid_{period}"].append(float(grid_contrast(output, content, compared, period)))
        if model.kind == "arbitrary":
            values["colorfulness_ratio"].append(float(colorfulness_ratio(output, style)))
        values["clipped_share"].append(float(clipped_share(output)))
    return {metric: statistics.median(found) for metric, found in values.items() if found}


def is_inside(metric: str, value: float) -> bool:
    """Returns whether a median is in the range of its metric."""
    low, high = RANGES[metric]
    return low <= value <= high


def sentence(tag: str) -> str | None:
    """Returns a sentence on the metrics of a model that ships and is outside of `RANGES`, or None if it is inside."""
    found = []
    for metric, value in OUTSIDE.get(tag, {}).items():
        low, high = RANGES[metric]
        found.append(f"`{metric}` is {value:.3g}, where {f'{low:g} to ' if low else 'at most '}{high:g} is expected")
    return f"In the picture check (tools/picture_check.py), {'; '.join(found)}." if found else None


def main(models: list[str]) -> None:
    """Prints the medians of models, or of all that ship if none is named, and ``!`` behind those outside of the ranges."""
    print(f"{'':27}" + "".join(f"{metric:>20}" for metric in RANGES))
    print(f"{'(range)':27}" + "".join(f"{f'{low:g} to {high:g}':>20}" for low, high in RANGES.values()))
    for name in models or table().models:
        found = measure(name)
        cells = []
        for metric in RANGES:
            value = found.get(metric, math.nan)
            mark = " " if metric not in found or is_inside(metric, value) else "!"
            cells.append(f"{value:19.3g}{mark}")
        print(f"{name:27}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
