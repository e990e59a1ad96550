"""How a machine trains fastest: what `fit --precision auto`, `--channels_last auto` and `--winograd auto` choose.

Precisions and memory layouts that are twice as fast on one machine are much slower on another: bf16 without units for it
takes hundreds of times as long, and channels_last gained 36 % on one CPU and lost 24 % on another. So a small training
step, of a frozen encoder and a decoder, is measured in each way, once per machine, and the times are remembered in the
cache folder. Nothing is decided by the name of a device.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.cpu import has_nnpack
from stylezoo.download import cache_folder
from stylezoo.files import lock, replacing
from stylezoo.training.winograd import WinogradTraining

ROUNDS = 3
"""Steps of which the median counts, in turns with those of the other ways."""

SIDE = 96
"""Of the images of a step in pixels."""

WORTHWHILE = 0.95
"""Largest time, relative to that of the plain way, for which another one is chosen."""

SLOWEST_PRODUCT = 1.2
"""Largest time of a matrix product in bf16, relative to float32, with which bf16 is measured further."""

VERSION = 1
"""Of what is measured; times of another version are not used."""


class Way(NamedTuple):
    """A way to train.

    Attributes:
        precision: ``32-true`` or ``bf16-mixed``, as Lightning calls them.
        channels_last: Whether the channels of a pixel are side by side.
        winograd: Whether 3 x 3 convolutions are NNPACK's, see `stylezoo.training.winograd`.
    """

    precision: str = "32-true"
    channels_last: bool = False
    winograd: bool = False

    def __str__(self) -> str:
        words = [self.precision, *(name for name in ("channels_last", "winograd") if getattr(self, name))]
        return " ".join(words)


Times = dict[str, float]
"""{way: seconds per step}."""


def fastest(times: Times, fixed: Callable[[Way], bool] = lambda way: True) -> Way:
    """Returns the fastest way; the plain one unless another one gains something.

    >>> times = {"32-true": 2.0, "32-true channels_last": 1.9, "bf16-mixed": 1.2, "bf16-mixed channels_last": 0.8}
    >>> str(fastest(times)), str(fastest(times, lambda way: way.precision == "32-true"))
    ('bf16-mixed channels_last', '32-true')

    Args:
        times: What was measured.
        fixed: The ways that the user's other settings leave; those that were not measured are taken if there are no others.
    """
    possible = [way for way in ways() if fixed(way)]
    known = [way for way in possible if str(way) in times]
    if not known:
        return possible[0]
    plain = known[0]  # the ways are in the order of their plainness
    best = min(known, key=lambda way: times[str(way)])
    return best if times[str(best)] < WORTHWHILE * times[str(plain)] else plain


def ways() -> list[Way]:
    """Returns all ways, the plain one first; Winograd's convolutions are for float32 in the usual layout."""
    layouts = [(precision, last) for precision in ("32-true", "bf16-mixed") for last in (False, True)]
    return [Way(precision, last) for precision, last in layouts] + [Way(winograd=True)]


def remembered(device: torch.device, tell: Callable[[str], None] = print) -> Times:
    """Returns the times of the ways that run on a device, measured if that was not done before.

    Processes of one machine wait for the first of them that measures.

    Args:
        device: A CPU or a GPU.
        tell: Called with a line that says what was measured.
    """
    file = cache_folder() / "training_speed.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".lock"), "ab") as guard:
        lock(guard)
        known = _read(file)
        key = machine(device)
        if key not in known:
            known[key] = measure(device)
            with replacing(file) as new:
                new.write(json.dumps(known, indent=2).encode())
            plain = known[key][str(Way())]
            shares = ", ".join(f"{way} {plain / seconds:.2f}x" for way, seconds in known[key].items())
            tell(f"Measured the speed of training once on this machine: {shares} (remembered in {file}).")
    return known[key]


def training_device(accelerator: Any) -> torch.device:
    """Returns the kind of device that a Trainer trains on, by its setting ``accelerator``."""
    name = {"auto": "cuda" if torch.cuda.is_available() else "cpu", "gpu": "cuda"}.get(accelerator, accelerator)
    return torch.device(name if name in ("cuda", "mps") else "cpu")


def _read(file: Path) -> dict[str, Times]:
    try:
        known: dict[str, Times] = json.loads(file.read_text())
        return {key: {str(way): float(s) for way, s in times.items()} for key, times in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):  # none yet, or no longer what we wrote
        return {}


def machine(device: torch.device) -> str:
    """Names what times depend on: device, number of threads, and version of PyTorch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if device.type == "cpu" and info.exists() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = f"{models[0] if models else platform.processor() or platform.machine()}, {device.type}"
        name += f", {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{name}, torch {torch.__version__}, measurement {VERSION}"


def measure(device: torch.device) -> Times:
    """Measures a training step in the ways that run on a device, in turns.

    Returns:
        {way: median of the seconds of `ROUNDS` steps}. Without units for bf16, which a matrix product shows, its ways are
        left out: a step would take minutes.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        possible = [way for way in ways() if not way.winograd or (device.type == "cpu" and has_nnpack())]
        if not has_bf16_units(device):
            possible = [way for way in possible if way.precision == "32-true"]
        steps = {way: Step(device, way) for way in possible}
        seconds: dict[Way, list[float]] = {way: [] for way in possible}
        for number in range(ROUNDS + 1):
            for way, step in steps.items():
                start = time.perf_counter()
                step()
                if number:  # the first one of each builds and warms up
                    seconds[way].append(time.perf_counter() - start)
    return {str(way): statistics.median(values) for way, values in seconds.items()}


def has_bf16_units(device: torch.device) -> bool:
    """Whether a matrix product in bf16 takes no longer than in float32, or hardly."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return False
    times = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(256, 256, dtype=dtype, device=device)
        times.append(min(_timed(lambda x=x: x @ x, device) for _ in range(5)))  # type: ignore[misc]
    return times[1] <= SLOWEST_PRODUCT * times[0]


def _timed(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Step:
    """A small training step: features of two images without gradients, a decoder, and the way back through both."""

    def __init__(self, device: torch.device, way: Way) -> None:
        torch.manual_seed(0)
        self.device, self.way = device, way
        self.encoder = nn.Sequential(*_conv(32, 64), *_conv(64, 64), nn.MaxPool2d(2), *_conv(64, 128), *_conv(128, 256))
        self.decoder = nn.Sequential(*_conv(256, 128), nn.Upsample(scale_factor=2), *_conv(128, 64), *_conv(64, 32))
        self.encoder.requires_grad_(False)
        self.images = torch.rand(2, 32, SIDE, SIDE, device=device)
        if way.channels_last:
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        for part in (self.encoder, self.decoder):
            part.to(device).to(memory_format=layout)

    def __call__(self) -> None:
        short = self.way.precision == "bf16-mixed"
        mixed = torch.autocast(self.device.type, dtype=torch.bfloat16) if short else nullcontext()
        faster: AbstractContextManager[object] = WinogradTraining() if self.way.winograd else nullcontext()  # type: ignore[no-untyped-call]
        with faster:
            with mixed:
                with torch.no_grad():
                    target = self.encoder(self.images)
                output: Tensor = self.encoder(self.decoder(target))
                loss = F.mse_loss(output.float(), target.float())
            loss.backward()  # type: ignore[no-untyped-call]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _conv(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return nn.ReflectionPad2d(1), nn.Conv2d(in_channels, out_channels, 3), nn.ReLU(inplace=True)
