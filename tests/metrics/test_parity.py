"""Every metric against the values of public implementations (parity fixtures)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Case

from stylezoo.losses import gram_johnson_loss
from stylezoo.metrics import (
    AST_LAYERS,
    CFSD,
    FID,
    LPIPS,
    AlexNet,
    ArtFID,
    BalancedStyleLoss,
    ClassicStyleLoss,
    ContentLoss,
    GraySSIM,
    HistoGANDistance,
    StyleLoss,
    StyleSupremum,
    art_fid,
    balanced_style_loss,
    cfsd_distance,
    classic_style_loss,
    fid,
    fid_infinity,
    frechet_distance,
    gray_ssim,
    histogan_distance,
    lpips_heads,
    rgb_uv_histogram,
    style_supremum,
)
from stylezoo.metrics.cfsd import log_similarity
from stylezoo.metrics.frechet import activation_statistics, infinity_sizes
from stylezoo.metrics.lpips import LAYERS, lpips_terms
from stylezoo.metrics.structural import gray8, ssim_map
from stylezoo.vgg import VGG

Parity = Callable[[str], Case]


def trunk(case: Case, net: str) -> AlexNet | VGG:
    (path,) = case.files("trunk")
    return AlexNet(str(path)) if net == "alex" else VGG("vgg16_torchvision", str(path))


def normalized_vgg(case: Case, last: str) -> VGG:
    (path,) = case.files("vgg")
    return VGG("vgg19_normalised", str(path), last=last)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips(parity: Parity, net: str) -> None:
    case = parity(f"metrics_lpips/{net}")
    _, heads = case.files("trunk", "lin")
    metric = LPIPS(trunk(case, net), heads=str(heads))
    output, content = case["stylized"], case["content"]
    luma = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    gray_output, gray_content = ((x * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1) for x in (output, content))
    features = [list(metric.backbone(x, LAYERS[net]).values()) for x in (output, content)]
    case.check(
        distance=metric.values(output, content),
        distance_gray=metric.values(gray_output, gray_content),
        per_layer=lpips_terms(*features, lpips_heads(net, heads)),
    )
    metric.update(output, content)
    assert metric.result().value == pytest.approx(float(case["distance"].mean()), rel=2e-5)


@pytest.mark.parametrize(("choice", "net"), [("alexnet", "alex"), ("vgg", "vgg")])
def test_content_metrics_of_art_fid(parity: Parity, choice: str, net: str) -> None:
    case = parity(f"metrics_artfid/content_{choice}")
    metric = ContentLoss(trunk(case, net), dict.fromkeys(LAYERS[net], 1 / 5))
    case.check(distance=metric.values(case["stylized"], case["content"]))


class Given(torch.nn.Module):
    """A network for activations that are given as images (N, D, 1, 1)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("name", ["fid", "fid_few_samples"])
def test_fid(parity: Parity, name: str) -> None:
    """Also of fewer samples than dimensions, where the product of covariances is singular.

    There the reference's root of it depends on the version of scipy.
    """
    case = parity(f"metrics_artfid/{name}")
    output, style = case["act_stylized"], case["act_style"]
    (mean1, covariance1), (mean2, covariance2) = activation_statistics(output), activation_statistics(style)
    value = fid(output, style)
    case.check(mu_stylized=mean1, sigma_stylized=covariance1, mu_style=mean2, sigma_style=covariance2)
    case.check(fid=value, fid_eigen=value, art_fid=art_fid(case.meta["options"]["content_dist"], value))
    case.check(fid=frechet_distance(mean1, covariance1, mean2, covariance2))
    metric = FID(Given(), dimensions=output.shape[1])
    metric.update(output[..., None, None], style[..., None, None])
    case.check(fid_eigen=metric.compute())
    if name == "fid":
        case.check(fid=metric.compute())
        assert float(value) == pytest.approx(float(case["fid_eigen"]), rel=1e-12)


@pytest.mark.parametrize("name", ["fid_infinity", "fid_infinity_small_n"])
def test_fid_infinity(parity: Parity, name: str) -> None:
    case = parity(f"metrics_artfid/{name}")
    points, seed = (case.meta["options"][option] for option in ("num_points", "numpy_seed"))
    output, style = case["act_stylized"], case["act_style"]
    case.check(
        fid_infinity=fid_infinity(output, style, points, seed),
        fid=fid(output, style),
        sizes=infinity_sizes(len(output), points),
    )
    metric = FID(Given(), dimensions=output.shape[1], points=points, seed=seed)
    for a, b in zip(output.split(1000), style.split(1000), strict=True):
        metric.update(a[..., None, None], b[..., None, None])
    case.check(fid_infinity=metric.compute())


def test_art_fid(parity: Parity) -> None:
    """The class on images that are activations: (1 + LPIPS)(1 + FID) of its parts."""
    case = parity("metrics_lpips/alex")
    _, heads = case.files("trunk", "lin")
    output, content = case["stylized"], case["content"]
    lpips = LPIPS(trunk(case, "alex"), heads=str(heads))
    metric = ArtFID(torch.nn.AdaptiveAvgPool2d(2), lpips, dimensions=12)
    metric.update(output, content, content.flip(0) * 0.5)
    pooled = [torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) for x in (output, content.flip(0) * 0.5)]
    expected = (1 + float(case["distance"].mean())) * (1 + float(fid(*pooled)))
    assert float(metric.compute()) == pytest.approx(expected, rel=2e-5)


def test_cfsd_of_features(parity: Parity) -> None:
    case = parity("metrics_cfsd/features")
    output, content = case["stylized"], case["content"]
    batch, _, height, width = output.shape
    case.check(cfsd=cfsd_distance(output, content, rows=7).mean())
    columns = output.transpose(2, 3).flatten(2)  # the reference counts positions column by column
    rows = [log_similarity(features, slice(None)) for features in columns]
    case.check(log_similarity=torch.stack(rows).reshape(batch, (height * width) ** 2))


def test_cfsd_of_images(parity: Parity) -> None:
    case = parity("metrics_cfsd/images")
    (path,) = case.files("vgg19")
    vgg = VGG("vgg19_torchvision", str(path), last="relu5_1")
    metric = CFSD(vgg)
    values = metric.values(case["stylized"], case["content"])
    case.check(cfsd=values, cfsd_mean=values.mean())
    metric.update(case["stylized"], case["content"])
    case.check(cfsd_mean=metric.compute())
    # gram_loss is StyleID's GramLoss, which the zoo leaves out: it flattens every feature to one vector, whose "Gram
    # matrix" is the mean of its squares. That this is what the case holds:
    layers = [f"relu{block}_1" for block in range(1, 6)]
    features = [vgg(x, layers).values() for x in (case["stylized"], case["content"])]
    squares = [torch.stack([f.square().mean((1, 2, 3)) for f in levels]) for levels in features]
    case.check(gram_loss=(squares[0] - squares[1]).square().mean(0))


@pytest.mark.parametrize("name", ["distance", "distance_resized"])
def test_histogan(parity: Parity, name: str) -> None:
    case = parity(f"metrics_histogan/{name}")
    bins, size = case.meta["options"]["h"], case.meta["options"]["insz"]
    output, style = case["stylized"], case["style"]
    case.check(
        hist_input=rgb_uv_histogram(output, bins, size, chunk=500),
        hist_target=rgb_uv_histogram(style, bins, size),
        distance=histogan_distance(output, style, bins, size)[0],
    )
    metric = HistoGANDistance(bins, size)
    metric.update(output, style)
    case.check(distance=metric.compute())


@pytest.mark.parametrize("name", ["ssim", "ssim_odd"])
def test_gray_ssim(parity: Parity, name: str) -> None:
    case = parity(f"metrics_ssim/{name}")
    output, content = case["stylized"][None] / 255, case["content"][None] / 255
    case.check(
        gray_stylized=gray8(output)[0], gray_content=gray8(content)[0], ssim=gray_ssim(output, content).squeeze()
    )
    metric = GraySSIM()
    metric.update(output, content)
    case.check(ssim=metric.compute())
    # The case's map has a border of three pixels that SSIM leaves out; the zoo does not compute it.
    expected = case["map"][3:-3, 3:-3]
    inside = ssim_map(gray8(output), gray8(content))[0]
    torch.testing.assert_close(inside, expected, rtol=0, atol=case.fixture.tolerance("map"))


@pytest.mark.parametrize("name", ["losses", "losses_odd"])
def test_style_and_content_losses(parity: Parity, name: str) -> None:
    """In both channel orders: MicroAST's script reads with OpenCV and feeds BGR to a network of RGB."""
    case = parity(f"metrics_style_content/{name}")
    vgg = normalized_vgg(case, "relu5_1")
    output, content, style = case["stylized"], case["content"], case["style"]
    metrics = {
        "content_loss": (ContentLoss(vgg, channels="bgr"), content),
        "content_loss_rgb": (ContentLoss(vgg), content),
        "style_loss": (StyleLoss(vgg, channels="bgr"), style),
        "style_loss_rgb": (StyleLoss(vgg), style),
    }
    case.check(**{key: metric.values(output, target).mean() for key, (metric, target) in metrics.items()})
    vgg.double()
    for metric, target in metrics.values():
        metric.update(output.double(), target.double())
    float64 = {key: metric.result().value for key, (metric, _) in metrics.items()}
    assert float64 == pytest.approx(case.meta["float64_scalars"], rel=1e-12)


def test_balanced_loss_of_features(parity: Parity) -> None:
    case = parity("metrics_balanced_loss/features")
    outputs = [case[f"x{i}"].requires_grad_() for i in range(4)]
    styles = [case[f"s{i}"] for i in range(4)]
    balanced, classic, supremum = (
        torch.stack([measure(x, s) for x, s in zip(outputs, styles, strict=True)])
        for measure in (balanced_style_loss, classic_style_loss, style_supremum)
    )  # each (layers, B)
    normalized = [gram_johnson_loss(x, s) for x, s in zip(outputs, styles, strict=True)]
    total = balanced.mean(1).sum()
    gradients = torch.autograd.grad(total, outputs, retain_graph=True)
    case.check(
        balanced=balanced.mean(1),
        balanced_total=total,
        classic=classic.mean(1),
        classic_total=classic.mean(1).sum(),
        classic_normalized=torch.stack(normalized),
        supremum=supremum,
        **{f"grad_x{i}": gradient for i, gradient in enumerate(gradients)},
    )


def test_balanced_loss_of_images(parity: Parity) -> None:
    case = parity("metrics_balanced_loss/images")
    vgg = normalized_vgg(case, "relu4_1")
    output, style = case["stylized"], case["style"]
    layers = list(AST_LAYERS[19])
    by_layer = {
        cls.name: torch.stack([cls(vgg, {layer: 1.0}).values(output, style) for layer in layers])
        for cls in (BalancedStyleLoss, ClassicStyleLoss, StyleSupremum)
    }
    normalized = StyleLoss(vgg, {layers[0]: 1.0}, "gram_johnson")
    assert float(normalized.values(output, style).mean()) == pytest.approx(
        float(case["classic_normalized"][0]), rel=2e-5
    )
    features = [vgg(x, layers) for x in (output, style)]
    case.check(
        balanced=by_layer["balanced_style_loss"].mean(1),
        balanced_total=BalancedStyleLoss(vgg).values(output, style).mean(),
        classic=by_layer["classic_style_loss"].mean(1),
        classic_total=ClassicStyleLoss(vgg).values(output, style).mean(),
        classic_normalized=torch.stack([gram_johnson_loss(features[0][n], features[1][n]) for n in layers]),
        supremum=by_layer["style_supremum"],
    )


def test_every_case_is_checked() -> None:
    """A new fixture needs a test."""
    from conftest import shared

    text = Path(__file__).read_text()
    for folder in shared("parity").glob("metrics_*"):
        assert f"{folder.name}/" in text
    assert np.sum([len(list(f.glob("*.json"))) for f in shared("parity").glob("metrics_*")]) == 18
