"""SlimEncoder - a VGG-19 distilled to half the channels, the encoder that ships with the package (``vgg19_slim``).

The student has VGG's convolutions up to conv5_1, but thin, and 1x1 maps with a ReLU that lead from relu1_1 ... relu5_1 back
to VGG's channels: loss weights and decoders keep their meaning. Encoders of this shape are those of Collaborative
Distillation for Ultra-Resolution Universal Style Transfer (Wang et al., CVPR 2020, arXiv:2003.08436).

    python -m stylezoo fit --config experiments/slim_encoder.yaml
    python -m stylezoo fit --config experiments/adain.yaml --model.encoder vgg19_slim \\
      --model.encoder_weights runs/slim_encoder/version_0/checkpoints/last.ckpt

It does not start from noise. Layer by layer, the teacher's channels that predict all others best are chosen, and the
student's filters are the least-squares fit of these to its own input, so that they correct the errors of the layers
before. This is channel pruning (He, Zhang & Sun, ICCV 2017, arXiv:1707.06168) with a greedy choice instead of LASSO. It takes
minutes; preconditioned Adam (`stylezoo.training.optimizers`) does the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stylezoo.controls import Kind
from stylezoo.losses import at_least_float32, balanced_gram_loss, content_loss
from stylezoo.module import StyleModel
from stylezoo.training.optimizers import PreconditionedAdamOptimizer, preconditioner
from stylezoo.training.regression import choose, columns, conv_inputs, convolutions, fit, patches, some_positions
from stylezoo.training.training import shared_images
from stylezoo.vgg import VGG, Features, conv_names

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


class SlimEncoder(StyleModel):
    """A slim encoder in training: no system of the zoo, it stylizes nothing. Its checkpoints serve as encoder weights.

    Args:
        widths: Channels of the five blocks. conv4_1 has those of the fourth, what follows it those of the fifth: only
            relu5_1 needs it.
        gram_weight: Weight of the balanced Gram loss of each layer, against its relative squared error.
        crops: Number of training crops that the initialization is fitted to; 0 leaves the weights random.
        initial_weights: A slim encoder's file to continue from, instead of that fit.
        lr: Learning rate of preconditioned Adam after the first steps.
        lr_decay: d in lr / (1 + d * step).
        warmup: Steps in which the learning rate rises to its value.
        teacher: The encoder to imitate, see `stylezoo.vgg.VGG`.
        teacher_weights: A file for it; None takes the encoder's own.
        deep_teacher_weights: A file of another slim encoder, which teaches the layers that the teacher's file lacks;
            None leaves these out.
    """

    system: ClassVar[str] = "slim_encoder"
    kind: ClassVar[Kind] = "single"  # it takes no style
    local_settings: ClassVar[frozenset[str]] = frozenset({"initial_weights", "teacher_weights", "deep_teacher_weights"})

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256, 128),
        gram_weight: float = 0.5,
        crops: int = 256,
        initial_weights: str | None = None,
        lr: float = 0.01,
        lr_decay: float = 3e-3,
        warmup: int = 50,
        teacher: str = "vgg19_normalised",
        teacher_weights: str | None = None,
        deep_teacher_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.crops, self.initial_weights = crops, initial_weights
        self.loss_weights = {**dict.fromkeys(LAYERS, 1.0), "gram": gram_weight}
        self.warmup = warmup
        self.teacher = VGG(teacher, teacher_weights)
        self.deep_teacher = None if deep_teacher_weights is None else VGG("vgg19_slim", deep_teacher_weights)
        deep_channels = {} if self.deep_teacher is None else self.deep_teacher.channels
        known = {**deep_channels, **self.teacher.channels}
        self.encoder = VGG(
            "vgg19_slim", untrained_weights(widths, {name: known[name] for name in LAYERS if name in known})
        )
        self.encoder.convs.requires_grad_()
        self.encoder.maps.requires_grad_()
        self.to(memory_format=torch.channels_last)

    def encoders(self) -> Iterator[tuple[str, VGG]]:
        """The teachers: they are frozen, the encoder itself is what training changes."""
        return ((name, vgg) for name, vgg in super().encoders() if vgg is not self.encoder)

    def targets(self, image: Tensor) -> Features:
        """Returns the teachers' features, {layer: (B, C, H', W')} for every layer that the student has."""
        first = [layer for layer in self.encoder.channels if layer in self.teacher.channels]
        rest = [layer for layer in self.encoder.channels if layer not in first]
        with torch.no_grad():
            features: Features = self.teacher(image, first)
            return features if self.deep_teacher is None else {**features, **self.deep_teacher(image, rest)}

    def loss_terms(self, content: Tensor, style: Tensor | None = None) -> dict[str, Tensor]:
        """One term per layer, the squared error relative to the teacher's mean square, and ``gram``.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: More images of the same size, if there are any.
        """
        image = content if style is None else torch.cat([content, style])
        image = image.contiguous(memory_format=torch.channels_last)
        targets = self.targets(image)
        features = self.encoder(image, list(targets))
        terms = {n: content_loss(features[n], t) / at_least_float32(t).square().mean() for n, t in targets.items()}
        gram = torch.stack([balanced_gram_loss(features[name], t) for name, t in targets.items()]).sum()
        return {**terms, "gram": gram}

    def build_loss_encoder(self) -> None:
        """Does nothing: the teachers are there from the start."""

    def setup(self, stage: str) -> None:
        self._resumed = False
        super().setup(stage)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._resumed = True

    def optimizer(self) -> Optimizer:
        """Initializes a new run, from a file or by `fit_to_teachers`, and returns preconditioned Adam.

        A resumed run finds weights and preconditioners in its checkpoint.
        """
        convs = [*convolutions(self.encoder.convs).values(), *convolutions(self.encoder.maps).values()]
        known: list[Tensor] | list[None] = [None] * len(convs)
        if self.crops and not self._resumed:
            images = shared_images(self.trainer, self.crops)
            if self.initial_weights is None:
                fit_to_teachers(self.encoder, self.teacher, self.deep_teacher, images)
            else:
                trained = VGG("vgg19_slim", self.initial_weights)
                self.encoder.load_state_dict(trained.state_dict())
            known = preconditioners(self.encoder, images)
        return PreconditionedAdamOptimizer(convs, known, self.lr)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """A linear warm-up, then lr / (1 + lr_decay * i) at optimizer step i = 0, 1, 2 ..."""
        warmup, decay = self.warmup, self.lr_decay
        return LambdaLR(optimizer, lambda i: min(1, (i + 1) / max(1, warmup)) / (1 + decay * i))


def untrained_weights(widths: Sequence[int], channels: Mapping[str, int]) -> dict[str, Tensor]:
    """Weights of a slim encoder before it is trained (He et al. 2015), named as `VGG.tensors` names them.

    Args:
        widths: Of the five blocks, see `SlimEncoder`.
        channels: {layer: channels that the map of this layer leads to}; there are no convolutions behind the last.
    """
    shapes: dict[str, tuple[int, int, int, int]] = {}
    names, width = conv_names(19), 3
    for name in names[: 1 + max(names.index(layer.replace("relu", "conv")) for layer in channels)]:
        block = 5 if name > "conv4_1" else int(name[4])
        shapes[name] = (widths[block - 1], width, 3, 3)
        width = widths[block - 1]
        if name.replace("conv", "relu") in channels:
            shapes[f"maps.{name}"] = (channels[name.replace("conv", "relu")], width, 1, 1)
    weights = {f"{name}.weight": nn.init.kaiming_normal_(torch.empty(shape)) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}


@torch.no_grad()
def fit_to_teachers(student: VGG, teacher: VGG, deep_teacher: VGG | None, images: Tensor, positions: int = 100) -> None:
    """Gives a slim encoder the weights that least squares finds, convolution by convolution.

    Args:
        student: Changed in place.
        teacher: A VGG-19.
        deep_teacher: A slim encoder for the convolutions that the teacher lacks.
        images: (B, 3, H, W), RGB in [0, 1].
        positions: How many positions of each image enter the fit of a layer.
    """
    convs, maps, targets = convolutions(teacher.convs), {}, conv_inputs(teacher, images)
    if deep_teacher is not None:
        deeper = {name: conv for name, conv in convolutions(deep_teacher.convs).items() if name not in convs}
        targets = itertools.chain(targets, (item for item in conv_inputs(deep_teacher, images) if item[0] in deeper))
        convs, maps = {**convs, **deeper}, convolutions(deep_teacher.maps)
    own_convs, own_maps, names = convolutions(student.convs), convolutions(student.maps), list(student.convs)
    generator = torch.Generator().manual_seed(0)
    for (name, thin), (_, wide) in zip(conv_inputs(student, images), targets, strict=False):
        where = some_positions(thin, positions, generator)
        target = columns(convs[name](wide), where)  # before the ReLU, (B * positions, C)
        importance = torch.eye(target.shape[1], device=target.device) * float(name in own_maps)
        following = names.index(name) + 1
        if following < len(names) and convs[names[following]].in_channels == target.shape[1]:
            kernel = convs[names[following]].weight
            reach = torch.einsum("oihw,ojhw->ij", kernel, kernel)
            importance += reach / reach.diagonal().mean()
        windows = patches(thin, where, own_convs[name])
        weight = fit(
            own_convs[name], windows, target[:, choose(F.relu(target), importance, own_convs[name].out_channels)]
        )
        if name in own_maps:
            features = F.relu(F.linear(windows, weight, own_convs[name].bias))
            if name not in teacher.convs:
                target = F.linear(F.relu(target), maps[name].weight.flatten(1), maps[name].bias)
            fit(own_maps[name], features, target)


@torch.no_grad()
def preconditioners(network: VGG, images: Tensor, positions: int = 100, damping: float = 1e-3) -> list[Tensor]:
    """Measures the `preconditioner` of each convolution of a slim encoder, then that of each map."""
    generator = torch.Generator().manual_seed(1)
    of_convs, of_maps = [], []
    for name, x in conv_inputs(network, images):
        where = some_positions(x, positions, generator)
        conv = convolutions(network.convs)[name]
        windows = patches(x, where, conv)
        of_convs.append(preconditioner(windows, damping))
        if name in network.maps:
            of_maps.append(preconditioner(F.relu(F.linear(windows, conv.weight.flatten(1), conv.bias)), damping))
    return of_convs + of_maps
