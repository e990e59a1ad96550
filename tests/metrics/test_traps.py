"""Ways in which evaluations of style transfer have gone wrong, each with what the metrics do about it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from every_metric import METRICS, OF_CONTENT, OF_STYLE, POOL, THIN, alexnet, some_images
from PIL import Image

import stylezoo.metrics
from stylezoo.images import to_image, to_tensor
from stylezoo.metrics import (
    FID,
    LPIPS,
    SSIM,
    ArtFID,
    ContentLoss,
    ContentMetric,
    GraySSIM,
    MetricValue,
    StyleLoss,
    StyleMetric,
    fid,
    fid_infinity,
    resized,
)
from stylezoo.metrics.frechet import activation_statistics
from stylezoo.vgg import VGG


def refuse(first: MetricValue, second: MetricValue, words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)^These values differ in.*{words}.*cannot be compared"):
        first.difference(second)


def art_fid_of(mode: str, count: int = 5) -> MetricValue:
    metric = ArtFID(POOL, SSIM(), mode, dimensions=48)  # type: ignore[arg-type]
    metric.update(**some_images(count))
    return metric.result()


def test_infinity_of_few_images_is_the_plain_value_and_says_so() -> None:
    plain, eight, fifteen = (art_fid_of(mode) for mode in ("art_fid", "art_fid_inf", "art_fid_inf_15"))
    assert plain.value == pytest.approx(eight.value, rel=1e-6) and eight.value == fifteen.value
    assert dict(eight.key.settings)["degenerate"] is True
    refuse(plain, eight, "mode \\(art_fid, art_fid_inf\\)")
    refuse(eight, fifteen, "points \\(8, 15\\)")
    with pytest.raises(ValueError, match="ArtFID has no mode 'infinity': choose one of art_fid"):
        art_fid_of("infinity")


def test_infinity_of_many_images_is_less_biased() -> None:
    """Two samples of one distribution: the plain value is above 0 by chance alone. And 8 points are not 15."""
    rng = np.random.RandomState(0)
    first, second = (torch.from_numpy(rng.standard_normal((6000, 4))) for _ in range(2))
    plain, infinite = float(fid(first, second)), float(fid_infinity(first, second))
    assert abs(infinite) < plain
    assert float(fid_infinity(first, second, points=8)) != pytest.approx(infinite, rel=1e-3)
    assert float(fid_infinity(first, second, seed=1)) != pytest.approx(infinite, rel=1e-6)


def test_values_of_different_numbers_of_images_are_refused() -> None:
    """FID is biased by the number of images."""
    refuse(art_fid_of("art_fid", 5), art_fid_of("art_fid", 4), "outputs \\(5, 4\\), styles \\(5, 4\\)")


def test_style_set_of_rank_39() -> None:
    """40 paintings, each repeated 20 times for 800 outputs: their covariance has rank 39, that of the product too.

    The exact trace of its root needs only the 39 directions in which the paintings differ.
    """
    rng = np.random.RandomState(0)
    outputs, paintings = torch.from_numpy(rng.rand(800, 64)), torch.from_numpy(rng.rand(40, 64) ** 2)
    styles = paintings.repeat(20, 1)
    (mean1, s1), (mean2, s2) = activation_statistics(outputs), activation_statistics(styles)
    assert int(torch.linalg.matrix_rank(s2)) == 39
    values, vectors = torch.linalg.eigh(s2)
    scaled = vectors[:, -39:] * values[-39:].sqrt()
    trace = torch.linalg.eigvalsh(scaled.T @ s1 @ scaled).sqrt().sum()
    expected = float((mean1 - mean2).square().sum() + s1.trace() + s2.trace() - 2 * trace)
    assert float(fid(outputs, styles)) == pytest.approx(expected, rel=1e-10)
    metric = FID(torch.nn.Flatten(), dimensions=64)
    for a, b in zip(outputs.split(100), styles.split(100), strict=True):
        metric.update(a[:, :, None, None], b[:, :, None, None])
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-10)
    # Repeating paintings is not free either: the covariance is divided by 799 / 20 instead of 39.
    assert float(fid(outputs, paintings)) != pytest.approx(expected, rel=1e-4)


def test_lpips_with_alexnet_is_not_lpips_with_vgg(tmp_path: Path) -> None:
    batch = some_images(2)
    results = []
    for network in (alexnet(tmp_path), VGG("vgg16_random", last="relu5_3")):
        metric = LPIPS(network)
        metric.update(batch["output"], batch["content"])
        results.append(metric.result())
    assert results[0].value != pytest.approx(results[1].value, rel=0.05)
    refuse(*results, "backbone \\(alexnet, vgg16_random\\)")


def test_png_is_not_jpeg() -> None:
    """Compression is part of the value: the same outputs, read from other files."""
    batch, results = some_images(2), []
    for encoding, options in (("png", {"format": "PNG"}), ("jpeg75", {"format": "JPEG", "quality": 75})):
        read = []
        for output in batch["output"]:
            file = io.BytesIO()
            to_image(output).save(file, **options)  # type: ignore[arg-type]
            read.append(to_tensor(Image.open(file)))
        metric = StyleLoss(THIN, images=encoding)
        metric.update(torch.stack(read), batch["style"])
        results.append(metric.result())
    assert results[0].value != pytest.approx(results[1].value, rel=1e-4)
    refuse(*results, "images \\(png, jpeg75\\)")


def test_bgr_is_not_rgb() -> None:
    batch, results = some_images(2), []
    for cls, reference in ((StyleLoss, "style"), (ContentLoss, "content")):
        for channels in ("rgb", "bgr"):
            metric = cls(THIN, channels=channels)  # type: ignore[arg-type]
            metric.update(batch["output"], batch[reference])
            results.append(metric.result())
        rgb, bgr = results[-2:]
        assert rgb.value != pytest.approx(bgr.value, rel=0.01)
        refuse(rgb, bgr, "channels \\(rgb, bgr\\)")


def test_antialiasing_is_part_of_the_resize_rule() -> None:
    stripes = torch.arange(64.0).remainder(2).expand(2, 3, 64, 64)
    batch = {"output": stripes, "content": 0.5 * torch.rand(2, 3, 64, 64)}
    results = []
    for rule in ("square27", "square27_aliased", "native"):
        metric = GraySSIM(resize=rule)
        metric.update(**batch)
        results.append(metric.result())
    assert float(resized(stripes, "square27").std()) < 0.3 * float(resized(stripes, "square27_aliased").std())
    assert results[0].value != pytest.approx(results[1].value, rel=0.05)
    refuse(results[0], results[1], "resize \\(square27, square27_aliased\\)")
    refuse(results[0], results[2], "resize \\(square27, native\\)")


@pytest.mark.parametrize("name", [*OF_CONTENT, *OF_STYLE])
def test_content_metrics_reward_the_identity_and_style_metrics_the_copied_style(name: str, tmp_path: Path) -> None:
    """Neither kind ranks systems alone: the identity baseline is perfect by one, the style-copy baseline by the other, and
    each is far from perfect by the other. (PSNR, which the identity baseline wins, and the CLIP score, which images with a
    collapsed content win, are not offered.)"""
    metric, batch = METRICS[name](alexnet(tmp_path)), some_images(3)
    assert isinstance(metric, ContentMetric if name in OF_CONTENT else StyleMetric)
    perfect = 1.0 if metric.higher_is_better else 0.0
    best, worst = ("content", "style") if name in OF_CONTENT else ("style", "content")
    best_values, other = (metric.values(batch[output], batch[best]) for output in (best, worst))
    assert best_values.tolist() == pytest.approx([perfect] * 3, abs=1e-6)
    assert float((other - perfect).abs().min()) > 100 * float((best_values - perfect).abs().max())


def test_art_fid_rewards_neither() -> None:
    """Its product is above 1 for both baselines: neither the unchanged content nor the copied style is perfect."""
    batch = some_images(6)

    def value(output: torch.Tensor) -> float:
        metric = ArtFID(POOL, ContentLoss(THIN), dimensions=48)
        metric.update(output, batch["content"], batch["style"])
        return float(metric.compute())

    assert value(batch["content"]) > 1.01 and value(batch["style"]) > 1.01
    metric = ArtFID(POOL, ContentLoss(THIN), dimensions=48)
    metric.update(batch["content"], batch["content"], batch["content"])
    assert float(metric.compute()) == pytest.approx(1, abs=1e-6)


def test_misleading_metrics_are_not_offered() -> None:
    names = [
        name.lower().replace("clipped", "") for name in stylezoo.metrics.__all__
    ]  # clipped pixels are no CLIP score
    assert not any(word in name for name in names for word in ("psnr", "clip", "gramloss"))
    assert all(word in (stylezoo.metrics.__doc__ or "") for word in ("PSNR", "CLIP", "GramLoss"))
