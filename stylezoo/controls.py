"""What `stylezoo.stylize`, `Stylizer` and the command ``stylize`` take: choices, descriptions, and the checks of all values.

Nothing here imports PyTorch: the command line reads its options before it knows whether a model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stylezoo.errors import StylezooError, check_choice, check_number, check_weights

Kind = Literal["arbitrary", "multi", "single", "optimization"]
"""What a system takes as style: any image, one of its trained styles, nothing, or images that it optimizes towards."""

PreserveColor = Literal["none", "coral", "luminance"]
"""How the colors of the content are kept."""

TileStatistics = Literal["exact", "thumbnail"]
"""Where statistics over all positions come from when a model works in tiles."""

Tile = int | Literal["auto"] | None
"""Side of the tiles in pixels; ``auto`` leaves it to the memory, None works on whole images."""
EngineName = Literal[
    "auto", "eager", "winograd", "channels_last", "compiled", "bfloat16", "openvino", "onnxruntime", "cuda"
]
"""What runs a model, see `stylezoo.inference.engines`."""

StyleInput = Literal["image", "code"]
"""What an exported model takes as style: images, or style codes."""

ExportPrecision = Literal["float32", "float16", "int8"]
"""Precision of the weights of an exported model."""

ExportFormat = Literal["onnx", "torch"]
"""Format of an exported model: ONNX, or a program of torch.export."""

Stability = Literal["none", "statistics", "flow"]
"""How neighboring frames of a clip are made alike."""

Codec = Literal["auto", "h264", "hevc", "vp9", "av1", "prores", "ffv1"]
"""How a video is encoded; ``auto`` takes the usual codec of its container."""

CONTROLS = {
    "alpha": "Strength of the style, 0 to 1.",
    "style_weights": (
        "Blend the styles, one weight per style (1,2,1 on the command line); they are normalized to sum 1."
    ),
    "preserve_color": (
        "Keep the content's colors: ``coral`` gives the style the content's colors before it is encoded, ``luminance``"
        " takes only brightness from the output."
    ),
    "masks": (
        "Regions of the styles: one gray image per style, white where it applies; the photo stays where all are black. One"
        " image for two styles is white for the first; of one for one style, gray fades into the photo."
    ),
    "size": "Short side in pixels to which the content is resized first; None keeps its size.",
    "style_size": "The same for the styles; None keeps theirs. Larger styles give coarser strokes.",
    "tile": (
        "Side in pixels of the tiles in which the model works, for images that would not fit into memory; the result is"
        " the same. ``auto`` works in tiles where the image would not fit, and says so; None (none on the command line)"
        " always works on whole images."
    ),
    "tile_statistics": (
        "With tiles, where the statistics over the image come from: ``exact``, or ``thumbnail``, a small copy of the"
        " content, with which networks of many normalizations need one pass instead of many, but the result differs."
    ),
    "engine": (
        "What runs the model, with equal results: ``eager`` (PyTorch as it is), ``winograd``, ``channels_last``,"
        " ``compiled``, ``bfloat16``, ``openvino``, ``onnxruntime``, ``cuda``; ``auto`` takes the fastest that is known for"
        " this model and machine (docs/engines.md)."
    ),
    "device": "Where to compute: ``auto``, ``cpu``, ``cuda``, ``mps`` ...; None leaves the model where it is.",
}
"""Descriptions of the controls, {name: description}."""

LARGEST_SIDE = 17_320
"""Largest short side that an image can be resized to: its square has the 300 million pixels of the largest image."""

SMALLEST_SIDE = 16
"""Smallest side of a content image in pixels."""


@dataclass(frozen=True)
class Controls:
    """What a user can turn, as plain numbers. Whether a model has a control is checked with the model.

    Attributes:
        alpha: Strength of the style, 0 to 1.
        style_weights: One finite number per style; None blends equally.
        preserve_color: See `PreserveColor`.
        size: Short side in pixels that contents are resized to; None keeps theirs.
        style_size: The same for styles.
        tile: Side of the tiles in pixels; None works on whole images, ``auto`` does so where they fit into memory.
        tile_statistics: See `TileStatistics`.
        has_masks: Whether the styles apply to regions.
        engine: See `EngineName`.

    Raises:
        StylezooError: If a value is of another type or out of its range, or two controls exclude each other.
    """

    alpha: float = 1.0
    style_weights: Sequence[float] | None = None
    preserve_color: PreserveColor = "none"
    size: int | None = None
    style_size: int | None = None
    tile: Tile = "auto"
    tile_statistics: TileStatistics = "exact"
    has_masks: bool = False
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the way in which a frozen dataclass normalizes its values
        set_(self, "alpha", check_number("alpha", self.alpha, "the strength of the style between 0 and 1", 0, 1))
        check_choice("preserve_color", self.preserve_color, PreserveColor)
        check_choice("engine", self.engine, EngineName)
        for name, what in (("size", "contents"), ("style_size", "styles")):
            meaning = f"the short side in pixels that {what} are resized to, {SMALLEST_SIDE} to {LARGEST_SIDE}"
            set_(self, name, _optional(name, getattr(self, name), meaning, SMALLEST_SIDE, LARGEST_SIDE))
        if self.tile != "auto":
            meaning = "the side of a tile in pixels, for example 512, or auto"
            set_(self, "tile", _optional("tile", self.tile, meaning, 1, 10**9))
        check_choice("tile_statistics", self.tile_statistics, TileStatistics)
        if self.style_weights is not None:
            set_(self, "style_weights", check_weights(self.style_weights))
            if self.has_masks:
                raise StylezooError(
                    "style_weights blend the styles everywhere and masks give each style its own region: give only one"
                    " of them."
                )


@dataclass(frozen=True)
class ClipControls:
    """What a user can turn for clips, beside `Controls`.

    Attributes:
        stability: ``none`` stylizes each frame by itself; ``statistics`` smooths over time the statistics of whole frames by
            which the model normalizes; ``flow`` also blends each output with the one before, moved along the optical flow.
        codec: Of videos.
        seconds: Length after which the clip ends; None takes all of it.
        report: Whether flicker is measured.

    Raises:
        StylezooError: If a value is none of its choices or out of its range.
    """

    stability: Stability = "none"
    codec: Codec = "auto"
    seconds: float | None = None
    report: bool = False

    def __post_init__(self) -> None:
        check_choice("stability", self.stability, Stability)
        check_choice("codec", self.codec, Codec)
        if self.seconds is not None:
            meaning = "the length in seconds after which a clip ends, more than 0"
            check_number("seconds", self.seconds, meaning, math.nextafter(0, 1))


def check_run(batch_size: Any, preview: Any, quality: Any) -> None:
    """Checks the controls that only the command has.

    Raises:
        StylezooError: If a value is of another type or out of its range.
    """
    check_number("batch_size", batch_size, "the number of images stylized together, 1 or more", 1, whole=True)
    check_number("preview", preview, "the number of iterations between two previews, 0 for none", 0, whole=True)
    check_number("quality", quality, "the quality of JPEG and WebP files, 1 to 100", 1, 100, whole=True)


def alpha_range(alpha: Any) -> tuple[float, float]:
    """Returns the smallest and the largest strength of a style that is drawn at random.

    >>> alpha_range(0.5), alpha_range((0.2, 1))
    ((0.5, 0.5), (0.2, 1.0))

    Args:
        alpha: A number, or the smallest and the largest one.

    Raises:
        StylezooError: If these are no numbers from 0 to 1 in ascending order.
    """
    ends = tuple(alpha) if isinstance(alpha, (list, tuple)) else (alpha,)
    meaning = "the strength of the style between 0 and 1, or the smallest and the largest strength, such as 0.5,1"
    low, high = ends[:1] + ends[-1:] if len(ends) in (1, 2) else (None, None)
    low, high = (check_number("alpha", end, meaning, 0, 1) for end in (low, high))
    if low > high:
        raise StylezooError(f"alpha is {meaning}, not {low:g} down to {high:g}.")
    return low, high


def _optional(name: str, value: Any, meaning: str, low: int, high: int) -> int | None:
    return None if value is None else check_number(name, value, meaning, low, high, whole=True)


def blending_shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Normalizes blending weights to sum 1; None stands for equal weights.

    >>> blending_shares([1, 3], 2), blending_shares(None, 2)
    ([0.25, 0.75], [0.5, 0.5])

    Raises:
        StylezooError: If they are no finite numbers, not as many as styles, or sum to 0.
    """
    weights = [1.0] * count if weights is None else check_weights(weights)
    if len(weights) != count:
        raise StylezooError(f"There are {count} styles but {len(weights)} style weights: give one weight per style.")
    total = sum(weights)
    if abs(total) < 1e-12 or not math.isfinite(total):
        raise StylezooError(f"The style weights {weights} sum to {total}: give finite weights with a sum other than 0.")
    return [w / total for w in weights]


def check_mask_count(masks: int, styles: int) -> None:
    """Checks that there is one mask per style, or one for two.

    Raises:
        StylezooError: If there are more or fewer.
    """
    if masks not in (0, styles) and (masks, styles) != (1, 2):
        raise StylezooError(f"There are {styles} styles but {masks} masks: give one mask per style (or one for two).")
