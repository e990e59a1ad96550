"""Least squares for convolutions: their inputs at some positions, and the weights that fit their outputs best."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.vgg import VGG


@contextlib.contextmanager
def forward_hooks(convs: Mapping[str, nn.Conv2d], observe: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Calls ``observe(name, input, output)`` whenever one of the convolutions has run."""
    with contextlib.ExitStack() as stack:
        for name, conv in convs.items():

            def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
                observe(name, inputs[0], output)

            stack.callback(conv.register_forward_hook(hook).remove)
        yield


def some_positions(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws random positions of each map, (B, count)."""
    places = [torch.randperm(x.shape[-2] * x.shape[-1], generator=generator)[:count] for _ in x]
    return torch.stack(places).to(x.device)


def convolutions(modules: nn.ModuleDict) -> dict[str, nn.Conv2d]:
    """Returns the convolutions among some modules, by name."""
    return {name: conv for name, conv in modules.items() if isinstance(conv, nn.Conv2d)}


def fit(conv: nn.Conv2d, inputs: Tensor, target: Tensor, rounds: int = 4) -> Tensor:
    """Sets a convolution to what `fit_relu` finds, and returns its weight as (K, D)."""
    weight, bias = fit_relu(inputs, target, rounds)
    conv.weight.copy_(weight.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return weight


def conv_inputs(network: VGG, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, input) of each convolution; the weights of one may change before the next is asked for."""
    x = network.preprocess(images)
    for name, conv in network.convs.items():
        if name.endswith("_1") and name != "conv1_1":
            x = network._pool(x)
        yield name, x
        x = torch.cat([F.relu(conv(part)) for part in torch.split(x, 16)])


def columns(x: Tensor, where: Tensor) -> Tensor:
    """Gathers some positions of each map, (B, C, H, W) and (B, P) -> (B * P, C)."""
    return x.flatten(2).gather(2, where[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2).flatten(0, 1)


def patches(x: Tensor, where: Tensor, conv: nn.Conv2d) -> Tensor:
    """Returns the windows from which a convolution computes these positions of its output, (B * P, 9 C) for one of 3x3."""
    border, (height, width), (down, right) = int(conv.padding[0]), conv.kernel_size, conv.stride
    padded = F.pad(x, (border,) * 4, mode="reflect") if border else x
    across = (padded.shape[-1] - width) // right + 1
    corners = where // across * down * padded.shape[-1] + where % across * right
    taps = [columns(padded, corners + y * padded.shape[-1] + z) for y in range(height) for z in range(width)]
    return torch.stack(taps, -1).flatten(1)


def choose(features: Tensor, importance: Tensor, count: int) -> list[int]:
    """Finds greedily the channels from which a linear map predicts all channels best.

    Args:
        features: (N, C).
        importance: (C, C), the metric of the prediction's error.
        count: Number of channels to choose, at most C.
    """
    rest = torch.cov(features.double().T)  # variance that the chosen ones leave unexplained
    importance = importance.to(rest)
    floor = 1e-6 * rest.diagonal().max()
    chosen: list[int] = []
    for _ in range(count):
        gain = ((rest @ importance) * rest).sum(1) / rest.diagonal().clamp_min(floor)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        rest = rest - torch.outer(rest[:, best], rest[best]) / rest[best, best].clamp_min(floor)
    return sorted(chosen)


def fit_relu(inputs: Tensor, target: Tensor, rounds: int = 4, ridge: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Fits weight (K, D) and bias (K,) so that relu(inputs weight^T + bias) is close to relu(target).

    Least squares, repeated: where both prediction and target are negative there is no error.

    Args:
        inputs: (N, D).
        target: (N, K).
        rounds: Number of repetitions.
        ridge: Share of the mean of the normal matrix's diagonal that is added to it.
    """
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    normal = (inputs.T @ inputs).double()
    normal.diagonal().add_(ridge * normal.diagonal().mean())
    factor = torch.linalg.cholesky(normal)
    wanted = target
    for _ in range(rounds):
        solution = torch.cholesky_solve((inputs.T @ wanted).double(), factor).to(inputs)
        wanted = torch.where(target > 0, target, (inputs @ solution).clamp_max(0))
    return solution[:-1].T.contiguous(), solution[-1]


def second_moments(inputs: Tensor) -> Tensor:
    """Returns the second moments of inputs (N, D) and a constant 1, (D + 1, D + 1)."""
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    return inputs.T @ inputs / len(inputs)


class _Reached(Exception):
    """Ends a forward pass at the convolution whose input is wanted."""


class ForwardPasses:
    """Batches of images and what is done with each: what passes through a model's convolutions meanwhile.

    Args:
        function: Stylizes the images of a batch.
        batches: Its arguments, tensors (B, 3, H, W), for one batch after another.
    """

    def __init__(self, function: Callable[..., Tensor], batches: Sequence[tuple[Tensor, ...]]) -> None:
        self.function, self.batches = function, batches
        self.count = sum(len(images) for images, *_ in batches)
        self._batch = 0

    def places(self, convs: Mapping[str, nn.Conv2d], positions: int) -> dict[str, Tensor]:
        """Draws positions of the output of each convolution, (images, positions), by name."""
        sizes: dict[str, tuple[int, int]] = {}

        def note(name: str, _: Tensor, output: Tensor) -> None:
            sizes[name] = (output.shape[-2], output.shape[-1])

        with forward_hooks(convs, note):
            self.function(*(images[:1] for images in self.batches[0]))
        generator = torch.Generator().manual_seed(0)
        image = self.batches[0][0]
        return {n: some_positions(image.new_empty(self.count, 0, *sizes[n]), positions, generator) for n in convs}

    def windows(self, conv: nn.Conv2d, where: Tensor) -> Tensor:
        """Returns a convolution's input windows at some positions, (images * P, D)."""
        inputs: list[Tensor] = []

        def catch(_: str, x: Tensor, __: Tensor) -> None:
            inputs.append(x)
            raise _Reached

        windows = []
        with forward_hooks({"": conv}, catch):
            for images in self._images():
                with contextlib.suppress(_Reached):
                    self.function(*images)
                windows.append(patches(inputs.pop(), self._of_batch(where), conv))
        return torch.cat(windows)

    def outputs(self, convs: Mapping[str, nn.Conv2d], places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the outputs of convolutions at their places, (images * P, C), by name."""
        parts: dict[str, list[Tensor]] = {name: [] for name in convs}

        def take(name: str, _: Tensor, output: Tensor) -> None:
            parts[name].append(columns(output, self._of_batch(places[name])))

        self._observe(convs, take)
        return {name: torch.cat(found) for name, found in parts.items()}

    def moments(self, convs: Mapping[str, nn.Conv2d], places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Measures the second moments (D + 1, D + 1) of the inputs of convolutions at their places, by name."""
        moments: dict[str, Tensor] = {}

        def add(name: str, x: Tensor, _: Tensor) -> None:
            windows = patches(x, self._of_batch(places[name]), convs[name])
            part = second_moments(windows) * len(x) / self.count
            moments[name] = moments[name] + part if name in moments else part

        if convs:
            self._observe(convs, add)
        return moments

    def _observe(self, convs: Mapping[str, nn.Conv2d], observe: Callable[[str, Tensor, Tensor], None]) -> None:
        with forward_hooks(convs, observe):
            for images in self._images():
                self.function(*images)

    def _images(self) -> Iterator[tuple[Tensor, ...]]:
        for number, images in enumerate(self.batches):
            self._batch = number
            yield images

    def _of_batch(self, places: Tensor) -> Tensor:
        return torch.split(places, [len(images) for images, *_ in self.batches])[self._batch]
