"""A training step of AdaIN, written as public code is, beside ours: ratios, and where the time goes.

    python benchmarks/training_step.py --output docs/training_step
    python benchmarks/training_step.py --output DIR --device cuda --batch 8

The public style is float32 in NCHW, stock modules in an nn.Sequential, three passes of an encoder whose weights are frozen
(style, content and output), all of them with autograd on, and flattened copies for statistics. Ours are the steps of `fit`: as they are, and with each of its options. All of them have the same weights, images
and batch, and their gradients are compared in the same run. They run in turns, and a ratio is that of two steps of one
round; the median of the rounds is given with the smallest and the largest. On the CPU a step has one thread, and its time is
that of the CPU, so that other programs do not count. The profiles are sums over operators, by `torch.profiler`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import stylezoo
from stylezoo.files import replacing
from stylezoo.models.adain import AdaIN
from stylezoo.studies.base import as_csv
from stylezoo.training.winograd import WinogradTraining

Step = Callable[[], Tensor]
"""A step without the optimizer: returns the gradient of all trained weights."""


class PublicStep:
    """A step as public code has it.

    Args:
        model: Whose weights are used.
        content: (B, 3, H, W).
        style: (B, 3, H, W).
    """

    def __init__(self, model: AdaIN, content: Tensor, style: Tensor) -> None:
        self.content, self.style, self.settings = content, style, model.loss_weights
        names = list(model.encoder.convs)
        layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
        layers[0].load_state_dict(model.encoder.preprocess.state_dict())
        self.stages = nn.ModuleList()
        for name in names[: names.index("conv4_1") + 1]:
            if name.endswith("_1") and name != "conv1_1":
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            own = model.encoder.convs[name]
            convolution = nn.Conv2d(own.in_channels, own.out_channels, 3)
            convolution.load_state_dict(own.state_dict())
            layers += [nn.ReflectionPad2d(1), convolution, nn.ReLU()]
            if name.endswith("_1"):
                self.stages.append(nn.Sequential(*layers))
                layers = []
        self.stages.requires_grad_(False)
        self.decoder = nn.Sequential(
            *(type(m)(**_arguments(m)) if not isinstance(m, nn.Conv2d) else _copy(m) for m in _leaves(model.decoder))
        )
        device = content.device
        self.stages.to(device)
        self.decoder.to(device)

    def encode(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features

    def __call__(self) -> Tensor:
        for parameter in self.decoder.parameters():
            parameter.grad = None
        style, content = self.encode(self.style), self.encode(self.content)[-1]
        (content_mean, content_std), (style_mean, style_std) = statistics_of(content), statistics_of(style[-1])
        normalized = (content - content_mean.expand(content.shape)) / content_std.expand(content.shape)
        target = normalized * style_std.expand(content.shape) + style_mean.expand(content.shape)
        output = self.encode(self.decoder(target))
        loss = self.settings["content"] * F.mse_loss(output[-1], target)
        for mine, theirs in zip(output, style, strict=True):
            for a, b in zip(statistics_of(mine), statistics_of(theirs), strict=True):
                loss = loss + self.settings["style"] * F.mse_loss(a, b)
        loss.backward()
        return flat_gradient(self.decoder)


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if not list(m.children())]


def _arguments(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.ReflectionPad2d):
        return {"padding": module.padding}
    return {"scale_factor": 2, "mode": "nearest"} if isinstance(module, nn.Upsample) else {}


def _copy(convolution: nn.Conv2d) -> nn.Conv2d:
    copied = nn.Conv2d(convolution.in_channels, convolution.out_channels, convolution.kernel_size)  # type: ignore[arg-type]
    copied.load_state_dict(convolution.state_dict())
    return copied


def statistics_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (B, C, 1, 1), of flattened copies."""
    batch, channels = features.shape[:2]
    flat = features.contiguous().view(batch, channels, -1)
    std = (flat.var(dim=2) + 1e-5).sqrt().view(batch, channels, 1, 1)
    return flat.mean(dim=2).view(batch, channels, 1, 1), std


def flat_gradient(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


class OurStep:
    """A step of `fit`, with its options."""

    def __init__(self, model: AdaIN, content: Tensor, style: Tensor, options: set[str]) -> None:
        self.model = AdaIN(**model.hparams).to(content.device)  # type: ignore[arg-type]
        self.model.load_state_dict(model.state_dict())
        self.model.prepare_losses()
        self.winograd, self.mixed = "winograd" in options, "bf16-mixed" in options
        if "channels_last" in options:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            content, style = (x.contiguous(memory_format=torch.channels_last) for x in (content, style))
        self.losses = torch.compile(self.model.losses) if "compile" in options else self.model.losses
        self.content, self.style = content, style

    def __call__(self) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        autocast = torch.autocast(self.content.device.type, torch.bfloat16) if self.mixed else nullcontext()
        with WinogradTraining() if self.winograd else nullcontext():
            with autocast:
                loss = torch.stack(list(self.losses(self.content, self.style).values())).sum()
            loss.backward()
        return flat_gradient(self.model.decoder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", nargs="*", default=["winograd", "channels_last"], help="joined by +")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    model = stylezoo.create_model("adain", encoder="vgg19_random").to(device)
    assert isinstance(model, AdaIN)
    generator = torch.Generator().manual_seed(0)
    content, style = (
        F.interpolate(torch.rand(arguments.batch, 3, 24, 24, generator=generator), arguments.size, mode="bicubic")
        .clamp(0, 1)
        .to(device)
        for _ in range(2)
    )
    steps: dict[str, Step] = {"public style": PublicStep(model, content, style)}
    for words in ["", *arguments.options]:
        steps[f"ours, {words or 'as it is'}"] = OurStep(model, content, style, {*words.split("+")})
    rows = measured(steps, arguments.rounds, device)
    for row in rows:
        row |= {"batch": arguments.batch, "size": arguments.size, "device": name_of(device), "torch": torch.__version__}
    tables = "\n\n".join(f"## {name}\n\n{profiled(step, device)}" for name, step in steps.items())
    for name, content_of_file in (("times.csv", as_csv(rows)), ("profile.md", f"# Profiles\n\n{tables}\n")):
        with replacing(arguments.output / name) as file:
            file.write(content_of_file.encode())
    print(as_csv(rows))


def name_of(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    )


def measured(steps: dict[str, Step], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Returns a row per step: seconds, ratio to the first one, and how much its gradient differs from that one's."""
    names = list(steps)
    reference = steps[names[0]]()
    errors = {name: float((steps[name]() - reference).norm() / reference.norm()) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            start = clock(device)
            steps[name]()
            seconds[name].append(clock(device) - start)
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[names[0]], seconds[name], strict=True)]
        rows.append(
            {
                "step": name,
                "seconds": round(statistics.median(seconds[name]), 3),
                "speedup": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
                "gradient_difference": f"{errors[name]:.1e}",
                "rounds": rounds,
            }
        )
    return rows


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def profiled(step: Step, device: torch.device, rows: int = 12) -> str:
    """Returns a Markdown table of the operators that take the most time in a step."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as run:
        step()
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = sorted(run.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events)
    lines = ["| operator | share | calls |", "|---|---|---|"]
    lines += [f"| {event.key} | {getattr(event, name) / total:.1%} | {event.count} |" for event in events[:rows]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
