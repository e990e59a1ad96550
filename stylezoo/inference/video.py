"""Clips: every frame of a video, an animation or a camera, in the times and with the sound of the source."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from stylezoo.controls import ClipControls
from stylezoo.errors import Stopped, StylezooError, is_out_of_memory
from stylezoo.files import NewFile, new_file
from stylezoo.images import load_with_alpha
from stylezoo.images.formats import shown
from stylezoo.inference.plan import free_name
from stylezoo.inference.stability import (
    HALF_LIFE,
    Flicker,
    Motion,
    MotionBlend,
    SceneCuts,
    SmoothedStatistics,
    find_flow,
)
from stylezoo.video import Clip, ClipWriter, Frame, VideoError, create_clip, open_clip
from stylezoo.video.formats import Properties, full_range, is_camera

Stylize = Callable[[Tensor], Tensor]
"""Maps contents (B, 3, H, W) in [0, 1] to outputs of the same shape, such as `stylezoo.inference.Stylizer`."""

Progress = Callable[[int, int | None], None]
"""Called with the number of frames that are done, and with that of all frames where it is known."""

NO_CONTROLS = ClipControls()


@dataclass
class ClipResult:
    """What became of a clip.

    Attributes:
        path: The file that was written.
        frames: Number of its frames.
        seconds: Time that it took.
        flicker: Mean `stylezoo.metrics.temporal.temporal_error`, if it was asked for and there is motion.
        flicker_before: The same for frames that are stylized one by one, if there is stability to compare it with.
        notes: Sentences on what is not as in the source.
    """

    path: Path
    frames: int
    seconds: float
    flicker: float | None = None
    flicker_before: float | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line: the file, its frames, frames per second and flicker."""
        rate = self.frames / max(self.seconds, 1e-9)
        text = f"{shown(self.path)}: {self.frames} frames in {self.seconds:.1f} s ({rate:.2f} frames per second)"
        if self.flicker is not None:
            text += f", flicker {self.flicker:.5f}"
        if self.flicker_before is not None:
            text += f" (frame by frame {self.flicker_before:.5f})"
        return text


def stylize_clip(
    stylizer: Stylize,
    content: str | os.PathLike[str],
    output: str | os.PathLike[str],
    controls: ClipControls = NO_CONTROLS,
    *,
    size: int | None = None,
    batch_size: int = 4,
    quality: int = 95,
    settings: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> ClipResult:
    """Stylizes a clip frame by frame; frames, times, sound and colors are otherwise those of the source.

    The output is written beside its place and takes it when it is whole. What was done until Ctrl-C, SIGTERM, a damaged
    place of the source or an error in a frame is completed, with the sound cut to fit, and called NAME.partial.SUFFIX
    instead, so that an existing file stays as it was. A camera is recorded until Ctrl-C, which completes the output.

    Args:
        stylizer: Such as `stylezoo.inference.Stylizer`.
        content: A video, an animated GIF or WebP image, or ``camera:0``.
        output: The file to write, a video or an animated image.
        controls: Stability, codec and length.
        size: Short side in pixels to which frames are resized first; None keeps their size.
        batch_size: Number of frames that are stylized together; less where the memory does not suffice.
        quality: 1 to 100.
        settings: How it is made, for its metadata.
        on_progress: See `Progress`.

    Raises:
        VideoError: If the clip cannot be read or written, or only a part of it.
        StylezooError: If the stylizer raises it, or something that an option needs is missing.
        Stopped: After Ctrl-C or SIGTERM; for a camera after SIGTERM.
    """
    begin = time.monotonic()
    with ExitStack() as stack:
        clip = open_clip(content)
        stack.callback(clip.close)
        frames = FrameStylizer(stylizer, clip, controls, size, batch_size)
        interruption = stack.enter_context(Interruption(ends_well=is_camera(content)))
        sound = content if clip.properties.has_sound and not is_camera(content) else None
        options: dict[str, Any] = {"sound": sound, "codec": controls.codec, "quality": quality, "settings": settings}
        total = _total(clip.properties, controls)
        path, ending = Path(output), None
        try:
            with new_file(output) as new:
                create = partial(create_clip, new.file, output, clip.properties, **options)
                written = _write(create, frames, interruption, total, on_progress)
                ending = written.ending
                if ending is not None:
                    path = _as_part(new, path)
        except OSError as error:
            raise VideoError(f"Cannot write {shown(output)}: {error.strerror or error}.") from error
    result = ClipResult(
        path, written.frames, time.monotonic() - begin, *frames.flicker(), written.notes + frames.notes()
    )
    if ending is not None:
        raise _told(ending, result, total)
    return result


def _as_part(new: NewFile, output: Path) -> Path:
    """Gives a file that is only a part of an output its name, and returns its path."""
    new.target = free_name(new.target, ".partial")
    beside = output.with_name(new.target.name)
    return beside if beside.resolve() == new.target else new.target  # an output may be a link


def _total(source: Properties, controls: ClipControls) -> int | None:
    """Returns the number of frames that there will be, where it is known."""
    if controls.seconds is None:
        return source.count
    wanted = math.ceil(controls.seconds * source.rate) if source.rate else None
    return min((number for number in (wanted, source.count) if number is not None), default=None)


def _told(ending: BaseException, result: ClipResult, total: int | None) -> BaseException:
    """Returns the error that says why a clip is only a part, and where that is."""
    kept = f"the first {result.frames} {f'of {total} ' if total else ''}frames are in {shown(result.path)}"
    if isinstance(ending, _Signal):
        return Stopped(f"stopped: {kept}", ending.number)
    if isinstance(ending, StylezooError) or is_out_of_memory(ending):
        error = VideoError(f"{str(ending).removesuffix('.')}; {kept}.")
        error.__cause__ = ending
        return error
    return ending  # no error of the user's


@dataclass
class _Written:
    """What was written: the number of frames, why these are not all, and what is not as in the source."""

    frames: int
    ending: BaseException | None
    notes: list[str]


def _write(
    create: Callable[[tuple[int, int]], ClipWriter],
    frames: FrameStylizer,
    interruption: Interruption,
    total: int | None,
    on_progress: Progress | None,
) -> _Written:
    """Writes frames until there are no more, or the next one cannot be had.

    Raises:
        Exception: If there is none at all, or the file cannot be written.
    """
    writer: ClipWriter | None = None
    done, ending, source = 0, None, iter(frames)
    try:
        while True:
            try:
                with interruption.allowed():
                    frame = next(source, None)
            except Exception as error:  # noqa: BLE001 - whatever it is, the frames before it are good
                ending = None if interruption.ends_well and _is_interrupt(error) else error
                break
            if frame is None:
                break
            height, width = frame.pixels.shape[:2]
            writer = writer or create((width, height))
            writer.write(frame)
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        if ending is None and frames.clip.damage is not None:
            ending = VideoError(frames.clip.damage)
        if writer is None:
            if isinstance(ending, _Signal):
                raise Stopped("stopped before the first frame", ending.number)
            raise ending or VideoError(f"{frames.clip.properties.name} has no frame that can be read.")
        writer.finish(whole=ending is None and not frames.is_cut_short)
        return _Written(done, ending, writer.notes)
    finally:
        if writer is not None:
            writer.close()


class _Signal(Exception):
    """Ends the work on a frame after a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _is_interrupt(error: Exception) -> bool:
    return isinstance(error, _Signal) and error.number == signal.SIGINT


class Interruption:
    """Lets Ctrl-C and SIGTERM end the computation of a frame, and never the writing of one.

    Args:
        ends_well: Whether Ctrl-C is the usual end, as of a recording.
    """

    def __init__(self, ends_well: bool = False) -> None:
        self.ends_well = ends_well
        self._received: int | None = None
        self._is_allowed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            ours = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number
        if self._is_allowed:
            self._is_allowed = False  # a second signal does not disturb the end
            raise _Signal(self._received)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raises a `_Signal` in its block as soon as there is one, or at its beginning if there was one before."""
        self._is_allowed = True
        try:
            if self._received is not None:
                raise _Signal(self._received)
            yield
        finally:
            self._is_allowed = False


class FrameStylizer:
    """The frames of a clip, stylized in batches, with the stability that is asked for.

    Args:
        stylizer: See `stylize_clip`, as for the others.
        clip: What is stylized.
        controls: Stability and length.
        size: Short side in pixels.
        batch_size: Frames that are stylized together.

    Attributes:
        is_cut_short: Whether the clip has more frames than were asked for.

    Raises:
        StylezooError: If there is no optical flow on this machine, but it is needed.
    """

    def __init__(
        self, stylizer: Stylize, clip: Clip, controls: ClipControls, size: int | None, batch_size: int
    ) -> None:
        self.clip, self.is_cut_short = clip, False
        self._stylizer, self._size, self._batch_size, self._controls = stylizer, size, batch_size, controls
        self._smoothing = None if controls.stability == "none" else SmoothedStatistics()
        self._blend = MotionBlend() if controls.stability == "flow" else None
        self._motion = None
        if controls.report or self._blend is not None:
            model = getattr(stylizer, "model", None)
            self._motion = Motion(find_flow(getattr(model, "device", "cpu")))
        self._cuts = SceneCuts()
        self._last_pts: int | None = None
        self._flicker, self._flicker_before = Flicker(), Flicker()

    def __iter__(self) -> Iterator[Frame]:
        for batch in self._batches():
            loaded = [load_with_alpha(frame.pixels, self._size) for frame in batch]
            contents = torch.stack([image for image, _ in loaded])
            cuts = [self._cuts(content) for content in contents]
            seconds = [self._since_last(frame) for frame in batch]
            outputs, plain = self._stylized(contents, cuts, seconds)
            for index, frame in enumerate(batch):
                output = self._steady(contents[index], outputs[index], plain[index], cuts[index], seconds[index])
                yield frame._replace(pixels=_pixels(output, loaded[index][1], full_range(frame.pixels)))

    def notes(self) -> list[str]:
        """Says what the stability could not do."""
        if self._smoothing is None or self._smoothing.state or self._last_pts is None:
            return []
        return [
            f"The model normalizes no statistics of whole frames: stability {self._controls.stability!r} smooths none."
        ]

    def flicker(self) -> tuple[float | None, float | None]:
        """Returns the flicker of the outputs, and that of frames that are stylized one by one."""
        return self._flicker.mean, self._flicker_before.mean

    def _batches(self) -> Iterator[list[Frame]]:
        """Reads as many frames as are stylized together."""
        batch: list[Frame] = []
        unit = self.clip.properties.time_base
        for frame in self.clip.frames():
            if self._controls.seconds is not None and float(frame.pts * unit) >= self._controls.seconds:
                self.is_cut_short = True
                break
            batch.append(frame)
            if len(batch) >= self._batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _since_last(self, frame: Frame) -> float:
        last, self._last_pts = self._last_pts, frame.pts
        return float((frame.pts - (frame.pts if last is None else last)) * self.clip.properties.time_base)

    def _stylized(self, contents: Tensor, cuts: Sequence[bool], seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Returns outputs (B, 3, H, W) with smoothed statistics, and without; in halves where the memory does not suffice."""
        try:
            if self._smoothing is None:
                outputs = plain = self._stylizer(contents).cpu()
            else:
                shares = [0.0 if cut else 0.5 ** (s / HALF_LIFE) for cut, s in zip(cuts, seconds, strict=True)]
                self._smoothing.begin(shares)
                with self._smoothing:
                    outputs = plain = self._stylizer(contents).cpu()
                self._smoothing.commit()
                if self._controls.report:
                    plain = self._stylizer(contents).cpu()
            return outputs, plain
        except Exception as error:
            if not is_out_of_memory(error) or len(contents) == 1:
                raise
        gc.collect()  # outside of the handler, whose error holds tensors
        torch.cuda.empty_cache()
        half = self._batch_size = len(contents) // 2
        first = self._stylized(contents[:half], cuts[:half], seconds[:half])
        second = self._stylized(contents[half:], cuts[half:], seconds[half:])
        return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    def _steady(self, content: Tensor, output: Tensor, plain: Tensor, is_cut: bool, seconds: float) -> Tensor:
        """Returns the output of a frame, blended with the one before if that is asked for, and measures both."""
        if self._motion is None:
            return output
        self._motion.update(content, is_cut)
        if self._blend is not None:
            output = self._blend(output, self._motion, seconds)
        if self._controls.report:
            self._flicker.update(output, self._motion)
            if self._controls.stability != "none":
                self._flicker_before.update(plain, self._motion)
        return output


def _pixels(output: Tensor, alpha: Tensor | None, white: int) -> np.ndarray[Any, Any]:
    """Converts an output (3, H, W) to (H, W, 3), or (H, W, 4) with an opacity; rounded, white as given."""
    if alpha is not None:
        output = torch.cat([output, alpha.to(output)])
    numbers = output.detach().float().clamp(0, 1).mul(white).round().to(torch.int32 if white > 255 else torch.uint8)
    return numbers.permute(1, 2, 0).contiguous().numpy().astype(np.uint16 if white > 255 else np.uint8, copy=False)
