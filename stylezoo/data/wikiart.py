"""WikiArt, the style images of most papers since 2017, in the layout of the ArtGAN project."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stylezoo.data.folder import QUICKSTART, Folder, Split, first_file, listed_images
from stylezoo.download import DataError, checksum, extract, fetch
from stylezoo.files import replacing

URL = "http://web.fsktm.um.edu.my/~cschan/source/ICIP2017"


class WikiArt(Folder):
    """The 81,000 paintings of WikiArt as prepared by ArtGAN (Tan et al., ICIP 2017, https://github.com/cs-chan/ArtGAN).

    Layout: ``root/STYLE/ARTIST_TITLE.jpg`` (or ``root/wikiart/STYLE/...``), or a flat folder. The project's lists
    (style_train.csv, style_val.csv, ...; rows ``STYLE/ARTIST_TITLE.jpg,class``) are used if they are in ``root``,
    ``root/wikiart_csv`` or a folder ``wikiart_csv`` beside it: they define training and validation, and testing equals
    validation. Without lists, images are held out by hash. Listed names that are not on the disk (many copies have
    mangled accents) are left out and counted in a warning.
    """

    def __init__(
        self,
        root: str = "data/wikiart",
        csv: str | None = "style",
        styles: list[str] | None = None,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        """Initializes the data module without reading any file.

        Args:
            root: Folder that contains the style folders.
            csv: The lists that divide the images, "style", "artist" or "genre"; null: none.
            styles: Names of the style folders to use, such as ["Cubism", "Ukiyo_e"]; null: all.
            download: Whether missing images (25.4 GB) and lists are downloaded. Their publisher gives no checksum: the
                size and the CRC of every file are verified, and the SHA-256 is written beside the zip file.
            kwargs: Options of `Folder`.
        """
        super().__init__(root, download=download, **kwargs)
        self.csv = csv
        self.styles = styles

    def find(self) -> dict[Split, list[Path]]:
        """Returns the images that the lists name, or all images if there is no list.

        Raises:
            DataError: If there is no folder of a style, or no listed image exists.
        """
        root = self._images_root()
        images = self.images(root)
        if self.styles is not None and images:
            known = sorted({path.relative_to(root).parts[0] for path in images if path.parent != root})
            unknown = sorted(set(self.styles) - set(known))
            if unknown:
                raise DataError(
                    f"{root} has no style folder {', '.join(unknown)}: {self.option}.styles can name "
                    f"{', '.join(known) or 'nothing, the folder is flat'}."
                )
            images = [path for path in images if path.relative_to(root).parts[0] in self.styles]
        lists = self._lists()
        if not images or not lists:
            return {"train": images} if images else {}
        if self.styles is not None:
            lists = {
                split: [name for name in names if name.split("/")[0] in self.styles] for split, names in lists.items()
            }
        by_name = {path.relative_to(root).as_posix(): path for path in images}
        advice = f"set {self.option}.csv null to ignore the lists ({self.csv}_*.csv), or put the images there."
        return listed_images(by_name, lists, "WikiArt", root, advice)

    def missing(self, split: Split) -> str:
        """Returns the error message, which names the folder, the download and the quickstart."""
        return (
            f"No WikiArt images at {self.root} (expected: STYLE/ARTIST_TITLE.jpg): add {self.option}.download true to "
            f"fetch them (25.4 GB), or {QUICKSTART}"
        )

    def label(self, split: Split) -> str:
        """Returns "WikiArt images"."""
        return "WikiArt images"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Downloads and unpacks lists and images; one archive contains all splits."""
        if self.csv is not None and not self._lists():
            extract(self._archive("wikiart_csv.zip"), self.root)
        if not self.images(self._images_root()):
            extract(self._archive("wikiart.zip"), self.root)

    def _archive(self, name: str) -> Path:
        """Downloads an archive and writes its SHA-256 beside it."""
        archive = fetch(f"{URL}/{name}", self.root / name)
        record = archive.with_name(name + ".sha256")
        if not record.exists():
            with replacing(record) as file:
                file.write(f"{checksum(archive)}  {name}\n".encode())
        return archive

    def _images_root(self) -> Path:
        """Returns the folder of the style folders, whether it exists or not."""
        inner = self.root / "wikiart"
        return inner if self.has(inner) else self.root

    def _lists(self) -> dict[Split, list[str]]:
        """Returns the names in the csv files by split."""
        parents = (self.root, self.root / "wikiart_csv", self.root.parent / "wikiart_csv")
        found: dict[Split, list[str]] = {}
        splits: tuple[Split, ...] = ("train", "val") if self.csv is not None else ()
        for split in splits:
            path = first_file(parents, f"{self.csv}_{split}.csv")
            if path is not None:
                with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                    found[split] = [row[0] for row in csv.reader(file) if row and row[0]]
        return found
