"""What the tables of quality share: random pairs of images, what models make of them, and the network that measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylezoo.data.synthetic import Subject
from stylezoo.metrics import identify
from stylezoo.module import StyleModel
from stylezoo.studies.material import Material, device, painted, square, trained_briefly
from stylezoo.vgg import VGG

UNCHANGED, COPIED = "(content unchanged)", "(style copied)"
"""What is no stylization at all: between these two every model has to find its place."""

TRAINED = "vgg19_random/4"
"""Encoder of briefly trained models, if none is asked for."""


SIDES: tuple[Subject, Subject] = ("photos", "paintings")


@dataclass(frozen=True)
class ImagePairs:
    """Photos with a painting each, read when they are asked for: two thousand would not fit into memory.

    Attributes:
        files: (photo, painting).
        size: Side of the central squares, see `square`.
    """

    files: Sequence[tuple[Path, Path]]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        content, style = (square(path, self.size).unsqueeze(0) for path in self.files[index])
        return content, style  # (1, 3, size, size) each

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[index] for index in range(len(self)))


def random_pairs(material: Material, count: int, size: int, held_out: bool) -> ImagePairs:
    """Pairs drawn by the material's seed; every image is drawn once before any is drawn again.

    Raises:
        ValueError: If none are asked for.
    """
    _check(count)
    sides = []
    for number, kind in enumerate(SIDES):  # a generator for each side, so that more pairs begin with those of fewer
        generator = torch.Generator().manual_seed(2 * material.seed + number)
        sides.append(_drawn(material.files(kind, held_out), count, generator))
    return ImagePairs(list(zip(*sides, strict=True)), size)


def product_pairs(material: Material, count: int, size: int, held_out: bool) -> ImagePairs:
    """Every photo with every painting, photo by photo; of too many the part that the material's seed draws.

    Raises:
        ValueError: If none are asked for.
    """
    _check(count)
    photos, paintings = (material.files(kind, held_out) for kind in SIDES)
    files = [(photo, painting) for photo in photos for painting in paintings]
    if count < len(files):
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(material.seed))
        files = [files[index] for index in sorted(order[:count].tolist())]
    return ImagePairs(files, size)


@dataclass(frozen=True)
class OnPairs:
    """The settings of all studies that let models paint pairs of images.

    Attributes:
        content: Folder of photos.
        style: Folder of paintings.
        models: Models for any style image.
        systems: What is trained if there are none.
        steps: Optimizer steps.
        size: Side of the painted images.
        crop: Side of training crops.
        batch_size: Pairs per step.
        pictures: Pairs.
        lr: Learning rate.
        encoder: Network that measures; also the encoder of trained models. By default the first model's own.
        encoder_weights: A file for it.
        seed: Of training and of the pairs.
    """

    content: str | None = None
    style: str | None = None
    models: tuple[str, ...] = ()
    systems: tuple[str, ...] = ("adain", "sanet")
    steps: int = 400
    size: int = 160
    crop: int = 64
    batch_size: int = 4
    pictures: int = 40
    lr: float = 1e-3
    encoder: str | None = None
    encoder_weights: str | None = None
    seed: int = 0

    @property
    def material(self) -> Material:
        """The images."""
        return Material(self.content, self.style, self.crop, self.batch_size, self.seed)

    def pairs(self) -> ImagePairs:
        """Random ones, of images that nothing was trained on here."""
        return random_pairs(self.material, self.pictures, self.size, held_out=not self.models)

    def first_pairs(self) -> tuple[Tensor, Tensor]:
        """The first photos and the first paintings in order, each (N, 3, size, size) in [0, 1]; see `pairs` for random ones."""
        held_out = not self.models
        contents = self.material.photos(self.pictures, self.size, held_out)
        styles = self.material.paintings(self.pictures, self.size, held_out)
        count = min(len(contents), len(styles))
        return contents[:count], styles[:count]

    def networks(self) -> dict[str, StyleModel]:
        """The models, {label: model}: given or trained briefly."""
        encoder = self.encoder or TRAINED
        return self.material.arbitrary(self.models, self.systems, self.steps, encoder, self.encoder_weights, self.lr)

    def measuring(self, networks: Mapping[str, StyleModel]) -> VGG:
        """See `measuring_network`."""
        return measuring_network(networks, self.encoder, self.encoder_weights)

    @property
    def origin(self) -> str:
        """The sentence that says where the models come from."""
        return trained_briefly(self.models, self.steps, self.encoder or TRAINED)


def _check(count: int) -> None:
    if count < 1:
        raise ValueError(f"images is a number of pairs, at least 1, not {count}.")


def _drawn(files: list[Path], count: int, generator: torch.Generator) -> list[Path]:
    rounds = -(-count // len(files))
    order = torch.cat([torch.randperm(len(files), generator=generator) for _ in range(rounds)])
    return [files[index] for index in order[:count].tolist()]


def outputs(networks: Mapping[str, StyleModel], content: Tensor, style: Tensor) -> dict[str, Tensor]:
    """What is measured of a pair, each (1, 3, H, W): content and style as they are, and each model's image of them."""
    stylized = {label: painted(model, content, style) for label, model in networks.items()}
    return {UNCHANGED: content, **stylized, COPIED: style}


def measuring_network(networks: Mapping[str, StyleModel], encoder: str | None, encoder_weights: str | None) -> VGG:
    """The network that measures all models.

    Args:
        networks: The models.
        encoder: Its name; None takes the encoder of the first model that has one, or ``vgg19_slim``, which ships inside.
        encoder_weights: A file for it.
    """
    if encoder is not None:
        return VGG(encoder, encoder_weights).to(device())
    own = (vgg for model in networks.values() for _, vgg in model.encoders())
    return next(own, None) or VGG("vgg19_slim").to(device())


def present(network: VGG, layers: Iterable[str]) -> list[str]:
    """Those of some layers that the network's file reaches.

    Raises:
        ValueError: If it reaches none.
    """
    layers = list(layers)
    found = [layer for layer in layers if layer in network.channels]
    if not found:
        raise ValueError(f"{network.name} has none of the layers {', '.join(layers)}: choose another encoder.")
    return found


def measured_with(network: VGG, layers: Iterable[str], pairs: ImagePairs) -> str:
    """The sentences that say with what a table was measured; values of other networks cannot be compared with it."""
    layers = list(layers)
    name, sha256 = identify(network)
    missing = [layer for layer in layers if layer not in network.channels]
    text = (
        f"{len(pairs)} pairs, {pairs.size} x {pairs.size} pixels, measured with {name} (sha256 {sha256[:12]}) at"
        f" {', '.join(present(network, layers))}."
    )
    return f"{text} Its file does not reach {', '.join(missing)}: left out." if missing else text
