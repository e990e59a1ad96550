"""Base classes of metrics: float64 sums over pairs, and values that carry the settings they were measured with."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.transforms.v2 import functional as transforms

from stylezoo.errors import StylezooError
from stylezoo.losses import at_least_float32
from stylezoo.vgg import FLAVORS, VGG
from stylezoo.weights import digest

Setting = str | int | float | bool


@dataclass(frozen=True)
class MetricKey:
    """The settings with which a value was measured; values with different keys cannot be compared.

    Attributes:
        metric: Name of the metric.
        backbone: Name of the network whose features it compares; "none" for metrics without a network.
        sha256: SHA-256 of that network's weights, names and values; "" for metrics without a network.
        resize: Rule by which images were resized first, see `resized`.
        images: Encoding of the outputs: "float" for tensors from the model, "png", "jpeg95" ...
        settings: All other settings, as sorted pairs.
    """

    metric: str
    backbone: str = "none"
    sha256: str = ""
    resize: str = "native"
    images: str = "float"
    settings: tuple[tuple[str, Setting], ...] = ()

    def differences(self, other: MetricKey) -> list[str]:
        """Returns the settings in which two keys differ, such as "backbone (alexnet, vgg16)"."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)[:-1]}
        mine, theirs = dict(self.settings), dict(other.settings)
        pairs |= {name: (mine.get(name), theirs.get(name)) for name in sorted({*mine, *theirs})}
        return [f"{name} ({a}, {b})" for name, (a, b) in pairs.items() if a != b]


@dataclass(frozen=True)
class MetricValue:
    """A number with its key. Only values with the same key can be subtracted, divided and ordered.

    Attributes:
        value: The number.
        n: Number of pairs (or images) that were measured.
        key: The settings of the measurement.

    >>> value = MetricValue(0.5, 800, MetricKey("lpips", "alexnet"))
    >>> value.ratio(MetricValue(0.25, 800, MetricKey("lpips", "alexnet")))
    2.0
    >>> value < MetricValue(0.6, 800, MetricKey("lpips", "vgg16"))
    Traceback (most recent call last):
        ...
    stylezoo.errors.StylezooError: These values differ in backbone (alexnet, vgg16) and cannot be compared: measure both in the same way.
    """

    value: float
    n: int
    key: MetricKey

    def difference(self, other: MetricValue) -> float:
        """Returns this value minus another.

        Raises:
            StylezooError: If the keys differ; the other comparisons raise it, too.
        """
        self._check_comparable(other)
        return self.value - other.value

    def ratio(self, other: MetricValue) -> float:
        """Returns this value divided by another."""
        self._check_comparable(other)
        return self.value / other.value

    def __lt__(self, other: MetricValue) -> bool:
        """Compares values with the same key, so that `sorted`, `min` and `max` order them."""
        self._check_comparable(other)
        return self.value < other.value

    def _check_comparable(self, other: MetricValue) -> None:
        """Raises a StylezooError that names what differs."""
        differences = self.key.differences(other.key)
        if differences:
            raise StylezooError(
                f"These values differ in {', '.join(differences)} and cannot be compared: measure both in the same way."
            )


def _parse_rule(rule: str) -> tuple[str, int, bool]:
    """The parts of a resize rule: native, short or square; the side in pixels; whether it is antialiased."""
    match = re.fullmatch(r"native|(short|square)([1-9]\d*)(_aliased)?", rule)
    if match is None:
        raise StylezooError(
            f"There is no resize rule {rule!r}: give native, short512 or square256 (_aliased at the end)."
        )
    return match[1] or "native", int(match[2] or 0), match[3] is None


def resized(images: Tensor, rule: str) -> Tensor:
    """Resizes images bilinearly by a rule.

    Args:
        images: (B, 3, H, W).
        rule: ``native`` (unchanged), ``short512`` (the short side to 512 pixels) or ``square256`` (to 256 x 256 pixels
            whatever the shape). The suffix ``_aliased`` switches antialiasing off, as OpenCV and F.interpolate do.

    Returns:
        (B, 3, H', W').

    >>> resized(torch.zeros(1, 3, 64, 128), "short32").shape
    torch.Size([1, 3, 32, 64])

    Raises:
        StylezooError: If there is no such rule.
    """
    kind, side, antialias = _parse_rule(rule)
    if kind == "native":
        return images
    size = [side] if kind == "short" else [side, side]
    result: Tensor = transforms.resize(images, size, antialias=antialias)
    return result


def rounded(images: Tensor) -> Tensor:
    """Clamps and rounds images as 8-bit files store them.

    Args:
        images: (B, 3, H, W), RGB in [0, 1].

    Returns:
        The same shape, whole numbers from 0 to 255 in float64.
    """
    return (images.double() * 255).round().clamp(0, 255)


def identify(backbone: nn.Module | None) -> tuple[str, str]:
    """Returns a network's name and the SHA-256 of its weights.

    Args:
        backbone: Network, whose attributes ``name`` and ``sha256`` are used where it has them; None for metrics without
            a network, which gives ("none", "").
    """
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
    """Base class of all metrics: has a `key` and float64 sums, so that those of several processes can be added.

    Images are RGB in [0, 1], (B, 3, H, W); nothing is clamped or rounded unless a metric documents it.

    In a `torchmetrics.MetricCollection`, ``compute_groups`` must be off: the collection merges two metrics whose sums
    agree on the first batch.

    Args:
        backbone: Network whose features are compared, if any; it is put into eval mode.
        resize: Rule by which images are resized first, see `resized`.
        images: Encoding of the outputs, see `MetricKey`; it is recorded and changes no value.

    Raises:
        StylezooError: If there is no such resize rule.
    """

    name: ClassVar[str]
    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = False
    backbone: Any  # a network that is called, or None

    def __init__(self, backbone: nn.Module | None = None, resize: str = "native", images: str = "float") -> None:
        super().__init__()
        _parse_rule(resize)
        self.backbone_name, self.backbone_sha256 = identify(backbone)
        self.backbone = None if backbone is None else backbone.eval()
        self.resize = resize
        self.images = images

    @property
    def key(self) -> MetricKey:
        """The settings of the measurement."""
        settings = tuple(sorted(self.settings().items()))
        return MetricKey(self.name, self.backbone_name, self.backbone_sha256, self.resize, self.images, settings)

    def settings(self) -> dict[str, Setting]:
        """Returns all other settings on which the value depends."""
        return {}

    @property
    def n(self) -> int:
        """The number of pairs (or images) in the sums."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """Computes the value over all updates of all processes, a float64 scalar."""
        raise NotImplementedError

    def result(self) -> MetricValue:
        """Returns the value over all updates of all processes, with its key.

        Raises:
            StylezooError: If there was no update.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):  # once for value, n and key
            n, key = self.n, self.key
            value = type(self).compute(self) if n else None
        if value is None:
            raise StylezooError(f"{self.name} has no images yet: call update first.")
        return MetricValue(float(value), n, key)

    def _prepare(self, images: Tensor) -> Tensor:
        """The images in float32 or float64, resized."""
        return resized(at_least_float32(images), self.resize)


class MeanMetric(ImageMetric):
    """Base class of metrics that are the mean of one value per pair or image."""

    total: Tensor
    count: Tensor

    def __init__(self, backbone: nn.Module | None = None, resize: str = "native", images: str = "float") -> None:
        super().__init__(backbone, resize, images)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        """Adds the values (B,) to the sums."""
        self.total += values.double().sum()
        self.count += len(values)

    @property
    def n(self) -> int:
        return int(self.count)

    def compute(self) -> Tensor:
        return self.total / self.count


class PairMetric(MeanMetric):
    """Base class of metrics that are the mean of a value per pair of images.

    Subclasses define `_values`, and ``update`` with the names of its arguments.
    """

    @torch.no_grad()
    def values(self, output: Tensor, reference: Tensor) -> Tensor:
        """Computes the value of each pair without adding it to the sums.

        Args:
            output: Outputs (B, 3, H, W), RGB in [0, 1].
            reference: Contents or styles (B, 3, H', W'), RGB in [0, 1].

        Returns:
            (B,).

        Raises:
            StylezooError: If the numbers of outputs and references differ, or their sizes do not fit.
        """
        if len(output) != len(reference):
            raise StylezooError(
                f"{self.name} compares pairs, but there are {len(output)} outputs and {len(reference)} references."
            )
        with torch.autocast(output.device.type, enabled=False):
            return self._values(self._prepare(output), self._prepare(reference))

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        """The value of each pair of prepared images, (B,)."""
        raise NotImplementedError


class ContentMetric(PairMetric):
    """Base class of metrics that compare outputs with contents; the unchanged content gets 0, or 1 for similarities."""

    def update(self, output: Tensor, content: Tensor) -> None:
        """Adds pairs, each (B, 3, H, W), RGB in [0, 1]."""
        self._add(self.values(output, content))

    def values(self, output: Tensor, reference: Tensor) -> Tensor:
        if self.resize[:6] != "square" and output.shape[-2:] != reference.shape[-2:]:
            sizes = " and ".join(f"{x.shape[-1]} x {x.shape[-2]}" for x in (output, reference))
            raise StylezooError(
                f"{self.name} compares images of one size, not {sizes}: resize them, or use the rule square256."
            )
        return super().values(output, reference)


class StyleMetric(PairMetric):
    """Base class of metrics that compare outputs with styles, whose size may differ; the style itself gets 0, or 1 for ratios."""

    def update(self, output: Tensor, style: Tensor) -> None:
        """Adds pairs, (B, 3, H, W) and (B, 3, H', W'), RGB in [0, 1]."""
        self._add(self.values(output, style))


class TransferMetric(MeanMetric):
    """Base class of metrics that compare an output with its content and its style at once."""

    def update(self, output: Tensor, content: Tensor, style: Tensor) -> None:
        """Adds outputs and contents (B, 3, H, W) and styles (B, 3, H', W'), RGB in [0, 1]."""
        self._add(self.values(output, content, style))

    @torch.no_grad()
    def values(self, output: Tensor, content: Tensor, style: Tensor) -> Tensor:
        """Computes the value of each output without adding it to the sums.

        Args:
            output: Outputs (B, 3, H, W), RGB in [0, 1].
            content: Contents of the same shape.
            style: Styles (B, 3, H', W'), RGB in [0, 1].

        Returns:
            (B,).

        Raises:
            StylezooError: If the numbers of images differ, or contents have another size than outputs.
        """
        if not len(output) == len(content) == len(style):
            raise StylezooError(
                f"{self.name} compares outputs with their contents and styles, but there are {len(output)} outputs,"
                f" {len(content)} contents and {len(style)} styles."
            )
        if output.shape[-2:] != content.shape[-2:]:
            sizes = " and ".join(f"{x.shape[-1]} x {x.shape[-2]}" for x in (output, content))
            raise StylezooError(f"{self.name} compares outputs and contents of one size, not {sizes}: resize them.")
        with torch.autocast(output.device.type, enabled=False):
            return self._values(*(self._prepare(images) for images in (output, content, style)))

    def _values(self, output: Tensor, content: Tensor, style: Tensor) -> Tensor:
        """The value of each output, (B,), of prepared images."""
        raise NotImplementedError


class OutputMetric(MeanMetric):
    """Base class of metrics of outputs alone."""

    def update(self, output: Tensor) -> None:
        """Adds outputs (B, 3, H, W), RGB in [0, 1]."""
        self._add(self.values(output))

    @torch.no_grad()
    def values(self, output: Tensor) -> Tensor:
        """Computes the value of each output (B, 3, H, W) without adding it to the sums; (B,)."""
        return self._values(self._prepare(output))

    def _values(self, output: Tensor) -> Tensor:
        """The value of each prepared output, (B,)."""
        raise NotImplementedError
