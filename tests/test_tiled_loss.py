"""The perceptual loss in tiles: loss and gradient of the whole image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import thin_model
from torch import Tensor

from stylezoo import tiled_loss
from stylezoo.losses import STYLE_STATISTICS, Moments, PerceptualLoss, even_gradient
from stylezoo.models.gatys import Gatys
from stylezoo.tiled_loss import Sums, TiledLoss, fitting_tile
from stylezoo.vgg import VGG

STYLE_LAYERS = {"relu1_1": 1.0, "relu2_1": 0.5, "conv3_1": 2.0, "relu3_1": 0.3}
CONTENT_LAYERS = {"relu3_2": 1.0, "relu2_1": 0.7}
WEIGHTS = {"content": 3.0, "style": 40.0}


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Features are computed with the same sums in a tile as in the whole."""
    torch.manual_seed(0)
    yield


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.rand(1, 3, *size, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize("style_loss", STYLE_STATISTICS)
def test_every_style_loss_has_the_gradient_of_the_whole(style_loss: str) -> None:
    image, content, style = images((67, 90), (67, 90), (50, 41))
    check(
        VGG("vgg19_random/16").double(),
        PerceptualLoss(CONTENT_LAYERS, STYLE_LAYERS, style_loss=style_loss),
        image,
        content,
        style,
    )


@pytest.mark.parametrize("name", ["vgg19_random/16", "floor"])
@pytest.mark.parametrize("size", [(67, 90), (64, 64), (33, 130), (96, 41)])
@pytest.mark.parametrize("content_loss", ["plain", "normalized", "gatys"])
def test_sizes_pools_and_content_losses(name: str, size: tuple[int, int], content_loss: str) -> None:
    encoder = VGG("vgg19_random/16", ceil_mode=name != "floor", padding="zeros" if name == "floor" else None).double()
    image, content, style = images(size, size, (50, 41))
    loss = PerceptualLoss(CONTENT_LAYERS, STYLE_LAYERS, content_loss, "gram_author")
    check(encoder, loss, image, content, style)


def check(encoder: VGG, loss: PerceptualLoss, image: Tensor, content: Tensor, style: Tensor) -> None:
    features = encoder(content, loss.content_layers)
    moments = {name: Moments.of(f) for name, f in encoder(style, loss.style_layers).items()}
    expected, gradient = whole(encoder, loss, image, features, moments, even=False)
    for tile in (32, 48):
        tiled = TiledLoss(encoder, loss, WEIGHTS, tile)
        assert len([*tiled.pieces(image)]) > 1
        found, slope = tiled(image, features, moments)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(slope, gradient, rtol=0, atol=1e-10 * float(gradient.abs().max()))


def whole(
    encoder: VGG, loss: PerceptualLoss, image: Tensor, content: dict[str, Tensor], style: dict[str, Moments], even: bool
) -> tuple[Tensor, Tensor]:
    image = image.clone().requires_grad_()
    features = for_content = for_style = encoder(image, loss.layers)
    if even:
        for_content = {n: even_gradient(features[n], WEIGHTS["content"] * w) for n, w in loss.content_layers.items()}
        for_style = {n: even_gradient(features[n], WEIGHTS["style"] * w) for n, w in loss.style_layers.items()}
    terms = loss(for_content, content=content) | loss(for_style, style=style)
    total = torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()
    return total.detach(), torch.autograd.grad(total, [image])[0]


def test_even_gradients() -> None:
    encoder, loss = VGG("vgg19_random/16").double(), PerceptualLoss(CONTENT_LAYERS, STYLE_LAYERS, style_loss="gram_raw")
    image, content, style = images((67, 90), (67, 90), (50, 41))
    features = encoder(content, loss.content_layers)
    moments = {name: Moments.of(f) for name, f in encoder(style, loss.style_layers).items()}
    expected, gradient = whole(encoder, loss, image, features, moments, even=True)
    found, slope = TiledLoss(encoder, loss, WEIGHTS, 32, even=True)(image, features, moments)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(slope, gradient, rtol=0, atol=1e-10 * float(gradient.abs().max()))


def test_sums_of_parts_are_those_of_the_whole() -> None:
    features = torch.rand(2, 5, 9, 8) + 100
    features[:, 3] = 7.25
    sums = Sums()
    for part in (features[:, :, :4], features[:, :, 4:4], features[:, :, 4:5], features[:, :, 5:]):
        sums.add(part)
    found, expected = sums.moments(), Moments.of(features.double())
    for name in ("gram", "mean", "std", "positions"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)
    assert float(found.std[0, 3]) == 0


def test_flat_images_have_finite_gradients() -> None:
    encoder = VGG("vgg19_random/16")
    flat = torch.full((1, 3, 80, 64), 0.5)
    for style_loss in ("mean_std", "mean_std_outside", "gram_author", "wasserstein"):
        loss = PerceptualLoss({"relu2_1": 1.0}, {"relu1_1": 1.0, "relu2_1": 1.0}, style_loss=style_loss)
        tiled = TiledLoss(encoder, loss, WEIGHTS, 32)
        targets = tiled.targets(flat, ["relu2_1"], ["relu1_1", "relu2_1"])
        value, gradient = tiled(flat + 0.1, *targets)
        assert value.isfinite() and gradient.isfinite().all()


def test_only_tiles_of_the_image_are_computed_with_a_graph() -> None:
    encoder = VGG("vgg19_random/16")
    shapes: list[tuple[int, ...]] = []
    encoder.preprocess.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[-2:])))
    loss = PerceptualLoss({"relu2_1": 1.0}, {"relu1_1": 1.0})
    tiled = TiledLoss(encoder, loss, WEIGHTS, 32)
    image = torch.rand(1, 3, 96, 96)
    tiled(image, *tiled.targets(image, ["relu2_1"], ["relu1_1"]))
    assert len(shapes) == 3 * 9 and max(max(shape) for shape in shapes) <= 32 + 2 * tiled.halo < 96


@pytest.mark.parametrize(("free", "tile"), [(1e12, None), (3e10, 2048), (1e10, 1024), (4e9, 512), (1e6, 512)])
def test_tiles_follow_free_memory(free: float, tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_loss, "free_memory", lambda device: free)
    image = torch.empty(1, 3, 2172, 2896, device="meta")
    assert fitting_tile(image)[0] == tile


def test_memory_low_changes_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("stylezoo.models.gatys.SMALLEST_TILE", 32)
    content, style = (x.float() for x in images((72, 50), (64, 64)))
    outputs = []
    for memory in ("fast", "low", "auto"):
        model = thin_model(
            "gatys", memory=memory, iterations=3, optimizer="adam", lr=5.0, tv_weight=1e-3, min_scale=None
        )
        assert isinstance(model, Gatys)
        if memory == "auto":
            monkeypatch.setattr(tiled_loss, "free_memory", lambda device: 1000.0)
            monkeypatch.setattr(tiled_loss, "TILES", (32,))
            monkeypatch.setattr(tiled_loss, "SMALLEST_TILE", 32)
            with caplog.at_level("INFO"):
                outputs.append(model(content, style))
        else:
            outputs.append(model(content, style))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-3)
    assert torch.equal(outputs[1], outputs[2])
    assert "gatys works in tiles of 32 pixels: 50 x 72 pixels at once would take about" in caplog.text
