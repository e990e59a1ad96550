"""`evaluate`: models x contents x styles, measured pair by pair between the two anchors that every model stands between.

Batches are cut from the pairs once and for all, every process takes each W-th of those that are left and appends what it
finds, one line per batch, to a file of its own. So neither interruptions nor the number of processes change a bit of the
results (on a CPU, with the same number of threads), and memory does not grow with the number of pairs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Dataset

from stylezoo.checkpoints import load_model
from stylezoo.data.stream import Framing
from stylezoo.evaluation.store import (
    CONTENT,
    FORMAT,
    STYLE,
    Pair,
    Score,
    TableFormat,
    arrow,
    check_same,
    drop_torn_line,
    finished,
    merge,
    part_of,
    read_rows,
    read_settings,
    replacing,
    results_of,
    scores,
    slug,
    write_rows,
    write_summary,
)
from stylezoo.images import ImageError, list_images, read_image, to_tensor, write_image
from stylezoo.inference import SMALLEST_SIDE, Stylizer
from stylezoo.metrics import (
    AST_LAYERS,
    CFSD,
    FID,
    LPIPS,
    MICROAST_CONTENT_LAYERS,
    MICROAST_STYLE_LAYERS,
    SSIM,
    AlexNet,
    ArtFID,
    ArtInception,
    BalancedStyleLoss,
    ClassicStyleLoss,
    ContentLoss,
    ContentMetric,
    FeatureMetric,
    GraySSIM,
    HistoGANDistance,
    ImageMetric,
    MultiScaleSSIM,
    PairMetric,
    StyleLoss,
)
from stylezoo.module import StyleModel
from stylezoo.vgg import VGG, Features
from stylezoo.weights import digest

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
Paint = Callable[[Tensor], Tensor]
"""Paints contents (B, 3, H, W) in one style."""

ANCHORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    CONTENT: lambda content, style: content,
    STYLE: lambda content, style: style.expand_as(content),
}
"""Painters without a network, of contents (B, 3, H, W) and a style (1, 3, H, W)."""


class Networks:
    """What metrics look with, built when one asks for it."""

    def __init__(self, encoder: str, encoder_weights: str | None) -> None:
        self.settings = (encoder, encoder_weights)

    @cached_property
    def encoder(self) -> VGG:
        """The VGG of content and style losses."""
        return VGG(*self.settings)

    @cached_property
    def lpips(self) -> LPIPS:
        """LPIPS with AlexNet."""
        return LPIPS(AlexNet())

    @cached_property
    def inception(self) -> nn.Module:
        """The Inception of FID and ArtFID."""
        return ArtInception()

    def layers(self, wanted: Mapping[str, float]) -> list[str]:
        """Those of the wanted layers that the encoder's file has.

        Raises:
            ValueError: If it has none.
        """
        present = [layer for layer in wanted if layer in self.encoder.channels]
        if not present:
            raise ValueError(
                f"The weights of {self.encoder.name} hold {', '.join(self.encoder.channels)}, but one of"
                f" {', '.join(wanted)} is needed: give a file that reaches deeper (encoder_weights)."
            )
        return present

    def mean(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Equal weights that sum to 1, of `layers`."""
        present = self.layers(wanted)
        return dict.fromkeys(present, 1 / len(present))

    def sum(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Weight 1 for each of `layers`."""
        return dict.fromkeys(self.layers(wanted), 1.0)


METRICS: dict[str, Callable[[Networks], ImageMetric]] = {
    "content_loss": lambda n: ContentLoss(n.encoder, n.mean(MICROAST_CONTENT_LAYERS)),
    "ssim": lambda n: SSIM(),
    "style_loss": lambda n: StyleLoss(n.encoder, n.mean(MICROAST_STYLE_LAYERS)),
    "classic_style_loss": lambda n: ClassicStyleLoss(n.encoder, n.sum(AST_LAYERS[n.encoder.depth])),
    "balanced_style_loss": lambda n: BalancedStyleLoss(n.encoder, n.sum(AST_LAYERS[n.encoder.depth])),
    "histogan_distance": lambda n: HistoGANDistance(),
    "gray_ssim": lambda n: GraySSIM(),
    "ms_ssim": lambda n: MultiScaleSSIM(),
    "cfsd": lambda n: CFSD(n.encoder),
    "lpips": lambda n: n.lpips,
    "fid": lambda n: FID(n.inception),
    "art_fid": lambda n: ArtFID(n.inception, n.lpips),
}
"""What can be measured, by name. Losses look at those of their layers that the encoder's file has; the key says which."""

DEFAULT_METRICS = tuple(METRICS)[:6]
"""What needs no network but the encoder."""


def evaluate(
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
    save_pictures: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    precision: Precision = "32-true",
    num_workers: int = 0,
) -> list[Score]:
    """Measures models on pairs of images, or goes on with what an interrupted run has left undone.

    Models that are already in the folder stay in its summary.

    Args:
        models: Files or names of weights (`stylezoo.load_model`), called by their stems or NAME=FILE; or {name: model}.
        content: Folder of contents (with the folders in it).
        style: Folder of styles. Models of kind multi and single need images called like the styles they were trained
            on; a single-style model that does not know what its style is called takes the only one there is.
        output: The folder of results.
        pairs: How many, drawn without repetition; None for all contents in all styles.
        seed: Of the pairs and of the bootstrap.
        size: Contents and styles are resized to this short side in pixels,
        crop: and cut to the square of this side in their middle; None for ``size``.
        metrics: Names of `METRICS`; None for `DEFAULT_METRICS`.
        encoder: The VGG of content and style losses, see `stylezoo.vgg.VGG`.
        encoder_weights: A file for it; None takes the encoder's own.
        batch_size: How many pairs are painted and measured together.
        format: Of the values per pair; Parquet needs pyarrow.
        save_pictures: Whether to keep what is painted, as pictures/MODEL/NUMBER_CONTENT_STYLE.png.
        accelerator: See `lightning.pytorch.Trainer`, also for the next two.
        devices: Processes.
        strategy: How they work together.
        precision: In which models paint; metrics always look in float32.
        num_workers: Processes that read images.

    Returns:
        The summary.

    Raises:
        ValueError: If the folder holds an evaluation with other settings, a model cannot paint these styles, or settings
            do not fit each other.
        FileNotFoundError: If a model or a network is missing; the message says how to get it.
        ImageError: If a folder holds no image, or one that cannot be read.
    """
    side = size if crop is None else crop
    framing = Framing(size, side, "shorter", "center", False)
    framing.check()
    if side < SMALLEST_SIDE or batch_size < 1:
        raise ValueError(f"crop is {SMALLEST_SIDE} pixels or more and batch_size 1, not {side} and {batch_size}.")
    if format == "parquet":
        arrow()  # whether it is missing is better known now
    networks = named_models(models)
    measured = build_metrics(metrics, Networks(encoder, encoder_weights))
    judge = Judge(measured)
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    protocol = {
        "pairs": pairs,
        "seed": seed,
        "size": size,
        "crop": side,
        "batch_size": batch_size,
        "precision": precision,
        "device": trainer.strategy.root_device.type,
    }
    folder = Path(output)
    chosen = prepare(folder, Path(content), Path(style), protocol, measured, networks)
    batches = Batches(chosen, Path(content), Path(style), framing, batch_size)
    launched = distributed.is_available() and distributed.is_initialized()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not (sys.stdout.isatty() and trainer.is_global_zero)) as progress:
        for name, network in {**dict.fromkeys(ANCHORS), **networks}.items():
            task = progress.add_task(name, total=len(chosen))
            if results_of(folder, name) is not None:
                progress.update(task, completed=len(chosen))
                continue
            trainer.callbacks = [Recorder(folder, save_pictures, progress, task)]  # type: ignore[attr-defined]
            if len(finished(folder, name)) < len(batches):
                work = Evaluation(name, network, judge, batches, folder, num_workers)
                trainer.predict(work, return_predictions=False)
            trainer.strategy.barrier()  # all have written,
            if trainer.is_global_zero:
                merge(folder, name, judge.columns, chosen, batch_size, format)
            trainer.strategy.barrier()  # and none goes on before that
    summary = scores(folder)
    if trainer.is_global_zero:
        write_summary(folder, summary)
    trainer.strategy.barrier()
    if not launched and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # gloo's threads may abort a process that leaves them running
    return summary


# What is evaluated


def named_models(models: Sequence[str | Path] | Mapping[str, StyleModel | str | Path]) -> dict[str, StyleModel]:
    """Models by name, loaded.

    Raises:
        ValueError: If two have one name, or an anchor's.
    """
    if isinstance(models, Mapping):
        named = list(models.items())
    else:
        named = [_split_name(str(model)) for model in models]
    taken = [slug(anchor) for anchor in ANCHORS]
    for name, _ in named:
        if slug(name) in taken:
            raise ValueError(f"Two models are called {name}: give them names of their own (--models a=FILE b=FILE).")
        taken.append(slug(name))
    return {name: model if isinstance(model, StyleModel) else load_model(model) for name, model in named}


def _split_name(text: str) -> tuple[str, str]:
    """(name, file) of NAME=FILE, of a file, or of a name of weights."""
    name, equals, file = text.partition("=")
    if equals and not Path(text).exists():
        return name, file
    path = Path(text)
    return (path.stem if path.suffix in (".safetensors", ".ckpt", ".yaml", ".yml") else text), text


def identity(model: StyleModel) -> dict[str, str]:
    """System and sha256 of a model's settings and weights, encoders included."""
    tensors = dict(model.state_dict())
    for name, encoder in model.encoders():
        tensors |= {f"{name}.{key}": value for key, value in encoder.tensors.items()}
    settings = {k: v for k, v in model.hparams.items() if not k.startswith("_") and k not in model.local_settings}
    text = json.dumps([model.system, settings, digest(tensors)], sort_keys=True)
    return {"system": model.system, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def build_metrics(names: Sequence[str] | None, networks: Networks) -> dict[str, ImageMetric]:
    """Metrics by name. ArtFID brings along the two that it is made of.

    Raises:
        ValueError: If there is no such metric.
        FileNotFoundError: If what it looks with is not on this machine; the message says how to get it.
    """
    wanted = list(dict.fromkeys(DEFAULT_METRICS if names is None else names))
    unknown = [name for name in wanted if name not in METRICS]
    if unknown or not wanted:
        raise ValueError(f"There is no metric {', '.join(unknown) or 'given'}: choose from {', '.join(METRICS)}.")
    if "art_fid" in wanted:
        wanted = [name for name in METRICS if name in (*wanted, "lpips", "fid")]
    return {name: METRICS[name](networks) for name in wanted}


def draw(content: Path, style: Path, pairs: int | None, seed: int) -> list[Pair]:
    """Pairs of images, those of one style together.

    Raises:
        ImageError: If one of the images cannot be read.
        ValueError: If a folder holds none, or there are fewer pairs.
    """
    contents, styles = (_names(folder) for folder in (content, style))
    every = len(contents) * len(styles)
    if pairs is not None and not 1 <= pairs <= every:
        raise ValueError(f"{len(contents)} contents and {len(styles)} styles make {every} pairs, not {pairs}.")
    rng = np.random.default_rng(seed)
    numbers = range(every) if pairs is None else np.sort(rng.choice(every, pairs, replace=False)).tolist()
    drawn = [(contents[number % len(contents)], styles[number // len(contents)]) for number in numbers]
    for path in _pictures(content, style, drawn):
        read_image(path, min_side=1)  # better now than in the middle of the night
    return drawn


def _names(folder: Path) -> list[str]:
    names = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    if not names:
        raise ValueError(f"There is no image in {folder}: expected files such as .jpg, .png or .webp.")
    return names


def _pictures(content: Path, style: Path, pairs: list[Pair]) -> list[Path]:
    """The images of pairs, each once."""
    contents, styles = (dict.fromkeys(names) for names in zip(*pairs, strict=True))
    return [*(content / name for name in contents), *(style / name for name in styles)]


def prepare(
    folder: Path,
    content: Path,
    style: Path,
    protocol: dict[str, Any],
    metrics: dict[str, ImageMetric],
    networks: dict[str, StyleModel],
) -> list[Pair]:
    """The pairs of a folder of results, drawn if it is new; writes or checks its settings.

    Several processes may do this at once: all write the same.

    Raises:
        ValueError: If the folder belongs to an evaluation with other settings.
        ImageError: If an image cannot be read.
    """
    stored = read_settings(folder)
    if stored is None:
        found = (path for format in get_args(TableFormat) for path in folder.glob(f"*.{format}"))
        others = [path.name for path in found if path.name != "pairs.csv"]
        if others:
            raise ValueError(f"{folder} has no settings.json, but {others[0]}: choose another folder.")
        pairs = draw(content, style, protocol["pairs"], protocol["seed"])
    else:
        pairs = [(row[0], row[1]) for row in read_rows(folder / "pairs.csv")[1:]]
    sets = [name for name, metric in metrics.items() if isinstance(metric, FID)]
    if len(pairs) < 2 and sets:
        raise ValueError(f"{' and '.join(sets)} compare sets of images: two pairs are the least, not {len(pairs)}.")
    styles = list(dict.fromkeys(name for _, name in pairs))
    for network in networks.values():
        for name in styles:
            trained_style(network, name, styles)
    sha256 = hashlib.sha256(json.dumps(pairs).encode())
    for path in _pictures(content, style, pairs):
        if not path.is_file():
            raise ImageError(f"{path} does not exist: put the images back that the pairs of {folder} are made of.")
        sha256.update(hashlib.sha256(path.read_bytes()).digest())
    protocol = {**protocol, "pictures": sha256.hexdigest()}
    measured = {}
    for name, metric in metrics.items():
        seen = {"frame": f"short{protocol['size']} crop{protocol['crop']}", "pair_set": protocol["pictures"][:12]}
        key = replace(metric.key, settings=tuple(sorted({**dict(metric.key.settings), **seen}.items())))
        measured[name] = {"better": "higher" if metric.higher_is_better else "lower", "key": asdict(key)}
    models = {name: identity(network) for name, network in networks.items()}
    settings = {"format": FORMAT, "content": str(content), "style": str(style), "protocol": protocol}
    settings |= {"metrics": measured, "models": models}
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they are when read
    if stored is not None:
        check_same(folder, stored, settings)
        settings["models"] = {**stored["models"], **models}
    folder.mkdir(parents=True, exist_ok=True)
    if stored is None:
        with replacing(folder / "pairs.csv") as path:
            write_rows(path, [("content", "style"), *pairs])
    with replacing(folder / "settings.json") as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")
    return pairs


def trained_style(model: StyleModel, name: str, styles: list[str]) -> str | None:
    """What a model of kind multi or single calls the style of an image; None where it takes no name.

    Raises:
        ValueError: If it was not trained on that style.
    """
    if model.kind not in ("multi", "single") or (model.styles == ["unnamed"] and len(styles) == 1):
        return None
    stem = Path(name).stem
    if stem not in model.styles:
        raise ValueError(
            f"{model.system} was trained on {', '.join(model.styles)}, and {name} is none of these: give a folder with"
            " images of its styles that have their names."
        )
    return stem if model.kind == "multi" else None


# How it is evaluated


class Batch(TypedDict):
    """Some pairs, those of one style next to each other."""

    number: int
    content: Tensor  # (B, 3, crop, crop)
    style: Tensor  # (S, 3, crop, crop), each style once
    names: list[str]  # of the styles, S
    counts: list[int]  # pairs per style, S


class Batches(Dataset[Batch]):
    """The pairs in batches that are always the same ones: what is painted together can change the last bits."""

    def __init__(self, pairs: list[Pair], content: Path, style: Path, framing: Framing, batch_size: int) -> None:
        self.pairs = pairs
        self.content, self.style = content, style
        self.framing = framing
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.pairs) / self.batch_size)

    def part(self, number: int) -> list[Pair]:
        """The pairs of a batch."""
        return self.pairs[number * self.batch_size : (number + 1) * self.batch_size]

    def __getitem__(self, number: int) -> Batch:
        pairs = self.part(number)
        groups = {style: len(list(group)) for style, group in groupby(pairs, key=lambda pair: pair[1])}
        return {
            "number": number,
            "content": torch.stack([self._read(self.content / content) for content, _ in pairs]),
            "style": torch.stack([self._read(self.style / style) for style in groups]),
            "names": list(groups),
            "counts": list(groups.values()),
        }

    def _read(self, path: Path) -> Tensor:
        return to_tensor(self.framing(read_image(path, self.framing.size), None))


class Judge(nn.Module):
    """Metrics that share their features: those of outputs, contents and styles are computed once for all losses.

    Args:
        metrics: By name; the losses among them look with one encoder, at images as they are.
    """

    def __init__(self, metrics: dict[str, ImageMetric]) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(metrics)
        self.columns = [name for name, metric in metrics.items() if not isinstance(metric, FID)]
        losses = [metric for metric in metrics.values() if isinstance(metric, FeatureMetric)]
        self.encoder = losses[0].backbone if losses else None
        self.layers = sorted({layer for metric in losses for layer in metric.layers})

    def features(self, images: Tensor) -> Features:
        """What the losses look at, of (B, 3, H, W)."""
        if self.encoder is None:
            return {}
        features: Features = self.encoder(images, self.layers)
        return features

    def forward(self, output: Tensor, content: Tensor, style: Tensor, style_features: Features) -> dict[str, Tensor]:
        """The values of each pair, {metric: (B,)}; of FID its activations, (B, D). ArtFID has none of its own.

        Args:
            output: (B, 3, H, W), RGB in [0, 1].
            content: The same shape.
            style: (B, 3, H', W').
            style_features: `features` of the styles.
        """
        output_features, content_features = self.features(output), self.features(content)
        values: dict[str, Tensor] = {}
        for name, metric in self.metrics.items():
            of_content = isinstance(metric, ContentMetric)
            if isinstance(metric, FeatureMetric):
                values[name] = metric.of_features(output_features, content_features if of_content else style_features)
            elif isinstance(metric, PairMetric):
                values[name] = metric.values(output, content if of_content else style)
            elif isinstance(metric, FID) and not isinstance(metric, ArtFID):
                values[name] = metric.backbone(output).flatten(1)
        return values


@dataclass(frozen=True)
class Seen:
    """A style that is ready to be painted with and compared to: encoded once for all its pairs."""

    name: str
    paint: Paint
    features: Features


class Evaluation(LightningModule):
    """Paints and measures the batches of one model that are not done yet.

    Args:
        name: Of the model.
        model: It, or None for one of `ANCHORS`.
        judge: The metrics.
        batches: All batches.
        folder: Of the results.
        num_workers: Processes that read images.
    """

    allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer batches left than processes

    def __init__(
        self, name: str, model: StyleModel | None, judge: Judge, batches: Batches, folder: Path, num_workers: int
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.judge = judge
        self.batches = batches
        self.folder = folder
        self.num_workers = num_workers
        self.styles = list(dict.fromkeys(style for _, style in batches.pairs))
        self._seen: Seen | None = None

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every W-th of the batches that are left. All processes look before the first one goes on: Lightning waits."""
        done = finished(self.folder, self.name)
        left = [number for number in range(len(self.batches)) if number not in done]
        rank, world = self.trainer.global_rank, self.trainer.world_size
        drop_torn_line(part_of(self.folder, self.name, rank))
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=left[rank::world],
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Paints and measures a batch.

        Returns:
            The outputs (B, 3, H, W), and {metric: values (B,), or activations (B, D)}.
        """
        outputs, features = [], []
        contents = torch.split(batch["content"], batch["counts"])
        for name, style, content in zip(batch["names"], torch.split(batch["style"], 1), contents, strict=True):
            if self._seen is None or self._seen.name != name:
                with torch.autocast(style.device.type, enabled=False):
                    self._seen = Seen(name, self._painter(name, style), self.judge.features(style))
            outputs.append(self._seen.paint(content).float())
            features.append({k: v.expand(len(content), -1, -1, -1) for k, v in self._seen.features.items()})
        counts = torch.tensor(batch["counts"], device=self.device)
        style_features = {layer: torch.cat([part[layer] for part in features]) for layer in features[0]}
        output = torch.cat(outputs)
        with torch.autocast(output.device.type, enabled=False):
            values = self.judge(
                output, batch["content"], batch["style"].repeat_interleave(counts, dim=0), style_features
            )
        return {"output": output, "values": values}

    def _painter(self, name: str, style: Tensor) -> Paint:
        if self.model is None:
            return lambda content: ANCHORS[self.name](content, style)
        if self.model.kind in ("multi", "single"):
            trained = trained_style(self.model, name, self.styles)
            return Stylizer(self.model, [] if trained is None else [trained])
        return Stylizer(self.model, [style])


class Recorder(Callback):
    """Appends each batch to the file of its process as soon as it is measured.

    Args:
        folder: Of the results.
        save_pictures: Whether to keep the images, too.
        progress: What shows how far it is,
        task: and where in there.
    """

    def __init__(self, folder: Path, save_pictures: bool, progress: Progress, task: TaskID) -> None:
        self.folder = folder
        self.save_pictures = save_pictures
        self.progress = progress
        self.task = task

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Evaluation)
        batches = pl_module.batches
        done = sum(len(batches.part(number)) for number in finished(self.folder, pl_module.name))
        self.progress.update(self.task, completed=done)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        assert isinstance(pl_module, Evaluation)
        batches, number = pl_module.batches, batch["number"]
        pairs = batches.part(number)
        if self.save_pictures and pl_module.model is not None:
            for index, (output, names) in enumerate(zip(outputs["output"], pairs, strict=True)):
                stem = "_".join([f"{number * batches.batch_size + index:05d}", *(Path(name).stem for name in names)])
                write_image(output, self.folder / "pictures" / slug(pl_module.name) / f"{stem}.png")
        columns = [outputs["values"][name].tolist() for name in pl_module.judge.columns]
        line = {"batch": number, "rows": [[column[index] for column in columns] for index in range(len(pairs))]}
        if "fid" in outputs["values"]:
            line["activations"] = base64.b64encode(outputs["values"]["fid"].float().cpu().numpy().tobytes()).decode()
        with part_of(self.folder, pl_module.name, trainer.global_rank).open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
        self.progress.advance(self.task, len(pairs) * trainer.world_size)
        if trainer.received_sigterm:  # Lightning catches the signal, but its predict loop does not look
            sys.exit(128 + signal.SIGTERM)
