"""The commands of `python -m stylezoo` besides Lightning's: plain functions whose docstrings are their help."""

from __future__ import annotations

import glob
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from stylezoo import checkpoints, registry, weights
from stylezoo.images import IMAGE_SUFFIXES, ImageError, list_images, write_image
from stylezoo.inference import PreserveColor, Stylizer, load_image, load_masks, load_styles
from stylezoo.module import Iteration, Kind, StyleModel

PACKAGE = f"{Path(__file__).parents[1]}/"


def list_systems(kind: Kind | None = None, pretrained: bool = False, format: Literal["table", "json"] = "table") -> int:
    """List the systems of the zoo.

    Args:
        kind: Only systems that take this kind of style.
        pretrained: What --model accepts by name instead: weights of the package, those in your own folder, and recipes
            of systems that optimize; with what must be downloaded first.
        format: A table to read, or JSON.
    """
    rows: list[dict[str, object]] = []
    names = registry.list_models(kind)
    for name in names if not pretrained else []:
        cls = registry.get(name)
        rows.append({"name": name, "kind": cls.kind, "year": cls.year, "paper": cls.paper, "reference": cls.reference})
    for entry in registry.pretrained_models() if pretrained else []:
        if entry.system in names:
            path, first = entry.path, entry.missing and f"python -m stylezoo download {entry.missing}"
            megabytes = round(path.stat().st_size / 1e6, 1) if path.suffix != ".yaml" and path.is_file() else None
            about = {"name": entry.tag, "kind": registry.get(entry.system).kind, "MB": megabytes}
            rows.append({**about, "file": str(path), "first run": first})
    if format == "json":
        print(json.dumps(rows, indent=2))
    else:
        table = Table(*(rows[0] if rows else ["name"]), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*("-" if value is None else str(value).removeprefix(PACKAGE) for value in row.values()))
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def stylize(
    model: str,
    content: list[str],
    output: str,
    style: list[str] | None = None,
    alpha: float = 1.0,
    style_weights: str | None = None,
    preserve_color: PreserveColor = "none",
    mask: list[str] | None = None,
    size: int | None = None,
    style_size: int | None = None,
    tile: int | None = None,
    batch_size: int = 4,
    preview: int = 25,
    device: str = "auto",
    format: Literal["png", "jpg", "webp"] = "png",
    quality: int = 95,
) -> int:
    """Paint images in the style of others.

    Every content is painted with every style; with --style_weights or --mask all styles go into each image. A file
    that cannot be read is reported and skipped; the exit code is 1 if there was one.

    Args:
        model: The name of weights, such as adain or adain.slim (`python -m stylezoo list --pretrained`), a model file
            (.safetensors), or a training checkpoint (.ckpt); for systems that optimize a recipe (.yaml) or its name,
            such as gatys or gatys.modern.
        content: Images to paint: files, folders (with the folders in them) or globs.
        output: An image file if one image is painted, else a folder.
        style: Style images: files, folders or globs; for multi-style systems numbers or names of their styles (all of
            them if left out), nothing for single-style ones.
        alpha: Strength of the style, 0 to 1.
        style_weights: Blend the styles, with these weights, for example 1,2,1.
        preserve_color: Keep the content's colors: coral recolors the style first, luminance paints brightness only.
        mask: Spread the styles over regions: one gray image per style, white where it applies (or one image for
            two styles, white for the first).
        size: Resize the short side of contents to this many pixels first.
        style_size: The same for the styles; larger styles give coarser strokes.
        tile: Work in tiles of this many pixels, for images that do not fit into memory; the result is the same.
        batch_size: How many images of one size are painted together.
        preview: Systems that optimize write the unfinished image every so many iterations, beside its output as
            NAME_preview, until it is done; 0 for never.
        device: auto, cpu, cuda, mps ...
        format: Of the images in an output folder.
        quality: Of JPEG and WebP files, 1 to 100.
    """
    together = style_weights is not None or bool(mask)
    network = checkpoints.load_model(model).to(default_device() if device == "auto" else device)
    if network.kind == "optimization":  # paints one after the other anyway: each is written when it is done
        batch_size = 1
    if network.kind in ("multi", "single"):
        styles = style or (network.styles if network.kind == "multi" else [])
    else:
        styles = [str(path) for pattern in style or [] for path, _ in expand(pattern)]
    jobs = plan(content, styles, Path(output), together, format)
    masks = load_masks(mask or [], len(jobs[0].styles))
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("painting", total=len(jobs))
        for chosen, group in groupby(jobs, key=lambda job: job.styles):
            pending = list(group)
            try:
                stylizer = Stylizer(
                    network,
                    load_styles(network, chosen, style_size),
                    alpha=alpha,
                    style_weights=parse_weights(style_weights),
                    preserve_color=preserve_color,
                    masks=masks,
                    tile=tile,
                )
            except ImageError as error:  # an unreadable style spoils its own images only
                report(error, *(job.target for job in pending))
                failed += len(pending)
                progress.advance(task, len(pending))
                continue
            for batch in batches(pending, size, batch_size):
                with watched(network, progress, batch[0][0].target, preview):
                    failed += paint(stylizer, batch, quality)
                progress.advance(task, len(batch))
    print(f"{len(jobs) - failed} of {len(jobs)} images painted, {failed} failed: {output}")
    return 1 if failed else 0


@contextmanager
def watched(network: StyleModel, progress: Progress, target: Path, every: int) -> Iterator[None]:
    """Shows the iterations of a system that optimizes, and the unfinished image in a file beside its target."""
    if network.kind != "optimization":
        yield
        return
    task = progress.add_task(target.name, total=None)
    preview = target.with_name(f"{target.stem}_preview{target.suffix}")

    def show(now: Iteration) -> None:
        progress.update(task, completed=now.step, total=now.steps, description=f"{target.name}  loss {now.loss:.4g}")
        if every and now.step % every == 0 and now.step < now.steps:
            write_image(now.image, preview)

    network.on_iteration = show
    try:
        yield
    finally:
        network.on_iteration = None
        progress.remove_task(task)
    preview.unlink(missing_ok=True)  # an interrupted run leaves it


@dataclass(frozen=True)
class Job:
    """One image to paint: a content, the styles that go into it, and where it is written."""

    content: Path
    styles: tuple[str, ...]
    target: Path


def plan(content: list[str], styles: list[str], output: Path, together: bool, format: str) -> list[Job]:
    """What `stylize` will paint, ordered so that images of one style follow each other.

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
        if counts[name] > 1:  # a.jpg beside a.png: their suffixes tell them apart
            suffixes = "_".join(p.suffix.removeprefix(".") for p in (path, *map(Path, chosen)))
            name = name.with_name(f"{name.name}_{suffixes}")
        jobs.append(Job(path, chosen, output / name.with_name(f"{name.name}.{format}")))
    for target, count in Counter(job.target for job in jobs).items():
        if count > 1:
            raise ImageError(f"{count} images would be written to {target}: paint them into separate folders.")
    return jobs


def _name(relative: Path, styles: tuple[str, ...]) -> Path:
    return relative.with_name("_".join([relative.stem, "stylized", *(Path(style).stem for style in styles)]))


def expand(pattern: str) -> list[tuple[Path, Path]]:
    """The images that a file name, folder or glob stands for, as (path, path below the folder).

    Raises:
        ImageError: If there are none. A single file is not looked at: reading it will tell.
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
        picture: Tensor | ImageError
        try:
            picture = load_image(job.content, size)
        except ImageError as error:
            picture = error
        first = batch[0][1] if batch else picture
        together = isinstance(first, Tensor) and isinstance(picture, Tensor) and first.shape == picture.shape
        if batch and (len(batch) == batch_size or not together):
            yield batch
            batch = []
        batch.append((job, picture))
    if batch:
        yield batch


def paint(stylizer: Stylizer, batch: list[tuple[Job, Tensor | ImageError]], quality: int) -> int:
    """Paints and writes one batch of `batches`; returns how many of its images failed."""
    pictures = [picture for _, picture in batch if isinstance(picture, Tensor)]
    if not pictures:
        report(*(error for _, error in batch if isinstance(error, ImageError)))
        return len(batch)
    try:
        outputs = stylizer(torch.stack(pictures)).cpu()
    except (ValueError, torch.OutOfMemoryError) as error:
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


def parse_weights(text: str | None) -> list[float] | None:
    """The numbers of ``1,2,1``.

    >>> parse_weights("1,2,1")
    [1.0, 2.0, 1.0]

    Raises:
        ValueError: If these are no numbers.
    """
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--style_weights takes numbers such as 1,2,1, not {text!r}.") from None


def default_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def import_weights(system: str, files: list[str], output: str) -> int:
    """Turn public weight files into one self-contained safetensors file.

    Args:
        system: Name of the system, see `python -m stylezoo list`.
        files: The public files in any order; part=path where it is not clear which part of the model a file is.
        output: The file to write, X.safetensors; in ~/.cache/stylezoo/weights ($STYLEZOO_HOME/weights) it can be
            used by name.
    """
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"--output is a file that ends in .safetensors, not {output}.")
    model = checkpoints.import_checkpoint(system, files)
    checkpoints.save_model(model, output)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{output}: {system} with {parameters:,} parameters")
    return 0


def download(name: str) -> int:
    """Download the public weights of an encoder, of a metric's network or of a model, resumable and checked.

    Args:
        name: vgg19_normalised, vgg19_torchvision, vgg16_torchvision, vgg19_caffe or vgg16_caffe; for metrics
            art_inception or alexnet_torchvision; or what `python -m stylezoo list --pretrained` says must be downloaded.
    """
    print(weights.download(name))
    return 0


def evaluate(
    models: list[str],
    content: str,
    style: str,
    output: str,
    pairs: int | None = None,
    seed: int = 0,
    size: int = 256,
    crop: int | None = None,
    metrics: list[str] | None = None,
    encoder: str = "vgg19_normalised",
    encoder_weights: str | None = None,
    batch_size: int = 4,
    format: Literal["csv", "parquet"] = "csv",
    save_pictures: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    num_workers: int = 0,
) -> int:
    """Measure models on pairs of images, beside the unchanged content and the copied style.

    Values per pair go into MODEL.csv (or .parquet), means with 95 % intervals into summary.csv and summary.md. The same command goes on
    where an interrupted one stopped, with the same numbers, and adds models to a finished folder.

    Args:
        models: Model files, or names of weights on this machine; NAME=FILE calls a model NAME in the summary. A model of
            kind multi or single needs style images that are called like the styles it was trained on.
        content: Folder of content images, with the folders in it.
        style: Folder of style images, with the folders in it.
        output: The folder of the results.
        pairs: How many pairs are drawn, none of them twice; all contents in all styles if left out.
        seed: Decides the pairs, and what the intervals are drawn from.
        size: Resize the short side of contents and styles to this many pixels first.
        crop: Then cut out the square of this side in the middle; as large as --size if left out.
        metrics: Among content_loss ssim style_loss classic_style_loss balanced_style_loss histogan_distance (these six if
            left out), gray_ssim ms_ssim cfsd, and, with networks that are downloaded first (`python -m stylezoo download
            alexnet_torchvision`, art_inception), lpips fid art_fid.
        encoder: The VGG that content and style losses look with.
        encoder_weights: A file for that VGG; its own if left out.
        batch_size: How many pairs are painted and measured together.
        format: Of the tables of values per pair; parquet needs pyarrow (pip install stylezoo[parquet]).
        save_pictures: Keep what is painted, in the folder images of the output.
        accelerator: Where to compute: auto, cpu, gpu, mps ...
        devices: How many processes share the work, each with a device.
        strategy: How these processes work together, for example ddp.
        precision: In which models paint; metrics always look in float32.
        num_workers: Additional processes that read images.
    """
    settings = {k: v for k, v in locals().items() if k not in ("models", "content", "style", "output")}
    from stylezoo.evaluation import evaluate as run  # the other commands start without them
    from stylezoo.evaluation import store

    summary = run(models, content, style, output, **settings)
    heading, *rows = store.table(summary)
    shown = Table(*heading, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    say = rank_zero_only(Console(width=None if sys.stdout.isatty() else 240).print)
    say(shown, f"Written: {Path(output) / 'summary.md'}", sep="\n")
    return 0


def reproduce(
    name: str | None = None,
    output: str | None = None,
    list: bool = False,
    content: str | None = None,
    style: str | None = None,
    models: list[str] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    size: int | None = None,
    crop: int | None = None,
    batch_size: int | None = None,
    pictures: int | None = None,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    set: list[str] | None = None,
    charts_only: bool = False,
) -> int:
    """Reproduce a study or a table of a paper: a figure, the numbers as CSV, and a summary.

    Everything has defaults that run in minutes on a CPU without any data; the summary says with which settings it was
    made. What a study has no use for is refused.

    Args:
        name: What to reproduce; --list names them.
        output: The folder for NAME.md, NAME.csv and NAME.png.
        list: Name all studies and tables, one line each, and do nothing else; with a NAME its settings.
        content: Folder of photos, instead of procedural ones.
        style: Folder of paintings, instead of procedural ones.
        models: Trained models to study, files or names of weights, instead of briefly trained ones.
        steps: Optimizer steps of what is trained.
        seed: Decides weights, batches and pairs.
        size: Side of the images that are measured, in pixels.
        crop: Side of training crops.
        batch_size: Images per training step.
        pictures: How many images or pairs are measured.
        encoder: Encoder or loss network of what is trained, such as vgg19_normalised.
        encoder_weights: A file for it.
        set: Further settings of the study, such as iterations=100 systems=adain,sanet; NAME --list names them.
        charts_only: Leave out figures that show images, which may not be yours to publish.
    """
    given = {k: v for k, v in locals().items() if v is not None}
    options = {k: v for k, v in given.items() if k not in ("name", "output", "list", "set", "charts_only")}
    from stylezoo import studies  # the other commands start without it

    if list:
        if name is None:
            shown = Table("name", "what it shows", "source", box=None, pad_edge=False)
            for study in studies.studies().values():
                shown.add_row(study.name, study.title, study.source)
        else:
            shown = Table("setting", "default", "what it means", box=None, pad_edge=False)
            for setting in studies.get(name).settings.values():
                shown.add_row(setting.name, setting.default_word, setting.help)
        Console(width=None if sys.stdout.isatty() else 240).print(shown)
        return 0
    if name is None or output is None:
        raise ValueError("Say what to reproduce and where to: reproduce NAME --output FOLDER (--list names them).")
    others = studies.get(name).parse(set or [])
    twice = [key for key in others if key in options]
    if twice:
        raise ValueError(f"{' and '.join(twice)} is given twice: by --{twice[0]} and by --set.")
    result, files = studies.run(name, output, charts_only=charts_only, **options, **others)
    print(*result.notes, sep="\n")
    print(f"Written: {', '.join(map(str, files))}")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "list": list_systems,
    "stylize": stylize,
    "import": import_weights,
    "download": download,
    "evaluate": evaluate,
    "reproduce": reproduce,
}
"""The commands by name; `stylezoo.cli` turns each signature into options."""
