"""Statistics over pairs: intervals of means, medians with percentiles, and ratios to a reference, pair by pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
"""Number of resamples of the bootstrap."""


@dataclass(frozen=True)
class Spread:
    """The distribution of values over pairs.

    Attributes:
        median: The median; NaN without values.
        p10: The 10th percentile.
        p90: The 90th percentile.
        n: Number of pairs.
    """

    median: float
    p10: float
    p90: float
    n: int


@dataclass(frozen=True)
class Ratio:
    """The values of a model divided by those of a reference.

    Attributes:
        reference: Name of the reference.
        spread: The distribution of the ratios of single pairs.
        of_means: The ratio of the means over the same pairs, which a few pairs with large values can decide.
    """

    reference: str
    spread: Spread
    of_means: float


def spread(values: np.ndarray) -> Spread:
    """Computes median and percentiles of values (N,), linearly between neighbors; values that are not finite are left out.

    >>> spread(np.array([1.0, 2.0, 3.0, 4.0, np.nan, 5.0]))
    Spread(median=3.0, p10=1.4, p90=4.6, n=5)
    """
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Spread(math.nan, math.nan, math.nan, 0)
    p10, median, p90 = np.quantile(kept, [0.1, 0.5, 0.9]).tolist()
    return Spread(median, p10, p90, len(kept))


def pair_ratios(values: np.ndarray, reference: np.ndarray, name: str = "reference") -> Ratio:
    """Divides the values of a model by those of a reference on the same pairs.

    Args:
        values: Values of the model (N,).
        reference: Values of the reference (N,). Pairs on which it is not above 0, or one of the two not finite, are
            left out.
        name: Name of the reference.

    >>> pair_ratios(np.array([2.0, 6.0, 7.0]), np.array([1.0, 2.0, 0.0])).spread.median
    2.5
    """
    kept = np.isfinite(values) & np.isfinite(reference) & (reference > 0)
    own, other = values[kept], reference[kept]
    return Ratio(name, spread(own / other), float(own.mean() / other.mean()) if len(own) else math.nan)


def bootstrap(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> list[list[float]]:
    """Computes 95 % percentile intervals of means by resampling pairs (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: Values (N, M), a column per metric.
        seed: Seed of the resamples, which are the same for all columns.
        resamples: Number of resamples.

    Returns:
        [low, high] for each column.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.stack([values[rng.integers(n, size=n)].mean(0) for _ in range(resamples)])
    ends: list[list[float]] = np.quantile(means, [0.025, 0.975], axis=0).T.tolist()
    return ends
