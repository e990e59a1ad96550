"""Content and style images side by side: the batches that style transfer trains on."""

from collections.abc import Sequence

from stylezoo.data.folder import Folder, ImageModule, Split
from stylezoo.data.stream import Framing, Pictures, Position, Resize


class Pairs(ImageModule):
    """Joins any content module with any style module.

    Batches are {"content": (B, 3, crop, crop), "style": (B, 3, crop, crop)}, float32 RGB in [0, 1]. The two streams
    are independent: each goes through its own images in its own order and starts a new permutation by itself; an
    epoch is one pass over the content. Without a style module (systems trained on fixed styles) batches hold content
    only. In validation, testing and prediction crops are central and the pairing is fixed.
    """

    def __init__(
        self,
        content: Folder,
        style: Folder | None = None,
        batch_size: int = 8,
        size: int = 512,
        crop: int = 256,
        resize: Resize = "shorter",
        position: Position = "random",
        flip: bool = False,
        num_workers: int | None = None,
        seed: int = 0,
        val_samples: int = 64,
    ) -> None:
        """Join two data sets.

        Args:
            content: where content images come from.
            style: where style images come from; null for systems that are trained on fixed styles.
            batch_size: pairs per process.
            size: images are resized to this many pixels.
            crop: side of the square crop, at most `size`.
            resize: "shorter" keeps the aspect and resizes the short side, "squash" distorts to size x size.
            position: of the training crops, "random" or "center".
            flip: mirror half of the training crops.
            num_workers: loader processes; null: the number of CPUs less one, at most 4.
            seed: decides order, pairing, crops and flips.
            val_samples: validate with at most this many pairs.

        Raises:
            ValueError: a crop larger than its size.
        """
        super().__init__(batch_size, num_workers, seed, val_samples)
        self.content = content
        self.style = style
        self.framing = Framing(size, crop, resize, position, flip)
        for role, part in self.parts().items():
            part.option = f"--data.{role}"
            part.framing.inherit(self.framing).check()

    def parts(self) -> dict[str, Folder]:
        """The modules by role: "content" and, if there is one, "style"."""
        return {"content": self.content} if self.style is None else {"content": self.content, "style": self.style}

    def check(self, splits: Sequence[Split] = ("train", "val")) -> None:
        """Cheaply see whether all images are there, before a model is built.

        Raises:
            DataError: they are not; the sentence says what to do.
        """
        for part in self.parts().values():
            part.check(splits)

    def prepare_data(self) -> None:
        """Let the parts download what they miss, if they are asked to."""
        for part in self.parts().values():
            part.trainer = self.trainer
            part.prepare_data()

    def setup(self, stage: str) -> None:
        """List the images of both sides; DataError if one has none that can be read."""
        for part in self.parts().values():
            part.setup(stage)

    def teardown(self, stage: str) -> None:
        """Say how many files were broken."""
        for part in self.parts().values():
            part.teardown(stage)

    def streams(self, split: Split, stage: str) -> dict[str, Pictures]:
        """Content (in its own order when testing) and style (always shuffled: that is the pairing)."""
        return {
            role: part.pictures(
                split, part.framing.inherit(self.framing), self.seed, role, role == "style" or stage != "test"
            )
            for role, part in self.parts().items()
        }
