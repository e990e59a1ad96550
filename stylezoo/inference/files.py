"""Files to files: every content of a folder in every style, in batches of one size, past files that cannot be read."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.images import IMAGE_SUFFIXES, ImageError, list_images, load_image, write_image
from stylezoo.inference.stylizer import Stylizer
from stylezoo.module import Iteration, StyleModel


def stylize_files(
    jobs: Sequence[Job],
    model: StyleModel,
    stylizer_of: Callable[[tuple[str, ...]], Stylizer],
    *,
    size: int | None = None,
    batch_size: int = 4,
    preview: int = 25,
    quality: int = 95,
) -> int:
    """Stylizes and writes images. A file that cannot be read is reported and skipped.

    Args:
        jobs: See `plan`.
        model: The model of the stylizers; one that optimizes gets one image at a time, which is written when it is done.
        stylizer_of: Returns a stylizer for the styles of a job.
        size: Short side in pixels to which contents are resized first.
        batch_size: Number of images of one size that are stylized together.
        preview: Iterations between two previews of a model that optimizes; 0 for none.
        quality: Of JPEG and WebP files, 1 to 100.

    Returns:
        The number of jobs that failed.
    """
    batch_size = 1 if model.kind == "optimization" else batch_size
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("stylizing", total=len(jobs))
        for styles, group in groupby(jobs, key=lambda job: job.styles):
            pending = list(group)
            try:
                stylizer = stylizer_of(styles)
            except ImageError as error:  # an unreadable style spoils its own images only
                report(error, *(job.target for job in pending))
                failed += len(pending)
                progress.advance(task, len(pending))
                continue
            for batch in batches(pending, size, batch_size):
                with shown_iterations(model, progress, batch[0][0].target, preview):
                    failed += stylize_batch(stylizer, batch, quality)
                progress.advance(task, len(batch))
    return failed


@contextmanager
def shown_iterations(model: StyleModel, progress: Progress, target: Path, every: int) -> Iterator[None]:
    """Shows the iterations of a system that optimizes, and the unfinished image in a file beside its target."""
    if model.kind != "optimization":
        yield
        return
    task = progress.add_task(target.name, total=None)
    preview = target.with_name(f"{target.stem}_preview{target.suffix}")

    def show(now: Iteration) -> None:
        progress.update(task, completed=now.step, total=now.steps, description=f"{target.name}  loss {now.loss:.4g}")
        if every and now.step % every == 0 and now.step < now.steps:
            write_image(now.image, preview)

    model.on_iteration = show
    try:
        yield
    finally:
        model.on_iteration = None
        progress.remove_task(task)
    preview.unlink(missing_ok=True)  # an interrupted run leaves it


@dataclass(frozen=True)
class Job:
    """One image to stylize: a content, the styles that go into it, and where it is written."""

    content: Path
    styles: tuple[str, ...]
    target: Path


def plan(content: list[str], styles: list[str], output: Path, together: bool, format: str) -> list[Job]:
    """Returns what the command `stylize` has to do, ordered so that images of one style follow each other.

    Args:
        content: Files, folders or globs.
        styles: Files, or names of trained styles.
        output: An image file or a folder.
        together: Whether all styles go into each image, instead of one image per style.
        format: Suffix of the files in an output folder.

    Raises:
        ImageError: If a folder or glob holds no image, or many images were to go into one file.
    """
    contents = [item for pattern in content for item in expand(pattern)]
    choices = [tuple(styles)] if together or not styles else [(style,) for style in styles]
    single_file = output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
    if single_file:
        if len(contents) * len(choices) != 1:
            raise ImageError(
                f"{len(contents) * len(choices)} images cannot go into one file {output}: give --output a folder."
            )
        return [Job(contents[0][0], choices[0], output)]
    names = [(path, chosen, _name(relative, chosen)) for chosen in choices for path, relative in contents]
    counts = Counter(name for _, _, name in names)
    jobs = []
    for path, chosen, name in names:
        if counts[name] > 1:  # a.jpg beside a.png: their suffixes distinguish them
            suffixes = "_".join(p.suffix.removeprefix(".") for p in (path, *map(Path, chosen)))
            name = name.with_name(f"{name.name}_{suffixes}")
        jobs.append(Job(path, chosen, output / name.with_name(f"{name.name}.{format}")))
    for target, count in Counter(job.target for job in jobs).items():
        if count > 1:
            raise ImageError(f"{count} images would be written to {target}: write them into separate folders.")
    return jobs


def _name(relative: Path, styles: tuple[str, ...]) -> Path:
    return relative.with_name("_".join([relative.stem, "stylized", *(Path(style).stem for style in styles)]))


def expand(pattern: str) -> list[tuple[Path, Path]]:
    """The images that a file name, folder or glob stands for, as (path, path below the folder).

    Raises:
        ImageError: If there are none. A single file is not checked here, but when it is read.
    """
    path = Path(pattern)
    if path.is_dir():
        found = [(file, file.relative_to(path)) for file in list_images(path)]
    elif glob.has_magic(pattern) and not path.exists():
        matches = (Path(match) for match in sorted(glob.glob(pattern, recursive=True)))
        found = [(file, Path(file.name)) for file in matches if file.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = [(path, Path(path.name))]
    if not found:
        raise ImageError(f"There is no image in {pattern}: expected files such as .jpg, .png or .webp.")
    return found


def batches(jobs: list[Job], size: int | None, batch_size: int) -> Iterator[list[tuple[Job, Tensor | ImageError]]]:
    """Reads the contents and joins neighbors of one size; what cannot be read comes alone, as the error."""
    batch: list[tuple[Job, Tensor | ImageError]] = []
    for job in jobs:
        image: Tensor | ImageError
        try:
            image = load_image(job.content, size)
        except ImageError as error:
            image = error
        first = batch[0][1] if batch else image
        together = isinstance(first, Tensor) and isinstance(image, Tensor) and first.shape == image.shape
        if batch and (len(batch) == batch_size or not together):
            yield batch
            batch = []
        batch.append((job, image))
    if batch:
        yield batch


def stylize_batch(stylizer: Stylizer, batch: list[tuple[Job, Tensor | ImageError]], quality: int) -> int:
    """Stylizes and writes one batch of `batches`, and returns how many of its images failed."""
    images = [image for _, image in batch if isinstance(image, Tensor)]
    if not images:
        report(*(error for _, error in batch if isinstance(error, ImageError)))
        return len(batch)
    try:
        outputs = stylizer(torch.stack(images)).cpu()
    except (StylezooError, torch.OutOfMemoryError) as error:
        report(error, *(job.content for job, _ in batch))
        return len(batch)
    failed = 0
    for (job, _), output in zip(batch, outputs, strict=True):
        try:
            write_image(output, job.target, quality)
        except ImageError as error:
            report(error)
            failed += 1
    return failed


def report(*what: object) -> None:
    """Says on standard error what is skipped and why: the errors first, then the files they concern."""
    print("skipped:", *what, file=sys.stderr)
