"""Clips: what comes in goes out but for the style, on whichever way the work on it ends."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import thin_model
from numpy.typing import NDArray
from PIL import Image
from processes import command, ends, start
from torch import Tensor

import stylezoo
from stylezoo.cli import main
from stylezoo.controls import ClipControls
from stylezoo.errors import Stopped, StylezooError
from stylezoo.images import ImageError, formats, write_image
from stylezoo.inference.video import ClipResult, stylize_clip
from stylezoo.video import VideoError, clip_problem, is_clip, open_clip
from stylezoo.video import pyav as video_pyav
from stylezoo.video.reading import upright
from stylezoo.video.writing import find_codec

av = pytest.importorskip("av", reason="clips need PyAV (pip install stylezoo[video])")

WIDTH, HEIGHT, COUNT = 64, 48, 10
SMOOTH = {"crf": "4", "preset": "ultrafast"}


def same(contents: Tensor) -> Tensor:
    """A stylizer that changes nothing."""
    return contents


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A smooth image, so that little is lost with chroma at half resolution, which differs from frame to frame."""
    y, x = np.mgrid[0:height, 0:width] / (width - 1)
    planes = [0.5 + 0.4 * np.sin(3 * x + 2 * y + c + 0.2 * index) for c in range(3)]
    return np.rint(255 * np.dstack(planes)).astype(np.uint8)


def make_clip(
    path: Path,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    times: list[int] | None = None,
    matrix: int = 2,
    full: bool | None = None,
    sound: str | None = None,
    turn: dict[str, Any] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a clip of COUNT frames, whose times are in milliseconds."""
    times = times or [40 * index for index in range(COUNT)]
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate=25, options=SMOOTH if options is None else options)
        video.width, video.height, video.pix_fmt = *size, pixels
        video.codec_context.time_base = Fraction(1, 1000)
        video.colorspace, video.color_range = matrix, 0 if full is None else 1 + full
        if turn is not None:
            video.set_display_rotation(**turn)
        track = output.add_stream(sound, rate=48000, layout="stereo") if sound else None
        for index, when in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), "rgb24").reformat(
                format=pixels,
                dst_colorspace=matrix if matrix != 2 else 5,
                src_color_range=2,
                dst_color_range=1 + bool(full),
            )
            frame.pts, frame.time_base = when, Fraction(1, 1000)
            output.mux(video.encode(frame))
        if track is not None:
            tone = 0.3 * np.sin(np.arange(48 * (times[-1] + 40)) / 17).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            samples.rate, samples.pts = 48000, 0
            output.mux([*track.encode(samples), *track.encode(None)])
        output.mux(video.encode(None))
    return path


def pixels_of(path: Path) -> list[NDArray[Any]]:
    """The frames of a clip as the package reads them."""
    clip = open_clip(path)
    frames = [frame.pixels if frame.pixels.dtype == np.uint8 else frame.pixels / 257 for frame in clip.frames()]
    clip.close()
    assert clip.damage is None
    return frames


def times_of(path: Path) -> list[int]:
    """When the frames are shown, in milliseconds after the first one, and last the length of the last one."""
    with av.open(str(path)) as source:
        frames = [(f.pts * f.time_base, (f.duration or 0) * f.time_base) for f in source.decode(video=0)]
    return [round(1000 * (t - frames[0][0])) for t, _ in frames] + [round(1000 * frames[-1][1])]


def sound_of(path: Path) -> tuple[list[bytes], float]:
    """The packets of the sound, and its length in seconds."""
    with av.open(str(path)) as source:
        packets = [(bytes(p), p.duration * p.time_base) for p in source.demux(audio=0) if p.size]
    return [data for data, _ in packets], float(sum(length for _, length in packets))


def difference(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> float:
    """The mean difference of frames, of 255."""
    assert len(a) == len(b) > 0 and a[0].shape == b[0].shape
    return float(np.mean([np.abs(x.astype(float) - y).mean() for x, y in zip(a, b, strict=True)]))


VARIABLE = [0, 40, 90, 200, 210, 300, 333, 400, 470, 500]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_times_and_sound_stay(suffix: str, tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4", sound="aac", times=VARIABLE), tmp_path / f"out{suffix}"
    shown: list[tuple[int, int | None]] = []
    result = stylize_clip(same, source, target, batch_size=3, on_progress=lambda *state: shown.append(state))
    assert result.path == target and result.frames == COUNT and not result.notes
    assert shown == [(number, COUNT) for number in range(1, COUNT + 1)]
    assert times_of(target)[:-1] == VARIABLE and sound_of(target)[0] == sound_of(source)[0]
    assert sound_of(target)[1] == pytest.approx(sound_of(source)[1], abs=0.01)
    assert difference(pixels_of(target), pixels_of(source)) < 2.5
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_stylizer_makes_the_frames(tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / "new" / "out.mp4"
    stylize_clip(lambda x: 1 - x, source, target, settings={"model": "negative"}, quality=100)
    assert difference([255 - frame for frame in pixels_of(target)], pixels_of(source)) < 2.5
    assert times_of(target) == times_of(source)
    with av.open(str(target)) as written:
        assert json.loads(written.metadata["comment"]) == {"model": "negative"}
    assert target.read_bytes().find(b"moov") < target.read_bytes().find(
        b"mdat"
    )  # it can be played while it is downloaded


def test_sound_is_encoded_again_where_the_container_does_not_take_it(tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4", sound="aac"), tmp_path / "out.webm"
    stylize_clip(same, source, target)
    with av.open(str(target)) as written:
        assert written.streams.audio[0].codec_context.name == "opus"
        assert written.streams.video[0].codec_context.name == "vp9"
    assert sound_of(target)[1] == pytest.approx(sound_of(source)[1], abs=0.03)
    assert times_of(target)[:-1] == times_of(source)[:-1]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"degrees": 90}, lambda image: np.rot90(image, 1)),
        ({"degrees": 180}, lambda image: np.rot90(image, 2)),
        ({"degrees": 270}, lambda image: np.rot90(image, -1)),
        ({"degrees": 0, "hflip": True}, lambda image: image[:, ::-1]),
    ],
    ids=["90", "180", "270", "mirrored"],
)
def test_turned_clips_are_upright(turn: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    plain = pixels_of(make_clip(tmp_path / "plain.mp4"))
    source, target = make_clip(tmp_path / "in.mp4", turn=turn), tmp_path / "out.mp4"
    seen: list[Tensor] = []
    stylize_clip(lambda x: seen.append(x) or x, source, target)  # type: ignore[func-returns-value]
    right = [np.ascontiguousarray(expected(frame)) for frame in plain]
    assert difference(pixels_of(target), right) < 2.5  # as a player shows it
    assert seen[0].shape[-2:] == right[0].shape[:2]  # and as the model gets it
    with av.open(str(target)) as written:
        assert (written.streams.video[0].width, written.streams.video[0].height) == right[0].shape[1::-1]


def test_a_turn_and_a_mirror_image() -> None:
    image = np.arange(6).reshape(2, 3, 1)
    assert upright(image, (0, 1, 1, 0))[..., 0].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("matrix", "full"), [(2, None), (1, False), (1, True), (5, False), (6, True), (9, False)],
)  # fmt: skip
def test_matrix_and_range_stay(matrix: int, full: bool | None, tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4", matrix=matrix, full=full), tmp_path / "out.mp4"
    stylize_clip(same, source, target, quality=100)
    labels = []
    for path in (source, target):
        with av.open(str(path)) as file:
            frame = next(file.decode(video=0))
            labels.append((frame.colorspace, frame.color_range, frame.format.name.replace("yuvj", "yuv")))
            planes = frame.to_ndarray().astype(float)  # Y, U and V as stored
        labels.append(planes)
    assert labels[0] == labels[2]
    assert np.abs(labels[1] - labels[3]).mean() < 2.5
    assert np.abs(pixels_of(source)[0].astype(float) - picture(0)).mean() < 2.5  # the right RGB in between


def test_more_than_eight_bits_stay(tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mkv", pixels="yuv420p10le"), tmp_path / "out.mkv"
    stylize_clip(same, source, target, quality=100)
    with av.open(str(target)) as written:
        assert written.streams.video[0].pix_fmt == "yuv420p10le"
    assert pixels_of(target)[0].dtype == float and difference(pixels_of(target), pixels_of(source)) < 2.5


def test_odd_sizes_are_not_scaled(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.webm", codec="libvpx-vp9", size=(63, 47), options={"crf": "8", "b": "0"})
    stylize_clip(same, source, tmp_path / "out.webm", quality=100)
    assert difference(pixels_of(tmp_path / "out.webm"), pixels_of(source)) < 2
    stylize_clip(same, source, tmp_path / "out.mp4", quality=100)
    frames = pixels_of(tmp_path / "out.mp4")
    assert frames[0].shape == (48, 64, 3)  # H.264 has even sides only: the last row and column are there twice
    assert difference([frame[:47, :63] for frame in frames], pixels_of(source)) < 2


def test_size_and_length(tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4", sound="aac"), tmp_path / "out.mp4"
    result = stylize_clip(same, source, target, ClipControls(seconds=0.2), size=24)
    assert result.frames == 5 and pixels_of(target)[0].shape == (24, 32, 3)
    assert sound_of(target)[1] == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(("codec", "suffix"), [("hevc", ".mp4"), ("av1", ".mkv"), ("ffv1", ".mkv"), ("prores", ".mov")])
def test_codecs(codec: Any, suffix: str, tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / f"out{suffix}"
    try:
        find_codec(suffix, codec, "out")
    except VideoError as error:
        pytest.skip(str(error))
    stylize_clip(same, source, target, ClipControls(codec=codec))
    if hasattr(os, "sched_getscheduler"):  # SVT-AV1 makes all threads real-time ones where it may, as root
        threads = Path("/proc/self/task").iterdir()
        assert {os.sched_getscheduler(int(thread.name)) for thread in threads} == {os.SCHED_OTHER}
    with av.open(str(target)) as written:
        assert codec in written.streams.video[0].codec_context.codec.canonical_name
    assert difference(pixels_of(target), pixels_of(source)) < 2.5 and times_of(target)[:-1] == times_of(source)[:-1]


# Animations


def make_animation(path: Path, durations: list[int], *, hole: bool = False, **options: Any) -> Path:
    frames = []
    for index in range(len(durations)):
        image = Image.fromarray(picture(3 * index, 40, 32))
        if hole:
            image.putalpha(
                Image.fromarray(np.where(np.arange(40)[None] < 20 + index, 0, 255).repeat(32, 0).astype(np.uint8))
            )
        frames.append(image)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, **options)
    return path


def animation(path: Path) -> tuple[list[int], Any, list[NDArray[Any]]]:
    with Image.open(path) as image:
        frames, durations = [], []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGBA")))
            durations.append(image.info["duration"])
        return durations, image.info.get("loop"), frames


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("hole", [False, True], ids=["opaque", "transparent"])
def test_animations_keep_durations_loops_and_opacity(suffix: str, hole: bool, tmp_path: Path) -> None:
    options = {"loop": 3, "disposal": 2} if suffix == ".gif" else {"loop": 3, "lossless": True}
    source = make_animation(tmp_path / f"in{suffix}", [40, 100, 250, 60], hole=hole, **options)
    target = tmp_path / f"out{suffix}"
    stylize_clip(same, source, target, settings={"model": "same"})
    before, after = animation(source), animation(target)
    assert after[:2] == before[:2] == ([40, 100, 250, 60], 3)
    for a, b in zip(before[2], after[2], strict=True):
        assert np.array_equal(a[..., 3], b[..., 3])
        assert np.abs(a.astype(float) - b)[a[..., 3] > 0].mean() < 8  # GIF: of 255 colors for all frames
    assert b"same" in target.read_bytes()


def test_frames_that_are_parts_become_whole(tmp_path: Path) -> None:
    """A GIF may store what changes only: here a square that moves over the first frame."""
    frames = [np.full((32, 40, 3), 200, np.uint8) for _ in range(4)]
    for index, frame in enumerate(frames):
        frame[8:16, 8 * index : 8 * index + 8] = (250, 20, 20)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / "in.gif", save_all=True, append_images=images[1:], duration=50, disposal=1)
    stylize_clip(same, tmp_path / "in.gif", tmp_path / "out.webp", quality=100)
    assert difference([frame[..., :3] for frame in animation(tmp_path / "out.webp")[2]], list(frames)) < 6


def with_late_frame(source: Path, target: Path, width: int, height: int) -> Path:
    """Copies a GIF and adds a frame of one color and another size."""
    buffer = io.BytesIO()
    Image.new("P", (width, height)).save(buffer, "GIF")
    descriptor = buffer.getvalue().rindex(b"\x2c" + bytes(4) + struct.pack("<HH", width, height))
    target.write_bytes(source.read_bytes()[:-1] + buffer.getvalue()[descriptor:])
    return target


def test_frames_of_an_animation_have_the_size_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = with_late_frame(make_animation(tmp_path / "a.gif", [50, 50]), tmp_path / "in.gif", 900, 700)
    stylize_clip(same, source, tmp_path / "out.webp")
    assert [frame.shape[1::-1] for frame in animation(tmp_path / "out.webp")[2]] == [(40, 32)] * 3
    monkeypatch.setattr(formats, "MAX_PIXELS", 500_000)
    reader = open_clip(source)  # a frame with too many pixels is damage, found before it is decoded
    assert len(list(reader.frames())) == 2 and "million pixels and the limit" in str(reader.damage)


def test_a_video_with_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / "in.mp4")
    monkeypatch.setattr(formats, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="million pixels and the limit"):
        open_clip(source)


def test_between_animations_and_videos(tmp_path: Path) -> None:
    source = make_animation(tmp_path / "in.gif", [40, 100, 250, 60], loop=0)
    stylize_clip(same, source, tmp_path / "out.mp4", quality=100)
    assert times_of(tmp_path / "out.mp4") == [0, 40, 140, 390, 60]
    video = make_clip(tmp_path / "in.mp4", sound="aac", times=[33 * index for index in range(COUNT)])
    result = stylize_clip(same, video, tmp_path / "out.gif")
    durations, loop, frames = animation(tmp_path / "out.gif")
    assert len(frames) == COUNT and sum(durations[:-1]) == 300 and loop == 0
    assert result.notes == [f"{tmp_path / 'out.gif'} is an image: the sound of {video} is left out."]
    once = make_animation(tmp_path / "once.gif", [50, 50])
    stylize_clip(same, once, tmp_path / "once.webp")
    assert animation(tmp_path / "once.webp")[1] == 1  # a GIF without a number is played once; 0 is for ever in WebP


def test_which_files_are_clips(tmp_path: Path) -> None:
    moving, still = make_animation(tmp_path / "a.gif", [50, 50]), make_animation(tmp_path / "b.gif", [50])
    assert is_clip(moving) and is_clip(moving, "x.mp4") and not is_clip(moving, "x.png") and not is_clip(still)
    assert is_clip("gone.mp4") and is_clip("camera:0") and not is_clip("gone.gif") and not is_clip("photo.png")


# The end of the work


def stopping(after: int, number: signal.Signals) -> Any:
    """A stylizer of single frames that sends its own process a signal."""
    seen: list[Tensor] = []

    def stylize(contents: Tensor) -> Tensor:
        seen.append(contents)
        if len(seen) == after + 1:
            os.kill(os.getpid(), number)
            time.sleep(5)  # the signal does not wait for it
        return contents

    return stylize


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_playable_part(number: signal.Signals, tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4", sound="aac"), tmp_path / "out.mp4"
    target.write_bytes(b"old")
    handler, begin = signal.getsignal(number), time.monotonic()
    for name in ("out.partial.mp4", "out.partial2.mp4"):  # the part of an earlier run is not replaced
        with pytest.raises(Stopped, match=f"^stopped: the first 4 of {COUNT} frames are in .*{name}$") as stop:
            stylize_clip(stopping(4, number), source, target, batch_size=1)
        assert stop.value.number == number
        assert difference(pixels_of(tmp_path / name), pixels_of(source)[:4]) < 2.5
        assert sound_of(tmp_path / name)[1] == pytest.approx(0.16, abs=0.05)
    assert target.read_bytes() == b"old" and signal.getsignal(number) is handler
    assert time.monotonic() - begin < 9
    with pytest.raises(Stopped, match="before the first frame"):
        stylize_clip(stopping(0, number), source, target, batch_size=1)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_signal_to_the_command(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", sound="aac", times=[40 * index for index in range(500)])
    words = ["stylize", "--model", "magenta.distilled", "--batch_size", "1"]
    write_image(torch.rand(3, 64, 64), tmp_path / "style.png")
    words += ["--content", "in.mp4", "--style", "style.png", "--output", "out.mp4", "--size", "128"]
    process = start(command, *words, folder=tmp_path, log=tmp_path / "said")
    deadline = time.monotonic() + 240
    while not _writes(process.pid) and process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    code, said = ends(process), (tmp_path / "said.err").read_text()
    assert code == 143, said
    match = re.fullmatch(r"stylezoo: stopped: the first (\d+) of 500 frames are in out.partial.mp4\n", said)
    assert match is not None, said
    assert len(pixels_of(tmp_path / "out.partial.mp4")) == int(match[1]) and not (tmp_path / "out.mp4").exists()


def _writes(process: int | None) -> bool:
    """Whether a process has written to a new file."""
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            if re.search(r"/#\d+ \(deleted\)|\.part$", os.readlink(link)) and link.stat().st_size > 0:
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize("suffix", [".mkv", ".webp"])
def test_frames_before_a_damaged_place_are_kept(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"in{suffix}"
    if suffix == ".mkv":
        make_clip(source, sound="aac", options={"crf": "4", "g": "1", "bf": "0"})
        source.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    else:
        make_animation(source, [50] * 6, lossless=True)
        data = bytearray(source.read_bytes())
        data[len(data) * 7 // 10 : len(data) * 8 // 10] = bytes(len(data) * 8 // 10 - len(data) * 7 // 10)
        source.write_bytes(data)
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with pytest.raises(
        VideoError, match=r"is damaged.* after .* seconds.*; the first \d+ of \d+ frames are in .*partial"
    ):
        stylize_clip(same, source, target)
    assert target.read_bytes() == b"old" and 0 < len(pixels_of(tmp_path / "out.partial.mp4")) < COUNT


def test_an_error_in_a_frame_keeps_the_frames_before(tmp_path: Path) -> None:
    source, seen = make_clip(tmp_path / "in.mp4"), []

    def stylize(contents: Tensor) -> Tensor:
        seen.append(contents)
        if len(seen) == 4:
            raise StylezooError("The output is not finite.")
        return contents

    with pytest.raises(VideoError, match="^The output is not finite; the first 6 of 10 frames are in "):
        stylize_clip(stylize, source, tmp_path / "out.mp4", batch_size=2)
    assert len(pixels_of(tmp_path / "out.partial.mp4")) == 6


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate."),
            VideoError,
            "allocate; the first 3 of 10 frames are in ",
        ),
        (RuntimeError("a bug"), RuntimeError, "^a bug$"),
    ],
)
def test_a_lack_of_memory_is_told_and_a_bug_is_not_hidden(
    error: Exception, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    def stylize(contents: Tensor) -> Tensor:
        seen.append(contents)
        if len(seen) == 4:
            raise error
        return contents

    with pytest.raises(kind, match=message):
        stylize_clip(stylize, make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4", batch_size=1)
    assert len(pixels_of(tmp_path / "out.partial.mp4")) == 3


def test_a_result_is_one_line() -> None:
    result = ClipResult(Path("a.mp4"), 50, 4.0)
    assert str(result) == "a.mp4: 50 frames in 4.0 s (12.50 frames per second)"
    result.flicker, result.flicker_before = 0.25, 0.5
    assert str(result).endswith(" per second), flicker 0.25000 (frame by frame 0.50000)")
    assert str(ClipResult(Path("a.mp4"), 0, 0.0)).endswith("0 frames in 0.0 s (0.00 frames per second)")


def test_less_memory_makes_smaller_batches(tmp_path: Path) -> None:
    source, sizes = make_clip(tmp_path / "in.mp4"), []

    def stylize(contents: Tensor) -> Tensor:
        sizes.append(len(contents))
        if len(contents) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return contents

    assert stylize_clip(stylize, source, tmp_path / "out.mp4", batch_size=4).frames == COUNT
    assert sizes.count(4) == 1 and sum(sizes) == COUNT + 4
    assert difference(pixels_of(tmp_path / "out.mp4"), pixels_of(source)) < 2.5


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
def test_a_full_disk(suffix: str, tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / f"out{suffix}"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(VideoError, match=f"^Cannot write .*: {os.strerror(errno.EFBIG)}.$"):
            stylize_clip(lambda x: torch.rand_like(x), source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


# Faults


def test_what_is_no_clip_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    whole = make_clip(tmp_path / "whole.mov").read_bytes()
    (tmp_path / "short.mov").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "song.mkv"), "w") as output:
        track = output.add_stream("aac", rate=48000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        samples.rate = 48000
        output.mux([*track.encode(samples), *track.encode(None)])
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'whole.mov'}\n#EXT-X-ENDLIST\n")
    (tmp_path / "files.mp4").write_text("ffconcat version 1.0\nfile whole.mov\n")
    for name, expected in {
        "list.mp4": "is no video",  # FFmpeg would follow it
        "files.mp4": "is no video",
        "gone.mp4": "does not exist",
        "text.mp4": "is no video",
        "empty.mp4": "is empty (0 bytes)",
        "folder.mp4": "is a folder, not a file",
        "short.mov": "is no video, or one that breaks off",
        "song.mkv": "has no video stream: it holds sound only",
    }.items():
        problem = clip_problem(tmp_path / name)
        assert problem is not None and problem.startswith(str(tmp_path / name)) and expected in problem, problem
        assert problem.endswith(".") and "\n" not in problem


def test_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = clip_problem("camera:97")
    assert problem is not None and problem.startswith("There is no camera:97 that can be opened"), problem
    monkeypatch.setitem(video_pyav.CAMERAS, sys.platform, ("lavfi", "testsrc=size=64x48:rate=25,trim=start_frame={}"))
    result = stylize_clip(same, "camera:5", tmp_path / "out.mp4", ClipControls(seconds=0.4))
    assert result.frames == 10 and times_of(tmp_path / "out.mp4")[:3] == [0, 40, 80]
    # Ctrl-C ends a recording well
    result = stylize_clip(stopping(6, signal.SIGINT), "camera:0", tmp_path / "recorded.mp4", batch_size=1)
    assert result.path == tmp_path / "recorded.mp4" and result.frames == len(pixels_of(result.path)) == 6


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / "in.mp4")
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "av":
            raise ModuleNotFoundError("No module named 'av'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VideoError, match=r"^Videos need PyAV, .*: pip install stylezoo\[video\]\.$"):
        open_clip(source)
    moving = make_animation(tmp_path / "in.gif", [50, 50])
    assert stylize_clip(same, moving, tmp_path / "out.webp").frames == 2  # needs Pillow only


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    stylezoo.save_model(thin_model("adain"), path)
    return str(path)


def run(*arguments: str) -> int:
    """The exit code of `stylize`."""
    try:
        main(["stylize", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a style, and a folder of contents of all kinds."""
    monkeypatch.chdir(tmp_path)
    write_image(torch.rand(3, 40, 32), tmp_path / "style.png")
    (tmp_path / "in").mkdir()
    write_image(torch.rand(3, 32, 40), tmp_path / "in" / "photo.png")
    make_clip(tmp_path / "in" / "a.mkv", sound="aac", times=[0, 40, 80])
    make_clip(tmp_path / "in" / "b.avi", codec="mpeg4", options={}, times=[0, 40, 80])
    make_animation(tmp_path / "in" / "c.gif", [50, 50])
    yield tmp_path


def test_the_command_takes_folders_of_images_and_clips(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "in" / "d.mp4").write_text("no video")
    arguments = [
        "--model",
        model,
        "--content",
        "in",
        "--style",
        "style.png",
        "--output",
        "out",
        "--stability",
        "statistics",
    ]
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert "skipped: in/d.mp4 is no video" in said.err and "4 of 5 files stylized, 1 failed: out" in said.out
    assert re.search(r"out/a_stylized_style.mkv: 3 frames in .* s \(.* frames per second\)", said.out)
    names = ["a_stylized_style.mkv", "b_stylized_style.mp4", "c_stylized_style.gif", "photo_stylized_style.png"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == names
    assert len(pixels_of(folder / "out" / names[0])) == 3 and len(animation(folder / "out" / names[2])[2]) == 2
    with av.open(str(folder / "out" / names[0])) as written:
        settings = json.loads(written.metadata["COMMENT"])
    assert settings["stability"] == "statistics" and settings["styles"] == ["style.png"]
    (folder / "in" / "d.mp4").unlink()
    assert run(*arguments, "--skip_existing") == 0
    assert "0 of 4 files stylized, 0 failed, 4 exist already" in capsys.readouterr().out


def test_frames_are_stylized_as_images_are(model: str, folder: Path) -> None:
    masks = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    masks[:, WIDTH // 2 :] = 255
    Image.fromarray(masks).save(folder / "mask.png")
    write_image(torch.rand(3, 40, 32), folder / "other.png")
    common = ["--model", model, "--alpha", "0.7", "--preserve_color", "luminance", "--size", "32"]
    common += ["--style", "style.png", "other.png", "--masks", "mask.png"]
    (frame, *_) = pixels_of(folder / "in" / "a.mkv")
    Image.fromarray(frame).save(folder / "frame.png")
    assert run(*common, "--content", "frame.png", "--output", "image.png") == 0
    assert run(*common, "--content", "in/a.mkv", "--output", "clip.mkv", "--codec", "ffv1") == 0
    expected = np.asarray(Image.open(folder / "image.png"))
    assert np.abs(pixels_of(folder / "clip.mkv")[0].astype(float) - expected).mean() < 6  # chroma at half resolution


@pytest.mark.parametrize(
    ("content", "output", "more", "sentence"),
    [
        (
            "in/a.mkv",
            "out.png",
            [],
            "in/a.mkv is a clip and out.png an image: give --output a file that ends in one of .gif",
        ),
        ("in/photo.png", "out.mp4", [], "in/photo.png is an image and out.mp4 a video: give --output an image file."),
        ("in/a.mkv", "in/a.mkv", [], "The output in/a.mkv would replace the input in/a.mkv"),
        ("in/a.mkv", "out.avi", [], "Cannot write out.avi: an image file ends in one of"),
        ("in/a.mkv", "out.mp5", [], "Cannot write out.mp5"),
        (
            "in/a.mkv",
            "out.webm",
            ["--codec", "h264"],
            "Cannot write out.webm: .webm takes the codecs vp9, av1, not h264.",
        ),
        ("in/c.gif", "out.gif", ["--codec", "h264"], "--codec h264 is for videos"),
        ("in/gone.mp4", "out.mp4", [], "in/gone.mp4 does not exist."),
        ("in/a.mkv", "style.png/out.mp4", [], "Cannot write"),
        ("in/a.mkv", "out.mp4", ["--seconds", "0"], "seconds is the length in seconds after which a clip ends"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(
    content: str, output: str, more: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "damaged.safetensors").touch()  # reading it would be an error of its own
    arguments = ["--model", "damaged.safetensors", "--content", content, "--style", "style.png", "--output", output]
    assert run(*arguments, *more) == 1
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1, said


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylezoo.video.writing.has_encoder", lambda name: name == "libvpx-vp9")
    assert find_codec(".mp4", "auto", "a.mp4") == "vp9"
    with pytest.raises(VideoError, match=r"has no encoder libx265 for hevc: choose another --codec \(vp9\)\.$"):
        find_codec(".mp4", "hevc", "a.mp4")
