"""Pairs of content and style images: the batches that style transfer trains on."""

from stylezoo.data.folder import Folder, ImageModule, Split, check_memory
from stylezoo.data.stream import Framing, ImageStream, Position, Resize


class Pairs(ImageModule):
    """A data module that joins any content data set with any style data set.

    Batches are {"content": (B, 3, crop, crop), "style": (B, 3, crop, crop)}, float32 RGB in [0, 1]. The two streams
    are independent: each has its own order and starts a new permutation after its last image. An epoch is one pass over
    the content images. Without a style data set (systems trained on fixed styles) batches have content only. In
    validation, testing and prediction crops are central and the pairing is fixed.
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
        zoom: float = 1.0,
        color_jitter: float = 0.0,
        num_workers: int | None = None,
        seed: int = 0,
        val_samples: int = 64,
        timeout: float = 300.0,
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            content: Data set of the content images.
            style: Data set of the style images; null for systems that are trained on fixed styles.
            batch_size: Pairs per process.
            size: Side in pixels that images are resized to.
            crop: Side of the square crop in pixels, at most ``size``.
            resize: "shorter" resizes the shorter side and keeps the aspect ratio, "squash" distorts to size x size.
            position: Position of training crops, "random" or "center".
            flip: Whether half of the training crops are mirrored.
            zoom: Largest factor by which training images are enlarged at random beyond ``size``, in [1, 4].
            color_jitter: Strength of random changes of brightness, contrast, saturation and hue of training crops, in
                [0, 1].
            num_workers: Worker processes of a loader; null: as many as help, see `ImageModule.workers`.
            seed: Seed of order, pairing, crops and augmentation.
            val_samples: Largest number of validation pairs.
            timeout: Seconds after which worker processes that send nothing are replaced.

        Raises:
            StylezooError: If a value is out of its range, or a crop larger than its size.
        """
        super().__init__(batch_size, num_workers, seed, val_samples, timeout)
        self.content = content
        self.style = style
        self.framing = Framing(size, crop, resize, position, flip, zoom, color_jitter)
        for role, module in self.modules().items():
            module.option = f"--data.{role}"
            module.framing.inherit(self.framing).check()
        check_memory(batch_size, [module.framing.inherit(self.framing).crop for module in self.modules().values()])

    def modules(self) -> dict[str, Folder]:
        """Returns the joined data modules by role, "content" and, if there is one, "style"."""
        return {"content": self.content} if self.style is None else {"content": self.content, "style": self.style}

    def is_prepared(self) -> bool:
        return all(module.is_prepared() for module in self.modules().values())

    def check(self, stage: str = "fit") -> None:
        """Checks that the images of both data sets exist, before a model is built; see `Folder.check`.

        Args:
            stage: A stage of the Trainer: "fit", "validate", "test" or "predict".

        Raises:
            DataError: If images are missing; the message says how to get them.
        """
        for module in self.modules().values():
            module.check(stage)
            module.check_framing(module.framing.inherit(self.framing))

    def prepare_data(self) -> None:
        """Downloads the missing files of both data sets if their ``download`` is set.

        Raises:
            DataError: If a download fails.
        """
        for module in self.modules().values():
            module.trainer = self.trainer
            module.prepare_data()

    def setup(self, stage: str) -> None:
        """Lists the images of both data sets.

        Args:
            stage: A stage of the Trainer.

        Raises:
            DataError: If one of them has no image that can be read.
        """
        for module in self.modules().values():
            module.setup(stage)

    def teardown(self, stage: str) -> None:
        """Warns about the number of broken files."""
        for module in self.modules().values():
            module.teardown(stage)

    def streams(self, split: Split, stage: str) -> dict[str, ImageStream]:
        """Returns content (in order when testing) and style (always shuffled), see `ImageModule.streams`."""
        return {
            role: module.stream(
                split, module.framing.inherit(self.framing), self.seed, role, role == "style" or stage != "test"
            )
            for role, module in self.modules().items()
        }
