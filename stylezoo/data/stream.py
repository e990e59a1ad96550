"""Endless streams of image crops, and the sampler that divides them among processes.

All randomness is a pure function of (seed, stream, sample number): sample i of a stream is file
``permutation(seed, stream, i // N)[i % N]`` with a crop and its augmentation drawn from (seed, stream, i). The samples of a batch
depend only on the number of batches trained so far. Hence a resumed run continues the exact sequence, within an epoch too
and with any number of workers, and W processes with batch size B train on the samples of one process with W * B.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler
from torchvision.transforms.v2 import functional

from stylezoo.download import DataError
from stylezoo.errors import StylezooError
from stylezoo.images import read_image, to_tensor

Resize = Literal["shorter", "squash"]
Position = Literal["random", "center"]

MARGIN = 1.5
"""`stylezoo.images.read_image` decodes large JPEGs of training data at a fraction of their size, but for this margin."""


@dataclass(frozen=True)
class Framing:
    """A transform from an image to a square crop. None stands for the value of the surrounding `Pairs`, or of `DEFAULTS`.

    Attributes:
        size: Side in pixels that images are resized to.
        crop: Side of the crop in pixels, at most ``size``.
        resize: "shorter" resizes the shorter side to ``size`` and keeps the aspect ratio; "squash" distorts the image to
            ``size`` x ``size``.
        position: Position of training crops, "random" or "center".
        flip: Whether half of the training crops are mirrored.
        zoom: Largest factor by which training images are enlarged at random beyond ``size``, at least 1; factors are
            distributed evenly by their logarithm.
        color_jitter: Strength of random changes of color of training crops, in [0, 1]: brightness, contrast and saturation
            are multiplied by factors in [1 - color_jitter, 1 + color_jitter], the hue is turned by up to
            color_jitter / 4 of the circle.
    """

    size: int | None = None
    crop: int | None = None
    resize: Resize | None = None
    position: Position | None = None
    flip: bool | None = None
    zoom: float | None = None
    color_jitter: float | None = None

    @property
    def largest_size(self) -> int | None:
        """The largest side in pixels that images are resized to."""
        return None if self.size is None else round(self.size * (self.zoom or 1))

    def inherit(self, other: Framing) -> Framing:
        """Returns a copy in which values that are None are those of another framing.

        Args:
            other: The framing that supplies the missing values.

        Returns:
            The completed framing.
        """
        mine, theirs = vars(self), vars(other)
        return Framing(**{key: theirs[key] if value is None else value for key, value in mine.items()})

    def check(self) -> None:
        """Checks that the values are valid and fit together.

        Raises:
            StylezooError: If they do not, for example if the crop is larger than the resized image.
        """
        size, crop = self.size or 0, self.crop or 0
        if size < 1 or crop < 1:
            raise StylezooError(f"size {self.size} and crop {self.crop} must be at least 1 pixel.")
        if crop > size:
            raise StylezooError(
                f"crop {crop} is larger than size {size}: crops are cut from the resized image, so lower crop or raise size."
            )
        if self.resize not in get_args(Resize) or self.position not in get_args(Position):
            raise StylezooError(
                f"resize is 'shorter' or 'squash' and position is 'random' or 'center', "
                f"not {self.resize!r} and {self.position!r}."
            )
        zoom, jitter = self.zoom or 1, self.color_jitter or 0
        if not 1 <= zoom <= 4 or not 0 <= jitter <= 1:
            raise StylezooError(
                f"zoom is a factor in [1, 4] and color_jitter a strength in [0, 1], not {self.zoom} and {self.color_jitter}."
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Image.Image:
        """Resizes and crops an image in one pass that computes the pixels of the crop only.

        The center crop equals torchvision's ``Resize(size)`` and ``CenterCrop(crop)`` on PIL images.

        Args:
            image: An RGB image.
            rng: Source of the crop's position and of all else that is random; None gives the center crop, not augmented.

        Returns:
            An image of ``crop`` x ``crop`` pixels.
        """
        assert self.size is not None and self.crop is not None
        width, height = image.size
        size = self.size
        if rng is not None and self.zoom and self.zoom > 1:
            size = round(size * self.zoom ** rng.random())
        new_width, new_height = (size, size) if self.resize == "squash" else shorter(width, height, size)
        if rng is None or self.position == "center":
            left, top = round((new_width - self.crop) / 2), round((new_height - self.crop) / 2)
        else:
            left = int(rng.integers(new_width - self.crop + 1))
            top = int(rng.integers(new_height - self.crop + 1))
        x, y = width / new_width, height / new_height
        box = (left * x, top * y, min((left + self.crop) * x, width), min((top + self.crop) * y, height))
        image = image.resize((self.crop, self.crop), Image.Resampling.BILINEAR, box=box)
        if rng is not None and self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng is not None and self.color_jitter:
            image = jittered(image, self.color_jitter, rng)
        return image


def jittered(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Returns an image with other colors, see `Framing`.

    Args:
        image: An RGB image.
        strength: Strength in [0, 1]; 0 changes nothing.
        rng: Source of the four factors.
    """
    for change in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
        image = change(image, 1 + strength * rng.uniform(-1, 1))
    turned: Image.Image = functional.adjust_hue(image, strength / 4 * rng.uniform(-1, 1))
    return turned


def shorter(width: int, height: int, size: int) -> tuple[int, int]:
    """Returns width and height of an image whose shorter side becomes ``size``, as torchvision's Resize rounds them.

    >>> shorter(640, 480, 512)
    (682, 512)
    """
    long = int(size * max(width, height) / min(width, height))
    return (size, long) if width <= height else (long, size)


DEFAULTS = Framing(size=512, crop=256, resize="shorter", position="random", flip=False, zoom=1.0, color_jitter=0.0)
"""Values of a `Folder` outside of `Pairs`."""


class Files:
    """The image files of one split, with a mark for each file that cannot be read.

    The marks are in shared memory, so that all workers and the main process know the broken files that one worker found.
    """

    def __init__(self, paths: Sequence[Path], label: str) -> None:
        """Stores the paths without reading any file.

        Args:
            paths: Paths of the images.
            label: Name of the images in messages, such as "COCO 2014 training images".
        """
        self.paths = [os.fspath(path) for path in paths]
        self.label = label
        self.broken = torch.zeros(len(self.paths), dtype=torch.bool)
        self.broken.share_memory_()  # type: ignore[no-untyped-call]
        self.fallback: Files | None = None
        """What takes the place of these files if none of them can be read any more."""
        self._warned = False

    def __len__(self) -> int:
        """Returns the number of files, broken ones included."""
        return len(self.paths)

    def read(self, index: int, min_side: int | None) -> Image.Image | None:
        """Reads an image.

        Args:
            index: Number of the file.
            min_side: Short side in pixels that the caller shrinks the image to, see `stylezoo.images.read_image`.

        Returns:
            The image, or None if it cannot be read or could not be read before.
        """
        if self.broken[index]:
            return None
        try:
            return self.load(index, min_side)
        except (StylezooError, OSError):
            self.broken[index] = True
            return None

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Reads an image, or raises a StylezooError or an OSError that says what is wrong with it."""
        return read_image(self.paths[index], min_side, MARGIN)

    def probe(self) -> None:
        """Checks that at least one image can be read.

        Raises:
            DataError: If none can be read.
        """
        for index in range(len(self)):
            if self.read(index, 1) is not None:
                return
        raise DataError(f"None of the {len(self)} {self.label} can be read; the first one: {self.reason(0)}")

    def warn(self) -> None:
        """Warns about the first broken file, once; for the main process, which counts further ones for `summary`."""
        if self._warned or not bool(self.broken.any()):
            return
        self._warned = True
        reason = self.reason(int(self.broken.nonzero()[0]))
        following = f"The next one takes its place; further broken {self.label} are counted, not named."
        if self.fallback is not None and bool(self.broken.all()):
            following = f"There is no other one of this split, so {self.fallback.label} of training take its place."
        warnings.warn(f"{reason} {following}", stacklevel=2)

    def summary(self) -> None:
        """Warns about the number of broken files at the end of a run, if there is more than the one already named."""
        broken = self.broken.nonzero().flatten().tolist()
        if len(broken) > 1:
            names = ", ".join(Path(self.paths[index]).name for index in broken[:5])
            more = ", ..." if len(broken) > 5 else ""
            warnings.warn(f"{len(broken)} of {len(self)} {self.label} could not be read: {names}{more}.", stacklevel=2)

    def reason(self, index: int) -> str:
        """Says what is wrong with a broken file."""
        try:
            self.load(index)
        except (StylezooError, OSError) as error:
            return str(error)
        return f"{self.paths[index]} could not be read a moment ago."


class ImageStream(Dataset[Tensor]):
    """An endless stream of crops; item i depends on (seed, role, i) and on nothing else."""

    def __init__(self, files: Files, framing: Framing, seed: int, role: str, train: bool, shuffle: bool = True):
        """Initializes the stream.

        Args:
            files: The images.
            framing: A framing without missing values.
            seed: Seed of the whole run.
            role: "content" or "style"; streams of different roles are independent.
            train: Whether crops are random and augmented and every round has a new permutation; otherwise crops are central.
            shuffle: Whether the files are permuted; False, their own order, requires that ``train`` is False.
        """
        self.files = files
        self.framing = framing
        self.seed = seed
        self.key = zlib.crc32(f"{role}/{'train' if train else 'val'}".encode())
        self.train = train
        self.shuffle = shuffle

    def __len__(self) -> int:
        """Returns the number of files; items exist beyond it."""
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        """Returns crop i.

        Args:
            i: Number of the sample, any integer >= 0.

        Returns:
            (3, crop, crop), float32 RGB in [0, 1].

        Raises:
            DataError: If no file can be read.
        """
        for files, index in self._candidates(i):
            image = files.read(index, self.framing.largest_size)
            if image is not None:
                rng = _generator(self.seed, self.key, 1, i) if self.train else None
                return to_tensor(self.framing(image, rng))
        raise DataError(
            f"None of the {len(self.files)} {self.files.label} can be read any more: {self.files.reason(0)}"
        )

    def source(self, i: int) -> str:
        """Returns the path of the file that crop i is cut from."""
        candidates = ((files, index) for files, index in self._candidates(i) if not files.broken[index])
        files, index = next(candidates, (self.files, 0))
        return files.paths[index]

    def _candidates(self, i: int) -> Iterator[tuple[Files, int]]:
        """Yields the file of sample i and what replaces it if it is broken: the next ones in the permutation."""
        n = len(self.files)
        order = _permutation(n, self.seed, self.key, i // n if self.train else 0) if self.shuffle else None
        for position in range(i, i + n):
            yield self.files, int(order[position % n]) if order is not None else position % n
        fallback = self.files.fallback
        for position in range(len(fallback) if fallback is not None else 0):
            assert fallback is not None
            yield fallback, (i + position) % len(fallback)

    def warn(self) -> None:
        """Warns about the first broken file, once; for the main process."""
        self.files.warn()


def cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@lru_cache(maxsize=8)  # two streams, two rounds each while workers cross the border of an epoch; 80 000 files: 0.6 MB
def _permutation(n: int, seed: int, key: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return _generator(seed, key, 0, epoch).permutation(n)


class Samples(Dataset[dict[str, Tensor]]):
    """Several streams as one data set: item i is {"content": content[i], "style": style[i]}."""

    def __init__(self, streams: dict[str, ImageStream]) -> None:
        """Initializes the data set.

        Args:
            streams: Streams by role; the first one determines the length.
        """
        self.streams = streams

    def __len__(self) -> int:
        """Returns the number of files of the first stream, the content images."""
        return len(next(iter(self.streams.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Returns sample i of every stream, (3, crop, crop) each."""
        return {name: stream[i] for name, stream in self.streams.items()}


class ResumableSampler(DistributedSampler[int]):
    """A sampler that yields the sample numbers of one process in order: start, start + W, start + 2W, ...

    It is a DistributedSampler by name only: Lightning does not replace these, even if a recipe omits
    ``use_distributed_sampler: false``.
    """

    def __init__(
        self,
        dataset: Samples,
        length: int,
        rank: int,
        world: int,
        batch_size: int,
        trainer: object = None,
        numbers: Sequence[int] | None = None,
    ):
        """Initializes the sampler.

        Args:
            dataset: The data set.
            length: Samples per epoch and process.
            rank: Number of this process.
            world: Number of processes.
            batch_size: Samples per batch and process.
            trainer: The Trainer whose progress determines the first sample; None starts at the first one.
            numbers: The sample numbers of this process, where they are others.
        """
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)
        self.length = length if numbers is None else len(numbers)
        self.numbers = numbers
        self.batch_size = batch_size
        self.trainer = trainer
        self.skip: int | None = None
        """How many samples of the current pass a new iteration leaves out; it starts with the run's progress otherwise."""
        self._numbers: Sequence[int] = range(0)

    def __len__(self) -> int:
        """Returns the number of samples per epoch and process."""
        return self.length

    def __iter__(self) -> Iterator[int]:
        """Yields the sample numbers from the first batch that was not trained yet to the end of the epoch."""
        if self.skip is not None:
            skip, self.skip = self.skip, None
            return iter(self._numbers[skip:])
        if self.numbers is not None:
            self._numbers = self.numbers
            return iter(self._numbers)
        trained, position = _trained_batches(self.trainer)
        count = self.length - position * self.batch_size
        if count <= 0:
            count = self.length
        start = trained * self.batch_size * self.num_replicas + self.rank
        self._numbers = range(start, start + count * self.num_replicas, self.num_replicas)
        return iter(self._numbers)

    def numbers_of_batch(self, batch: int) -> range:
        """Returns the sample numbers of a batch of this process, counted over the whole run from 0."""
        start = batch * self.batch_size * self.num_replicas + self.rank
        return range(start, start + self.batch_size * self.num_replicas, self.num_replicas)


def _trained_batches(trainer: object) -> tuple[int, int]:
    """Returns (batches trained in total, batches of the current epoch that need not be offered again).

    ``total.processed`` is right in a checkpoint written in ``on_train_batch_end`` (``completed`` is one too small there)
    and in one written on an exception within a batch (``ready`` is one too large there). Within the epoch Lightning
    restarts at ``current.completed`` at the earliest, so the rest is counted from there; one batch too many does no harm.
    """
    if trainer is None:
        return 0, 0
    progress = trainer.fit_loop.epoch_loop.batch_progress  # type: ignore[attr-defined]
    epoch_over = progress.is_last_batch and progress.current.processed >= progress.current.ready
    return progress.total.processed, 0 if epoch_over else progress.current.completed
