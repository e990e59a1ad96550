"""The recipe of docs/augmentation.md: a small classifier that is trained on generated images, with and without `RandomStylize`.

    python benchmarks/robustness.py --output robustness.csv

The classes are shapes. Four of five training images of a class have its texture, too, which is easier to learn than the shape: a
network that is trained on them recognizes the texture (Geirhos et al. 2019, arXiv:1811.12231). Three sets of test images tell what
it has learned: ``same`` has the textures of the classes, ``swapped`` gives each shape the texture of another class, and ``noisy``
adds Gaussian noise to ``same``. Each network is trained with several seeds; the table has means and standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torchvision.transforms import v2

from stylezoo.data.synthetic import draw
from stylezoo.studies.base import as_csv
from stylezoo.transforms import RandomStylize

CLASSES = 4


@dataclass
class Options:
    """Options of the experiment.

    Attributes:
        output: The CSV file to write.
        model: Weights of the stylization.
        styles: Number of styles, which are procedural paintings.
        p: Probability with which a training image is stylized.
        alpha: Smallest and largest strength of the style.
        size: Side of the images in pixels.
        train: Number of training images.
        test: Number of images in each test set.
        batch: Images per step.
        epochs: Passes over the training images.
        seeds: Number of networks per way of training.
        agreement: Share of the training images whose texture is that of their class; the others have that of another one.
        threads: Number of threads; 0 for PyTorch's own choice.
    """

    output: Path
    model: str = "adain.slim"
    styles: int = 32
    p: float = 0.9
    alpha: tuple[float, float] = (0.5, 1.0)
    size: int = 64
    train: int = 384
    test: int = 256
    batch: int = 32
    epochs: int = 8
    seeds: int = 2
    agreement: float = 0.8
    threads: int = 1


def shape(kind: int, x: Tensor, y: Tensor) -> Tensor:
    """Returns where a shape of about unit size is: a disk, a square, a triangle or a cross."""
    if kind == 0:
        return x**2 + y**2 < 0.8
    if kind == 1:
        return torch.maximum(x.abs(), y.abs()) < 0.8
    if kind == 2:
        return (y < 0.7) & (1.8 * x.abs() - y < 0.9)
    return (torch.minimum(x.abs(), y.abs()) < 0.28) & (torch.maximum(x.abs(), y.abs()) < 0.95)


def texture(kind: int, x: Tensor, y: Tensor) -> Tensor:
    """Returns a texture (H, W) in [0, 1]: stripes across, stripes down, dots or rings."""
    waves = (
        torch.sin(44 * x),
        torch.sin(44 * y),
        torch.sin(36 * x) * torch.sin(36 * y),
        torch.sin(44 * torch.hypot(x, y)),
    )
    return 0.5 + 0.5 * waves[kind]


def images(count: int, size: int, seed: int, *, swapped: float = 0.0) -> tuple[Tensor, Tensor]:
    """Draws images (count, 3, size, size) in [0, 1] and their classes (count).

    Args:
        count: Number of images.
        size: Side in pixels.
        seed: Seed of shapes, places, angles and colors.
        swapped: Share of the images whose shape has the texture of another class.
    """
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    classes = torch.arange(count) % CLASSES
    others = torch.rand(count, generator=generator) < swapped
    textures = (classes + others * torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
    drawn = []
    for label, pattern in zip(classes.tolist(), textures.tolist(), strict=True):
        angle, scale, left, top = torch.rand(4, generator=generator).tolist()
        angle, scale = (angle - 0.5) * math.pi / 3, 1.1 + 0.5 * scale
        y, x = torch.meshgrid(axis - 0.4 * (top - 0.5), axis - 0.4 * (left - 0.5), indexing="ij")
        x, y = scale * (math.cos(angle) * x - math.sin(angle) * y), scale * (math.sin(angle) * x + math.cos(angle) * y)
        dark, light, ground = torch.rand(3, 3, 1, 1, generator=generator)
        inside = texture(pattern, x, y)
        surface = 0.5 * dark * (1 - inside) + (0.5 + 0.5 * light) * inside
        drawn.append(torch.where(shape(label, x, y), surface, 0.3 + 0.4 * ground))
    noise = 0.03 * torch.randn(count, 3, size, size, generator=generator)
    return (torch.stack(drawn) + noise).clamp(0, 1), classes


def classifier() -> nn.Sequential:
    """Returns a network of three convolutions."""
    layers: list[nn.Module] = []
    for wide, channels in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(wide, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 96, CLASSES))


def trained(augment: Callable[[Tensor], Tensor], seed: int, options: Options) -> nn.Module:
    """Trains a network on images that are drawn for this seed."""
    torch.manual_seed(seed)
    network, (contents, classes) = (
        classifier(),
        images(options.train, options.size, 1000 + seed, swapped=1 - options.agreement),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = options.epochs * (options.train // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(options.epochs):
        for rows in torch.randperm(options.train)[: options.train // options.batch * options.batch].split(
            options.batch
        ):
            loss = nn.functional.cross_entropy(network(augment(contents[rows])), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, contents: Tensor, classes: Tensor) -> float:
    """Returns the percentage of images whose class is recognized."""
    return 100 * float((network(contents).argmax(1) == classes).float().mean())


def main(options: Options) -> None:
    """Trains, tests, and writes the table."""
    if options.threads:
        torch.set_num_threads(options.threads)
    same, swapped = (images(options.test, options.size, 7, swapped=other) for other in (0.0, 1.0))
    noise = 0.2 * torch.randn(same[0].shape, generator=torch.Generator().manual_seed(7))
    tests = {"same": same, "swapped": swapped, "noisy": ((same[0] + noise).clamp(0, 1), same[1])}
    paintings = [draw("paintings", index, 128) for index in range(options.styles)]
    stylize = RandomStylize(options.p, options.alpha, paintings, options.model)
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    rows = []
    for name, augment in (
        ("nothing", nn.Identity()),
        ("ColorJitter", jitter),
        ("RandomStylize", stylize),
    ):
        found: dict[str, list[float]] = {test: [] for test in tests}
        for seed in range(options.seeds):
            network = trained(augment, seed, options)
            for test, (contents, classes) in tests.items():
                found[test].append(accuracy(network, contents, classes))
        cells = {test: f"{mean(values):.1f} ± {pstdev(values):.1f}" for test, values in found.items()}
        rows.append({"augmentation": name, **cells})
        print(rows[-1], flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(as_csv(rows), encoding="utf-8")


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
