"""Convolutions whose first weights least squares finds, and the optimizer that does not undo them.

`fit_model` inverts an encoder layer by layer (``first_pictures`` of the systems in `stylezoo.training.initialization`); `stylezoo.training.slim_encoder`
prunes one. Plain Adam would lose in its first steps what was found: features are positive and their
neighbors alike, so that small steps of all weights add up. `WhitenedAdam` makes the steps of Adam on decorrelated inputs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from stylezoo.vgg import VGG

if TYPE_CHECKING:
    from stylezoo.training.initialization import FittedModel


def some_images(data: LightningDataModule, count: int) -> Tensor:
    """The first crops that training will see, (count, 3, H, W); the run's own order is not disturbed.

    Styles of another size than the contents are left out.
    """
    batches = data.train_dataloader()
    parts = (part for batch in batches for part in batch.values() if part.shape == batch["content"].shape)
    return torch.stack(list(itertools.islice(itertools.chain.from_iterable(parts), count)))


def shared_images(model: LightningModule, count: int) -> Tensor:
    """`some_images` of a model's run, the same in all its processes.

    Raises:
        ValueError: If the run has no datamodule.
    """
    data = model.trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise ValueError("first_pictures are images of a datamodule: train with one (Pairs).")
    images: Tensor = model.trainer.strategy.broadcast(some_images(data, count)).to(model.device)
    return images


class Goal(NamedTuple):
    """What a convolution shall restore of the image that it paints.

    Attributes:
        conv: The convolution.
        features: ``picture``; ``conv3_1`` and the like, the input of that convolution of the model's ``mirror``; ``relu4_1``,
            the encoder's features.
        relu: Whether a ReLU follows.
    """

    conv: nn.Conv2d
    features: str
    relu: bool = True


@torch.no_grad()
def fit_model(model: FittedModel, images: Tensor, positions: int = 72, damping: float = 1e-2) -> list[Tensor]:
    """Gives a model weights with which an image that is painted with itself stays itself, convolution by convolution.

    Each convolution is the least squares fit, through its ReLU, of its `Goal` to the inputs that it has after all fits
    before; so it makes up for their errors.

    Args:
        model: Changed in place, but for the weights that `stylezoo.checkpoints.take_weights` gave it.
        images: (B, 3, H, W), RGB in [0, 1], H and W multiples of 16.
        positions: How many positions of each image enter the fit of a layer.
        damping: See `whitening`.

    Returns:
        The whitening of the inputs of each of the model's ``trained_convs``.

    Raises:
        ValueError: If H or W are other numbers, or the loss network does not have the model's widths.
    """
    if any(side % 16 for side in images.shape[-2:]):
        size = "{}x{}".format(*images.shape[-2:])
        raise ValueError(
            f"first_pictures are fitted to crops of a multiple of 16 pixels, not {size}: change data.crop."
        )
    training, wishes = model.training, model.goals()
    model.eval()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items() if name in model.taken}
    model.first_weights(images)
    model.load_state_dict(kept, strict=False)
    trained = model.trained_convs
    convs = trained | {
        name: goal.conv for name, module in model.named_modules() for goal in wishes if goal.conv is module
    }
    sizes = output_sizes(model, convs, images[:1])
    generator = torch.Generator().manual_seed(0)
    places = {n: some_positions(images.new_empty(len(images), 0, *sizes[n]), positions, generator) for n in convs}
    goals = {name: goal for name, conv in convs.items() for goal in wishes if goal.conv is conv}
    goals = {name: goal for name, goal in goals.items() if f"{name}.weight" not in model.taken}
    wanted = goal_columns(model, goals, images, places)
    whitenings = {}
    for name in goals:
        windows = conv_windows(model, convs[name], images, places[name])
        whitenings[name] = whitening(windows, damping)
        fit(convs[name], windows, wanted.pop(name), rounds=4 if goals[name].relu else 1)
    rest = {name: conv for name, conv in convs.items() if name not in goals}
    for name, moments in input_moments(model, rest, images, places).items():
        whitenings[name] = inverse_root(moments, damping)
    model.train(training)
    return [whitenings[name] for name in trained]


def goal_columns(
    model: FittedModel, goals: Mapping[str, Goal], images: Tensor, places: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What each convolution shall restore at its places, (positions, channels)."""
    wanted = {}

    def take(features: str, x: Tensor) -> None:
        for name, goal in goals.items():
            if goal.features == features:
                if x.shape[1] != goal.conv.out_channels:
                    raise ValueError(
                        f"{name} has {goal.conv.out_channels} channels, {features} of {model.mirror.name} has"
                        f" {x.shape[1]}: name a VGG of the decoder's widths for the losses (loss_encoder, such as"
                        " vgg19_normalised)."
                    )
                wanted[name] = columns(x, places[name])

    take("picture", model.picture(images))
    for features in {goal.features for goal in goals.values() if goal.features.startswith("relu")}:
        take(features, torch.cat([model.encoder(part, [features])[features] for part in torch.split(images, 16)]))
    deepest = max((goal.features for goal in goals.values() if goal.features.startswith("conv")), default="")
    for features, x in conv_inputs(model.mirror, images) if deepest else ():
        take(features, x)
        if features == deepest:
            break
    return wanted


@contextlib.contextmanager
def watched(convs: Mapping[str, nn.Conv2d], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Calls ``see(name, input, output)`` whenever one of the convolutions has run."""
    with contextlib.ExitStack() as stack:
        for name, conv in convs.items():

            def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
                see(name, inputs[0], output)

            stack.callback(conv.register_forward_hook(hook).remove)
        yield


def output_sizes(model: FittedModel, convs: Mapping[str, nn.Conv2d], image: Tensor) -> dict[str, tuple[int, int]]:
    """Height and width of what each convolution makes of an image that is painted with itself."""
    sizes = {}

    def note(name: str, _: Tensor, output: Tensor) -> None:
        sizes[name] = (output.shape[-2], output.shape[-1])

    with watched(convs, note):
        model.restore(image)
    return sizes


def input_moments(
    model: FittedModel, convs: Mapping[str, nn.Conv2d], images: Tensor, places: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Second moments (D + 1, D + 1) of each convolution's inputs, at some positions of images painted with themselves."""
    moments: dict[str, Tensor] = {}
    if not convs:
        return moments

    def add(name: str, x: Tensor, _: Tensor) -> None:
        part = second_moments(patches(x, places[name][first : first + 16], convs[name])) * len(x) / len(images)
        moments[name] = moments[name] + part if name in moments else part

    with watched(convs, add):
        for first in range(0, len(images), 16):
            part = images[first : first + 16]
            model.restore(part)
    return moments


class _Seen(Exception):
    pass


def conv_windows(model: FittedModel, conv: nn.Conv2d, images: Tensor, where: Tensor) -> Tensor:
    """What a convolution sees, at some positions, of images that are painted with themselves, (B * P, D)."""
    seen: list[Tensor] = []

    def catch(_: str, x: Tensor, __: Tensor) -> None:
        seen.append(x)
        raise _Seen

    windows = []
    with watched({"": conv}, catch):
        for part, places in zip(torch.split(images, 16), torch.split(where, 16), strict=True):
            with contextlib.suppress(_Seen):
                model.restore(part)
            windows.append(patches(seen.pop(), places, conv))
    return torch.cat(windows)


class WhitenedAdam(Optimizer):
    """Adam on the weights V of convolutions of decorrelated inputs: W = V T, T x has the second moments of white noise.

    The weights stay those of plain convolutions, only the steps differ. The learning rate is divided by the root of the
    number of inputs, so that a step changes the outputs of all convolutions about equally. So it is for other parameters,
    which take plain steps.

    Args:
        convs: The convolutions, whose bias is one more input. One without a bias has a norm behind it that takes the mean
            of its outputs away: its inputs are decorrelated as if their mean were 0.
        whitenings: T of each, (D + 1, D + 1) and lower triangular, see `whitening`; None for plain Adam, or until a
            checkpoint is loaded.
        lr: Learning rate.
        betas: Of the running means of gradients and their squares.
        others: More parameters, with the number of inputs that each adds up.
    """

    def __init__(
        self,
        convs: Sequence[nn.Conv2d],
        whitenings: Sequence[Tensor | None],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        others: Mapping[nn.Parameter, int] | None = None,
    ) -> None:
        self.convs, self.others = convs, others or {}
        groups: list[dict[str, Any]] = [{"params": [p for conv in convs for p in conv.parameters()]}]
        super().__init__([*groups, *([{"params": [*self.others]}] if others else [])], {"lr": lr, "betas": betas})
        for conv, whitening in zip(convs, whitenings, strict=True):
            if whitening is not None:
                self.state[conv.weight]["whitening"] = whitening.to(conv.weight)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for conv in self.convs:
            if conv.weight.grad is None:
                continue
            gradient = F.pad(conv.weight.grad.flatten(1), (0, 1))
            if conv.bias is not None and conv.bias.grad is not None:
                gradient[:, -1] = conv.bias.grad
            change = self._change(conv.weight, gradient)
            conv.weight += change[:, :-1].reshape(conv.weight.shape)
            if conv.bias is not None:
                conv.bias += change[:, -1]
        for parameter, inputs in self.others.items():
            if parameter.grad is not None:
                parameter.add_(self._change(parameter, parameter.grad, inputs))
        return loss

    def _change(self, parameter: Tensor, gradient: Tensor, inputs: int | None = None) -> Tensor:
        group, state = self.param_groups[0], self.state[parameter]
        if "whitening" in state:
            gradient = product(gradient, state["whitening"], transpose=True)
        if "step" not in state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        change: Tensor = mean / ((state["square"] / (1 - second ** state["step"])).sqrt() + 1e-8)
        if "whitening" in state:
            change = product(change, state["whitening"])
        change *= -group["lr"] / (inputs or gradient.shape[-1]) ** 0.5
        return change


def whitening(inputs: Tensor, damping: float) -> Tensor:
    """T with T M T^T = 1 for the second moments M of inputs (N, D) and the 1 of the bias, (D + 1, D + 1), damped by a share
    of their mean diagonal."""
    return inverse_root(second_moments(inputs), damping)


def second_moments(inputs: Tensor) -> Tensor:
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    return inputs.T @ inputs / len(inputs)


def inverse_root(moments: Tensor, damping: float) -> Tensor:
    moments = moments.double()
    moments.diagonal().add_(damping * moments.diagonal().mean())
    identity = torch.eye(len(moments)).to(moments)
    root: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(moments), identity, upper=False)
    return root.float()


def product(x: Tensor, lower: Tensor, transpose: bool = False, blocks: int = 6) -> Tensor:
    """x L or x L^T for a lower triangular L, block by block, which leaves out most of the zeros."""
    edges = torch.linspace(0, len(lower), blocks + 1).long().tolist()
    if transpose:
        parts = [x[:, :end] @ lower[start:end, :end].T for start, end in itertools.pairwise(edges)]
    else:
        parts = [x[:, start:] @ lower[start:, start:end] for start, end in itertools.pairwise(edges)]
    return torch.cat(parts, 1)


def some_positions(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random positions of each map, (B, count)."""
    places = [torch.randperm(x.shape[-2] * x.shape[-1], generator=generator)[:count] for _ in x]
    return torch.stack(places).to(x.device)


def convolutions(modules: nn.ModuleDict) -> dict[str, nn.Conv2d]:
    return {name: conv for name, conv in modules.items() if isinstance(conv, nn.Conv2d)}


def fit(conv: nn.Conv2d, inputs: Tensor, goal: Tensor, rounds: int = 4) -> Tensor:
    """Sets a convolution to what `fit_relu` finds; its weight as (K, D)."""
    weight, bias = fit_relu(inputs, goal, rounds)
    conv.weight.copy_(weight.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return weight


def conv_inputs(network: VGG, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, input) of each convolution; the weights of one may change before the next is asked for."""
    x = network.preprocess(images)
    for name, conv in network.convs.items():
        if name.endswith("_1") and name != "conv1_1":
            x = network._pool(x)
        yield name, x
        x = torch.cat([F.relu(conv(part)) for part in torch.split(x, 16)])


def columns(x: Tensor, where: Tensor) -> Tensor:
    """Some positions of each map, (B, C, H, W) and (B, P) -> (B * P, C)."""
    return x.flatten(2).gather(2, where[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2).flatten(0, 1)


def patches(x: Tensor, where: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution sees where it makes these positions of its output, (B * P, 9 C) for one of 3x3."""
    border, (height, width), (down, right) = int(conv.padding[0]), conv.kernel_size, conv.stride
    padded = F.pad(x, (border,) * 4, mode="reflect") if border else x
    across = (padded.shape[-1] - width) // right + 1
    corners = where // across * down * padded.shape[-1] + where % across * right
    taps = [columns(padded, corners + y * padded.shape[-1] + z) for y in range(height) for z in range(width)]
    return torch.stack(taps, -1).flatten(1)


def choose(features: Tensor, importance: Tensor, count: int) -> list[int]:
    """The channels from which a linear map predicts all channels best, found greedily.

    Args:
        features: (N, C).
        importance: (C, C), the metric of the prediction's error.
        count: How many, at most C.
    """
    rest = torch.cov(features.double().T)  # what the chosen ones leave unexplained
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


def fit_relu(inputs: Tensor, goal: Tensor, rounds: int = 4, ridge: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) with relu(inputs weight^T + bias) ~ relu(goal), for inputs (N, D) and goal (N, K).

    Least squares, repeated: where both prediction and goal are negative there is no error.
    """
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    normal = (inputs.T @ inputs).double()
    normal.diagonal().add_(ridge * normal.diagonal().mean())
    factor = torch.linalg.cholesky(normal)
    wanted = goal
    for _ in range(rounds):
        solution = torch.cholesky_solve((inputs.T @ wanted).double(), factor).float()
        wanted = torch.where(goal > 0, goal, (inputs @ solution).clamp_max(0))
    return solution[:-1].T.contiguous(), solution[-1]
