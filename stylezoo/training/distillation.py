"""Objectives with a teacher: `Imitation` of another model's outputs, and `Distillation` of magenta's style predictor.

magenta/magenta@526d3eb arbitrary_image_stylization_distill_mobilenet.py trains a MobileNet-V2 on the bottlenecks of a trained
Inception-v3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.checkpoints import load_model
from stylezoo.errors import StylezooError, check_number
from stylezoo.losses import at_least_float32
from stylezoo.models.magenta import Magenta
from stylezoo.module import StyleModel


class Distillation:
    """An objective: the losses of a magenta plus the distance of its bottlenecks to those of a teacher.

    Where content, style and total variation have no weight, these terms are left out and nothing is stylized for them.

    Args:
        teacher: A trained magenta, what `stylezoo.load_model` takes.
        weight: Weight of the term ``distillation``, the mean squared error of bottlenecks.
        imitation_weight: Weight of the term ``imitation``, the mean squared difference to the teacher's outputs for its own
            bottlenecks; the reference has no such loss.
    """

    def __init__(self, teacher: str, weight: float = 1.0, imitation_weight: float = 0.0) -> None:
        self.weight = check_number("weight", weight, "a finite number from 0 up", 0)
        self.imitation_weight = check_number("imitation_weight", imitation_weight, "a finite number from 0 up", 0)
        with torch.random.fork_rng(devices=[]):  # the weights of the student do not depend on its having a teacher
            model = load_model(teacher)
        if not isinstance(model, Magenta):
            raise StylezooError(f"The teacher of a magenta must be a magenta, but {teacher} is a {model.system}.")
        self.teacher = model

    def __call__(self, model: StyleModel, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Returns the weighted loss terms, see `StyleModel.losses`.

        Raises:
            StylezooError: If the model is no magenta.
        """
        if not isinstance(model, Magenta):
            raise StylezooError(f"Distillation teaches a magenta, not a {model.system}: leave training.objective out.")
        bottleneck = model.predictor(style)
        terms = model.losses(content, style, bottleneck=bottleneck) if any(model.loss_weights.values()) else {}
        with torch.no_grad():
            teacher = self.teacher.to(style.device)
            wanted = teacher.predictor(style)
            imitated = teacher.decode(content, {"bottleneck": wanted}) if self.imitation_weight else None
        terms["distillation"] = self.weight * F.mse_loss(at_least_float32(bottleneck), wanted)
        if imitated is not None:
            output = model.decode(content, {"bottleneck": wanted})
            terms["imitation"] = self.imitation_weight * F.mse_loss(at_least_float32(output), imitated)
        return terms


class Imitation:
    """An objective: the distance of outputs to those of a teacher, another model that takes the same contents and styles.

    It is meant for the first steps of a smaller network of the same system, or of another system; the run then goes on with the
    losses of the system, without the objective. Outputs get closer to those of the teacher and smoother than them: the
    distance to the content's target falls, and the style loss rises until the losses of the system are back.

    Args:
        teacher: A trained model, what `stylezoo.load_model` takes.
        weight: Weight of the term ``imitation``, the mean squared difference of outputs, RGB in [0, 1].
        feature_weight: Weight of the term ``imitation_features``, the mean squared difference of features of the network of
            the losses, summed over layers.
        layers: The layers of these features.
        own_losses: Whether the losses of the system are added, for which the content is stylized once more.

    Raises:
        StylezooError: If a weight is no finite number from 0 up, or both are 0.
    """

    def __init__(
        self,
        teacher: str,
        weight: float = 10.0,
        feature_weight: float = 1.0,
        layers: Sequence[str] = ("relu1_1", "relu2_1", "relu3_1"),
        own_losses: bool = False,
    ) -> None:
        self.weight = check_number("weight", weight, "a finite number from 0 up", 0)
        self.feature_weight = check_number("feature_weight", feature_weight, "a finite number from 0 up", 0)
        if not self.weight and not self.feature_weight:
            raise StylezooError("An imitation needs a weight or a feature_weight above 0.")
        self.layers, self.own_losses = tuple(layers), own_losses
        with torch.random.fork_rng(devices=[]):  # the weights of the student do not depend on its having a teacher
            self.teacher = load_model(teacher)

    def __call__(self, model: StyleModel, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Returns the weighted loss terms, see `StyleModel.losses`.

        Raises:
            StylezooError: If the teacher does not take these styles.
        """
        terms = model.losses(content, style) if self.own_losses else {}
        output = model(content, style)
        with torch.no_grad():
            wanted = self.teacher.to(content.device)(content, style)
        terms["imitation"] = self.weight * F.mse_loss(at_least_float32(output), wanted)
        if self.feature_weight:
            model.prepare_losses()
            features = model.loss_encoder(output, self.layers)
            with torch.no_grad():
                targets = model.loss_encoder(wanted.to(output), self.layers)
            distances = (
                F.mse_loss(at_least_float32(features[layer]), at_least_float32(targets[layer])) for layer in features
            )
            terms["imitation_features"] = self.feature_weight * torch.stack([*distances]).sum()
        return terms
