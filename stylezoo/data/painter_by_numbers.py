"""Painter by Numbers, the Kaggle collection of paintings that AdaIN and Magenta were trained on."""

import csv
from pathlib import Path
from typing import Any

from stylezoo.data.folder import QUICKSTART, Folder, Split, stage_splits
from stylezoo.download import DataError

PAGE = "https://www.kaggle.com/c/painter-by-numbers/data"


class PainterByNumbers(Folder):
    """The 79,000 training and 24,000 test paintings of Painter by Numbers (Kaggle, 2016), most of them from WikiArt.

    Layout: ``root/train/*.jpg`` (or the parts train_1 ... train_9), ``root/test/*.jpg``, all_data_info.csv. The column
    in_train divides the images, or else the folders do. Validation is held out of training. Images in
    replacements_for_corrupted_files/ replace those of the same name. Some originals have far more than 100 million
    pixels; they are decoded at a fraction of their size.
    """

    def __init__(
        self,
        root: str = "data/painter_by_numbers",
        styles: list[str] | None = None,
        genres: list[str] | None = None,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            root: Folder that contains train/ and test/.
            styles: Styles to use (column style, such as ["Cubism"]), which needs all_data_info.csv; null: all.
            genres: Genres to use (column genre, such as ["portrait"]), which needs all_data_info.csv; null: all.
            download: Kaggle requires a login, so this only gives an error message that says where the files belong.
            kwargs: Options of `Folder`.
        """
        super().__init__(root, download=download, **kwargs)
        self.styles = styles
        self.genres = genres

    def find(self) -> dict[Split, list[Path]]:
        """Returns the images of the splits by all_data_info.csv, or else by folder.

        Raises:
            DataError: If no image has a style and genre that were asked for, or the file with them is missing.
        """
        folders: dict[Split, list[Path]] = {
            "train": [self.root / name for name in ("train", *(f"train_{part}" for part in range(1, 10)))],
            "test": [self.root / "test"],
        }
        on_disk = {
            split: {path.name: path for folder in places for path in self.images(folder)}
            for split, places in folders.items()
        }
        for path in self.images(self.root / "replacements_for_corrupted_files"):
            for images in on_disk.values():
                if path.name in images:
                    images[path.name] = path
        if not any(on_disk.values()):
            return {}
        info = self._info()
        if info:
            everything = on_disk["test"] | on_disk["train"]
            rows = [(row, everything[row["new_filename"]]) for row in info if row["new_filename"] in everything]
            found: dict[Split, list[Path]] = {"train": [], "test": []}
            for row, path in rows:
                if self._wanted(row):
                    found["train" if row["in_train"].strip().lower() == "true" else "test"].append(path)
            if not any(found.values()):
                raise DataError(
                    f"No image in {self.root} has style {self.styles or 'any'} and genre {self.genres or 'any'}: "
                    "see the columns style and genre of all_data_info.csv."
                )
        else:
            found = {split: list(images.values()) for split, images in on_disk.items()}
        return {split: sorted(paths, key=lambda path: path.name) for split, paths in found.items() if paths}

    def missing(self, split: Split) -> str:
        """Returns the error message, which names the folder, the source of the images and the quickstart."""
        folder = self.root / ("test" if split == "test" else "train")
        return (
            f"No Painter by Numbers images at {folder}: get train.zip, test.zip and all_data_info.csv from {PAGE} "
            f"(free login) and unpack them in {self.root}, or {QUICKSTART}"
        )

    def label(self, split: Split) -> str:
        """Returns "Painter by Numbers images"."""
        return "Painter by Numbers images"

    def check(self, stage: str = "fit") -> None:
        """Checks that the images of a stage exist, as `Folder.check`, but with ``download`` too."""
        for split in stage_splits(stage):
            self.files(split)

    def _info(self) -> list[dict[str, str]]:
        """Returns the rows of all_data_info.csv; empty if there is no such file and nothing to filter by."""
        path = self.root / "all_data_info.csv"
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        if self.styles or self.genres:
            raise DataError(f"{path} is missing: it is needed to choose styles or genres and comes from {PAGE}.")
        return []

    def _wanted(self, row: dict[str, str]) -> bool:
        """Returns whether a row has one of the styles and genres that were asked for."""
        return (self.styles is None or row["style"] in self.styles) and (
            self.genres is None or row["genre"] in self.genres
        )
