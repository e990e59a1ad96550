"""COCO, the content images of most style transfer papers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from stylezoo.data.folder import QUICKSTART, Folder, Split
from stylezoo.download import extract, fetch

URL = "http://images.cocodataset.org/zips"
MD5 = {
    "train2014": "0da8c0bd3d6becc4dcb32757491aca88",
    "val2014": "a3d79f5ed8d289b7a7554ce06a5782b3",
    "test2014": "04127eef689ceac55e3a572c2c92f264",
    "train2017": "cced6f7f71b7629ddf16f17bbcfab6b2",
    "val2017": "442b8da7639aecaf257c1dceb8ba8c80",
    "test2017": "77ad2c53ac5d0aea611d422c0938fb35",
}
SIZE = {"train2014": "13 GB", "val2014": "6 GB", "test2014": "6 GB"}
SIZE |= {"train2017": "18 GB", "val2017": "0.8 GB", "test2017": "6 GB"}
TITLE: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


class COCO(Folder):
    """The images of Microsoft COCO (Lin et al., ECCV 2014, https://cocodataset.org).

    Layout: ``root/train2014/*.jpg`` or ``root/images/train2014/*.jpg``, and the same for val and test. If there is no
    validation folder, a part of the training images is held out.
    """

    def __init__(
        self, root: str = "data/coco", year: Literal[2014, 2017] = 2014, download: bool = False, **kwargs: Any
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            root: Folder that contains train2014 and so on.
            year: 2014 (83,000 training images, which the papers used) or 2017 (118,000).
            download: Whether the missing files of a stage are downloaded; the zip files are kept in ``root``.
            kwargs: Options of `Folder`.
        """
        super().__init__(root, download=download, **kwargs)
        self.year = year

    def find(self) -> dict[Split, list[Path]]:
        """Returns the images of the split folders."""
        found = {split: self.images(self._folder(split), recursive=False) for split in TITLE}
        return {split: paths for split, paths in found.items() if paths}

    def missing(self, split: Split) -> str:
        """Returns the error message, which names the folder, the download and the quickstart."""
        name = f"{split}{self.year}"
        return (
            f"No COCO {self.year} {TITLE[split]} images at {self.root / name}: "
            f"add {self.option}.download true to fetch them ({SIZE[name]}), or {QUICKSTART}"
        )

    def label(self, split: Split) -> str:
        """Returns, for example, "COCO 2014 training images"."""
        return f"COCO {self.year} {TITLE[split]} images"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Downloads and unpacks the folders that are missing."""
        for split in splits:
            name = f"{split}{self.year}"
            if not self.has(self._folder(split)):
                archive = fetch(f"{URL}/{name}.zip", self.root / f"{name}.zip", md5=MD5[name])
                extract(archive, self.root)

    def _folder(self, split: Split) -> Path:
        """Returns the folder of a split, whether it exists or not."""
        name = f"{split}{self.year}"
        inner = self.root / "images" / name
        return inner if self.has(inner) else self.root / name
