"""`StreamedMap`, a tensor that is computed window by window, and what computes its windows.

A streamed map looks like a tensor (B, C, H, W) to the code of a model, but operations on it compute nothing: they add a node
to a graph. A node knows which windows of its inputs a window of its output needs, so that halos follow from kernels, strides
and padding. A window is evaluated as compilers do it: from the last node to the first, the windows that each node has to
supply are joined; then every node is computed once, and what is not needed any longer is freed. At the borders of the image
nodes of padding supply mirrored pixels, inside they cost nothing.
"""

from __future__ import annotations

import itertools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stylezoo.errors import StylezooError
from stylezoo.streaming.memory import KEPT_SHARE, Budget, InMemory, Storage, Window, free_memory

Layout = Literal["bchw", "bcn", "bnc"]
"""How a map appears: (B, C, H, W), or with its positions in a row, (B, C, H*W), or as tokens, (B, H*W, C)."""

RULES: dict[Any, Callable[..., Any]] = {}
"""{operation of PyTorch: how it is done with streamed maps}, filled by `stylezoo.streaming.operations`."""

_numbers = itertools.count()


@dataclass(eq=False)
class Stream:
    """A run of a model in tiles: how large these are, and what is kept.

    Attributes:
        tile: Side of the tiles in positions of the source.
        size: Height and width of the source.
        device: Where windows are computed.
        budget: What kept maps may take.
        passes: Number of passes that statistics, and the output, have taken so far.
        on_tile: Called after each tile with its number, the number of tiles of the pass and that of the pass.
        recorder: What replaces statistics, see `stylezoo.streaming.statistics`; None computes them.
        nodes: All nodes, in the order of computation, if this is a dry run.
    """

    tile: int
    size: tuple[int, int]
    device: torch.device
    budget: Budget
    passes: int = 0
    on_tile: Callable[[int, int, int], None] | None = None
    recorder: Any = None
    nodes: dict[Node, None] | None = None

    @classmethod
    def of(cls, size: tuple[int, int], tile: int, device: torch.device, memory: float | None = None) -> Stream:
        """Returns a run over a source.

        Args:
            size: Height and width of the source.
            tile: Side of the tiles in positions of the source.
            device: Where to compute.
            memory: Bytes that kept maps may take; None takes a share of what is free.
        """
        return cls(tile, size, device, Budget(KEPT_SHARE * free_memory(device) if memory is None else memory))

    @property
    def is_dry(self) -> bool:
        """Whether nothing is computed, and statistics have arbitrary values."""
        return self.nodes is not None

    def room(self, node: Node) -> Storage:
        """Returns where a map can be kept.

        Raises:
            StylezooError: If there is no room.
        """
        storage = self.budget.place(node.shape, node.dtype, self.device)
        if storage is None:
            raise StylezooError(
                f"There is no room for a map of {node.nbytes / 2**30:.1f} GiB, neither in memory nor for a temporary file: free"
                " some, or resize to fewer pixels (size, --size)."
            )
        return storage

    def bounds(self, length: int, axis: int) -> list[int]:
        """Returns where the tiles of a map begin and end along an axis, for a map of that length: as many for each map."""
        whole = self.size[axis]
        count = max(1, -(-whole // self.tile))
        return [*(min(length, round(self.tile * index * length / whole)) for index in range(count)), length]

    def windows(self, height: int, width: int) -> list[Window]:
        """Returns the tiles of a map, row by row."""
        rows, columns = self.bounds(height, 0), self.bounds(width, 1)
        return [Window(*row, *column) for row in itertools.pairwise(rows) for column in itertools.pairwise(columns)]


class Node(ABC):
    """A map (B, C, H, W) in the graph of a computation.

    Args:
        inputs: The maps that it is computed from.
        shape: (B, C, H, W).
        dtype: Of its values.
    """

    costs = False
    """Whether it is so much work that its result is worth being kept."""

    aliases = False
    """Whether PyTorch computes it without memory of its own."""

    def __init__(self, inputs: Sequence[Node], shape: Sequence[int], dtype: torch.dtype) -> None:
        self.number = next(_numbers)
        self.inputs = tuple(inputs)
        self.shape, self.dtype = torch.Size(shape), dtype
        self.stored: Storage | None = None
        self.handles: weakref.WeakValueDictionary[int, StreamedMap] = weakref.WeakValueDictionary()

    @abstractmethod
    def needs(self, window: Window) -> list[Window]:
        """Returns the window of each input that a window of the map is computed from."""

    @abstractmethod
    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        """Computes a window.

        Args:
            window: Of the map.
            needed: What `needs` returned for it.
            values: The inputs in these windows, each (B, C, h, w).
        """

    def __lt__(self, other: Node) -> bool:
        return self.number > other.number  # in heaps, the last node comes first

    @property
    def whole(self) -> Window:
        """The window of all positions."""
        return Window(0, self.shape[2], 0, self.shape[3])

    @property
    def nbytes(self) -> int:
        """Bytes of the whole map."""
        return self.shape.numel() * self.dtype.itemsize

    def keep(self, storage: Storage) -> None:
        """Takes over the values of the whole map; the nodes before it are not needed any longer."""
        self.stored, self.inputs = storage, ()

    @property
    def is_cheap(self) -> bool:
        """Whether computing it again takes little work."""
        todo, seen = [self], set()
        while todo:
            node = todo.pop()
            if node.number in seen or node.stored is not None:
                continue
            if node.costs:
                return False
            seen.add(node.number)
            todo += node.inputs
        return True


class Source(Node):
    """A map that is read, not computed.

    Args:
        read: Returns a window, (B, C, h, w).
        shape: (B, C, H, W).
        dtype: Of its values.
        device: Where its values are computed with.
    """

    def __init__(
        self, read: Callable[[Window], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__((), shape, dtype)
        self.read, self.device = read, device

    def needs(self, window: Window) -> list[Window]:
        return []

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        return self.read(window).to(self.device, self.dtype)


class Local(Node):
    """A map each of whose positions is computed from the same position of its inputs.

    Args:
        function: Takes the inputs in the layout, and returns the map in it.
        inputs: The maps.
        layout: In which the function works.
        shape: (B, C, H, W) of the result.
        dtype: Of the result.
        costs: See `Node`.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[Node],
        layout: Layout,
        shape: Sequence[int],
        dtype: torch.dtype,
        costs: bool = False,
        aliases: bool = False,
    ) -> None:
        super().__init__(inputs, shape, dtype)
        self.function, self.layout, self.costs, self.aliases = function, layout, costs, aliases

    def needs(self, window: Window) -> list[Window]:
        return [window] * len(self.inputs)

    def compute(self, window: Window, needed: list[Window], values: list[Tensor]) -> Tensor:
        result = self.function(*(arranged(value, self.layout) for value in values))
        return restored(result, self.layout, window.size)


def arranged(values: Tensor, layout: Layout) -> Tensor:
    """(B, C, h, w) in a layout."""
    if layout == "bchw":
        return values
    return values.flatten(2) if layout == "bcn" else values.flatten(2).transpose(1, 2)


def restored(values: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    """The inverse of `arranged`, for a height and a width."""
    if layout == "bchw":
        return values
    positions = values if layout == "bcn" else values.transpose(1, 2)
    return positions.reshape(*positions.shape[:2], *size)


class StreamedMap(Tensor):
    """A tensor that is computed window by window; see the module.

    It exists in inference mode only, where PyTorch hands every operation over as a model calls it. Statistics over positions
    run over all tiles at once, and are ordinary tensors. An operation without a rule computes the whole map.

    Attributes:
        node: What computes it.
        arrangement: How it appears.
        stream: The run that it belongs to.
    """

    node: Node
    arrangement: Layout
    stream: Stream

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, node: Node, stream: Stream, layout: Layout = "bchw") -> StreamedMap:  # noqa: PYI034 - typing has no Self in Python 3.10
        batch, channels, height, width = node.shape
        shapes = {
            "bchw": node.shape,
            "bcn": (batch, channels, height * width),
            "bnc": (batch, height * width, channels),
        }
        self = Tensor._make_wrapper_subclass(cls, shapes[layout], dtype=node.dtype, device=stream.device)
        self.node, self.stream, self.arrangement = node, stream, layout
        node.handles[id(self)] = self
        return self

    def __init__(self, node: Node, stream: Stream, layout: Layout = "bchw") -> None:
        if stream.nodes is not None:
            stream.nodes[node] = None

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"StreamedMap({tuple(self.shape)}, {self.dtype}, tiles of {self.stream.tile})"

    def is_contiguous(self, *_: Any, **__: Any) -> bool:
        """No: it has no memory. What looks for faster forms of operations by their arguments leaves it alone."""
        return False

    @classmethod
    def of(cls, tensor: Tensor, stream: Stream) -> StreamedMap:
        """Returns a map whose values are in memory, (B, C, H, W)."""
        source = Source(InMemory(tensor).read, tensor.shape, tensor.dtype, stream.device)
        return cls(source, stream)

    @classmethod
    def stored(cls, tensor: Tensor, stream: Stream) -> StreamedMap:
        """Does the same, and takes the values over to where the run keeps maps.

        Raises:
            StylezooError: If there is no room.
        """
        source = Source(lambda _: tensor, tensor.shape, tensor.dtype, stream.device)
        source.keep(stream.room(source))
        assert source.stored is not None
        source.stored.write(source.whole, tensor)
        return cls(source, stream)

    def kept(self) -> Storage:
        """Computes the map, keeps it for all that follows, and returns where.

        Raises:
            StylezooError: If there is no room.
        """
        if self.node.stored is None:
            storage = self.stream.room(self.node)
            for (window,), (values,) in sweep(self.stream, [self], keep=False):
                if values.numel():
                    storage.write(window, values)
            self.node.keep(storage)
        assert self.node.stored is not None
        return self.node.stored

    def local(self, function: Callable[..., Tensor], *others: StreamedMap, costs: bool = False) -> StreamedMap:
        """Returns what a function makes of the map, which it computes position by position.

        Args:
            function: Takes the map and the others in the map's layout, and returns a tensor in it.
            others: Maps of the same height and width.
            costs: Whether the result is worth being kept.
        """
        return local(function, [self, *others], costs=costs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable and isinstance(args[0], StreamedMap):
            functional = getattr(torch.ops.aten, func.overloadpacket.__name__.removesuffix("_"))
            changed = functional(*args, **kwargs)
            changed = changed if isinstance(changed, StreamedMap) else StreamedMap.of(changed, args[0].stream)
            args[0].node = changed.node
            changed.node.handles[id(args[0])] = args[0]
            return args[0]
        rule = RULES.get(func.overloadpacket) or (RULES["pointwise"] if torch.Tag.pointwise in func.tags else None)
        result = NotImplemented if rule is None else rule(func, *args, **kwargs)
        if result is NotImplemented and func._can_decompose():
            result = func.decompose(*args, **kwargs)
        return RULES["whole"](func, *args, **kwargs) if result is NotImplemented else result


def local(
    function: Callable[..., Tensor], maps: Sequence[StreamedMap], *, costs: bool = False, aliases: bool = False
) -> StreamedMap:
    """Returns what a function makes of maps of one size, position by position; see `StreamedMap.local`."""
    layout, stream, (height, width) = maps[0].arrangement, maps[0].stream, maps[0].node.shape[2:]
    zeros = (torch.zeros(*m.node.shape[:2], 1, 1, dtype=m.dtype, device=stream.device) for m in maps)
    probe = restored(function(*(arranged(zero, layout) for zero in zeros)), layout, (1, 1))
    shape = (*probe.shape[:2], height, width)
    return StreamedMap(
        Local(function, [m.node for m in maps], layout, shape, probe.dtype, costs, aliases), stream, layout
    )


def evaluate(targets: Mapping[Node, Window]) -> dict[Node, Tensor]:
    """Computes windows of maps, and everything that these need, once.

    Args:
        targets: {map: its window}.

    Returns:
        {map: (B, C, h, w)}.
    """
    windows, needed = _planned(targets)
    users = {source: node for node in windows for source in node.inputs if node in needed}
    for node in needed:
        for source in node.inputs:
            if users[source].number < node.number:
                users[source] = node
    values: dict[Node, Tensor] = {}
    for node in sorted(windows, reverse=True):
        if node.stored is not None:
            values[node] = node.stored.read(windows[node])
            continue
        pieces = []
        for source, wanted in zip(node.inputs, needed[node], strict=True):
            rows, columns = wanted.within(windows[source])
            pieces.append(values[source][..., rows, columns])
        for source in node.inputs:
            if users[source] is node and source not in targets:
                values.pop(source, None)
        values[node] = node.compute(windows[node], needed[node], pieces)
        del pieces
    cuts = {node: window.within(windows[node]) for node, window in targets.items()}
    return {node: values[node][..., rows, columns] for node, (rows, columns) in cuts.items()}


def _planned(targets: Mapping[Node, Window]) -> tuple[dict[Node, Window], dict[Node, list[Window]]]:
    """Returns the window in which each map is to be computed, and what it needs of its inputs, unless it is kept."""
    windows, needed = dict(targets), {}
    heap: list[Node] = []
    for node in windows:
        heappush(heap, node)
    while heap:
        node = heappop(heap)
        if node.stored is not None:
            continue
        needed[node] = node.needs(windows[node])
        for source, window in zip(node.inputs, needed[node], strict=True):
            if source in windows:
                windows[source] = windows[source].hull(window)
            else:
                windows[source] = window
                heappush(heap, source)
    return windows, needed


def sweep(
    stream: Stream, maps: Sequence[StreamedMap], *, keep: bool = True
) -> Iterator[tuple[list[Window], list[Tensor]]]:
    """Computes maps tile by tile in one pass, which takes each tile of all of them at a time.

    Args:
        stream: The run.
        maps: Of any sizes.
        keep: Whether what is much work is kept, as far as there is room: the maps, and those of their sizes that they are
            computed from and that a model still holds.

    Yields:
        The window of each map, and its values (B, C, h, w) there.
    """
    nodes = [m.node for m in maps]
    room: dict[Node, Storage] = {}
    for node in _worth_keeping(nodes) if keep else ():
        storage = stream.budget.place(node.shape, node.dtype, stream.device)
        if storage is not None:
            room[node] = storage
    sizes = {node.shape[2:]: index for index, node in reversed(list(enumerate(nodes)))}
    grids = [stream.windows(*node.shape[2:]) for node in nodes]
    stream.passes += 1
    for number, windows in enumerate(zip(*grids, strict=True), 1):
        targets = {node: window for node, window in zip(nodes, windows, strict=True) if all(window.size)}
        kept = {node: windows[sizes[node.shape[2:]]] for node in room}
        values = evaluate({**{node: window for node, window in kept.items() if all(window.size)}, **targets})
        for node, storage in room.items():
            if node in values:
                storage.write(kept[node], values[node])
        yield list(windows), [values[node] if node in values else torch.empty(0) for node in nodes]
        del values
        if stream.on_tile is not None:
            stream.on_tile(number, len(grids[0]), stream.passes)
    for node, storage in room.items():
        node.keep(storage)


def _worth_keeping(nodes: Sequence[Node]) -> list[Node]:
    """Returns the maps, and those of their sizes before them that a model holds, which are much work and not kept yet."""
    sizes, found = {node.shape[2:] for node in nodes}, []
    todo, seen = list(nodes), set(nodes)
    while todo:
        node = todo.pop()
        if (
            node.stored is None
            and (node in nodes or (len(node.handles) and node.shape[2:] in sizes))
            and not node.is_cheap
        ):
            found.append(node)
        for source in node.inputs if node.stored is None else ():
            if source not in seen:
                seen.add(source)
                todo.append(source)
    return found


def whole(*values: Tensor, keep: bool = False) -> list[Tensor]:
    """Returns tensors in which streamed maps are computed, all in one pass; other tensors stay as they are.

    Args:
        *values: Streamed maps, and others.
        keep: Whether what they are computed from is kept for later passes.
    """
    maps = [value for value in values if isinstance(value, StreamedMap)]
    if not maps:
        return list(values)
    stream = maps[0].stream
    if stream.is_dry:  # a dry run: one position stands for all
        dry = [arranged(torch.zeros(*m.node.shape[:2], 1, 1, dtype=m.dtype), m.arrangement) for m in maps]
        computed = dict(zip(map(id, maps), dry, strict=True))
    else:
        targets = [torch.empty(m.node.shape, dtype=m.dtype, device=stream.device) for m in maps]
        for windows, parts in sweep(stream, maps, keep=keep):
            for target, window, part in zip(targets, windows, parts, strict=True):
                if part.numel():
                    InMemory(target).write(window, part)
        computed = {id(m): arranged(target, m.arrangement) for m, target in zip(maps, targets, strict=True)}
    return [computed.get(id(value), value) for value in values]


def assembled(function: Callable[[Tensor], dict[str, Tensor]], image: Tensor, tile: int) -> dict[str, Tensor]:
    """Computes maps of an image in tiles, with their gradients if it has one.

    The graph of a tile is not held: its maps are computed again when the gradient is (gradient checkpointing).

    Args:
        function: Takes (B, C, H, W), and returns maps by name; it must not compute statistics over positions.
        image: (B, C, H, W).
        tile: Side of the tiles in pixels.

    Returns:
        The maps that ``function(image)`` returns.
    """
    stream = Stream.of((image.shape[-2], image.shape[-1]), tile, image.device)
    with torch.inference_mode():
        source = StreamedMap.of(image, stream)
        maps = function(source)
    nodes = [m.node for m in maps.values()]  # type: ignore[attr-defined]

    def compute(pixels: Tensor, *windows: Window) -> list[Tensor]:
        source.node.read = InMemory(pixels).read  # type: ignore[attr-defined]
        values = evaluate({node: window for node, window in zip(nodes, windows, strict=True) if all(window.size)})
        return [values.get(node, image.new_empty(0)) for node in nodes]

    joined = [image.new_empty(node.shape, dtype=node.dtype) for node in nodes]
    for windows in zip(*(stream.windows(*node.shape[2:]) for node in nodes), strict=True):
        if image.requires_grad and torch.is_grad_enabled():
            parts = checkpoint(compute, image, *windows, use_reentrant=False, preserve_rng_state=False)
        else:
            parts = compute(image, *windows)
        for whole_map, window, part in zip(joined, windows, parts, strict=True):
            if part.numel():
                whole_map[..., window.top : window.bottom, window.left : window.right] = part
    return dict(zip(maps, joined, strict=True))
