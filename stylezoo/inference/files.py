"""Files to files: every content of a folder in every style, in batches of one size, past files that cannot be used."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from stylezoo.checkpoints import load_model
from stylezoo.controls import ClipControls, Controls, EngineName, Tile
from stylezoo.errors import Stopped, StylezooError, is_out_of_memory
from stylezoo.images import check_target, load_style, load_with_alpha, to_image, write_image
from stylezoo.images.formats import shown
from stylezoo.images.reading import read_size
from stylezoo.images.windows import open_windows
from stylezoo.inference.engines import ENGINES, Engine
from stylezoo.inference.plan import Job, Plan, Request, free_name, make_plan, printable, report, write_manifest
from stylezoo.inference.regions import load_masks
from stylezoo.inference.shards import Meeting, Shard
from stylezoo.inference.stylizer import Stylizer, check_style_size, engine_of, find_device, load_styles
from stylezoo.inference.tiles import WINDOWED_PIXELS, streams, stylize_windows
from stylezoo.inference.tuning import Work
from stylezoo.module import Iteration, StyleCode, StyleModel
from stylezoo.version import __version__

CACHED_BYTES = 2**27
"""Contents are held while they get one style after the other, until they take this much memory."""

CODE_BYTES = 2**27
"""Encoded styles are held for the images that follow, until they take this much memory."""

SECONDS_BETWEEN_LINES = 20.0
"""Where there is no terminal to draw a progress bar on, lines tell the progress."""

NO_CLIP_CONTROLS = ClipControls()

Recipe = tuple[tuple[str, ...], float | None]
"""Styles and their strength, see `Job.recipe`."""

SMOOTHED_ENGINES: tuple[EngineName, ...] = ("winograd", "eager")
"""The engines that run PyTorch's operations one by one, so that `stylezoo.inference.stability` can change statistics."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of other programs: 128 and the number of SIGINT."""


def stylize_files(
    model: str,
    request: Request,
    plan: Plan,
    controls: Controls,
    *,
    clips: ClipControls = NO_CLIP_CONTROLS,
    batch_size: int = 4,
    preview: int = 25,
    quality: int = 95,
    device: str = "auto",
) -> int:
    """Loads a model, and stylizes and writes what is asked for, or this process's share of it.

    Args:
        model: What `load_model` takes.
        request: Which images, and where to.
        plan: What `make_plan` says of it.
        controls: How.
        clips: How clips are made.
        batch_size: See `Run`, as for ``preview`` and ``quality``.
        preview: Iterations between two previews.
        quality: Of JPEG, WebP and video files.
        device: See `find_device`.

    Returns:
        The exit code: 0, 1 if an image failed, `INTERRUPTED` after Ctrl-C, 143 if SIGTERM ended a clip.

    Raises:
        StylezooError: If nothing can be done, or the only image fails.
        Exception: After all images, the first error that is none of the user's.
    """
    with closing(Meeting(request.shard)) as meeting:
        done: list[Job] = []
        try:
            network, plan = prepared(model, device, request, plan, controls, clips)
            engine = engine_for(network, plan, controls, clips)
            sha256 = request.begin(network)
            run = Run(
                network,
                Stylizers(network, controls, masks_for(request, plan), engine),
                controls.size,
                controls.tile,
                batch_size,
                preview,
                quality,
                settings={**recorded(network, controls), "engine": engine.name},
                clips=clips,
                alone=plan.total == 1 and request.shard.world == 1,
                done=done,
                shard=request.shard,
            )
            try:
                run(plan.jobs)
            finally:
                if request.has_manifest:
                    write_manifest(request, done, controls.alpha, plan.existing, sha256)
        except KeyboardInterrupt as error:
            return told_stop(error, len(done), plan, request)
        request.end([*plan.refused.values(), *run.told])
        code = plan.finish(request.output, len(done), run.failed, meeting)
        if run.bug is not None:
            raise run.bug
        return code


def prepared(
    model: str, device: str, request: Request, plan: Plan, controls: Controls, clips: ClipControls
) -> tuple[StyleModel, Plan]:
    """Loads a model, and returns it with the plan for its styles, checked and reported."""
    target = own_device(find_device(device), request.shard)
    network = load_model(model).to(target)
    plan = plan_for(network, request, plan)
    check_model(network, controls, plan, clips)
    plan.report()
    return network, plan


def engine_for(model: StyleModel, plan: Plan, controls: Controls, clips: ClipControls) -> Engine:
    """Returns the engine of a run.

    Raises:
        StylezooError: If it cannot run the model here, or computes no statistics that could be smoothed over frames.
    """
    name = controls.engine
    if clips.stability != "none" and any(job.is_clip for job in plan.jobs):
        if name not in ("auto", *SMOOTHED_ENGINES):
            raise StylezooError(
                f"--stability smooths the statistics of each frame, which the engine {name} does not compute one by one:"
                f" leave --engine out, or choose {' or '.join(SMOOTHED_ENGINES)}."
            )
        if name == "auto":
            name = smoothed_engine(model)
    return engine_of(name, model.eval(), expected_work(plan.jobs, controls.size))


def smoothed_engine(model: StyleModel) -> EngineName:
    """Returns the fastest of `SMOOTHED_ENGINES` that can run a model here."""
    return next(each for each in SMOOTHED_ENGINES if ENGINES[each].obstacle(model) is None)


def masks_for(request: Request, plan: Plan) -> Tensor | None:
    """Reads the masks of the styles; None if there are none, or nothing is to be done."""
    return load_masks(request.masks, max(1, len(plan.jobs[0].styles))) if plan.jobs else None


def own_device(device: torch.device, shard: Shard) -> torch.device:
    """Returns the GPU of a process where several of a machine share its GPUs and none is named."""
    if shard.world == 1 or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", shard.local_rank % torch.cuda.device_count())


def told_stop(error: KeyboardInterrupt, done: int, plan: Plan, request: Request) -> int:
    """Says what is done when a run is stopped, and returns the exit code."""
    who, count = f"stylezoo: {request.shard.speaker}", f"{done} of {plan.total} {plan.things}"
    if isinstance(error, Stopped):  # in the middle of a clip
        report(f"{error}{f'; {count} are done' if plan.total > 1 else ''}", who)
        return 128 + error.number
    report(f"stopped after {count}: {request.output}", who)
    return INTERRUPTED


def plan_for(model: StyleModel, request: Request, plan: Plan) -> Plan:
    """Returns the plan for the styles of a model, where it was made for others before the model was known."""
    wanted: list[str] | None = None
    if model.kind in ("multi", "single"):
        wanted = model.expand_styles(list(request.style), lambda word: [word])
    return plan if (wanted or None) == (plan.names or None) else make_plan(request, wanted)


def check_model(model: StyleModel, controls: Controls, plan: Plan, clips: ClipControls = NO_CLIP_CONTROLS) -> None:
    """Checks that a model has the controls and the styles that are asked for, and what clips ask for.

    Raises:
        StylezooError: If it has not.
    """
    model.check_controls(controls.alpha, None if controls.tile == "auto" else controls.tile)
    check_style_size(model, controls.style_size)
    for styles in dict.fromkeys(job.styles for job in plan.jobs):
        if model.kind in ("multi", "single"):  # nothing is computed: the styles are in the model
            for style in model.check_styles([model.read_style(style, load_style) for style in styles]):
                model.encode_style(style)
        elif not styles:
            model.check_styles([])
    plan.check_counts(controls.style_weights, 0)
    if model.kind == "optimization" and clips.stability != "none" and any(job.is_clip for job in plan.jobs):
        raise StylezooError(
            f"{model.system} optimizes each frame by itself, which smoothing would disturb: leave --stability out."
        )


def expected_work(jobs: Sequence[Job], size: int | None) -> Work:
    """Returns how much there is to do, as far as the headers of the contents tell.

    Args:
        jobs: The images.
        size: Short side in pixels to which contents are resized; None keeps their sizes.
    """
    counts = Counter(job.content for job in jobs)
    megapixels, shapes = 0.0, set()
    for content, count in counts.items():
        with suppress(StylezooError):  # it is reported when its turn comes
            width, height = read_size(content)
            scale = 1.0 if size is None else size / min(width, height)
            megapixels += count * width * height * scale**2 / 1e6
            shapes.add((round(scale * width), round(scale * height)))
    return Work(megapixels, max(1, len(shapes)))


class Stylizers:
    """Makes the stylizers of a run; styles that come again are read and encoded once, as far as `CODE_BYTES` hold their codes.

    Args:
        model: The model.
        controls: How images are made.
        masks: See `Stylizer`.
        engine: What runs the model.
    """

    def __init__(self, model: StyleModel, controls: Controls, masks: Tensor | None, engine: Engine) -> None:
        self.model, self.controls, self.masks, self.engine = model, controls, masks, engine
        self.codes: dict[tuple[str, ...], list[StyleCode]] = {}

    def __call__(self, styles: tuple[str, ...], alpha: float | None = None) -> Stylizer:
        """Returns the stylizer for some styles.

        Args:
            styles: Image files, encoded styles, or numbers and names of trained styles.
            alpha: Strength; None takes that of the controls.
        """
        controls = self.controls
        stylizer = Stylizer(
            self.model,
            self.codes.get(styles) or load_styles(self.model, styles, controls.style_size),
            alpha=controls.alpha if alpha is None else alpha,
            style_weights=controls.style_weights,
            preserve_color=controls.preserve_color,
            masks=self.masks,
            tile=controls.tile,
            tile_statistics=controls.tile_statistics,
            engine=self.engine,
        )
        if controls.preserve_color != "coral":  # whose styles depend on the content
            self.codes[styles] = self.codes.pop(styles, stylizer.codes)
            while len(self.codes) > 1 and sum(map(_size_of_codes, self.codes.values())) > CODE_BYTES:
                del self.codes[next(iter(self.codes))]  # the one that was not used for longest
        return stylizer


def _size_of_codes(codes: Sequence[StyleCode]) -> int:
    """Returns the number of bytes of style codes."""
    return sum(tensor.nbytes for code in codes for tensor in code.values())


def recorded(model: StyleModel, controls: Controls) -> dict[str, Any]:
    """Returns how images are made, for their metadata: the model, the controls and the version of the package."""
    named = {"model": model.tag or model.system, **asdict(controls)}
    return {"version": __version__, **{name: value for name, value in named.items() if value is not None}}


class Content(NamedTuple):
    """A content image (3, H, W), None if it is read in windows, and its opacity (1, H, W) if it has some."""

    image: Tensor | None
    alpha: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of the image; None if it is read in windows, which takes one image at a time."""
        return None if self.image is None else tuple(self.image.shape)


@dataclass
class Run:
    """Stylizes and writes images; what cannot be read or stylized is reported and skipped.

    Attributes:
        model: The model of the stylizers; one that optimizes gets one image at a time, which is written when it is done.
        stylizer_of: Returns a stylizer for the styles of a job and their strength.
        size: Short side in pixels to which contents are resized first.
        tile: That of the stylizers; None holds every image in memory.
        batch_size: Number of images of one size that are stylized together; less where the memory does not suffice.
        preview: Iterations between two previews of a model that optimizes; 0 for none.
        quality: Of JPEG and WebP files, 1 to 100.
        settings: How the images are made, for their metadata.
        clips: How clips are made.
        alone: Whether there is one image only, whose error is raised.
        done: The images that are written.
        failed: The number of images that are not.
        bug: The first error that is none of the user's.
        told: What was reported, in order.
        shard: The process, whose number reports begin with; the first of several shows the progress.
    """

    model: StyleModel
    stylizer_of: Callable[[tuple[str, ...], float | None], Stylizer]
    size: int | None = None
    tile: Tile = "auto"
    batch_size: int = 4
    preview: int = 25
    quality: int = 95
    settings: Mapping[str, Any] = field(default_factory=dict)
    clips: ClipControls = NO_CLIP_CONTROLS
    alone: bool = False
    done: list[Job] = field(default_factory=list)
    failed: int = 0
    bug: Exception | None = None
    told: dict[str, None] = field(default_factory=dict)
    shard: Shard = Shard()

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Works through the jobs; the first error that is none of the user's is kept in ``bug``."""
        if self.model.kind == "optimization":
            self.batch_size = 1
        self._images([job for job in jobs if not job.is_clip])
        for recipe, group in groupby((job for job in jobs if job.is_clip), key=lambda job: job.recipe):
            self._clips(recipe, list(group))

    def _images(self, jobs: Sequence[Job]) -> None:
        """Stylizes images, as many together as have one size."""
        order = {recipe: index for index, recipe in enumerate(dict.fromkeys(job.recipe for job in jobs))}
        shows = sys.stdout.isatty() and self.shard.rank == 0
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), disable=not shows) as progress:
            task = progress.add_task(f"{self.shard.speaker}stylizing", total=len(jobs))
            log = Log(progress, task, jobs, self.shard)
            for contents, block in self._blocks(jobs):
                block.sort(key=lambda job: order[job.recipe])
                for recipe, group in groupby(block, key=lambda job: job.recipe):
                    for _ in self._stylized(recipe, list(group), contents, log):
                        log.images(len(self.done) + self.failed)
                contents.clear()  # else these images would stay while the next ones are read

    def _clips(self, recipe: Recipe, group: list[Job]) -> None:
        """Stylizes clips in one style, one after the other."""
        from stylezoo.inference.video import stylize_clip

        stylizer: Stylizer | None = None
        with self._survives(group, f"style {', '.join(map(shown, recipe[0]))}"):
            stylizer = self.stylizer_of(*recipe)
        for job in group if stylizer is not None else ():
            assert stylizer is not None
            settings = {**self._settings_of(job), "stability": self.clips.stability}
            with self._survives([job], shown(job.content)), shown_frames(job) as on_progress:
                result = stylize_clip(
                    stylizer,
                    job.content,
                    job.target,
                    self.clips,
                    size=self.size,
                    batch_size=self.batch_size,
                    quality=self.quality,
                    settings=settings,
                    on_progress=on_progress,
                )
                self.done.append(job)
                for note in result.notes:
                    report(note, "stylezoo: ")
                print(printable(str(result)))

    def _blocks(self, jobs: Sequence[Job]) -> Iterator[tuple[dict[Path, Content], list[Job]]]:
        """Reads each content once, and yields as many as may be held at a time, with their jobs."""
        jobs_of: dict[Path, list[Job]] = {}
        for job in jobs:
            jobs_of.setdefault(job.content, []).append(job)
        contents: dict[Path, Content] = {}
        block: list[Job] = []
        for path, own in jobs_of.items():
            with self._survives(own, shown(path)):
                contents[path] = self._content(path, own[0].target)
                block += own
            if sum(c.image.nbytes for c in contents.values() if c.image is not None) > CACHED_BYTES:
                yield contents, block
                contents, block = {}, []
        if block:
            yield contents, block

    def _content(self, path: Path, target: Path) -> Content:
        """Reads a content, unless it is so large that it is read in windows."""
        pixels = math.prod(size_of(path) or (0,))
        if pixels >= WINDOWED_PIXELS and self.tile is not None and self.size is None and streams(self.model):
            return Content(None)
        image, alpha = load_with_alpha(path, self.size)
        check_target(target, self.quality, (image.shape[-1], image.shape[-2]))  # some formats have no images so large
        return Content(image, alpha)

    def _stylized(self, recipe: Recipe, group: list[Job], contents: dict[Path, Content], log: Log) -> Iterator[None]:
        """Stylizes the jobs of one style, and yields after each batch."""
        stylizer: Stylizer | None = None
        with self._survives(group, f"style {', '.join(map(shown, recipe[0]))}"):
            stylizer = self.stylizer_of(*recipe)
        while stylizer is not None and group:
            batch = self._batch(group, contents)
            group = group[len(batch) :]
            with shown_iterations(self.model, log, batch[0], self.preview):
                self._stylize(stylizer, batch, contents, log)
            yield

    def _batch(self, group: list[Job], contents: dict[Path, Content]) -> list[Job]:
        """Returns the first jobs whose contents have one size."""
        shape, count = contents[group[0].content].shape, 1
        if shape is None:
            return group[:1]
        while count < min(len(group), self.batch_size) and contents[group[count].content].shape == shape:
            count += 1
        return group[:count]

    def _stylize(self, stylizer: Stylizer, batch: list[Job], contents: dict[Path, Content], log: Log) -> None:
        """Stylizes and writes one batch; one that fails is tried again image by image, so that one spoils no other."""
        images = [contents[job.content] for job in batch]
        outputs: Tensor | None = None
        if images[0].image is None:
            with self._survives(batch, shown(batch[0].content)):
                self._stylize_windows(stylizer, batch[0], log)
            return
        if len(batch) == 1:
            with self._survives(batch, shown(batch[0].content)):
                outputs = stylizer(images[0].image.unsqueeze(0)).cpu()
        else:
            try:
                outputs = stylizer(torch.stack([c.image for c in images if c.image is not None])).cpu()
            except Exception as error:  # noqa: BLE001 - each image is tried again, and its error reported
                if is_out_of_memory(error):
                    self.batch_size = len(batch) // 2
        if outputs is not None:
            for job, output, content in zip(batch, outputs, images, strict=True):
                with self._survives([job], shown(job.target)):
                    pixels = to_image(output, content.alpha)
                    write_image(pixels, job.target, self.quality, job.content, self._settings_of(job))
                    self.done.append(job)
        elif len(batch) > 1:  # outside of the handler, whose error holds tensors
            free_memory()
            for job in batch:
                self._stylize(stylizer, [job], contents, log)

    def _stylize_windows(self, stylizer: Stylizer, job: Job, log: Log) -> None:
        """Stylizes an image from file to file, window by window, unless it fits into memory after all."""
        like = self.model.some_weight()
        with open_windows(job.content) as reader:
            check_target(job.target, self.quality, (reader.width, reader.height))
            tile = stylizer.tile_for(like.new_zeros(1).expand(1, 3, reader.height, reader.width))
            if tile is not None:
                with shown_tiles(log, job) as show:
                    options: dict[str, Any] = {"quality": self.quality, "on_tile": show}
                    options |= {"source": job.content, "settings": self._settings_of(job)}
                    stylizer.engine.run(stylize_windows, stylizer.stream, reader, job.target, tile, like, **options)
                self.done.append(job)
                return
        content = Content(*load_with_alpha(job.content))
        self._stylize(stylizer, [job], {job.content: content}, log)

    def _settings_of(self, job: Job) -> dict[str, Any]:
        """Returns how an image is made, for its metadata."""
        alpha = {} if job.alpha is None else {"alpha": job.alpha}
        return {**self.settings, **alpha, "styles": [Path(style).name for style in job.styles]}

    @contextmanager
    def _survives(self, jobs: Sequence[Job], name: str) -> Iterator[None]:
        """Reports an error, for which these jobs fail, and goes on.

        Args:
            jobs: What cannot be done without the block.
            name: What the block works on; the report begins with it.
        """
        try:
            yield
            return
        except Exception as error:
            self.failed += len(jobs)
            reason = said(error, name)
            if reason is None:
                self.bug = self.bug or error
                reason = f"{name}: {type(error).__name__}: {error}"
            elif self.alone:
                raise StylezooError(reason) from error
            if reason not in self.told:  # a content may fail in the same way with every style
                report(reason, f"{self.shard.speaker}skipped: ")
            self.told[reason] = None
        free_memory()


def said(error: Exception, name: str) -> str | None:
    """Returns an error as a sentence about a file; None if it is a bug.

    Args:
        error: What went wrong.
        name: The file, or "style" and the file.
    """
    if isinstance(error, StylezooError):
        reason = str(error)
        if reason.startswith(name.removeprefix("style ")):  # the sentence is about the file already
            return f"style {reason}" if name.startswith("style ") else reason
        return f"{name}: {reason}"
    if is_out_of_memory(error):
        return f"{name}: There is not enough memory to read it: make it smaller."
    return None


def size_of(path: Path) -> tuple[int, int] | None:
    """Returns width and height of an image by its header; None if it has none that says so."""
    try:
        return read_size(path)
    except StylezooError:  # it is told when it is read
        return None


def free_memory() -> None:
    """Frees what an error has left behind, for the images that follow."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where CUDA is not in use


@dataclass
class Log:
    """The progress bar; where there is no terminal, a line of text now and then."""

    progress: Progress
    task: TaskID
    jobs: Sequence[Job]
    shard: Shard = Shard()
    last: float = field(default_factory=time.monotonic)

    def images(self, count: int) -> None:
        """Shows the number of images that are dealt with."""
        self.progress.update(self.task, completed=count)
        self.line(f"{count} of {len(self.jobs)} images")

    def line(self, text: str) -> None:
        """Writes a line to standard error, unless there is a bar or the last line was a moment ago."""
        if self.progress.disable and self.shard.rank == 0 and time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            report(text, self.shard.speaker)


@contextmanager
def shown_tiles(log: Log, job: Job) -> Iterator[Callable[[int, int, int], None]]:
    """Yields what shows the tiles of an image that are done."""
    name = job.target.name
    task = log.progress.add_task(name, total=None)

    def show(tile: int, tiles: int, number: int) -> None:
        text = f"{printable(name)}  pass {number}"
        log.progress.update(task, completed=tile, total=tiles, description=text)
        log.line(f"{text}: {tile} of {tiles} tiles")

    try:
        yield show
    finally:
        log.progress.remove_task(task)


@contextmanager
def shown_frames(job: Job) -> Iterator[Callable[[int, int | None], None]]:
    """Shows the frames of a clip that are done, and how many are done per second; yields what to call after each."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    speed = TextColumn("{task.fields[speed]:.2f} frames/s")
    with Progress(*columns, speed, TimeRemainingColumn(), disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(printable(job.content.name), total=None, speed=0.0)
        log, begin = Log(progress, task, [job]), time.monotonic()

        def show(done: int, total: int | None) -> None:
            speed = done / max(time.monotonic() - begin, 1e-9)
            progress.update(task, completed=done, total=total, speed=speed)
            log.line(f"{job.content.name}: {done} of {total or '?'} frames, {speed:.2f} frames per second")

        yield show


@contextmanager
def shown_iterations(model: StyleModel, log: Log, job: Job, every: int) -> Iterator[None]:
    """Shows the iterations of a system that optimizes, and the unfinished image in a file beside its target."""
    if model.kind != "optimization":
        yield
        return
    name = job.target.name
    task = log.progress.add_task(name, total=None)
    preview = free_name(job.target, "_preview", (other.target for other in log.jobs))

    def show(now: Iteration) -> None:
        log.progress.update(
            task, completed=now.step, total=now.steps, description=f"{printable(name)}  loss {now.loss:.4g}"
        )
        log.line(f"{name}: iteration {now.step} of {now.steps}, loss {now.loss:.4g}")
        if every and now.step % every == 0 and now.step < now.steps:
            write_image(now.image, preview)

    model.on_iteration = show
    try:
        yield
    finally:
        model.on_iteration = None
        log.progress.remove_task(task)
        preview.unlink(missing_ok=True)
