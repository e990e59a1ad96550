"""The commands of `python -m stylezoo` besides Lightning's: plain functions whose docstrings are their help.

This module imports nothing that takes long: `stylezoo.cli` reads the options from the signatures, and a command imports
what it needs when it runs, after it has checked what can be checked without.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from stylezoo import catalog, hub, plugins
from stylezoo.controls import (
    CONTROLS,
    ClipControls,
    Codec,
    Controls,
    EngineName,
    ExportFormat,
    ExportPrecision,
    Kind,
    PreserveColor,
    Stability,
    StyleInput,
    TileStatistics,
    alpha_range,
    check_run,
)
from stylezoo.docstrings import described
from stylezoo.errors import MissingFileError, StylezooError, check_number, unknown_name
from stylezoo.files import nearest

PACKAGE = f"{Path(__file__).parents[1]}/"


def list_systems(
    kind: Kind | None = None,
    pretrained: bool = False,
    format: Literal["table", "json"] = "table",
    gallery: bool = True,
) -> int:
    """List the systems of the zoo.

    Terminals of 24-bit colors show a small picture of each, what it makes of the same photo and painting.

    Examples:
        python -m stylezoo list --kind arbitrary
        python -m stylezoo list --pretrained

    Args:
        kind: Only systems that take this kind of style.
        pretrained: What --model accepts by name instead: weights of the package, those in your own folder, and recipes
            of systems that optimize; with what must be downloaded first.
        format: A table to read, or JSON.
        gallery: Whether pictures are shown where the terminal can: --gallery false leaves them out.
    """
    chosen = {system.name: system for system in _systems() if kind in (None, system.kind)}
    rows = _pretrained(chosen) if pretrained else [_row(system) for system in chosen.values()]
    if format == "json":
        print(json.dumps(rows, indent=2))
    else:
        if gallery and not pretrained:
            _print_gallery(chosen)
        heading = list(rows[0] if rows else ["name"])
        shown = [["-" if value is None else str(value).removeprefix(PACKAGE) for value in row.values()] for row in rows]
        _print_table(heading, shown, 160)
    return 0


def _print_gallery(names: Iterable[str]) -> None:
    """Prints small pictures of systems, if the terminal can show them."""
    from rich.console import Console

    from stylezoo import gallery

    console = Console()
    if gallery.can_show(console):
        console.print(gallery.gallery(["photo", "painting", *names], console.width))


def _systems() -> Iterable[catalog.System]:
    """Returns all systems; where a package announces one that its source does not describe, after importing it."""
    if all(entry.name in catalog.systems() for entry in plugins.entries()):
        return catalog.systems().values()
    from stylezoo import registry

    return [registry.about(cls) for cls in registry.systems().values()]


def _row(system: catalog.System) -> dict[str, object]:
    """Returns what `list` shows of a system."""
    return {name: getattr(system, name) for name in ("name", "kind", "year", "paper", "reference")}


def _pretrained(systems: Mapping[str, catalog.System]) -> list[dict[str, object]]:
    """Returns what `list --pretrained` shows of the models of some systems."""
    from stylezoo import registry

    rows: list[dict[str, object]] = []
    for entry in registry.pretrained_models():
        if entry.system in systems:
            path, first = entry.path, entry.missing and f"python -m stylezoo download {entry.missing}"
            megabytes = round(path.stat().st_size / 1e6, 1) if path.suffix != ".yaml" and path.is_file() else None
            about = {"name": entry.tag, "kind": systems[entry.system].kind, "MB": megabytes}
            rows.append({**about, "file": str(path), "first run": first})
    return rows


def _print_table(heading: Sequence[str], rows: Sequence[Sequence[str]], width: int, *notes: str) -> None:
    """Prints a table, and lines below it.

    Args:
        heading: Names of the columns.
        rows: Rows of as many words.
        width: Characters per line where the output is no terminal.
        notes: Lines that follow the table.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, heading), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else width).print(table, *map(escape, notes), sep="\n")


def _print_wide_table(heading: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    """Prints a table in parts that are not wider than the terminal, each with the first column and an empty line below.

    Args:
        heading: Names of the columns.
        rows: Rows of as many words.
        width: Characters per line where the output is no terminal.
    """
    from rich.console import Console

    if sys.stdout.isatty():
        width = Console().width
    first, *widths = (max(map(len, column)) for column in zip(heading, *rows, strict=True))
    parts: list[list[int]] = [[]]
    taken = first
    for number, needed in enumerate(widths, 1):
        if parts[-1] and taken + 2 + needed > width:
            parts.append([])
            taken = first
        parts[-1].append(number)
        taken += 2 + needed
    for part in parts:
        _print_table(
            [heading[0], *(heading[i] for i in part)], [[row[0], *(row[i] for i in part)] for row in rows], width
        )
        print()


def _check_model(name: str) -> None:
    """Raises a StylezooError if it is clear without PyTorch that `stylezoo.load_model` finds no such model."""
    from stylezoo.download import cache_folder

    path = Path(name)
    if hub.repository(name) is not None:
        return
    if path.suffix in (".safetensors", ".ckpt"):
        if not path.exists():
            raise MissingFileError(f"There is no model file {name}.{nearest(name)}")
    elif path.suffix not in (".yaml", ".yml") and not path.exists():
        system = catalog.spelled(name.partition(".")[0])
        if not catalog.is_system(system) and not (cache_folder() / "weights" / f"{name}.safetensors").exists():
            hint = nearest(name) if path.suffix or path.parent.name else ""
            if hint:
                raise MissingFileError(f"There is no model {name}.{hint}")
            raise unknown_name("There is no system", system, catalog.systems(), "the zoo has")


def _check_styles(model: str, styles: Sequence[str]) -> None:
    """Raises a StylezooError if a model that is named by its system needs a style and gets none, or the other way round."""
    system = None if Path(model).exists() else catalog.systems().get(catalog.spelled(model.partition(".")[0]))
    if system is not None and system.kind == "arbitrary" and not styles:
        raise StylezooError(f"{system.name} takes any image as style: give at least one (--style).")
    if system is not None and system.kind == "single" and styles:
        raise StylezooError(f"{system.name} stylizes with the one style that it was trained on: leave --style out.")


@described(CONTROLS)
def stylize(  # noqa: D417 - the decorator describes the controls
    model: str,
    output: str,
    content: list[str] | None = None,
    style: list[str] | None = None,
    alpha: float = 1.0,
    style_weights: list[float] | None = None,
    preserve_color: PreserveColor = "none",
    masks: list[str] | None = None,
    size: int | None = None,
    style_size: int | None = None,
    tile: int | Literal["auto", "none"] = "auto",
    tile_statistics: TileStatistics = "exact",
    pairs: str | None = None,
    random_styles: int | None = None,
    seed: int = 0,
    skip_existing: bool = False,
    batch_size: int = 4,
    preview: int = 25,
    engine: EngineName = "auto",
    device: str = "auto",
    format: Literal["png", "jpg", "webp"] = "png",
    quality: int = 95,
    stability: Stability = "none",
    codec: Codec = "auto",
    seconds: float | None = None,
    report: bool = False,
) -> int:
    """Stylize images, videos and animations with the styles of images.

    Every content is stylized with every style; with --style_weights or --masks all styles go into each image. All files
    and places are checked before the model is loaded. A file that cannot be used is reported and skipped; the exit code
    is 1 if there was one. Started by torchrun or srun, each process does its share (docs/many_machines.md).

    Examples:
        python -m stylezoo stylize --model adain --content photo.jpg --style painting.jpg --output out.png
        python -m stylezoo stylize --model adain --content photos/ --style a.jpg b.jpg --output stylized/ --size 512
        python -m stylezoo stylize --model adain --content photo.jpg --style a.jpg b.jpg --style_weights 1,2 --output out.png
        python -m stylezoo stylize --model johnson.starry_night --content clip.mp4 --output out.mp4 --stability flow

    Args:
        model: The name of weights, such as adain or adain.slim (`python -m stylezoo list --pretrained`), a model file
            (.safetensors), or a training checkpoint (.ckpt); for systems that optimize a recipe (.yaml) or its name,
            such as gatys or gatys.modern.
        output: A file if one image or clip is stylized, else a folder. An output never replaces an input, and the images
            of an output folder that lies in a folder of contents are not contents.
        content: Images and clips to stylize: files, folders (with the folders in them) or globs. Clips are videos, animated
            GIF and WebP images, and cameras (camera:0), which are recorded until Ctrl-C.
        style: Style images: files, folders or globs, or banks of encoded styles (`python -m stylezoo encode-style`):
            styles.safetensors for all of them, styles.safetensors:waves for one. For multi-style systems numbers or names
            of their styles (all of them if left out), nothing for single-style ones.
        pairs: A CSV file with the columns content and style, one image per line, instead of --content and --style. What
            was made is listed in OUTPUT/stylized.csv.
        random_styles: Number of styles, drawn from --style, that each content gets. What was drawn is listed in
            OUTPUT/stylized.csv.
        seed: Seed of the draw of --random_styles.
        skip_existing: Leave images as they are that exist already, to continue an interrupted run.
        batch_size: Number of images of one size that are stylized together.
        preview: Systems that optimize write the unfinished image every so many iterations, beside its output as
            NAME_preview, until it is done; 0 for never.
        format: Of the images in an output folder; clips keep theirs if it is written, else they become .mp4.
        quality: Of JPEG and WebP files and of videos, 1 to 100.
        stability: How frames of a clip are kept from flickering: statistics smooths over time the statistics by which the
            model normalizes, flow also blends each output with the one before along the optical flow.
        codec: Of videos; auto takes the usual one of the container.
        seconds: End clips, and recordings of a camera, after so many seconds.
        report: Measure the flicker of clips, with and without stability, and print it.
    """
    from stylezoo.inference.plan import Request, make_plan, write_manifest
    from stylezoo.inference.shards import find_shard

    controls = Controls(
        alpha,
        style_weights,
        preserve_color,
        size,
        style_size,
        None if tile == "none" else tile,
        tile_statistics,
        bool(masks),
        engine,
    )
    clips = ClipControls(stability, codec, seconds, report)
    check_run(batch_size, preview, quality)
    _check_model(model)
    if pairs is None:
        _check_styles(model, style or [])
    if not output:
        raise StylezooError("--output has no name: give a file or a folder.")
    request = Request(
        content or [],
        style or [],
        Path(output),
        masks or [],
        together=style_weights is not None or bool(masks),
        format=format,
        pairs=pairs,
        random_styles=random_styles,
        seed=seed,
        skip_existing=skip_existing,
        shard=find_shard(),
    )
    plan = make_plan(request, request.style_names(model))
    plan.check_counts(controls.style_weights, len(request.masks))
    plan.check_clips(clips)
    if not plan.jobs and request.shard.world == 1:
        plan.report()
        if request.has_manifest and plan.existing:  # a run may have been killed before it listed its images
            write_manifest(request, [], controls.alpha, plan.existing)
        return plan.finish(request.output)
    from stylezoo.inference.files import stylize_files  # imports PyTorch

    return stylize_files(
        model,
        request,
        plan,
        controls,
        clips=clips,
        batch_size=batch_size,
        preview=preview,
        quality=quality,
        device=device,
    )


@described(CONTROLS)
def stylize_dataset(  # noqa: D417 - the decorator describes the controls
    model: str,
    content: str,
    output: str,
    style: list[str] | None = None,
    per_image: int = 1,
    alpha: list[float] | None = None,
    seed: int = 0,
    copy: list[str] | None = None,
    processes: int = 1,
    preserve_color: PreserveColor = "none",
    style_size: int | None = None,
    batch_size: int = 4,
    engine: EngineName = "auto",
    device: str = "auto",
    quality: int = 95,
) -> int:
    """Stylize a whole data set: the same folders, names, sizes and formats, each image in a style that is drawn for it.

    Works for any folder tree, such as ImageFolder or COCO. Files that are no images, such as annotations, are copied. What an
    image gets depends on the seed and its path in the data set alone, and is listed in OUTPUT/stylized.csv with the SHA-256 of
    the model. The same command continues an interrupted run. Files that cannot be used are left out and listed at the end;
    the exit code is 1 if there was one. The data set is never changed.

    Examples:
        python -m stylezoo stylize-dataset --model adain --content photos --style paintings --output stylized --alpha 0.5,1
        python -m stylezoo stylize-dataset --model adain --content coco --style paintings --output stylized --per_image 2 --processes 2

    Args:
        model: What stylize takes.
        content: The folder of the data set.
        output: The folder to write, which is not in that of the data set.
        style: What stylize takes: style images, folders, globs, banks of encoded styles; numbers or names of trained styles.
        per_image: Number of versions of each image, in different styles: name.jpg, name_2.jpg and so on. In COCO files the
            further versions get entries of their own.
        alpha: Strength of the style, 0 to 1, or the smallest and the largest one (0.5,1), between which it is drawn; 1 if left
            out.
        seed: Of the draws.
        copy: Patterns of paths in the data set, such as "masks/*": images that match are copied, not stylized.
        processes: Number of processes on this machine; each has a share of the images, and loads the model. Several machines:
            torchrun or srun, as with stylize (docs/many_machines.md).
        batch_size: Number of images of one size and style that are stylized together.
        quality: Of JPEG and WebP files, 1 to 100.
    """
    from stylezoo.inference.datasets import DatasetRequest, Options
    from stylezoo.inference.datasets import stylize_dataset as run
    from stylezoo.inference.shards import find_shard

    controls = Controls(preserve_color=preserve_color, style_size=style_size, engine=engine)
    check_run(batch_size, 0, quality)
    for name, value in (("per_image", per_image), ("processes", processes)):
        check_number(name, value, "a whole number from 1 up", 1, whole=True)
    alphas = alpha_range(1.0 if alpha is None else alpha)
    _check_model(model)
    if not output:
        raise StylezooError("--output has no name: give a folder.")
    request = DatasetRequest(
        [content],
        style or [],
        Path(output),
        random_styles=per_image,
        seed=seed,
        skip_existing=True,
        shard=find_shard(),
        model=model,
        alphas=alphas,
        copy=copy or [],
        controls=controls,
    )
    return run(request, Options(batch_size, quality, device), processes)


def import_weights(system: str, files: list[str], output: str, any_encoder: bool = False) -> int:
    """Turn public weight files into one self-contained safetensors file.

    Examples:
        python -m stylezoo import --system adain --files decoder.pth vgg_normalised.pth --output adain.public.safetensors

    Args:
        system: Name of the system, see `python -m stylezoo list`.
        files: The public files in any order; part=path where it is not clear which part of the model a file is.
        output: The file to write, X.safetensors; in ~/.cache/stylezoo/weights ($STYLEZOO_HOME/weights) it can be
            used by name.
        any_encoder: Take the file of an encoder even if it seems to be of another kind than the system expects.
    """
    if Path(output).suffix != ".safetensors":
        raise StylezooError(f"--output is a file that ends in .safetensors, not {output}.")
    if not catalog.is_system(catalog.spelled(system)):
        raise unknown_name("There is no system", system, catalog.systems(), "the zoo has")
    for file in files:
        path = Path(file.partition("=")[2] if "=" in file and not Path(file).exists() else file)
        if not path.exists():
            raise MissingFileError(f"There is no file {path}.{nearest(path)}")
    from stylezoo import checkpoints

    model = checkpoints.import_checkpoint(system, files, any_encoder=any_encoder)
    checkpoints.save_model(model, output)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{output}: {system} with {parameters:,} parameters")
    return 0


def download(name: str) -> int:
    """Download the public weights of an encoder, of a metric's network or of a model, resumable and checked.

    Examples:
        python -m stylezoo download vgg19_normalised

    Args:
        name: vgg19_normalised, vgg19_torchvision, vgg16_torchvision, vgg19_caffe or vgg16_caffe; for metrics
            art_inception or alexnet_torchvision; or what `python -m stylezoo list --pretrained` says must be downloaded.
    """
    known = catalog.weight_files()
    if name not in known:
        raise unknown_name("There is no file to download for", name, known, "choose one of")
    from stylezoo import weights

    print(weights.download(name))
    return 0


EVALUATE_OPTIONS = {
    "pairs": "Number of pairs, drawn without repetition; all contents with all styles if left out.",
    "seed": "Seed of the pairs and of the intervals.",
    "size": "Short side in pixels to which contents and styles are resized first.",
    "crop": "Side in pixels of the central square that is cut from them; the same as --size if left out.",
    "split": (
        "Use only images of these splits, among val, test and train, of both folders: `--split val test` are the images that"
        " training on these folders leaves out. Styles of models of kind multi and single are not split. All images if"
        " left out."
    ),
    "reference": (
        "Name of one of the models: show the values of all others divided by its values, pair by pair, too. If left out,"
        " the one that the output had before, or none."
    ),
    "metrics": (
        "Among content_loss ssim style_loss classic_style_loss balanced_style_loss histogan_distance (these six "
        "if left out), target_content_loss (the distance to AdaIN's target), grid_2 grid_4 grid_8 colorfulness_ratio"
        " clipped_share (what losses miss), gray_ssim ms_ssim cfsd, and, with networks that are downloaded first (`python -m stylezoo "
        "download alexnet_torchvision`, art_inception), lpips fid art_fid."
    ),
    "encoder": (
        "The VGG of content and style losses; if left out vgg19_normalised, or, where that is not on this machine,"
        " vgg19_slim, which ships."
    ),
    "encoder_weights": "A weight file for that VGG; its own if left out.",
    "batch_size": "Number of pairs that are stylized and measured together.",
    "format": "Format of the values per pair; parquet needs pyarrow (pip install stylezoo[parquet]).",
    "save_images": "Write the outputs, too, to the subfolder images of the output.",
    "accelerator": "Where to compute: auto, cpu, gpu, mps ...",
    "devices": "Number of processes, each with a device.",
    "strategy": "How the processes work together, for example ddp.",
    "precision": "Precision in which models run; metrics are always computed in float32.",
    "num_workers": "Number of additional processes that read images.",
}
"""Descriptions of the options of `evaluate`."""


@described(EVALUATE_OPTIONS)
def evaluate(  # noqa: D417 - the decorator describes the options
    models: list[str],
    content: str,
    style: str,
    output: str,
    pairs: int | None = None,
    seed: int = 0,
    size: int = 256,
    crop: int | None = None,
    split: list[str] | None = None,
    reference: str | None = None,
    metrics: list[str] | None = None,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    batch_size: int = 4,
    format: Literal["csv", "parquet"] = "csv",
    save_images: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    num_workers: int = 0,
) -> int:
    """Measure models on pairs of images, beside two baselines: the unchanged content and the copied style.

    Values per pair are written to MODEL.csv (or .parquet); means with 95 % intervals, medians with percentiles and ratios to a
    reference model to summary.csv and summary.md. The same command continues an interrupted evaluation, with the same
    numbers, and adds models to a finished folder. Images
    that cannot be read, and pairs on which a model fails, are named and left out; the exit code is 1 if there were any.

    Examples:
        python -m stylezoo evaluate --models adain sanet --content photos/ --style paintings/ --output measured/
        python -m stylezoo evaluate --models mine=runs/adain/version_0/checkpoints/last.ckpt adain --reference adain --split val test --content photos/ --style paintings/ --pairs 100 --output measured/

    Args:
        models: Model files, or names of weights on this machine; NAME=FILE calls a model NAME in the summary. A model
            of kind multi or single needs style images that are called like the styles it was trained on.
        content: Folder of content images, with its subfolders.
        style: Folder of style images, with its subfolders.
        output: Folder of the results.
    """
    for model in models:
        _check_model(model.partition("=")[2] if "=" in model and not Path(model).exists() else model)
    from stylezoo.images import folder_images

    for folder in (content, style):
        folder_images(folder)
    from lightning.pytorch.utilities import rank_zero_only

    from stylezoo.evaluation import evaluate as run
    from stylezoo.evaluation import store

    summary = run(
        models,
        content,
        style,
        output,
        pairs=pairs,
        seed=seed,
        size=size,
        crop=crop,
        split=None if split is None else [name for word in split for name in word.split(",")],
        reference=reference,
        metrics=metrics,
        encoder=encoder,
        encoder_weights=encoder_weights,
        batch_size=batch_size,
        format=format,
        save_images=save_images,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        precision=precision,
        num_workers=num_workers,
    )
    for caption, (heading, *rows) in store.tables(summary):
        rank_zero_only(print)(f"{caption}:")
        rank_zero_only(_print_wide_table)(heading, rows, 240)
    rank_zero_only(print)(f"Written: {Path(output) / 'summary.md'}")
    for sentence in store.remarks(Path(output)):
        rank_zero_only(print)(sentence, file=sys.stderr)
    return 1 if store.left_out(Path(output)) else 0


REPRODUCE_OPTIONS = {
    "list_studies": "List all studies and tables, one line each, and do nothing else; with a NAME its settings.",
    "content": "Folder of photos, instead of procedural ones.",
    "style": "Folder of paintings, instead of procedural ones.",
    "models": "Trained models to study, files or names of weights, instead of briefly trained ones.",
    "steps": "Optimizer steps of each trained network.",
    "seed": "Seed of weights, batches and pairs.",
    "size": "Side of the images that are measured, in pixels.",
    "crop": "Side of training crops, in pixels.",
    "batch_size": "Images per training step.",
    "images": "Number of images or pairs that are measured.",
    "encoder": "Encoder or loss network of trained networks, such as vgg19_normalised.",
    "encoder_weights": "A file for it.",
    "settings": "Further settings of the study, such as iterations=100 systems=adain,sanet; NAME --list shows them.",
    "charts_only": "Leave out figures that show images, which may not be yours to publish.",
}
"""Descriptions of the options of `reproduce`."""


@described(REPRODUCE_OPTIONS)
def reproduce(  # noqa: D417 - the decorator describes the options
    name: str | None = None,
    output: str | None = None,
    list_studies: bool = False,
    content: str | None = None,
    style: str | None = None,
    models: list[str] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    size: int | None = None,
    crop: int | None = None,
    batch_size: int | None = None,
    images: int | None = None,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    settings: list[str] | None = None,
    charts_only: bool = False,
) -> int:
    """Reproduce a study or a table of a paper: a figure, the numbers as CSV, and a summary.

    Everything has defaults that run in minutes on a CPU without any data; the summary lists the settings that were used.
    Settings that a study does not have are refused.

    Examples:
        python -m stylezoo reproduce --list
        python -m stylezoo reproduce balanced_loss --output measured/
        python -m stylezoo reproduce alpha_sweep --models adain --content photos/ --style paintings/ --output measured/

    Args:
        name: What to reproduce; --list shows the names.
        output: The folder for NAME.md, NAME.csv and NAME.png.
    """
    known = catalog.studies()
    if name is not None and name not in known:
        raise unknown_name("There is nothing to reproduce called", name, known, "there are")
    if list_studies:
        _list_studies(name)
        return 0
    if name is None or output is None:
        raise StylezooError("Say what to reproduce and where to: reproduce NAME --output FOLDER (--list names them).")
    from stylezoo import studies

    options = {
        "content": content,
        "style": style,
        "models": models,
        "steps": steps,
        "seed": seed,
        "size": size,
        "crop": crop,
        "batch_size": batch_size,
        "images": images,
        "encoder": encoder,
        "encoder_weights": encoder_weights,
    }
    given = {option: value for option, value in options.items() if value is not None}
    others = studies.get(name).parse(settings or [])
    twice = [option for option in others if option in given]
    if twice:
        raise StylezooError(f"{' and '.join(twice)} is given twice: by --{twice[0]} and by --set.")
    result, files = studies.run(name, output, charts_only=charts_only, **given, **others)
    print(*result.notes, sep="\n")
    print(f"Written: {', '.join(map(str, files))}")
    return 0


def _list_studies(name: str | None) -> None:
    """Prints all studies, or the settings of one."""
    if name is None:
        rows = [(study.name, study.title, study.source) for study in catalog.studies().values()]
        _print_table(("name", "what it shows", "source"), rows, 240)
    else:
        from stylezoo import studies

        settings = studies.get(name).settings.values()
        rows = [(setting.name, setting.default_word, setting.help) for setting in settings]
        _print_table(("setting", "default", "what it means"), rows, 240)


def compare(
    content: list[str],
    style: list[str],
    output: str,
    models: list[str] | None = None,
    size: int = 256,
    columns: int = 5,
    device: str = "auto",
) -> int:
    """Draw what several models make of the same images on one sheet, with their names.

    One content and one style give a sheet of all models; several give a row per pair. An image that cannot be read, and a
    model that fails, are reported and left out; the exit code is 1 if there was one.

    Examples:
        python -m stylezoo compare --content photo.jpg --style painting.jpg --output sheet.png
        python -m stylezoo compare --models adain sanet --content photos/ --style paintings/ --output sheet.png

    Args:
        content: Contents: files, folders or globs.
        style: Styles: files, folders or globs. Models of given styles show the one of the same name, or their first.
        output: The image file to write.
        models: Names of weights, model files or checkpoints; all models on this machine that take any image as style if
            left out (`python -m stylezoo list --pretrained --kind arbitrary`).
        size: Long side of the images in pixels.
        columns: Images in a row where there is one pair.
        device: Where to compute: auto, cpu, cuda, mps ...
    """
    for name, value, lowest in (("size", size, 32), ("columns", columns, 1)):
        if value < lowest:
            raise StylezooError(f"{name} must be {lowest} or more, not {value}.")
    from stylezoo import checkpoints, registry
    from stylezoo.images import IMAGE_SUFFIXES, write_image
    from stylezoo.inference.comparison import compare as run
    from stylezoo.inference.comparison import read_images
    from stylezoo.inference.stylizer import find_device

    if Path(output).suffix.lower() not in IMAGE_SUFFIXES:
        raise StylezooError(f"--output is an image file such as sheet.png, not {output}.")
    for name in models or []:
        checkpoints.find_model(name)
    (contents, broken), (styles, more) = read_images(content, size), read_images(style, size)
    names = models or registry.list_models("arbitrary", pretrained=True)
    comparison = run(names, contents, styles, str(find_device(device)))
    write_image(comparison.sheet(columns), output)
    failed = broken + more + comparison.failed
    print(f"{len(names)} models, {len(contents)} contents, {len(styles)} styles, {failed} failed: {output}")
    return 1 if failed else 0


def train_style(
    painting: str,
    output: str,
    content: str | None = None,
    run: str | None = None,
    minutes: float = 10.0,
    steps: int | None = None,
    style_size: int | None = None,
    resume: bool = False,
) -> int:
    """Train a network for the style of one image, in minutes on a CPU, without downloads.

    This is `fit` with the recipes johnson.yaml and own_style.yaml, whose losses are those of the encoder that ships. The
    result is a model file for `stylize --model`, which needs no --style.

    Examples:
        python -m stylezoo train-style painting.jpg --output my_style.safetensors
        python -m stylezoo train-style painting.jpg --output my_style.safetensors --content photos/ --minutes 30 --resume

    Args:
        painting: The image whose style is learned.
        output: The model file to write, X.safetensors.
        content: Folder of photos to train on; procedural ones if left out.
        run: Folder of the runs version_0, version_1 ... with checkpoints, losses and images of their progress; runs/X if
            left out.
        minutes: When to stop at the latest, in minutes of training.
        steps: When to stop, in optimizer steps; those of the recipe if left out.
        style_size: Pixels to which the longer side of the painting is resized; smaller gives finer strokes. That of the
            recipe if left out.
        resume: Continue the last training in that folder, for as many minutes, up to that number of steps.
    """
    from stylezoo.own_style import train_style as train

    about = train(painting, output, content, run, minutes, steps, style_size, resume)
    print(f"{output}: stylize with it (python -m stylezoo stylize --model {output} --content ... --output ...)")
    print(*about, sep="\n")
    return 0


def prepare(
    content: str,
    output: str | None = None,
    size: int = 512,
    format: Literal["raw", "jpeg"] = "raw",
    quality: int = 95,
    workers: int | None = None,
) -> int:
    """Resize the images of a data set once, so that training reads them 10 to 100 times faster.

    `fit --data.content.prepared true` (or data.style.prepared) reads the output, with the same crops for the same seeds.
    The same command continues an interrupted run, and updates the output when images were added, changed or removed. Images
    that cannot be read are named at the end and left out; the exit code is 1 if there was one.

    Examples:
        python -m stylezoo prepare --content data/wikiart --size 512

    Args:
        content: Folder of a data set, such as data/coco or data/wikiart, with its subfolders.
        output: Folder to write; CONTENT.prepared if left out, where training finds it without its name.
        size: Short side in pixels to which images are resized, the largest data.size that training can ask for.
        format: What is stored: raw pixels (1 MB per image of size 512, the fastest) or jpeg (0.1 MB).
        quality: Of JPEG, 1 to 100.
        workers: Number of threads that read images; the number of CPUs if left out.
    """
    for name, value, highest in (("size", size, 2**15), ("quality", quality, 100), ("workers", workers or 1, 512)):
        check_number(name, value, f"a whole number from 1 to {highest}", 1, highest, whole=True)
    source = Path(content).expanduser()
    target = Path(output).expanduser() if output else source.with_name(source.name + ".prepared")
    if not source.is_dir():
        raise MissingFileError(f"--content: there is no folder {content}.{nearest(content)}")
    from stylezoo.data import prepared

    index = prepared.prepare(source, target, size, format, quality, workers)
    for sentence in index.broken.values():
        print(f"left out: {sentence}", file=sys.stderr)
    size_on_disk = sum(row.length for row in index.rows.values()) / 1e9
    print(
        f"{target}: {len(index.rows):,} images of size {size}, {size_on_disk:.2f} GB, {len(index.broken)} left out; read them"
        " with --data.content.prepared true (or --data.style.prepared true)"
    )
    return 1 if index.broken else 0


def encode_style(
    model: str,
    style: list[str],
    output: str,
    style_size: int | None = None,
    tile: int | None = None,
    engine: EngineName = "auto",
    device: str = "auto",
) -> int:
    """Encode styles once, for use with many images: a bank of style codes in one small file.

    `stylize --style FILE.safetensors` then uses all of its styles, FILE.safetensors:NAME one of them; a style is called like
    its image. Codes belong to the weights that encoded them.

    Examples:
        python -m stylezoo encode-style --model adain --style paintings/ --output styles.safetensors

    Args:
        model: The name of weights, such as adain, or a model file; of a system that takes any image as style.
        style: Style images: files, folders or globs.
        output: The file to write, X.safetensors.
        style_size: Short side in pixels to which the styles are resized first; theirs if left out.
        tile: Side in pixels of the tiles in which the encoder works, for large images.
        engine: What runs the encoder, see stylize.
        device: Where to compute: auto, cpu, cuda, mps ...
    """
    from stylezoo.inference.banks import SUFFIX

    controls = Controls(style_size=style_size, tile=tile, engine=engine)
    if Path(output).suffix != SUFFIX:
        raise StylezooError(f"--output is a file that ends in {SUFFIX}, not {output}.")
    _check_model(model)
    from stylezoo.inference.encoding import encode_files  # imports PyTorch

    return 1 if encode_files(model, style, output, controls, device) else 0


def export(
    model: str,
    output: str,
    style_input: StyleInput | None = None,
    style: str | None = None,
    alpha: float | None = None,
    precision: ExportPrecision = "float32",
    format: ExportFormat = "onnx",
) -> int:
    """Write a model to a file that runs without this package, for any batch, height and width (docs/export.md).

    The outputs of the file are compared with those of the model at three sizes before it is written.

    Examples:
        python -m stylezoo export --model adain --output adain.onnx
        python -m stylezoo export --model adain --output waves.onnx --style waves.jpg --alpha 0.8 --precision int8

    Args:
        model: The name of weights, such as adain, or a model file; of any system but gatys.
        output: The file to write, X.onnx, or X.pt2 with --format torch.
        style_input: Whether the file takes style images or encoded styles; images if left out, and weights over the trained
            styles where a system has such.
        style: A style that is fixed instead: an image, or the number or name of a trained style.
        alpha: Fixed strength of the style, 0 to 1. If left out it is an input where it costs nothing, else 1.
        precision: float16 and int8 make smaller files; refused where outputs differ by more than 2 of 255 on average.
        format: onnx, or torch for a program of torch.export.
    """
    _check_model(model)
    if not Path(output).suffix:
        raise StylezooError(f"--output is a file that ends in {'.onnx' if format == 'onnx' else '.pt2'}, not {output}.")
    from stylezoo import exporters  # imports PyTorch

    written = exporters.export(
        model, output, style_input=style_input, style=style, alpha=alpha, precision=precision, format=format
    )
    inputs = ", ".join(f"{name} {tuple(shape)}".replace("'", "") for name, shape in written.inputs.items())
    print(f"{output}: {written.bytes / 1e6:.1f} MB, inputs {inputs}")
    print(
        f"Three sizes compared with PyTorch: largest error {written.largest_error:.1e},"
        f" {255 * written.mean_error:.2g} of 255 on average."
    )
    return 0


def tune(models: list[str], engines: list[str] | None = None, device: str = "auto") -> int:
    """Measure which engine is fastest for a model on this machine, and remember it for --engine auto.

    The measurement takes some seconds per engine, with an image of 256 x 256 pixels. It is remembered per system, settings,
    processor, number of threads and version of PyTorch in ~/.cache/stylezoo/engines.json ($STYLEZOO_HOME/engines.json).

    Examples:
        python -m stylezoo tune --models adain sanet

    Args:
        models: Names of weights or model files.
        engines: Names of engines (eager winograd channels_last compiled bfloat16 openvino onnxruntime cuda); all that this
            machine has if left out, on CPUs without compiled, which takes a minute.
        device: Where to compute: auto, cpu, cuda, mps ...
    """
    for model in models:
        _check_model(model)
    from stylezoo.checkpoints import load_model
    from stylezoo.inference.stylizer import find_device
    from stylezoo.inference.tuning import check_names, measure_engines

    names = check_names(engines)
    target = find_device(device)
    for model in models:
        network = load_model(model).to(target)
        result = measure_engines(network, names)
        slowest = max((timing.seconds for timing in result.timings.values()), default=1.0)
        reference = result.timings["eager"].seconds if "eager" in result.timings else slowest
        rows = [
            (name, f"{timing.seconds:.2f}", f"{timing.preparation:.1f}", f"{reference / timing.seconds:.2f}", "")
            for name, timing in sorted(result.timings.items(), key=lambda item: item[1].seconds)
        ]
        rows += [
            (name, "-", "-", "-", reason) for name, reason in result.obstacles.items() if name not in result.timings
        ]
        heading = ("engine", "s per megapixel", "s per image size", "times eager", "why not")
        print(f"{network.tag or network.system}:")
        _print_table(heading, rows, 200)
    return 0


def demo(
    models: list[str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
    device: str = "auto",
    megapixels: float = 4.0,
    megabytes: int = 50,
    seconds: float = 20.0,
    waiting: int = 20,
) -> int:
    """Open a web page that stylizes photos and videos, compares all models, blends styles and paints regions.

    It is served on this machine only, unless --host says otherwise, and loads nothing from elsewhere. Requests are done one
    after the other.

    Examples:
        python -m stylezoo demo --browser
        python -m stylezoo demo --models adain sanet my_style.safetensors --port 8000

    Args:
        models: Names of weights or model files to offer; all on this machine if left out.
        host: Address to serve at. 0.0.0.0 lets everyone use it who can reach this machine.
        port: Of the address; the first free one from 7860 on if left out.
        browser: Open the page in a browser.
        device: Where to compute: auto, cpu, cuda, mps ...
        megapixels: Largest output; larger images are resized to it.
        megabytes: Largest file that can be uploaded.
        seconds: Longest output of a video.
        waiting: Requests that may wait for their turn; further ones are refused with a message.
    """
    for name, value in (
        ("megapixels", megapixels),
        ("megabytes", megabytes),
        ("seconds", seconds),
        ("waiting", waiting),
    ):
        whole = name in ("megabytes", "waiting")
        check_number(
            name,
            value,
            "a whole number from 1 up" if whole else "a number from 0.01 up",
            1 if whole else 0.01,
            whole=whole,
        )
    if port is not None:
        check_number("port", port, "a number from 1 to 65535", 1, 65535, whole=True)
    for model in models or []:
        _check_model(model)
    if find_spec("gradio") is None:
        raise MissingFileError('The page needs Gradio, which is not installed: pip install "stylezoo[demo]".')
    from stylezoo.demo.backend import Backend, Limits
    from stylezoo.demo.page import launch

    page = launch(Backend(models or (), device, Limits(megapixels, megabytes, seconds, waiting)), host, port, browser)
    print(f"The page is at {page.local_url} (Ctrl-C ends it).", flush=True)
    page.block_thread()
    return 0


def doctor() -> int:
    """Check the installation: versions, devices, engines, folders, downloads, and a block for a bug report.

    Nothing is sent anywhere. The block at the end is Markdown to paste; paths in it begin with ~ or are shortened. The exit
    code is 1 if something is wrong.

    Examples:
        python -m stylezoo doctor
    """
    try:
        from stylezoo.doctor import examine, table  # imports PyTorch
    except Exception as error:  # a torchvision of another build raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise StylezooError(
            f"PyTorch, torchvision or Lightning cannot be imported ({reason}): install all from one build, such as with"
            " pip install -c constraints.txt -e . (STYLEZOO_TRACEBACK=1 shows where.)"
        ) from error
    found = examine()
    print(table(found.sections.items()))
    print(*(f"problem: {sentence}" for sentence in found.problems or ["none found"]), sep="\n")
    print(f"\nFor a bug report:\n\n{found.markdown()}")
    return 1 if found.problems else 0


def completion(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print a script that completes commands, options and names of models in a shell.

    It completes the program stylezoo, which pip installs; `python -m stylezoo` is the same without completion.

    Examples:
        python -m stylezoo completion bash > ~/.local/share/bash-completion/completions/stylezoo
        python -m stylezoo completion zsh > ~/.zfunc/_stylezoo
        python -m stylezoo completion fish > ~/.config/fish/completions/stylezoo.fish

    Args:
        shell: Which shell: bash, zsh or fish. For zsh the folder must be in fpath before compinit runs.
    """
    from stylezoo.completion import script

    print(script(shell, COMMANDS, OPTION_NAMES, POSITIONAL))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "list": list_systems,
    "stylize": stylize,
    "stylize-dataset": stylize_dataset,
    "import": import_weights,
    "download": download,
    "compare": compare,
    "train-style": train_style,
    "prepare": prepare,
    "encode-style": encode_style,
    "export": export,
    "tune": tune,
    "demo": demo,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "doctor": doctor,
    "completion": completion,
}
"""The commands by name; `stylezoo.cli` turns each signature into options."""

POSITIONAL = ("name", "painting", "shell")
"""Parameters of commands that are given without an option."""

OPTION_NAMES = {"list_studies": "list", "settings": "set"}
"""{parameter of a command: its option}, where the option is the name of a builtin."""
