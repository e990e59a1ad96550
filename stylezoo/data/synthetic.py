"""Procedural images, for training without any data set in the quickstart and in tests."""

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from rich.progress import Progress

from stylezoo.data.drawing import VERSION, draw_painting, draw_photo, paintings, photos
from stylezoo.data.folder import Folder, Split
from stylezoo.download import DataError, cache_folder
from stylezoo.errors import StylezooError
from stylezoo.files import replacing

Subject = Literal["photos", "paintings"]


def draw(kind: Subject, index: int, resolution: int = 256, seed: int = 0) -> Image.Image:
    """Draws an image of a set, with the same pixels on every run.

    Args:
        kind: "photos" or "paintings".
        index: Number of the image in the set; successive images are of successive families.
        resolution: Side of the square image in pixels.
        seed: Seed of the set.

    Returns:
        An RGB image of ``resolution`` x ``resolution`` pixels.
    """
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    families = list((photos if kind == "photos" else paintings).FAMILIES)
    function = draw_photo if kind == "photos" else draw_painting
    return function(int(state[0]), resolution, families[index % len(families)])


class Synthetic(Folder):
    """Procedural photos (landscapes, streets, still lifes, ...) or paintings (swirls, mosaics, woodcuts, ...).

    `prepare_data` draws missing images into a cache folder, which is then read like any other folder.
    """

    def __init__(
        self,
        kind: Subject = "photos",
        count: int = 256,
        resolution: int = 256,
        drawing_seed: int = 0,
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Initializes the data module without drawing any image.

        Args:
            kind: "photos" or "paintings".
            count: Number of images, at least 1; a larger set begins with the images of a smaller one.
            resolution: Side of the square images in pixels, at least 16.
            drawing_seed: Seed of the images, at least 0 (``seed`` is only that of order, crops and augmentation).
            root: Cache folder, in which each set has a folder of its own; null: $STYLEZOO_HOME, or ~/.cache/stylezoo.
            kwargs: Options of `Folder` except ``download``.

        Raises:
            StylezooError: If the kind is unknown, or a number out of its range.
        """
        if kind not in get_args(Subject):
            raise StylezooError(f"kind is 'photos' or 'paintings', not {kind!r}.")
        if count < 1:
            raise StylezooError(f"count must be at least 1 image, not {count}.")
        if resolution < 16:
            raise StylezooError(f"resolution must be at least 16 pixels, not {resolution}.")
        if drawing_seed < 0:
            raise StylezooError(f"drawing_seed must be 0 or more, not {drawing_seed}.")
        if kwargs.get("prepared"):
            raise StylezooError("Synthetic images are drawn as small as they are read: leave prepared out.")
        cache = Path(root) if root is not None else cache_folder()
        folder = cache / "synthetic" / f"{kind}-v{VERSION}-{resolution}-{drawing_seed}"
        super().__init__(os.fspath(folder), download=True, **kwargs)
        self.kind: Subject = kind
        self.count = count
        self.resolution = resolution
        self.drawing_seed = drawing_seed

    def find(self) -> dict[Split, list[Path]]:
        """Returns the first ``count`` images; the cache may contain more."""
        paths = [path for path in map(self._path, range(self.count)) if path.is_file()]
        return {"train": paths} if paths else {}

    def missing(self, split: Split) -> str:
        """Returns the error message for a set that has not been drawn."""
        return f"The synthetic {self.kind} are not drawn yet: call prepare_data() first (a Trainer does it by itself)."

    def label(self, split: Split) -> str:
        """Returns the name of the images in messages."""
        return f"synthetic {self.kind} in {self.root}"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Draws the images that are not in the cache.

        Args:
            splits: Unused: all splits are of one set.

        Raises:
            DataError: If the images cannot be written.
        """
        todo = [index for index in range(self.count) if not self._path(index).is_file()]
        if not todo:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with Progress(transient=True) as progress:
                for _ in progress.track(self._draw_all(todo), len(todo), description=f"Drawing {self.kind}"):
                    pass
        except OSError as error:
            raise DataError(
                f"Cannot write synthetic {self.kind} to {self.root} ({error.strerror or error}): "
                f"set {self.option}.root or the environment variable STYLEZOO_HOME to a folder that can be written to."
            ) from error
        self._files.clear()

    def _path(self, index: int) -> Path:
        """Returns the path of an image in the cache."""
        return self.root / f"{index:05d}.png"

    def _draw_all(self, todo: list[int]) -> Iterator[None]:
        """Draws images, on all cores if there are many; yields once per image."""
        jobs = [(self.kind, index, self.resolution, self.drawing_seed, self._path(index)) for index in todo]
        # Only forked workers start at once; spawned ones would each import torch anew, which takes longer than drawing.
        workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
        if workers < 2 or len(jobs) < 16:
            for job in jobs:
                _draw_file(*job)
                yield
            return
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            try:
                for future in as_completed([pool.submit(_draw_file, *job) for job in jobs]):
                    future.result()
                    yield
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _draw_file(kind: Subject, index: int, resolution: int, seed: int, path: Path) -> None:
    """Draws one image into a file, which gets its name when it is complete."""
    with replacing(path) as file:
        draw(kind, index, resolution, seed).save(file, format="PNG")
