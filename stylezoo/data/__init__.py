"""Data sets as LightningDataModules; `Pairs` joins any content set with any style set."""

from stylezoo.data.coco import COCO
from stylezoo.data.flickr import Flickr
from stylezoo.data.folder import Folder
from stylezoo.data.loader import sources_of_batch
from stylezoo.data.mixture import Mixture
from stylezoo.data.painter_by_numbers import PainterByNumbers
from stylezoo.data.pairs import Pairs
from stylezoo.data.synthetic import Synthetic
from stylezoo.data.wikiart import WikiArt
from stylezoo.download import DataError

__all__ = [
    "COCO",
    "DataError",
    "Flickr",
    "Folder",
    "Mixture",
    "PainterByNumbers",
    "Pairs",
    "Synthetic",
    "WikiArt",
    "sources_of_batch",
]
