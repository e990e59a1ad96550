"""Flickr30k and Flickr8k, photographs for content."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from stylezoo.data.folder import QUICKSTART, Folder, Split, first_file, listed_images
from stylezoo.download import DataError, extract, fetch

URL = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
ARCHIVES = {
    "Flickr8k_Dataset.zip": "f18a1e2920de5bd84dae7cf08ec78978",
    "Flickr8k_text.zip": "bf6c1abcb8e4a833b7f922104de18627",
}
FOLDERS = {
    "8k": ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images"),  # the publisher's own folder is misspelled
    "30k": ("flickr30k_images/flickr30k_images", "flickr30k_images", "flickr30k-images", "images", "Images"),
}
LISTS: dict[Split, str] = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
PAGES = "https://shannon.cs.illinois.edu/DenotationGraph/ or kaggle.com/datasets/hsankesara/flickr-image-dataset"


class Flickr(Folder):
    """The images of Flickr30k (Young et al., TACL 2014) or Flickr8k (Hodosh et al., JAIR 2013).

    8k: ``root/Flicker8k_Dataset/*.jpg`` (sic) or ``root/Images``, divided by the publisher's Flickr_8k.trainImages.txt,
    .devImages.txt and .testImages.txt in ``root`` or ``root/Flickr8k_text``.
    30k: ``root/flickr30k_images/*.jpg``. If the caption file results.csv is beside or in that folder, the data set
    consists of the images that it names. Without lists, validation and test images are held out by hash.
    """

    def __init__(
        self, root: str = "data/flickr30k", name: Literal["30k", "8k"] = "30k", download: bool = False, **kwargs: Any
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            root: Folder that contains the folder of images.
            name: "30k" or "8k".
            download: Whether missing files are downloaded (8k only, 1 GB; 30k has a request form).
            kwargs: Options of `Folder`.
        """
        super().__init__(root, download=download, **kwargs)
        self.variant = name

    def find(self) -> dict[Split, list[Path]]:
        """Returns the images that the publisher's lists name, or all images if there is no list."""
        images = self._images()
        if not images:
            return {}
        folder = images[0].parent
        lists = self._split_lists() if self.variant == "8k" else self._captioned(folder)
        if not lists:
            return {"train": images}
        advice = "put them there, or remove the lists."
        return listed_images({path.name: path for path in images}, lists, f"Flickr{self.variant}", folder, advice)

    def missing(self, split: Split) -> str:
        """Returns the error message, which names the folder, the source of the images and the quickstart."""
        start = f"No Flickr{self.variant} images at {self.root / FOLDERS[self.variant][-1 if self.variant == '8k' else 1]}: "
        if self.variant == "8k":
            return start + f"add {self.option}.download true to fetch them (1 GB), or {QUICKSTART}"
        return start + f"ask for them at {PAGES} and unpack them there, or {QUICKSTART}"

    def label(self, split: Split) -> str:
        """Returns, for example, "Flickr8k images"."""
        return f"Flickr{self.variant} images"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Downloads images and lists of 8k.

        Args:
            splits: Unused: one archive contains all splits.

        Raises:
            DataError: If the images of 30k, which cannot be downloaded, are missing.
        """
        if self.variant == "30k":
            if not self._images():
                raise DataError(
                    f"Flickr30k cannot be downloaded automatically: ask for it at {PAGES} and unpack the images to "
                    f"{self.root / 'flickr30k_images'}, or {QUICKSTART}"
                )
            return
        for name, complete in zip(ARCHIVES, (self._images(), self._split_lists()), strict=True):
            if not complete:
                extract(fetch(f"{URL}/{name}", self.root / name, md5=ARCHIVES[name]), self.root)

    def _images(self) -> list[Path]:
        """Returns all images, in one of the layouts that are in use."""
        return self.first_images((self.root / folder for folder in FOLDERS[self.variant]), recursive=False)

    def _split_lists(self) -> dict[Split, list[str]]:
        """Returns the file names in the publisher's lists by split."""
        paths = {split: first_file((self.root, self.root / "Flickr8k_text"), name) for split, name in LISTS.items()}
        return {split: path.read_text(encoding="utf-8").split() for split, path in paths.items() if path is not None}

    def _captioned(self, folder: Path) -> dict[Split, list[str]]:
        """Returns the names in results.csv (``image_name| comment_number| comment``, five rows per image)."""
        path = first_file((folder, folder.parent, self.root), "results.csv")
        if path is None:
            return {}
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE)
            next(rows, None)
            return {"train": sorted({row[0].strip() for row in rows if row})}
