"""A folder of images as a LightningDataModule: the base class of every data set."""

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import lightning as L
import torch

from stylezoo.data.loader import Loader, ignore_stop_signals
from stylezoo.data.prepared import Prepared, PreparedFiles, prepared_folder
from stylezoo.data.stream import (
    DEFAULTS,
    Files,
    Framing,
    ImageStream,
    Position,
    Resize,
    ResumableSampler,
    Samples,
    cpus,
)
from stylezoo.download import DataError
from stylezoo.errors import StylezooError
from stylezoo.images import list_images

Split = Literal["train", "val", "test"]

QUICKSTART = (
    "start with the quickstart, which needs no data: "
    "python -m stylezoo fit --config experiments/sanet.yaml --config experiments/quickstart.yaml"
)
"""The way on without data that messages about missing images name."""


class ImageModule(L.LightningDataModule):
    """Base class of `Folder` and `Pairs`: the data loaders over the streams that a subclass defines."""

    def __init__(
        self, batch_size: int, num_workers: int | None, seed: int, val_samples: int, timeout: float = 300.0
    ) -> None:
        """Initializes the data module.

        Args:
            batch_size: Samples per process, at least 1.
            num_workers: Worker processes of a loader, at least 0; None: `workers`.
            seed: Seed of order, crops and augmentation, at least 0.
            val_samples: Largest number of validation samples, at least 1.
            timeout: Seconds after which workers that send nothing are replaced, more than 0.

        Raises:
            StylezooError: If a value is out of its range.
        """
        super().__init__()
        minima = {"batch_size": (batch_size, 1), "num_workers": (num_workers or 0, 0), "seed": (seed, 0)}
        for name, (value, least) in {**minima, "val_samples": (val_samples, 1)}.items():
            if value < least:
                raise StylezooError(f"{name} must be at least {least}, not {value}.")
        if not 0 < timeout < float("inf"):
            raise StylezooError(f"timeout must be more than 0 seconds, not {timeout}.")
        self.timeout = timeout
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_samples = val_samples
        self.is_predicted: Callable[[int], bool] = lambda number: False
        """Whether there is a prediction of a test sample already, which `predict` leaves as it is."""

    def streams(self, split: Split, stage: str) -> dict[str, ImageStream]:
        """Returns the streams of a split by role.

        Args:
            split: "train", "val" or "test".
            stage: "fit", "validate" (shuffled once, the same in every run) or "test" (content images in order).

        Returns:
            {"content": ...}, with "style" if there are style images.
        """
        raise NotImplementedError

    def train_dataloader(self) -> Loader:
        """Returns the training loader: epochs of max(1, N // (B * W)) batches that continue at the trainer's progress."""
        samples = Samples(self.streams("train", "fit"))
        rank, world = self._place()
        batches = max(1, len(samples) // (self.batch_size * world))
        length = batches * self.batch_size
        return self._loader(samples, ResumableSampler(samples, length, rank, world, self.batch_size, self.trainer))

    def val_dataloader(self) -> Loader:
        """Returns the validation loader: at most ``val_samples`` fixed samples, the same in every run."""
        return self._fixed("val", "validate", self.val_samples)

    def test_dataloader(self) -> Loader:
        """Returns the test loader: every content image once, in order."""
        return self._fixed("test", "test", None)

    def predict_dataloader(self) -> Loader:
        """Returns a loader of the test samples that are still to be predicted, each in one process.

        Every process takes every W-th sample and leaves out those that exist, whenever it looks: none is done twice.
        """
        samples = Samples(self.streams("test", "test"))
        rank, world = self._place()
        numbers = [number for number in range(rank, len(samples), world) if not self.is_predicted(number)]
        return self._loader(
            samples, ResumableSampler(samples, len(numbers), rank, world, self.batch_size, None, numbers)
        )

    def _fixed(self, split: Split, stage: str, limit: int | None) -> Loader:
        samples = Samples(self.streams(split, stage))
        rank, world = self._place()
        count = min(len(samples), limit) if limit is not None else len(samples)
        # every process gets equally many (the last ones wrap around): unequal counts hang DistributedDataParallel
        return self._loader(samples, ResumableSampler(samples, -(-count // world), rank, world, self.batch_size))

    def _loader(self, samples: Samples, sampler: ResumableSampler) -> Loader:
        workers = self.workers() if self.num_workers is None else self.num_workers
        return Loader(
            samples,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self._on_gpu(),
            timeout=self.timeout if workers else 0,
            worker_init_fn=ignore_stop_signals,
        )

    def workers(self) -> int:
        """Returns the number of worker processes that help: images are decoded while the network trains.

        One CPU is left to the run itself, and each process of a run on several devices has its share of the others, at most
        16 where a GPU waits for images and at most 4 where CPUs train. Prepared images take a run on CPUs less time than
        the exchange with a worker.
        """
        if not self._on_gpu():
            return 0 if self.is_prepared() else min(4, max(0, cpus() - 1))
        processes = 1 if self.trainer is None else max(1, self.trainer.num_devices)
        return min(16, max(1, cpus() // processes - 1))

    def is_prepared(self) -> bool:
        """Whether all images are read from prepared folders."""
        return False

    def _on_gpu(self) -> bool:
        """Whether batches go to a CUDA device, to which they are copied faster from pinned memory."""
        if self.trainer is None:
            return torch.cuda.is_available()
        return self.trainer.strategy.root_device.type == "cuda"

    def _place(self) -> tuple[int, int]:
        """Returns (rank, number of processes)."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def check_memory(batch_size: int, crops: Sequence[int | None]) -> None:
    """Checks that the images of one batch can fit into the memory of the machine.

    Args:
        batch_size: Samples of the batch.
        crops: Side of the crop of each role in pixels.

    Raises:
        StylezooError: If they need more than there is.
    """
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = batch_size * sum(3 * 4 * (crop or 0) ** 2 for crop in crops)
    if needed > there:
        raise StylezooError(
            f"A batch of {batch_size} with crop {max(crop or 0 for crop in crops)} needs {needed / 1e9:,.0f} GB for its"
            f" images alone, and this machine has {there / 1e9:.0f} GB: lower batch_size or crop."
        )


class Folder(ImageModule):
    """A folder of images, searched recursively.

    The subfolders train/, val/ (or validation/, valid/) and test/ are the splits if they exist. Missing splits are held
    out of the training images by a hash of the relative path, without a seed, so that all runs share their test images.
    On its own a folder yields {"content": (B, 3, crop, crop)}. Inside `Pairs` it is the content or the style side, and
    batch size, workers and seed are those of `Pairs`.
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
        zoom: float | None = None,
        color_jitter: float | None = None,
        holdout: float = 0.02,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
        val_samples: int = 64,
        timeout: float = 300.0,
        prepared: bool = False,
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            root: Path of the folder.
            download: Whether missing files are downloaded, for data sets that can be; a plain folder has to exist.
            size: Side in pixels that images are resized to; null: the value of `Pairs`, or 512 on its own.
            crop: Side of the square crop in pixels, at most ``size``; null: the value of `Pairs`, or 256 on its own.
            resize: "shorter" resizes the shorter side and keeps the aspect ratio, "squash" distorts to size x size (as
                several reference implementations do); null: the value of `Pairs`, or "shorter" on its own.
            position: Position of training crops, "random" or "center"; null: the value of `Pairs`, or "random" on its own.
            flip: Whether half of the training crops are mirrored; null: the value of `Pairs`, or false on its own.
            zoom: Largest factor by which training images are enlarged at random beyond ``size``, in [1, 4]; null: the value
                of `Pairs`, or 1 on its own.
            color_jitter: Strength of random changes of brightness, contrast, saturation and hue of training crops, in
                [0, 1]; null: the value of `Pairs`, or 0 on its own.
            holdout: Share of the images that is held out for validation, and the same share for testing, in [0, 0.5); at
                least one of three or more images. With 0, or with fewer than three images, all splits share all images.
            batch_size: Samples per process.
            num_workers: Worker processes of a loader; null: as many as help, see `ImageModule.workers`.
            seed: Seed of order, crops and augmentation.
            val_samples: Largest number of validation images.
            timeout: Seconds after which worker processes that send nothing are replaced.
            prepared: Whether the images are read as `python -m stylezoo prepare` has stored them, from ``root`` or from
                the folder beside it that is called ROOT.prepared; nothing is downloaded then.

        Raises:
            StylezooError: If a value is out of its range, or the crop larger than the size.
        """
        super().__init__(batch_size, num_workers, seed, val_samples, timeout)
        if not 0 <= holdout < 0.5:
            raise StylezooError(f"holdout is a share in [0, 0.5), not {holdout}.")
        self.prepared = prepared
        self.root = prepared_folder(Path(root).expanduser()) if prepared else Path(root).expanduser()
        self.download = download and not prepared
        self.framing = Framing(size, crop, resize, position, flip, zoom, color_jitter)
        if size is not None and crop is not None:  # otherwise what is inherited decides
            self.framing.inherit(DEFAULTS).check()
        check_memory(batch_size, [crop])
        self.holdout = holdout
        self.option = "--data"  # prefix of this module's options in messages; `Pairs` sets --data.content, --data.style
        self._files: dict[Split, Files] = {}
        self._store: Prepared | None = None

    # What data sets read folders by

    def images(self, folder: Path, recursive: bool = True) -> list[Path]:
        """Returns the images in a folder of the data set, as `stylezoo.images.list_images` lists them.

        Args:
            folder: ``root`` or a folder in it, which need not exist.
            recursive: Whether subfolders are searched.
        """
        return self._prepared().list(folder, recursive) if self.prepared else list_images(folder, recursive)

    def first_images(self, folders: Iterable[Path], recursive: bool = True) -> list[Path]:
        """Returns the images of the first folder that has any; empty if none has."""
        return next(filter(None, (self.images(folder, recursive) for folder in folders)), [])

    def has(self, folder: Path) -> bool:
        """Whether there is a folder in the data set."""
        return self._prepared().has(folder) if self.prepared else folder.is_dir()

    def _prepared(self) -> Prepared:
        if self._store is None:
            self._store = Prepared(self.root)
        return self._store

    # Methods that data sets override

    def find(self) -> dict[Split, list[Path]]:
        """Returns the images of the splits that the layout defines; splits without images are left out.

        Raises:
            DataError: If the settings of a data set select no image.
        """
        names: dict[Split, tuple[str, ...]] = {
            "train": ("train",),
            "val": ("val", "validation", "valid"),
            "test": ("test",),
        }
        found: dict[Split, list[Path]] = {}
        for split, folders in names.items():
            images = self.first_images(self.root / folder for folder in folders)
            if images:
                found[split] = images
        if "train" in found:
            return found
        images = self.images(self.root)
        return {"train": images} if images else {}

    def missing(self, split: Split) -> str:
        """Returns the error message for a split without images, a sentence that says how to get them."""
        problem = "is no such folder" if not self.root.exists() else "are no images in it"
        return (
            f"No images at {self.root} (there {problem}): point {self.option}.root at a folder with images, "
            f"or {QUICKSTART}"
        )

    def label(self, split: Split) -> str:
        """Returns the name of the images of a split in messages."""
        return f"images in {self.root}"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Downloads the missing files of some splits; called in one process per machine, and only with ``download``.

        Args:
            splits: The splits that the stage reads.

        Raises:
            DataError: If there are no images and they cannot be downloaded.
        """
        if not self.find():
            raise DataError(self.missing("train"))

    # Methods that all data sets share

    def files(self, split: Split) -> list[Path]:
        """Returns the images of a split in a fixed order.

        Args:
            split: "train", "val" or "test".

        Returns:
            Paths of the images.

        Raises:
            DataError: If there are none.
        """
        return [Path(path) for path in self._split(split).paths]

    def check(self, stage: str = "fit") -> None:
        """Checks that the images of a stage exist, before a model is built; with ``download`` they need not exist yet.

        The list of files that this makes serves `setup`, too.

        Args:
            stage: A stage of the Trainer: "fit", "validate", "test" or "predict".

        Raises:
            DataError: If images are missing; the message says how to get them.
        """
        if not self.download:
            for split in stage_splits(stage):
                self._split(split)

    def check_framing(self, framing: Framing) -> None:
        """Checks that the images are stored as large as they are read.

        Args:
            framing: A framing without missing values.

        Raises:
            DataError: If they are prepared and smaller.
        """
        size = framing.largest_size
        if self.prepared and size is not None and size > self._prepared().index.size:
            raise DataError(
                f"The images in {self.root} were prepared with size {self._prepared().index.size}, and {self.option} reads"
                f" them with size {size}: lower size (or zoom), or prepare them again into another folder."
            )

    def prepare_data(self) -> None:
        """Downloads the missing files of the stage if ``download`` is set.

        Raises:
            DataError: If the download fails.
        """
        if self.download:
            fn = self.trainer.state.fn if self.trainer is not None else None
            self.fetch(stage_splits(fn.value if fn is not None else "fit"))

    def setup(self, stage: str) -> None:
        """Lists the images of a stage and reads one per split.

        Args:
            stage: A stage of the Trainer.

        Raises:
            DataError: If there are none, or none can be read.
        """
        splits = [self._split(split) for split in stage_splits(stage)]
        changes = self._prepared().changes() if self.prepared and self._place()[0] == 0 else None
        if changes is not None:
            warnings.warn(changes, stacklevel=2)
        for files in splits:
            files.probe()
            files.fallback = splits[0] if files is not splits[0] else None  # a file that vanishes ends no training

    def teardown(self, stage: str) -> None:
        """Warns about the number of broken files."""
        for files in self._files.values():
            files.summary()
        self._files.clear()

    def streams(self, split: Split, stage: str) -> dict[str, ImageStream]:
        """Returns one stream of content images, see `ImageModule.streams`."""
        framing = self.framing.inherit(DEFAULTS)
        framing.check()
        return {"content": self.stream(split, framing, self.seed, "content", stage != "test")}

    def stream(self, split: Split, framing: Framing, seed: int, role: str, shuffle: bool) -> ImageStream:
        """Returns a stream over a split, see `ImageStream`.

        Args:
            split: "train", "val" or "test"; crops are random for "train" only.
            framing: A framing without missing values.
            seed: Seed of the run.
            role: "content" or "style".
            shuffle: Whether the images are permuted.

        Returns:
            The stream.

        Raises:
            DataError: If the split has no images, or they are prepared and smaller than the framing.
        """
        self.check_framing(framing)
        return ImageStream(self._split(split), framing, seed, role, train=split == "train", shuffle=shuffle)

    def _split(self, split: Split) -> Files:
        if not self._files:
            found = self.find()
            self._files = {
                name: self._listed(paths, self.label(name)) for name, paths in self._complete(found).items() if paths
            }
        if split not in self._files:
            raise DataError(self.missing(split))
        return self._files[split]

    def is_prepared(self) -> bool:
        return self.prepared

    def _listed(self, paths: list[Path], label: str) -> Files:
        return PreparedFiles(self._prepared(), paths, label) if self.prepared else Files(paths, label)

    def _is_readable(self, path: Path) -> bool:
        return self._listed([path], "").read(0, 1) is not None

    def _complete(self, found: dict[Split, list[Path]]) -> dict[Split, list[Path]]:
        """Adds missing splits: validation is held out of training; testing is too, or equals validation."""
        splits = dict(found)
        train = splits.get("train", [])
        if train and "val" not in splits:
            names = [path.relative_to(self.root).as_posix() for path in train]
            ranks = sorted(range(len(names)), key=lambda index: _hash(names[index]))
            number = max(1, round(self.holdout * len(train))) if self.holdout and len(train) >= 3 else 0
            held: tuple[Split, ...] = ("val",) if "test" in splits else ("val", "test")
            rest = iter(ranks[number * len(held) : -1])
            out: set[int] = set()
            for position, split in enumerate(held):
                chosen = ranks[position * number : (position + 1) * number] if number else ranks
                while number and not any(self._is_readable(train[index]) for index in chosen):
                    another = next(rest, None)  # what is held out must not all be broken
                    if another is None:
                        break
                    chosen = [*chosen, another]
                out |= set(chosen) if number else set()
                splits[split] = [train[index] for index in sorted(chosen)]
            splits["train"] = [path for index, path in enumerate(train) if index not in out]
        if "val" in splits:
            splits.setdefault("test", splits["val"])
        return splits


def stage_splits(stage: str) -> tuple[Split, ...]:
    """Returns the splits that a stage of the Trainer reads.

    Args:
        stage: "fit", "validate", "test" or "predict".

    Returns:
        ("train", "val") for "fit", ("val",) for "validate", otherwise ("test",).
    """
    if "fit" in stage:
        return ("train", "val")
    return ("val",) if "validate" in stage else ("test",)


def first_file(parents: Iterable[Path], name: str) -> Path | None:
    """Returns the first existing file of a name in some folders, or None.

    Args:
        parents: Folders, which need not exist.
        name: Name of the file, with its suffix.

    Returns:
        Path of the file.
    """
    return next((parent / name for parent in parents if (parent / name).is_file()), None)


def listed_images(
    images: Mapping[str, Path], lists: Mapping[Split, Sequence[str]], data: str, root: Path, advice: str
) -> dict[Split, list[Path]]:
    """Selects the images that a publisher's lists assign to splits, with a warning if some of them do not exist.

    Args:
        images: Paths by the names that the lists use.
        lists: Names of the images of each split, in the order of the list.
        data: Name of the data set in messages.
        root: Folder of the images in messages.
        advice: End of the message if no listed image exists.

    Returns:
        Existing images by split; splits without images are left out.

    Raises:
        DataError: If no listed image exists.
    """
    found = {split: [images[name] for name in names if name in images] for split, names in lists.items()}
    total, present = sum(map(len, lists.values())), sum(map(len, found.values()))
    if not present:
        raise DataError(f"None of the {total} images listed for {data} is in {root}: {advice}")
    if present < total:
        warnings.warn(
            f"{total - present} of {total} images listed for {data} are not in {root} and left out.", stacklevel=3
        )
    return {split: paths for split, paths in found.items() if paths}


def _hash(name: str) -> bytes:
    """Hashes the composed (NFC) name, so that the same images are held out on every file system."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).digest()
