"""A folder of images as a LightningDataModule: the base of every data set of the zoo."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import lightning as L
import torch

from stylezoo.data.stream import (
    DEFAULTS,
    Files,
    Framing,
    Loader,
    Order,
    Pictures,
    Position,
    Resize,
    Samples,
)
from stylezoo.download import DataError
from stylezoo.images import list_images

Split = Literal["train", "val", "test"]

QUICKSTART = (
    "start with the quickstart, which needs no data: "
    "python -m stylezoo fit --config experiments/sanet.yaml --config experiments/quickstart.yaml"
)


class ImageModule(L.LightningDataModule):
    """The loaders that `Folder` and `Pairs` share; they only say which streams a split has."""

    def __init__(self, batch_size: int, num_workers: int | None, seed: int, val_samples: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.batch_size = batch_size
        self.num_workers = min(4, max(0, _cpus() - 1)) if num_workers is None else num_workers
        self.seed = seed
        self.val_samples = val_samples

    def streams(self, split: Split, stage: str) -> dict[str, Pictures]:
        """The streams of a split for "fit", "validate" (fixed, shuffled once) or "test" (fixed, in order)."""
        raise NotImplementedError

    def train_dataloader(self) -> Loader:
        """Endless order cut into epochs of max(1, N // (B * W)) batches; goes on where the trainer stands."""
        samples = Samples(self.streams("train", "fit"))
        rank, world = self._place()
        batches = max(1, len(samples) // (self.batch_size * world))
        length = batches * self.batch_size
        return self._loader(samples, Order(samples, length, rank, world, self.batch_size, self.trainer))

    def val_dataloader(self) -> Loader:
        """At most `val_samples` fixed samples, the same in every run."""
        return self._fixed("val", "validate", self.val_samples)

    def test_dataloader(self) -> Loader:
        """Every test image once, in order."""
        return self._fixed("test", "test", None)

    def predict_dataloader(self) -> Loader:
        """The same as for testing."""
        return self._fixed("test", "test", None)

    def _fixed(self, split: Split, stage: str, limit: int | None) -> Loader:
        samples = Samples(self.streams(split, stage))
        rank, world = self._place()
        count = min(len(samples), limit) if limit is not None else len(samples)
        # every process gets equally many (the last ones wrap around): unequal counts hang DistributedDataParallel
        return self._loader(samples, Order(samples, -(-count // world), rank, world, self.batch_size))

    def _loader(self, samples: Samples, order: Order) -> Loader:
        return Loader(
            samples,
            batch_size=self.batch_size,
            sampler=order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """(rank, number of processes)."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Folder(ImageModule):
    """A folder of images, searched recursively.

    Sub-folders train/, val/ (or validation/, valid/) and test/ are used where they exist. What is missing is held
    out of the training images by a hash of the relative path: no seed, so that all runs share their test images.
    Alone it yields {"content": (B, 3, crop, crop)}; inside `Pairs` it is one side of the pairs, and then batch size,
    workers and seed are those of `Pairs`.
    """

    def __init__(
        self,
        root: str,
        download: bool = False,
        size: int | None = None,
        crop: int | None = None,
        resize: Resize | None = None,
        position: Position | None = None,
        flip: bool | None = None,
        holdout: float = 0.02,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
        val_samples: int = 64,
    ) -> None:
        """Describe the folder; nothing is read yet.

        Args:
            root: the folder.
            download: fetch what is missing (of data sets that can be fetched; a plain folder has to be there).
            size: images are resized to this many pixels; null: as in `Pairs`, alone 512.
            crop: side of the square crop, at most `size`; null: as in `Pairs`, alone 256.
            resize: "shorter" keeps the aspect and resizes the short side, "squash" distorts to size x size (what
                several reference codes do); null: as in `Pairs`, alone "shorter".
            position: of the training crops, "random" or "center"; null: as in `Pairs`, alone "random".
            flip: mirror half of the training crops; null: as in `Pairs`, alone false.
            holdout: share of the images held out for validation and for testing each, in [0, 0.5): at least one
                of three or more images. 0, or fewer than three images: all splits share all images.
            batch_size: samples per process.
            num_workers: loader processes; null: the number of CPUs less one, at most 4.
            seed: decides order, crops and flips.
            val_samples: validate with at most this many images.
        """
        super().__init__(batch_size, num_workers, seed, val_samples)
        if not 0 <= holdout < 0.5:
            raise ValueError(f"holdout is a share in [0, 0.5), not {holdout}.")
        self.root = Path(root).expanduser()
        self.download = download
        self.framing = Framing(size, crop, resize, position, flip)
        if size is not None and crop is not None:  # otherwise what is inherited decides
            self.framing.inherit(DEFAULTS).check()
        self.holdout = holdout
        self.option = "--data"  # how the command line calls this part; `Pairs` says --data.content or --data.style
        self._files: dict[Split, Files] = {}

    # What a data set of its own says

    def find(self) -> dict[Split, list[Path]]:
        """The images of the splits that the layout itself knows; splits without images are left out."""
        names: dict[Split, tuple[str, ...]] = {
            "train": ("train",),
            "val": ("val", "validation", "valid"),
            "test": ("test",),
        }
        found: dict[Split, list[Path]] = {}
        for split, folders in names.items():
            for folder in folders:
                pictures = list_images(self.root / folder)
                if pictures:
                    found[split] = pictures
                    break
        if "train" in found:
            return found
        pictures = list_images(self.root)
        return {"train": pictures} if pictures else {}

    def missing(self, split: Split) -> str:
        """The sentence for a split without images."""
        problem = "is no such folder" if not self.root.exists() else "are no images in it"
        return (
            f"No images at {self.root} (there {problem}): point {self.option}.root at a folder with images, "
            f"or {QUICKSTART}"
        )

    def label(self, split: Split) -> str:
        """What the images of a split are called in messages."""
        return f"images in {self.root}"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Get what the splits need; called on one process per machine and only with `download`.

        Raises:
            DataError: it is not there and cannot be fetched.
        """
        if not self.find():
            raise DataError(self.missing("train"))

    # What all share

    def files(self, split: Split) -> list[Path]:
        """The images of a split, in a fixed order.

        Raises:
            DataError: there are none.
        """
        return [Path(path) for path in self._split(split).paths]

    def check(self, splits: Sequence[Split] = ("train", "val")) -> None:
        """Cheaply see whether the images are there, before a model is built; what will be downloaded counts.

        Raises:
            DataError: they are not; the sentence says what to do.
        """
        if not self.download:
            for split in splits:
                self._split(split)

    def prepare_data(self) -> None:
        """Download, if asked to; only what the stage needs."""
        if self.download:
            fn = self.trainer.state.fn if self.trainer is not None else None
            self.fetch(stage_splits(fn.value if fn is not None else "fit"))

    def setup(self, stage: str) -> None:
        """List the images and read one per split.

        Raises:
            DataError: there are none, or none can be read.
        """
        for split in stage_splits(stage):
            self._split(split).probe()

    def teardown(self, stage: str) -> None:
        """Say how many files were broken."""
        for files in self._files.values():
            files.summary()
        self._files.clear()

    def streams(self, split: Split, stage: str) -> dict[str, Pictures]:
        """One stream, called content."""
        framing = self.framing.inherit(DEFAULTS)
        framing.check()
        return {"content": self.pictures(split, framing, self.seed, "content", stage != "test")}

    def pictures(self, split: Split, framing: Framing, seed: int, stream: str, shuffle: bool) -> Pictures:
        """A stream over a split."""
        return Pictures(self._split(split), framing, seed, stream, train=split == "train", shuffle=shuffle)

    def _split(self, split: Split) -> Files:
        if not self._files:
            found = self.find()
            self._files = {
                name: Files(paths, self.label(name)) for name, paths in self._complete(found).items() if paths
            }
        if split not in self._files:
            raise DataError(self.missing(split))
        return self._files[split]

    def _complete(self, found: dict[Split, list[Path]]) -> dict[Split, list[Path]]:
        """Fill the splits that a layout lacks: validation is held out of training; testing too, or is validation."""
        splits = dict(found)
        train = splits.get("train", [])
        if train and "val" not in splits:
            names = [path.relative_to(self.root).as_posix() for path in train]
            ranks = sorted(range(len(names)), key=lambda index: _hash(names[index]))
            number = max(1, round(self.holdout * len(train))) if self.holdout and len(train) >= 3 else 0
            held: tuple[Split, ...] = ("val",) if "test" in splits else ("val", "test")
            for position, split in enumerate(held):
                chosen = ranks[position * number : (position + 1) * number] if number else ranks
                splits[split] = [train[index] for index in sorted(chosen)]
            out = set(ranks[: number * len(held)])
            splits["train"] = [path for index, path in enumerate(train) if index not in out]
        if "val" in splits:
            splits.setdefault("test", splits["val"])
        return splits


def stage_splits(stage: str) -> tuple[Split, ...]:
    """The splits that a Trainer stage reads."""
    if "fit" in stage:
        return ("train", "val")
    return ("val",) if "validate" in stage else ("test",)


def _hash(name: str) -> bytes:
    """Of the composed (NFC) name: the same images are held out on every file system."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).digest()
