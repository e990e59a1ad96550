"""Metrics against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from every_metric import THIN, flickering, some_images
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.functional import pearson_corrcoef

from stylezoo.losses import STYLE_STATISTICS
from stylezoo.metrics.base import resized
from stylezoo.metrics.cfsd import cfsd_distance
from stylezoo.metrics.frechet import FID, activation_statistics, fid, fid_infinity, frechet_distance
from stylezoo.metrics.histogan import histogan_distance, rgb_uv_histogram
from stylezoo.metrics.lpips import lpips_distance, lpips_heads
from stylezoo.metrics.perceptual import (
    STATISTICS,
    SupremumCorrelation,
    balanced_style_loss,
    classic_style_loss,
    style_loss,
    style_supremum,
    supremum_correlation,
)
from stylezoo.metrics.structural import gray_ssim, ms_ssim, ssim
from stylezoo.metrics.temporal import WarpError, homography, warp, warp_error

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=GENERATOR, dtype=torch.float64)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return result


def test_classic_loss_supremum_and_balanced_loss() -> None:
    output, style = random(3, 5, 4, 6), random(3, 5, 7, 3)
    for index in range(3):
        a, b = (x[index].flatten(1) @ x[index].flatten(1).T for x in (output, style))
        classic = float((a - b).square().mean())
        supremum = float(a.square().sum() + b.square().sum()) / 25
        one = slice(index, index + 1)
        assert float(classic_style_loss(output, style)[index]) == pytest.approx(classic, rel=1e-12)
        assert float(style_supremum(output, style)[index]) == pytest.approx(supremum, rel=1e-12)
        assert float(balanced_style_loss(output[one], style[one])) == pytest.approx(classic / supremum, rel=1e-12)
    assert float(balanced_style_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))) == 0


def test_balanced_loss_is_the_training_loss_at_equal_sizes() -> None:
    output, style = random(2, 5, 4, 6), random(2, 5, 4, 6)
    expected = STYLE_STATISTICS["balanced_gram"](output, style)
    torch.testing.assert_close(balanced_style_loss(output, style).mean(), expected)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_style_loss_per_pair(statistic: str) -> None:
    """The mean over pairs is the loss of the batch, and the value of a pair does not depend on the others."""
    output, style = {"relu1_1": random(3, 4, 5, 6)}, {"relu1_1": random(3, 4, 5, 6)}
    values = style_loss(output, style, {"relu1_1": 2.0}, statistic)
    assert values.shape == (3,)
    if statistic in STYLE_STATISTICS:
        expected = 2 * STYLE_STATISTICS[statistic](output["relu1_1"], style["relu1_1"])
        torch.testing.assert_close(values.mean(), expected)
    alone = style_loss(*({"relu1_1": x["relu1_1"][1:2]} for x in (output, style)), {"relu1_1": 2.0}, statistic)
    torch.testing.assert_close(alone, values[1:2])


def test_supremum_correlation() -> None:
    batch = some_images(6)
    output, style = (THIN(batch[name], ["relu2_1"])["relu2_1"] for name in ("output", "style"))
    classic, supremum = classic_style_loss(output, style).double(), style_supremum(output, style).double()
    expected = float(pearson_corrcoef(classic, supremum))
    centered = [x - x.mean() for x in (classic, supremum)]
    assert expected == pytest.approx(float(F.cosine_similarity(*centered, dim=0)), rel=1e-9)
    metric = SupremumCorrelation(THIN, "relu2_1")
    for start in range(0, 6, 2):
        metric.update(batch["output"][start : start + 2], batch["style"][start : start + 2])
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-5)
    assert float(supremum_correlation(output, style)) == pytest.approx(expected, rel=1e-9)


def test_lpips_is_a_weighted_distance_of_directions() -> None:
    """Two features of one direction are equal; orthogonal ones differ by both weights."""
    first, second = torch.zeros(2, 1, 2, 1, 1).unbind()
    first[0, 0], second[0, 1] = 3.0, 0.5
    heads = [torch.tensor([0.25, 2.0]).view(1, 2, 1, 1)]
    assert float(lpips_distance({"a": first}, {"a": second}, heads)) == pytest.approx(2.25)
    assert float(lpips_distance({"a": first}, {"a": 7 * first}, heads)) == 0
    assert float(lpips_distance({"a": torch.zeros(1, 2, 1, 1)}, {"a": torch.zeros(1, 2, 1, 1)}, heads)) == 0


@pytest.mark.parametrize(("net", "channels"), [("alex", [64, 192, 384, 256, 256]), ("vgg", [64, 128, 256, 512, 512])])
def test_lpips_brings_its_heads(net: str, channels: list[int]) -> None:
    heads = lpips_heads(net)
    assert [tuple(head.shape) for head in heads] == [(1, c, 1, 1) for c in channels]
    assert all(float(head.min()) >= 0 for head in heads)


def test_fid_of_normals() -> None:
    """Diagonal covariances: the square of the distance of means and of standard deviations."""
    mean1, mean2, std1, std2 = random(4, 6).unbind()
    expected = float((mean1 - mean2).square().sum() + (std1 - std2).square().sum())
    value = frechet_distance(mean1, std1.square().diag(), mean2, std2.square().diag())
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(60, 50), (9, 12), (9, 60), (2, 2)])
def test_fid_by_nuclear_norm_is_the_trace_of_the_root(n: int, m: int) -> None:
    """Against the eigenvalues of S1^(1/2) S2 S1^(1/2), with more and with fewer images than dimensions."""
    output, style = random(n, 20), random(m, 20) ** 2
    (mean1, s1), (mean2, s2) = activation_statistics(output), activation_statistics(style)
    values, vectors = torch.linalg.eigh(s1)
    root = vectors @ (values.clamp_min(0).sqrt()[:, None] * vectors.T)
    trace = torch.linalg.eigvalsh(root @ s2 @ root).clamp_min(0).sqrt().sum()
    expected = float((mean1 - mean2).square().sum() + s1.trace() + s2.trace() - 2 * trace)
    assert float(fid(output, style)) == pytest.approx(expected, rel=1e-6)
    assert float(frechet_distance(mean1, s1, mean2, s2)) == pytest.approx(float(fid(output, style)), rel=1e-6)
    assert float(fid(output, output)) == pytest.approx(0, abs=1e-12)


def test_fid_of_few_images_builds_no_covariance() -> None:
    output, style = random(12, 3000), random(10, 3000)
    with Largest() as largest:
        fid(output, style)
    assert largest.size <= output.numel()


def test_fid_needs_two_images_of_each() -> None:
    with pytest.raises(ValueError, match="of two or more images each, not 1 outputs and 5 styles"):
        fid(random(1, 4), random(5, 4))
    metric = FID(torch.nn.Flatten(), dimensions=12)
    metric.update(torch.rand(1, 3, 2, 2), torch.rand(3, 3, 2, 2))
    with pytest.raises(ValueError, match="of two or more images each, not 1 outputs and 3 styles"):
        metric.compute()


def test_fid_infinity_needs_as_many_styles_as_outputs() -> None:
    with pytest.raises(ValueError, match="6 outputs need as many styles, not 5"):
        fid_infinity(random(6, 4), random(5, 4))


def test_cfsd() -> None:
    output, content = random(2, 6, 5, 4), random(2, 6, 5, 4)
    expected = []
    for a, b in zip(output.flatten(2), content.flatten(2), strict=True):
        q, p = ((x.T / 6 @ (x / 6)).softmax(1) for x in (a, b))
        expected.append((p * (p / q).log()).sum())
    torch.testing.assert_close(cfsd_distance(output, content), torch.stack(expected), rtol=1e-10, atol=0)


def test_cfsd_does_not_depend_on_the_rows_at_a_time_and_never_holds_the_matrix() -> None:
    output, content = random(2, 1, 8, 48, 48).float().unbind()
    whole = cfsd_distance(output, content, rows=48 * 48)
    with Largest() as largest:
        values = cfsd_distance(output, content, rows=100)
    torch.testing.assert_close(values, whole, rtol=1e-6, atol=0)
    assert largest.size == 100 * 48 * 48


def test_histogan_by_loops() -> None:
    image = random(1, 3, 3, 4)
    centers = [-3 + 6 * i / 7 for i in range(8)]
    expected = torch.zeros(3, 8, 8, dtype=torch.float64)
    for pixel in image[0].flatten(1).T:
        weight = math.sqrt(float(pixel.square().sum()) + 1e-6)
        logs = [math.log(float(v) + 1e-6) for v in pixel]
        for channel, others in enumerate(((1, 2), (0, 2), (0, 1))):
            u, v = (logs[channel] - logs[other] for other in others)
            for i, a in enumerate(centers):
                for j, b in enumerate(centers):
                    kernels = (1 + ((u - a) / 0.02) ** 2) * (1 + ((v - b) / 0.02) ** 2)
                    expected[channel, i, j] += weight / kernels
    histogram = rgb_uv_histogram(image, bins=8)
    torch.testing.assert_close(histogram[0], expected / (expected.sum() + 1e-6), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rgb_uv_histogram(image, bins=8, chunk=5), histogram, rtol=1e-12, atol=0)


def test_histogan_distance_ends() -> None:
    """0 for the same colors wherever they are, close to 1 for colors that share nothing."""
    image = torch.rand(1, 3, 20, 20)
    assert float(histogan_distance(image, image.flip(-1))) == pytest.approx(0, abs=1e-3)
    red, blue = torch.full((2, 1, 3, 8, 8), 0.05).unbind()
    red[:, 0], blue[:, 2] = 0.9, 0.9
    assert 0.9 < float(histogan_distance(red, blue)) <= 1


def test_gray_ssim_by_loops() -> None:
    output, content = ((random(1, 3, 9, 8) * 255).round() / 255 for _ in range(2))

    def gray(image: Tensor) -> Tensor:
        red, green, blue = image[0] * 255
        return (0.299 * red + 0.587 * green + 0.114 * blue).round()

    x, y = gray(output), gray(content)
    values = []
    for i in range(3):
        for j in range(2):
            a, b = x[i : i + 7, j : j + 7].flatten(), y[i : i + 7, j : j + 7].flatten()
            covariance = torch.stack([a, b]).cov()
            c1, c2 = 2.55**2, 7.65**2
            luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
            values.append(luminance * (2 * covariance[0, 1] + c2) / (covariance[0, 0] + covariance[1, 1] + c2))
    assert float(gray_ssim(output, content)) == pytest.approx(float(torch.stack(values).mean()), rel=1e-9)


def test_ssim_and_ms_ssim_of_flat_images() -> None:
    """Only luminance is left: (2ab + c1) / (a^2 + b^2 + c1); MS-SSIM raises it to the weight of the coarsest scale."""
    a, b, c1 = 0.8, 0.3, 0.01**2
    luminance = (2 * a * b + c1) / (a**2 + b**2 + c1)
    first, second = torch.full((2, 3, 176, 176), a), torch.full((2, 3, 176, 176), b)
    # rel: in float32 the variance of a flat image is a rounding error
    assert ssim(first, second).tolist() == pytest.approx([luminance] * 2, rel=1e-3)
    assert ms_ssim(first, second).tolist() == pytest.approx([luminance**0.1333] * 2, rel=1e-3)


def test_resize_rules() -> None:
    image = torch.rand(2, 3, 60, 80)
    assert resized(image, "native") is image
    assert resized(image, "short30").shape == (2, 3, 30, 40)
    assert resized(image, "square20").shape == (2, 3, 20, 20)
    expected = F.interpolate(image, size=(20, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(image, "square20_aliased"), expected)
    smooth = F.interpolate(image, size=(20, 20), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(resized(image, "square20"), smooth)


def test_warps() -> None:
    image = torch.rand(2, 3, 33, 41)
    moved, inside = warp(image, homography("shift", 33, 41))
    torch.testing.assert_close(moved[..., 2:, 4:], image[..., :-2, :-4])
    assert int(inside.sum()) == 31 * 37 and bool(inside[2:, 4:].all())
    for motion in ("rotate", "zoom", "tilt"):
        matrix = homography(motion, 33, 41)
        center = torch.tensor([20.0, 16.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(matrix @ center, center)
        assert not torch.allclose(matrix, torch.eye(3, dtype=torch.float64))
    corner = homography("zoom", 33, 41) @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(corner[:2], torch.tensor([20 - 20 / 1.03, 16 - 16 / 1.03], dtype=torch.float64))
    right = homography("tilt", 33, 41) @ torch.tensor([40.0, 16.0, 1.0], dtype=torch.float64)
    assert float(right[0] / right[2]) == pytest.approx(20 + 20 / 1.03)
    slope = torch.arange(41.0).expand(1, 3, 33, 41)  # bilinear interpolation is exact on a slope
    moved, inside = warp(slope, homography("zoom", 33, 41))
    expected = 20 + (torch.arange(41.0) - 20) / 1.03
    assert bool(inside.all())
    torch.testing.assert_close(moved[0, 0, 5], expected, rtol=1e-5, atol=1e-4)


def test_warp_error() -> None:
    """A texture that sticks to the screen: the difference of the texture with itself shifted, where that is known."""
    still = some_images(2)["content"]
    rows = 0.1 * torch.rand(64, 1)
    expected = float((rows[2:] - rows[:-2]).abs().mean())
    values = warp_error(lambda x: x + rows, still, ["shift"])
    assert values.tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_warp_error_of_stylizers_that_commute_with_motion() -> None:
    still = some_images(2)["content"]
    assert float(warp_error(lambda x: x**2, still, ["shift"]).max()) < 1e-7  # nothing is interpolated
    assert float(warp_error(lambda x: 1 - x, still).max()) < 1e-6  # interpolation commutes with it
    assert float(warp_error(torch.zeros_like, still).max()) == 0
    assert float(warp_error(flickering, still).min()) > 0.01
    metric = WarpError()
    metric.update(flickering, still)
    torch.testing.assert_close(metric.compute(), warp_error(flickering, still).double().mean())
