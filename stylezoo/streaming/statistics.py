"""Statistics over all positions of a streamed map: one pass over its tiles each, accumulated in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stylezoo.streaming.maps import StreamedMap, sweep

Measured = tuple[Tensor, ...]
"""What does not depend on the number of positions: means, not sums."""


@dataclass
class Recorder:
    """The statistics of a run, in their order, to replace those of a run on another size.

    Attributes:
        measured: The statistics.
        replays: Whether they replace others; else they are recorded.
    """

    measured: list[Measured] = field(default_factory=list)
    replays: bool = False
    position: int = 0

    def __call__(self, compute: Callable[[], Measured]) -> Measured:
        """Records what is computed, or returns what was recorded in its place."""
        if not self.replays:
            self.measured.append(compute())
            return self.measured[-1]
        self.position += 1
        return self.measured[self.position - 1]


def _measured(x: StreamedMap, compute: Callable[[], Measured], dry: Callable[[], Measured]) -> Measured:
    if x.stream.is_dry:
        return dry()
    return compute() if x.stream.recorder is None else x.stream.recorder(compute)


def moments(x: StreamedMap) -> tuple[Tensor, Tensor]:
    """Returns mean and biased variance over positions, each (B, C, 1, 1) in float64.

    Those of tiles are merged as by Chan et al. 1979 ("Updating formulae and a pairwise algorithm for computing sample
    variances").
    """

    def compute() -> Measured:
        count = 0
        mean = torch.zeros(*x.node.shape[:2], 1, 1, dtype=_accurate(x), device=x.device)
        squares = torch.zeros_like(mean)
        for _, (values,) in sweep(x.stream, [x]):
            if values.numel():
                n = values.shape[2] * values.shape[3]
                # Sums of a row are float32 where the map is: a tile's mean is as accurate as that of an untiled map.
                part, own = (m.to(mean) for m in reversed(torch.var_mean(values, (2, 3), correction=0, keepdim=True)))
                difference = part - mean
                squares += own * n + difference.square() * (count * n / (count + n))
                mean += difference * (n / (count + n))
                count += n
        return mean, squares / count

    def dry() -> Measured:
        zeros = torch.zeros(*x.node.shape[:2], 1, 1, dtype=_accurate(x))
        return zeros, torch.ones_like(zeros)

    mean, variance = _measured(x, compute, dry)
    return mean, variance


def products(x: StreamedMap, y: StreamedMap) -> Tensor:
    """Returns the mean over positions of the products of channels, (B, C, C') in float64."""

    def compute() -> Measured:
        total: Tensor | None = None
        for _, (first, second) in sweep(x.stream, [x, y]):
            if first.numel():
                part = first.to(_accurate(x)).flatten(2) @ second.to(_accurate(y)).flatten(2).transpose(1, 2)
                total = part if total is None else total + part
        assert total is not None
        return (total / x.node.shape[2:].numel(),)

    def dry() -> Measured:
        return (torch.ones(x.node.shape[0], x.node.shape[1], y.node.shape[1], dtype=_accurate(x)),)

    (mean,) = _measured(x, compute, dry)
    return mean


def extremes(x: StreamedMap) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value of each channel, each (B, C, 1, 1)."""

    def compute() -> Measured:
        low: Tensor | None = None
        high: Tensor | None = None
        for _, (values,) in sweep(x.stream, [x]):
            if values.numel():
                least, most = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
                low = least if low is None else torch.minimum(low, least)
                high = most if high is None else torch.maximum(high, most)
        assert low is not None and high is not None
        return low, high

    def dry() -> Measured:
        zeros = torch.zeros(*x.node.shape[:2], 1, 1, dtype=x.dtype)
        return zeros, torch.ones_like(zeros)

    low, high = _measured(x, compute, dry)
    return low, high


def cells(x: StreamedMap, size: tuple[int, int]) -> Tensor:
    """Returns the means of a grid of areas, as `torch.nn.functional.adaptive_avg_pool2d`, (B, C, h, w) in float64."""

    def shares(length: int, count: int) -> Tensor:
        """(count, length): the share of each row in the mean of an area."""
        table = torch.zeros(count, length, dtype=_accurate(x), device=x.device)
        for index in range(count):
            start, stop = index * length // count, -(-(index + 1) * length // count)
            table[index, start:stop] = 1 / (stop - start)
        return table

    def compute() -> Measured:
        rows, columns = (shares(length, count) for length, count in zip(x.node.shape[2:], size, strict=True))
        total = torch.zeros(*x.node.shape[:2], *size, dtype=_accurate(x), device=x.device)
        for (window,), (values,) in sweep(x.stream, [x]):
            if values.numel():
                top, bottom, left, right = window
                total += rows[:, top:bottom] @ values.to(total) @ columns[:, left:right].T
        return (total,)

    (mean,) = _measured(x, compute, lambda: (torch.zeros(*x.node.shape[:2], *size, dtype=_accurate(x)),))
    return mean


def selected(x: StreamedMap, index: Tensor) -> Tensor:
    """Returns the values at some positions, (B, C, N).

    They are no statistics: those of another map do not replace them.

    Args:
        x: The map.
        index: Numbers of positions, row by row, (N,).
    """
    values = torch.zeros(*x.node.shape[:2], len(index), dtype=x.dtype, device=x.device)
    if x.stream.is_dry:
        return values
    width = x.node.shape[3]
    rows, columns = (part.to(x.device) for part in (index // width, index % width))
    for (window,), (part,) in sweep(x.stream, [x]):
        top, bottom, left, right = window
        (inside,) = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)).nonzero(as_tuple=True)
        if len(inside):
            values[..., inside] = part[..., rows[inside] - top, columns[inside] - left]
    return values


def _accurate(x: StreamedMap) -> torch.dtype:
    """float64, where a device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64
