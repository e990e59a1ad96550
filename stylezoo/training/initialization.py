"""Initializations that no paper has: `LeastSquares` starts as the identity, `Pruning` close to a wider model that is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.checkpoints import load_model
from stylezoo.errors import StylezooError, check_number
from stylezoo.module import StyleModel
from stylezoo.training.optimizers import inverse_root, preconditioner
from stylezoo.training.plans import Plan, RegressionTarget, plan_of
from stylezoo.training.regression import (
    ForwardPasses,
    choose,
    columns,
    conv_inputs,
    fit,
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
            images: Training crops, (B, 3, H, W), RGB in [0, 1]: contents, then styles.
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

    title = "least-squares"

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
                f"The {self.title} initialization takes crops of a multiple of 16 pixels, not {size}: change data.crop."
            )
        model = plan.model
        training = model.training
        model.eval()
        preconditioners = self.fit(plan, images, kept)
        model.train(training)
        return preconditioners

    def fit(self, plan: Plan, images: Tensor, kept: Collection[str]) -> dict[str, Tensor]:
        """Fits a model in eval mode, convolution by convolution, see `Initialization`."""
        model = plan.model
        state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name in kept}
        plan.prepare(images)
        model.load_state_dict(state, strict=False)
        targets = named_targets(plan)
        batches = self.batches(plan, images)
        passes = ForwardPasses(self.function(plan), batches)
        places = passes.places(
            plan.convolutions | {name: target.conv for name, target in targets.items()}, self.positions
        )
        targets = {name: targets[name] for name in places if name in targets and f"{name}.weight" not in kept}
        wanted = self.wanted(plan, targets, batches, places)
        preconditioners = {}
        for name, target in targets.items():
            windows = passes.windows(target.conv, places[name])
            preconditioners[name] = preconditioner(windows, self.damping)
            fit(target.conv, windows, wanted.pop(name), rounds=4 if target.relu else 1)
        rest = {name: conv for name, conv in plan.convolutions.items() if name not in targets}
        for name, moments in passes.moments(rest, places).items():
            preconditioners[name] = inverse_root(moments, self.damping)
        return {name: preconditioners[name] for name in plan.convolutions}

    def function(self, plan: Plan) -> Callable[..., Tensor]:
        """Returns what stylizes a batch."""
        return plan.restore

    def batches(self, plan: Plan, images: Tensor) -> list[tuple[Tensor, ...]]:
        """Returns the arguments of this function."""
        return [(part,) for part in torch.split(images, 16)]

    def wanted(
        self,
        plan: Plan,
        targets: Mapping[str, RegressionTarget],
        batches: Sequence[tuple[Tensor, ...]],
        places: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Computes what each convolution is regressed on at its places, (positions, channels), by name."""
        return target_columns(plan, targets, torch.cat([content for content, *_ in batches]), places)


class Pruning(LeastSquares):
    """Fits a model's decoder to that of a trained model, which may be wider.

    Channel pruning (He, Zhang & Sun, ICCV 2017, arXiv:1707.06168) as in `stylezoo.training.slim_encoder`: of each
    convolution of the teacher the channels are chosen from which all others, as the next convolution weighs them, are
    predicted best; that of the model is their least-squares fit, through its ReLU, to the inputs that it has after all fits
    before. Encoders may differ: the first fit leads from one's features to the other's. Convolutions correspond if they
    mirror the same one of VGG, see `stylezoo.training.plans`.

    Where nothing but the decoder is trained, both models stylize contents in styles. Where an attention or a matrix is to be
    trained, too, images are stylized with themselves.

    Args:
        teacher: A trained model, what `stylezoo.load_model` takes, with a decoder that mirrors VGG, such as an AdaIN.
        crops: Number of training crops: half of them are contents, half styles.
        positions: Number of positions of each crop that enter the fit of a convolution.
        damping: See `stylezoo.training.optimizers.preconditioner`.
    """

    title = "pruning"

    def __init__(self, teacher: str, crops: int = 256, positions: int = 144, damping: float = 1e-2) -> None:
        super().__init__(crops, positions, damping)
        if self.crops % 2:
            raise StylezooError(f"The pruning initialization takes an even number of crops, not {crops}.")
        with torch.random.fork_rng(devices=[]):  # the weights of the student do not depend on its having a teacher
            self.teacher = load_model(teacher)

    def function(self, plan: Plan) -> Callable[..., Tensor]:
        """Returns what stylizes contents in styles.

        Raises:
            StylezooError: If the model or the teacher takes no style image.
        """
        if plan.model.kind != "arbitrary" or self.teacher.kind != "arbitrary":
            raise StylezooError(
                f"The pruning initialization takes systems for any style, not {plan.model.system} and {self.teacher.system}."
            )
        return stylize_with(plan.model)

    def batches(self, plan: Plan, images: Tensor) -> list[tuple[Tensor, ...]]:
        """Returns pairs of contents and styles."""
        half = (len(images) + 1) // 2
        contents, styles = images[:half], images[-half:]
        if plan.convolutions.keys() - named_targets(plan).keys():
            contents = styles = images
        return [*zip(torch.split(contents, 16), torch.split(styles, 16), strict=True)]

    def wanted(
        self,
        plan: Plan,
        targets: Mapping[str, RegressionTarget],
        batches: Sequence[tuple[Tensor, ...]],
        places: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Computes the chosen channels of the teacher's convolutions.

        Raises:
            StylezooError: If the teacher lacks a convolution.
        """
        encoded = {name: target for name, target in targets.items() if target.features.startswith("relu")}
        decoded = {name: target for name, target in targets.items() if name not in encoded}
        teacher = self.teacher.to(batches[0][0]).eval()
        decoder = plan_of(teacher).targets
        wide = matching_convolutions(decoder, decoded, teacher.system)
        outputs = ForwardPasses(stylize_with(teacher), batches).outputs(wide, places)
        for name, target in decoded.items():
            if target.features == "image":
                outputs[name] = plan.to_pixels(outputs[name].T[None, :, None])[0, :, 0].T
            else:
                channels = chosen_channels(outputs[name], wide[name], following(decoder, wide[name]), target)
                outputs[name] = outputs[name][:, channels]
        return outputs | super().wanted(plan, encoded, batches, places)


def stylize_with(model: StyleModel) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function that stylizes contents (B, 3, H, W) with one style each."""
    return lambda contents, styles: model.decode(contents, model.encode_style(styles))


def matching_convolutions(
    decoder: Sequence[RegressionTarget], targets: Mapping[str, RegressionTarget], system: str
) -> dict[str, nn.Conv2d]:
    """Returns a teacher's convolutions that mirror the same ones of VGG as a model's targets, by the names of these.

    Args:
        decoder: The targets of the teacher.
        targets: Those of the model.
        system: The teacher's, for messages.

    Raises:
        StylezooError: If one is missing or narrower.
    """
    convs = {target.features: target.conv for target in decoder}
    for name, (conv, features, _) in targets.items():
        if features not in convs or convs[features].out_channels < conv.out_channels:
            found = f"{convs[features].out_channels} channels" if features in convs else "no such convolution"
            raise StylezooError(
                f"The teacher ({system}) has {found} where {name} of the model has {conv.out_channels}: name a model"
                " with a decoder as wide as this one's or wider, such as an adain."
            )
    return {name: convs[target.features] for name, target in targets.items()}


def following(decoder: Sequence[RegressionTarget], conv: nn.Conv2d) -> nn.Conv2d | None:
    """Returns the convolution of a teacher's decoder that comes after another one, if that has all of its inputs from there."""
    convs = [target.conv for target in decoder]
    after = convs[convs.index(conv) + 1 :]
    return after[0] if after and after[0].in_channels == conv.out_channels else None


def chosen_channels(outputs: Tensor, conv: nn.Conv2d, after: nn.Conv2d | None, target: RegressionTarget) -> list[int]:
    """Returns the channels of a teacher's convolution that a narrower one is fitted to, see `regression.choose`.

    Args:
        outputs: Of the teacher's convolution, (N, C).
        conv: The teacher's convolution.
        after: The one that weighs its outputs.
        target: Of the narrower one.
    """
    count = target.conv.out_channels
    if count == conv.out_channels:
        return [*range(count)]
    importance = torch.eye(conv.out_channels, device=outputs.device)
    if after is not None:
        importance = torch.einsum("oihw,ojhw->ij", after.weight, after.weight)
    return choose(F.relu(outputs) if target.relu else outputs, importance, count)


@torch.no_grad()
def measure_preconditioners(
    plan: Plan, images: Tensor, positions: int = 72, damping: float = 1e-2
) -> dict[str, Tensor]:
    """Measures the preconditioners of a model's trained convolutions with the weights that it has, by name."""
    model = plan.model
    training = model.training
    model.eval()
    passes = ForwardPasses(plan.restore, [(part,) for part in torch.split(images, 16)])
    moments = passes.moments(plan.convolutions, passes.places(plan.convolutions, positions))
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
