"""stylezoo.stylize and Stylizer: controls, colors, regions, and every refusal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import shared, thin_model
from PIL import Image
from torch import Tensor

import stylezoo
from stylezoo import StyleModel, registry
from stylezoo.errors import StylezooError
from stylezoo.images import keep_luminance, read_image, to_image, to_tensor, write_image
from stylezoo.inference import PreserveColor, Stylizer, load_image, load_masks
from stylezoo.models.adain import AdaIN
from stylezoo.streaming import StreamedMap


@pytest.fixture(scope="module")
def adain() -> AdaIN:
    model = thin_model("adain")
    assert isinstance(model, AdaIN)
    return model


CONTENT, STYLE = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0)).unbind()


def test_stylize_takes_files_images_and_tensors(adain: AdaIN, tmp_path: Path) -> None:
    write_image(CONTENT, tmp_path / "content.png")
    content = read_image(tmp_path / "content.png")
    from_file = stylezoo.stylize(str(tmp_path / "content.png"), STYLE, adain)
    assert isinstance(from_file, Image.Image) and from_file.size == (56, 40) and from_file.mode == "RGB"
    for other in (tmp_path / "content.png", content, to_tensor(content), to_tensor(content)[None]):
        assert np.array_equal(np.asarray(stylezoo.stylize(other, STYLE, adain)), np.asarray(from_file))


def test_output_is_rounded_and_clamped(adain: AdaIN) -> None:
    expected = (adain(CONTENT[None], STYLE[None]).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).byte().numpy()
    assert np.array_equal(np.asarray(stylezoo.stylize(CONTENT, STYLE, adain, engine="eager")), expected)


def test_size_is_the_short_side(adain: AdaIN) -> None:
    assert stylezoo.stylize(CONTENT, STYLE, adain, size=20).size == (28, 20)
    small_style = load_image(STYLE, 16)
    assert small_style.shape == (3, 16, 22)
    expected = stylezoo.stylize(CONTENT, small_style, adain)
    assert np.array_equal(np.asarray(stylezoo.stylize(CONTENT, STYLE, adain, style_size=16)), np.asarray(expected))


def test_style_weights(adain: AdaIN) -> None:
    other = 1 - STYLE
    codes = [adain.encode_style(s[None]) for s in (STYLE, other)]
    expected = adain.decode(CONTENT[None], codes, weights=[0.25, 0.75]).clamp(0, 1)
    stylizer = Stylizer(adain, [STYLE, other], style_weights=[1, 3], engine="eager")
    torch.testing.assert_close(stylizer(CONTENT[None]), expected)


def test_a_batch_with_coral_is_its_singles(adain: AdaIN) -> None:
    stylizer = Stylizer(adain, [STYLE], preserve_color="coral")
    batch = torch.stack([CONTENT, CONTENT.flip(0)])
    torch.testing.assert_close(stylizer(batch), torch.cat([stylizer(c[None]) for c in batch]), rtol=1e-4, atol=1e-4)


def test_luminance_keeps_the_colors(adain: AdaIN) -> None:
    output = Stylizer(adain, [STYLE], preserve_color="luminance")(CONTENT[None])
    plain = Stylizer(adain, [STYLE])(CONTENT[None])
    torch.testing.assert_close(output, keep_luminance(plain, CONTENT[None]))
    inside = ((output > 0.01) & (output < 0.99)).all(1)[0]  # where nothing was clipped

    def chroma(x: Tensor) -> Tensor:
        luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
        return torch.stack([x[2] - luma, x[0] - luma])[:, inside]

    torch.testing.assert_close(chroma(output[0]), chroma(CONTENT), rtol=0, atol=1e-5)


def test_coral_brings_the_colors_closer_with_real_images() -> None:
    weights = [shared(f"weights/{n}") for n in ("vgg_normalised_to_relu4_1.pth", "adain_decoder_8bit.pth")]
    model = stylezoo.import_checkpoint("adain", weights)
    content = load_image(shared("images/fullres/photos/golden_gate2.jpg"), 192)
    style = load_image(shared("images/fullres/paintings/la_muse.jpg"), 192)

    def distance(mode: str) -> float:
        output = Stylizer(model, [style], preserve_color=mode)(content[None])[0]  # type: ignore[arg-type]
        return float((output.mean((1, 2)) - content.mean((1, 2))).norm())

    plain = distance("none")
    assert distance("coral") < 0.5 * plain and distance("luminance") < 0.5 * plain


def test_masks(adain: AdaIN, tmp_path: Path) -> None:
    left = torch.zeros(40, 56)
    left[:, :24] = 1
    stylizer = Stylizer(adain, [STYLE, 1 - STYLE], masks=torch.stack([left, 1 - left]))
    output = stylizer(CONTENT[None])
    assert output.shape == (1, 3, 40, 56)
    write_image(left.expand(3, -1, -1), tmp_path / "left.png")
    from_file = load_masks([tmp_path / "left.png"], 2)
    assert from_file is not None
    torch.testing.assert_close(from_file, torch.stack([left, 1 - left]))
    image = stylezoo.stylize(CONTENT, [STYLE, 1 - STYLE], adain, masks=tmp_path / "left.png")
    assert np.abs(np.asarray(image).astype(int) - (output[0] * 255).round().permute(1, 2, 0).numpy()).max() <= 1
    for mask in (left, left[None], left > 0, left[None] > 0):
        given = load_masks([mask], 2)
        assert given is not None and torch.equal(given, from_file)
    with pytest.raises(ValueError, match="2 styles but 3 masks"):
        load_masks([left.expand(3, -1, -1)] * 3, 2)
    with pytest.raises(ValueError, match="differ in size"):
        load_masks([torch.ones(3, 4, 4), torch.ones(3, 5, 4)], 2)


@pytest.mark.parametrize("name", [n for n in stylezoo.list_models() if registry.get(n).kind != "single"])
def test_masks_work_with_every_system_of_several_styles(name: str) -> None:
    """Each region has its style, the photo stays where every mask is black, and masks may have another scale."""
    few = {"iterations": 2} if registry.get(name).kind == "optimization" else {}
    model = thin_model(name, **few)
    for parameter in model.parameters():  # trained styles are alike before training
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter)
    styles = model.example_styles(STYLE[None])[:2]
    styles = styles if len(styles) == 2 else [STYLE, 1 - STYLE]
    masks = torch.zeros(2, 80, 112)
    masks[0, :, :64], masks[1, :, 64:96] = 1, 1
    output = Stylizer(model, styles, masks=masks)(CONTENT[None])[0]
    assert torch.equal(output[..., 48:], CONTENT[..., 48:])
    if name == "adain":  # which mixes them in the features, see its own test
        return
    for style, columns in zip(styles, (slice(0, 32), slice(32, 48)), strict=True):
        alone = Stylizer(model, [style])(CONTENT[None])[0]
        torch.testing.assert_close(output[..., columns], alone[..., columns], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["adain", "johnson"])
def test_outside_of_the_mask_of_one_style_the_photo_stays(name: str) -> None:
    model = thin_model(name)
    styles = [STYLE] if name == "adain" else []
    mask = torch.zeros(3, 40, 56)
    mask[..., :24], mask[..., 24:32] = 1, 0.5
    image = to_tensor(stylezoo.stylize(CONTENT, styles, model, masks=mask))
    whole = to_tensor(stylezoo.stylize(CONTENT, styles, model))
    assert float((image - CONTENT)[..., 32:].abs().max()) <= 0.5 / 255 + 1e-6
    assert torch.equal(image[..., :24], whole[..., :24])
    half = (CONTENT + whole)[..., 24:32] / 2
    assert float((image[..., 24:32] - half).abs().max()) <= 1 / 255 + 1e-6


@pytest.mark.parametrize(
    ("masks", "count", "message"),
    [
        ([torch.zeros(3, 8, 8)], 1, "Style 1 has no region: its mask is black everywhere"),
        ([torch.ones(3, 8, 8), torch.full((3, 8, 8), 0.01)], 2, "Style 2 has no region"),
        ([torch.ones(3, 8, 8)], 2, "Style 2 has no region"),  # one for two: white is the first style's
        ([torch.ones(3, 8, 8)] * 2, 1, "1 styles but 2 masks"),
        ([torch.ones(3, 8, 8)], 3, "3 styles but 1 masks"),
        (["nowhere.png"], 1, "nowhere.png does not exist"),
    ],
)
def test_masks_that_say_nothing_are_refused(masks: list[object], count: int, message: str) -> None:
    with pytest.raises(StylezooError, match=message):
        load_masks(masks, count)  # type: ignore[arg-type]


def test_masks_of_another_shape_are_refused(adain: AdaIN) -> None:
    with pytest.raises(StylezooError, match="masks have 56 x 20 pixels and the content has 56 x 40"):
        Stylizer(adain, [STYLE], masks=torch.ones(1, 20, 56))(CONTENT[None])
    with pytest.raises(StylezooError, match=r"shape \(2, H, W\) or \(B, 2, H, W\), not \(1, 40, 56\)"):
        Stylizer(adain, [STYLE, STYLE], masks=torch.ones(1, 40, 56))
    with pytest.raises(StylezooError, match="give only one of them"):
        stylezoo.stylize(CONTENT, [STYLE, STYLE], adain, masks=torch.ones(3, 40, 56), style_weights=[1, 2])


def test_trained_styles_by_number_and_name() -> None:
    model = thin_model("cin")
    for parameter in model.parameters():  # styles are alike before training
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter)
    first, second = (stylezoo.stylize(CONTENT, style, model) for style in (0, 1))
    assert np.array_equal(np.asarray(stylezoo.stylize(CONTENT, model.styles[1], model)), np.asarray(second))
    assert not np.array_equal(np.asarray(first), np.asarray(second))
    johnson = thin_model("johnson")
    assert stylezoo.stylize(CONTENT, model=johnson).size == (56, 40)
    coral = stylezoo.stylize(CONTENT, model=johnson, preserve_color="coral")
    means = np.asarray(coral).reshape(-1, 3).mean(0) / 255
    assert np.abs(means - CONTENT.mean((1, 2)).numpy()).max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style": None}, "adain takes any image as style: give at least one"),
        ({"alpha": 1.5}, "alpha is the strength of the style between 0 and 1, not 1.5"),
        ({"alpha": float("nan")}, "between 0 and 1, not nan"),
        *[
            ({"alpha": value}, "alpha is the strength of the style between 0 and 1, not")
            for value in (True, "1", None, [1])
        ],
        *[({"tile": value}, "tile is the side of a tile in pixels") for value in (-8, 8.5, True, "512", float("inf"))],
        *[({"size": value}, "size is the short side in pixels") for value in (0, -1, 8, 3_000_000, 20.0, True, "64")],
        *[({"style_size": value}, "style_size is the short side in pixels") for value in (0, 3_000_000, True, [1])],
        *[({"style_weights": w}, "style_weights is a list of finite numbers") for w in ("1", 1.0, [True], [math.nan])],
        ({"style_weights": [0.0]}, r"style weights \[0.0\] sum to 0"),
        ({"device": "nonsense"}, "There is no device 'nonsense' on this machine: it has auto, cpu"),
        ({"device": "meta"}, "There is no device 'meta'"),
        ({"device": "cuda:99"}, "There is no device 'cuda:99'"),
        *[({"style": value}, "An image is a") for value in (1, True, np.int64(1), 2.5)],
        ({"preserve_color": "lab"}, "preserve_color must be 'none', 'coral' or 'luminance', got 'lab'"),
        ({"style_weights": [1, 2]}, "1 styles but 2 style weights"),
        ({"content": torch.rand(3, 8, 40)}, "40 x 8 pixels is too small: 16 are needed"),
        ({"content": torch.rand(1, 40, 40)}, r"\(3, H, W\) or \(1, 3, H, W\), not \(1, 40, 40\)"),
        ({"content": "nowhere.jpg"}, "nowhere.jpg does not exist"),
        ({"content": "nowhere.jpg", "model": "adian"}, "nowhere.jpg does not exist"),  # what is cheap comes first
        ({"model": "adian"}, "did you mean 'adain'"),
    ],
)
def test_refusals(adain: AdaIN, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stylezoo.stylize(**{"content": CONTENT, "style": STYLE, "model": adain, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"alpha": 2}, "alpha is the strength of the style between 0 and 1, not 2"),
        ({"style_weights": [1, 2]}, "1 styles but 2 style weights"),
        ({"preserve_color": "lab"}, "preserve_color must be 'none', 'coral' or 'luminance', got 'lab'"),
        ({"tile": -8}, "tile is the side of a tile in pixels"),
        ({"tile_statistics": "none"}, "tile_statistics must be "),
        ({"style_weights": [1], "masks": torch.ones(1, 40, 56)}, "give only one of them"),
    ],
)
def test_a_stylizer_checks_its_controls(adain: AdaIN, controls: dict[str, Any], message: str) -> None:
    with pytest.raises(StylezooError, match=message):
        Stylizer(adain, [STYLE], **controls)


def test_systems_with_trained_styles_name_them() -> None:
    cin, johnson = thin_model("cin"), thin_model("johnson")
    with pytest.raises(ValueError, match=f"cin stylizes with the styles that it was trained on.*{cin.styles[0]}"):
        stylezoo.stylize(CONTENT, STYLE, cin)
    with pytest.raises(
        ValueError, match=f"johnson stylizes with the one style that it was trained on .*{johnson.styles[0]}"
    ):
        stylezoo.stylize(CONTENT, STYLE, johnson)


def test_missing_models() -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights for 'adain.none'.*stylezoo fit.*stylezoo import"):
        stylezoo.load_model("adain.none")
    with pytest.raises(FileNotFoundError, match="There is no model file nowhere.safetensors"):
        stylezoo.load_model("nowhere.safetensors")


@pytest.mark.parametrize("size", [(200, 131), (97, 256), (160, 160)])
@pytest.mark.parametrize("name", ["adain", "sanet"])
def test_tiles_change_nothing(name: str, size: tuple[int, int]) -> None:
    """Encoder and decoder in tiles with halos, statistics and attention between them: the same image."""
    # In double precision: convolutions of another size may round differently.
    model, style = thin_model(name).double(), STYLE.double()
    content = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = Stylizer(model, [style])(content)
    for tile in (32, 100):
        torch.testing.assert_close(Stylizer(model, [style], tile=tile)(content), whole, rtol=0, atol=1e-10)
    vgg = model.encoder
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
    features = {tile: vgg(content, layers, tile=tile) for tile in (None, 48)}
    for layer in layers:
        torch.testing.assert_close(features[48][layer], features[None][layer], rtol=0, atol=1e-10)


@pytest.mark.parametrize("preserve_color", ["none", "coral"])
def test_stylizers_of_one_model_do_not_disturb_each_other(
    preserve_color: PreserveColor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a tile of its own, whenever it encodes a style (with coral at every call) or stylizes."""
    model, style = thin_model("adain"), STYLE
    content = torch.rand(1, 3, 100, 84, generator=torch.Generator().manual_seed(0))
    widths: list[int] = []
    convolve = F.conv2d

    def noted(x: Tensor, *args: Any, **options: Any) -> Tensor:
        if not isinstance(x, StreamedMap):
            widths.append(x.shape[-1])
        return convolve(x, *args, **options)

    monkeypatch.setattr(F, "conv2d", noted)

    def stylized(stylizer: Stylizer) -> tuple[Tensor, list[int]]:
        widths.clear()
        output = stylizer(content)
        return output, widths.copy()

    tiles: tuple[int | None, ...] = (32, 48, None)
    alone = []
    for tile in tiles:  # each before there is the next
        alone.append(stylized(Stylizer(model, [style], preserve_color=preserve_color, tile=tile)))
    assert [max(seen) >= 86 for _, seen in alone] == [False, False, True]
    together = [Stylizer(model, [style], preserve_color=preserve_color, tile=tile) for tile in tiles]
    for index in (0, 1, 0, 2, 1, 2, 0):
        output, seen = stylized(together[index])
        assert seen == alone[index][1] and torch.equal(output, alone[index][0])


def attributes(model: StyleModel) -> list[tuple[str, str, object, object]]:
    """Everything that a model and its submodules hold: (module, attribute, key in it if it is a dict, value)."""
    return [
        (name, attribute, key, held)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        for key, held in (value.items() if isinstance(value, dict) else [(None, value)])
    ]


@pytest.mark.parametrize("name", stylezoo.list_models())
def test_a_tile_leaves_no_state(name: str) -> None:
    """It is an argument: whole images are stylized as before, and no attribute of any submodule has changed."""
    few = {"iterations": 2} if registry.get(name).kind == "optimization" else {}
    model = thin_model(name, **few).eval()
    content = torch.rand(1, 3, 72, 88, generator=torch.Generator().manual_seed(0))
    style = model.example_styles(STYLE[None])[0]
    with torch.no_grad():
        before, code = model.decode(content, model.encode_style(style)), model.encode_style(style)
        held = attributes(model)
        tiled = model.decode(content, model.encode_style(style, tile=32), tile=32)
        assert tiled.shape == content.shape
        after = attributes(model)
        assert [entry[:3] for entry in after] == [entry[:3] for entry in held]
        assert all(new[3] is old[3] for new, old in zip(after, held, strict=True))
        assert torch.equal(model.decode(content, code), before)


def test_tiles_are_refused_where_they_would_not_be_exact() -> None:
    johnson = thin_model("johnson")
    johnson.supports_tiles = False
    with pytest.raises(ValueError, match="johnson cannot work in tiles"):
        Stylizer(johnson, tile=64)
    with pytest.raises(ValueError, match="side of a tile in pixels, for example 512, or auto, not 0"):
        Stylizer(thin_model("adain"), [STYLE], tile=0)


def test_numbers_of_numpy_are_numbers(adain: AdaIN) -> None:
    expected = Stylizer(adain, [STYLE, 1 - STYLE], alpha=0.5, style_weights=[1, 3])(CONTENT[None])
    weights = np.array([1, 3], np.float32)
    stylizer = Stylizer(adain, [STYLE, 1 - STYLE], alpha=np.float32(0.5), style_weights=weights, tile=np.int64(512))  # type: ignore[arg-type]
    assert torch.equal(stylizer(CONTENT[None]), expected)


@pytest.mark.parametrize("name", ["adain", "stytr2", "johnson"])
def test_outputs_are_clamped_where_it_is_promised(name: str) -> None:
    """Stylizer, stylize and predict clamp; the model itself does not, since losses need the gradient."""
    model = thin_model(name)
    for parameter in model.parameters():
        parameter.data *= 3
    content, styles = (
        torch.rand(1, 3, 32, 32),
        [torch.rand(3, 32, 32)] if registry.get(name).kind == "arbitrary" else [],
    )
    model.eval()
    batch = {"content": content, **({"style": styles[0][None]} if styles else {})}
    with torch.no_grad():
        raw, predicted = model(**batch), model.predict_step(batch, 0)
    assert float(raw.min()) < 0 or float(raw.max()) > 1
    for output in (Stylizer(model, styles)(content), predicted):
        torch.testing.assert_close(output, raw.clamp(0, 1))


def test_outputs_that_are_not_finite_are_refused() -> None:
    model = thin_model("adain")
    next(model.decoder.parameters()).data.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(StylezooError, match="output of adain is not finite: its weights are damaged"):
        Stylizer(model, [STYLE])(CONTENT[None])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_get_the_precision_of_the_model(dtype: torch.dtype) -> None:
    model = thin_model("adain").to(dtype)
    for masks in (None, torch.ones(1, 40, 56)):
        stylizer = Stylizer(model, [STYLE], masks=masks, engine="eager")
        for contents in (CONTENT[None], (255 * CONTENT[None]).to(torch.uint8)):
            assert stylizer(contents).dtype == dtype


def test_a_style_size_needs_a_style_image() -> None:
    for name, style in (("cin", 0), ("johnson", None)):
        with pytest.raises(StylezooError, match=f"{name} takes no style image that could be resized"):
            stylezoo.stylize(CONTENT, style, thin_model(name), style_size=64)


def test_extreme_styles_are_not_enlarged(adain: AdaIN) -> None:
    """The short side of 1 x 300 pixels would make the long one 76,800."""
    with pytest.raises(StylezooError, match="1 x 300"):
        stylezoo.stylize(CONTENT, torch.rand(3, 300, 1), adain, style_size=256)


def test_transparency_comes_back(adain: AdaIN) -> None:
    alpha = Image.new("L", (56, 40), 255)
    alpha.paste(0, (0, 0, 20, 20))
    content = to_image(CONTENT)
    content.putalpha(alpha)
    output = stylezoo.stylize(content, STYLE, adain)
    assert output.mode == "RGBA" and np.array_equal(np.asarray(output.getchannel("A")), np.asarray(alpha))
    assert stylezoo.stylize(CONTENT, STYLE, adain).mode == "RGB"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_says_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Tensor:
        raise error

    for name, tile, advice in (
        ("adain", None, r"work in tiles \(tile, --tile 512\), or resize to fewer pixels"),
        ("adain", "auto", r"work in tiles \(tile, --tile 256\), or resize to fewer pixels"),
        ("johnson", None, "resize"),
    ):
        model = thin_model(name)
        model.supports_tiles = name == "adain"
        monkeypatch.setattr(model, "decode", fails)
        with pytest.raises(StylezooError, match=f"not enough memory for an image of 56 x 40 pixels: {advice}"):
            Stylizer(model, [STYLE] if name == "adain" else [], tile=tile)(CONTENT[None])  # type: ignore[arg-type]
