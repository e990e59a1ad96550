"""`evaluate`: models, contents and styles, measured pair by pair beside the identity and the style-copy baseline.

Batches are cut from the pairs once and for all. Each of W processes takes every W-th of those that are left, and
appends a line per batch to a file of its own. So neither interruptions nor the number of processes change a bit of the
results (on a CPU, with the same number of threads), and memory does not grow with the number of pairs.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

from stylezoo.checkpoints import find_model, load_model
from stylezoo.docstrings import described
from stylezoo.errors import StylezooError, check_choice, unknown_name
from stylezoo.evaluation.measurement import (
    WITHOUT_ENCODER,
    MetricNetworks,
    PairMeasurement,
    build_metrics,
    metric_names,
)
from stylezoo.evaluation.pairs import Batches, Drawn, Precision, Protocol, digest_pairs, draw_pairs
from stylezoo.evaluation.runner import BASELINES, EvaluationModule, Recorder, trained_style
from stylezoo.evaluation.store import (
    FORMAT,
    SHIPPED_ENCODER,
    STORED_IMAGES,
    Pair,
    Score,
    check_results,
    check_same,
    finished_batches,
    key_to_json,
    locked,
    merge_parts,
    read_pairs,
    read_settings,
    results_path,
    scores,
    slug,
    write_pairs,
    write_settings,
    write_summary,
)
from stylezoo.evaluation.tables import TableFormat, pyarrow_module
from stylezoo.metrics import FID, ImageMetric
from stylezoo.module import StyleModel
from stylezoo.weights import digest, table

QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
"""Options of a Trainer that writes and shows nothing of its own."""


OPTIONS = {
    "pairs": "Number of pairs, drawn without repetition; None for all contents with all styles.",
    "seed": "Seed of the pairs and of the bootstrap.",
    "size": "Short side in pixels to which contents and styles are resized.",
    "crop": "Side in pixels of the central square that is cut from them; None for ``size``.",
    "split": (
        'Splits, among val, test and train, whose images are used: ``["val", "test"]`` are those that training on'
        " these folders leaves out (`stylezoo.data.Folder` with its default ``holdout``). None for all images. It does not"
        " apply to styles where a model is of kind multi or single, whose styles are those that it was trained on."
    ),
    "reference": (
        "Name of one of the models: the values of all others are also divided by its values, pair by pair. None for that"
        " of the folder, or no ratios in a new folder."
    ),
    "metrics": "Names of `METRICS`; None for `DEFAULT_METRICS` (`stylezoo.evaluation.measurement`).",
    "encoder": (
        "Flavor of the VGG of content and style losses, see `stylezoo.vgg.VGG`; None for vgg19_normalised, or vgg19_slim,"
        " which ships with the package, where that is not on this machine."
    ),
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
    split: Sequence[str] | None = None,
    reference: str | None = None,
    metrics: Sequence[str] | None = None,
    encoder: str | None = None,
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

    Models that are already in the folder stay in its summary. An image that cannot be read is left out, and a pair on which
    a model fails has no values; both are named in the summary (`stylezoo.evaluation.store.remarks`).

    Args:
        models: Files or names of weights (`stylezoo.load_model`), called by their stems or NAME=FILE; or {name: model}.
        content: Folder of contents, with its subfolders.
        style: Folder of styles. Models of kind multi and single need images called like the styles they were trained
            on; a single-style model whose style has no name takes the only image there is.
        output: Folder of the results. Only one evaluation at a time can write to it.

    Returns:
        The summary.

    Raises:
        StylezooError: If the folder holds an evaluation with other settings or damaged files, or cannot be written to; if
            a model was not trained on these styles, or fails on all pairs; if settings do not fit each other.
        MissingFileError: If a model or a network is missing; the message says how to get it.
        ImageError: If no image of a folder can be read.
    """
    side = size if crop is None else crop
    protocol = Protocol(pairs, seed, size, side, batch_size, precision, None if split is None else tuple(split))
    protocol.check()
    check_choice("format", format, TableFormat)
    if num_workers < 0:
        raise StylezooError(f"num_workers must be 0 or more, not {num_workers}.")
    metric_names(metrics)
    named = name_models(models)
    if format == "parquet":
        pyarrow_module()  # raises before anything is computed if it is missing
    where: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    trainer = build_trainer(**where, precision=precision)
    folders = Path(output), Path(content), Path(style)
    with locked(folders[0]), written_to(folders[0]):
        reference = find_reference(folders[0], reference, named)
        networks = load_models(named)
        drawn = find_pairs(*folders, protocol, networks)
        network = measuring_encoder(folders[0], encoder, encoder_weights, metrics)
        measured = build_metrics(metrics, MetricNetworks(network, encoder_weights))
        prepare(*folders, protocol, trainer.strategy.root_device.type, measured, networks, drawn, reference)
        batches = Batches(drawn.pairs, *folders[1:], protocol)
        launched = _has_process_group()
        failed = run_models(
            trainer, networks, PairMeasurement(measured), batches, folders[0], format, save_images, num_workers
        )
        summary = summarize(trainer, folders[0], launched)
    if failed:
        raise StylezooError(" ".join(failed))
    return summary


def build_trainer(**options: Any) -> Trainer:
    """Returns a Trainer that writes and shows nothing.

    Raises:
        StylezooError: If there is no such accelerator, strategy or number of devices.
    """
    try:
        return Trainer(**QUIET, **options, use_distributed_sampler=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        given = ", ".join(f"{name} {value}" for name, value in options.items())
        reason = " ".join(str(error).split()).rstrip(".")
        raise StylezooError(f"These do not work on this machine ({given}): {reason}.") from error


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Says in one sentence why results cannot be written, such as a full disk, or that the run was interrupted."""
    try:
        yield
    except StylezooError:
        raise
    except OSError as error:
        raise StylezooError(
            f"The results cannot be written to {folder} ({error.strerror or error}): what is finished stays, and the same"
            " command continues."
        ) from error
    except KeyboardInterrupt:
        _say(f"interrupted: what is finished is in {folder}, and the same command continues.")
        raise


@rank_zero_only
def _say(*lines: str) -> None:
    """Prints lines on standard error, in one process."""
    print(*lines, sep="\n", file=sys.stderr)


def measuring_encoder(folder: Path, encoder: str | None, weights: str | None, metrics: Sequence[str] | None) -> str:
    """Returns the network that measures: the given one, that of an existing folder, or the first that is on this machine.

    Args:
        folder: Folder of the results.
        encoder: Its name, if one is given.
        weights: A file for it, if one is given.
        metrics: Names of the metrics.
    """
    default = "vgg19_normalised"
    if encoder is not None or weights is not None:
        return encoder or default
    stored = read_settings(folder)
    if stored is not None:
        before = [metric["key"]["backbone"] for metric in stored["metrics"].values()]
        return SHIPPED_ENCODER if SHIPPED_ENCODER in before else default
    if table().encoders[default].path.is_file():
        return default
    if not {*metric_names(metrics)} <= WITHOUT_ENCODER:
        _say(
            f"{default} is not on this machine: {SHIPPED_ENCODER}, which ships with the package, measures instead. For"
            f" values that compare with those of others: python -m stylezoo download {default}"
        )
    return SHIPPED_ENCODER


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
) -> list[str]:
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

    Returns:
        A sentence for each model that failed on all pairs.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed = []
    with Progress(*columns, disable=not (sys.stdout.isatty() and trainer.is_global_zero)) as progress:
        for name, model in {**dict.fromkeys(BASELINES), **models}.items():
            task = progress.add_task(name, total=len(batches.pairs))
            if results_path(folder, name) is not None:
                progress.update(task, completed=len(batches.pairs))
                continue
            recorder = Recorder(folder, save_images, progress, task)
            if len(finished_batches(folder, name)) < len(batches):
                predict(trainer, EvaluationModule(name, model, measurement, batches, folder, num_workers), recorder)
            trainer.strategy.barrier()  # all have written,
            if trainer.is_global_zero:
                try:
                    merge_parts(folder, name, measurement.columns, batches.pairs, batches.batch_size, format)
                except StylezooError as error:
                    forget_model(folder, name)
                    failed.append(str(error))
            trainer.strategy.barrier()  # and none goes on before that
    return failed


def predict(trainer: Trainer, module: EvaluationModule, recorder: Recorder) -> None:
    """Runs the batches of a model that are left.

    Raises:
        StylezooError: If a process that reads images has been killed.
    """
    trainer.callbacks = [recorder]  # type: ignore[attr-defined]
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.predict(module, return_predictions=False)
    except SystemExit as error:
        if recorder.interrupted:  # Lightning exits with code 1, and ignores further signals
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
        raise
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise StylezooError(
                "A process that reads images was killed, perhaps because memory ran out: what is finished stays, and the"
                " same command continues; try a smaller num_workers."
            ) from error
        raise


def forget_model(folder: Path, name: str) -> None:
    """Removes a model without results from the settings of a folder, so that the next run begins it anew."""
    settings = read_settings(folder)
    if settings is not None and settings["models"].pop(name, None) is not None:
        write_settings(folder, settings)


def name_models(
    models: Sequence[str | Path] | Mapping[str, StyleModel | str | Path],
) -> dict[str, StyleModel | str | Path]:
    """Gives each model a name, and looks for the files.

    Args:
        models: See `evaluate`.

    Raises:
        StylezooError: If two have one name, or one has the name of a baseline.
        MissingFileError: If there is no such model.
    """
    if isinstance(models, Mapping):
        named: list[tuple[str, StyleModel | str | Path]] = list(models.items())
    else:
        named = [_split_name(str(model)) for model in models]
    taken = [slug(baseline) for baseline in BASELINES]
    for name, model in named:
        if not slug(name):
            raise StylezooError(f"A model cannot be called {name!r}: give it a name of letters (--models NAME=FILE).")
        if slug(name) in taken:
            raise StylezooError(f"Two models are called {name}: give them names of their own (--models a=FILE b=FILE).")
        taken.append(slug(name))
        if not isinstance(model, StyleModel):
            find_model(model)
    return dict(named)


def load_models(named: Mapping[str, StyleModel | str | Path]) -> dict[str, StyleModel]:
    """Loads the models of `name_models`."""
    return {name: model if isinstance(model, StyleModel) else load_model(model) for name, model in named.items()}


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


def find_reference(folder: Path, reference: str | None, models: Iterable[str]) -> str | None:
    """Returns the model to which ratios are computed: the given one, or that of an existing folder.

    Args:
        folder: Folder of the results.
        reference: Its name, if one is given.
        models: Names of the models that are evaluated.

    Raises:
        StylezooError: If neither these models nor the folder have a model of that name.
    """
    stored = read_settings(folder) or {}
    if reference is None:
        return stored.get("reference")
    known = dict.fromkeys([*models, *stored.get("models", ())])
    if reference not in known:
        raise unknown_name("There is no model", reference, known, "the reference is one of")
    return reference


def find_pairs(folder: Path, content: Path, style: Path, protocol: Protocol, models: Mapping[str, StyleModel]) -> Drawn:
    """Draws the pairs of a new folder of results, or reads those of an old one, whose tables it checks.

    Raises:
        StylezooError: If files of the folder are damaged, or there are too few images.
        ImageError: If no image of a folder can be read.
    """
    stored = read_settings(folder)
    if stored is not None:
        check_results(folder, stored)
        return Drawn(read_pairs(folder), stored.get("skipped", []))
    _check_unused(folder)
    drawn = draw_pairs(content, style, protocol, any(model.kind in ("multi", "single") for model in models.values()))
    if drawn.skipped:
        _say(*(f"skipped: {reason}." for reason in drawn.skipped))
    return drawn


def prepare(
    folder: Path,
    content: Path,
    style: Path,
    protocol: Protocol,
    device: str,
    metrics: Mapping[str, ImageMetric],
    models: Mapping[str, StyleModel],
    drawn: Drawn,
    reference: str | None = None,
) -> None:
    """Writes or checks the settings of a folder of results.

    Several processes may do this at once, because all write the same.

    Args:
        folder: Folder of the results.
        content: Folder of contents.
        style: Folder of styles.
        protocol: The settings of the evaluation.
        device: Type of the device on which models run.
        metrics: Metrics by name.
        models: Models by name.
        drawn: The pairs.
        reference: Name of the model to which ratios are computed.

    Raises:
        StylezooError: If the folder belongs to an evaluation with other settings, or the models or metrics do not fit
            the pairs.
        ImageError: If an image is missing.
    """
    stored = read_settings(folder)
    _check_fit(drawn.pairs, metrics, models)
    pairs_sha256 = digest_pairs(content, style, drawn.pairs)
    settings = {
        "format": FORMAT,
        "content": str(content),
        "style": str(style),
        "protocol": {**asdict(protocol), "device": device, STORED_IMAGES: pairs_sha256},
        "metrics": {name: _describe_metric(metric, protocol, pairs_sha256) for name, metric in metrics.items()},
        "models": {name: model_key(model) for name, model in models.items()},
        **({"reference": reference} if reference is not None else {}),
        **({"skipped": drawn.skipped} if drawn.skipped else {}),
    }
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they are in the file
    if stored is not None:
        check_same(folder, stored, settings)
        settings["models"] = {**stored["models"], **settings["models"]}
    else:
        write_pairs(folder, drawn.pairs)
    write_settings(folder, settings)


def _check_unused(folder: Path) -> None:
    """Refuses a folder without settings that holds results."""
    patterns = [*(f"*.{format}" for format in get_args(TableFormat)), "*.npy", "*.part*.jsonl"]
    others = [path.name for pattern in patterns for path in folder.glob(pattern) if path.name != "pairs.csv"]
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
    better = {True: "higher", False: "lower", None: "near 1"}[metric.higher_is_better]
    return {"better": better, "key": key_to_json(key)}
