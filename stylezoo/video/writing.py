"""Writing of videos through PyAV, in the colors, the times and with the sound of their source."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stylezoo.errors import did_you_mean
from stylezoo.images.formats import shown
from stylezoo.video.formats import (
    ANIMATION_SUFFIXES,
    CONTAINERS,
    ENCODERS,
    Color,
    Frame,
    Properties,
    VideoError,
    full_range,
    one_line,
)
from stylezoo.video.pyav import pyav, same_priority
from stylezoo.video.reading import FULL, PRECISE, is_hd, scaler_matrix
from stylezoo.video.sound import Sound


def find_codec(suffix: str, codec: str, name: str) -> str:
    """Returns the codec of a container.

    Args:
        suffix: Of the file, in lower case.
        codec: A name of `ENCODERS`, or ``auto`` for the container's usual one that this build of FFmpeg has.
        name: What messages call the file.

    Raises:
        VideoError: If there is no such container, or it does not take the codec, or the encoder is missing.
    """
    if suffix not in CONTAINERS:
        known = sorted({*CONTAINERS, *ANIMATION_SUFFIXES})
        close = did_you_mean(suffix, known, cutoff=0.7)
        hint = f"; did you mean {close}?" if close else "."
        raise VideoError(f"Cannot write {name}: a clip ends in one of {', '.join(known)}{hint}")
    codecs = CONTAINERS[suffix][1]
    if codec != "auto" and codec not in codecs:
        raise VideoError(f"Cannot write {name}: {suffix} takes the codecs {', '.join(codecs)}, not {codec}.")
    for choice in codecs if codec == "auto" else (codec,):
        if has_encoder(ENCODERS[choice]):
            return choice
    wanted = codecs[0] if codec == "auto" else codec
    others = [choice for choice, encoder in ENCODERS.items() if has_encoder(encoder)]
    hint = f"choose another --codec ({', '.join(others)})" if others else "install PyAV from PyPI"
    raise VideoError(
        f"Cannot write {name}: this build of FFmpeg has no encoder {ENCODERS[wanted]} for {wanted}: {hint}."
    )


def has_encoder(name: str) -> bool:
    """Whether this build of FFmpeg has an encoder."""
    av = pyav()
    try:
        av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def encoder_options(codec: str, quality: int) -> dict[str, str]:
    """Returns the options of an encoder.

    Args:
        codec: A name of `ENCODERS`.
        quality: 1 to 100. 95 is CRF 18 of H.264, which is hard to tell from the source; 75 is 25, the usual size.
    """
    crf = str(round(51 - 0.35 * quality))
    if codec == "h264":
        return {"crf": crf, "preset": "medium"}
    if codec == "hevc":
        return {"crf": crf, "preset": "medium", "x265-params": "log-level=none"}
    crf = str(round(63 - 0.43 * quality))  # the scale of VP9 and AV1
    if codec == "vp9":
        return {"crf": crf, "b": "0", "deadline": "good", "cpu-used": "3", "row-mt": "1"}
    if codec == "av1":
        return {"crf": crf, "preset": "8"}
    return {"profile": "hq"} if codec == "prores" else {"level": "3"}


def pixel_format(codec: str, source: Properties) -> str:
    """Returns the format of the pixels: that of the source where the encoder has it, as far as it is one of usual YUV."""
    offered = {layout.name for layout in pyav().Codec(ENCODERS[codec], "w").video_formats or ()}
    usual = ["yuv420p10le", "yuv422p10le"] if source.is_deep else []
    if source.has_alpha:
        usual = ["yuva444p10le", "yuva420p", *usual]
    own = [source.pixel_format] if source.pixel_format.startswith("yuv4") or source.has_alpha else []
    wanted = [*own, *usual, "yuv420p", "yuv422p10le"]
    return next(layout for layout in wanted if layout in offered and (source.has_alpha or "a" not in layout))


class VideoWriter:
    """A video file that is being written.

    Args:
        file: A new file, open for writing and reading.
        target: What messages call it; its suffix determines the container.
        source: Properties of the clip that it is made from: times, colors and shape of pixels stay as they are there.
        size: Width and height of the frames.
        sound: The file whose sound is kept; None for none.
        codec: See `find_codec`.
        quality: See `encoder_options`.
        settings: How it is made, written as JSON into the metadata ``comment``.

    Attributes:
        notes: Sentences on what is not kept.

    Raises:
        VideoError: If it cannot be written.
    """

    def __init__(
        self,
        file: BinaryIO,
        target: str | os.PathLike[str],
        source: Properties,
        size: tuple[int, int],
        *,
        sound: str | os.PathLike[str] | None = None,
        codec: str = "auto",
        quality: int = 95,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._name, self._source, self._file = shown(target), source, file
        suffix = Path(target).suffix.lower()
        codec = find_codec(suffix, codec, self._name)
        with self._told():
            options = {"movflags": "+faststart"} if suffix in (".m4v", ".mov", ".mp4") else {}
            self._output = pyav().open(
                file, mode="w", format=CONTAINERS[suffix][0], options=options, io_open=self._reopen
            )
            self._output.metadata.update(source.metadata)
            if settings is not None:
                self._output.metadata["comment"] = json.dumps(settings, default=str)
            self._stream = self._add_stream(codec, size, quality)
            self._sound = Sound(sound, self._output) if sound is not None else None
            self.notes += self._sound.notes if self._sound else []
        self._end = Fraction(0)

    def write(self, frame: Frame) -> None:
        """Writes the next frame, and the sound up to it.

        Raises:
            VideoError: If it cannot be written.
        """
        own, pixels = self._source, frame.pixels
        if pixels.shape[-1] == 4 and not self._keeps_alpha:
            pixels = _on_white(pixels)
        padding = self._stream.height - pixels.shape[0], self._stream.width - pixels.shape[1]
        if any(padding):
            pixels = np.pad(pixels, ((0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
        layout = {3: "rgb", 4: "rgba"}[pixels.shape[-1]]
        layout += {1: "24" if layout == "rgb" else "", 2: "48le" if layout == "rgb" else "64le"}[pixels.dtype.itemsize]
        with self._told():
            image = (
                pyav()
                .VideoFrame.from_ndarray(pixels, layout)
                .reformat(format=self._stream.pix_fmt, src_color_range=FULL, interpolation=PRECISE, **self._scaling)
            )
            image.pts, image.time_base, image.duration = frame.pts, own.time_base, frame.duration
            image.colorspace, image.color_range = self._color.matrix, self._color.range
            self._output.mux(self._stream.encode(image))
            self._end = (frame.pts + frame.duration) * own.time_base
            if self._sound is not None:
                self._sound.write(self._end)

    def finish(self, whole: bool = True) -> None:
        """Completes the file; see `stylezoo.video.formats.ClipWriter`.

        Raises:
            VideoError: If it cannot be written.
        """
        with self._told():
            if self._sound is not None:
                self._sound.write(None if whole else self._end)
                self._sound.finish()
                self.notes += [note for note in self._sound.notes if note not in self.notes]
            self._output.mux(self._stream.encode(None))
            self._output.close()

    def close(self) -> None:
        """Closes what was opened; a file that is not finished stays without its end."""
        if self._sound is not None:
            self._sound.close()

    def _add_stream(self, codec: str, size: tuple[int, int], quality: int) -> Any:
        source = self._source
        rate = source.rate or Fraction(25)
        stream = self._output.add_stream(ENCODERS[codec], rate=rate.limit_denominator(100_000))
        stream.options = encoder_options(codec, quality)
        stream.pix_fmt = pixel_format(codec, source)
        self._keeps_alpha = "yuva" in stream.pix_fmt
        if self._keeps_alpha:
            stream.metadata["alpha_mode"] = "1"  # what players of WebM look for
        even = codec in ("h264", "hevc", "prores")
        stream.width, stream.height = (side + side % 2 if even else side for side in size)
        stream.codec_context.time_base = source.time_base
        stream.codec_context.flags |= FRAME_DURATION
        if source.aspect != 1:
            stream.codec_context.sample_aspect_ratio = source.aspect
        if codec == "hevc" and self._output.format.name != "matroska":
            stream.codec_context.codec_tag = "hvc1"  # the name under which Apple's players know it
        self._color = _color(source, size)
        stream.color_range, stream.colorspace = self._color.range, self._color.matrix
        stream.color_primaries, stream.color_trc = self._color.primaries, self._color.transfer
        full = FULL if self._color.range == FULL else 1
        self._scaling = {"dst_colorspace": scaler_matrix(self._color, size), "dst_color_range": full}
        with same_priority():
            stream.codec_context.open()
        return stream

    def _reopen(self, url: str, flags: int, options: Mapping[str, str]) -> BinaryIO:
        """Opens the file a second time for FFmpeg, which moves the index of an MP4 to its beginning."""
        self._file.flush()
        name = f"/proc/self/fd/{self._file.fileno()}"
        return open(name if os.path.exists(name) else self._file.name, "rb")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what FFmpeg raises into a `VideoError` of one sentence."""
        av = pyav()
        try:
            yield
        except VideoError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"Cannot write {self._name}: {one_line(error)}.") from error


FRAME_DURATION = 1 << 8
"""FFmpeg's flag for an encoder that keeps the durations of frames, so that also the last one has its own."""


def _color(source: Properties, size: tuple[int, int]) -> Color:
    """Returns the color of a video: that of its source, which is named where players would take it for another."""
    color = source.color
    if source.pixel_format.startswith(("yuv", "nv", "p0", "uyv", "gray")):
        if color.matrix == 2 and is_hd(size) != is_hd(source.size):
            color = color._replace(matrix=1 if is_hd(source.size) else 6)
        return color
    return Color(1, 1, 1, 1) if is_hd(size) else Color(6, 1, 6, 6)  # RGB so far


def _on_white(pixels: Any) -> Any:
    """Lays an image (H, W, 4) on white, as images are in formats without opacity."""
    white = full_range(pixels)
    opacity = pixels[..., 3:].astype(np.float32) / white
    return np.rint(pixels[..., :3] * opacity + white * (1 - opacity)).astype(pixels.dtype)
