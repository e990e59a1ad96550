"""`evaluate`: models, contents and styles, measured pair by pair beside the identity and the style-copy baseline.

Batches are cut from the pairs once and for all. Each of W processes takes every W-th of those that are left, and
appends a line per batch to a file of its own. So neither interruptions nor the number of processes change a bit of the
results (on a CPU, with the same number of threads), and memory does not grow with the number of pairs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

from stylezoo.checkpoints import load_model
from stylezoo.docstrings import described
from stylezoo.errors import StylezooError
from stylezoo.evaluation.measurement import MetricNetworks, PairMeasurement, build_metrics
from stylezoo.evaluation.pairs import Batches, Precision, Protocol, digest_pairs, draw_pairs
from stylezoo.evaluation.runner import BASELINES, EvaluationModule, Recorder, trained_style
from stylezoo.evaluation.store import (
    FORMAT,
    STORED_IMAGES,
    Pair,
    Score,
    TableFormat,
    check_same,
    finished_batches,
    key_to_json,
    merge_parts,
    pyarrow_module,
    read_pairs,
    read_settings,
    results_path,
    scores,
    slug,
    write_pairs,
    write_settings,
    write_summary,
)
from stylezoo.metrics import FID, ImageMetric
from stylezoo.module import StyleModel
from stylezoo.weights import digest

QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
"""Options of a Trainer that writes and shows nothing of its own."""


OPTIONS = {
    "pairs": "Number of pairs, drawn without repetition; None for all contents with all styles.",
    "seed": "Seed of the pairs and of the bootstrap.",
    "size": "Short side in pixels to which contents and styles are resized.",
    "crop": "Side in pixels of the central square that is cut from them; None for ``size``.",
    "metrics": "Names of `METRICS`; None for `DEFAULT_METRICS` (`stylezoo.evaluation.measurement`).",
    "encoder": "Flavor of the VGG of content and style losses, see `stylezoo.vgg.VGG`.",
    "encoder_weights": "Weight file of that VGG; None takes the flavor's own.",
    "batch_size": "Number of pairs that are stylized and measured together.",
    "format": "Format of the values per pair; Parquet needs pyarrow.",
    "save_images": "Whether to write the outputs, as images/MODEL/NUMBER_CONTENT_STYLE.png.",
    "accelerator": "Where to compute, see `lightning.pytorch.Trainer`.",
    "devices": "Number of processes, each with a device.",
    "strategy": "How the processes work together, see `lightning.pytorch.Trainer`.",
    "precision": "Precision in which models run; metrics are always computed in float32.",
    "num_workers": "Number of processes that read images.",
}
"""Descriptions of the options of `evaluate`."""


@described(OPTIONS)
def evaluate(  # noqa: D417 - the decorator describes the options
    models: Sequence[str | Path] | Mapping[str, StyleModel | str | Path],
    content: str | Path,
    style: str | Path,
    output: str | Path,
    *,
    pairs: int | None = None,
    seed: int = 0,
    size: int = 256,
    crop: int | None = None,
    metrics: Sequence[str] | None = None,
    encoder: str = "vgg19_normalised",
    encoder_weights: str | None = None,
    batch_size: int = 4,
    format: TableFormat = "csv",
    save_images: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    precision: Precision = "32-true",
    num_workers: int = 0,
) -> list[Score]:
    """Measures models on pairs of images, or continues an interrupted evaluation.

    Models that are already in the folder stay in its summary.

    Args:
        models: Files or names of weights (`stylezoo.load_model`), called by their stems or NAME=FILE; or {name: model}.
        content: Folder of contents, with its subfolders.
        style: Folder of styles. Models of kind multi and single need images called like the styles they were trained
            on; a single-style model whose style has no name takes the only image there is.
        output: Folder of the results.

    Returns:
        The summary.

    Raises:
        StylezooError: If the folder holds an evaluation with other settings, a model was not trained on these styles, or
            settings do not fit each other.
        MissingFileError: If a model or a network is missing; the message says how to get it.
        ImageError: If an image cannot be read.
    """
    protocol = Protocol(pairs, seed, size, size if crop is None else crop, batch_size, precision)
    protocol.check()
    if format == "parquet":
        pyarrow_module()  # raises before anything is computed if it is missing
    networks = named_models(models)
    measured = build_metrics(metrics, MetricNetworks(encoder, encoder_weights))
    where: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    trainer = Trainer(**QUIET, **where, precision=precision, use_distributed_sampler=False)
    folders = Path(output), Path(content), Path(style)
    chosen = prepare(*folders, protocol, trainer.strategy.root_device.type, measured, networks)
    batches = Batches(chosen, *folders[1:], protocol)
    launched = _has_process_group()
    run_models(trainer, networks, PairMeasurement(measured), batches, folders[0], format, save_images, num_workers)
    return summarize(trainer, folders[0], launched)


def summarize(trainer: Trainer, folder: Path, launched: bool) -> list[Score]:
    """Writes and returns the summary, and ends the processes that were connected for it.

    Args:
        trainer: Has run the batches.
        folder: Folder of the results.
        launched: Whether the processes had been connected before.
    """
    summary = scores(folder)
    if trainer.is_global_zero:
        write_summary(folder, summary)
    trainer.strategy.barrier()
    if not launched and _has_process_group():
        distributed.destroy_process_group()  # gloo's threads may abort a process that leaves them running
    return summary


def _has_process_group() -> bool:
    """Whether this is one of several connected processes."""
    return distributed.is_available() and distributed.is_initialized()


def run_models(
    trainer: Trainer,
    models: Mapping[str, StyleModel],
    measurement: PairMeasurement,
    batches: Batches,
    folder: Path,
    format: TableFormat,
    save_images: bool,
    num_workers: int,
) -> None:
    """Stylizes and measures what is missing in the folder, first of the baselines and then of the models.

    Args:
        trainer: Runs the batches, in one process or several.
        models: Models by name.
        measurement: The metrics.
        batches: All batches.
        folder: Folder of the results.
        format: Format of the values per pair.
        save_images: Whether to write the outputs.
        num_workers: Number of processes that read images.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not (sys.stdout.isatty() and trainer.is_global_zero)) as progress:
        for name, model in {**dict.fromkeys(BASELINES), **models}.items():
            task = progress.add_task(name, total=len(batches.pairs))
            if results_path(folder, name) is not None:
                progress.update(task, completed=len(batches.pairs))
                continue
            trainer.callbacks = [Recorder(folder, save_images, progress, task)]  # type: ignore[attr-defined]
            if len(finished_batches(folder, name)) < len(batches):
                module = EvaluationModule(name, model, measurement, batches, folder, num_workers)
                trainer.predict(module, return_predictions=False)
            trainer.strategy.barrier()  # all have written,
            if trainer.is_global_zero:
                merge_parts(folder, name, measurement.columns, batches.pairs, batches.batch_size, format)
            trainer.strategy.barrier()  # and none goes on before that


def named_models(models: Sequence[str | Path] | Mapping[str, StyleModel | str | Path]) -> dict[str, StyleModel]:
    """Loads models and gives each a name.

    Args:
        models: See `evaluate`.

    Raises:
        StylezooError: If two have one name, or one has the name of a baseline.
    """
    if isinstance(models, Mapping):
        named = list(models.items())
    else:
        named = [_split_name(str(model)) for model in models]
    taken = [slug(baseline) for baseline in BASELINES]
    for name, _ in named:
        if slug(name) in taken:
            raise StylezooError(f"Two models are called {name}: give them names of their own (--models a=FILE b=FILE).")
        taken.append(slug(name))
    return {name: model if isinstance(model, StyleModel) else load_model(model) for name, model in named}


def _split_name(text: str) -> tuple[str, str]:
    """(name, file) of NAME=FILE, of a file, or of a name of weights."""
    name, equals, file = text.partition("=")
    if equals and not Path(text).exists():
        return name, file
    path = Path(text)
    return (path.stem if path.suffix in (".safetensors", ".ckpt", ".yaml", ".yml") else text), text


def model_key(model: StyleModel) -> dict[str, str]:
    """Returns the system of a model and the SHA-256 of its settings and weights, encoders included."""
    tensors = dict(model.state_dict())
    for name, encoder in model.encoders():
        tensors |= {f"{name}.{key}": value for key, value in encoder.tensors.items()}
    settings = {k: v for k, v in model.hparams.items() if not k.startswith("_") and k not in model.local_settings}
    text = json.dumps([model.system, settings, digest(tensors)], sort_keys=True)
    return {"system": model.system, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def prepare(
    folder: Path,
    content: Path,
    style: Path,
    protocol: Protocol,
    device: str,
    metrics: Mapping[str, ImageMetric],
    models: Mapping[str, StyleModel],
) -> list[Pair]:
    """Draws the pairs of a new folder of results, or reads those of an old one; writes or checks its settings.

    Several processes may do this at once, because all write the same.

    Args:
        folder: Folder of the results.
        content: Folder of contents.
        style: Folder of styles.
        protocol: The settings of the evaluation.
        device: Type of the device on which models run.
        metrics: Metrics by name.
        models: Models by name.

    Raises:
        StylezooError: If the folder belongs to an evaluation with other settings, or the models or metrics do not fit
            the pairs.
        ImageError: If an image cannot be read.
    """
    stored = read_settings(folder)
    if stored is None:
        _check_unused(folder)
        pairs = draw_pairs(content, style, protocol.pairs, protocol.seed)
    else:
        pairs = read_pairs(folder)
    _check_fit(pairs, metrics, models)
    pairs_sha256 = digest_pairs(content, style, pairs)
    settings = {
        "format": FORMAT,
        "content": str(content),
        "style": str(style),
        "protocol": {**asdict(protocol), "device": device, STORED_IMAGES: pairs_sha256},
        "metrics": {name: _describe_metric(metric, protocol, pairs_sha256) for name, metric in metrics.items()},
        "models": {name: model_key(model) for name, model in models.items()},
    }
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they are in the file
    if stored is not None:
        check_same(folder, stored, settings)
        settings["models"] = {**stored["models"], **settings["models"]}
    folder.mkdir(parents=True, exist_ok=True)
    if stored is None:
        write_pairs(folder, pairs)
    write_settings(folder, settings)
    return pairs


def _check_unused(folder: Path) -> None:
    """Refuses a folder without settings that holds tables."""
    found = (path for format in get_args(TableFormat) for path in folder.glob(f"*.{format}"))
    others = [path.name for path in found if path.name != "pairs.csv"]
    if others:
        raise StylezooError(f"{folder} has no settings.json, but {others[0]}: choose another folder.")


def _check_fit(pairs: list[Pair], metrics: Mapping[str, ImageMetric], models: Mapping[str, StyleModel]) -> None:
    """Refuses metrics that need more pairs, and models that were not trained on the styles."""
    distances = [name for name, metric in metrics.items() if isinstance(metric, FID)]
    if len(pairs) < 2 and distances:
        raise StylezooError(
            f"{' and '.join(distances)} compare sets of images and need two pairs or more, not {len(pairs)}."
        )
    styles = list(dict.fromkeys(name for _, name in pairs))
    for model in models.values():
        for name in styles:
            trained_style(model, name, styles)


def _describe_metric(metric: ImageMetric, protocol: Protocol, pairs_sha256: str) -> dict[str, Any]:
    """A metric as settings.json has it; its key also names the framing and the pairs."""
    data = {"frame": f"short{protocol.size} crop{protocol.crop}", "pair_set": pairs_sha256[:12]}
    key = replace(metric.key, settings=tuple(sorted({**dict(metric.key.settings), **data}.items())))
    return {"better": "higher" if metric.higher_is_better else "lower", "key": key_to_json(key)}
