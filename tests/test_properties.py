"""Properties of every system and entry point, over sizes, batches, dtypes, image modes and controls that hypothesis draws.

Each property is tried on a few examples, always the same ones; STYLEZOO_EXAMPLES=100 tries more. In float64 where a statement
is exact, so that rounding leaves room for no fault.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import thin_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import stylezoo
from stylezoo import StyleModel, registry
from stylezoo.cli import main
from stylezoo.controls import Controls
from stylezoo.demo.backend import Backend, Request
from stylezoo.exporters.files import session
from stylezoo.inference import Stylizer
from stylezoo.inference.codes import load_codes, save_codes
from stylezoo.transforms import RandomStylize

EXAMPLES = int(os.environ.get("STYLEZOO_EXAMPLES", "3"))
property_of = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
)

SYSTEMS = [name for name in stylezoo.list_models() if registry.get(name).kind != "optimization"]
ARBITRARY = stylezoo.list_models("arbitrary")

sides = st.integers(1, 90)
seeds = st.integers(0, 99)
shares = st.floats(0, 1, width=32)


@cache
def network(name: str, dtype: torch.dtype = torch.float64) -> StyleModel:
    return thin_model(name).eval().to(dtype)


def images(seed: int, batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Smooth images with some noise, (B, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, 3, 4, 5, generator=generator)
    image = nn.functional.interpolate(low, size=(height, width), mode="bilinear")
    return (image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(0, 1).to(dtype)


def style_of(name: str, seed: int, batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Any:
    """A style for each of a batch of contents, as the kind of the system takes them."""
    if registry.get(name).kind == "arbitrary":
        return images(seed + 1000, batch, height, width, dtype)
    return None if registry.get(name).kind == "single" else torch.arange(batch) % len(network(name).styles)


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", SYSTEMS)
@property_of
@given(seeds, st.integers(1, 3), sides, sides, sides, sides)
def test_sizes_and_batches(name: str, seed: int, batch: int, height: int, width: int, rows: int, columns: int) -> None:
    """The output has the content's size, is finite, and that of a batch is those of its images one by one."""
    model, content = network(name), images(seed, batch, height, width)
    style = style_of(name, seed, batch, rows, columns)
    with torch.no_grad():
        output = model(content, style)
        single = model(content[-1:], None if style is None else style[-1:])
    assert output.shape == content.shape and output.isfinite().all()
    same(output[-1:], single)


@pytest.mark.parametrize("name", SYSTEMS)
@property_of
@given(seeds, sides, sides, shares, st.integers(1, 9))
def test_blends_and_strengths(name: str, seed: int, height: int, width: int, alpha: float, weight: int) -> None:
    """A blend of one style with itself is that style, and one of two is the same in either order; no alpha is alpha 1."""
    model, content = network(name), images(seed, 1, height, width)
    if model.kind == "single":
        pytest.skip("has one style")
    codes = [model.encode_style(style_of(name, seed + n, 2, 30, 40)[n : n + 1]) for n in (0, 1)]
    strength = 1.0 if model.alpha_is_fixed else alpha
    with torch.no_grad():
        one = model.decode(content, codes[0], strength)
        same(model.decode(content, [codes[0]] * 3, strength, [1, weight, 2]), one)
        same(model.decode(content, codes, strength, [weight, 0]), one)
        both = model.decode(content, codes, strength, [weight, 1])
        same(model.decode(content, codes[::-1], strength, [1, weight]), both)
        same(model.decode(content, codes[0], 1.0), model.decode(content, codes[0]))
    assert both.isfinite().all()


@pytest.mark.parametrize("name", SYSTEMS)
@property_of
@given(seeds, st.integers(33, 120), st.integers(17, 120), st.integers(17, 64))
def test_tiles_change_nothing(name: str, seed: int, height: int, width: int, tile: int) -> None:
    model, content, style = network(name), images(seed, 1, height, width), style_of(name, seed, 1, 50, 70)
    with torch.no_grad():
        code = model.encode_style(style)
        same(model.decode(content, code, tile=tile), model.decode(content, code))
        for key, tensor in model.encode_style(style, tile=tile).items():
            same(tensor, code[key])


@pytest.mark.parametrize("name", SYSTEMS)
@property_of
@given(seeds, st.integers(16, 80), st.integers(16, 80))
def test_single_precision(name: str, seed: int, height: int, width: int) -> None:
    """In float32 the output is within 2e-3 of that in float64, half a step of 8 bits; and Stylizer's is in [0, 1]."""
    double, single = network(name), network(name, torch.float32)
    content, style = images(seed, 1, height, width), style_of(name, seed, 1, 40, 56)
    as_single = style.float() if isinstance(style, Tensor) and style.is_floating_point() else style
    with torch.no_grad():
        expected = double(content, style)
        same(single(content.float(), as_single).double(), expected, 2e-3)
    styles = [] if style is None else [as_single[0] if as_single.ndim == 4 else int(style[0])]
    output = Stylizer(single, styles, engine="eager")(content.float())
    assert output.dtype == torch.float32 and output.min() >= 0 and output.max() <= 1
    same(output.double(), expected.clamp(0, 1), 2e-3)


@pytest.mark.parametrize("name", ARBITRARY)
@property_of
@given(seeds, sides, sides)
def test_codes_from_a_file(
    name: str, tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, columns: int
) -> None:
    """A style that was encoded before and stored gives the output of the style itself."""
    model, content = network(name, torch.float32), images(seed, 1, 48, 40, torch.float32)
    style = images(seed + 1000, 1, rows, columns, torch.float32)
    path = tmp_path_factory.mktemp("codes") / "style.safetensors"
    save_codes(path, {"style": model.encode_style(style)}, model)
    with torch.no_grad():
        assert torch.equal(model.decode(content, load_codes(path, model)["style"]), model(content, style))


def symmetric(model: StyleModel) -> StyleModel:
    """The model with kernels that are their own mirror images."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    return model


SYMMETRIC = ["adain", "linear_transfer", "multi_level_attention", "sanet", "sct", "stytr2"]
"""Systems whose architecture treats left and right alike. In others a strided convolution takes every other position from the
left, levels are resized to the nearest position, equal values are ranked from the left, or noise is added."""


@pytest.mark.parametrize("name", SYMMETRIC)
@property_of
@given(seeds, st.integers(2, 5), st.integers(2, 5))
def test_mirror_images(name: str, seed: int, rows: int, columns: int) -> None:
    """With mirror-symmetric kernels, the mirror image of a content gives that of its output: padding, pooling and
    up-sampling treat left and right alike."""
    model = symmetric(thin_model(name).eval().double())
    content, style = images(seed, 1, 16 * rows, 16 * columns), style_of(name, seed, 1, 48, 64)
    mirrored = style.flip(-1) if isinstance(style, Tensor) and style.ndim == 4 else style
    with torch.no_grad():
        output, other = model(content, style), model(content.flip(-1), mirrored)
    assert output.var() > 1e-8
    same(other.flip(-1), output, 1e-7)


@pytest.mark.parametrize("name", ["texture_nets"])
@property_of
@given(seeds, st.integers(1, 2))
def test_translations(name: str, seed: int, cells: int) -> None:
    """Batch normalization uses no statistics of the image: a shift by the stride shifts the inside of the output."""
    model = thin_model(name, norm="batch", noise=0).eval().double()
    content, shift = images(seed, 1, 192, 256), 32 * cells
    with torch.no_grad():
        output, moved = model(content), model(content.roll(shift, -1))
    inside = slice(80 + shift, -80)
    same(moved[..., 80:-80, inside], output.roll(shift, -1)[..., 80:-80, inside])


def pillow(mode: str, height: int, width: int, seed: int) -> Image.Image:
    pixels = (images(seed, 1, height, width)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[..., 0]))
    return image.convert(mode)


@property_of
@given(
    st.sampled_from(["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA"]),
    st.integers(16, 90),
    st.integers(16, 90),
    seeds,
    shares,
    st.sampled_from(["none", "luminance", "coral"]),
)
def test_entry_points_agree(
    tmp_path_factory: pytest.TempPathFactory, mode: str, height: int, width: int, seed: int, alpha: float, color: Any
) -> None:
    """Images in memory and their files give one output, of the content's size, for any image mode."""
    model = network("adain", torch.float32)
    folder = tmp_path_factory.mktemp("entry")
    content, style = pillow(mode, height, width, seed), pillow("RGB", 40, 50, seed + 1)
    controls: dict[str, Any] = {"alpha": alpha, "preserve_color": color}
    output = stylezoo.stylize(content, style, model=model, **controls)
    assert output.size == content.size
    if content.mode != "CMYK":  # which PNG does not have
        content.save(folder / "content.png")
    else:
        content.save(folder / "content.tiff")
    style.save(folder / "style.png")
    (path,) = folder.glob("content.*")
    from_files = stylezoo.stylize(path, folder / "style.png", model=model, **controls)
    assert np.array_equal(np.asarray(from_files), np.asarray(output)) and from_files.mode == output.mode


@property_of
@given(st.integers(16, 70), st.integers(16, 70), seeds, shares)
def test_the_transform_agrees_with_the_function(height: int, width: int, seed: int, alpha: float) -> None:
    model, content, style = network("adain", torch.float32), images(seed, 1, height, width), images(seed + 1, 1, 40, 50)
    transform = RandomStylize(1.0, alpha, [style[0].float()], model, style_size=None, engine="eager")
    output = transform(content[0].float())
    expected = Stylizer(model, [style[0].float()], alpha=alpha, engine="eager")(content.float())[0]
    same(output, expected, 1e-5)


KINDS = {"adain": "arbitrary", "cin": "multi", "johnson": "single"}


@cache
def model_file(name: str, folder: Path) -> Path:
    stylezoo.save_model(network(name, torch.float32), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", KINDS)
@property_of
@given(
    st.sampled_from(["RGB", "L", "RGBA", "P"]),
    st.integers(20, 70),
    st.integers(20, 70),
    seeds,
    shares,
    st.one_of(st.none(), st.integers(20, 60)),
)
def test_the_command_and_the_page_agree_with_the_function(
    models: Path,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    mode: str,
    height: int,
    width: int,
    seed: int,
    alpha: float,
    size: int | None,
) -> None:
    """One image from three places: `stylize` of Python, of the command line, and of the web page."""
    path, folder = model_file(name, models), tmp_path_factory.mktemp("three")
    pillow(mode, height, width, seed).save(folder / "content.png")
    pillow("RGB", 40, 50, seed + 1).save(folder / "style.png")
    styles = [*network(name).styles[-1:]] if KINDS[name] == "multi" else []
    styles = [str(folder / "style.png")] if KINDS[name] == "arbitrary" else styles
    strength = 1.0 if network(name).alpha_is_fixed else round(alpha, 3)
    expected = stylezoo.stylize(
        folder / "content.png", styles or None, model=path, alpha=strength, size=size, engine="eager"
    )
    words = ["--model", path, "--content", folder / "content.png", "--output", folder / "out.png", "--engine", "eager"]
    words += [
        *(["--style", *styles] if styles else []),
        "--alpha",
        strength,
        *([] if size is None else ["--size", size]),
    ]
    assert not main(["stylize", *map(str, words)])
    controls = Controls(alpha=strength, size=size, engine="eager")
    asked = Request(str(path), str(folder / "content.png"), styles, controls)
    made = Backend([str(path)], "cpu").image(asked, folder).path
    assert expected.size == ((width, height) if size is None else pixels_after(size, width, height))
    for output in (folder / "out.png", made):
        with Image.open(output) as image:
            assert image.mode == expected.mode and np.array_equal(np.asarray(image), np.asarray(expected))


def pixels_after(size: int, width: int, height: int) -> tuple[int, int]:
    """Width and height whose shorter side is ``size``, as torchvision's Resize rounds the longer one."""
    longer = int(size * max(width, height) / min(width, height))
    return (size, longer) if width <= height else (longer, size)


@pytest.mark.parametrize("name", SYSTEMS)
@property_of
@given(seeds, st.integers(16, 100), st.integers(16, 100), st.sampled_from(["winograd", "channels_last"]))
def test_engines_change_nothing(name: str, seed: int, height: int, width: int, engine: Any) -> None:
    model, content = network(name, torch.float32), images(seed, 2, height, width, torch.float32)
    style = style_of(name, seed, 1, 40, 56, torch.float32)
    styles = [] if style is None else [style[0] if style.ndim == 4 else int(style[0])]
    expected, output = (Stylizer(model, styles, engine=each)(content) for each in ("eager", engine))
    same(output, expected, 2e-3)  # half a step of 8 bits


@cache
def exported(name: str, folder: Path) -> Any:
    model = network(name, torch.float32)
    given = {} if model.kind == "single" else {"style_input": "code"}
    written = stylezoo.export(model, folder / f"{name}.onnx", **given)
    return session(written.path.read_bytes())


@pytest.mark.parametrize("name", ["adain", "johnson", "microast"])
@property_of
@given(seeds, st.integers(1, 2), st.integers(32, 100), st.integers(32, 100))
def test_exported_files_take_any_size(models: Path, name: str, seed: int, batch: int, height: int, width: int) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install stylezoo[onnxruntime])")
    model, content = network(name, torch.float32), images(seed, batch, height, width, torch.float32)
    code = model.encode_style(style_of(name, seed, 1, 40, 56, torch.float32))
    alpha = {} if model.alpha_is_fixed else {"alpha": torch.tensor(1.0)}
    with torch.no_grad():
        same(exported(name, models)({"content": content, **code, **alpha}), model.decode(content, code), 1e-3)
