"""Initializations that no paper has; `LeastSquares` makes a model start as the identity."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from stylezoo.errors import StylezooError, check_number
from stylezoo.training.optimizers import inverse_root, preconditioner, second_moments
from stylezoo.training.plans import Plan, RegressionTarget
from stylezoo.training.regression import (
    columns,
    conv_inputs,
    fit,
    forward_hooks,
    patches,
    some_positions,
)


class Initialization:
    """Base of the initializations that `stylezoo.training.Training` can give a model.

    Attributes:
        crops: Number of training crops that it needs.
    """

    crops: int

    def __call__(self, plan: Plan, images: Tensor, kept: Collection[str]) -> dict[str, Tensor]:
        """Sets the weights of a model.

        Args:
            plan: Of the model.
            images: Training crops, (B, 3, H, W), RGB in [0, 1].
            kept: Names of tensors that stay as they are.

        Returns:
            Preconditioners of the model's trained convolutions by name, see `stylezoo.training.optimizers`.
        """
        raise TypeError(f"{type(self).__name__} does not initialize a model.")


class LeastSquares(Initialization):
    """Fits a model so that an image that is stylized with itself stays itself, convolution by convolution.

    Each convolution is the least-squares fit, through its ReLU, of its regression target to the inputs that it has after
    all fits before, so that it corrects their errors. What is regressed on what is the system's `stylezoo.training.plans`.

    Args:
        crops: Number of training crops, photos and styles of one size, that the fits use.
        positions: Number of positions of each crop that enter the fit of a convolution.
        damping: See `stylezoo.training.optimizers.preconditioner`.
    """

    def __init__(self, crops: int = 256, positions: int = 72, damping: float = 1e-2) -> None:
        self.crops = check_number("crops", crops, "a number of training crops, at least 1", 1, whole=True)
        self.positions = check_number("positions", positions, "a number of positions, at least 1", 1, whole=True)
        self.damping = check_number("damping", damping, "a finite number from 0 up", 0)

    @torch.no_grad()
    def __call__(self, plan: Plan, images: Tensor, kept: Collection[str] = ()) -> dict[str, Tensor]:
        """See `Initialization`.

        Raises:
            StylezooError: If the crops are no multiples of 16 pixels, or the loss encoder does not have the model's widths.
        """
        if any(side % 16 for side in images.shape[-2:]):
            size = "{}x{}".format(*images.shape[-2:])
            raise StylezooError(
                f"The least-squares initialization takes crops of a multiple of 16 pixels, not {size}: change data.crop."
            )
        model = plan.model
        training = model.training
        model.eval()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name in kept}
        plan.prepare(images)
        model.load_state_dict(state, strict=False)
        targets = named_targets(plan)
        convs = plan.convolutions | {name: target.conv for name, target in targets.items()}
        sizes = output_sizes(plan, convs, images[:1])
        generator = torch.Generator().manual_seed(0)
        places = {
            n: some_positions(images.new_empty(len(images), 0, *sizes[n]), self.positions, generator) for n in convs
        }
        targets = {name: targets[name] for name in convs if name in targets and f"{name}.weight" not in kept}
        wanted = target_columns(plan, targets, images, places)
        preconditioners = {}
        for name, target in targets.items():
            windows = input_windows(plan, target.conv, images, places[name])
            preconditioners[name] = preconditioner(windows, self.damping)
            fit(target.conv, windows, wanted.pop(name), rounds=4 if target.relu else 1)
        rest = {name: conv for name, conv in convs.items() if name not in targets}
        for name, moments in input_moments(plan, rest, images, places).items():
            preconditioners[name] = inverse_root(moments, self.damping)
        model.train(training)
        return {name: preconditioners[name] for name in plan.convolutions}


@torch.no_grad()
def measure_preconditioners(
    plan: Plan, images: Tensor, positions: int = 72, damping: float = 1e-2
) -> dict[str, Tensor]:
    """Measures the preconditioners of a model's trained convolutions with the weights that it has, by name."""
    model = plan.model
    training = model.training
    model.eval()
    sizes = output_sizes(plan, plan.convolutions, images[:1])
    generator = torch.Generator().manual_seed(0)
    places = {
        name: some_positions(images.new_empty(len(images), 0, *sizes[name]), positions, generator)
        for name in plan.convolutions
    }
    moments = input_moments(plan, plan.convolutions, images, places)
    model.train(training)
    return {name: inverse_root(matrix, damping) for name, matrix in moments.items()}


def named_targets(plan: Plan) -> dict[str, RegressionTarget]:
    """Returns the regression targets of a plan by the names of their convolutions, in the order of the model's modules."""
    by_conv = {target.conv: target for target in plan.targets}
    return {
        name: by_conv[module]
        for name, module in plan.model.named_modules()
        if isinstance(module, nn.Conv2d) and module in by_conv
    }


def target_columns(
    plan: Plan, targets: Mapping[str, RegressionTarget], images: Tensor, places: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Computes what each convolution is regressed on at its places, (positions, channels)."""
    wanted = {}

    def take(features: str, x: Tensor) -> None:
        for name, target in targets.items():
            if target.features == features:
                if x.shape[1] != target.conv.out_channels:
                    raise StylezooError(
                        f"{name} has {target.conv.out_channels} channels, {features} of {plan.mirror().name} has"
                        f" {x.shape[1]}: name a VGG of the decoder's widths for the losses (training.loss_encoder, such as"
                        " vgg19_normalised)."
                    )
                wanted[name] = columns(x, places[name])

    take("image", plan.to_pixels(images))
    for features in {target.features for target in targets.values() if target.features.startswith("relu")}:
        take(features, torch.cat([plan.model.encoder(part, [features])[features] for part in torch.split(images, 16)]))
    deepest = max((t.features for t in targets.values() if t.features.startswith("conv")), default="")
    for features, x in conv_inputs(plan.mirror(), images) if deepest else ():
        take(features, x)
        if features == deepest:
            break
    return wanted


def output_sizes(plan: Plan, convs: Mapping[str, nn.Conv2d], image: Tensor) -> dict[str, tuple[int, int]]:
    """Returns height and width of the output of each convolution for an image that is stylized with itself."""
    sizes = {}

    def note(name: str, _: Tensor, output: Tensor) -> None:
        sizes[name] = (output.shape[-2], output.shape[-1])

    with forward_hooks(convs, note):
        plan.restore(image)
    return sizes


def input_moments(
    plan: Plan, convs: Mapping[str, nn.Conv2d], images: Tensor, places: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Measures the second moments (D + 1, D + 1) of each convolution's inputs, for images stylized with themselves."""
    moments: dict[str, Tensor] = {}
    if not convs:
        return moments

    def add(name: str, x: Tensor, _: Tensor) -> None:
        part = second_moments(patches(x, places[name][first : first + 16], convs[name])) * len(x) / len(images)
        moments[name] = moments[name] + part if name in moments else part

    with forward_hooks(convs, add):
        for first in range(0, len(images), 16):
            plan.restore(images[first : first + 16])
    return moments


class _Reached(Exception):
    """Ends a forward pass at the convolution whose input is wanted."""


def input_windows(plan: Plan, conv: nn.Conv2d, images: Tensor, where: Tensor) -> Tensor:
    """Returns a convolution's input windows at some positions, for images stylized with themselves, (B * P, D)."""
    inputs: list[Tensor] = []

    def catch(_: str, x: Tensor, __: Tensor) -> None:
        inputs.append(x)
        raise _Reached

    windows = []
    with forward_hooks({"": conv}, catch):
        for part, places in zip(torch.split(images, 16), torch.split(where, 16), strict=True):
            with contextlib.suppress(_Reached):
                plan.restore(part)
            windows.append(patches(inputs.pop(), places, conv))
    return torch.cat(windows)
