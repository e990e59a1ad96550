"""What the page asks for: images, sheets of all models, and clips, within limits. Nothing here knows Gradio."""

from __future__ import annotations

import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from torch.nn.functional import interpolate

from stylezoo import catalog, registry
from stylezoo.checkpoints import find_model, load_model
from stylezoo.controls import ClipControls, Controls, Stability
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.images import load_with_alpha, to_image, write_image
from stylezoo.images.reading import read_size
from stylezoo.inference.comparison import Comparison
from stylezoo.inference.files import recorded, smoothed_engine
from stylezoo.inference.regions import load_masks
from stylezoo.inference.stylizer import Stylizer, find_device, load_styles
from stylezoo.module import Iteration, StyleModel
from stylezoo.video import VideoError, open_clip

Progress = Callable[[int, int | None], None]
"""Called with what is done and how much there is, in iterations or frames; None if that is unknown."""


FIRST = ("adain.public", "sanet.slim", "adain.slim")
"""Models with which the page begins, the first of them that is there."""


class StoppedByUser(StylezooError):
    """Raised where work ends because somebody pressed the button."""


LOADED = 6
"""Models that stay in memory."""


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        megapixels: Of an output; larger images are resized to it.
        megabytes: Of an uploaded file.
        seconds: Of a clip; longer ones are cut.
        waiting: Requests that may wait; further ones are refused.
    """

    megapixels: float = 4.0
    megabytes: int = 50
    seconds: float = 20.0
    waiting: int = 20

    @property
    def side(self) -> int:
        """Side in pixels of the largest square."""
        return int(math.sqrt(self.megapixels * 1e6))

    def size(self, width: int, height: int, size: int | None) -> int | None:
        """Returns the short side to which an image is resized; None if it keeps its size.

        >>> Limits(megapixels=1).size(4000, 1000, None), Limits(megapixels=1).size(4000, 1000, 300)
        (500, 300)

        Args:
            width: Of the image.
            height: Of the image.
            size: The short side that is asked for; None for its own.
        """
        largest = math.sqrt(self.megapixels * 1e6 * min(width, height) / max(width, height))
        wanted = min(width, height) if size is None else size
        return size if wanted <= largest else int(largest)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        model: A name of `Backend.models`.
        content: An image or a clip; None if none is chosen yet.
        styles: Image files, or names of trained styles.
        controls: How.
        regions: One mask for each style, or none.
    """

    model: str
    content: str | None
    styles: Sequence[str] = ()
    controls: Controls = field(default_factory=Controls)
    regions: Sequence[Image.Image] = ()


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
        path: The file.
        before: The content at the same size, as a file that browsers show.
        notes: Sentences about it.
    """

    path: Path
    before: Path | None
    notes: list[str]


class Backend:
    """Loads models when they are asked for, and stylizes one request at a time.

    Args:
        models: Names of weights or model files; all models on this machine if left out.
        device: See `stylezoo.inference.stylizer.find_device`.
        limits: What one request may take.

    Attributes:
        models: The names that are offered.
        default: The model with which the page begins.

    Raises:
        MissingFileError: If a model is not on this machine.
        StylezooError: If there is no such device.
    """

    def __init__(self, models: Sequence[str] = (), device: str = "auto", limits: Limits | None = None) -> None:
        self.limits, self._device = limits or Limits(), find_device(device)
        for name in models:
            find_model(name)
        self.models = [*dict.fromkeys(models or registry.list_models(pretrained=True))]
        if not self.models:
            raise MissingFileError("There are no models on this machine: name a file with --models.")
        self.default = next((name for name in FIRST if name in self.models), self.models[0])
        self.model = lru_cache(maxsize=LOADED)(self._loaded)
        self._stopped: dict[str, bool] = {}
        """Whether somebody has stopped the work that is done for them."""

    def system(self, name: str) -> catalog.System | None:
        """The system of a model that is called by a name; None for files."""
        return catalog.systems().get(catalog.spelled(name.partition(".")[0]))

    def one_of_each_system(self) -> list[str]:
        """One model of each system that takes any image as style."""
        chosen: dict[str, str] = {}
        for name in self.models:
            system = self.system(name)
            if system is None or system.kind == "arbitrary":
                chosen.setdefault(name if system is None else system.name, name)
        return [*chosen.values()]

    def _loaded(self, name: str) -> StyleModel:
        if name not in self.models:
            raise StylezooError(f"This page has no model {name}: choose one of {', '.join(self.models)}.")
        return load_model(name).to(self._device)

    def stop(self, who: str) -> None:
        """Ends the work for somebody, if there is some, as soon as its next step is done."""
        if who in self._stopped:
            self._stopped[who] = True

    @contextmanager
    def _watched(self, who: str, progress: Progress | None) -> Iterator[Progress]:
        """Yields what to call after each step, which raises `StoppedByUser` once the work is stopped."""
        self._stopped[who] = False

        def step(done: int, total: int | None) -> None:
            if progress is not None:
                progress(done, total)
            if self._stopped[who]:
                raise StoppedByUser("Stopped.")

        try:
            yield step
        finally:
            del self._stopped[who]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for what is made, which is gone after the block: Gradio copies what it shows."""
        with tempfile.TemporaryDirectory(prefix="stylezoo-") as folder:
            yield Path(folder)

    def image(
        self, request: Request, folder: Path, suffix: str = ".png", who: str = "", progress: Progress | None = None
    ) -> Made:
        """Stylizes one image.

        Args:
            request: What is asked for.
            folder: Where files go.
            suffix: Of the output's format.
            who: See `stop`.
            progress: Called after each iteration of a system that optimizes.

        Raises:
            StylezooError: If something does not fit, a file cannot be read, or the work was stopped.
        """
        content, begin = _chosen(request.content), time.monotonic()
        model = self.model(request.model)
        controls, notes = self._limited(request, read_size(content))
        image, opacity = load_with_alpha(content, controls.size)
        stylizer = _stylizer(model, request, controls)
        with self._watched(who, progress) as step, _iterations(model, step) as last:
            try:
                output = stylizer(image.unsqueeze(0))
            except StoppedByUser:
                if not last:
                    raise
                now = last[0]
                output = interpolate(now.image[None], image.shape[-2:], mode="bilinear").clamp(0, 1)
                notes.append(f"Stopped after {now.step} of {now.steps} iterations: this is the unfinished image.")
        target = folder / f"{_called(content, request.model)}{suffix}"
        write_image(to_image(output, opacity), target, 95, content, _settings(model, request, controls, stylizer))
        before = folder / "before.png"
        write_image(to_image(image, opacity), before)
        height, width = image.shape[-2:]
        seconds = time.monotonic() - begin
        notes.insert(0, f"{width} x {height} pixels in {seconds:.1f} seconds.")
        return Made(target, before, [*notes, _command(request, controls, target)])

    def clip(
        self,
        request: Request,
        clips: ClipControls,
        folder: Path,
        who: str = "",
        progress: Progress | None = None,
    ) -> Made:
        """Stylizes a video.

        Args:
            request: What is asked for.
            clips: Stability and length.
            folder: Where the file goes, an MP4.
            who: See `stop`.
            progress: Called after each frame.

        Raises:
            StylezooError: If something does not fit, a file cannot be read, or the work was stopped.
        """
        from stylezoo.inference.video import stylize_clip

        content = _chosen(request.content, "video")
        model = self.model(request.model)
        if model.kind == "optimization":
            raise StylezooError(f"{request.model} optimizes each frame for minutes: choose another model for videos.")
        clip = open_clip(content)
        clip.close()
        controls, notes = self._limited(request, clip.properties.size)
        seconds = min(self.limits.seconds, math.inf if clips.seconds is None else clips.seconds)
        if clips.stability != "none":
            controls = replace(controls, engine=smoothed_engine(model))
        stylizer = _stylizer(model, request, controls)
        target = folder / f"{_called(content, request.model)}.mp4"
        settings = {**_settings(model, request, controls, stylizer), "stability": clips.stability}
        try:
            with self._watched(who, progress) as step:
                result = stylize_clip(
                    stylizer,
                    content,
                    target,
                    replace(clips, seconds=seconds),
                    size=controls.size,
                    settings=settings,
                    on_progress=step,
                )
        except VideoError as error:
            part = next(folder.glob("*.partial.*"), None)
            if part is None:
                raise
            return Made(part, None, [f"{str(error).partition(';')[0].rstrip('.')}: this is what was done until then."])
        rate = result.frames / max(result.seconds, 1e-9)
        notes.insert(0, f"{result.frames} frames in {result.seconds:.0f} seconds ({rate:.1f} per second).")
        return Made(target, None, [*notes, *result.notes, _command(request, controls, target, clips.stability)])

    def compare(
        self, models: Sequence[str], request: Request, folder: Path, who: str = ""
    ) -> Iterator[list[tuple[str, str]]]:
        """Stylizes one pair by several models, and yields after each model what there is so far: files and captions.

        Args:
            models: Names; those of trained styles use the style of the image's name, or their first.
            request: The content, its size, and the first style.
            folder: Where files go.
            who: See `stop`.

        Raises:
            StylezooError: If an image cannot be read, or the work was stopped.
        """
        content, style = _chosen(request.content), _chosen(next(iter(request.styles), None), "style image")
        controls, _ = self._limited(request, read_size(content))
        pair = {"content": content}, {Path(style).name: style}
        sizes = controls.size, controls.style_size
        images = [
            {name: load_with_alpha(path, size)[0] for name, path in named.items()}
            for named, size in zip(pair, sizes, strict=True)
        ]
        comparison = Comparison(*images)
        (cells,) = comparison.cells.values()
        files: list[tuple[str, str]] = []
        with self._watched(who, None) as step:
            for name in models:
                comparison.add(name, self.model(name))
                for caption, output in cells[len(files) + 2 :]:  # the first two are the content and the style
                    path = folder / f"{len(files)}.png"
                    write_image(output, path)
                    files.append((str(path), caption))
                yield list(files)
                step(len(files), len(models))

    def _limited(self, request: Request, size: tuple[int, int]) -> tuple[Controls, list[str]]:
        """Returns the controls with sizes within the limits, and says what they were changed to."""
        controls, notes = request.controls, list[str]()
        allowed = self.limits.size(*size, controls.size)
        if allowed != controls.size:
            notes.append(f"Resized to {allowed} pixels: this page allows {self.limits.megapixels:g} megapixels.")
        styles = [style for style in request.styles if Path(style).is_file()]
        sides = [self.limits.size(*read_size(style), controls.style_size) for style in styles]
        smallest = min((side for side in sides if side is not None), default=controls.style_size)
        return replace(controls, size=allowed, style_size=smallest), notes


def _chosen(path: str | None, what: str = "photo") -> str:
    if not path:
        raise StylezooError(f"Choose a {what} first.")
    return path


def _called(content: str, model: str) -> str:
    """Returns the name of an output, without its suffix."""
    return f"{Path(content).stem}_{Path(model).name.removesuffix('.safetensors').removesuffix('.ckpt')}"


def _stylizer(model: StyleModel, request: Request, controls: Controls) -> Stylizer:
    """Returns the stylizer of a request."""
    if not request.styles and model.kind in ("arbitrary", "optimization"):
        raise StylezooError("Choose a style image first.")
    styles = load_styles(model, request.styles, controls.style_size)
    return Stylizer(
        model,
        styles,
        alpha=controls.alpha,
        style_weights=controls.style_weights,
        preserve_color=controls.preserve_color,
        masks=load_masks(request.regions, max(1, len(styles))),
        engine=controls.engine,
    )


@contextmanager
def _iterations(model: StyleModel, step: Progress) -> Iterator[list[Iteration]]:
    """Calls ``step`` after each iteration of a system that optimizes, and yields a list with the last one."""
    last: list[Iteration] = []

    def told(now: Iteration) -> None:
        last[:] = [now]
        step(now.step, now.steps)

    if model.kind == "optimization":
        model.on_iteration = told
    try:
        yield last
    finally:
        if model.kind == "optimization":
            model.on_iteration = None


def _settings(model: StyleModel, request: Request, controls: Controls, stylizer: Stylizer) -> dict[str, Any]:
    """Returns how an output is made, for its metadata."""
    styles = [Path(style).name for style in request.styles]
    return {**recorded(model, controls), "engine": stylizer.engine.name, "styles": styles}


def _command(request: Request, controls: Controls, target: Path, stability: Stability = "none") -> str:
    """Returns the same in a terminal, as Markdown."""
    words = [
        "python",
        "-m",
        "stylezoo",
        "stylize",
        "--model",
        request.model,
        "--content",
        Path(request.content or "").name,
    ]
    if request.styles:
        words += ["--style", *(Path(style).name for style in request.styles)]
    shown: dict[str, Any] = {
        "alpha": controls.alpha if controls.alpha != 1 else None,
        "style_weights": ",".join(f"{weight:g}" for weight in controls.style_weights or []) or None,
        "preserve_color": controls.preserve_color if controls.preserve_color != "none" else None,
        "size": controls.size,
        "style_size": controls.style_size,
        "stability": stability if stability != "none" else None,
    }
    for name, value in shown.items():
        words += [] if value is None else [f"--{name}", str(value)]
    if request.regions:
        words += ["--masks", *(f"region_{number}.png" for number in range(1, len(request.regions) + 1))]
    return f"The same in a terminal:\n\n```\n{shlex.join([*words, '--output', target.name])}\n```"
