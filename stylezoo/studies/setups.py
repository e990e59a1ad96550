"""Settings that several studies have in common, as dataclasses: a parameter of such a type adds its fields to the
settings of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stylezoo.checkpoints import load_model
from stylezoo.errors import StylezooError
from stylezoo.module import StyleModel
from stylezoo.studies.material import Material, device
from stylezoo.studies.pairs import ImagePairs, measuring_network, random_pairs
from stylezoo.vgg import VGG

ENCODER = "vgg19_random/4"
"""Encoder of briefly trained models, unless another one is given."""


@dataclass(frozen=True)
class ModelSetup:
    """Models for any style image, either given or trained briefly, and the images that they are measured on.

    Attributes:
        content: Folder of photos.
        style: Folder of paintings.
        models: Models for any style image: files, or names of weights.
        systems: Systems that are trained if no models are given.
        steps: Optimizer steps of each trained model.
        size: Side of the stylized images.
        crop: Side of training crops.
        batch_size: Pairs per training step.
        lr: Learning rate, which stays constant.
        encoder: Network that measures; also the encoder of trained models. By default the first model's own.
        encoder_weights: A file for it.
        seed: Seed of training and of random pairs.
    """

    content: str | None = None
    style: str | None = None
    models: tuple[str, ...] = ()
    systems: tuple[str, ...] = ("adain", "sanet")
    steps: int = 400
    size: int = 160
    crop: int = 64
    batch_size: int = 4
    lr: float = 1e-3
    encoder: str | None = None
    encoder_weights: str | None = None
    seed: int = 0

    @property
    def material(self) -> Material:
        """The images."""
        return Material(self.content, self.style, self.crop, self.batch_size, self.seed)

    @property
    def held_out(self) -> bool:
        """Whether the models are measured on images that were held out of their training in this study."""
        return not self.models

    def photos(self, count: int) -> Tensor:
        """Returns the first photos to measure with, (N, 3, size, size) in [0, 1]."""
        return self.material.photos(count, self.size, self.held_out)

    def paintings(self, count: int) -> Tensor:
        """Returns the first paintings to measure with, (N, 3, size, size) in [0, 1]."""
        return self.material.paintings(count, self.size, self.held_out)

    def networks(self) -> dict[str, StyleModel]:
        """Loads the given models, or trains one of each system.

        Returns:
            {label: model}, in eval mode.

        Raises:
            StylezooError: If a model takes no style images, or no image to measure with can be used.
        """
        found: dict[str, StyleModel] = {}
        for name in self.models:
            model = load_model(name)
            if model.kind != "arbitrary":
                raise StylezooError(
                    f"{name} is a {model.kind}-style model: this study needs models for any style image."
                )
            label = Path(name).name.removesuffix(".safetensors").removesuffix(".ckpt")
            found[label if label not in found else name] = model.to(device())
        if self.models:
            return found
        self.material.probe(self.size)
        for system in self.systems:
            print(f"{system}: {self.steps} steps of {self.batch_size} pairs, {self.crop} x {self.crop} pixels")
            # One statistic for all: the systems' own differ, and the one with eps outside the root is not comparable.
            found[system] = self.train(system, style_loss="mean_std")
        return found

    def train(self, system: str, **settings: Any) -> StyleModel:
        """Trains a new model of a system with these settings, see `Material.fit`."""
        return self.material.fit(self.untrained(system, **settings), self.steps)

    def untrained(self, system: str, **settings: Any) -> StyleModel:
        """Creates a model of a system with these settings, see `Material.untrained`."""
        return self.material.untrained(
            system,
            encoder=self.encoder or ENCODER,
            encoder_weights=self.encoder_weights,
            lr=self.lr,
            lr_decay=0.0,
            **settings,
        )

    def measuring(self, networks: Mapping[str, StyleModel]) -> VGG:
        """Returns the network that measures all models, see `measuring_network`."""
        return measuring_network(networks, self.encoder, self.encoder_weights)

    @property
    def origin(self) -> str:
        """The sentence that tells where the models come from."""
        if self.models:
            return f"Models: {', '.join(Path(name).name for name in self.models)}, as given."
        return (
            f"**Trained briefly for this study** ({self.steps} steps, encoder {self.encoder or ENCODER}), from random weights:"
            " this shows how the systems behave, not how good their outputs are after a full training. Give trained models"
            " with `--models`."
        )


@dataclass(frozen=True)
class PairSetup(ModelSetup):
    """Models for any style image, and pairs of a photo and a painting that they are measured on.

    Attributes:
        images: Number of pairs.
    """

    images: int = 40

    def random_pairs(self) -> ImagePairs:
        """Draws random pairs, of held-out images if models are trained."""
        return random_pairs(self.material, self.images, self.size, self.held_out)

    def first_pairs(self) -> tuple[Tensor, Tensor]:
        """Returns the first photos and the first paintings in order, each (N, 3, size, size) in [0, 1]."""
        contents, styles = self.photos(self.images), self.paintings(self.images)
        count = min(len(contents), len(styles))
        return contents[:count], styles[:count]


@dataclass(frozen=True)
class TrainingSetup:
    """Trainings of networks that learn given styles.

    Attributes:
        content: Folder of photos.
        style: Folder of paintings.
        steps: Optimizer steps of each network.
        size: Side of held-out images, and of training crops if these have no setting of their own.
        batch_size: Images per step.
        images: Number of held-out photos.
        width: Multiplies the channels of the network.
        lr: Learning rate.
        content_weight: Weight of the content loss.
        style_weight: Weight of the style loss; its scale depends on the encoder.
        encoder: Network of the losses.
        encoder_weights: A file for it.
        seed: Decides weights, batches and styles.
    """

    content: str | None = None
    style: str | None = None
    steps: int = 300
    size: int = 64
    batch_size: int = 4
    images: int = 8
    width: float = 0.5
    lr: float = 1e-3
    content_weight: float = 1.0
    style_weight: float = 500.0
    encoder: str = "vgg16_random/4"
    encoder_weights: str | None = None
    seed: int = 0

    def material(self, run: int = 0, crop: int | None = None) -> Material:
        """Returns the images of a run; each run has a seed of its own.

        Args:
            run: Number that is added to the seed.
            crop: Side of the training crops, if it is not ``size``.
        """
        return Material(self.content, self.style, crop or self.size, self.batch_size, self.seed + run)

    @property
    def network(self) -> dict[str, Any]:
        """Constructor arguments of the networks."""
        names = ("width", "lr", "content_weight", "style_weight", "encoder", "encoder_weights")
        return {name: getattr(self, name) for name in names}
