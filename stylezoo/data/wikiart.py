"""WikiArt: the style images of most papers since 2017, in the layout of the ArtGAN project."""

import csv
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stylezoo.data.folder import QUICKSTART, Folder, Split
from stylezoo.download import DataError, checksum, extract, fetch
from stylezoo.images import list_images

URL = "http://web.fsktm.um.edu.my/~cschan/source/ICIP2017"


class WikiArt(Folder):
    """WikiArt as prepared by ArtGAN (Tan et al., ICIP 2017, https://github.com/cs-chan/ArtGAN): 81 k paintings.

    Layout: `root/STYLE/ARTIST_TITLE.jpg` (or `root/wikiart/STYLE/...`), or a flat folder. The project's lists
    (style_train.csv, style_val.csv, ...; rows `STYLE/ARTIST_TITLE.jpg,class`) are used if they lie in `root`,
    `root/wikiart_csv` or a `wikiart_csv` beside it: training and validation as listed, testing = validation. Without
    lists images are held out by hash. Listed names that are not on the disk (many copies have mangled accents) are
    dropped and counted.
    """

    def __init__(
        self,
        root: str = "data/wikiart",
        csv: str | None = "style",
        styles: list[str] | None = None,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        """Describe the data set; nothing is read yet.

        Args:
            root: the folder that holds the style folders.
            csv: which of the lists divides the images, "style", "artist" or "genre"; null: none.
            styles: use these style folders only, e.g. ["Cubism", "Ukiyo_e"].
            download: fetch the images (25.4 GB) and lists if they are missing. Their publisher gives no checksum:
                the size and every file's CRC are checked, and the sha256 is written beside the zip file.
            kwargs: the options of `Folder`.
        """
        super().__init__(root, download=download, **kwargs)
        self.csv = csv
        self.styles = styles

    def find(self) -> dict[Split, list[Path]]:
        """As the lists say, or everything."""
        root = self._pictures_root()
        pictures = list_images(root)
        if self.styles is not None and pictures:
            known = sorted({path.relative_to(root).parts[0] for path in pictures if path.parent != root})
            unknown = sorted(set(self.styles) - set(known))
            if unknown:
                raise DataError(
                    f"{root} has no style folder {', '.join(unknown)}: {self.option}.styles can name "
                    f"{', '.join(known) or 'nothing, the folder is flat'}."
                )
            pictures = [path for path in pictures if path.relative_to(root).parts[0] in self.styles]
        listed = self._lists()
        if not pictures or not listed:
            return {"train": pictures} if pictures else {}
        by_name = {path.relative_to(root).as_posix(): path for path in pictures}
        found: dict[Split, list[Path]] = {}
        lost = total = 0
        for split, names in listed.items():
            if self.styles is not None:
                names = [name for name in names if name.split("/")[0] in self.styles]
            present = [by_name[name] for name in names if name in by_name]
            total, lost = total + len(names), lost + len(names) - len(present)
            if present:
                found[split] = present
        if not found:
            raise DataError(
                f"None of the {total} images listed in the {self.csv}_*.csv files is in {root}: "
                f"set {self.option}.csv null to do without the lists, or put the images there."
            )
        if lost:
            warnings.warn(f"{lost} of {total} images listed for WikiArt are not in {root} and left out.", stacklevel=2)
        return found

    def missing(self, split: Split) -> str:
        """Name the folder, the download and the quickstart."""
        return (
            f"No WikiArt images at {self.root} (expected: STYLE/ARTIST_TITLE.jpg): add {self.option}.download true to "
            f"fetch them (25.4 GB), or {QUICKSTART}"
        )

    def label(self, split: Split) -> str:
        """Always "WikiArt images"."""
        return "WikiArt images"

    def fetch(self, splits: Iterable[Split]) -> None:
        """Download and unpack lists and images; both splits are in one archive."""
        if self.csv is not None and not self._lists():
            extract(self._archive("wikiart_csv.zip"), self.root)
        if not list_images(self._pictures_root()):
            extract(self._archive("wikiart.zip"), self.root)

    def _archive(self, name: str) -> Path:
        archive = fetch(f"{URL}/{name}", self.root / name)
        record = archive.with_name(name + ".sha256")
        if not record.exists():
            record.write_text(f"{checksum(archive)}  {name}\n")
        return archive

    def _pictures_root(self) -> Path:
        inner = self.root / "wikiart"
        return inner if inner.is_dir() else self.root

    def _lists(self) -> dict[Split, list[str]]:
        """The names in the csv files, by split."""
        if self.csv is None:
            return {}
        parents = (self.root, self.root / "wikiart_csv", self.root.parent / "wikiart_csv")
        found: dict[Split, list[str]] = {}
        splits: tuple[Split, ...] = ("train", "val")
        for split in splits:
            for parent in parents:
                path = parent / f"{self.csv}_{split}.csv"
                if path.is_file():
                    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                        found[split] = [row[0] for row in csv.reader(file) if row and row[0]]
                    break
        return found
