"""Several data sets as one: each sample is drawn from one of them, in stated shares."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from stylezoo.data.folder import Folder, Split
from stylezoo.data.stream import Framing, ImageStream
from stylezoo.errors import StylezooError


class Mixture(Folder):
    """Several data sets as the content or the style side of `Pairs`, drawn in stated shares whatever their sizes.

    Each part keeps its own splits: what is held out of a part is held out of the mixture. Sample i comes from a part that is
    drawn from (seed, role, i), as sample i of that part's own stream, so that a resumed run continues the exact sequence.
    """

    def __init__(
        self,
        parts: list[Folder],
        shares: list[float] | None = None,
        size: int | None = None,
        crop: int | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
        val_samples: int = 64,
        timeout: float = 300.0,
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            parts: The data sets.
            shares: Share of each part in the samples, in any unit; null: equal shares.
            size: Side in pixels that images are resized to; null: the value of `Pairs`, or 512 on its own.
            crop: Side of the square crop in pixels; null: the value of `Pairs`, or 256 on its own.
            batch_size: Samples per process.
            num_workers: Worker processes of a loader; null: as many as help, see `ImageModule.workers`.
            seed: Seed of order, crops and augmentation.
            val_samples: Largest number of validation images.
            timeout: Seconds after which worker processes that send nothing are replaced.

        Raises:
            StylezooError: If there is no part, or there are not as many positive shares as parts.
        """
        if not parts:
            raise StylezooError("A mixture needs at least one part, a data set such as Folder.")
        shares = [1.0] * len(parts) if shares is None else shares
        if len(shares) != len(parts) or not all(np.isfinite(share) and share > 0 for share in shares):
            raise StylezooError(f"A mixture of {len(parts)} parts needs as many positive shares, not {shares}.")
        super().__init__(
            str(parts[0].root),
            size=size,
            crop=crop,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            val_samples=val_samples,
            timeout=timeout,
        )
        self.parts = parts
        self.shares = [share / sum(shares) for share in shares]

    def find(self) -> dict[Split, list[Path]]:
        """Returns the images of all parts by split."""
        found: dict[Split, list[Path]] = {}
        for part in self.parts:
            for split, paths in part.find().items():
                found.setdefault(split, []).extend(paths)
        return found

    def files(self, split: Split) -> list[Path]:
        """Returns the images of all parts, see `Folder.files`."""
        return [path for part in self.parts for path in part.files(split)]

    def is_prepared(self) -> bool:
        return all(part.is_prepared() for part in self.parts)

    def check(self, stage: str = "fit") -> None:
        """Checks all parts, see `Folder.check`."""
        for number, part in enumerate(self.parts):
            part.option = f"{self.option}.parts[{number}]"
            part.check(stage)

    def check_framing(self, framing: Framing) -> None:
        """Checks all parts, see `Folder.check_framing`."""
        for part in self.parts:
            part.check_framing(part.framing.inherit(framing))

    def fetch(self, splits: Iterable[Split]) -> None:
        """Downloads the missing files of the parts that are to be downloaded."""
        for part in self.parts:
            if part.download:
                part.fetch(splits)

    def prepare_data(self) -> None:
        """Prepares all parts, see `Folder.prepare_data`."""
        for part in self.parts:
            part.trainer = self.trainer
            part.prepare_data()

    def setup(self, stage: str) -> None:
        """Sets all parts up, see `Folder.setup`."""
        for part in self.parts:
            part.setup(stage)

    def teardown(self, stage: str) -> None:
        """Warns about the number of broken files of each part."""
        for part in self.parts:
            part.teardown(stage)

    def stream(self, split: Split, framing: Framing, seed: int, role: str, shuffle: bool) -> ImageStream:
        """Returns a stream that mixes those of the parts, see `Folder.stream`."""
        streams = [
            part.stream(split, part.framing.inherit(framing), seed, f"{role}/{number}", shuffle)
            for number, part in enumerate(self.parts)
        ]
        return MixedStream(streams, self.shares, seed, role, train=split == "train")


class MixedStream(ImageStream):
    """A stream whose item i is item i of a stream that is drawn from (seed, role, i)."""

    def __init__(
        self, streams: Sequence[ImageStream], shares: Sequence[float], seed: int, role: str, train: bool
    ) -> None:
        """Initializes the stream.

        Args:
            streams: The streams that are mixed.
            shares: Probability of each.
            seed: Seed of the whole run.
            role: "content" or "style".
            train: Whether the streams are random.
        """
        super().__init__(streams[0].files, streams[0].framing, seed, f"{role}/mixed", train)
        self.streams = streams
        self.bounds = np.cumsum(shares)[:-1]

    def __len__(self) -> int:
        """Returns the number of files of all streams."""
        return sum(map(len, self.streams))

    def __getitem__(self, i: int) -> Tensor:
        """Returns crop i, see `ImageStream`."""
        return self._drawn(i)[i]

    def source(self, i: int) -> str:
        """Returns the path of the file that crop i is cut from."""
        return self._drawn(i).source(i)

    def warn(self) -> None:
        """Warns about the first broken file of each stream."""
        for stream in self.streams:
            stream.warn()

    def _drawn(self, i: int) -> ImageStream:
        """Returns the stream that sample i is of."""
        draw = np.random.SeedSequence((self.seed, self.key, 2, i)).generate_state(1, np.uint64)[0] / 2**64
        return self.streams[int(np.searchsorted(self.bounds, draw, side="right"))]
