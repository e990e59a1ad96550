"""The pairs of an evaluation: how they are drawn from two folders, and how their images are read in batches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, TypedDict, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stylezoo.data.folder import Folder, Split
from stylezoo.data.stream import Framing
from stylezoo.errors import StylezooError, check_choice
from stylezoo.evaluation.tables import Pair
from stylezoo.files import open_regular
from stylezoo.images import MAX_PIXELS, ImageError, folder_images, in_order, read_image, to_tensor
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
        split: Splits of `stylezoo.data.Folder` whose images are used; None for all images.
    """

    pairs: int | None
    seed: int
    size: int
    crop: int
    batch_size: int
    precision: Precision
    split: tuple[str, ...] | None = None

    @property
    def framing(self) -> Framing:
        """The resize and the central crop of every image."""
        return Framing(self.size, self.crop, "shorter", "center", False)

    def check(self) -> None:
        """Raises a StylezooError if a number is out of its range, or the sizes do not fit each other."""
        for name, value, lowest in (
            ("pairs", self.pairs, 1),
            ("seed", self.seed, 0),
            ("batch_size", self.batch_size, 1),
        ):
            if value is not None and value < lowest:
                raise StylezooError(f"{name} must be {lowest} or more, not {value}.")
        self.framing.check()
        if self.crop < SMALLEST_SIDE:
            raise StylezooError(f"crop must be {SMALLEST_SIDE} pixels or more, not {self.crop}.")
        if self.size**2 > MAX_PIXELS:
            raise StylezooError(f"size must be {math.isqrt(MAX_PIXELS)} pixels or less, not {self.size}.")
        check_choice("precision", self.precision, get_args(Precision))
        for split in self.split or ():
            check_choice("split", split, get_args(Split))
        if self.split is not None and not self.split:
            raise StylezooError("There is no split given: choose from val, test and train, or leave it out.")


def image_names(folder: Path, split: Sequence[str] | None) -> list[str]:
    """Returns the images of a folder, relative to it.

    Args:
        folder: The folder.
        split: Splits of `stylezoo.data.Folder` whose images are wanted; None for all images.

    Raises:
        StylezooError: If the folder has too few images to hold any out of training, or none of a split.
        ImageError: If it has no image.
    """
    images = folder_images(folder)
    if split is None:
        return [path.relative_to(folder).as_posix() for path in images]
    data = Folder(str(folder))
    found = {path.relative_to(data.root).as_posix() for name in split for path in data.files(cast(Split, name))}
    if "train" not in split and found & {path.relative_to(data.root).as_posix() for path in data.files("train")}:
        raise StylezooError(
            f"{folder} has {len(images)} images, too few to hold any out of training: leave split out to use them all."
        )
    return in_order(found)


@dataclass(frozen=True)
class Drawn:
    """Pairs of images that can be read.

    Attributes:
        pairs: Names of content and style, relative to their folders, sorted by style.
        skipped: A sentence, without its period, for each image that was left out.
    """

    pairs: list[Pair]
    skipped: list[str]


def draw_pairs(content: Path, style: Path, protocol: Protocol, every_style: bool = False) -> Drawn:
    """Draws pairs of images without repetition.

    Every drawn image is read once; one that cannot be used is left out, and the pairs are drawn again without it.

    Args:
        content: Folder of contents.
        style: Folder of styles.
        protocol: Number of pairs, seed, sizes and split.
        every_style: Whether the split is one of contents only.

    Raises:
        StylezooError: If a folder holds no image that can be read, or there are fewer pairs; if a folder is too small to
            have splits.
    """
    splits = (protocol.split, None if every_style else protocol.split)
    images = [image_names(folder, split) for folder, split in zip((content, style), splits, strict=True)]
    read: set[Path] = set()
    skipped: dict[Path, str] = {}
    while True:
        drawn = _draw(images[0], images[1], protocol, skipped)
        for path in _image_paths(content, style, drawn):
            reason = None if path in read else unusable(path, protocol.size)
            read.add(path)
            if reason is not None:
                skipped[path] = reason
        left = [
            [name for name in names if folder / name not in skipped]
            for folder, names in zip((content, style), images, strict=True)
        ]
        for folder, before, names in zip((content, style), images, left, strict=True):
            if not names:
                reason = next(reason for path, reason in skipped.items() if path.parent.is_relative_to(folder))
                raise ImageError(f"None of the {len(before)} images that were tried in {folder} can be used: {reason}.")
        if left == images:
            return Drawn(drawn, list(skipped.values()))
        images = left


def _draw(contents: list[str], styles: list[str], protocol: Protocol, skipped: dict[Path, str]) -> list[Pair]:
    """Draws from images that are not known to be broken."""
    every = len(contents) * len(styles)
    if protocol.pairs is not None and protocol.pairs > every:
        without = f" without the {len(skipped)} that cannot be used ({'; '.join(skipped.values())})" if skipped else ""
        raise StylezooError(
            f"{len(contents)} contents and {len(styles)} styles{without} make {every} pairs, not {protocol.pairs}."
        )
    rng = np.random.default_rng(protocol.seed)
    wanted = protocol.pairs
    numbers = range(every) if wanted is None else np.sort(rng.choice(every, wanted, replace=False)).tolist()
    return [(contents[number % len(contents)], styles[number // len(contents)]) for number in numbers]


def unusable(path: Path, size: int) -> str | None:
    """Says why an image cannot be used with a short side of ``size`` pixels, or returns None."""
    try:
        width, height = read_image(path, min_side=1).size
    except (ImageError, MemoryError) as error:
        return str(error).rstrip(".") or f"{path} does not fit into memory"
    if size**2 * max(width, height) > MAX_PIXELS * min(width, height):
        return (
            f"{path} is so long and narrow ({width} x {height}) that it is too large with a short side of {size} pixels"
        )
    return None


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
        try:
            with open_regular(path) as file:
                sha256.update(hashlib.sha256(file.read()).digest())
        except OSError as error:
            raise ImageError(f"{path} does not exist, but the evaluation uses it: put the image back.") from error
    return sha256.hexdigest()


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
    failed: dict[int, str]  # pairs, by their place in the batch, of which an image can no longer be read, and why


def single_pairs(batch: Batch) -> Iterator[Batch]:
    """Yields the pairs of a batch as batches of one."""
    styles = [number for number, count in enumerate(batch["counts"]) for _ in range(count)]
    for index, style in enumerate(styles):
        yield {
            "number": batch["number"],
            "content": batch["content"][index : index + 1],
            "style": batch["style"][style : style + 1],
            "names": batch["names"][style : style + 1],
            "counts": [1],
            "failed": {0: batch["failed"][index]} if index in batch["failed"] else {},
        }


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
        broken: dict[Path, str] = {}
        contents = [self._read(self.content / content, broken) for content, _ in pairs]
        styles = [self._read(self.style / style, broken) for style in groups]
        reasons = [broken.get(self.content / content, broken.get(self.style / style)) for content, style in pairs]
        return {
            "number": number,
            "content": torch.stack(contents),
            "style": torch.stack(styles),
            "names": list(groups),
            "counts": list(groups.values()),
            "failed": {index: reason for index, reason in enumerate(reasons) if reason is not None},
        }

    def _read(self, path: Path, broken: dict[Path, str]) -> Tensor:
        """The framed image, (3, crop, crop); a black one that is noted if it cannot be read any more."""
        try:
            return to_tensor(self.framing(read_image(path, self.framing.size), None))
        except (ImageError, MemoryError) as error:
            broken[path] = str(error).rstrip(".") or f"{path} does not fit into memory"
            side = self.framing.crop or 1
            return torch.zeros(3, side, side)
