"""What an evaluation measures: the metrics by name, and their values for batches of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from torch import Tensor, nn

from stylezoo.errors import StylezooError, unknown_name
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
    ClippedShare,
    ColorfulnessRatio,
    ContentLoss,
    ContentMetric,
    FeatureMetric,
    GraySSIM,
    GridContrast,
    HistoGANDistance,
    ImageMetric,
    MultiScaleSSIM,
    OutputMetric,
    PairMetric,
    StyleLoss,
    TargetContentLoss,
    TransferMetric,
)
from stylezoo.vgg import VGG, Features


class MetricNetworks:
    """The networks whose features metrics compare; each is built when a metric needs it first.

    Args:
        encoder: Flavor of the VGG of content and style losses, see `stylezoo.vgg.VGG`.
        encoder_weights: Weight file of that VGG; None takes the flavor's own.
    """

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
        """The Inception v3 of FID and ArtFID."""
        return ArtInception()

    def available_layers(self, wanted: Mapping[str, float]) -> list[str]:
        """Returns those of the wanted layers that the weights of the encoder hold.

        Raises:
            StylezooError: If they hold none.
        """
        available = [layer for layer in wanted if layer in self.encoder.channels]
        if not available:
            raise StylezooError(
                f"The weights of {self.encoder.name} hold {', '.join(self.encoder.channels)}, but one of"
                f" {', '.join(wanted)} is needed: give a file that reaches deeper (encoder_weights)."
            )
        return available

    def mean_weights(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Returns equal weights that sum to 1, for `available_layers`."""
        available = self.available_layers(wanted)
        return dict.fromkeys(available, 1 / len(available))

    def unit_weights(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Returns the weight 1 for each of `available_layers`."""
        return dict.fromkeys(self.available_layers(wanted), 1.0)


METRICS: dict[str, Callable[[MetricNetworks], ImageMetric]] = {
    "content_loss": lambda n: ContentLoss(n.encoder, n.mean_weights(MICROAST_CONTENT_LAYERS)),
    "ssim": lambda n: SSIM(),
    "style_loss": lambda n: StyleLoss(n.encoder, n.mean_weights(MICROAST_STYLE_LAYERS)),
    "classic_style_loss": lambda n: ClassicStyleLoss(n.encoder, n.unit_weights(AST_LAYERS[n.encoder.depth])),
    "balanced_style_loss": lambda n: BalancedStyleLoss(n.encoder, n.unit_weights(AST_LAYERS[n.encoder.depth])),
    "histogan_distance": lambda n: HistoGANDistance(),
    "target_content_loss": lambda n: TargetContentLoss(n.encoder, *n.available_layers({"relu4_1": 1.0})),
    "grid_2": lambda n: GridContrast(2),
    "grid_4": lambda n: GridContrast(4),
    "grid_8": lambda n: GridContrast(8),
    "colorfulness_ratio": lambda n: ColorfulnessRatio(),
    "clipped_share": lambda n: ClippedShare(),
    "gray_ssim": lambda n: GraySSIM(),
    "ms_ssim": lambda n: MultiScaleSSIM(),
    "cfsd": lambda n: CFSD(n.encoder),
    "lpips": lambda n: n.lpips,
    "fid": lambda n: FID(n.inception),
    "art_fid": lambda n: ArtFID(n.inception, n.lpips),
}
"""The metrics by name. Losses use those of their layers that the encoder's weights hold, which their key names."""

DEFAULT_METRICS = tuple(METRICS)[:6]
"""The losses and similarities that need no network but the encoder."""

ARTIFACT_METRICS = ("grid_2", "grid_4", "grid_8", "colorfulness_ratio", "clipped_share")
"""The metrics of what losses miss: grids, colors and clipped pixels."""

WITHOUT_ENCODER = {"ssim", "histogan_distance", "gray_ssim", "ms_ssim", "lpips", "fid", "art_fid", *ARTIFACT_METRICS}
"""The metrics that do without the encoder of the content and style losses."""


def metric_names(names: Sequence[str] | None) -> list[str]:
    """Returns the names of the metrics to build. ArtFID adds the two metrics that it is the product of, LPIPS and FID.

    Args:
        names: Names of `METRICS`; None for `DEFAULT_METRICS`.

    Raises:
        StylezooError: If there is no such metric; the message names the closest.
    """
    wanted = list(dict.fromkeys(DEFAULT_METRICS if names is None else names))
    if not wanted:
        raise StylezooError(f"There is no metric given: choose from {', '.join(METRICS)}.")
    for name in wanted:
        if name not in METRICS:
            raise unknown_name("There is no metric", name, METRICS, "choose from")
    if "art_fid" in wanted:
        wanted = [name for name in METRICS if name in (*wanted, "lpips", "fid")]
    return wanted


def build_metrics(names: Sequence[str] | None, networks: MetricNetworks) -> dict[str, ImageMetric]:
    """Builds metrics by name, see `metric_names`.

    Args:
        names: Names of `METRICS`; None for `DEFAULT_METRICS`.
        networks: The networks that they use.

    Raises:
        StylezooError: If there is no such metric.
        MissingFileError: If the weights of a network are not on this machine; the message says how to get them.
    """
    return {name: METRICS[name](networks) for name in metric_names(names)}


class PairMeasurement(nn.Module):
    """Measures pairs with several metrics; features of outputs, contents and styles are computed once for all losses.

    Args:
        metrics: Metrics by name. The losses among them share one encoder and take images at their own size.
    """

    def __init__(self, metrics: dict[str, ImageMetric]) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(metrics)
        self.columns = [name for name, metric in metrics.items() if not isinstance(metric, FID)]
        losses = [metric for metric in metrics.values() if isinstance(metric, FeatureMetric | TargetContentLoss)]
        self.encoder = losses[0].backbone if losses else None
        self.layers = sorted({layer for metric in losses for layer in metric.layers})

    def features(self, images: Tensor) -> Features:
        """Computes the features that the losses compare, of images (B, 3, H, W); none if there are no losses."""
        if self.encoder is None:
            return {}
        features: Features = self.encoder(images, self.layers)
        return features

    def forward(self, output: Tensor, content: Tensor, style: Tensor, style_features: Features) -> dict[str, Tensor]:
        """Computes the values of each pair.

        Args:
            output: Outputs (B, 3, H, W), RGB in [0, 1].
            content: Contents of the same shape.
            style: Styles (B, 3, H', W').
            style_features: `features` of the styles.

        Returns:
            {metric: (B,)}; for FID its activations (B, D). ArtFID has no values of its own.
        """
        output_features, content_features = self.features(output), self.features(content)
        values: dict[str, Tensor] = {}
        for name, metric in self.metrics.items():
            of_content = isinstance(metric, ContentMetric)
            if isinstance(metric, FeatureMetric):
                values[name] = metric.of_features(output_features, content_features if of_content else style_features)
            elif isinstance(metric, TargetContentLoss):
                values[name] = metric.of_features(output_features, content_features, style_features)
            elif isinstance(metric, TransferMetric):
                values[name] = metric.values(output, content, style)
            elif isinstance(metric, OutputMetric):
                values[name] = metric.values(output)
            elif isinstance(metric, PairMetric):
                values[name] = metric.values(output, content if of_content else style)
            elif isinstance(metric, FID) and not isinstance(metric, ArtFID):
                values[name] = metric.backbone(output).flatten(1)
        return values
