"""The parts of `gpu_check.py`: each has items (models, types, sizes), and a function that measures one of them."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from machine import MIB, bandwidth, fastest, matrix_rate, process_memory, reset_peak
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from work import WorkCounter, count

from stylezoo import recipes, registry
from stylezoo.checkpoints import create_model, load_model
from stylezoo.data import Folder, Pairs
from stylezoo.data.synthetic import Subject, draw
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.inference.engines import ENGINES, TOLERANCE, CudaEngine, create_engine
from stylezoo.module import StyleModel
from stylezoo.studies.timing import now
from stylezoo.studies.verdicts import Row
from stylezoo.training.callbacks import Compile
from stylezoo.vgg import parse_name, random_weights

RECIPES = Path(recipes.__file__).parents[1] / "experiments"
EPOCHS = {"COCO": 82_783, "Flickr": 31_783}
"""Contents in an epoch of the recipes that count in epochs: COCO 2014's training set, and Flickr30k."""

THIN = {"width": 0.25, "ngf": 32, "layers": 1, "predictor": "mobilenet_v2"}
"""Settings of small networks, for ``--quick``."""

GOAL = {"adain": 0.5, "johnson": 0.5}
"""Shares of the roofline that are aimed at, in batches."""

FEW = ("adain", "sanet", "johnson")
"""The systems of ``--quick``; of those the compiler is tried with, as it takes its time."""

SIXTEEN = (torch.bfloat16, torch.float16)


@dataclass
class Setup:
    """What the parts have in common.

    Attributes:
        device: Where they compute.
        quick: Small networks and images, and few of them.
        folder: A folder with random weights and two images, see `prepare`.
    """

    device: torch.device
    quick: bool
    folder: Path
    rates: dict[torch.dtype, float] = field(default_factory=dict)

    @cached_property
    def systems(self) -> list[str]:
        """The systems that have networks, the most used first."""
        names = [name for name, system in registry.systems().items() if system.kind != "optimization"]
        return list(FEW) if self.quick else [*FEW, *(name for name in names if name not in FEW)]

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return 64 if self.quick else 512

    @property
    def short(self) -> torch.dtype:
        """The type of numbers that inference is fastest with: bfloat16 on GPUs that have it, float32 on CPUs."""
        if self.device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def rate(self, dtype: torch.dtype) -> float:
        """Operations per second of matrix products."""
        if dtype not in self.rates:
            largest = 256 if self.quick else 8192
            self.rates[dtype] = matrix_rate(dtype, self.device, 0.05 if self.quick else 0.5, largest)
        return self.rates[dtype]

    @cached_property
    def bandwidth(self) -> float:
        """Bytes per second of copies."""
        return bandwidth(self.device, 0.05 if self.quick else 0.5)

    def image(self, kind: Subject, side: int | None = None, batch: int = 1) -> Tensor:
        """A drawn photo or painting, (batch, 3, side, side) in [0, 1]: it has edges and areas, which noise has not."""
        side = side or self.side
        drawn = to_tensor(draw(kind, 1, min(side, 512)))[None].to(self.device)
        return (
            torch.nn.functional.interpolate(drawn, side, mode="bilinear")
            .clamp(0, 1)
            .expand(batch, -1, -1, -1)
            .contiguous()
        )

    def create(self, system: str) -> StyleModel:
        """The system with random weights, and images to learn its styles from."""
        arguments = inspect.signature(registry.get(system)).parameters
        settings: dict[str, Any] = {"style_image": f"{self.folder}/styles/0.png", "styles": f"{self.folder}/styles"}
        settings |= THIN if self.quick else {}
        for encoder in {"encoder", "loss_encoder"} & set(arguments):
            depth = parse_name(arguments[encoder].default)[0]
            if self.quick:
                settings[encoder] = f"vgg{depth}_random/8"
            else:
                settings[f"{encoder}_weights"] = f"{self.folder}/vgg{depth}.safetensors"
        torch.manual_seed(0)
        return create_model(system, **{k: v for k, v in settings.items() if k in arguments}).to(self.device).eval()

    def style(self, model: StyleModel) -> Any:
        """What `encode_style` takes, (1, 3, side, side) where it is an image."""
        (style,) = model.check_styles(model.example_styles(self.image("paintings"))[:1])
        return style

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Measures the most memory in its block, in MiB, beyond what there was before."""
        found: list[float] = []
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            yield found
            found.append((torch.cuda.max_memory_allocated() - before) / MIB)
        else:
            reset_peak()
            before = process_memory("VmRSS")
            yield found
            found.append(process_memory("VmHWM") - before)


def prepare(folder: Path, quick: bool) -> None:
    """Writes what `Setup.create` reads: two styles, and random weights of VGG-16 and VGG-19."""
    (folder / "styles").mkdir(parents=True, exist_ok=True)
    for index in range(2):
        draw("paintings", index, 64 if quick else 512).save(folder / "styles" / f"{index}.png")
    for depth in () if quick else (16, 19):
        save_file(random_weights(depth), folder / f"vgg{depth}.safetensors")


Item = tuple[Any, ...]


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        title: Its heading.
        items: Returns the items, the most important first.
        labels: Names of an item's entries, which are the first columns of the table.
        measure: Measures an item; what it raises is the row's error.
        share: Of the time, relative to the others.
        note: What the columns mean.
    """

    title: str
    items: Callable[[Setup], Sequence[Item]]
    labels: tuple[str, ...]
    measure: Callable[..., Row]
    share: float
    note: str = ""


def short_name(dtype: torch.dtype) -> str:
    """bfloat16 for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


# Rates


def rate_items(setup: Setup) -> list[Item]:
    kinds = ["float32", "float16", "bfloat16"] if not setup.quick else ["float32"]
    return [(kind,) for kind in [*kinds, *(["tf32"] if setup.device.type == "cuda" else []), "memory"]]


def measure_rate(setup: Setup, kind: str) -> Row:
    if kind == "memory":
        return {"TFLOP/s": None, "GB/s": setup.bandwidth / 1e9}
    if kind != "tf32":
        return {"TFLOP/s": setup.rate(getattr(torch, kind)) / 1e12, "GB/s": None}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return {"TFLOP/s": matrix_rate(torch.float32, setup.device) / 1e12, "GB/s": None}
    finally:
        torch.set_float32_matmul_precision(before)


# 16 bits


def precision_items(setup: Setup) -> list[Item]:
    tags = registry.list_models(pretrained=True)
    tags = [tag for tag in tags if registry.get(tag.partition(".")[0]).kind != "optimization"]
    tags = ["adain.slim", "cin.sixteen"] if setup.quick else tags
    return [(tag, short_name(dtype)) for dtype in (SIXTEEN[:1] if setup.quick else SIXTEEN) for tag in tags]


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions of GPUs in float32 round to 10 bits (TF32) unless they are told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.inference_mode()
def measure_precision(setup: Setup, tag: str, dtype: str) -> Row:
    model = load_model(tag).to(setup.device)
    content, style = setup.image("photos"), setup.style(model)
    with exact_convolutions():
        expected = model.decode(content, model.encode_style(style)).clamp(0, 1)
    short = copy.deepcopy(model).to(getattr(torch, dtype)).to(memory_format=torch.channels_last)
    output = short.decode(content, short.encode_style(style)).float()
    errors = 255 * (output.clamp(0, 1) - expected).abs()
    finite = bool(torch.isfinite(output).all())
    within = finite and float(errors.mean()) <= 255 * TOLERANCE[16]
    return {"finite": finite, "mean error": float(errors.mean()), "largest": float(errors.max()), "within": within}


# Engines


def engine_items(setup: Setup) -> list[Item]:
    """All systems with the engine of the device, few with the others: compilers take a minute each."""
    main = "cuda" if setup.device.type == "cuda" else "winograd"
    others = [
        name for name in ENGINES if name not in ("eager", main, *(("compiled", "bfloat16") if setup.quick else ()))
    ]
    names = [(system, main) for system in setup.systems]
    return names + [(system, name) for name in others for system in FEW[: 1 if setup.quick else 3]]


def measure_engine(setup: Setup, system: str, name: str) -> Row:
    model = setup.create(system)
    reason = ENGINES[name].obstacle(model)
    if reason is not None:
        return {"not here": reason}
    content, style = setup.image("photos"), setup.style(model)
    eager, engine = create_engine("eager", model), create_engine(name, model)
    with exact_convolutions():
        expected = eager.decode(content, [eager.encode_style(style)]).clamp(0, 1)
    code = engine.encode_style(style)
    start = now(setup.device)
    for _ in range(3):  # CUDA graphs are recorded at the third image
        output = engine.decode(content, [code])
    prepared = now(setup.device) - start
    limit = 0.05 if setup.quick else 0.5
    eager_code = eager.encode_style(style)
    slow = fastest(lambda: eager.decode(content, [eager_code]), setup.device, limit)
    fast = fastest(lambda: engine.decode(content, [code]), setup.device, limit)
    error = float((output.clamp(0, 1) - expected).abs().mean())
    return {
        "eager, ms": 1e3 * slow,
        "ms": 1e3 * fast,
        "ratio": slow / fast,
        "first three, s": prepared,
        "mean error": 255 * error,
        "within": error <= TOLERANCE[engine.bits],
        "CUDA graph": bool(engine.graphs) if isinstance(engine, CudaEngine) else None,
    }


# Throughput


def throughput_items(setup: Setup) -> list[Item]:
    batches = (1,) if setup.quick else (8, 1, 32)
    return [(system, batch) for batch in batches for system in setup.systems]


def measure_throughput(setup: Setup, system: str, batch: int) -> Row:
    model = setup.create(system)
    content, style = setup.image("photos", batch=batch), setup.style(model)
    engine = create_engine("cuda" if setup.device.type == "cuda" else "eager", model)
    code = engine.encode_style(style)
    for _ in range(3):
        engine.decode(content, [code])
    seconds = fastest(lambda: engine.decode(content, [code]), setup.device, 0.05 if setup.quick else 0.7)
    single = content[:1]
    with torch.no_grad():
        work = count(model.decode, single, model.encode_style(style))
    size = torch.finfo(setup.short).bits // 8
    least = work.seconds(setup.rate(setup.short), setup.bandwidth, size)
    share = batch * least / seconds
    aimed = share >= GOAL[system] if setup.device.type == "cuda" and batch == 8 and system in GOAL else None
    return {
        "images per s": batch / seconds,
        "roofline": 1 / least,
        "share of it": share,
        "aim of 0.5": aimed,
        "GFLOP": work.flops / 1e9,
        "share of matrix rate": batch * work.flops / seconds / setup.rate(setup.short),
    }


# Memory


def memory_items(setup: Setup) -> list[Item]:
    sizes, types = ((128,), (torch.float32,)) if setup.quick else ((2048, 4096), (setup.short, torch.float32))
    return [(s, short_name(dtype), size) for size in sizes for dtype in dict.fromkeys(types) for s in setup.systems]


@torch.inference_mode()
def measure_memory(setup: Setup, system: str, dtype: str, size: int) -> Row:
    model = setup.create(system).to(getattr(torch, dtype))
    code, content = model.encode_style(setup.style(model)), setup.image("photos", size)
    with setup.peak() as found:
        start = now(setup.device)
        model.decode(content, code)
        seconds = now(setup.device) - start
    return {"peak, MiB": found[0], "s": seconds}


# Attention


def attention_items(setup: Setup) -> list[Item]:
    types = (torch.float32,) if setup.quick else (torch.float32, *SIXTEEN)
    channels = [(f"{n} channels", short_name(dtype)) for n in (512, 64) for dtype in types]
    systems = ("sanet",) if setup.quick else ("sanet", "multi_level_attention", "stytr2")
    return [*((system, "float32") for system in systems), *channels]


def measure_attention(setup: Setup, what: str, dtype: str) -> Row:
    """Names the kernels. Products of matrices of all positions are the kernel that needs memory for all pairs."""
    if what in registry.systems():
        model = setup.create(what)
        content, style = setup.image("photos"), setup.style(model)
        with setup.peak() as found, torch.no_grad(), WorkCounter() as counter:
            model.decode(content, model.encode_style(style))
    else:
        positions, channels = (256, int(what.split()[0])) if setup.quick else (8192, int(what.split()[0]))
        shape = (1, 1, positions, channels)
        query, key, value = (torch.randn(shape, device=setup.device).to(getattr(torch, dtype)) for _ in range(3))
        with setup.peak() as found, torch.no_grad(), WorkCounter() as counter:
            torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    names = sorted({o.name for o in counter.operations if "attention" in o.name or o.name == "bmm"})
    fused = [name.removeprefix("_scaled_dot_product_") for name in names if "attention" in name]
    return {
        "kernels": ", ".join(fused) or "math",
        "linear memory": bool(fused) and "bmm" not in names,
        "peak, MiB": found[0],
    }


# Training


def recipe(system: str) -> tuple[int, int, int]:
    """Batch, crop and steps of a system's recipe."""
    settings = recipes.read(RECIPES / f"{system}.yaml")
    data, trainer = settings["data"], settings["trainer"]
    batch = int(data["batch_size"])
    steps = trainer.get("max_steps") or trainer["max_epochs"] * (EPOCHS[data["content"]["class_path"]] // batch)
    return batch, int(data["crop"]), int(steps)


class StepTimer(Callback):
    """Notes when each step has ended, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        self.ends.append(now(pl_module.device))


def train(setup: Setup, system: str, steps: int, **options: Any) -> StepTimer:
    """Trains a system for a few steps on one batch in the memory, with the batch and crop of its recipe."""
    batch, crop, _ = (2, 64, 0) if setup.quick else recipe(system)
    model = setup.create(system).train()
    images = {"content": setup.image("photos", crop, batch)}
    if model.kind == "arbitrary":
        images["style"] = setup.image("paintings", crop, batch)
    timer = StepTimer()
    callbacks = [timer, *options.pop("callbacks", [])]
    kind = "gpu" if setup.device.type == "cuda" else "cpu"
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    settings: dict[str, Any] = {
        "accelerator": kind,
        "devices": 1,
        "max_steps": steps,
        "max_epochs": -1,
        "callbacks": callbacks,
    }
    data: Any = DataLoader([images] * steps, batch_size=None)  # type: ignore[arg-type]
    Trainer(**settings, **quiet, **options).fit(model, data)
    return timer


def training_items(setup: Setup) -> list[Item]:
    """16 bits first, as people train; compiled only a few, as that takes up to a minute each."""
    if setup.quick:
        return [(system, "float32") for system in setup.systems]
    short, full = ([(system, mode) for system in setup.systems] for mode in ("bf16-mixed", "float32"))
    first, *others = [(system, "bf16-mixed, compiled") for system in FEW]
    return [*short, first, *full, *others]


def measure_training(setup: Setup, system: str, mode: str) -> Row:
    batch, crop, total = (2, 64, 100) if setup.quick else recipe(system)
    steps = 3 if setup.quick else 12
    callbacks = [Compile()] if mode.endswith("compiled") else []
    precision: Any = "32-true" if mode == "float32" else "bf16-mixed"
    with setup.peak() as found:
        timer = train(setup, system, steps, precision=precision, callbacks=callbacks)
    first = min(4, steps - 2)  # cuDNN and allocations settle
    seconds = median(b - a for a, b in zip(timer.ends[first:], timer.ends[first + 1 :], strict=False))
    return {
        "batch": batch,
        "crop": crop,
        "ms per step": 1e3 * seconds,
        "images per s": batch / seconds,
        "steps": total,
        "schedule, h": total * seconds / 3600,
        "peak, MiB": found[0],
        "finite": all(map(math.isfinite, timer.losses)),
    }


def measure_deterministic(setup: Setup, system: str) -> Row:
    """Trains twice with deterministic algorithms only, and compares the losses bit by bit."""
    steps = 2 if setup.quick else 4
    try:
        runs = [train(setup, system, steps, deterministic=True).losses for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    return {"steps": steps, "losses are equal": runs[0] == runs[1], "last loss": runs[0][-1]}


# Loading


def loader_items(setup: Setup) -> list[Item]:
    ways = [("decode, one thread",), ("loader, no workers",), ("loader, workers by default",)]
    return ways[:2] if setup.quick else ways


def measure_loader(setup: Setup, way: str) -> Row:
    """Reads JPEG photos of 1600 x 2000 pixels, and crops of 256 of them."""
    height, width = (100, 80) if setup.quick else (2000, 1600)
    files, folder = photos(
        setup.folder / "jpeg", setup.image("photos").cpu(), (height, width), 8 if setup.quick else 64
    )
    limit = 0.2 if setup.quick else 5.0
    if way.startswith("decode"):
        batches: Iterator[Any] = (to_tensor(read_image(path))[None] for path in itertools.cycle(files))
    else:
        workers = 0 if way.endswith("no workers") else None
        crop, batch = (32, 4) if setup.quick else (256, 8)
        pairs = Pairs(Folder(str(folder)), None, batch_size=batch, size=2 * crop, crop=crop, num_workers=workers)
        pairs.setup("fit")
        batches = (batch["content"] for batch in pairs.train_dataloader())
    next(batches)  # workers start
    images, start = 0, time.perf_counter()
    for batch in batches:
        images += len(batch)
        if time.perf_counter() - start > limit:
            break
    seconds = time.perf_counter() - start
    return {"size": f"{width} x {height}", "images per s": images / seconds, "cores": os.cpu_count() or 1}


def photos(folder: Path, image: Tensor, size: tuple[int, int], count: int) -> tuple[list[Path], Path]:
    """Writes so many JPEG files of an image, and links to them: a loader has enough for an epoch."""
    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        large = torch.nn.functional.interpolate(image, size, mode="bicubic").clamp(0, 1)
        for index in range(count):
            write_image(large, folder / f"{index:02d}.jpg")
            for copy_number in range(63):
                os.link(folder / f"{index:02d}.jpg", folder / f"{index:02d}-{copy_number:02d}.jpg")
    return sorted(folder.iterdir()), folder


PARTS: dict[str, Part] = {
    "rates": Part("Rates of matrix products and memory", rate_items, ("kind",), measure_rate, 1),
    "attention": Part(
        "Attention kernels",
        attention_items,
        ("what", "type"),
        measure_attention,
        1,
        "512 channels are more than flash attention takes: on CUDA efficient_attention is expected, never math.",
    ),
    "precision": Part(
        "16 bits: outputs of the models that ship",
        precision_items,
        ("model", "type"),
        measure_precision,
        3,
        "Errors against float32 in 255ths; within: mean error at most 2.",
    ),
    "engines": Part("Engines against eager in float32", engine_items, ("system", "engine"), measure_engine, 4),
    "throughput": Part(
        "Throughput and roofline",
        throughput_items,
        ("system", "batch"),
        measure_throughput,
        4,
        "Code of the style kept. Roofline: every convolution, product and attention takes as long as its arithmetic at the"
        " measured matrix rate, or as its traffic at the measured bandwidth.",
    ),
    "memory": Part("Memory of one image", memory_items, ("system", "type", "size"), measure_memory, 3),
    "training": Part(
        "Training steps",
        training_items,
        ("system", "mode"),
        measure_training,
        8,
        "Batch and crop of the recipe, images in memory; schedule: all steps of the recipe at this rate.",
    ),
    "deterministic": Part(
        "Deterministic training",
        lambda setup: [(system,) for system in setup.systems],
        ("system",),
        measure_deterministic,
        3,
        "`--trainer.deterministic true`: an error names the operation that has no deterministic version.",
    ),
    "loader": Part("Reading training images", loader_items, ("way",), measure_loader, 2),
}
