"""Content and style losses as metrics: per pair, by statistic and by set of layers.

Functions take features (of `stylezoo.vgg.VGG` or another network with named features), classes take images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics.functional import pearson_corrcoef

from stylezoo.errors import StylezooError
from stylezoo.losses import CONTENT_LOSSES, STYLE_STATISTICS, gram, gram_raw_loss, mean_std, normalize
from stylezoo.metrics.base import ContentMetric, ImageMetric, PairMetric, Setting, StyleMetric, TransferMetric
from stylezoo.vgg import VGG, Features

MICROAST_CONTENT_LAYERS = {"relu4_1": 1 / 2, "relu5_1": 1 / 2}
MICROAST_STYLE_LAYERS = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1 / 5)
"""Layers and weights of EndyWon/MicroAST@5a6c905 metrics/calc_cs_loss.py, on vgg19_normalised."""

AST_LAYERS = {
    16: dict.fromkeys(("relu1_2", "relu2_2", "relu3_3", "relu4_3"), 1.0),
    19: dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 1.0),
}
"""Layers of the classic AST style loss by depth of the VGG: of Cheng et al. 2021 (arXiv:2104.10064; the text says b4r4,
but VGG-16 has three ReLUs in block 4), and of the re-run CENG501-Projects/CENG501-Spring2022@1951006 Project_Kargi,
which uses vgg19_normalised. Values of the two are not comparable."""


def per_pair(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, reference: Tensor) -> Tensor:
    """Computes a loss that averages over the batch for each pair alone.

    Args:
        loss: Maps (1, C, H, W) and (1, C, H', W') to a scalar.
        output: Features of the outputs, (B, C, H, W).
        reference: Features of the references, (B, C, H', W').

    Returns:
        (B,).
    """
    return torch.stack([loss(a[None], b[None]) for a, b in zip(output, reference, strict=True)])


def content_loss(output: Features, content: Features, layers: Mapping[str, float], loss: str = "plain") -> Tensor:
    """Computes the weighted sum over layers of a content loss.

    Args:
        output: Features of the outputs, {layer: (B, C, H, W)}.
        content: Features of the contents, of the same shapes.
        layers: {layer: weight}.
        loss: Name of one of `stylezoo.losses.CONTENT_LOSSES`.

    Returns:
        (B,), 0 or more.
    """
    return _layer_sum(lambda a, b: per_pair(CONTENT_LOSSES[loss], a, b), output, content, layers)


def style_loss(output: Features, style: Features, layers: Mapping[str, float], statistic: str = "mean_std") -> Tensor:
    """Computes the weighted sum over layers of a style loss.

    Args:
        output: Features of the outputs, {layer: (B, C, H, W)}.
        style: Features of the styles, {layer: (B, C, H', W')}.
        layers: {layer: weight}.
        statistic: Name of one of `STATISTICS`.

    Returns:
        (B,), 0 or more.
    """
    return _layer_sum(STATISTICS[statistic], output, style, layers)


def _layer_sum(
    measure: Callable[[Tensor, Tensor], Tensor], output: Features, reference: Features, layers: Mapping[str, float]
) -> Tensor:
    """The weighted sum over layers of a measure of two tensors, (B,)."""
    return torch.stack([weight * measure(output[name], reference[name]) for name, weight in layers.items()]).sum(0)


def target_content_loss(output: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """Computes the mean squared error between features of outputs and the target of AdaIN.

    The target has the features of the content, with mean and standard deviation of the style's in each channel. This is
    the content loss that AdaIN trains with (Huang & Belongie 2017, equations 8 and 12): unlike the distance to the content,
    it does not count the change of statistics that the style demands.

    Args:
        output: Features of the outputs, (B, C, H, W).
        content: Features of the contents, of the same shape.
        style: Features of the styles, (B, C, H', W').

    Returns:
        (B,), 0 or more.

    >>> content, style = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[3.0, 7.0]]]])  # the target is 3 7, the style
    >>> target_content_loss(torch.tensor([[[[3.0, 5.0]]]]), content, style).round(decimals=3)
    tensor([2.])
    """
    mean, std = mean_std(style)
    return (output - (normalize(content) * std + mean)).square().mean((1, 2, 3))


def classic_style_loss(output: Tensor, style: Tensor) -> Tensor:
    """Computes the mean squared error between raw Gram matrices of one layer (Cheng et al. 2021, section 3).

    Args:
        output: Features of the outputs, (B, C, H, W).
        style: Features of the styles, (B, C, H', W').

    Returns:
        (B,), 0 or more.
    """
    return per_pair(gram_raw_loss, output, style)


def style_supremum(output: Tensor, style: Tensor) -> Tensor:
    """Computes the least upper bound of `classic_style_loss` for Gram matrices of these norms.

    It is (|G_o|^2 + |G_s|^2) / C^2 (Cheng et al. 2021 with N^l = C^2, see `stylezoo.losses.balanced_gram_loss`), and a
    bound for features after a ReLU only.

    Args:
        output: Features of the outputs, (B, C, H, W).
        style: Features of the styles, (B, C, H', W').

    Returns:
        (B,), 0 or more.

    >>> both = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # its Gram matrix is 5 11, 11 25
    >>> style_supremum(both, both)
    tensor([446.])
    """
    squares = gram(output).square().sum((1, 2)) + gram(style).square().sum((1, 2))
    return squares / output.shape[1] ** 2


def balanced_style_loss(output: Tensor, style: Tensor) -> Tensor:
    """Computes `classic_style_loss` divided by `style_supremum` (Cheng et al. 2021, equation 5).

    It compares raw Gram matrices, as that paper and its re-run do. Where output and style differ in size, the larger
    image has more weight; the statistic ``balanced_gram`` divides each matrix by its own number of positions first.

    Args:
        output: Features of the outputs, (B, C, H, W).
        style: Features of the styles, (B, C, H', W').

    Returns:
        (B,), in [0, 1].
    """
    supremum = style_supremum(output, style)
    return classic_style_loss(output, style) / supremum.clamp_min(torch.finfo(supremum.dtype).tiny)


def supremum_correlation(output: Tensor, style: Tensor) -> Tensor:
    """Computes the Pearson correlation over pairs between the classic loss of one layer and its supremum.

    It is close to 1 in Cheng et al. 2021: the classic loss depends more on the norm of the features than on the style.

    Args:
        output: Features of the outputs, (B, C, H, W).
        style: Features of the styles, (B, C, H', W').

    Returns:
        A float64 scalar, in [-1, 1].
    """
    classic, supremum = classic_style_loss(output, style), style_supremum(output, style)
    return pearson_corrcoef(classic.double(), supremum.double())


def _statistic(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A statistic of `stylezoo.losses`, per pair."""
    return lambda output, style: per_pair(STYLE_STATISTICS[name], output, style)


STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: _statistic(name) for name in STYLE_STATISTICS},
    "classic": classic_style_loss,
    "balanced": balanced_style_loss,
    "supremum": style_supremum,
}
"""The distances of `style_loss` by name: `stylezoo.losses.STYLE_STATISTICS`, and the three of the AST style loss."""


def _choose(name: str, table: Mapping[str, object]) -> str:
    """The name, if the table has it."""
    if name not in table:
        raise StylezooError(f"There is no loss {name!r}: choose one of {', '.join(table)}.")
    return name


Channels = Literal["rgb", "bgr"]
"""Order of the channels in the input of a network; scripts that read with OpenCV and do not convert have BGR."""


class FeatureMetric(PairMetric):
    """Base class of `ContentLoss` and `StyleLoss`, which compare features of some layers of one network.

    Args:
        backbone: `stylezoo.vgg.VGG`, or another network that returns named features.
        layers: {layer: weight}.
        channels: Order of the channels in the input of the backbone.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
    """

    def __init__(
        self, backbone: nn.Module, layers: Mapping[str, float], channels: Channels, resize: str, images: str
    ) -> None:
        super().__init__(backbone, resize, images)
        self.layers = dict(layers)
        self.channels = channels

    def settings(self) -> dict[str, Setting]:
        layers = " + ".join(f"{weight:.6g} {name}" for name, weight in self.layers.items())
        return {"layers": layers, "channels": self.channels}

    def of_features(self, output: Features, reference: Features) -> Tensor:
        """Computes the value of each pair, (B,), from features of ``layers``."""
        raise NotImplementedError

    def _values(self, output: Tensor, reference: Tensor) -> Tensor:
        images = (x.flip(1) if self.channels == "bgr" else x for x in (output, reference))
        return self.of_features(*(self.backbone(x, self.layers) for x in images))


class ContentLoss(FeatureMetric, ContentMetric):
    """The distance between features of output and content.

    The defaults are those of EndyWon/MicroAST@5a6c905 metrics/calc_cs_loss.py, in RGB (the script has BGR). The content
    metrics ``vgg`` and ``alexnet`` of ArtFID are this one with the five layers of `stylezoo.metrics.lpips.LAYERS`, each
    with weight 1/5.

    Args:
        backbone: `stylezoo.vgg.VGG`, or another network that returns named features.
        layers: {layer: weight}.
        loss: Name of one of `stylezoo.losses.CONTENT_LOSSES`.
        channels: Order of the channels in the input of the backbone.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.

    Raises:
        StylezooError: If the loss is unknown.
    """

    name = "content_loss"

    def __init__(
        self,
        backbone: nn.Module,
        layers: Mapping[str, float] = MICROAST_CONTENT_LAYERS,
        loss: str = "plain",
        channels: Channels = "rgb",
        resize: str = "native",
        images: str = "float",
    ) -> None:
        super().__init__(backbone, layers, channels, resize, images)
        self.loss = _choose(loss, CONTENT_LOSSES)

    def settings(self) -> dict[str, Setting]:
        return {"loss": self.loss, **super().settings()}

    def of_features(self, output: Features, reference: Features) -> Tensor:
        return content_loss(output, reference, self.layers, self.loss)


class TargetContentLoss(TransferMetric):
    """`target_content_loss` at one layer, lower is better.

    Neither baseline gets 0: the unchanged content lacks the statistics of the style, the copied style the content.

    Args:
        backbone: `stylezoo.vgg.VGG`, or another network that returns named features.
        layer: Layer of the backbone; AdaIN's is relu4_1.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
    """

    name = "target_content_loss"

    def __init__(
        self, backbone: nn.Module, layer: str = "relu4_1", resize: str = "native", images: str = "float"
    ) -> None:
        super().__init__(backbone, resize, images)
        self.layers = {layer: 1.0}

    def settings(self) -> dict[str, Setting]:
        return {"layer": next(iter(self.layers))}

    def of_features(self, output: Features, content: Features, style: Features) -> Tensor:
        """Computes the value of each output, (B,), from features of the layer."""
        (layer,) = self.layers
        return target_content_loss(output[layer], content[layer], style[layer])

    def _values(self, output: Tensor, content: Tensor, style: Tensor) -> Tensor:
        return self.of_features(*(self.backbone(images, self.layers) for images in (output, content, style)))


class StyleLoss(FeatureMetric, StyleMetric):
    """The distance between feature statistics of output and style.

    The defaults are those of EndyWon/MicroAST@5a6c905 metrics/calc_cs_loss.py, in RGB (the script has BGR).

    Args:
        backbone: `stylezoo.vgg.VGG`, or another network that returns named features.
        layers: {layer: weight}.
        statistic: Name of one of `STATISTICS`.
        channels: Order of the channels in the input of the backbone.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.

    Raises:
        StylezooError: If the statistic is unknown.
    """

    name = "style_loss"

    def __init__(
        self,
        backbone: nn.Module,
        layers: Mapping[str, float] = MICROAST_STYLE_LAYERS,
        statistic: str = "mean_std",
        channels: Channels = "rgb",
        resize: str = "native",
        images: str = "float",
    ) -> None:
        super().__init__(backbone, layers, channels, resize, images)
        self.statistic = _choose(statistic, STATISTICS)

    def settings(self) -> dict[str, Setting]:
        return {"statistic": self.statistic, **super().settings()}

    def of_features(self, output: Features, reference: Features) -> Tensor:
        return style_loss(output, reference, self.layers, self.statistic)


class ClassicStyleLoss(StyleLoss):
    """The classic AST style loss, `classic_style_loss` summed over `AST_LAYERS` (or over other layers, weight 1).

    The paper uses ``VGG("vgg16_torchvision")`` or vgg16_caffe, the re-run ``VGG("vgg19_normalised")``.

    Args:
        backbone: `stylezoo.vgg.VGG` of depth 16 or 19.
        layers: {layer: weight}; None takes the `AST_LAYERS` of that depth.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
    """

    name = "classic_style_loss"
    measure: str = "classic"

    def __init__(
        self, backbone: VGG, layers: Mapping[str, float] | None = None, resize: str = "native", images: str = "float"
    ) -> None:
        super().__init__(backbone, layers or AST_LAYERS[backbone.depth], self.measure, "rgb", resize, images)


class BalancedStyleLoss(ClassicStyleLoss):
    """`balanced_style_loss` summed over `AST_LAYERS`; the value is between 0 and the number of layers."""

    name = "balanced_style_loss"
    measure = "balanced"


class StyleSupremum(ClassicStyleLoss):
    """`style_supremum` summed over `AST_LAYERS`, or of one layer with ``layers={"relu1_2": 1.0}``."""

    name = "style_supremum"
    measure = "supremum"


class SupremumCorrelation(ImageMetric):
    """`supremum_correlation` of one layer over all pairs.

    The coefficient of torchmetrics keeps means and variances, which cannot be merged by adding; this one keeps sums.

    Args:
        backbone: See `ClassicStyleLoss`.
        layer: Layer of the backbone.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
    """

    name = "supremum_correlation"
    higher_is_better = None
    count: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, backbone: nn.Module, layer: str, resize: str = "native", images: str = "float") -> None:
        super().__init__(backbone, resize, images)
        self.layer = layer
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def settings(self) -> dict[str, Setting]:
        return {"layer": self.layer}

    @property
    def n(self) -> int:
        return int(self.count)

    def update(self, output: Tensor, style: Tensor) -> None:
        """Adds pairs of outputs (B, 3, H, W) and styles (B, 3, H', W'), RGB in [0, 1]."""
        with torch.autocast(output.device.type, enabled=False):
            features = [self.backbone(self._prepare(x), [self.layer])[self.layer] for x in (output, style)]
            both = torch.stack([classic_style_loss(*features), style_supremum(*features)]).double()  # (2, B)
        self.count += both.shape[1]
        self.sums += both.sum(1)
        self.products += both @ both.T

    def compute(self) -> Tensor:
        covariance = self.products - self.sums.outer(self.sums) / self.count
        return covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
