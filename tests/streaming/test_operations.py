"""Each operation on maps that are computed window by window, against the same operation on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.errors import StylezooError
from stylezoo.streaming import Budget, Stream, StreamedMap, whole
from stylezoo.streaming.maps import RULES

SIZE = (45, 38)


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def tiled(function: Callable[[Tensor], Any], x: Tensor, tile: int = 13, memory: float = 0.0) -> Tensor:
    """What a function makes of a map, computed in tiles; nothing is kept, so that each statistic computes all anew."""
    stream = Stream((tile), (x.shape[2], x.shape[3]), x.device, Budget(memory))
    with torch.inference_mode():
        (result,) = whole(function(StreamedMap.of(x, stream)))
    return result


def conv(*args: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(*args, **options).double()


def transposed(*args: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.ConvTranspose2d(*args, **options).double()


NEIGHBORS: dict[str, Callable[[Tensor], Tensor]] = {
    "conv": conv(4, 5, 3, padding=1),
    "conv_reflect": conv(4, 5, 5, padding=2, padding_mode="reflect"),
    "conv_replicate": conv(4, 5, 3, padding=1, padding_mode="replicate"),
    "conv_circular": conv(4, 5, 3, padding=1, padding_mode="circular"),
    "conv_stride": conv(4, 5, 3, 2, padding=1),
    "conv_stride_4": conv(4, 5, 3, 4),
    "conv_same": conv(4, 5, 3, padding="same"),
    "conv_valid": conv(4, 5, 3, padding="valid"),
    "conv_groups_dilation": conv(4, 8, 3, padding=2, dilation=2, groups=4),
    "conv_rectangle": conv(4, 5, (1, 7), padding=(0, 3)),
    "conv_large": conv(4, 2, 31, padding=15, padding_mode="reflect"),  # a halo larger than a tile
    "transposed": transposed(4, 5, 3, 2, 1, output_padding=1),
    "transposed_even": transposed(4, 5, 4, 2, 1),
    "transposed_wide": transposed(4, 5, 2, 3),  # the stride leaves gaps
    "transposed_groups": transposed(4, 8, 3, 1, 2, dilation=2, groups=2),
    "transposed_end": lambda x: transposed(4, 3, 3, 2)(x)[..., :-3, :-2],
    "pad_uneven": lambda x: F.pad(x, (3, 0, 1, 5)),
    "pad_value": lambda x: F.pad(x, (0, 4, 2, 0), value=0.7),
    "pad_negative": lambda x: F.pad(x, (-3, -1, -2, -5)),
    "pad_mixed": lambda x: F.pad(x, (-3, 2, 2, -5)),
    "reflect_twice": lambda x: F.pad(F.pad(x, (20, 20, 20, 20), mode="reflect"), (30, 9, 7, 30), mode="reflect"),
    "replicate": lambda x: F.pad(x, (3, 2, 20, 0), mode="replicate"),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "max_pool_ceil": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "max_pool_overlapping": lambda x: F.max_pool2d(x - 0.5, 3, 2, 1),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2),
    "avg_pool_ceil": lambda x: F.avg_pool2d(x, 32, ceil_mode=True),
    "avg_pool_padded": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "nearest_3": lambda x: F.interpolate(x, scale_factor=3.0),
    "nearest_size": lambda x: F.interpolate(x, size=(31, 50)),
    "nearest_half": lambda x: F.interpolate(x, size=(22, 19)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear_size": lambda x: F.interpolate(x, size=(70, 20), mode="bilinear"),
    "bilinear_antialiased": lambda x: F.interpolate(x, size=(70, 60), mode="bilinear", antialias=True),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unshuffle": lambda x: F.pixel_unshuffle(x[..., 1:, :], 2),
    "every_second": lambda x: x[..., 1::2, :-3:3],
    "crop": lambda x: x[..., 7:-3, 1:30],
}

LOCAL: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (1 - x) * 2 / (x + rand(1, 4, 1, 1)) ** 2 - x.sqrt(),
    "in_place": lambda x: nn.ReLU(inplace=True)(x - 0.5).mul_(3),
    "plane": lambda x: x * rand(*SIZE) + rand(1, 1, *SIZE),
    "row": lambda x: x * rand(SIZE[1]),
    "where": lambda x: torch.where(x > 0.5, x, 0.1),
    "addcmul": lambda x: torch.addcmul(rand(1, 4, 1, 1), x, rand(1, 4, 1, 1)),
    "lerp": lambda x: x.lerp(1 - x, 0.3),
    "split": lambda x: torch.cat([*reversed(torch.split(x, [1, 3], 1)), *x.chunk(2, 1)], 1),
    "cat_plain": lambda x: torch.cat([x, rand(1, 2, *SIZE).expand(2, -1, -1, -1)], 1),
    "flip": lambda x: x.flip(1),
    "channel": lambda x: x[:, 1:3] + x[:1, :1],
    "expand": lambda x: x[:1].expand(3, -1, -1, -1),
    "argmax": lambda x: x.argmax(1, keepdim=True).double(),
    "softmax": lambda x: x.softmax(1) + x.sum(1, keepdim=True),
    "batch_norm": lambda x: F.batch_norm(x, rand(4), rand(4) + 1, rand(4), rand(4)),
    "ones": lambda x: torch.ones_like(x[:1, :1]) + x,
    "types": lambda x: x.float().to(x) + x.to(torch.float32).double(),
    "tokens": lambda x: (
        F.linear(x.flatten(2).transpose(1, 2), rand(6, 4), rand(6)).transpose(1, 2).reshape(2, 6, *SIZE)
    ),
    "layer_norm": lambda x: F.layer_norm(x.flatten(2).permute(0, 2, 1), (4,), rand(4), rand(4)).mT.reshape(x.shape),
    "matrix": lambda x: (rand(1, 3, 4) @ x.flatten(2)).reshape(2, 3, *SIZE),
    "matrix_right": lambda x: x.flatten(2).transpose(1, 2) @ rand(4, 4),
    "token_plane": lambda x: x.flatten(2) * rand(1, 1, SIZE[0] * SIZE[1]),
}

STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean_kept": lambda x: x - x.mean((2, 3), keepdim=True),
    "mean_all": lambda x: x.mean(),
    "sum": lambda x: x.sum((2, 3), keepdim=True),
    "positions": lambda x: x.flatten(2).index_select(2, torch.tensor([1709, 0, 812, 37, 812])),
    "positions_tokens": lambda x: x.flatten(2).mT.index_select(1, torch.arange(1710).flip(0)[::7]),
    "sum_rows": lambda x: x.flatten(2).sum(2),
    "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std((-2, -1), correction=0, keepdim=True),
    "std_tokens": lambda x: torch.std_mean(x.flatten(2).transpose(1, 2), 1)[0],
    "var_mean": lambda x: sum(torch.var_mean(x, (2, 3))),
    "group_norm": lambda x: F.group_norm(x, 2, rand(4), rand(4)),
    "instance_norm": lambda x: F.instance_norm(x, weight=rand(4), bias=rand(4)),
    "layer_of_norms": lambda x: F.group_norm(NEIGHBORS["conv_reflect"](F.group_norm(x, 4)), 5),
    "gram": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "extremes": lambda x: x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True),
    "any": lambda x: (x > 0.999).any().double() + (x > 0.01).all().double(),
    "cells": lambda x: F.adaptive_avg_pool2d(x, 18),
    "cells_1": lambda x: F.adaptive_avg_pool2d(x, 1) * x,
}


@pytest.mark.parametrize(
    "operation", [*NEIGHBORS.values(), *LOCAL.values(), *STATISTICS.values()], ids=[*NEIGHBORS, *LOCAL, *STATISTICS]
)
def test_operations_are_those_of_tensors(
    operation: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rand(2, 4, *SIZE)

    def never(func: Any, *_: Any, **__: Any) -> None:
        pytest.fail(f"{func} has computed a whole map")

    monkeypatch.setitem(RULES, "whole", never)
    with torch.no_grad():
        expected = operation(x)
    for tile in (13, 16, 100):
        result = tiled(operation, x, tile)
        assert type(result) is Tensor and result.dtype == expected.dtype
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "operation",
    [lambda x: x.roll(3, 2), lambda x: x.cumsum(3), lambda x: x.flatten().sort().values],
)
def test_an_operation_without_a_rule_takes_the_whole_map(operation: Callable[[Tensor], Tensor]) -> None:
    x = rand(1, 4, *SIZE)
    torch.testing.assert_close(tiled(operation, x, memory=2**20), operation(x))
    with pytest.raises(StylezooError, match="cannot work in tiles: aten.* needs all of a map of"):
        tiled(operation, rand(1, 64, 64, 64), memory=2**10)


def test_only_what_is_asked_for_is_computed() -> None:
    """A window of the output reads the source within the receptive field, 2 + 2 * 1 positions around it."""
    read = []
    x = rand(1, 4, 64, 64)
    stream = Stream(16, (64, 64), x.device, Budget(0))
    with torch.inference_mode():
        source = StreamedMap.of(x, stream)
        inner = source.node.read
        source.node.read = lambda window: read.append(window) or inner(window)
        output = conv(5, 3, 3, padding=1, padding_mode="reflect")(NEIGHBORS["conv_reflect"](F.max_pool2d(source, 2)))
        whole(output)
    sizes = {window.size for window in read}
    assert max(height for height, _ in sizes) == 16 + 2 * 2 * 3 and len(read) == 16
    assert (min(window.top for window in read), max(window.bottom for window in read)) == (0, 64)
