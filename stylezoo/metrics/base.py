"""What a metric is: a sum over pairs that says with what it was measured and refuses to be compared with others."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.transforms.v2 import functional as transforms

from stylezoo.losses import at_least_float32
from stylezoo.vgg import FLAVORS, VGG
from stylezoo.weights import digest

Setting = str | int | float | bool


@dataclass(frozen=True)
class MetricKey:
    """With what a value was measured: values of different keys cannot be compared.

    Attributes:
        metric: Its name.
        backbone: The network whose features it looks at; "none" where it needs none.
        sha256: Of that network's weights, names and values; "" where there is none.
        resize: How images were resized first, see `resized`.
        images: What the outputs were read from: "float" straight from the model, "png", "jpeg95" ...
        settings: All else, as sorted pairs.
    """

    metric: str
    backbone: str = "none"
    sha256: str = ""
    resize: str = "native"
    pictures: str = "float"
    settings: tuple[tuple[str, Setting], ...] = ()

    def differences(self, other: MetricKey) -> list[str]:
        """What differs, such as "backbone (alexnet, vgg16)"."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)[:-1]}
        mine, theirs = dict(self.settings), dict(other.settings)
        pairs |= {name: (mine.get(name), theirs.get(name)) for name in sorted({*mine, *theirs})}
        return [f"{name} ({a}, {b})" for name, (a, b) in pairs.items() if a != b]


@dataclass(frozen=True)
class MetricValue:
    """A number with its key. Only values of one key can be subtracted, divided and ordered.

    Attributes:
        value: The number.
        n: Of pairs (or images) that it is of.
        key: With what it was measured.

    >>> value = MetricValue(0.5, 800, MetricKey("lpips", "alexnet"))
    >>> value.ratio(MetricValue(0.25, 800, MetricKey("lpips", "alexnet")))
    2.0
    >>> value < MetricValue(0.6, 800, MetricKey("lpips", "vgg16"))
    Traceback (most recent call last):
        ...
    ValueError: These values differ in backbone (alexnet, vgg16) and cannot be compared: measure both in the same way.
    """

    value: float
    n: int
    key: MetricKey

    def difference(self, other: MetricValue) -> float:
        """This value minus another.

        Raises:
            ValueError: If the keys differ; so do the other comparisons.
        """
        self._check(other)
        return self.value - other.value

    def ratio(self, other: MetricValue) -> float:
        """This value divided by another."""
        self._check(other)
        return self.value / other.value

    def __lt__(self, other: MetricValue) -> bool:
        """Lets `sorted`, `min` and `max` order values of one key."""
        self._check(other)
        return self.value < other.value

    def _check(self, other: MetricValue) -> None:
        differences = self.key.differences(other.key)
        if differences:
            raise ValueError(
                f"These values differ in {', '.join(differences)} and cannot be compared: measure both in the same way."
            )


def _parse_rule(rule: str) -> tuple[str, int, bool]:
    """(native, short or square; side; whether antialiased)."""
    match = re.fullmatch(r"native|(short|square)([1-9]\d*)(_aliased)?", rule)
    if match is None:
        raise ValueError(f"There is no resize rule {rule!r}: give native, short512 or square256 (_aliased at the end).")
    return match[1] or "native", int(match[2] or 0), match[3] is None


def resized(images: Tensor, rule: str) -> Tensor:
    """Resizes images by a rule, bilinearly.

    Args:
        images: (B, 3, H, W).
        rule: ``native`` (as they are), ``short512`` (the short side to 512 pixels) or ``square256`` (to 256 x 256 pixels
            whatever their shape); with ``_aliased`` at the end without antialiasing, as OpenCV and F.interpolate do.

    >>> resized(torch.zeros(1, 3, 64, 128), "short32").shape
    torch.Size([1, 3, 32, 64])

    Raises:
        ValueError: If there is no such rule.
    """
    kind, side, antialias = _parse_rule(rule)
    if kind == "native":
        return images
    size = [side] if kind == "short" else [side, side]
    result: Tensor = transforms.resize(images, size, antialias=antialias)
    return result


def identify(backbone: nn.Module | None) -> tuple[str, str]:
    """Name and sha256 of a network's weights; those that it has as ``name`` and ``sha256``, if it has."""
    if backbone is None:
        return "none", ""
    name = str(getattr(backbone, "name", type(backbone).__name__))
    if isinstance(backbone, VGG):  # options that change features but neither name nor weights
        usual = FLAVORS[backbone.flavor]
        if backbone.pooling != "max":
            name += f" {backbone.pooling}"
        if backbone.padding != usual.padding:
            name += f" {backbone.padding}"
        if backbone.ceil_mode != usual.ceil_mode:
            name += " ceil" if backbone.ceil_mode else " floor"
        first = getattr(next(iter(backbone.convs.values())), "padding_mode", backbone.padding)
        if first != backbone.padding:
            name += f" {first} first"
    sha256 = getattr(backbone, "sha256", None)
    return name, str(sha256 or digest(backbone.state_dict()))


class ImageMetric(Metric):
    """Base of all metrics: knows its `key`, and keeps float64 sums, so that those of several processes add up.

    Images are RGB in [0, 1], (B, 3, H, W); nothing is clamped or rounded unless a metric says so.

    In a `torchmetrics.MetricCollection` switch ``compute_groups`` off: it takes two metrics whose sums agree on the
    first batch for the same one.

    Args:
        backbone: The network it looks with, if any; put into eval mode.
        resize: How images are resized first, see `resized`.
        images: What outputs are read from, see `MetricKey`; only recorded.

    Raises:
        ValueError: If there is no such resize rule.
    """

    name: ClassVar[str]
    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = False
    backbone: Any  # a network that is called, or None

    def __init__(self, backbone: nn.Module | None = None, resize: str = "native", pictures: str = "float") -> None:
        super().__init__()
        _parse_rule(resize)
        self.backbone_name, self.backbone_sha256 = identify(backbone)
        self.backbone = None if backbone is None else backbone.eval()
        self.resize = resize
        self.pictures = pictures

    @property
    def key(self) -> MetricKey:
        """With what is measured."""
        settings = tuple(sorted(self.settings().items()))
        return MetricKey(self.name, self.backbone_name, self.backbone_sha256, self.resize, self.pictures, settings)

    def settings(self) -> dict[str, Setting]:
        """What else the value depends on."""
        return {}

    @property
    def n(self) -> int:
        """Of how many pairs (or images) the sums are."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """The value of everything seen so far, by all processes; a float64 scalar."""
        raise NotImplementedError

    def result(self) -> MetricValue:
        """The value with its key; of everything seen so far, by all processes.

        Raises:
            ValueError: If nothing was seen.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):  # once for value, n and key
            n, key = self.n, self.key
            value = type(self).compute(self) if n else None
        if value is None:
            raise ValueError(f"{self.name} has seen no images yet: update it first.")
        return MetricValue(float(value), n, key)

    def _prepare(self, images: Tensor) -> Tensor:
        return resized(at_least_float32(images), self.resize)


class MeanMetric(ImageMetric):
    """The mean of one value per pair or image."""

    total: Tensor
    count: Tensor

    def __init__(self, backbone: nn.Module | None = None, resize: str = "native", pictures: str = "float") -> None:
        super().__init__(backbone, resize, pictures)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        self.total += values.double().sum()
        self.count += len(values)

    @property
    def n(self) -> int:
        return int(self.count)

    def compute(self) -> Tensor:
        return self.total / self.count


class PairMetric(MeanMetric):
    """The mean of a value per pair of images. Subclasses define `_values` and, naming its arguments, ``update``."""

    @torch.no_grad()
    def values(self, output: Tensor, reference: Tensor) -> Tensor:
        """The value of each pair, (B,); the sums stay as they are.

        Args:
            output: (B, 3, H, W), RGB in [0, 1].
            reference: What it is compared with, (B, 3, H', W').

        Raises:
            ValueError: If there are not as many outputs as references, or their sizes do not fit.
        """
        if len(output) != len(reference):
            raise ValueError(
                f"{self.name} compares pairs: there are {len(output)} outputs and {len(reference)} others."
            )
        with torch.autocast(output.device.type, enabled=False):
            return self._values(self._prepare(output), self._prepare(reference))

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        raise NotImplementedError


class ContentMetric(PairMetric):
    """Compares outputs with their contents: 0 (or for similarities 1) if nothing was painted at all."""

    def update(self, output: Tensor, content: Tensor) -> None:
        """Adds pairs, each (B, 3, H, W), RGB in [0, 1]."""
        self._add(self.values(output, content))

    def values(self, output: Tensor, reference: Tensor) -> Tensor:
        if self.resize[:6] != "square" and output.shape[-2:] != reference.shape[-2:]:
            sizes = " and ".join(f"{x.shape[-1]} x {x.shape[-2]}" for x in (output, reference))
            raise ValueError(f"{self.name} compares images of one size, not {sizes}: resize one, or take square256.")
        return super().values(output, reference)


class StyleMetric(PairMetric):
    """Compares outputs with their styles, whose size may differ: 0 if the style itself was handed back."""

    def update(self, output: Tensor, style: Tensor) -> None:
        """Adds pairs, (B, 3, H, W) and (B, 3, H', W'), RGB in [0, 1]."""
        self._add(self.values(output, style))
