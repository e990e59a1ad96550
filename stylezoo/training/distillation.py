"""Distillation of magenta's style predictor.

magenta/magenta@526d3eb arbitrary_image_stylization_distill_mobilenet.py trains a MobileNet-V2 on the bottlenecks of a trained
Inception-v3.
"""

from __future__ import annotations

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
