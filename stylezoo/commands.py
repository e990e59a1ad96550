"""The commands of `python -m stylezoo` besides Lightning's: plain functions whose docstrings are their help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from stylezoo import checkpoints, inference, registry, weights
from stylezoo.docstrings import arguments, described
from stylezoo.errors import StylezooError
from stylezoo.inference import PreserveColor, Stylizer, load_masks, load_styles
from stylezoo.inference.files import expand, plan, stylize_files
from stylezoo.inference.stylizer import find_device
from stylezoo.module import Kind

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


@described(arguments(inference.stylize))
def stylize(  # noqa: D417 - the decorator describes the controls
    model: str,
    content: list[str],
    output: str,
    style: list[str] | None = None,
    alpha: float = 1.0,
    style_weights: list[float] | None = None,
    preserve_color: PreserveColor = "none",
    masks: list[str] | None = None,
    size: int | None = None,
    style_size: int | None = None,
    tile: int | None = None,
    batch_size: int = 4,
    preview: int = 25,
    device: str = "auto",
    format: Literal["png", "jpg", "webp"] = "png",
    quality: int = 95,
) -> int:
    """Stylize images with the styles of others.

    Every content is stylized with every style; with --style_weights or --masks all styles go into each image. A file
    that cannot be read is reported and skipped; the exit code is 1 if there was one.

    Args:
        model: The name of weights, such as adain or adain.slim (`python -m stylezoo list --pretrained`), a model file
            (.safetensors), or a training checkpoint (.ckpt); for systems that optimize a recipe (.yaml) or its name,
            such as gatys or gatys.modern.
        content: Images to stylize: files, folders (with the folders in them) or globs.
        output: An image file if one image is stylized, else a folder.
        style: Style images: files, folders or globs; for multi-style systems numbers or names of their styles (all of
            them if left out), nothing for single-style ones.
        batch_size: Number of images of one size that are stylized together.
        preview: Systems that optimize write the unfinished image every so many iterations, beside its output as
            NAME_preview, until it is done; 0 for never.
        format: Of the images in an output folder.
        quality: Of JPEG and WebP files, 1 to 100.
    """
    network = checkpoints.load_model(model).to(find_device(device))
    styles = network.expand_styles(style or [], lambda pattern: [str(path) for path, _ in expand(pattern)])
    jobs = plan(content, styles, Path(output), style_weights is not None or bool(masks), format)
    controls: dict[str, Any] = {
        "alpha": alpha,
        "style_weights": style_weights,
        "preserve_color": preserve_color,
        "tile": tile,
    }
    controls["masks"] = load_masks(masks or [], len(jobs[0].styles))
    failed = stylize_files(
        jobs,
        network,
        lambda chosen: Stylizer(network, load_styles(network, chosen, style_size), **controls),
        size=size,
        batch_size=batch_size,
        preview=preview,
        quality=quality,
    )
    print(f"{len(jobs) - failed} of {len(jobs)} images stylized, {failed} failed: {output}")
    return 1 if failed else 0


def import_weights(system: str, files: list[str], output: str, any_encoder: bool = False) -> int:
    """Turn public weight files into one self-contained safetensors file.

    Args:
        system: Name of the system, see `python -m stylezoo list`.
        files: The public files in any order; part=path where it is not clear which part of the model a file is.
        output: The file to write, X.safetensors; in ~/.cache/stylezoo/weights ($STYLEZOO_HOME/weights) it can be
            used by name.
        any_encoder: Take the file of an encoder even if it seems to be of another kind than the system expects.
    """
    if Path(output).suffix != ".safetensors":
        raise StylezooError(f"--output is a file that ends in .safetensors, not {output}.")
    model = checkpoints.import_checkpoint(system, files, any_encoder=any_encoder)
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


EVALUATE_OPTIONS = {
    "pairs": "Number of pairs, drawn without repetition; all contents with all styles if left out.",
    "seed": "Seed of the pairs and of the intervals.",
    "size": "Short side in pixels to which contents and styles are resized first.",
    "crop": "Side in pixels of the central square that is cut from them; the same as --size if left out.",
    "metrics": (
        "Among content_loss ssim style_loss classic_style_loss balanced_style_loss histogan_distance (these six "
        "if left out), gray_ssim ms_ssim cfsd, and, with networks that are downloaded first (`python -m stylezoo "
        "download alexnet_torchvision`, art_inception), lpips fid art_fid."
    ),
    "encoder": "The VGG of content and style losses.",
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
    metrics: list[str] | None = None,
    encoder: str = "vgg19_normalised",
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

    Values per pair are written to MODEL.csv (or .parquet), means with 95 % intervals to summary.csv and summary.md. The
    same command continues an interrupted evaluation, with the same numbers, and adds models to a finished folder.

    Args:
        models: Model files, or names of weights on this machine; NAME=FILE calls a model NAME in the summary. A model
            of kind multi or single needs style images that are called like the styles it was trained on.
        content: Folder of content images, with its subfolders.
        style: Folder of style images, with its subfolders.
        output: Folder of the results.
    """
    from stylezoo.evaluation import evaluate as run  # the other commands start without them
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
    _print_summary(store.summary_table(summary), Path(output) / "summary.md")
    return 0


@rank_zero_only
def _print_summary(table: list[list[str]], file: Path) -> None:
    """Prints the rows of a summary, the heading first."""
    heading, *rows = table
    shown = Table(*heading, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 240).print(shown, f"Written: {file}", sep="\n")


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

    Args:
        name: What to reproduce; --list shows the names.
        output: The folder for NAME.md, NAME.csv and NAME.png.
    """
    from stylezoo import studies  # the other commands start without it

    if list_studies:
        _list_studies(name)
        return 0
    if name is None or output is None:
        raise StylezooError("Say what to reproduce and where to: reproduce NAME --output FOLDER (--list names them).")
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
    from stylezoo import studies

    if name is None:
        shown = Table("name", "what it shows", "source", box=None, pad_edge=False)
        for study in studies.studies().values():
            shown.add_row(study.name, study.title, study.source)
    else:
        shown = Table("setting", "default", "what it means", box=None, pad_edge=False)
        for setting in studies.get(name).settings.values():
            shown.add_row(setting.name, setting.default_word, setting.help)
    Console(width=None if sys.stdout.isatty() else 240).print(shown)


COMMANDS: dict[str, Callable[..., int]] = {
    "list": list_systems,
    "stylize": stylize,
    "import": import_weights,
    "download": download,
    "evaluate": evaluate,
    "reproduce": reproduce,
}
"""The commands by name; `stylezoo.cli` turns each signature into options."""

OPTION_NAMES = {"list_studies": "list", "settings": "set"}
"""{parameter of a command: its option}, where the option is the name of a builtin."""
