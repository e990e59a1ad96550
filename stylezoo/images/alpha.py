"""Transparency: what hides under it never enters a style or a content.

Files keep some color under fully transparent pixels, mostly black or white, which nobody sees. Laid on a background they
would count as part of the image: a third of white in the statistics of a style. Here they take colors of visible pixels.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

VISIBLE = 1 / 8
"""Opacity from which a pixel is visible; the colors of fainter ones are mostly remains of rounding."""

_FULL_ROW = 4


def fill_hidden(pixels: Pixels, alpha: Pixels, name: str) -> None:
    """Gives hidden pixels colors of visible ones, in place, so that the statistics are about those of the visible ones.

    A row is continued past its visible pixels by its mirror image. Rows that have less than a quarter as many visible pixels
    as the fullest one would repeat a few colors only; they take theirs from the nearest rows that have more, mirrored as well.

    Args:
        pixels: (H, W, 3) of any dtype; all white afterwards if no pixel is visible, which gives a warning.
        alpha: (H, W), 0 to 255 if uint8, else 0 to 1.
        name: Name of the image, for the warning.
    """
    visible = is_visible(alpha)
    if not visible.any():
        warn_of_nothing(name)
        pixels[...] = 255 if pixels.dtype == np.uint8 else 1
        return
    counts = visible.sum(1)
    sources = row_sources(counts)
    own = sources == np.arange(len(sources))
    for row in np.flatnonzero(own & (counts < visible.shape[1])):
        pixels[row] = filled_row(pixels[row], visible[row])
    for row in np.flatnonzero(~own):
        hidden = ~visible[row]
        pixels[row, hidden] = pixels[sources[row], hidden]


def warn_of_nothing(name: str) -> None:
    """Warns that no pixel of an image is visible."""
    warnings.warn(f"{name} is completely transparent: it is read as white.", stacklevel=3)


def row_sources(counts: NDArray[Any]) -> NDArray[np.intp]:
    """Returns the row from which each row takes its hidden pixels: itself if enough of it is visible, see `fill_hidden`.

    Args:
        counts: (H), the number of visible pixels of each row, which must not all be 0.
    """
    return _mirrored(counts * _FULL_ROW >= counts.max())


def filled_row(pixels: Pixels, visible: NDArray[np.bool_]) -> Pixels:
    """Returns a row (W, 3) continued past its visible pixels (W) by its mirror image."""
    filled: Pixels = pixels[_mirrored(visible)]
    return filled


def visible_box(alpha: Pixels) -> tuple[slice, slice]:
    """Returns rows and columns of the smallest box that holds all visible pixels; all of them if none is visible.

    Args:
        alpha: (H, W), as in `fill_hidden`.
    """
    visible = is_visible(alpha)
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def is_visible(alpha: Pixels) -> NDArray[np.bool_]:
    """Returns where an image is visible; in one that is faint everywhere, wherever it is not fully transparent."""
    visible: NDArray[np.bool_] = alpha >= (VISIBLE * 255 if alpha.dtype == np.uint8 else VISIBLE)
    return visible if visible.any() else alpha > 0


def _mirrored(known: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Returns for each position the known one whose value it takes: its own, or the mirror image at the nearest one.

    >>> _mirrored(np.array([False, False, True, True, True, False, False, False, False]))
    array([3, 2, 2, 3, 4, 4, 3, 2, 2])
    """
    places = np.flatnonzero(known)
    positions = np.arange(len(known))
    right = np.searchsorted(places, positions)  # the first known one at or after each position
    left = right - 1
    far = 2 * len(known)
    to_left = np.where(left < 0, far, positions - places[left])
    to_right = np.where(right == len(places), far, places[np.minimum(right, len(places) - 1)] - positions)
    rank = np.where(to_left <= to_right, left - to_left + 1, right + to_right - 1) % (2 * len(places))
    rank = np.where(rank >= len(places), 2 * len(places) - 1 - rank, rank)  # at the other end it is mirrored again
    return np.where(known, positions, places[rank])
