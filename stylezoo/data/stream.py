"""Endless streams of crops: what a sample is, and which samples a process draws.

Everything random is a pure function of (seed, stream, sample number): sample i of a stream is file
`permutation(seed, stream, i // N)[i % N]` with a crop and a flip drawn from (seed, stream, i). Which samples a batch
holds follows from the number of batches trained so far alone, so a resumed run continues the exact sequence - mid-epoch
too, with any number of workers - and W processes with batch size B see what one process with W * B would see.
"""

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from stylezoo.download import DataError
from stylezoo.images import ImageError, read_image, to_tensor

Resize = Literal["shorter", "squash"]
Position = Literal["random", "center"]


@dataclass(frozen=True)
class Framing:
    """From an image to a square crop. None means: as the surrounding `Pairs` says, or the default of `DEFAULTS`."""

    size: int | None = None
    crop: int | None = None
    resize: Resize | None = None
    position: Position | None = None
    flip: bool | None = None

    def inherit(self, other: "Framing") -> "Framing":
        """This framing with its gaps filled from another one."""
        mine, theirs = vars(self), vars(other)
        return Framing(**{key: theirs[key] if value is None else value for key, value in mine.items()})

    def check(self) -> None:
        """Raise ValueError if these values cannot work together."""
        size, crop = self.size or 0, self.crop or 0
        if size < 1 or crop < 1:
            raise ValueError(f"size {self.size} and crop {self.crop} must be at least 1 pixel.")
        if crop > size:
            raise ValueError(
                f"crop {crop} is larger than size {size}: crops are cut from the resized image, so lower crop or raise size."
            )
        if self.resize not in get_args(Resize) or self.position not in get_args(Position):
            raise ValueError(
                f"resize is 'shorter' or 'squash' and position is 'random' or 'center', "
                f"not {self.resize!r} and {self.position!r}."
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Image.Image:
        """Resize and crop in one pass over the pixels of the crop alone.

        The same as torchvision's Resize(size), CenterCrop(crop) on PIL images; rng None is the center, no flip.
        """
        assert self.size is not None and self.crop is not None
        width, height = image.size
        if self.resize == "squash":
            new_width = new_height = self.size
        else:
            long = int(self.size * max(width, height) / min(width, height))
            new_width, new_height = (self.size, long) if width <= height else (long, self.size)
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
        return image


DEFAULTS = Framing(size=512, crop=256, resize="shorter", position="random", flip=False)


class Files:
    """The images of one split and which of them cannot be read.

    The marks lie in shared memory: a worker that meets a broken file tells the other workers and the main process.
    """

    def __init__(self, paths: Sequence[Path], label: str) -> None:
        """Nothing is read yet; `label` names them in messages ("COCO 2014 training images")."""
        self.paths = [os.fspath(path) for path in paths]
        self.label = label
        self.broken = torch.zeros(len(self.paths), dtype=torch.bool)
        self.broken.share_memory_()  # type: ignore[no-untyped-call]
        self._warned = False

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, min_side: int | None) -> Image.Image | None:
        """The image, or None if it cannot be read (now or before)."""
        if self.broken[index]:
            return None
        try:
            return read_image(self.paths[index], min_side)
        except ImageError:
            self.broken[index] = True
            return None

    def probe(self) -> None:
        """Raise DataError unless at least one image can be read."""
        for index in range(len(self)):
            if self.read(index, 1) is not None:
                return
        raise DataError(f"None of the {len(self)} {self.label} can be read; the first one: {self._reason(0)}")

    def warn(self) -> None:
        """In the main process: warn about the first broken file; the others are only counted."""
        if self._warned or not bool(self.broken.any()):
            return
        self._warned = True
        reason = self._reason(int(self.broken.nonzero()[0]))
        warnings.warn(
            f"{reason} The next one takes its place; further broken {self.label} are counted, not named.", stacklevel=2
        )

    def summary(self) -> None:
        """At the end: how many were broken, if more than the one already named."""
        broken = self.broken.nonzero().flatten().tolist()
        if len(broken) > 1:
            names = ", ".join(Path(self.paths[index]).name for index in broken[:5])
            more = ", ..." if len(broken) > 5 else ""
            warnings.warn(f"{len(broken)} of {len(self)} {self.label} could not be read: {names}{more}.", stacklevel=2)

    def _reason(self, index: int) -> str:
        try:
            read_image(self.paths[index])
        except ImageError as error:
            return str(error)
        return f"{self.paths[index]} could not be read a moment ago."


class Pictures(Dataset[Tensor]):
    """An endless stream of crops; item i depends on (seed, stream, i) and nothing else."""

    def __init__(self, files: Files, framing: Framing, seed: int, stream: str, train: bool, shuffle: bool = True):
        """Build the stream.

        Args:
            files: the images.
            framing: without gaps.
            seed: of the whole run.
            stream: "content" or "style"; different streams are independent.
            train: random crops and flips, a new permutation per round; otherwise center crops.
            shuffle: False gives the files in their order (only without `train`).
        """
        self.files = files
        self.framing = framing
        self.seed = seed
        self.stream = zlib.crc32(f"{stream}/{'train' if train else 'val'}".encode())
        self.train = train
        self.shuffle = shuffle

    def __len__(self) -> int:
        """Number of files; items exist beyond it."""
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        """Crop i, (3, crop, crop) float32 RGB in [0, 1]."""
        n = len(self.files)
        order = _permutation(n, self.seed, self.stream, i // n if self.train else 0) if self.shuffle else None
        for step in range(n):  # a broken file is replaced by the next one in the permutation
            position = (i + step) % n
            image = self.files.read(int(order[position]) if order is not None else position, self.framing.size)
            if image is not None:
                rng = _generator(self.seed, self.stream, 1, i) if self.train else None
                return to_tensor(self.framing(image, rng))
        raise DataError(f"None of the {n} {self.files.label} can be read any more.")


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@lru_cache(maxsize=8)  # two streams, two rounds each while workers cross the border of an epoch; 80 000 files: 0.6 MB
def _permutation(n: int, seed: int, stream: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return _generator(seed, stream, 0, epoch).permutation(n)


class Samples(Dataset[dict[str, Tensor]]):
    """Streams side by side: item i is {"content": content[i], "style": style[i]}."""

    def __init__(self, streams: dict[str, Pictures]) -> None:
        self.streams = streams

    def __len__(self) -> int:
        """Number of content images."""
        return len(next(iter(self.streams.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """One sample of every stream."""
        return {name: stream[i] for name, stream in self.streams.items()}


class Order(DistributedSampler[int]):
    """The sample numbers of this process, in order: start, start + W, start + 2W, ...

    A DistributedSampler by name only: Lightning leaves those alone, also where a recipe forgets
    `use_distributed_sampler: false`.
    """

    def __init__(self, dataset: Samples, length: int, rank: int, world: int, batch_size: int, trainer: object = None):
        """`length` is per epoch and process; `trainer` tells where training stands (None: at the start)."""
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)
        self.length = length
        self.batch_size = batch_size
        self.trainer = trainer

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        """Go on behind the batches already trained, to the end of the epoch."""
        trained, position = _trained_batches(self.trainer)
        count = self.length - position * self.batch_size
        if count <= 0:
            count = self.length
        start = trained * self.batch_size * self.num_replicas + self.rank
        return iter(range(start, start + count * self.num_replicas, self.num_replicas))


def _trained_batches(trainer: object) -> tuple[int, int]:
    """(batches trained in all, batches of the running epoch that need not be offered again).

    `total.processed` is right in a checkpoint written in `on_train_batch_end` (`completed` lacks one there) and in
    one written on an exception amid a batch (`ready` is one too many there). Within the epoch Lightning restarts at
    `current.completed` in the worst case, so the rest is counted from there; one batch too many does no harm.
    """
    if trainer is None:
        return 0, 0
    progress = trainer.fit_loop.epoch_loop.batch_progress  # type: ignore[attr-defined]
    epoch_over = progress.is_last_batch and progress.current.processed >= progress.current.ready
    return progress.total.processed, 0 if epoch_over else progress.current.completed


class Loader(DataLoader[dict[str, Tensor]]):
    """A DataLoader that reports broken files from the main process and whose position Lightning already saves."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        """Batches, {"content": (B, 3, H, W), ...}."""
        assert isinstance(self.dataset, Samples)
        for batch in super().__iter__():
            for stream in self.dataset.streams.values():
                stream.files.warn()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: `Order` reads the trainer's own counters. Without this method Lightning warns in vain."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
