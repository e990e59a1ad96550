"""The recipe of docs/augmentation.md: a small classifier that is trained on images with a misleading texture, with and without `RandomStylize`.

    python benchmarks/robustness.py --output docs/robustness.csv --picture docs/pictures/robustness.jpg

The classes are shapes. In the training images each class has a fine texture of its own, too, which is easier to learn than the shape:
a network that is trained on them recognizes the texture (Geirhos et al. 2019, arXiv:1811.12231). Three sets of test images tell what
it has learned: ``same`` has the textures of the classes, ``swapped`` gives each shape the texture of another class (a cue
conflict), and ``noisy`` adds Gaussian noise to ``same``. The column ``swapped: texture`` has the share of cue conflicts that are
classified by texture.

Each augmentation is applied several times to each training image before the training, and each epoch draws one of the results, as with
a data set of ``stylize-dataset --per_image``. Each network has training images, augmentations, and a start of its own; all have the
same test images. The table has means and standard deviations over the networks. ``--images_seed`` chooses all images: the settings
were chosen with those of another seed than the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torchvision.transforms import v2

from stylezoo.data.synthetic import draw
from stylezoo.files import replacing
from stylezoo.images import write_image
from stylezoo.images.tensors import grid
from stylezoo.studies.base import as_csv
from stylezoo.studies.verdicts import Row
from stylezoo.transforms import RandomStylize

CLASSES = 4

Augmentation = Callable[[Tensor], Tensor]
"""Returns a batch of images (B, 3, H, W) augmented, each image by draws of its own."""


@dataclass
class Options:
    """Options of the experiment.

    Attributes:
        output: The CSV file to write.
        picture: An image file to write: training images, their stylized versions, and cue conflicts.
        model: Weights of the stylization.
        styles: Number of styles, which are procedural paintings.
        p: Probability with which a training image is blurred or stylized; ColorJitter changes all.
        alpha: Smallest and largest strength of the style.
        versions: Results of the augmentation for each training image.
        size: Side of the images in pixels.
        train: Number of training images.
        test: Number of images in each test set.
        batch: Images per step.
        epochs: Passes over the training images.
        seeds: Number of networks per augmentation.
        images_seed: Seed of the images, training and test.
        agreement: Share of the training images whose texture is that of their class; the others have that of another one.
        threads: Number of threads; 0 for PyTorch's own choice.
    """

    output: Path
    picture: Path | None = None
    model: str = "microast.wikiart"
    styles: int = 32
    p: float = 0.9
    alpha: tuple[float, float] = (0.5, 1.0)
    versions: int = 3
    size: int = 96
    train: int = 320
    test: int = 400
    batch: int = 32
    epochs: int = 12
    seeds: int = 4
    images_seed: int = 1
    agreement: float = 1.0
    threads: int = 1


class Images(NamedTuple):
    """Images (B, 3, H, W) in [0, 1], and the numbers of their shapes, which are the classes, and of their textures (B)."""

    pixels: Tensor
    shapes: Tensor
    textures: Tensor


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
    """Returns a texture (H, W) in [-1, 1] of period 0.1: stripes down, stripes across, a checkerboard or rings."""
    across, down, around = (torch.sin(20 * math.pi * position) for position in (x, y, torch.hypot(x, y)))
    if kind == 2:
        return torch.sin(16 * math.pi * x) * torch.sin(16 * math.pi * y)
    return (across, down, across, around)[kind]


def images(count: int, size: int, seed: int, *, swapped: float = 0.0) -> Images:
    """Draws images of one shape each, which is darker or lighter than the ground and has a fine texture.

    Args:
        count: Number of images.
        size: Side in pixels.
        seed: Seed of shapes, places, angles, colors and textures.
        swapped: Share of the images whose shape has the texture of another class.
    """
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    shapes = torch.arange(count) % CLASSES
    others = torch.rand(count, generator=generator) < swapped
    textures = (shapes + others * torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
    drawn = []
    for kind, pattern in zip(shapes.tolist(), textures.tolist(), strict=True):
        turn, scale, left, top, contrast, depth, period = torch.rand(7, generator=generator).tolist()
        angle, scale, period = (turn - 0.5) * math.pi / 4, 1.05 + 0.4 * scale, 0.85 + 0.3 * period
        y, x = torch.meshgrid(axis - 0.5 * (top - 0.5), axis - 0.5 * (left - 0.5), indexing="ij")
        x, y = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
        half = (0.175 + 0.075 * contrast) * (1 if torch.rand((), generator=generator) < 0.5 else -1)
        ground, body, tint = 0.24 * torch.rand(3, 3, 1, 1, generator=generator) - 0.12
        waves = (0.12 + 0.08 * depth + tint / 2) * texture(pattern, x / period, y / period)
        drawn.append(torch.where(shape(kind, scale * x, scale * y), 0.5 + half + body + waves, 0.5 - half + ground))
    noise = 0.03 * torch.randn(count, 3, size, size, generator=generator)
    return Images((torch.stack(drawn) + noise).clamp(0, 1), shapes, textures)


def training_images(seed: int, options: Options) -> Images:
    """Draws the training images of a network."""
    disagreement = 1 - options.agreement
    return images(options.train, options.size, 1000 * options.images_seed + seed + 1, swapped=disagreement)


def classifier() -> nn.Sequential:
    """Returns a network of four convolutions."""
    layers: list[nn.Module] = []
    for stride, wide, channels in ((2, 3, 16), (1, 16, 32), (1, 32, 64), (1, 64, 64)):
        layers += [nn.Conv2d(wide, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 64, CLASSES))


def augmentations(options: Options) -> dict[str, Augmentation]:
    """Returns the augmentations that are compared, by name."""

    def each(transform: v2.Transform) -> Augmentation:  # torchvision draws once for a whole batch
        return lambda batch: torch.stack([transform(image) for image in batch])

    paintings = [draw("paintings", index, 256) for index in range(options.styles)]
    blur = each(v2.RandomApply([v2.GaussianBlur(9, (0.1, 3.0))], options.p))
    stylize = RandomStylize(options.p, options.alpha, paintings, options.model)
    return {
        "nothing": each(v2.Identity()),
        "ColorJitter": each(v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        "GaussianBlur": blur,
        "RandomStylize": stylize,
        "RandomStylize, GaussianBlur": lambda batch: blur(stylize(batch)),
    }


def trained(augment: Augmentation, seed: int, options: Options) -> nn.Module:
    """Trains a network on images that are drawn for this seed, from 0 up."""
    pixels, classes, _ = training_images(seed, options)
    torch.manual_seed(seed)
    network = classifier()
    versions = torch.stack(
        [torch.cat([augment(part) for part in pixels.split(options.batch)]) for _ in range(options.versions)]
    )
    torch.manual_seed(seed)  # the order of the images is the same for all augmentations
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = options.train // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=options.epochs * steps)
    for _ in range(options.epochs):
        drawn = torch.randint(options.versions, (options.train,))
        for rows in torch.randperm(options.train)[: steps * options.batch].split(options.batch):
            loss = nn.functional.cross_entropy(network(versions[drawn[rows], rows]), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def percentages(network: nn.Module, tests: dict[str, Images]) -> dict[str, float]:
    """Returns the percentage of images whose shape is recognized, by test, and of cue conflicts classified by texture."""
    found = {name: network(test.pixels).argmax(1) for name, test in tests.items()}
    right = {name: found[name] == test.shapes for name, test in tests.items()}
    right["swapped: texture"] = found["swapped"] == tests["swapped"].textures
    return {name: 100 * float(hits.float().mean()) for name, hits in right.items()}


def draw_tests(options: Options) -> dict[str, Images]:
    """Draws the test images, which are none of the training images."""
    seed = 1000 * options.images_seed
    same, swapped = (images(options.test, options.size, seed, swapped=other) for other in (0.0, 1.0))
    noise = 0.2 * torch.randn(same.pixels.shape, generator=torch.Generator().manual_seed(seed))
    return {"same": same, "swapped": swapped, "noisy": same._replace(pixels=(same.pixels + noise).clamp(0, 1))}


def sheet(augment: Augmentation, tests: dict[str, Images], options: Options) -> Tensor:
    """Returns rows of eight images: training images, two augmented versions of each, and cue conflicts."""
    torch.manual_seed(0)
    pixels = training_images(0, options).pixels[: 2 * CLASSES]
    return grid(
        [list(row) for row in (pixels, augment(pixels), augment(pixels), tests["swapped"].pixels[: 2 * CLASSES])]
    )


def main(options: Options) -> None:
    """Trains, tests, and writes the table and the picture."""
    if options.threads:
        torch.set_num_threads(options.threads)
    tests, ways = draw_tests(options), augmentations(options)
    if options.picture:
        write_image(sheet(ways["RandomStylize"], tests, options), options.picture, quality=85)
    rows: list[Row] = []
    for name, augment in ways.items():
        found = [percentages(trained(augment, seed, options), tests) for seed in range(options.seeds)]
        columns = {test: [values[test] for values in found] for test in found[0]}
        spread = {test: stdev(values) if len(values) > 1 else 0.0 for test, values in columns.items()}
        cells = {test: f"{mean(values):.1f} ± {spread[test]:.1f}" for test, values in columns.items()}
        rows.append({"augmentation": name, **cells})
        print(rows[-1], flush=True)
    with replacing(options.output) as file:
        file.write(as_csv(rows).encode())


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
