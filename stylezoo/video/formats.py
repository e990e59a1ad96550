"""What a clip is: its frames and properties, the suffixes and codecs that are known, and the error of all that goes wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stylezoo.errors import StylezooError

VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    )
)
"""Suffixes, in lower case, of the files that count as videos."""

ANIMATION_SUFFIXES = {".gif": "GIF", ".webp": "WEBP"}
"""Suffixes of image formats whose animations are clips, with Pillow's names of the formats."""

CONTAINERS = {
    ".m4v": ("mp4", ("h264", "hevc", "av1", "vp9")),
    ".mkv": ("matroska", ("h264", "hevc", "av1", "vp9", "ffv1", "prores")),
    ".mov": ("mov", ("h264", "hevc", "prores")),
    ".mp4": ("mp4", ("h264", "hevc", "av1", "vp9")),
    ".webm": ("webm", ("vp9", "av1")),
}
"""{suffix of a video that is written: (FFmpeg's name of the container, its codecs, the usual one first)}."""

ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "prores": "prores_ks",
    "ffv1": "ffv1",
}
"""{codec: FFmpeg's name of its encoder}."""

CAMERA = "camera:"
"""What the name of a camera begins with, as in ``camera:0``."""


class VideoError(StylezooError):
    """Raised if a clip cannot be read or written; the message is one sentence for the user."""


class Frame(NamedTuple):
    """A frame of a clip, upright."""

    pixels: NDArray[Any]
    """(H, W, 3) RGB, or (H, W, 4) with opacity; uint8, or uint16 of a clip with more than 8 bits."""
    pts: int
    """When it is shown, in units of the clip's time base."""
    duration: int
    """How long, in the same units."""


class Color(NamedTuple):
    """The meaning of a video's numbers: FFmpeg's codes of matrix, range, primaries and transfer; 2 and range 0 are unknown."""

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2


UNKNOWN_COLOR = Color()


@dataclass(frozen=True)
class Properties:
    """What a clip says of itself.

    Attributes:
        name: What messages call it.
        size: Width and height of an upright frame in pixels.
        time_base: Seconds per unit of time.
        rate: Frames per second on average; None if unknown.
        count: Number of frames; None if unknown.
        color: See `Color`.
        pixel_format: FFmpeg's name of the format of its pixels.
        is_deep: Whether these have more than 8 bits.
        has_alpha: Whether these have an opacity.
        aspect: Width of a pixel over its height.
        loop: How often an animation is played; 0 for ever.
        has_sound: Whether there is a sound track.
        metadata: Title, artist, copyright and date.
    """

    name: str
    size: tuple[int, int]
    time_base: Fraction
    rate: Fraction | None = None
    count: int | None = None
    color: Color = UNKNOWN_COLOR
    pixel_format: str = "rgba"
    is_deep: bool = False
    has_alpha: bool = False
    aspect: Fraction = Fraction(1)
    loop: int = 0
    has_sound: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


class Clip(Protocol):
    """An open clip; `stylezoo.video.open_clip` opens one."""

    @property
    def properties(self) -> Properties:
        """What the clip says of itself."""
        ...

    damage: str | None
    """A sentence on what is broken, known when all frames are read; the frames before it are good."""

    def frames(self) -> Iterator[Frame]:
        """Reads the frames in the order in which they are shown."""
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


class ClipWriter(Protocol):
    """A clip that is being written; `stylezoo.video.create_clip` creates one."""

    notes: list[str]
    """Sentences on what is not as in the source."""

    def write(self, frame: Frame) -> None:
        """Writes the next frame, in the size that the clip was created with."""
        ...

    def finish(self, whole: bool = True) -> None:
        """Completes the file.

        Args:
            whole: Whether the source has no further frames; else its sound is cut where the last frame ends.
        """
        ...

    def close(self) -> None:
        """Closes what was opened; a file that is not finished stays without its end."""
        ...


def is_camera(content: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a camera, such as ``camera:0``, and of no file."""
    return os.fspath(content).startswith(CAMERA) and not os.path.exists(content)


def is_video(content: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a video file or a camera."""
    return is_camera(content) or Path(content).suffix.lower() in VIDEO_SUFFIXES


def one_line(error: BaseException) -> str:
    """Returns what a library says of an error, in one line without a full stop."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).removesuffix(".")


def full_range(pixels: NDArray[Any]) -> int:
    """Returns the number that stands for white."""
    return int(np.iinfo(pixels.dtype).max)
