"""Metrics of stylized images: torchmetrics classes that take images, and functions that return a value per pair.

    lpips, style = LPIPS(AlexNet()), StyleLoss(VGG("vgg19_normalised"))
    for output, content, style_image in batches:                 # (B, 3, H, W), RGB in [0, 1]
        lpips.update(output, content)
        style.update(output, style_image)
    lpips.result()                                               # MetricValue(value, n, key)

Sums are float64 and independent of the batches; several processes add theirs. Every result carries a `MetricKey`: the
network with the SHA-256 of its weights, the resize rule, the encoding of the images, and all other settings. Values
with different keys refuse to be compared: LPIPS with AlexNet and with VGG-16 differ by a factor of two or three; a
plain FID and one extrapolated to infinity, or two of different numbers of images, differ by more than systems do.

| metric                | better | network                 | does not measure                                 |
|-----------------------|--------|-------------------------|--------------------------------------------------|
| ContentLoss           | lower  | VGG                     | style: the unchanged content gets 0              |
| LPIPS                 | lower  | AlexNet or VGG-16       | style, likewise                                  |
| CFSD                  | lower  | VGG-19                  | style and colors, likewise                       |
| SSIM, MultiScaleSSIM, GraySSIM | higher | -              | style: the unchanged content gets 1              |
| StyleLoss, ClassicStyleLoss, BalancedStyleLoss | lower | VGG | content: the copied style gets 0            |
| HistoGANDistance      | lower  | -                       | content, likewise; brush strokes                 |
| FID                   | lower  | any                     | content: the copied styles get 0                 |
| ArtFID                | lower  | art Inception and LPIPS | - (it is the product of the two)                 |
| TargetContentLoss     | lower  | VGG                     | - (both baselines are far from 0)                |
| GridContrast          | lower  | -                       | anything but grids and checkerboards             |
| ColorfulnessRatio     | near 1 | -                       | which colors they are                            |
| ClippedShare          | lower  | -                       | anything but clipped pixels                      |
| WarpError             | lower  | -                       | anything but flicker                             |
| SupremumCorrelation, StyleSupremum | - | VGG             | images: they describe the classic style loss     |

No single metric ranks systems. Content and style metrics have to be read together, beside the values of the identity
baseline (the unchanged content) and the style-copy baseline (the style itself). Three metrics are left out on purpose:
PSNR, which the identity baseline wins; the CLIP score, which images with a collapsed content win; and StyleID's
GramLoss, which flattens features to one vector, so that its Gram matrix is a single number.
"""

from stylezoo.metrics.artifacts import (
    ClippedShare,
    ColorfulnessRatio,
    GridContrast,
    checkerboard,
    clipped_share,
    colorfulness,
    colorfulness_ratio,
    grid_contrast,
)
from stylezoo.metrics.backbones import AlexNet, ArtInception
from stylezoo.metrics.base import (
    ContentMetric,
    ImageMetric,
    MeanMetric,
    MetricKey,
    MetricValue,
    OutputMetric,
    PairMetric,
    StyleMetric,
    TransferMetric,
    identify,
    resized,
)
from stylezoo.metrics.cfsd import CFSD, cfsd_distance
from stylezoo.metrics.frechet import FID, ArtFID, art_fid, fid, fid_infinity, frechet_distance
from stylezoo.metrics.histogan import HistoGANDistance, histogan_distance, rgb_uv_histogram
from stylezoo.metrics.lpips import LPIPS, lpips_distance, lpips_heads
from stylezoo.metrics.perceptual import (
    AST_LAYERS,
    MICROAST_CONTENT_LAYERS,
    MICROAST_STYLE_LAYERS,
    STATISTICS,
    BalancedStyleLoss,
    ClassicStyleLoss,
    ContentLoss,
    FeatureMetric,
    StyleLoss,
    StyleSupremum,
    SupremumCorrelation,
    TargetContentLoss,
    balanced_style_loss,
    classic_style_loss,
    content_loss,
    style_loss,
    style_supremum,
    supremum_correlation,
    target_content_loss,
)
from stylezoo.metrics.structural import SSIM, GraySSIM, MultiScaleSSIM, gray_ssim, ms_ssim, ssim
from stylezoo.metrics.temporal import WarpError, homography, warp, warp_error

__all__ = [
    "AST_LAYERS",
    "CFSD",
    "FID",
    "LPIPS",
    "MICROAST_CONTENT_LAYERS",
    "MICROAST_STYLE_LAYERS",
    "SSIM",
    "STATISTICS",
    "AlexNet",
    "ArtFID",
    "ArtInception",
    "BalancedStyleLoss",
    "ClassicStyleLoss",
    "ClippedShare",
    "ColorfulnessRatio",
    "ContentLoss",
    "ContentMetric",
    "FeatureMetric",
    "GraySSIM",
    "GridContrast",
    "HistoGANDistance",
    "ImageMetric",
    "MeanMetric",
    "MetricKey",
    "MetricValue",
    "MultiScaleSSIM",
    "OutputMetric",
    "PairMetric",
    "StyleLoss",
    "StyleMetric",
    "StyleSupremum",
    "SupremumCorrelation",
    "TargetContentLoss",
    "TransferMetric",
    "WarpError",
    "art_fid",
    "balanced_style_loss",
    "cfsd_distance",
    "checkerboard",
    "classic_style_loss",
    "clipped_share",
    "colorfulness",
    "colorfulness_ratio",
    "content_loss",
    "fid",
    "fid_infinity",
    "frechet_distance",
    "gray_ssim",
    "grid_contrast",
    "histogan_distance",
    "homography",
    "identify",
    "lpips_distance",
    "lpips_heads",
    "ms_ssim",
    "resized",
    "rgb_uv_histogram",
    "ssim",
    "style_loss",
    "style_supremum",
    "supremum_correlation",
    "target_content_loss",
    "warp",
    "warp_error",
]
