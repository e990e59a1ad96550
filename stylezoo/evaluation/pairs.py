"""The pairs of an evaluation: how they are drawn from two folders, and how their images are read in batches."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stylezoo.data.stream import Framing
from stylezoo.errors import StylezooError
from stylezoo.evaluation.store import Pair
from stylezoo.images import ImageError, list_images, read_image, to_tensor
from stylezoo.inference import SMALLEST_SIDE

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True)
class Protocol:
    """The settings that decide which pairs are measured and how models stylize them.

    Attributes:
        pairs: Number of pairs; None for all contents with all styles.
        seed: Seed of the pairs and of the bootstrap.
        size: Short side in pixels to which images are resized.
        crop: Side in pixels of the central square that is cut from them.
        batch_size: Number of pairs that are stylized and measured together.
        precision: Precision in which models run.
    """

    pairs: int | None
    seed: int
    size: int
    crop: int
    batch_size: int
    precision: Precision

    @property
    def framing(self) -> Framing:
        """The resize and the central crop of every image."""
        return Framing(self.size, self.crop, "shorter", "center", False)

    def check(self) -> None:
        """Raises a StylezooError if the sizes do not fit each other or are too small."""
        self.framing.check()
        if self.crop < SMALLEST_SIDE:
            raise StylezooError(f"crop must be {SMALLEST_SIDE} pixels or more, not {self.crop}.")
        if self.batch_size < 1:
            raise StylezooError(f"batch_size must be 1 or more, not {self.batch_size}.")


def draw_pairs(content: Path, style: Path, pairs: int | None, seed: int) -> list[Pair]:
    """Draws pairs of images without repetition, and sorts them by style.

    Every image is read once, so that a broken file is found before anything is stylized.

    Args:
        content: Folder of contents.
        style: Folder of styles.
        pairs: Number of pairs; None for all contents with all styles.
        seed: Seed of the draw.

    Returns:
        Names of content and style, relative to their folders.

    Raises:
        ImageError: If one of the images cannot be read.
        StylezooError: If a folder holds no image, or there are fewer pairs.
    """
    contents, styles = (_image_names(folder) for folder in (content, style))
    every = len(contents) * len(styles)
    if pairs is not None and not 1 <= pairs <= every:
        raise StylezooError(f"{len(contents)} contents and {len(styles)} styles make {every} pairs, not {pairs}.")
    rng = np.random.default_rng(seed)
    numbers = range(every) if pairs is None else np.sort(rng.choice(every, pairs, replace=False)).tolist()
    drawn = [(contents[number % len(contents)], styles[number // len(contents)]) for number in numbers]
    for path in _image_paths(content, style, drawn):
        read_image(path, min_side=1)
    return drawn


def digest_pairs(content: Path, style: Path, pairs: list[Pair]) -> str:
    """Computes the SHA-256 of pairs: of their names and of the bytes of their images.

    Args:
        content: Folder of contents.
        style: Folder of styles.
        pairs: Names of content and style, relative to their folders.

    Raises:
        ImageError: If one of the images is missing.
    """
    sha256 = hashlib.sha256(json.dumps(pairs).encode())
    for path in _image_paths(content, style, pairs):
        if not path.is_file():
            raise ImageError(f"{path} does not exist, but the evaluation uses it: put the image back.")
        sha256.update(hashlib.sha256(path.read_bytes()).digest())
    return sha256.hexdigest()


def _image_names(folder: Path) -> list[str]:
    """The images of a folder, relative to it."""
    names = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    if not names:
        raise StylezooError(f"There is no image in {folder}: expected files such as .jpg, .png or .webp.")
    return names


def _image_paths(content: Path, style: Path, pairs: list[Pair]) -> list[Path]:
    """The images of pairs, each once."""
    contents, styles = (dict.fromkeys(names) for names in zip(*pairs, strict=True))
    return [*(content / name for name in contents), *(style / name for name in styles)]


class Batch(TypedDict):
    """A batch of pairs; those of one style are next to each other."""

    number: int
    content: Tensor  # (B, 3, crop, crop)
    style: Tensor  # (S, 3, crop, crop), each style once
    names: list[str]  # of the styles, S
    counts: list[int]  # pairs per style, S


class Batches(Dataset[Batch]):
    """The pairs in fixed batches: which images a model stylizes together can change the last bits of its outputs.

    Args:
        pairs: Names of content and style, relative to their folders.
        content: Folder of contents.
        style: Folder of styles.
        protocol: The sizes of the images and of the batches.
    """

    def __init__(self, pairs: list[Pair], content: Path, style: Path, protocol: Protocol) -> None:
        self.pairs = pairs
        self.content, self.style = content, style
        self.framing = protocol.framing
        self.batch_size = protocol.batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.pairs) / self.batch_size)

    def pairs_of(self, number: int) -> list[Pair]:
        """Returns the pairs of a batch."""
        return self.pairs[number * self.batch_size : (number + 1) * self.batch_size]

    def __getitem__(self, number: int) -> Batch:
        pairs = self.pairs_of(number)
        groups = {style: len(list(group)) for style, group in groupby(pairs, key=lambda pair: pair[1])}
        return {
            "number": number,
            "content": torch.stack([self._read(self.content / content) for content, _ in pairs]),
            "style": torch.stack([self._read(self.style / style) for style in groups]),
            "names": list(groups),
            "counts": list(groups.values()),
        }

    def _read(self, path: Path) -> Tensor:
        """The framed image, (3, crop, crop)."""
        return to_tensor(self.framing(read_image(path, self.framing.size), None))
