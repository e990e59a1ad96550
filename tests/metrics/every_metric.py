"""One small instance of every metric, and images for them, for tests in one process and in two."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stylezoo.metrics.artifacts import ClippedShare, ColorfulnessRatio, GridContrast
from stylezoo.metrics.backbones import AlexNet
from stylezoo.metrics.base import ImageMetric
from stylezoo.metrics.cfsd import CFSD
from stylezoo.metrics.frechet import FID, ArtFID
from stylezoo.metrics.histogan import HistoGANDistance
from stylezoo.metrics.lpips import LPIPS
from stylezoo.metrics.perceptual import (
    BalancedStyleLoss,
    ClassicStyleLoss,
    ContentLoss,
    StyleLoss,
    StyleSupremum,
    SupremumCorrelation,
    TargetContentLoss,
)
from stylezoo.metrics.structural import SSIM, GraySSIM, MultiScaleSSIM
from stylezoo.metrics.temporal import WarpError
from stylezoo.vgg import VGG

THIN = VGG("vgg19_random/8", last="relu5_1")
POOL = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())


def alexnet(folder: Path) -> AlexNet:
    """An AlexNet with weights that were never trained."""
    shapes = {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3), "10": (256, 256, 3)}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (width, channels, side) in shapes.items():
        scale = (2 / (channels * side**2)) ** 0.5
        tensors[f"features.{name}.weight"] = torch.randn(width, channels, side, side, generator=generator) * scale
        tensors[f"features.{name}.bias"] = torch.zeros(width)
    torch.save(tensors, folder / "alexnet.pth")
    return AlexNet(str(folder / "alexnet.pth"))


METRICS: dict[str, Callable[[AlexNet], ImageMetric]] = {
    "content": lambda _: ContentLoss(THIN),
    "content_normalized": lambda _: ContentLoss(THIN, {"relu3_1": 2.0}, "normalized", resize="square32"),
    "style": lambda _: StyleLoss(THIN),
    "style_gram": lambda _: StyleLoss(THIN, {"relu2_1": 1.0}, "gram_magenta", channels="bgr"),
    "classic": lambda _: ClassicStyleLoss(THIN),
    "balanced": lambda _: BalancedStyleLoss(THIN),
    "supremum": lambda _: StyleSupremum(THIN, {"relu1_1": 1.0}),
    "correlation": lambda _: SupremumCorrelation(THIN, "relu2_1"),
    "lpips": LPIPS,
    "cfsd": lambda _: CFSD(THIN),
    "ssim": lambda _: SSIM(),
    "ms_ssim": lambda _: MultiScaleSSIM(resize="square176"),
    "gray_ssim": lambda _: GraySSIM(),
    "histogan": lambda _: HistoGANDistance(bins=16),
    "fid": lambda _: FID(POOL, dimensions=48),
    "fid_infinity": lambda _: FID(POOL, dimensions=48, points=3),
    "art_fid": lambda alex: ArtFID(POOL, LPIPS(alex), dimensions=48),
    "art_fid_inf": lambda alex: ArtFID(POOL, ContentLoss(THIN), "art_fid_inf", dimensions=48),
    "warp": lambda _: WarpError(),
    "target": lambda _: TargetContentLoss(THIN),
    "grid_2": lambda _: GridContrast(2),
    "grid_8": lambda _: GridContrast(8),
    "colorfulness": lambda _: ColorfulnessRatio(),
    "clipped": lambda _: ClippedShare(),
}

OF_CONTENT = ("content", "content_normalized", "lpips", "cfsd", "ssim", "ms_ssim", "gray_ssim")
OF_STYLE = ("style", "style_gram", "classic", "balanced", "histogan")


def flickering(images: Tensor) -> Tensor:
    """A stylizer that flickers: its texture does not move with the content."""
    rows = torch.arange(images.shape[-2], dtype=images.dtype).view(-1, 1)
    return images.square() * (1 + 0.2 * torch.sin(rows))


def some_images(count: int = 5) -> dict[str, Tensor]:
    """Outputs, contents and styles, each (count, 3, 64, 72), all different."""
    generator = torch.Generator().manual_seed(1)
    low = torch.rand(2, count, 3, 8, 9, generator=generator)
    content, style = (nn.functional.interpolate(x, size=(64, 72), mode="bilinear") for x in low)
    return {"output": (0.7 * content + 0.3 * style.flip(-1)) ** 1.5, "content": content, "style": style}


def update(metric: ImageMetric, batch: dict[str, Tensor], part: slice = slice(None)) -> None:
    """Updates a metric with the arguments that it takes."""
    wanted = inspect.signature(type(metric).update).parameters
    metric.update(
        **{name: flickering if name == "stylizer" else batch[name][part] for name in wanted if name != "self"}
    )
