"""`FittedModel`, the base of the systems whose convolutions can start from a least squares fit instead of from noise."""

from __future__ import annotations

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from stylezoo.layers import MirroredDecoder
from stylezoo.module import StyleModel
from stylezoo.training.least_squares import Goal, WhitenedAdam, fit_model, shared_images
from stylezoo.vgg import VGG


class FittedModel(StyleModel):
    """Base of systems with a choice of first weights and steps, most of which decode a frozen encoder's features.

    A system says in `goals` what its convolutions shall restore, and has the settings ``first_pictures``, ``lr`` and
    ``lr_decay``. With ``first_pictures`` they are fitted, on that many training crops, so that an image painted with
    itself stays itself; weights that came from another model (``fit --start``) stay as they are. Then `WhitenedAdam`
    trains all of them. Neither is from a paper (`stylezoo.training.least_squares`).
    """

    def goals(self) -> list[Goal]:
        """What is fitted, in the order in which it runs; nothing, if the first weights are to stay random."""
        return []

    def first_weights(self, images: Tensor) -> None:
        """Sets what no fit to a goal can find, such as an attention, before the fits; for images (B, 3, H, W)."""

    def restore(self, image: Tensor) -> Tensor:
        """An image painted with itself, (B, 3, H, W) -> (B, 3, H, W)."""
        return self.decode(image, self.encode_style(image))

    def picture(self, image: Tensor) -> Tensor:
        """RGB in [0, 1] in the units of the last convolution."""
        return image

    @property
    def mirror(self) -> VGG:
        """The network whose convolutions the goals name: one of the decoder's widths."""
        return self.loss_network

    @property
    def trained_convs(self) -> dict[str, nn.Conv2d]:
        """The convolutions that are trained, by name."""
        frozen = tuple(f"{name}." for name, _ in self.encoders())
        named = ((name, module) for name, module in self.named_modules() if not name.startswith(frozen or "\0"))
        return {n: m for n, m in named if isinstance(m, nn.Conv2d) and m.weight.requires_grad}

    def inputs(self, parameter: nn.Parameter) -> int:
        """How many numbers a parameter outside of these convolutions adds up: the columns of a matrix."""
        return parameter[0].numel() if parameter.ndim > 1 else len(parameter)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam; with ``first_pictures`` the fit of the first weights, and `WhitenedAdam`.

        A resumed run finds weights and whitenings in its checkpoint.

        Raises:
            ValueError: If the run has no datamodule, or its images or the loss network do not fit.
        """
        count = self.hparams["first_pictures"]
        if count == 0:
            return super().configure_optimizers()
        convs = list(self.trained_convs.values())
        whitenings: list[Tensor] | list[None] = [None] * len(convs)
        if not self.resumed:
            whitenings = fit_model(self, shared_images(self, count))
        whitened = {parameter for conv in convs for parameter in conv.parameters()}
        others = {p: self.inputs(p) for p in self.parameters() if p.requires_grad and p not in whitened}
        return self.scheduled(WhitenedAdam(convs, whitenings, self.hparams["lr"], others=others))


def mirrored(decoder: MirroredDecoder) -> list[Goal]:
    """Each convolution restores what the one of VGG-19 that it mirrors has as its input."""
    convs = [module for module in decoder if isinstance(module, nn.Conv2d)]
    names = ["conv4_1", "conv3_4", "conv3_3", "conv3_2", "conv3_1", "conv2_2", "conv2_1", "conv1_2"][-len(convs) + 1 :]
    return [
        *(Goal(conv, name) for conv, name in zip(convs, names, strict=False)),
        Goal(convs[-1], "picture", relu=False),
    ]
