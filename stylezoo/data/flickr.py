"""Flickr30k and Flickr8k: photographs, another content set."""

import csv
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from stylezoo.data.folder import QUICKSTART, Folder, Split
from stylezoo.download import DataError, extract, fetch
from stylezoo.images import list_images

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
    """Flickr30k (Young et al. 2014) or Flickr8k (Hodosh et al. 2013), images only.

    8k: `root/Flicker8k_Dataset/*.jpg` (sic) or `root/Images`, divided by the publisher's Flickr_8k.trainImages.txt,
    .devImages.txt and .testImages.txt in `root` or `root/Flickr8k_text`.
    30k: `root/flickr30k_images/*.jpg`; if the caption file results.csv lies beside or in it, the images it names are
    the data set. Validation and test images are held out by hash where there is no list.
    """

    def __init__(
        self, root: str = "data/flickr30k", name: Literal["30k", "8k"] = "30k", download: bool = False, **kwargs: Any
    ) -> None:
        """Describe the data set; nothing is read yet.

        Args:
            root: the folder that holds the folder of images.
            name: "30k" or "8k".
            download: fetch what is missing (8k only, 1 GB; 30k has a request form).
            kwargs: the options of `Folder`.
        """
        super().__init__(root, download=download, **kwargs)
        self.variant = name

    def find(self) -> dict[Split, list[Path]]:
        """As the publisher's lists say, or everything."""
        pictures = self._pictures()
        if not pictures:
            return {}
        listed = self._split_lists() if self.variant == "8k" else self._captioned(pictures[0].parent)
        if not listed:
            return {"train": pictures}
        by_name = {path.name: path for path in pictures}
        found = {split: [by_name[name] for name in names if name in by_name] for split, names in listed.items()}
        total, present = sum(map(len, listed.values())), sum(map(len, found.values()))
        if present < total:
            warnings.warn(
                f"{total - present} of {total} images listed for Flickr{self.variant} are not in "
                f"{pictures[0].parent} and left out.",
                stacklevel=2,
            )
        return {split: paths for split, paths in found.items() if paths}

    def missing(self, split: Split) -> str:
        """Name the folder, where the images come from, and the quickstart."""
        start = f"No Flickr{self.variant} images at {self.root / FOLDERS[self.variant][-1 if self.variant == '8k' else 1]}: "
        if self.variant == "8k":
            return start + f"add {self.option}.download true to fetch them (1 GB), or {QUICKSTART}"
        return start + f"ask for them at {PAGES} and unpack them there, or {QUICKSTART}"

    def label(self, split: Split) -> str:
        """For example "Flickr8k images"."""
        return f"Flickr{self.variant} images"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Download images and lists (8k); raise DataError for 30k unless it is there."""
        if self.variant == "30k":
            if not self._pictures():
                raise DataError(
                    f"Flickr30k cannot be downloaded automatically: ask for it at {PAGES} and unpack the images to "
                    f"{self.root / 'flickr30k_images'}, or {QUICKSTART}"
                )
            return
        pictures, lists = ARCHIVES
        if not self._pictures():
            extract(fetch(f"{URL}/{pictures}", self.root / pictures, md5=ARCHIVES[pictures]), self.root)
        if not self._split_lists():
            extract(fetch(f"{URL}/{lists}", self.root / lists, md5=ARCHIVES[lists]), self.root)

    def _pictures(self) -> list[Path]:
        for folder in FOLDERS[self.variant]:
            pictures = list_images(self.root / folder, recursive=False)
            if pictures:
                return pictures
        return []

    def _split_lists(self) -> dict[Split, list[str]]:
        found: dict[Split, list[str]] = {}
        for split, name in LISTS.items():
            for path in (self.root / name, self.root / "Flickr8k_text" / name):
                if path.is_file():
                    found[split] = path.read_text(encoding="utf-8").split()
                    break
        return found

    def _captioned(self, folder: Path) -> dict[Split, list[str]]:
        """The images named in results.csv (`image_name| comment_number| comment`, five rows per image)."""
        for path in (folder / "results.csv", folder.parent / "results.csv", self.root / "results.csv"):
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as file:
                    rows = csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE)
                    next(rows, None)
                    names = sorted({row[0].strip() for row in rows if row})
                return {"train": names}
        return {}
