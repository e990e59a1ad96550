"""Animated GIF and WebP through Pillow: whole frames, their durations, and how often they are played."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from stylezoo.files import open_regular, problem
from stylezoo.images.formats import ImageError, check_pixels, shown
from stylezoo.images.reading import open_animation, read_picture
from stylezoo.video.formats import ANIMATION_SUFFIXES, Frame, Properties, VideoError, full_range, one_line

MILLISECOND = Fraction(1, 1000)
UNTIMED = 100
"""Milliseconds that browsers show a frame whose duration is 0."""

SHORTEST = {"GIF": 20, "WEBP": 1}
"""Milliseconds that a frame must last: browsers show those of a GIF that last 10 ms or less for 100 ms."""

_STEP = {"GIF": 10, "WEBP": 1}


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a GIF or a WebP image with more than one frame."""
    if Path(path).suffix.lower() not in ANIMATION_SUFFIXES:
        return False
    try:
        with open_regular(path) as file:
            return bool(getattr(open_animation(file, shown(path)), "is_animated", False))
    except Exception:  # noqa: BLE001 - decoders raise anything; whoever reads the file says what is wrong
        return False


class AnimationReader:
    """An animated GIF or WebP image; frames are whole images, whatever the file does with the ones before.

    Args:
        source: Path of the file.

    Raises:
        VideoError: If it cannot be read.
        ImageError: If it is no such image, or too large.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = shown(source)
        self.damage: str | None = None
        try:
            self._file = open_regular(source)
        except OSError as error:
            raise VideoError(f"{self.name} {problem(error)}.") from error
        try:
            self._image = open_animation(self._file, self.name)
            count = getattr(self._image, "n_frames", 1)
            self._image.seek(0)
        except ImageError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise VideoError(f"{self.name} cannot be read: {one_line(error)}.") from error
        self.properties = Properties(
            self.name, self._image.size, MILLISECOND, None, count, has_alpha=True, loop=self._plays()
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def frames(self) -> Iterator[Frame]:
        """Reads the frames in order, (H, W, 4)."""
        pts = 0
        for index in range(self.properties.count or 1):
            try:
                self._image.seek(index)
                check_pixels(
                    *self._image.size, self.name
                )  # a frame that reaches beyond the first makes Pillow's image grow
                color, alpha, _ = read_picture(self._image)
                duration = round(float(self._image.info.get("duration") or 0))
            except Exception as error:  # noqa: BLE001 - decoders of broken files raise anything
                self.damage = f"{self.name} is damaged after {pts / 1000:.2f} seconds ({one_line(error)})"
                return
            opacity = np.full(color.size[::-1], 255, np.uint8) if alpha is None else np.asarray(alpha)
            width, height = self.properties.size  # as browsers, which show nothing beyond the first frame
            pixels = np.dstack([np.asarray(color), opacity])[:height, :width]
            yield Frame(pixels, pts, duration or UNTIMED)
            pts += duration or UNTIMED

    def _plays(self) -> int:
        """How often the animation is played in all, 0 for ever."""
        loop = self._image.info.get("loop")
        if self._image.format == "GIF":  # the number of repetitions; without it a GIF is played once
            return 1 if loop is None else 0 if loop == 0 else int(loop) + 1
        return int(loop or 0)


class AnimationWriter:
    """An animated GIF or WebP image that is being written; all frames are held in memory until then.

    Args:
        file: A new file, open for writing.
        target: What messages call it; its suffix determines the format.
        source: Properties of the clip that it is made from.
        size: Width and height of the frames.
        quality: Of WebP, 1 to 100.
        settings: How it is made, written as JSON into the comment (GIF) or the EXIF user comment (WebP).

    Attributes:
        notes: Sentences on what is not kept.
    """

    def __init__(
        self,
        file: BinaryIO,
        target: str | os.PathLike[str],
        source: Properties,
        size: tuple[int, int],
        *,
        quality: int = 95,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._name, self._file, self._source = shown(target), file, source
        self._format = ANIMATION_SUFFIXES[Path(target).suffix.lower()]
        self._quality, self._settings = quality, settings
        self._images: list[Image.Image] = []
        self._times: list[int] = []  # when each frame begins, in milliseconds
        self._end = 0
        if source.has_sound:
            self.notes.append(f"{self._name} is an image: the sound of {source.name} is left out.")
        longest = {"GIF": 65_535, "WEBP": 16_383}[self._format]
        if max(size) > longest:
            raise VideoError(f"Cannot write {self._name}: a side has {max(size):,} pixels and may have {longest:,}.")

    def write(self, frame: Frame) -> None:
        """Adds the next frame; one that would be shown too shortly for the format is left out."""
        step, unit = _STEP[self._format], self._source.time_base / MILLISECOND
        begin = step * round(frame.pts * unit / step)
        self._end = step * round((frame.pts + frame.duration) * unit / step)
        if self._times and begin - self._times[-1] < SHORTEST[self._format] and self._source.rate is not None:
            return
        pixels = frame.pixels
        if full_range(pixels) > 255:
            pixels = np.rint(pixels / 257).astype(np.uint8)
        if pixels.shape[-1] == 4 and bool((pixels[..., 3] == 255).all()):
            pixels = pixels[..., :3]
        self._times.append(begin)
        self._images.append(Image.fromarray(np.ascontiguousarray(pixels)))

    def finish(self, whole: bool = True) -> None:
        """Writes the file.

        Raises:
            VideoError: If it cannot be written.
        """
        step = _STEP[self._format]
        ends = [*self._times[1:], max(self._end, self._times[-1] + step)]
        durations = [end - begin for begin, end in zip(self._times, ends, strict=True)]
        with self._told():
            images = self._indexed() if self._format == "GIF" else self._images
            encoded = io.BytesIO()  # encoders that write to a file do not notice all errors of a full disk
            options = {"duration": durations, **self._options()}
            images[0].save(encoded, self._format, save_all=True, append_images=images[1:], **options)
            self._file.write(encoded.getbuffer())

    def close(self) -> None:
        """Forgets the frames."""
        self._images.clear()

    def _options(self) -> dict[str, Any]:
        plays = self._source.loop
        text = None if self._settings is None else json.dumps(self._settings, default=str)
        if self._format == "GIF":
            options: dict[str, Any] = {"comment": text} if text else {}
            if plays != 1:
                options["loop"] = max(plays - 1, 0)
            transparent = any(image.mode == "RGBA" for image in self._images)
            return {**options, "optimize": False, "disposal": 2 if transparent else 1}
        options = {"loop": plays, "quality": self._quality, "minimize_size": False}
        if text:
            exif = Image.Exif()
            exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment.value: b"ASCII\0\0\0" + text.encode("ascii")}
            options["exif"] = exif.tobytes()
        return options

    def _indexed(self) -> list[Image.Image]:
        """Returns the frames in the colors of one palette: palettes of their own would make still areas flicker."""
        opaque = [image.convert("RGB") for image in self._images]
        chosen = opaque[:: -(-len(opaque) // _SAMPLES)]
        side = _SAMPLE_SIDE
        sheet = Image.new("RGB", (side * len(chosen), side))
        for index, image in enumerate(chosen):
            sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (side * index, 0))
        palette = sheet.quantize(255, Image.Quantize.MEDIANCUT)
        indexed = []
        for image, own in zip(opaque, self._images, strict=True):
            flat = image.quantize(palette=palette, dither=Image.Dither.NONE)
            if own.mode == "RGBA":
                hidden = own.getchannel("A").point(lambda value: 255 if value < 128 else 0)
                flat.paste(_TRANSPARENT, mask=hidden)
                flat.info["transparency"] = _TRANSPARENT
            indexed.append(flat)
        return indexed

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what Pillow raises into a `VideoError` of one sentence."""
        try:
            yield
        except Exception as error:
            raise VideoError(f"Cannot write {self._name}: {one_line(error)}.") from error


_SAMPLES, _SAMPLE_SIDE = 32, 128
"""Number of frames, and side of each in pixels, from which the palette of a GIF is made."""

_TRANSPARENT = 255
