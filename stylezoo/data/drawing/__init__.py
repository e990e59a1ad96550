"""Images out of nothing but a seed: "photos" to train content on and "paintings" to train style on."""

from stylezoo.data.drawing.paintings import draw_painting
from stylezoo.data.drawing.photos import draw_photo

__all__ = ["VERSION", "draw_painting", "draw_photo"]

VERSION = 1
"""Raise it with every change that alters pixels: cached drawings of another version are not used."""
