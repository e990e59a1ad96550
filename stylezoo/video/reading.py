"""Reading of videos through PyAV: upright RGB frames with their exact times, whatever the file stores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylezoo.images import formats
from stylezoo.images.formats import check_pixels, shown
from stylezoo.video.formats import Color, Frame, Properties, VideoError, is_camera, one_line
from stylezoo.video.pyav import open_input, pyav

KEPT_METADATA = ("title", "artist", "author", "copyright", "date", "creation_time", "com.apple.quicktime.creationdate")
"""What is kept of a source, as of images: not where it was taken, nor the make of the camera."""

FULL = 2
"""FFmpeg's code of the full range, 0 to 255."""

MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""{FFmpeg's code of a matrix: that of its scaler}."""


class VideoReader:
    """A video file or a camera whose frames are read one after the other.

    Rotation and mirroring that the file asks for are applied, as with images. Numbers become RGB by the matrix and the range
    that the file states; where it states none, by BT.709 from 720 lines or 1280 columns on and by BT.601 below, as players do.

    Args:
        source: Path of a file, or ``camera:0``.

    Raises:
        VideoError: If it cannot be read, or has no video.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = shown(source)
        self.damage: str | None = None
        self._time: float | None = None  # of the last good frame
        self._input = open_input(source)
        try:
            self._stream = _video_stream(self._input, self.name)
            self._limit_pixels()
            decoded = self._decode()
            first = next(decoded, None)  # only a frame tells rotation and colors
            if first is None:
                raise VideoError(
                    f"{self.name} has no frame that can be read: the file is damaged or its codec unknown."
                )
            self._decoded = chain([first], decoded)
            self.properties = self._properties(first, is_camera(source))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._input.close()

    def frames(self) -> Iterator[Frame]:
        """Reads the frames in the order in which they are shown; once."""
        own, previous = self.properties, -1
        usual = max(1, round(1 / (own.rate * own.time_base))) if own.rate else 1
        for frame in self._decoded:
            pts = previous + usual if frame.pts is None else round(frame.pts * frame.time_base / own.time_base)
            pts = max(pts - self._start, previous + 1)  # damaged files repeat times
            duration = round((frame.duration or 0) * frame.time_base / own.time_base)
            previous = pts
            yield Frame(self._pixels(frame), pts, duration or usual)
        self._check_length((previous + (duration or usual)) * own.time_base, usual * own.time_base)

    def _limit_pixels(self) -> None:
        """Refuses a video whose frames are too large, and lets FFmpeg refuse single frames that claim to be."""
        codec = self._stream.codec_context
        if codec is None:  # an unknown codec, which decodes to nothing
            return
        if codec.width and codec.height:
            check_pixels(codec.width, codec.height, self.name)
        codec.options = {"max_pixels": str(formats.MAX_PIXELS)}

    def _decode(self) -> Iterator[Any]:
        """Decodes packet by packet; a damaged one is passed over, a damaged file ends."""
        av, packets = pyav(), self._input.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                self._damaged(error)
                return
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError) as error:
                self._damaged(error)
                continue
            for frame in frames:
                self._time = frame.time
                yield frame

    def _damaged(self, error: Exception) -> None:
        where = "at its beginning" if self._time is None else f"after {max(0.0, self._time):.2f} seconds"
        self.damage = self.damage or f"{self.name} is damaged {where} ({one_line(error)})"

    def _check_length(self, end: Fraction, usual: Fraction) -> None:
        """Notes that a file breaks off, which FFmpeg does not tell: it promises more than its frames fill."""
        stream = self._stream
        if stream.duration and stream.time_base and self.damage is None:
            promised = stream.duration * stream.time_base
            if promised - end > max(3 * usual, Fraction(1, 10)):
                self.damage = (
                    f"{self.name} is damaged: it breaks off after {float(end):.2f} of {float(promised):.2f} seconds"
                )

    def _properties(self, frame: Any, is_live: bool) -> Properties:
        """Finds out what the file says of itself; of a frame, which is more reliable, where both say it."""
        stream, layout = self._stream, frame.format
        self._turn = _display_matrix(frame)
        self._stored = frame.width, frame.height
        self._color = _color(frame)
        self._is_rgb = layout.is_rgb or layout.name.startswith(("gbr", "pal"))
        self._matrix = scaler_matrix(self._color, self._stored)
        # times begin at 0 where a file begins later, such as those cut out of a broadcast
        begin = Fraction(self._input.start_time or 0, pyav().time_base)
        base = frame.time_base or stream.time_base or Fraction(1, 1000)
        self._start = round(max(begin, Fraction(0)) / base)
        if is_live and frame.pts is not None:
            self._start = frame.pts
        has_alpha = layout.name.startswith("pal") or any(c.is_alpha for c in layout.components)
        size = self._turned_size(frame.width, frame.height)
        check_pixels(*size, self.name)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        turned = size != (frame.width, frame.height)
        return Properties(
            self.name,
            size,
            base,
            stream.average_rate or stream.guessed_rate,
            (stream.frames or self._estimated_count()) if not is_live else None,
            self._color,
            layout.name.replace("yuvj", "yuv"),
            max(c.bits for c in layout.components) > 8,
            has_alpha,
            1 / aspect if turned and aspect else aspect or Fraction(1),
            has_sound=bool(self._input.streams.audio),
            metadata={k: v for k, v in self._input.metadata.items() if k.lower() in KEPT_METADATA},
        )

    def _estimated_count(self) -> int | None:
        stream, rate = self._stream, self._stream.average_rate
        seconds = None
        if stream.duration and stream.time_base:
            seconds = stream.duration * stream.time_base
        elif self._input.duration:
            seconds = Fraction(self._input.duration, pyav().time_base)
        return round(seconds * rate) or None if seconds and rate else None

    def _turned_size(self, width: int, height: int) -> tuple[int, int]:
        return (height, width) if self._turn[0] == 0 else (width, height)

    def _pixels(self, frame: Any) -> NDArray[Any]:
        """Converts a frame to upright RGB."""
        own = self.properties
        layout = ("rgba64le" if own.has_alpha else "rgb48le") if own.is_deep else "rgba" if own.has_alpha else "rgb24"
        scaling: dict[str, Any] = {"width": self._stored[0], "height": self._stored[1], "interpolation": PRECISE}
        if not self._is_rgb:
            full = FULL if self._color.range == FULL or frame.format.name.startswith("yuvj") else 1
            scaling |= {"src_colorspace": self._matrix, "src_color_range": full, "dst_color_range": FULL}
        pixels = frame.reformat(format=layout, **scaling).to_ndarray()
        return upright(pixels, self._turn)


def is_hd(size: tuple[int, int]) -> bool:
    """Whether players take a video of a size that names no matrix for BT.709; BT.601 if it is smaller."""
    return max(size) >= 1280 or min(size) >= 720


def scaler_matrix(color: Color, size: tuple[int, int]) -> int:
    """Returns the matrix between RGB and a video, in the numbers of FFmpeg's scaler."""
    return MATRICES.get(color.matrix) or (1 if is_hd(size) else 5)


PRECISE = 0x4 | 0x2000 | 0x4000 | 0x40000
"""Flags of FFmpeg's scaler: bicubic chroma of full width both ways, accurate rounding; its default is fast instead."""


def _video_stream(container: Any, name: str) -> Any:
    """Returns the video of a file; the cover of a song is none."""
    streams = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
    if not streams:
        kind = "it holds sound only" if container.streams.audio else "it holds something else"
        raise VideoError(f"{name} has no video stream: {kind}.")
    for stream in streams:
        stream.thread_type = "AUTO"
    best = container.streams.best("video")
    return best if best in streams else streams[0]


def _color(frame: Any) -> Color:
    full = FULL if frame.format.name.startswith("yuvj") else int(frame.color_range)
    return Color(int(frame.colorspace), full, int(frame.color_primaries), int(frame.color_trc))


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Returns a, b, c, d of x' = a x + c y, y' = b x + d y, each -1, 0 or 1: how a stored frame is turned and mirrored."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    values = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]] / 65536
    a, b, c, d = (round(float(value)) for value in values)
    regular = abs(a * d - b * c) == 1 and 0 in (a, b)
    return (a, b, c, d) if regular else (1, 0, 0, 1)  # a turn by 10 degrees has no upright rectangle


def upright(pixels: NDArray[Any], turn: tuple[int, int, int, int]) -> NDArray[Any]:
    """Turns and mirrors an image (H, W, C).

    Args:
        pixels: As stored.
        turn: a, b, c, d, which map a stored pixel to x' = a x + c y and y' = b x + d y.
    """
    a, b, c, d = turn
    if a == 0:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: d or 1, :: a or 1])
