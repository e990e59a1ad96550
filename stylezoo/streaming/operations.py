"""The rules of `StreamedMap`: what each operation of PyTorch becomes, and which windows it needs.

Pointwise operations need none, PyTorch marks them (`torch.Tag.pointwise`). Those with a neighborhood are nodes of their own
below. Statistics over positions are computed at once (`stylezoo.streaming.statistics`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from stylezoo.errors import StylezooError
from stylezoo.streaming import statistics
from stylezoo.streaming.maps import RULES, Layout, Node, Source, StreamedMap, arranged, local, whole
from stylezoo.streaming.memory import InMemory, Window

aten = torch.ops.aten

Pair = tuple[int, int]


def _rule(*operations: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the rule of operations; it takes the operation and its arguments."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return register


def _pair(value: Any, default: Any = None) -> Pair:
    """Two numbers from one, from one in a list, from two, or from none."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    values = values if values else list(_pair(default))
    return (values[0], values[-1])


# Operations without neighbors


@_rule("pointwise", aten.leaky_relu)  # PyTorch 2.6 does not mark the latter
def _pointwise(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of single positions, of maps and of tensors that broadcast with them."""
    leaves, structure = tree_flatten((args, kwargs))
    maps = [leaf for leaf in leaves if isinstance(leaf, StreamedMap)]
    size = max((m.node.shape[2:] for m in maps), key=torch.Size.numel)
    layout, stream = max(maps, key=lambda m: m.node.shape[2:].numel()).arrangement, maps[0].stream
    places: list[int] = []
    inputs: list[StreamedMap] = []
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, StreamedMap) and leaf.node.shape[2:] != size:
            if leaf.node.shape[2:].numel() != 1:
                return NotImplemented
            (leaves[place],) = whole(leaf)
        elif isinstance(leaf, StreamedMap):
            if leaf.arrangement != layout:
                return NotImplemented
            places.append(place)
            inputs.append(leaf)
        elif isinstance(leaf, Tensor) and leaf.ndim:
            planes = _planes(leaf.to(stream.device), layout, size)
            if planes is not None:
                places.append(place)
                inputs.append(
                    StreamedMap(
                        Source(InMemory(planes).read, planes.shape, planes.dtype, stream.device), stream, layout
                    )
                )
            else:
                leaves[place] = leaf.to(stream.device)

    def function(*values: Tensor) -> Any:
        filled = list(leaves)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        positional, named = tree_unflatten(filled, structure)
        return func(*positional, **named)

    return local(function, inputs)


def _planes(tensor: Tensor, layout: Layout, size: torch.Size) -> Tensor | None:
    """A tensor as a map (B, C, H, W) if it has a value for each position; None if it is the same everywhere."""
    if layout == "bchw":
        own = tensor.reshape((1,) * (4 - tensor.ndim) + tuple(tensor.shape))
        return own.expand(-1, -1, *size) if own.shape[2:].numel() > 1 else None
    own = tensor.reshape((1,) * (3 - tensor.ndim) + tuple(tensor.shape))
    own = own if layout == "bcn" else own.transpose(1, 2)
    return own.unflatten(2, size) if own.shape[2] == size.numel() > 1 else None  # type: ignore[no-untyped-call]


def _on_channels(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on batch and channels, the same at each position."""
    return local(lambda value: func(value, *args, **kwargs), [x])


def _channel_dims(x: StreamedMap) -> set[int]:
    """The dimensions of a map that are not positions."""
    return {"bchw": {0, 1}, "bcn": {0, 1}, "bnc": {0, 2}}[x.arrangement]


def _dims(x: StreamedMap, dim: Any) -> set[int]:
    """Dimensions as positive numbers; all if there are none."""
    given = list(dim) if isinstance(dim, (list, tuple)) else [dim]
    return {d % x.ndim for d in given} if dim is not None and given else set(range(x.ndim))


@_rule(aten.detach, aten.alias, aten.clone, aten.contiguous, aten.lift_fresh, aten.cpu, aten.positive)
def _same(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return StreamedMap(x.node, x.stream, x.arrangement)


@_rule(aten.dropout, aten.feature_dropout, aten.alpha_dropout)
def _dropout(func: Any, x: Any, p: float, train: bool) -> Any:
    return x if not train else NotImplemented


@_rule(aten.to, aten._to_copy, aten.type_as)
def _to(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A change of the type; maps stay on the device of their run."""
    given = [*args, *kwargs.values()]
    other = next((value for value in given if isinstance(value, Tensor)), None)
    dtype = next((value for value in given if isinstance(value, torch.dtype)), None)
    if other is not None:
        dtype = other.dtype
    if not isinstance(x, StreamedMap):
        device = other.stream.device if isinstance(other, StreamedMap) else None
        return x.to(device=device, dtype=dtype)
    return x if dtype in (None, x.dtype) else local(lambda value: value.to(dtype), [x])


@_rule(aten.ones_like, aten.zeros_like, aten.empty_like, aten.full_like)
def _filled(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    kwargs = {name: value for name, value in kwargs.items() if name != "memory_format"}
    return local(lambda value: func(value, *args, **kwargs), [x])


@_rule(aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full)
def _new(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return func(torch.empty(0, dtype=x.dtype, device=x.device), *args, **kwargs)


@_rule(aten.slice)
def _slice(func: Any, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    dim %= x.ndim
    if dim in _channel_dims(x):
        return local(lambda value: func(value, dim, start, end, step), [x], aliases=True)
    if x.arrangement != "bchw":
        return NotImplemented
    first, last, _ = slice(start, end).indices(x.shape[dim])
    after = x.shape[dim] - max(first, last)
    pads = [0, 0, first, after] if dim == 2 else [first, after, 0, 0]
    cut = _padded(x, [-n for n in pads], "constant", 0.0)
    if step == 1:
        return cut
    shape = list(cut.node.shape)
    shape[dim] = -(-shape[dim] // step)
    steps = (step, 1) if dim == 2 else (1, step)
    node = Neighborhood(cut.node, shape, x.dtype, lambda v: v[..., :: steps[0], :: steps[1]], (1, 1), steps)
    return StreamedMap(node, x.stream)


@_rule(aten.expand)
def _expand(func: Any, x: Any, size: Sequence[int], **kwargs: Any) -> Any:
    if len(size) != x.ndim or any(n not in (-1, x.shape[d]) for d, n in enumerate(size) if d not in _channel_dims(x)):
        return NotImplemented
    wanted = [n if d in _channel_dims(x) else -1 for d, n in enumerate(size)]
    return local(lambda value: value.expand(wanted), [x], aliases=True)


@_rule(aten.split, aten.split_with_sizes, aten.chunk)
def _split(func: Any, x: Any, sections: Any, dim: int = 0) -> Any:
    dim %= x.ndim
    if dim not in _channel_dims(x):
        return NotImplemented
    sample = func(arranged(torch.empty(*x.node.shape[:2], 1, 1, device="meta"), x.arrangement), sections, dim)
    starts = [0]
    for part in sample:
        starts.append(starts[-1] + part.shape[dim])
    return [
        local(partial(torch.narrow, dim=dim, start=start, length=stop - start), [x], aliases=True)
        for start, stop in itertools.pairwise(starts)
    ]


@_rule(aten.cat, aten.concat)
def _cat(func: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    maps = [t for t in tensors if isinstance(t, StreamedMap)]
    if dim % maps[0].ndim not in _channel_dims(maps[0]):
        return NotImplemented
    return _pointwise(func, tensors, dim)


@_rule(aten.index_select)
def _index_select(func: Any, x: Any, dim: int, index: Tensor) -> Any:
    """Some channels, or some of the positions in a row: an ordinary tensor."""
    if not isinstance(x, StreamedMap) or dim % x.ndim in _channel_dims(x) or x.arrangement == "bchw":
        return _along_channels(func, x, dim, index)
    return arranged(statistics.selected(x, index)[..., None], x.arrangement)


@_rule(aten.flip, aten.softmax, aten.roll)
def _along_channels(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    place = 1 if func.overloadpacket is aten.roll else 0
    dims = args[place] if len(args) > place else kwargs.get("dim", kwargs.get("dims"))
    if not isinstance(x, StreamedMap) or not _dims(x, dims) <= _channel_dims(x):
        return NotImplemented
    return _on_channels(func, x, *args, **kwargs)


@_rule(aten.argmax, aten.argmin)
def _argmax(func: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None or not keepdim or dim % x.ndim not in _channel_dims(x):
        return NotImplemented
    return _on_channels(func, x, dim, keepdim)


@_rule(aten.batch_norm)
def _batch_norm(func: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *args: Any) -> Any:
    if training or x.arrangement == "bnc":
        return NotImplemented
    return local(lambda value: func(value, weight, bias, mean, var, False, *args), [x])


# Layouts: positions in a row, tokens


def _relaid(x: StreamedMap, layout: Layout) -> StreamedMap:
    return StreamedMap(x.node, x.stream, layout)


@_rule(aten.transpose, aten.swapaxes)
def _transpose(func: Any, x: Any, first: int, second: int) -> Any:
    swapped = {first % x.ndim, second % x.ndim}
    if x.ndim == 3 and swapped == {1, 2}:
        return _relaid(x, "bnc" if x.arrangement == "bcn" else "bcn")
    return x if len(swapped) == 1 else NotImplemented


@_rule(aten.permute)
def _permute(func: Any, x: Any, dims: Sequence[int]) -> Any:
    order = [d % x.ndim for d in dims]
    if order == [0, 2, 1]:
        return _transpose(func, x, 1, 2)
    return x if order == list(range(x.ndim)) else NotImplemented


@_rule(aten.flatten)
def _flatten(func: Any, x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if x.arrangement == "bchw" and (start_dim % 4, end_dim % 4) == (2, 3):
        return _relaid(x, "bcn")
    return NotImplemented


@_rule(aten.reshape, aten.view, aten._unsafe_view, aten.view_as, aten.reshape_as, aten.unflatten)
def _reshape(func: Any, x: Any, *args: Any) -> Any:
    if not isinstance(x, StreamedMap):
        return NotImplemented
    shape = tuple(func(torch.empty(x.shape, device="meta"), *args).shape)
    if shape == tuple(x.shape):
        return x
    batch, channels, height, width = x.node.shape
    if x.arrangement == "bcn" and shape == (batch, channels, height, width):
        return _relaid(x, "bchw")
    if x.arrangement == "bchw" and shape == (batch, channels, height * width):
        return _relaid(x, "bcn")
    return NotImplemented


@_rule(aten.linear)
def _linear(func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(x, StreamedMap) or x.arrangement != "bnc":
        return NotImplemented
    return local(lambda value: func(value, weight, bias), [x], costs=True)


@_rule(aten.layer_norm)
def _layer_norm(func: Any, x: Any, shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    if x.arrangement != "bnc" or len(shape) != 1:
        return NotImplemented
    return _on_channels(func, x, shape, *args, **kwargs)


@_rule(aten.matmul, aten.bmm)
def _matmul(func: Any, first: Any, second: Any) -> Any:
    """Products with a matrix at each position, and sums over positions of products of channels."""
    if isinstance(first, StreamedMap) and isinstance(second, StreamedMap):
        if (first.arrangement, second.arrangement) != ("bcn", "bnc") or first.node.shape[2:] != second.node.shape[2:]:
            return NotImplemented
        return (statistics.products(first, second) * first.node.shape[2:].numel()).to(first.dtype)
    if isinstance(second, StreamedMap) and second.arrangement == "bcn" and first.ndim >= 2:
        matrix = first.to(second.stream.device)
        return local(
            lambda value: func(matrix.expand(len(value), -1, -1) if func is aten.bmm.default else matrix, value),
            [second],
        )
    if isinstance(first, StreamedMap) and first.arrangement == "bnc" and second.ndim >= 2:
        return local(lambda value: func(value, second), [first])
    return NotImplemented


# Statistics


def _positions_only(x: StreamedMap, dims: set[int]) -> bool:
    """Whether dimensions are those of positions, and maybe others."""
    return set(range(x.ndim)) - _channel_dims(x) <= dims


def _small(x: StreamedMap, values: Tensor, dims: set[int], keepdim: bool) -> Tensor:
    """A statistic (B, C, 1, 1) as it would have been computed from the map."""
    small = arranged(values, x.arrangement)
    if not keepdim:
        small = small.reshape([n for d, n in enumerate(small.shape) if d not in dims])
    return small


def _reduce(func: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **options: Any) -> Any:
    """mean, sum, amin, amax, any and all."""
    if isinstance(dim, bool):
        return NotImplemented
    dims = _dims(x, dim)
    if dims <= _channel_dims(x):
        if not keepdim:
            return NotImplemented
        return local(lambda value: func(value, list(dims), True), [x])
    if not _positions_only(x, dims):
        return NotImplemented
    name = func.overloadpacket.__name__
    if name in ("mean", "sum"):
        small = statistics.moments(x if x.dtype.is_floating_point else x.to(torch.float32))[0]
        small = small * x.node.shape[2:].numel() if name == "sum" else small
    else:
        flags = name in ("any", "all")
        low, high = statistics.extremes((x != 0).to(torch.uint8) if flags else x)
        small = low if name in ("amin", "all") else high
    small = arranged(small, x.arrangement)
    for d in dims:
        reduce = {"any": torch.amax, "all": torch.amin}.get(name, getattr(torch, name))
        small = reduce(small, dim=d, keepdim=True)
    result = torch.bool if name in ("any", "all") else dtype or x.dtype
    if name == "sum" and not result.is_floating_point and dtype is None and result != torch.bool:
        result = torch.int64
    return _small_of(small.to(result), dims, keepdim)


def _small_of(small: Tensor, dims: set[int], keepdim: bool) -> Tensor:
    return small if keepdim else small.reshape([n for d, n in enumerate(small.shape) if d not in dims])


RULES.update(dict.fromkeys((aten.mean, aten.sum, aten.amin, aten.amax, aten.any, aten.all), _reduce))


@_rule(aten.var, aten.std, aten.var_mean, aten.std_mean)
def _variance(func: Any, x: Any, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """var, std and both with means; the correction is that of the number of positions."""
    if isinstance(dim, bool):
        return NotImplemented
    dims, keepdim, correction = _dims(x, dim), kwargs.get("keepdim", False), kwargs.get("correction", 1)
    if "unbiased" in kwargs or (args and isinstance(args[0], bool)):  # var.dim(dim, unbiased, keepdim)
        correction = int(kwargs.get("unbiased", args[0] if args else True))
        keepdim = args[1] if len(args) > 1 else keepdim
    if dims != set(range(x.ndim)) - _channel_dims(x):
        return NotImplemented
    mean, variance = statistics.moments(x)
    count = x.node.shape[2:].numel()
    variance = variance * (count / max(count - (1 if correction is None else correction), 1))
    name = func.overloadpacket.__name__
    spread = variance.sqrt() if name.startswith("std") else variance
    spread, mean = (_small_of(arranged(s, x.arrangement), dims, keepdim).to(x.dtype) for s in (spread, mean))
    return (spread, mean) if name.endswith("mean") else spread


@_rule(aten.group_norm)
def _group_norm(
    func: Any, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    if x.arrangement != "bchw":
        return NotImplemented
    mean, variance = statistics.moments(x)
    batch, channels = x.node.shape[:2]
    if groups != channels:
        own_mean, own_variance = (t.reshape(batch, groups, -1) for t in (mean, variance))
        shared = own_mean.mean(2, keepdim=True)
        spread = (own_variance + (own_mean - shared).square()).mean(2, keepdim=True)
        mean, variance = (t.expand_as(own_mean).reshape(batch, channels, 1, 1) for t in (shared, spread))
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(scale)[:, None, None]
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.to(scale)[:, None, None]
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    return local(lambda value: torch.addcmul(shift, value, scale), [x])


@_rule(aten.instance_norm)
def _instance_norm(
    func: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, own: bool, momentum: float, eps: float, cudnn: bool
) -> Any:
    if own:
        return _group_norm(func, x, x.shape[1], weight, bias, eps)
    return _batch_norm(aten.batch_norm.default, x, weight, bias, mean, var, False, momentum, eps, cudnn)


@_rule(aten.adaptive_avg_pool2d)
def _adaptive_pool(func: Any, x: Any, size: Any) -> Any:
    size = _pair(size)
    if x.arrangement != "bchw":
        return NotImplemented
    mean = statistics.cells(x, size).to(x.dtype)
    return mean if size == (1, 1) else StreamedMap.of(mean, x.stream)


# Neighborhoods


class Padded(Node):
    """A map that is continued at its borders, or cut where a number is negative.

    Args:
        source: The map.
        pads: Columns to the left and right, rows above and below.
        mode: As of `torch.nn.functional.pad`.
        value: What is padded in mode ``constant``.
    """

    def __init__(self, source: Node, pads: Sequence[int], mode: str, value: float) -> None:
        left, right, top, bottom = pads
        batch, channels, height, width = source.shape
        super().__init__([source], (batch, channels, height + top + bottom, width + left + right), source.dtype)
        self.offsets, self.mode, self.value = (top, left), mode, value
        self.aliases = max(pads) <= 0

    def _span(self, start: int, stop: int, axis: int) -> tuple[int, int, int, int]:
        """Returns which rows of the source rows need, and how many are continued before and after these."""
        length = self.inputs[0].shape[2 + axis]
        start, stop = start - self.offsets[axis], stop - self.offsets[axis]
        before, after = max(0, -start), max(0, stop - length)
        first, last = min(max(start, 0), length - 1), max(min(stop, length), 1)
        if before or after:
            reach = {"reflect": 1, "replicate": 0, "constant": 0, "circular": length}[self.mode]
            if self.mode == "circular":
                return 0, length, before, after
            if before:
                first, last = 0, max(last, before + reach if self.mode == "reflect" else 1)
            if after:
                first, last = min(first, length - after - reach if self.mode == "reflect" else length - 1), length
        return first, last, before, after

    def needs(self, window: Window) -> list[Window]:
        top, bottom, *_ = self._span(window.top, window.bottom, 0)
        left, right, *_ = self._span(window.left, window.right, 1)
        return [Window(top, bottom, left, right)]

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        first_row, _, above, below = self._span(window.top, window.bottom, 0)
        first_column, _, left, right = self._span(window.left, window.right, 1)
        piece = values[0]
        if above or below or left or right:
            options = {"value": self.value} if self.mode == "constant" else {}
            piece = F.pad(piece, (left, right, above, below), mode=self.mode, **options)
        row, column = (
            window.top - self.offsets[0] + above - first_row,
            window.left - self.offsets[1] + left - first_column,
        )
        height, width = window.size
        return piece[..., row : row + height, column : column + width]


def _padded(x: StreamedMap, pads: Sequence[int], mode: str, value: float) -> StreamedMap:
    return StreamedMap(Padded(x.node, pads, mode, value), x.stream) if any(pads) else x


@_rule(aten.pad)
def _pad(func: Any, x: Any, pads: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    if x.arrangement != "bchw" or len(pads) not in (2, 4):
        return NotImplemented
    return _padded(x, [*pads, 0, 0][:4], mode, 0.0 if value is None else value)


class Neighborhood(Node):
    """A convolution or a pool: an output position depends on ``reach`` rows, which move by ``step`` rows and begin ``before`` the
    first one.

    Args:
        source: The map.
        shape: Of the result.
        dtype: Of the result.
        function: Takes (B, C, h, w) without padding, and returns the positions whose neighborhoods are in it.
        reach: Rows and columns that a position depends on.
        step: Rows and columns between the neighborhoods of neighbors.
        before: Rows and columns of padding.
        costs: See `Node`.
        value: What is padded.
    """

    def __init__(
        self,
        source: Node,
        shape: Sequence[int],
        dtype: torch.dtype,
        function: Callable[[Tensor], Tensor],
        reach: Pair,
        step: Pair,
        before: Pair = (0, 0),
        costs: bool = False,
        value: float = 0.0,
    ) -> None:
        super().__init__([source], shape, dtype)
        self.function, self.reach, self.step, self.before, self.value = function, reach, step, before, value
        self.costs = costs

    def _span(self, start: int, stop: int, axis: int) -> tuple[int, int, int, int]:
        length = self.inputs[0].shape[2 + axis]
        first = start * self.step[axis] - self.before[axis]
        last = (stop - 1) * self.step[axis] - self.before[axis] + self.reach[axis]
        end = length + self.before[axis]  # a pool that rounds up covers less at the end
        first_inside, last_inside = min(max(first, 0), length - 1), max(min(last, length), 1)
        return first_inside, last_inside, max(0, -first), max(0, min(last, end) - length)

    def needs(self, window: Window) -> list[Window]:
        top, bottom, *_ = self._span(window.top, window.bottom, 0)
        left, right, *_ = self._span(window.left, window.right, 1)
        return [Window(top, bottom, left, right)]

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        *_, above, below = self._span(window.top, window.bottom, 0)
        *_, left, right = self._span(window.left, window.right, 1)
        piece = values[0]
        if above or below or left or right:
            piece = F.pad(piece, (left, right, above, below), value=self.value)
        height, width = window.size
        return self.function(piece)[..., :height, :width]


@_rule(aten.conv2d)
def _conv2d(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if not isinstance(x, StreamedMap) or x.arrangement != "bchw":
        return NotImplemented
    step, spread, kernel = _pair(stride), _pair(dilation), tuple(weight.shape[2:])
    reach = tuple(d * (k - 1) + 1 for d, k in zip(spread, kernel, strict=True))
    if padding == "same" and any(r % 2 == 0 for r in reach):
        return NotImplemented
    before = tuple(r // 2 for r in reach) if padding == "same" else (0, 0) if padding == "valid" else _pair(padding)
    sizes = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(x.shape[2:], before, reach, step, strict=True)]
    function = partial(F.conv2d, weight=weight, bias=bias, stride=step, dilation=spread, groups=groups)
    shape = (x.shape[0], weight.shape[0], *sizes)
    node = Neighborhood(x.node, shape, x.dtype, function, reach, step, before, costs=True)
    return StreamedMap(node, x.stream)


def _pooled(x: StreamedMap, function: Callable[..., Tensor], kernel: Any, stride: Any, padding: Any, ceil: bool) -> Any:
    if x.arrangement != "bchw" or any(_pair(padding)):
        return NotImplemented
    reach, step = _pair(kernel), _pair(stride, kernel)
    run = partial(function, kernel_size=reach, stride=step, ceil_mode=ceil)
    shape = run(torch.empty(x.node.shape, device="meta")).shape
    return StreamedMap(Neighborhood(x.node, shape, x.dtype, run, reach, step), x.stream)


@_rule(aten.max_pool2d)
def _max_pool(
    func: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    if _pair(dilation) != (1, 1):
        return NotImplemented
    if any(_pair(padding)) and not ceil:
        vertical, horizontal = _pair(padding)
        x, padding = _padded(x, [horizontal, horizontal, vertical, vertical], "constant", -math.inf), 0
    return _pooled(x, F.max_pool2d, kernel, stride, padding, ceil)


@_rule(aten.avg_pool2d)
def _avg_pool(
    func: Any,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil: bool = False,
    count_include_pad: bool = True,
    divisor: Any = None,
) -> Any:
    if any(_pair(padding)) and not ceil and count_include_pad:
        vertical, horizontal = _pair(padding)
        x, padding = _padded(x, [horizontal, horizontal, vertical, vertical], "constant", 0.0), 0
    return _pooled(x, partial(F.avg_pool2d, divisor_override=divisor), kernel, stride, padding, ceil)


class Transposed(Node):
    """A transposed convolution.

    Args:
        source: The map.
        shape: Of the result.
        function: Takes (B, C, h, w) and output_padding, and returns all positions that its own reach.
        reach: Rows and columns that a position is spread over.
        step: Rows and columns between the results of neighbors.
        before: Rows and columns that are cut from the result.
    """

    costs = True

    def __init__(
        self, source: Node, shape: Sequence[int], function: Callable[..., Tensor], reach: Pair, step: Pair, before: Pair
    ) -> None:
        super().__init__([source], shape, source.dtype)
        self.function, self.reach, self.step, self.before = function, reach, step, before

    def _span(self, start: int, stop: int, axis: int) -> Pair:
        length, step, before = self.inputs[0].shape[2 + axis], self.step[axis], self.before[axis]
        first = (start + before - self.reach[axis] + 1) // step
        last = (stop - 1 + before) // step + 1
        first = min(max(first, 0), length - 1)
        return first, max(min(last, length), first + 1)

    def needs(self, window: Window) -> list[Window]:
        return [Window(*self._span(window.top, window.bottom, 0), *self._span(window.left, window.right, 1))]

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        starts, ends, missing = [], [], []
        for axis, (start, stop) in enumerate(((window.top, window.bottom), (window.left, window.right))):
            first, last = self._span(start, stop, axis)
            origin = first * self.step[axis] - self.before[axis]  # where the piece's first result belongs
            reached = (last - first - 1) * self.step[axis] + self.reach[axis]
            starts.append(start - origin)
            ends.append(stop - origin)
            missing.append(max(0, stop - origin - reached))
        result = self.function(values[0], output_padding=missing)
        return result[..., starts[0] : ends[0], starts[1] : ends[1]]


@_rule(aten.conv_transpose2d)
def _conv_transpose2d(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    if not isinstance(x, StreamedMap) or x.arrangement != "bchw":
        return NotImplemented
    step, before, spread = _pair(stride), _pair(padding), _pair(dilation)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(spread, weight.shape[2:], strict=True))
    extra = _pair(output_padding)
    sizes = [(n - 1) * s - 2 * p + r + e for n, s, p, r, e in zip(x.shape[2:], step, before, reach, extra, strict=True)]
    function = partial(F.conv_transpose2d, weight=weight, bias=bias, stride=step, groups=groups, dilation=spread)
    shape = (x.shape[0], weight.shape[1] * groups, *sizes)
    return StreamedMap(Transposed(x.node, shape, function, reach, step, before), x.stream)


class Resampled(Node):
    """A map in another size, by nearest neighbors or linearly.

    Args:
        source: The map.
        size: Height and width.
        scales: Factors that were asked for, per axis; None takes the ratio of the sizes.
        linear: Whether it is interpolated.
    """

    def __init__(self, source: Node, size: Pair, scales: Sequence[float | None], linear: bool) -> None:
        super().__init__([source], (*source.shape[:2], *size), source.dtype)
        self.linear = linear
        self.factors = tuple(
            int(s) if s is not None and s == int(s) and n == m * int(s) else n // m if n % m == 0 and s is None else 0
            for n, m, s in zip(size, source.shape[2:], scales, strict=True)
        )
        """Factors that are whole numbers, else 0."""
        self.tables = [_table(m, n, s, linear) for m, n, s in zip(source.shape[2:], size, scales, strict=True)]

    def needs(self, window: Window) -> list[Window]:
        spans = []
        for axis, (start, stop) in enumerate(((window.top, window.bottom), (window.left, window.right))):
            lower, upper, _ = self.tables[axis]
            spans += [int(lower[start]), int(upper[stop - 1]) + 1]
        return [Window(*spans)]

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        piece, (height, width) = values[0], window.size
        (origin,) = needed
        if all(self.factors):
            mode = "bilinear" if self.linear else "nearest"
            large = F.interpolate(piece, scale_factor=tuple(map(float, self.factors)), mode=mode)
            row, column = window.top - origin.top * self.factors[0], window.left - origin.left * self.factors[1]
            return large[..., row : row + height, column : column + width]
        for axis, (start, stop, first) in enumerate(
            ((window.top, window.bottom, origin.top), (window.left, window.right, origin.left))
        ):
            lower, upper, share = (table[start:stop].to(piece.device) for table in self.tables[axis])
            low = piece.index_select(2 + axis, lower - first)
            if self.linear:
                shares = share.to(piece.dtype)[:, None] if axis == 0 else share.to(piece.dtype)
                low = low.lerp(piece.index_select(2 + axis, upper - first), shares)
            piece = low
        return piece


def _table(length: int, count: int, scale: float | None, linear: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``count`` rows the two of ``length`` that it lies between, and the share of the second."""
    if not linear:
        options = {"size": (count, 1)} if scale is None else {"scale_factor": (scale, 1.0)}
        rows = torch.arange(length, dtype=torch.float64).reshape(1, 1, -1, 1)
        nearest = F.interpolate(rows, mode="nearest", **options).flatten().long()
        return nearest, nearest, torch.zeros(count)
    ratio = length / count if scale is None else 1 / scale
    place = ((torch.arange(count, dtype=torch.float64) + 0.5) * ratio - 0.5).clamp_min(0)
    lower = place.floor().long().clamp_max(length - 1)
    return lower, (lower + 1).clamp_max(length - 1), place - lower


@_rule(aten.upsample_nearest2d, aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa)
def _upsample(func: Any, x: Any, size: Any, *args: Any) -> Any:
    """``.vec`` overloads have a size or scale factors."""
    scales = args[-1] if args and isinstance(args[-1], (list, tuple)) else None
    name = func.overloadpacket.__name__
    linear = name != "upsample_nearest2d"
    if x.arrangement != "bchw" or (linear and args and args[0] is True) or func._overloadname not in ("vec",):
        return NotImplemented
    if size is None:
        size = [int(n * s) for n, s in zip(x.shape[2:], scales or (), strict=True)]
    if name.endswith("_aa") and any(n < m for n, m in zip(size, x.shape[2:], strict=True)):
        return NotImplemented  # what is made smaller is averaged over more than two rows
    node = Resampled(x.node, tuple(size), scales or (None, None), linear)
    return StreamedMap(node, x.stream)


class Shuffled(Node):
    """Blocks of r x r positions that become channels, or the other way round.

    Args:
        source: The map.
        factor: r; negative for channels that become positions.
    """

    def __init__(self, source: Node, factor: int) -> None:
        batch, channels, height, width = source.shape
        r = abs(factor)
        grown = (batch, channels // r**2, height * r, width * r)
        super().__init__(
            [source], grown if factor < 0 else (batch, channels * r**2, height // r, width // r), source.dtype
        )
        self.factor = factor

    def needs(self, window: Window) -> list[Window]:
        r = abs(self.factor)
        if self.factor > 0:
            return [Window(*(n * r for n in window))]
        top, bottom, left, right = window
        return [Window(top // r, -(-bottom // r), left // r, -(-right // r))]

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        if self.factor > 0:
            return F.pixel_unshuffle(values[0], self.factor)
        r, (origin,), (height, width) = -self.factor, needed, window.size
        row, column = window.top - origin.top * r, window.left - origin.left * r
        return F.pixel_shuffle(values[0], r)[..., row : row + height, column : column + width]


@_rule(aten.pixel_shuffle)
def _pixel_shuffle(func: Any, x: Any, factor: int) -> Any:
    return StreamedMap(Shuffled(x.node, -factor), x.stream)


@_rule(aten.pixel_unshuffle)
def _pixel_unshuffle(func: Any, x: Any, factor: int) -> Any:
    return StreamedMap(Shuffled(x.node, factor), x.stream)


# Everything else


@_rule("whole")
def _whole(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Computes the maps as a whole; what is too large for that cannot be streamed.

    Raises:
        StylezooError: If a map does not fit into memory.
    """
    leaves, structure = tree_flatten((args, kwargs))
    maps = [leaf for leaf in leaves if isinstance(leaf, StreamedMap)]
    if maps[0].stream.is_dry or sum(m.node.nbytes for m in maps) > max(maps[0].stream.budget.left, 2**20):
        raise StylezooError(
            f"This model cannot work in tiles: {func.overloadpacket} needs all of a map of {tuple(maps[0].node.shape)} at once,"
            " which does not fit into memory."
        )
    positional, named = tree_unflatten(whole(*leaves), structure)
    return func(*positional, **named)
