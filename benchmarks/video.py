"""Measures what becomes of a clip with sound: frames, sound, speed, and flicker with and without temporal stability.

    python benchmarks/video.py --output docs/video_benchmark.csv
    python benchmarks/video.py --output docs/video_passing.csv --passing_models [johnson.starry_night] --width 256 --height 144

The first command measures a pan, the second what something that passes a still scene changes in the rest of it.

The clip is a pan over a procedural photo by whole pixels, with noise as of a camera and a tone as sound, so that the
motion is known exactly: the flicker of the written files is `stylezoo.metrics.temporal.temporal_error` along that motion,
not along the optical flow that the option ``flow`` estimates. It is 0 for a stylizer that treats each object in all
frames alike. Detail is the mean difference of neighboring pixels, to show what averaging takes away. The frames per
second are those of the whole command, with reading and writing of the files.

In the other scene a white area covers a third of a photo from the fifth frame to the eighth of twelve. Statistics of whole
frames change with it, and so does the style of all that it does not cover: the table has the largest mean change, from one
frame to the next, of the third that is farthest from it.

A table in Markdown is written beside the CSV file.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import av
import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor

import stylezoo
from stylezoo.controls import ClipControls, Stability
from stylezoo.data.synthetic import draw
from stylezoo.files import replacing
from stylezoo.images import load_image, to_image
from stylezoo.inference import Stylizer
from stylezoo.inference.video import ClipResult, stylize_clip
from stylezoo.metrics.temporal import temporal_error
from stylezoo.studies.base import as_csv, as_table

STEP = (2, 1)
"""Pixels that the camera moves to the right and down from frame to frame."""

RATE, SOUND_RATE = 25, 44_100


def make_clip(path: Path, seconds: float, width: int, height: int, noise: float) -> None:
    """Writes the clip.

    Args:
        path: The file.
        seconds: Its length.
        width: Of a frame in pixels.
        height: Of a frame in pixels.
        noise: Standard deviation of the noise, of 255.
    """
    count = round(seconds * RATE)
    side = max(width + STEP[0] * count, height + STEP[1] * count)
    photo = np.asarray(draw("photos", 0, side), np.float32)
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=RATE, options={"crf": "12"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = output.add_stream("aac", rate=SOUND_RATE, layout="stereo")
        for index in range(count):
            x, y = STEP[0] * index, STEP[1] * index
            pixels = photo[y : y + height, x : x + width] + noise * rng.standard_normal((height, width, 1))
            frame = av.VideoFrame.from_ndarray(np.rint(pixels.clip(0, 255)).astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            output.mux(video.encode(frame))
        time = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
        tone = 0.3 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
        samples = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
        samples.rate, samples.pts = SOUND_RATE, 0
        output.mux([*sound.encode(samples), *sound.encode(None), *video.encode(None)])


def stylizer_of(name: str) -> Stylizer:
    """Loads a model with a procedural painting as style, or with the first of its own."""
    network = stylezoo.load_model(name)
    return Stylizer(network, network.example_styles(load_image(draw("paintings", 0, 512)))[:1])


def frames(path: Path) -> Iterator[Tensor]:
    """Yields the frames of a file, (3, H, W) in [0, 1]."""
    with av.open(str(path)) as source:
        for frame in source.decode(video=0):
            yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float() / 255


def sound_digest(path: Path) -> str:
    """Returns the SHA-256 of all packets of sound and of their times."""
    digest = hashlib.sha256()
    with av.open(str(path)) as source:
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                digest.update(f"{packet.pts * packet.time_base}".encode() + bytes(packet))
    return digest.hexdigest()


def measure(path: Path) -> dict[str, float]:
    """Measures number, flicker and detail of the frames of a file."""
    errors, details, previous, motion = [], [], None, None
    for frame in frames(path):
        if previous is not None:
            if motion is None:
                motion = torch.tensor(STEP, dtype=torch.float32)[:, None, None].expand(2, *frame.shape[-2:])
            errors.append(float(temporal_error(previous[None], frame[None], motion)))
        details.append(float(frame.diff(dim=-1).abs().mean()))
        previous = frame
    return {"frames": len(details), "flicker": round(fmean(errors), 5), "detail": round(fmean(details), 5)}


def passing(stylizer: Stylizer, width: int, height: int) -> list[dict[str, Any]]:
    """Measures what something that passes a still scene changes in the rest of it.

    Args:
        stylizer: The stylizer.
        width: Of a frame in pixels.
        height: Of a frame in pixels.
    """
    photo = load_image(draw("photos", 3, max(width, height)))[:, :height, :width]
    contents = photo.repeat(12, 1, 1, 1)
    contents[4:8, ..., 2 * width // 3 :] = 1.0
    rows = []
    for stability in ("none", "statistics"):
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.webp"), Path(folder, "out.mkv")
            images = [to_image(content) for content in contents]
            images[0].save(source, save_all=True, append_images=images[1:], duration=40, lossless=True)
            stylize_clip(stylizer, source, target, ClipControls(stability=stability, codec="ffv1"))
            rest = [frame[..., : width // 3] for frame in frames(target)]
        changes = [float((b - a).abs().mean()) for a, b in pairwise(rest)]
        name = stylizer.model.tag or stylizer.model.system
        rows.append({"model": name, "stability": stability, "largest_change": round(max(changes), 5)})
    return rows


def row(name: str, path: Path, source: Path, result: ClipResult | None = None) -> dict[str, Any]:
    """Returns a row of the table."""
    speed = "" if result is None else round(result.frames / result.seconds, 2)
    return {
        "clip": name,
        **measure(path),
        "sound_equal": sound_digest(path) == sound_digest(source),
        "frames_per_second": speed,
    }


def write(output: Path, rows: list[dict[str, Any]], caption: str) -> None:
    """Writes the rows as CSV, and as Markdown beside it."""
    for path, content in ((output, as_csv(rows)), (output.with_suffix(".md"), f"{caption}\n\n{as_table(rows)}\n")):
        with replacing(path) as file:
            file.write(content.encode())


def main(
    output: Path,
    model: str = "microast.wikiart",
    seconds: float = 10.0,
    width: int = 640,
    height: int = 360,
    noise: float = 3.0,
    batch_size: int = 4,
    keep: Path | None = None,
    passing_models: list[str] | None = None,
) -> None:
    """Measures a model with each kind of stability.

    Args:
        output: The table, a CSV file.
        model: Name of weights.
        seconds: Length of the clip.
        width: Of a frame in pixels.
        height: Of a frame in pixels.
        noise: Standard deviation of the noise of the camera, of 255.
        batch_size: Frames that are stylized together.
        keep: Folder in which the clips are kept.
        passing_models: Models that are measured with something that passes a still scene, instead of the pan.
    """
    if passing_models is not None:
        rows = [line for name in passing_models for line in passing(stylizer_of(name), width, height)]
        caption = (
            f"`python benchmarks/video.py --output {output} --width {width} --height {height} --passing_models [...]`: a"
            f" white area passes a still photo of {width} x {height} pixels; the largest mean change, from one frame to the"
            " next, of the third that is farthest from it, of the range from 0 to 1."
        )
        write(output, rows, caption)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "source.mp4"
        make_clip(source, seconds, width, height, noise)
        stylizer = stylizer_of(model)
        rows = [row("source", source, source)]
        for stability in get_args(Stability):
            path = folder / f"{stability}.mp4"
            result = stylize_clip(stylizer, source, path, ClipControls(stability=stability), batch_size=batch_size)
            print(result)
            rows.append(row(stability, path, source, result))
            caption = (
                f"`python benchmarks/video.py`: {model}, {seconds:g} seconds of {width} x {height} pixels at {RATE} frames per"
                f" second, torch {torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} cores"
                f" ({platform.machine()}), load {os.getloadavg()[0]:.1f}."
            )
            write(output, rows, caption)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
