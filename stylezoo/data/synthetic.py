"""Images that are drawn instead of downloaded: training without any data set, for the quickstart and for tests.

python -m stylezoo fit --config experiments/sanet.yaml --config experiments/quickstart.yaml
"""

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
from stylezoo.download import DataError

Kind = Literal["photos", "paintings"]


def draw(kind: Kind, index: int, resolution: int = 256, seed: int = 0) -> Image.Image:
    """Draws image `index` of a set; the same pixels on every run.

    Args:
        kind: "photos" or "paintings".
        index: number within the set; the families of scenes and of manners take turns.
        resolution: side of the square image in pixels.
        seed: of the set.

    Returns:
        An RGB image.
    """
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    if kind == "photos":
        families = list(photos.FAMILIES)
        return draw_photo(int(state[0]), resolution, families[index % len(families)])
    families = list(paintings.FAMILIES)
    return draw_painting(int(state[0]), resolution, families[index % len(families)])


class Synthetic(Folder):
    """Procedural photos (landscapes, streets, still lifes, ...) or paintings (swirls, mosaics, woodcuts, ...).

    `prepare_data` draws what is missing into a cache folder; after that it is a folder like any other.
    """

    def __init__(
        self,
        kind: Kind = "photos",
        count: int = 256,
        resolution: int = 256,
        drawing_seed: int = 0,
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Describe the set; nothing is drawn yet.

        Args:
            kind: "photos" or "paintings".
            count: how many; a larger set begins with the images of a smaller one.
            resolution: side of the square drawings in pixels, at least 16.
            drawing_seed: decides what is drawn (`seed` only decides order, crops and flips).
            root: the cache; null: $STYLEZOO_HOME, else ~/.cache/stylezoo. Each set has its own folder in it.
            kwargs: the options of `Folder`; drawing takes the place of `download`.

        Raises:
            ValueError: an unknown kind, no images, or images too small to show anything.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind is 'photos' or 'paintings', not {kind!r}.")
        if count < 1:
            raise ValueError(f"count must be at least 1 image, not {count}.")
        if resolution < 16:
            raise ValueError(f"resolution must be at least 16 pixels, not {resolution}.")
        if drawing_seed < 0:
            raise ValueError(f"drawing_seed must be 0 or more, not {drawing_seed}.")
        cache = Path(root) if root is not None else _cache()
        folder = cache / "synthetic" / f"{kind}-v{VERSION}-{resolution}-{drawing_seed}"
        super().__init__(os.fspath(folder), download=True, **kwargs)
        self.kind: Kind = kind
        self.count = count
        self.resolution = resolution
        self.drawing_seed = drawing_seed

    def find(self) -> dict[Split, list[Path]]:
        """The first `count` drawings; the cache may hold more."""
        paths = [path for path in map(self._path, range(self.count)) if path.is_file()]
        return {"train": paths} if paths else {}

    def missing(self, split: Split) -> str:
        """The sentence for a set that has not been drawn."""
        return f"The synthetic {self.kind} are not drawn yet: call prepare_data() first (a Trainer does it by itself)."

    def label(self, split: Split) -> str:
        """What the images are called in messages."""
        return f"synthetic {self.kind} in {self.root}"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Draw the images that the cache lacks."""
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
        return self.root / f"{index:05d}.png"

    def _draw_all(self, todo: list[int]) -> Iterator[None]:
        """Draw, on all cores where that pays; yields once per image."""
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


def _draw_file(kind: Kind, index: int, resolution: int, seed: int, path: Path) -> None:
    """Draw one image; it appears under its name only when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draw(kind, index, resolution, seed).save(part, format="PNG")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _cache() -> Path:
    return Path(os.environ.get("STYLEZOO_HOME", Path.home() / ".cache" / "stylezoo"))
