"""Clips of any kind by their names: which they are, whether they can be read and written, and the opening of both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from stylezoo.images import ImageError
from stylezoo.images.writing import check_place
from stylezoo.video.animation import AnimationReader, AnimationWriter, is_animation
from stylezoo.video.formats import (
    ANIMATION_SUFFIXES,
    CONTAINERS,
    Clip,
    ClipWriter,
    Properties,
    VideoError,
    is_camera,
    is_video,
)

WRITTEN_SUFFIXES = frozenset({*ANIMATION_SUFFIXES, *CONTAINERS})
"""Suffixes of the clips that are written."""


def is_clip(content: str | os.PathLike[str], target: str | os.PathLike[str] | None = None) -> bool:
    """Whether a content is stylized frame by frame.

    Args:
        content: Path of a file, or a camera.
        target: The output. An animation whose output is an image of another format is no clip: its first frame is used.
    """
    if is_video(content):
        return True
    return is_animation(content) and (target is None or Path(target).suffix.lower() in WRITTEN_SUFFIXES)


def clip_suffix(content: str | os.PathLike[str]) -> str:
    """Returns the suffix of a clip that is made from another: its own if such clips are written, else ``.mp4``."""
    suffix = Path(content).suffix.lower()
    return suffix if suffix in WRITTEN_SUFFIXES and not is_camera(content) else ".mp4"


def clip_problem(content: str | os.PathLike[str]) -> str | None:
    """Says in a sentence why a clip cannot be read, as far as its first frame tells; None if it can."""
    try:
        open_clip(content).close()
    except (ImageError, VideoError) as error:
        return str(error)
    return None


def open_clip(content: str | os.PathLike[str]) -> Clip:
    """Opens a clip.

    Args:
        content: Path of a video or an animation, or ``camera:0``.

    Raises:
        VideoError: If it cannot be read.
        ImageError: If its frames are too large.
    """
    if is_video(content):
        from stylezoo.video.reading import VideoReader  # imports PyAV

        return VideoReader(content)
    return AnimationReader(content)


def check_clip_target(target: str | os.PathLike[str], codec: str = "auto") -> None:
    """Checks all that can be known before a clip is computed.

    Args:
        target: Path of the file to write.
        codec: See `stylezoo.video.writing.find_codec`.

    Raises:
        VideoError: If the suffix is unknown, the container does not take the codec, or its encoder is missing.
        ImageError: If no file can be written there.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in ANIMATION_SUFFIXES:
        from stylezoo.video.writing import find_codec

        find_codec(suffix, codec, str(target))
    elif codec != "auto":
        raise VideoError(f"--codec {codec} is for videos: {target} is an animated image.")
    check_place(target)


def create_clip(
    file: BinaryIO,
    target: str | os.PathLike[str],
    source: Properties,
    size: tuple[int, int],
    *,
    sound: str | os.PathLike[str] | None = None,
    codec: str = "auto",
    quality: int = 95,
    settings: Mapping[str, Any] | None = None,
) -> ClipWriter:
    """Begins a clip; see `stylezoo.video.writing.VideoWriter` and `stylezoo.video.animation.AnimationWriter`.

    Args:
        file: A new file, open for writing and reading.
        target: What it will be called.
        source: Properties of the clip that it is made from.
        size: Width and height of the frames.
        sound: The video whose sound is kept; None for none.
        codec: A name of `stylezoo.video.formats.ENCODERS`, or ``auto``.
        quality: 1 to 100.
        settings: How it is made, for its metadata.

    Raises:
        VideoError: If it cannot be written.
    """
    if Path(target).suffix.lower() in ANIMATION_SUFFIXES:
        return AnimationWriter(file, target, source, size, quality=quality, settings=settings)
    from stylezoo.video.writing import VideoWriter

    return VideoWriter(file, target, source, size, sound=sound, codec=codec, quality=quality, settings=settings)
