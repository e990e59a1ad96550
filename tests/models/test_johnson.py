"""Johnson against pytorch/examples (parity fixtures), its public files, and what the papers claim of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Case, gradient_norms_by_loss, shared

import stylezoo
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.layers import ConvLayer, measure_styles, reflect
from stylezoo.losses import gram
from stylezoo.models.johnson import Johnson

Parity = Callable[[str], Case]


@pytest.fixture
def style(tmp_path: Path) -> str:
    """A small image to learn the style of."""
    path = tmp_path / "waves.png"
    write_image(torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(3)), path)
    return str(path)


def small(**settings: object) -> Johnson:
    torch.manual_seed(0)
    return Johnson(**{"width": 0.25, "loss_encoder": "vgg16_random/8", **settings})


def test_parameter_counts() -> None:
    count = {width: sum(p.numel() for p in Johnson(width=width).parameters()) for width in (1.0, 0.5)}
    assert count == {1.0: 1_679_235, 0.5: 424_899}
    subpixel = sum(p.numel() for p in Johnson(upsample="subpixel").parameters())
    up_sampling = 9 * (128 * 64 + 64 * 32) + 64 + 32
    assert subpixel == 1_679_235 + 3 * up_sampling  # four times the parameters of the two up-sampling layers


def test_gram_and_preprocessing(parity: Parity) -> None:
    case = parity("johnson/gram")
    channels, height, width = case["feature"].shape[1:]
    case.check(gram=gram(case["feature"]) / (channels * height * width))
    model = Johnson(loss_encoder="vgg16_random/16")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    case.check(normalised=(model._to_rgb(model._to_pixels(case["image"])) - mean[:, None, None]) / std[:, None, None])


def test_stylize_odd_size_is_the_top_left_crop(parity: Parity) -> None:
    case = parity("johnson/stylise_odd")
    model = case.model("johnson", "transformer")
    assert isinstance(model, Johnson)
    case.check(output=model.transformer(255 * case["content"]))
    expected = case["output"][..., :61, :83] / 255
    torch.testing.assert_close(model(case["content"]), expected, rtol=0, atol=case.fixture.tolerance("output") / 255)


def test_training_losses_and_gradients(parity: Parity) -> None:
    case = parity("johnson/train_b2_64x96")
    model = case.model("johnson", "transformer", "vgg16")
    assert isinstance(model, Johnson)
    model.build_loss_encoder()
    model._measured = measure_styles(model.loss_encoder, [case["style"]], model.perceptual.style_layers)
    case.check(output=255 * model(case["content"]))
    terms = model.losses(case["content"])
    case.check(loss_content=terms["content"] / 1e5, loss_style=terms["style"] / 1e10, total=sum(terms.values()))
    norms = gradient_norms_by_loss(terms, {"content": 1e5, "style": 1e10}, transformer=model.transformer)
    case.check(**{key: norm for key, norm in norms.items() if not key.startswith("gradnorms_transformer_of")})


def test_old_files_with_running_statistics(parity: Parity, tmp_path: Path) -> None:
    case = parity("johnson/stylise_odd")
    tensors = case.part("transformer")
    for key in [key for key in tensors if "in" in key.split(".")[-2] and key.endswith("weight")]:
        tensors[key.replace("weight", "running_mean")] = torch.randn_like(tensors[key])
        tensors[key.replace("weight", "running_var")] = torch.rand_like(tensors[key])
    torch.save(tensors, tmp_path / "candy.pth")
    assert len(tensors) == 62 + 30
    old = stylezoo.import_checkpoint("johnson", [tmp_path / "candy.pth"], style_name="candy")
    torch.testing.assert_close(old(case["content"]), case.model("johnson", "transformer")(case["content"]))
    assert old.styles == ["candy"]


def test_lengstrom_layers_are_tensorflows() -> None:
    """ "SAME" convolutions and transposed convolutions, written out on numpy arrays."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 6)).astype(np.float32)
    kernel = rng.standard_normal((3, 3)).astype(np.float32)

    def conv_same(x: np.ndarray) -> np.ndarray:
        height, width = (-(-n // 2) for n in x.shape)
        pad = [max((n - 1) * 2 + 3 - m, 0) for n, m in zip((height, width), x.shape, strict=True)]
        x = np.pad(x, [(p // 2, p - p // 2) for p in pad])
        return np.array(
            [[(x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel).sum() for j in range(width)] for i in range(height)]
        )

    down = ConvLayer(1, 1, 3, 2, padding="same", norm=None)
    up = ConvLayer(1, 1, 3, padding="same", norm=None, upsample="transposed")
    for layer in (down, up):
        torch.nn.init.zeros_(layer.conv.bias)
        layer.conv.weight.data[:] = torch.from_numpy(kernel)
    image = torch.from_numpy(x)[None, None]
    np.testing.assert_allclose(down(image)[0, 0].detach(), conv_same(x), rtol=1e-5, atol=1e-5)
    # conv2d_transpose is the gradient of conv2d: <up(y), z> = <y, conv(z)>
    z = rng.standard_normal((14, 12)).astype(np.float32)
    dot = float((up(image)[0, 0].detach().numpy() * z).sum())
    assert dot == pytest.approx(float((x * conv_same(z)).sum()), rel=1e-4)


def test_lengstrom_network_stylizes() -> None:
    file = shared("weights/johnson_lengstrom_la_muse.pth")
    model = stylezoo.import_checkpoint("johnson", [file], style_name="la_muse")
    photo = to_tensor(read_image(shared("images/fullres/photos/tubingen.jpg")).resize((200, 150)))[None]
    with torch.no_grad():
        output = model(photo)
    assert output.shape == photo.shape
    assert float(output.min()) >= -0.1 and float(output.max()) <= 1.1  # 127.5 +- 150
    assert float(output.std()) > 0.1 and 0.2 < float(output.mean()) < 0.8
    # Structure stays: light and dark are where they were.
    light = torch.stack([F.avg_pool2d(p.mean(1), 10).flatten() for p in (photo, output)])
    assert float(torch.corrcoef(light)[0, 1]) > 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "batch", "upsample": "transposed", "padding": "reflect_start", "tail": "scaled_tanh"},
        {"padding": "reflect_start", "tail": "tanh150", "pixels": "bgr255", "norm_init": "uniform"},
        {"padding": "replicate", "upsample": "subpixel", "pixels": "rgb"},
        {"padding": "zeros", "upsample": "transposed"},
        {"padding": "same", "upsample": "transposed", "tail": "tanh150_gray", "norm_last": True, "norm_eps": 1e-3},
        {"padding": "same"},
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (64, 48)])
def test_variants(settings: dict[str, object], size: tuple[int, int], style: str) -> None:
    model = small(style_image=style, tv_weight=1.0, **settings)
    content = torch.rand(2, 3, *size)
    raw = model.transformer(model._to_pixels(content))
    assert raw.shape[-2:] == tuple(-(-n // 4) * 4 for n in size)
    output = model(content)
    assert output.shape == content.shape and torch.isfinite(output).all()
    if settings.get("tail") == "scaled_tanh":
        assert output.min() >= 0 and output.max() <= 1
    terms = model.losses(content)
    assert set(terms) == {"content", "style", "tv"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.transformer.parameters() if p.grad is not None)


def test_reflection_of_forty_pixels() -> None:
    x = torch.rand(1, 3, 50, 64)
    torch.testing.assert_close(reflect(x, 40), F.pad(x, (40,) * 4, mode="reflect"))
    row = torch.arange(5.0).expand(1, 1, 5, 5)  # as often as it takes: period 8
    assert reflect(row, 10)[0, 0, 0].tolist() == [float(min(n % 8, 8 - n % 8)) for n in range(-10, 15)]


def test_residual_blocks_without_padding_crop_the_identity() -> None:
    model = small(padding="reflect_start")
    for block in model.transformer.residual:
        torch.nn.init.zeros_(block[1].norm.weight)  # the blocks add nothing: only the crop is left
    x = torch.rand(1, 3, 48, 64)
    y = reflect(x, 40)
    for layer in model.transformer.contract:
        y = F.relu(layer(y))
    y = y[..., 10:-10, 10:-10]
    for layer in model.transformer.expand:
        y = F.relu(layer(y))
    torch.testing.assert_close(model.transformer(x), model.transformer.last(y))


def test_instance_norm_forgets_contrast_batch_norm_does_not() -> None:
    """Ulyanov et al. 2016, section 2: the result should not depend on the contrast of the content."""
    content = torch.rand(1, 3, 64, 64)
    faint = 0.2 * content
    for norm, forgets in (("instance", True), ("batch", False)):
        model = small(norm=norm, norm_eps=1e-8).eval()
        torch.nn.init.zeros_(model.transformer.contract[0].conv.bias)
        with torch.no_grad():
            assert torch.allclose(model(content), model(faint), atol=1e-4) == forgets


def test_colors_inside() -> None:
    image = torch.rand(1, 3, 4, 4)
    for pixels in ("rgb", "rgb255", "bgr255"):
        model = small(pixels=pixels)
        torch.testing.assert_close(model._to_rgb(model._to_pixels(image)), image)
    red = torch.tensor([1.0, 0, 0])[None, :, None, None]
    assert small(pixels="bgr255")._to_pixels(red).flatten().tolist() == pytest.approx([-103.939, -116.779, 131.32])
    gray = small(tail="tanh150_gray")._to_rgb(torch.zeros(1, 3, 1, 1))
    assert gray.flatten().tolist() == [0.5, 0.5, 0.5]


def test_inference_needs_neither_style_image_nor_loss_encoder(style: str, tmp_path: Path) -> None:
    model = small(style_image=style)
    assert "loss_encoder" not in model._modules and model.styles == ["waves"]
    stylezoo.save_model(model, tmp_path / "johnson.safetensors")
    Path(style).unlink()
    loaded = stylezoo.load_model(tmp_path / "johnson.safetensors")
    content = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded(content), model(content))
    assert loaded.styles == ["waves"] and style.encode() not in (tmp_path / "johnson.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"no style image .*waves.png: training needs"):
        model.losses(content)
    with pytest.raises(ValueError, match="learns the style of one image"):
        loaded.losses(content)


def test_style_is_measured_once_at_the_size_asked_for(style: str) -> None:
    model = small(style_image=style, style_size=30)
    content = torch.rand(2, 3, 32, 32)
    first = model.losses(content)
    assert model._measured["relu1_2"].positions.flatten().tolist() == [30 * 20]
    Path(style).unlink()
    torch.testing.assert_close(model.losses(content), first)


def test_what_it_cannot_do_is_said(style: str) -> None:
    model, content = small(style_image=style), torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"one style that it was trained on \(waves\): leave style out"):
        model(content, content)
    with pytest.raises(ValueError, match="leave alpha at 1"):
        model(content, alpha=0.5)
    with pytest.raises(ValueError, match="norm must be 'instance' or 'batch', got 'layer'"):
        small(norm="layer")
    with pytest.raises(ValueError, match="48 tensors"):
        Johnson.read_public({"Variable": torch.zeros(9, 9, 3, 32)})
