"""Metrics of stylized images: torchmetrics classes that take images, and functions that give a value per pair.

    lpips, style = LPIPS(AlexNet()), StyleLoss(VGG("vgg19_normalised"))
    for output, content, painting in batches:                    # (B, 3, H, W), RGB in [0, 1]
        lpips.update(output, content)
        style.update(output, painting)
    lpips.result()                                               # MetricValue(value, n, key)

Sums are float64 and independent of the batches; several processes add theirs. Every result carries a `MetricKey`: the
network with the sha256 of its weights, the resize rule, what the images were read from, and all other settings. Values
of different keys refuse to be compared: LPIPS with AlexNet and with VGG-16 differ by a factor of two or three, a plain FID
and one extrapolated to infinity, or of other numbers of images, by more than systems do.

| metric                | better | looks with        | blind to                                               |
|-----------------------|--------|-------------------|--------------------------------------------------------|
| ContentLoss           | lower  | VGG               | style: leaving the content as it is gives 0            |
| LPIPS                 | lower  | AlexNet or VGG-16 | style, likewise                                        |
| CFSD                  | lower  | VGG-19            | style and colors, likewise                            |
| SSIM, MultiScaleSSIM, GraySSIM | higher | -        | style: leaving the content as it is gives 1            |
| StyleLoss, ClassicStyleLoss, BalancedStyleLoss | lower | VGG | content: handing back the style gives 0      |
| HistoGANDistance      | lower  | -                 | content, likewise; brush strokes                       |
| FID                   | lower  | any network       | content: handing back the styles gives 0               |
| ArtFID                | lower  | art Inception and LPIPS | nothing entirely: the product of the two         |
| WarpError             | lower  | -                 | everything but flicker                                 |
| SupremumCorrelation, StyleSupremum | - | VGG       | they judge the classic style loss, not images        |

No single one ranks systems: read content and style metrics together, beside what the unchanged content and the returned
style get (the floor and the ceiling). Left out on purpose: PSNR, which rewards doing nothing; the CLIP score, which
rewards images whose content has collapsed; and StyleID's GramLoss, which flattens features to one vector, so that its
Gram matrix is a single number.
"""

from stylezoo.metrics.backbones import AlexNet, ArtInception
from stylezoo.metrics.base import (
    ContentMetric,
    ImageMetric,
    MeanMetric,
    MetricKey,
    MetricValue,
    PairMetric,
    StyleMetric,
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
    balanced_style_loss,
    classic_style_loss,
    content_loss,
    style_loss,
    style_supremum,
    supremum_correlation,
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
    "ContentLoss",
    "ContentMetric",
    "FeatureMetric",
    "GraySSIM",
    "HistoGANDistance",
    "ImageMetric",
    "MeanMetric",
    "MetricKey",
    "MetricValue",
    "MultiScaleSSIM",
    "PairMetric",
    "StyleLoss",
    "StyleMetric",
    "StyleSupremum",
    "SupremumCorrelation",
    "WarpError",
    "art_fid",
    "balanced_style_loss",
    "cfsd_distance",
    "classic_style_loss",
    "content_loss",
    "fid",
    "fid_infinity",
    "frechet_distance",
    "gray_ssim",
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
    "warp",
    "warp_error",
]
