"""The sound of a video, copied packet by packet where the new container takes its codec, else encoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from stylezoo.images.formats import shown
from stylezoo.video.formats import one_line
from stylezoo.video.pyav import open_input, pyav

CODECS = {"webm": "libopus"}
"""{container: encoder of sound that it cannot take as it is}; AAC in all others."""


class Sound:
    """The sound tracks and subtitles of a source, on their way into a container that is being written.

    Args:
        source: The video file.
        output: PyAV's output container, whose streams are not complete yet.

    Attributes:
        notes: Sentences on what cannot be kept.
    """

    def __init__(self, source: str | os.PathLike[str], output: Any) -> None:
        self.notes: list[str] = []
        self._name, self._output, self._input = shown(source), output, open_input(source)
        self._start = Fraction(max(0, self._input.start_time or 0), pyav().time_base)
        self._targets: dict[int, tuple[Any, bool]] = {}  # {index: (stream, whether packets are copied)}
        for stream in (*self._input.streams.audio, *self._input.streams.subtitles):
            self._add(stream)
        wanted = [stream for stream in self._input.streams if stream.index in self._targets]
        self._packets = self._demuxed(wanted) if wanted else iter(())
        self._waiting: Any = None

    def close(self) -> None:
        """Closes the source."""
        self._input.close()

    def write(self, until: Fraction | None) -> None:
        """Writes all sound before a time in seconds; None writes the rest."""
        while (packet := self._next()) is not None:
            time = packet.pts if packet.pts is not None else packet.dts
            if until is not None and time is not None and time * packet.time_base - self._start >= until:
                self._waiting = packet
                return
            self._write(packet)

    def finish(self) -> None:
        """Ends the tracks that are encoded again."""
        for target, copied in self._targets.values():
            if not copied:
                self._output.mux(target.encode(None))

    def _add(self, stream: Any) -> None:
        """Gives a track of the source its place in the output."""
        kind = "sound" if stream.type == "audio" else "subtitles"
        try:
            target, copied = self._output.add_stream_from_template(stream), True
        except ValueError:  # the container does not take the codec
            if stream.type != "audio":
                self.notes.append(
                    f"{self._name}: the container has no place for its {stream.name or 'unknown'} subtitles."
                )
                return
            codec = CODECS.get(self._output.format.name, "aac")
            rate = 48000 if codec == "libopus" else stream.rate
            target, copied = self._output.add_stream(codec, rate=rate, layout=stream.layout.name), False
        except pyav().error.FFmpegError as error:
            self.notes.append(f"{self._name}: its {kind} cannot be kept ({one_line(error)}).")
            return
        target.metadata.update({key: value for key, value in stream.metadata.items() if key in ("language", "title")})
        self._targets[stream.index] = target, copied

    def _demuxed(self, streams: list[Any]) -> Iterator[Any]:
        try:
            yield from self._input.demux(streams)
        except (pyav().error.FFmpegError, OSError) as error:  # the reader of the frames reports the damage, too
            self.notes.append(f"{self._name}: its sound breaks off ({one_line(error)}).")

    def _next(self) -> Any:
        packet, self._waiting = self._waiting, None
        return packet if packet is not None else next(self._packets, None)

    def _write(self, packet: Any) -> None:
        target, copied = self._targets[packet.stream.index]
        begin = round(self._start / packet.time_base)
        if copied:
            if packet.dts is None:  # the end of a track
                return
            packet.pts = None if packet.pts is None else packet.pts - begin
            packet.dts -= begin
            packet.stream = target
            self._output.mux(packet)
            return
        try:
            frames = packet.decode()
        except pyav().error.FFmpegError:  # what players leave out, too
            return
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self._start / frame.time_base)
            self._output.mux(target.encode(frame))
