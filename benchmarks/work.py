"""Counts the arithmetic work and the memory traffic of networks, and computes the time that a machine needs for them at least.

    with torch.no_grad(), WorkCounter() as counter:
        model.decode(content, code)
    counter.flops, counter.seconds(flops_per_second=99e9, bytes_per_second=20e9, bytes_per_number=4)

Convolutions, matrix products and attention are counted, as `torch.utils.flop_counter` does: a multiplication and an addition are
two operations. All else (padding, ReLU, normalization, up-sampling) counts as free, as if it were fused into them. The
least time is that of a roofline (Williams et al. 2009, doi:10.1145/1498765.1498785) per operation: it takes as long as its
arithmetic or as its traffic, each input read once and each output written once, whichever is longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: PyTorch's name for it, such as ``convolution``.
        flops: Multiplications and additions.
        numbers: Elements of its inputs and outputs, weights included.
    """

    name: str
    flops: int
    numbers: int

    def seconds(self, flops_per_second: float, bytes_per_second: float, bytes_per_number: int) -> float:
        """The least time for it."""
        return max(self.flops / flops_per_second, self.numbers * bytes_per_number / bytes_per_second)


class WorkCounter(TorchDispatchMode):
    """Collects the operations of the code in its block, which must run without gradients.

    Attributes:
        operations: The operations, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    @property
    def flops(self) -> int:
        """Multiplications and additions of all operations."""
        return sum(operation.flops for operation in self.operations)

    @property
    def numbers(self) -> int:
        """Elements that all operations read and write."""
        return sum(operation.numbers for operation in self.operations)

    def seconds(self, flops_per_second: float, bytes_per_second: float, bytes_per_number: int) -> float:
        """The least time for all operations, one after the other.

        Args:
            flops_per_second: Rate of the machine's matrix products.
            bytes_per_second: Rate at which it reads and writes its memory.
            bytes_per_number: 4 for float32, 2 for 16 bits.
        """
        return sum(o.seconds(flops_per_second, bytes_per_second, bytes_per_number) for o in self.operations)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func._overloadpacket not in flop_registry and func is not torch.ops.prim.device.default:
            with self:  # in inference mode PyTorch shows composed operations as one
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            name = func._schema.name.removeprefix("aten::")
            self.operations.append(Operation(name, int(flops), sum(t.numel() for t in tensors)))
        return result


def count(function: Any, *arguments: Any) -> WorkCounter:
    """Calls a function and returns the work of the call."""
    with torch.no_grad(), WorkCounter() as counter:
        function(*arguments)
    return counter
