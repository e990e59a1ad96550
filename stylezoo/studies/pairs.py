"""Components of the tables of quality: pairs of images, the outputs of models, and the network that measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylezoo.data.synthetic import Subject
from stylezoo.errors import StylezooError
from stylezoo.evaluation.pairs import unusable
from stylezoo.metrics import identify
from stylezoo.module import StyleModel
from stylezoo.studies.material import Material, check_left, device, square, stylized, tell_skipped
from stylezoo.vgg import VGG

IDENTITY, STYLE_COPY = "(content unchanged)", "(style copied)"
"""Labels of the identity baseline, which returns the content, and of the style-copy baseline, which returns the style."""

SIDES: tuple[Subject, Subject] = ("photos", "paintings")


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of a photo and a painting, which are read on access because two thousand would not fit into memory.

    Attributes:
        files: (photo, painting) of each pair.
        size: Side of the central squares in pixels, see `square`.
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
    """Draws pairs with the material's seed; every image is drawn once before any is drawn again.

    Args:
        material: The images.
        count: Number of pairs.
        size: Side of the central squares in pixels.
        held_out: Whether only images are drawn that no training uses.

    Raises:
        StylezooError: If no image can be used.
    """

    def draw(sides: Sequence[list[Path]]) -> list[tuple[Path, Path]]:
        # a generator per side, so that the first pairs do not depend on the count
        generators = (torch.Generator().manual_seed(2 * material.seed + number) for number in range(2))
        photos, paintings = (_drawn(files, count, g) for files, g in zip(sides, generators, strict=True))
        return list(zip(photos, paintings, strict=True))

    return ImagePairs(_settled(material, held_out, size, draw), size)


def product_pairs(material: Material, count: int, size: int, held_out: bool) -> ImagePairs:
    """Combines every photo with every painting, photo by photo; the material's seed draws a part of too many pairs.

    Args:
        material: The images.
        count: The largest number of pairs.
        size: Side of the central squares in pixels.
        held_out: Whether only images are taken that no training uses.

    Raises:
        StylezooError: If no image can be used.
    """

    def draw(sides: Sequence[list[Path]]) -> list[tuple[Path, Path]]:
        photos, paintings = sides
        files = [(photo, painting) for photo in photos for painting in paintings]
        if count < len(files):
            order = torch.randperm(len(files), generator=torch.Generator().manual_seed(material.seed))
            files = [files[index] for index in sorted(order[:count].tolist())]
        return files

    return ImagePairs(_settled(material, held_out, size, draw), size)


def _settled(
    material: Material,
    held_out: bool,
    size: int,
    draw: Callable[[Sequence[list[Path]]], list[tuple[Path, Path]]],
) -> list[tuple[Path, Path]]:
    """Draws pairs, again without the images that cannot be used until all can; these are named on the error stream."""
    sides = [material.files(kind, held_out) for kind in SIDES]
    read: set[Path] = set()
    while True:
        pairs = draw(sides)
        new = sorted({path for pair in pairs for path in pair} - read)
        read.update(new)
        broken = {path: reason for path in new if (reason := unusable(path, size)) is not None}
        if not broken:
            return pairs
        tell_skipped(broken.values())
        sides = [[path for path in files if path not in broken] for files in sides]
        for files in sides:
            check_left(files, broken)


def _drawn(files: list[Path], count: int, generator: torch.Generator) -> list[Path]:
    rounds = -(-count // len(files))
    order = torch.cat([torch.randperm(len(files), generator=generator) for _ in range(rounds)])
    return [files[index] for index in order[:count].tolist()]


def outputs(networks: Mapping[str, StyleModel], content: Tensor, style: Tensor) -> dict[str, Tensor]:
    """Returns the output of each model and of both baselines for a pair.

    Args:
        networks: {label: model for any style image}.
        content: (1, 3, H, W) in [0, 1].
        style: (1, 3, H, W) in [0, 1].

    Returns:
        {label: (1, 3, H, W) in [0, 1]}.
    """
    of_models = {label: stylized(model, content, style) for label, model in networks.items()}
    return {IDENTITY: content, **of_models, STYLE_COPY: style}


def measuring_network(networks: Mapping[str, StyleModel], encoder: str | None, encoder_weights: str | None) -> VGG:
    """Returns the network that measures all models.

    Args:
        networks: {label: model}.
        encoder: Its name; None takes the encoder of the first model that has one, or else the shipped ``vgg19_slim``.
        encoder_weights: A file for it.
    """
    if encoder is not None:
        return VGG(encoder, encoder_weights).to(device())
    own = (vgg for model in networks.values() for _, vgg in model.encoders())
    return next(own, None) or VGG("vgg19_slim").to(device())


def present(network: VGG, layers: Iterable[str]) -> list[str]:
    """Returns those of some layers that the network's file reaches.

    Raises:
        StylezooError: If the file reaches none of them.
    """
    layers = list(layers)
    found = [layer for layer in layers if layer in network.channels]
    if not found:
        raise StylezooError(f"{network.name} has none of the layers {', '.join(layers)}: choose another encoder.")
    return found


def measured_with(network: VGG, layers: Iterable[str], pairs: ImagePairs) -> str:
    """Returns the sentences that name the pairs and the network of a table; values of other networks do not compare."""
    layers = list(layers)
    name, sha256 = identify(network)
    missing = [layer for layer in layers if layer not in network.channels]
    text = (
        f"{len(pairs)} pairs, {pairs.size} x {pairs.size} pixels, measured with {name} (sha256 {sha256[:12]}) at"
        f" {', '.join(present(network, layers))}."
    )
    return f"{text} Its file does not reach {', '.join(missing)}: left out." if missing else text
