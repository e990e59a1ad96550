"""Procedural images that depend on a seed only: "photos" for content and "paintings" for style."""

from stylezoo.data.drawing.paintings import draw_painting
from stylezoo.data.drawing.photos import draw_photo

__all__ = ["VERSION", "draw_painting", "draw_photo"]

VERSION = 1
"""Version of the drawings, to be increased with every change of pixels: caches of other versions are not used."""
