"""Reading every kind of image to the right colors, writing, lists, color preservation, contact sheets."""

import io
import json
import os
import socket
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, thin_model
from PIL import EpsImagePlugin, Image, ImageCms, PngImagePlugin
from processes import ends, start
from torch import Tensor
from torchvision import tv_tensors

import stylezoo
from stylezoo import images
from stylezoo.images import (
    ALPHA_SUFFIXES,
    ImageError,
    check_batch,
    check_target,
    coral,
    formats,
    grid,
    keep_luminance,
    list_images,
    load_image,
    load_style,
    load_with_alpha,
    read_image,
    to_image,
    to_tensor,
    write_image,
)
from stylezoo.images.color import WEAK
from stylezoo.inference import load_masks
from stylezoo.layers import read_style

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def read(image: Image.Image, path: Path, **options: object) -> Image.Image:
    image.save(path, **options)  # type: ignore[arg-type]
    result = read_image(path)
    assert result.mode == "RGB"
    return result


def quarters() -> Image.Image:
    """32 x 16: red, green / blue, white."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(GREEN, (16, 0, 32, 8))
    image.paste(BLUE, (0, 8, 16, 16))
    image.paste(WHITE, (16, 8, 32, 16))
    return image


def close(actual: object, expected: tuple[int, int, int], tolerance: int = 0) -> bool:
    return bool(np.abs(np.subtract(actual, expected)).max() <= tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "ppm", "gif"])
def test_plain(tmp_path: Path, suffix: str) -> None:
    result = read(quarters(), tmp_path / f"x.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(np.asarray(result), np.asarray(quarters()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = quarters()
    inverse = {6: 8, 8: 6}.get(orientation, orientation)  # stored so that the viewer's turn makes it upright
    stored = upright.transpose(methods[inverse]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = read(stored, tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    assert result.size == upright.size
    assert np.abs(np.asarray(result, int) - np.asarray(upright, int)).max() < 8


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"Exif\0\0"])
def test_broken_exif_is_ignored(tmp_path: Path, exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow: corrupt EXIF data
        assert close(read(quarters(), tmp_path / "x.jpg", exif=exif, quality=100).getpixel((4, 4)), RED, 3)


def test_phone_image_with_a_second_one(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (800, 400), color) for color in (GREEN, RED)]
    frames[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert close(read_image(tmp_path / "x.jpg").getpixel((4, 4)), GREEN, 3)
    assert read_image(tmp_path / "x.jpg", min_side=50).size == (200, 100)


def half_hidden(mode: str) -> Image.Image:
    """8 x 4: left red, right hidden with blue underneath; grays in modes without color."""
    image = Image.new("RGBA", (8, 4), (0, 0, 255, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 4))
    return image.convert(mode)


def save_hidden(kind: str, folder: Path) -> Path:
    """Writes `half_hidden` in every way in which files are transparent."""
    rgba, path = half_hidden("RGBA"), folder / f"x.{kind.split()[0]}"
    if kind == "png key":
        rgba.convert("RGB").save(path, transparency=BLUE)
    elif kind == "png gray key":
        rgba.convert("RGB").convert("L").save(path, transparency=29)
    elif kind == "png gray alpha":
        half_hidden("LA").save(path)
    elif kind in ("png palette", "png palette bytes"):
        palette = rgba.convert("RGB").quantize(2)
        blue = palette.getpixel((7, 0))
        assert isinstance(blue, int)
        palette.save(
            path, transparency=blue if kind == "png palette" else bytes(0 if i == blue else 255 for i in (0, 1))
        )
    elif kind == "png 1 bit":
        rgba.getchannel("A").convert("1").save(path, transparency=0)
    elif kind == "png 16 bits":
        wide = np.where(np.asarray(rgba.getchannel("A")) > 0, 0x4C4C, 0x1D1E).astype(np.uint16)
        Image.fromarray(wide).save(path, transparency=0x1D1E)
    elif kind == "webp":
        rgba.save(path, lossless=True, exact=True)
    else:
        rgba.save(path)
    return path


TRANSPARENT = [
    "png",
    "webp",
    "tif",
    "gif",
    "png key",
    "png gray key",
    "png gray alpha",
    "png palette",
    "png palette bytes",
]


@pytest.mark.parametrize("kind", [*TRANSPARENT, "png 1 bit", "png 16 bits"])
def test_hidden_colors_are_not_seen(tmp_path: Path, kind: str) -> None:
    path = save_hidden(kind, tmp_path)
    seen = WHITE if kind == "png 1 bit" else (76, 76, 76) if "gray" in kind or "16" in kind else RED
    assert np.array_equal(np.unique(np.asarray(read_image(path)).reshape(-1, 3), axis=0), [seen])
    image, alpha = load_with_alpha(path)
    assert image.shape == (3, 4, 8) and alpha is not None
    assert alpha[0].tolist() == [[1.0] * 4 + [0.0] * 4] * 4
    assert load_style(path).shape == (3, 4, 4)
    with Image.open(path) as opened:
        assert torch.equal(load_image(opened), image) or kind in ("png 1 bit",)


def test_partly_transparent_colors_are_their_own(tmp_path: Path) -> None:
    assert read(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), tmp_path / "a.png").getpixel((0, 0)) == RED
    assert read(Image.new("LA", (4, 4), (9, 20)), tmp_path / "c.png").getpixel((0, 0)) == (9, 9, 9)
    image, alpha = load_with_alpha(Image.new("RGBA", (4, 4), (1, 2, 3, 255)))
    assert alpha is None and image[:, 0, 0].mul(255).round().tolist() == [1, 2, 3]
    with pytest.warns(UserWarning, match=r"b.png is completely transparent: it is read as white\."):
        assert read(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), tmp_path / "b.png").getpixel((0, 0)) == WHITE


def test_the_statistics_of_a_style_are_those_of_its_visible_pixels() -> None:
    noise = rand(200, 160, 3).numpy()
    y, x = np.mgrid[:200, :160]
    for hidden in (0.0, 1.0):
        for visible in ((x > 30) & (x < 90) & (y > 50), (x - 80) ** 2 + (y - 90) ** 2 < 60**2, (x + y) % 37 < 20):
            pixels = np.dstack([np.where(visible[..., None], noise * 0.3 + 0.2, hidden), visible]).astype(np.float32)
            style, expected = load_style(pixels).flatten(1), torch.from_numpy(pixels[visible][:, :3]).T
            torch.testing.assert_close(style.mean(1), expected.mean(1), atol=2e-3, rtol=0)
            torch.testing.assert_close(torch.cov(style), torch.cov(expected), atol=3e-4, rtol=0)
            content, alpha = load_with_alpha(pixels)
            assert alpha is not None and torch.equal(alpha[0], torch.from_numpy(visible).float())
            assert torch.equal(content[:, visible], torch.from_numpy(pixels[visible][:, :3]).T)


def test_an_output_gets_the_opacity_of_its_content_back(tmp_path: Path) -> None:
    image, alpha = load_with_alpha(half_hidden("RGBA"))
    for suffix in sorted(ALPHA_SUFFIXES - {".avif", ".webp"}):
        write_image(to_image(image, alpha), tmp_path / f"a{suffix}")
        again = load_with_alpha(tmp_path / f"a{suffix}")[1]
        assert alpha is not None and again is not None and torch.equal(again, alpha)
    write_image(to_image(image, alpha), tmp_path / "a.bmp")
    assert np.asarray(read_image(tmp_path / "a.bmp"))[0].tolist() == [list(RED)] * 4 + [list(WHITE)] * 4
    with pytest.raises(ImageError, match=r"opacity \(1, 4, 8\) is not as large as the image \(3, 5, 8\)"):
        to_image(torch.zeros(3, 5, 8), alpha)


def test_a_trained_style_and_a_region_have_no_hidden_pixels(tmp_path: Path) -> None:
    half_hidden("RGBA").save(tmp_path / "a.png")
    style = read_style(tmp_path / "a.png")
    assert style.shape == (1, 3, 4, 4) and style.flatten(2).mean(2).tolist() == [[1, 0, 0]]
    white = Image.new("RGBA", (8, 4), (255, 255, 255, 0))
    white.paste((255, 255, 255, 255), (0, 0, 4, 4))
    masks = load_masks([white], 2)
    assert masks is not None and masks[:, 0].tolist() == [[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4]


def test_stylize_gives_the_opacity_back() -> None:
    content = half_hidden("RGBA").resize((32, 16), Image.Resampling.NEAREST)
    output = stylezoo.stylize(content, half_hidden("RGBA").resize((32, 16)), thin_model("adain"))
    assert output.mode == "RGBA" and output.getchannel("A").tobytes() == content.getchannel("A").tobytes()


def test_palettes(tmp_path: Path) -> None:
    palette = quarters().quantize(4)
    assert np.array_equal(np.asarray(read(palette, tmp_path / "a.png")), np.asarray(quarters()))
    index = palette.getpixel((0, 0))
    half = bytes(128 if i == index else 255 for i in range(4))
    assert np.array_equal(np.asarray(read(palette, tmp_path / "c.png", transparency=half)), np.asarray(quarters()))
    assert load_with_alpha(tmp_path / "c.png")[1][0, 0, 0] == 128 / 255  # type: ignore[index]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_transparent_value_of_few_bits(tmp_path: Path, bits: int) -> None:
    """A PNG names it in the file's own bits."""
    buffer = io.BytesIO()
    buffer.write(b"\x89PNG\r\n\x1a\n")
    rows = zlib.compress(b"".join(b"\0" + bytes([1 << (8 - bits)]) + bytes(bits - 1) for _ in range(2)))
    header = bytes([0, 0, 0, 8, 0, 0, 0, 2, bits, 0, 0, 0, 0])
    for kind, data in ((b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", rows), (b"IEND", b"")):
        PngImagePlugin.putchunk(buffer, kind, data)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    alpha = load_with_alpha(tmp_path / "a.png")[1]
    assert alpha is not None and alpha[0].tolist() == [[0.0] + [1.0] * 7] * 2


def test_gray_and_bilevel(tmp_path: Path) -> None:
    assert read(Image.new("L", (4, 4), 77), tmp_path / "a.png").getpixel((0, 0)) == (77, 77, 77)
    assert read(Image.new("1", (4, 4), 1), tmp_path / "b.png").getpixel((0, 0)) == WHITE


def test_16_bit_is_scaled(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        result = np.asarray(read(Image.fromarray(ramp), tmp_path / name))
        assert np.array_equal(result[..., 1], np.arange(256).reshape(16, 16))


def test_16_bit_color(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> None:
        PngImagePlugin.putchunk(buffer, kind, data)

    buffer = io.BytesIO()
    buffer.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0]))
    values = (0, 257 * 100, 65535, 257 * 3, 257 * 200, 257)
    chunk(b"IDAT", zlib.compress(b"\0" + b"".join(value.to_bytes(2, "big") for value in values)))
    chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    result = read_image(tmp_path / "a.png")
    assert [result.getpixel((0, 0)), result.getpixel((1, 0))] == [(0, 100, 255), (3, 200, 1)]


def test_32_bit_and_float(tmp_path: Path) -> None:
    assert read(Image.new("I", (4, 4), 257 * 9), tmp_path / "a.tif").getpixel((0, 0)) == (9, 9, 9)
    assert read(Image.new("F", (4, 4), 0.2), tmp_path / "b.tif").getpixel((0, 0)) == (51, 51, 51)
    assert read(Image.new("F", (4, 4), 99.0), tmp_path / "c.tif").getpixel((0, 0)) == (99, 99, 99)


def test_cmyk(tmp_path: Path) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert close(read(red, tmp_path / "a.tif").getpixel((3, 3)), RED, 3)
    assert close(read(red, tmp_path / "b.jpg", quality=100).getpixel((3, 3)), RED, 3)  # stored inverted, Adobe's way
    assert b"Adobe" in (tmp_path / "b.jpg").read_bytes()


def test_other_color_spaces(tmp_path: Path) -> None:
    assert close(read(quarters().convert("YCbCr"), tmp_path / "a.tif").getpixel((3, 3)), RED, 2)
    lab = ImageCms.applyTransform(
        quarters(),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert lab is not None and close(read(lab, tmp_path / "b.tif").getpixel((20, 12)), WHITE, 3)


def swapped_profile() -> bytes:
    """An sRGB profile whose red and blue primaries are exchanged: its effect is unmistakable."""
    data = bytearray(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"s\0R\0G\0B", b"t\0e\0s\0t")
    )
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        if data[at : at + 4] in (b"rXYZ", b"bXYZ"):
            data[at] ^= ord("r") ^ ord("b")
    return bytes(data)


def test_color_profile_is_converted(tmp_path: Path) -> None:
    profile = swapped_profile()
    description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    assert "srgb" not in description.lower()
    result = read(quarters(), tmp_path / "a.png", icc_profile=profile)
    assert close(result.getpixel((0, 0)), BLUE, 2) and close(result.getpixel((0, 12)), RED, 2)
    transparent = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert close(read(transparent, tmp_path / "b.png", icc_profile=profile).getpixel((0, 0)), BLUE, 2)
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read(quarters(), tmp_path / "c.png", icc_profile=plain), quarters())


def linear_profile() -> bytes:
    """sRGB's primaries with the numbers proportional to light, and sRGB's name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        if data[at : at + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            start = int.from_bytes(data[at + 4 : at + 8], "big")
            data[start : start + 16] = b"para" + bytes(8) + struct.pack(">I", 1 << 16)  # y = x^1
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16"])
def test_a_profile_counts_whatever_it_is_called(tmp_path: Path, mode: str) -> None:
    profile = linear_profile()
    assert "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
    if mode == "I;16":
        image = Image.new(mode, (4, 4), 55 * 257)
    elif mode == "P":
        image = Image.new("RGB", (4, 4), (55, 55, 55)).quantize(2)
    else:
        image = Image.new("L", (4, 4), 55).convert(mode)
    assert read(image, tmp_path / "a.png", icc_profile=profile).getpixel((0, 0)) == (128, 128, 128)
    with Image.open(tmp_path / "a.png") as opened:
        assert load_image(opened)[0, 0, 0] == 128 / 255
    assert Image.open(tmp_path / "a.png").info["icc_profile"] == profile


@pytest.mark.parametrize("profile", [b"broken", b"\0" * 200, swapped_profile()[:300]])
def test_broken_or_unfitting_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    assert np.array_equal(read(quarters(), tmp_path / "a.png", icc_profile=profile), quarters())
    gray = Image.new("L", (4, 4), 50)
    assert read(gray, tmp_path / "b.png", icc_profile=swapped_profile()).getpixel((0, 0)) == (50, 50, 50)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    if f".{suffix}" not in images.written_formats():
        pytest.skip(f"this Pillow has no {suffix}")
    frames = [Image.new("RGB", (8, 8), color) for color in (GREEN, RED, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    kind = "pages" if suffix == "tif" else "frames"
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match=f"/x.{suffix} has 3 {kind}; the first is used"):
        result = read_image(tmp_path / f"x.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once per file
        read_image(tmp_path / f"x.{suffix}")
    assert close(result.getpixel((4, 4)), GREEN, 3)


def test_a_thumbnail_is_no_page(tmp_path: Path) -> None:
    big, small = quarters(), quarters().resize((8, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    big.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.tif").size == (32, 16)


def test_broken_frames_after_the_first_do_not_matter(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((64, 64), i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "a.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:-20])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(tmp_path / "a.gif").size == (64, 64)


LOOP = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n{} loop\n"


def test_images_are_opened_in_one_place() -> None:
    """Where the formats are listed."""
    calls = {
        path.relative_to(ROOT).as_posix(): path.read_text().count("Image.open(")
        for folder in ("stylezoo", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name, count in calls.items() if count} == {"stylezoo/images/reading.py"}
    source = (ROOT / "stylezoo" / "images" / "reading.py").read_text()
    assert source.count("Image.open(file, formats=") == source.count("Image.open(")


def test_no_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostScript program in a file that is called x.jpg: Ghostscript would run it, here for ever."""

    def run(*args: object, **options: object) -> None:
        raise AssertionError("an image file started a program")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    (tmp_path / "x.jpg").write_bytes(LOOP)
    for source in (tmp_path / "x.jpg", LOOP, io.BytesIO(LOOP)):
        with pytest.raises(ImageError, match="is not an image in a known format"):
            load_image(source)
    with Image.open(tmp_path / "x.jpg") as opened, pytest.raises(ImageError, match="is in the format EPS"):
        load_image(opened)
    assert "EPS" not in formats.readable_formats()


def test_the_suffix_may_lie(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.jpg")), np.asarray(quarters()))


def test_only_regular_files_are_read_and_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "b.png"))
    (tmp_path / "c.png").symlink_to("/dev/zero")
    (tmp_path / "d.png").symlink_to(tmp_path / "nothing")
    quarters().save(tmp_path / "e.png")
    started = time.monotonic()
    assert [path.name for path in list_images(tmp_path)] == ["d.png", "e.png"]  # what is lost is told when it is read
    for name, problem in {"a": "is not a regular", "b": "", "c": "is not a regular", "d": "does not exist"}.items():
        with pytest.raises(ImageError, match=f"/{name}.png .*{problem}"):
            read_image(tmp_path / f"{name}.png")
    assert time.monotonic() - started < 2


def test_unreadable_files_get_one_sentence(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    cases = {"empty.jpg": b"", "text.png": b"hello", "zeros.jpg": bytes(500)}
    for name in ("cut.jpg", "cut.png", "cut.webp", "cut.tif"):
        noise.save(tmp_path / name)
        cases[name] = (tmp_path / name).read_bytes()[:2000]
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=r"empty.jpg is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match="text.png is not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match="cut.jpg cannot be read: .*truncated"):
        read_image(tmp_path / "cut.jpg")
    with pytest.raises(ImageError, match="gone.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    buffer = io.BytesIO()
    buffer.write(b"\x89PNG\r\n\x1a\n")
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        PngImagePlugin.putchunk(buffer, kind, data)
    return buffer.getvalue()


def test_giant_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png_header(40_000, 10_000))
    with pytest.raises(ImageError, match="a.png has 400 million pixels and the limit is 300 million"):
        read_image(tmp_path / "a.png")
    Image.new("L", (3000, 1000), 9).save(tmp_path / "c.jpg")
    monkeypatch.setattr(formats, "MAX_PIXELS", 1_000_000)
    with pytest.raises(ImageError, match="c.jpg has 3 million pixels"):
        read_image(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg", min_side=100).size == (750, 250)  # small enough as the JPEG is decoded
    with pytest.raises(
        ImageError, match="resized to a short side of 4000, has 16 million pixels and the limit is 1 million"
    ):
        load_image(torch.zeros(3, 5, 5), 4000)


@pytest.mark.parametrize("suffix", sorted(set(images.written_formats()) | {".tga"}))
def test_pillows_own_limit_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """It is a third of ours."""
    quarters().save(tmp_path / f"a{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / f"a{suffix}").size == (32, 16)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_wide_images_take_little_memory(tmp_path: Path) -> None:
    """Not the 16 bytes per pixel of float64 numbers and their copy. In a new process: this one may have freed memory to reuse."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell the peak of a process's memory")
    assert ends(start(write_peaks, tmp_path / "peaks.json", folder=tmp_path)) == 0
    whole, small = json.loads((tmp_path / "peaks.json").read_text())
    assert 1 < whole < 5.5 and 1 < small < 10.5


def write_peaks(path: Path) -> None:
    """Writes how many bytes per pixel reading an image of 16 bits takes, whole and with a short side of 300 pixels."""
    image, peaks = Image.new("I;16", (5000, 4000), 257 * 9), []  # 40 MB
    for size in (None, 300):
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
        before = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
        result = read_image(image) if size is None else load_image(image, size)
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        assert result is not None
        peaks.append((peak - before) * 1024 / 20e6 - 2)  # 2: the copy of an image that was no file
    path.write_text(json.dumps(peaks))


@pytest.mark.parametrize("size", [(1000, 800), (801, 1400), (2001, 3000), (399, 600), (64, 64)])
def test_draft_keeps_twice_the_short_side(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "a.jpg")
    for min_side in (10, 50, 100, 199, 200, 1000):
        short = min(read_image(tmp_path / "a.jpg", min_side).size)
        assert short == min(size) or 2 * min_side <= short < 4 * min_side + 1 or short == -(-min(size) // 8)
        assert short >= min(2 * min_side, min(size))


def test_tensor_and_back() -> None:
    image = quarters()
    tensor = to_tensor(image)
    assert tensor.shape == (3, 16, 32) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor[:, 0, 0].tolist() == [1, 0, 0]
    assert np.array_equal(to_image(tensor), image) and np.array_equal(to_image(tensor[None]), image)
    values = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0, 100.5001 / 255, 254.6 / 255])
    assert np.asarray(to_image(values.expand(3, 1, 6)))[0, :, 0].tolist() == [0, 0, 1, 255, 101, 255]
    with pytest.raises(ImageError, match=r"not \(2, 3, 4, 4\)"):
        to_image(torch.zeros(2, 3, 4, 4))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_every_way_to_give_an_image_gives_the_same(tmp_path: Path) -> None:
    picture = quarters()
    pixels, expected = np.asarray(picture), to_tensor(picture)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    picture.save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        sources = [
            *(str(tmp_path / "a.png"), tmp_path / "a.png", picture, file, file, io.BytesIO(encoded(picture))),
            *(encoded(picture), bytearray(encoded(picture)), memoryview(encoded(picture))),
            *(tensor, tensor[None], tensor.contiguous(), tensor[None].to(memory_format=torch.channels_last)),
            *(
                expected,
                expected.double(),
                expected[None].to(memory_format=torch.channels_last),
                tv_tensors.Image(tensor),
            ),
            *(tensor.to(torch.uint16) * 257, expected + 1e-4, expected - 1e-4),
            *(pixels, pixels.astype(">u2") * 257, pixels / 255, np.dstack([pixels, np.full((16, 32), 255, np.uint8)])),
            *(pixels[::-1][::-1], (pixels / 255).astype(np.float32), (pixels / 255).astype(np.longdouble)),
        ]
        for source in sources:
            image = load_image(source)
            assert type(image) is Tensor and image.dtype == torch.float32 and image.is_contiguous()
            torch.testing.assert_close(image, expected, atol=2e-4, rtol=0)
            assert float(image.min()) >= 0 and float(image.max()) <= 1
    for half in (expected.half(), expected.bfloat16(), (pixels / 255).astype(np.float16)):
        torch.testing.assert_close(load_image(half), expected, atol=4e-3, rtol=0)
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5)
    for source in (gray, gray[..., None], Image.fromarray(gray)):
        assert torch.equal(load_image(source), torch.from_numpy(gray / 255).float().expand(3, 4, 5))
    read_end, write_end = os.pipe()
    os.write(write_end, encoded(picture))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert torch.equal(load_image(pipe), expected)


def test_a_pil_image_is_converted_as_a_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    quarters().save(tmp_path / "rotated.png", exif=exif, icc_profile=swapped_profile())
    half_hidden("RGBA").save(tmp_path / "alpha.png")
    Image.new("I;16", (4, 4), 257 * 200).save(tmp_path / "wide.png")
    for name in ("rotated", "alpha", "wide"):
        with Image.open(tmp_path / f"{name}.png") as opened:
            for image in (opened, opened.copy()):
                before = (image.mode, image.size, dict(image.info), image.tobytes())
                assert torch.equal(load_image(image), load_image(tmp_path / f"{name}.png"))
                assert (image.mode, image.size, dict(image.info), image.tobytes()) == before
    assert load_image(tmp_path / "wide.png")[0, 0, 0] == 200 / 255


REFUSED: list[tuple[Any, str]] = [
    *((value, "An image is a file name, .* not ") for value in (1, True, None, 0.5, [[[0.5]]], ((1,),), {}, object())),
    *((torch.ones(3, 4, 5, dtype=t), "another type than uint8, uint16 and floats") for t in (torch.int64, torch.bool)),
    (torch.ones(3, 4, 5, dtype=torch.complex64), "another type"),
    (
        torch.full((3, 4, 5), float("nan")),
        r"\(a tensor \(3, 4, 5\) of float32\) holds values that are no finite numbers",
    ),
    (torch.full((3, 4, 5), -float("inf")), "no finite numbers"),
    (torch.linspace(0, 255, 60).reshape(3, 4, 5), r"has values from 0 to 255, not in \[0, 1\]: divide them by 255"),
    (torch.linspace(-1, 1, 60).reshape(3, 4, 5), r"has values from -1 to 1, not in \[0, 1\]: scale or clamp"),
    (torch.full((3, 4, 5), 1.01), "has values from 1.01"),
    (torch.ones(4, 5, 3), r"not \(4, 5, 3\): its channels come first, so use permute\(2, 0, 1\)"),
    (torch.ones(2, 3, 4, 5), "give one image per call, or batches to Stylizer"),
    (torch.ones(1, 4, 5), r"not \(1, 4, 5\)"),
    (torch.ones(5), r"not \(5,\)"),
    (torch.ones(3, 0, 5), "has no pixels: it is 5 x 0"),
    (torch.ones(3, 4, 5).to_sparse(), "sparse"),
    (torch.ones(3, 4, 5, device="meta"), "has no numbers"),
    *(
        (np.ones((4, 5, 3), t), "another type than uint8")
        for t in (np.int64, np.int8, np.uint32, bool, complex, "U1", object)
    ),
    (np.ones((3, 40, 50), np.uint8), r"its channels come last, so use transpose\(1, 2, 0\)"),
    (np.ones((2, 4, 5, 3), np.uint8), "give one image per call"),
    (np.full((4, 5), np.nan), "no finite numbers"),
    (np.ones((0, 5, 3)), "has no pixels"),
    (np.uint8(3), r"not an array \(\) of uint8"),
    (Image.new("RGB", (0, 5)), "has no pixels"),
    (Image.new("F", (2, 2), float("nan")), "no finite numbers"),
    (b"", "The image is empty"),
    (b"hello", r"The image \(5 bytes\) is not an image in a known format"),
    (io.StringIO("hello"), "opened as text"),
    ("", "'' does not exist"),
    ("a\0b.png", "null byte"),
    ("a\nb.png", r"'a\\nb.png' does not exist"),
    ("x" * 5000, r"\(5000 characters\) cannot be accessed"),
    ("https://example.com/a.png", "is an address, not a file: download the image first"),
]


@pytest.mark.parametrize(("source", "message"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_what_is_no_image_gets_one_sentence(source: Any, message: str) -> None:
    for load in (load_image, load_style, load_with_alpha):
        with pytest.raises(ImageError, match=message) as caught:
            load(source)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("size", [0, -3, True, 2.5, "8"])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(ImageError, match="The size of an image is its short side in pixels, for example 512, not "):
        load_image(torch.zeros(3, 4, 4), size)


def test_batches() -> None:
    batch = torch.rand(2, 3, 4, 5)
    assert torch.equal(check_batch(batch), batch)
    assert torch.equal(check_batch((batch * 255).to(torch.uint8)), (batch * 255).to(torch.uint8) / 255)
    assert check_batch(batch.double()).dtype == torch.float64
    for wrong, message in (
        (batch[:0], r"^The batch is empty: it is a tensor \(0, 3, 4, 5\)"),
        (batch[0], r"^The batch must be a tensor \(B, 3, H, W\), not a tensor \(3, 4, 5\) of float32: add \[None\]"),
        (batch[:, :1], r"not a tensor \(2, 1, 4, 5\)"),
        (batch.numpy(), "not an array"),
        (batch * 255, "divide them by 255"),
        (batch.long(), "another type"),
    ):
        with pytest.raises(ImageError, match=message):
            check_batch(wrong)
    with pytest.raises(ImageError, match="^contents must be a tensor"):
        check_batch([batch], "contents")


@pytest.mark.parametrize("suffix", sorted(images.written_formats()))
def test_write(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"x{suffix}"
    write_image(to_tensor(quarters()), path)
    assert [entry.name for entry in path.parent.iterdir()] == [f"x{suffix}"]
    written = read_image(path)
    for place, color in (((4, 4), RED), ((28, 4), GREEN), ((4, 12), BLUE), ((28, 12), WHITE)):
        assert close(written.getpixel(place), color, 3)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(quarters(), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ImageError, match="Cannot write .*a.png: No space left"):
        write_image(torch.zeros(3, 8, 8), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_targets_are_checked_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    cases: dict[str, tuple[Any, ...]] = {
        r"a.xyz: the suffix '.xyz' is not one of \.avif.*\.bmp.*\.webp\.$": (tmp_path / "a.xyz",),
        r"a.jepg: the suffix '.jepg' is not one of .*; did you mean \.jpe?g\?": (tmp_path / "a.jepg",),
        r"the suffix '' is not one of": (tmp_path / "a",),
        r"^quality is an integer from 1 to 100, not -5\.": (tmp_path / "a.jpg", -5),
        r"^quality is an integer from 1 to 100, not 1000\.": (tmp_path / "a.png", 1000),
        r"^quality is an integer from 1 to 100, not 90\.5": (tmp_path / "a.jpg", 90.5),
        r"^quality is an integer from 1 to 100, not True": (tmp_path / "a.jpg", True),
        r"\.webp images have at most 16,383 pixels a side and this one has 16,384": (
            tmp_path / "a.webp",
            95,
            (16384, 1),
        ),
        r"\.jpg images have at most 65,500 pixels a side and this one has 65,536": (tmp_path / "a.jpg", 95, (1, 65536)),
        r"folder.png: it is a folder": (tmp_path / "folder.png",),
        r"pipe.png: it is not a regular file": (tmp_path / "pipe.png",),
        r"/file is a file, not a folder": (tmp_path / "file" / "b" / "a.png",),
        r"File name too long": (tmp_path / ("x" * 300 + ".png"),),
        r"a name may have 255 bytes": (tmp_path / "nothing" / f"{'y' * 300}.png",),
        r"null byte": (f"{tmp_path}/a\0.png",),
    }
    for message, arguments in cases.items():
        with pytest.raises(ImageError, match=message) as caught:
            check_target(*arguments)
        assert "\n" not in str(caught.value)
    for path, size in ((tmp_path / "a.webp", (16384, 1)), (tmp_path / "a.jpg", (1, 65536))):
        with pytest.raises(ImageError, match="have at most"):
            write_image(Image.new("RGB", size), path)
    quarters().save(tmp_path / "old.png")
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ImageError, match="old.png: it is write-protected"):
        check_target(tmp_path / "old.png")
    (tmp_path / "old.png").unlink()
    with pytest.raises(ImageError, match="the folder .* is not writable"):
        check_target(tmp_path / "new" / "a.png")
    monkeypatch.undo()
    check_target(tmp_path / "new" / "deep" / "a.PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "pipe.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif", ".bmp", ".gif"])
def test_date_resolution_profile_and_settings(tmp_path: Path, suffix: str) -> None:
    if suffix not in images.written_formats():
        pytest.skip(f"this Pillow has no {suffix}")
    exif = Image.Exif()
    exif.update({0x0112: 6, 306: "2026:01:02 03:04:05", 315: "Ann", 271: "Camera"})
    exif[0x8769] = {36867: "2025:01:02 03:04:05"}
    exif[0x8825] = {1: "N"}
    source, profile = tmp_path / "source.jpg", swapped_profile()
    quarters().save(source, exif=exif, dpi=(300, 300), icc_profile=profile, quality=100, subsampling=0)
    upright = read_image(source)
    write_image(upright, tmp_path / f"a{suffix}", 100, source, {"model": "adain", "alpha": 0.5})
    options = {"model": "adain", "alpha": 0.5}
    written = read_image(tmp_path / f"a{suffix}")
    for place in ((4, 4), (12, 4), (4, 28), (12, 28)):  # the same colors for whoever reads the profile
        assert close(written.getpixel(place), upright.getpixel(place), 4)  # type: ignore[arg-type]
    with Image.open(tmp_path / f"a{suffix}") as image:
        tags = image.getexif()
        if suffix in (".jpg", ".png", ".webp", ".tif", ".avif"):
            assert (tags[306], tags[315]) == ("2026:01:02 03:04:05", "Ann") and tags.get(0x0112, 1) == 1
            assert tags.get_ifd(0x8769)[36867] == "2025:01:02 03:04:05"
            assert 271 not in tags and not tags.get_ifd(0x8825)
            assert json.loads(tags.get_ifd(0x8769)[0x9286][8:]) == options
            assert image.info["icc_profile"] == profile
        if suffix in (".jpg", ".png", ".tif", ".bmp"):
            assert [round(float(value)) for value in image.info["dpi"]] == [300, 300]
        if suffix == ".png":
            assert json.loads(image.info["stylezoo"]) == options  # type: ignore[attr-defined]
        if suffix == ".gif":
            assert json.loads(image.info["comment"]) == options


def test_metadata_that_cannot_be_read_lose_no_image(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"gone.jpg does not exist. Its date and color profile are not kept"):
        write_image(quarters(), tmp_path / "a.png", source=tmp_path / "gone.jpg")
    broken = Image.new("RGB", (8, 8))
    broken.info.update(icc_profile=b"broken", dpi=(0, float("nan")), exif=b"Exif\0\0garbage")
    write_image(quarters(), tmp_path / "a.png", source=broken)
    with Image.open(tmp_path / "a.png") as image:
        assert "icc_profile" not in image.info and "dpi" not in image.info
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.asarray(quarters()))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"])
def test_a_pil_image_is_written_as_it_is_read(tmp_path: Path, suffix: str) -> None:
    """With its profile applied, whether or not the format can hold it, and in any mode."""
    image = Image.new("RGB", (16, 16), (55, 55, 55))
    image.info["icc_profile"] = profile = linear_profile()
    write_image(image, tmp_path / f"a{suffix}", 100)
    assert close(read_image(tmp_path / f"a{suffix}").getpixel((4, 4)), (128, 128, 128), 1)
    assert image.info["icc_profile"] == profile and image.getpixel((0, 0)) == (55, 55, 55)
    for mode in ("1", "L", "LA", "P", "CMYK", "I;16", "F", "HSV", "YCbCr"):
        write_image(Image.new(mode, (16, 16)), tmp_path / f"{mode.replace(';', '')}{suffix}")


def test_list_images(tmp_path: Path) -> None:
    shown = ["B.JPG", "a/b.png", "a/Ö.jpeg", "a/é.jpg", "a/é.webp", "a.b/1.tif", "é/z.bmp", "雪.gif", "c.jpg"]
    hidden = [".x.jpg", "a/._b.png", ".git/x.png", "notes.txt", "a/jpg"]
    for name in shown + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert sorted(found) == sorted(shown)
    assert found[:3] == ["B.JPG", "a.b/1.tif", "a/b.png"] and found[-1] == "雪.gif"
    flat = list_images(tmp_path, recursive=False)
    assert [path.name for path in flat] == ["B.JPG", "c.jpg", "雪.gif"]
    assert list_images(tmp_path / "nothing") == []


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_coral_matches_mean_and_covariance() -> None:
    mix = torch.tensor([[0.5, 0.3, 0.1], [0.1, 0.4, 0.2], [0.0, 0.2, 0.6]])
    source = rand(3, 40, 50)
    target = torch.einsum("ij,jhw->ihw", mix, rand(3, 30, 20, seed=1))
    result = coral(source, target)
    assert result.shape == source.shape and result.dtype == source.dtype
    torch.testing.assert_close(result.mean((1, 2)), target.mean((1, 2)))

    def correlation(image: Tensor) -> Tensor:
        return torch.corrcoef(image.flatten(1))

    assert (correlation(result) - correlation(target)).abs().max() < 0.01
    assert (correlation(source) - correlation(target)).abs().max() > 0.2


def test_coral_by_the_formula() -> None:
    """The same with matrix roots by Denman-Beavers iteration, as written in the paper's code."""
    source, target = rand(3, 9, 8).double(), rand(3, 7, 6, seed=1).double() ** 2

    def statistics(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = image.reshape(3, -1)
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        z = (x - mean) / std
        y, w = z @ z.T + torch.eye(3), torch.eye(3).double()
        for _ in range(40):
            y, w = (y + w.inverse()) / 2, (w + y.inverse()) / 2
        return z, y, mean, std

    z, source_root, _, _ = statistics(source)
    _, target_root, mean, std = statistics(target)
    expected = (target_root @ source_root.inverse() @ z) * std + mean
    torch.testing.assert_close(coral(source, target), expected.reshape(3, 9, 8))


def matrix_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.sqrt() @ vectors.T


def roughness(image: Tensor) -> float:
    return float((image[:, 1:, 1:] - image[:, :-1, :-1]).abs().mean())


@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.89, 0.7)], ids=["gray", "sepia"])
@pytest.mark.parametrize("noise", ["last bit", "jpeg"])
def test_coral_of_gray_and_sepia_styles_has_no_speckles(tint: tuple[float, ...], noise: str) -> None:
    """Their noise in the last bits, or of JPEG, is no color that could be amplified to that of the content."""
    smooth = torch.nn.functional.interpolate(rand(1, 1, 9, 9), size=(96, 96), mode="bicubic")[0].clamp(0, 0.95)
    clean = smooth * torch.tensor(tint)[:, None, None]
    target = rand(3, 64, 64, seed=1)
    if noise == "jpeg":
        buffer = io.BytesIO()
        to_image(clean + 0.01 * torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(2))).save(
            buffer, "JPEG", quality=80
        )
        noisy = load_image(buffer)
    else:
        noisy = (clean * 255 + rand(3, 96, 96, seed=3) * 2 - 1).round().clamp(0, 255) / 255
    plain, result = coral(clean, target), coral(noisy, target)
    assert float(result.min()) > -0.3 and float(result.max()) < 1.3
    assert roughness(result) < 2 * roughness(plain) + 0.01


def test_coral_is_the_references_where_no_direction_is_weak() -> None:
    mix = torch.tensor([[0.5, 0.4, 0.1], [0.4, 0.5, 0.1], [0.4, 0.4, 0.2]])
    source, target = torch.einsum("ij,jhw->ihw", mix, rand(3, 20, 20)).double(), rand(3, 9, 9, seed=1).double()

    def statistics(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = image.flatten(1)
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        z = (x - mean) / std
        return z, matrix_root(z @ z.T + torch.eye(3)), mean, std

    z, source_root, _, _ = statistics(source)
    assert WEAK < float(torch.linalg.eigvalsh(torch.corrcoef(source.flatten(1)))[0]) < 2 * WEAK
    _, target_root, mean, std = statistics(target)
    expected = (target_root @ source_root.inverse() @ z) * std + mean
    torch.testing.assert_close(coral(source, target).flatten(1), expected)


def test_coral_of_nothing_is_one_sentence() -> None:
    for pair in ((torch.zeros(3, 0, 4), rand(3, 4, 4)), (rand(3, 4, 4), torch.zeros(0, 3, 4, 4))):
        with pytest.raises(ValueError, match=r"CORAL needs images \(3, H, W\) with pixels, not \("):
            coral(*pair)


def test_coral_of_flat_and_gray_images_is_finite() -> None:
    flat, gray, noise = torch.full((3, 5, 5), 0.3), rand(1, 6, 6).expand(3, 6, 6), rand(3, 4, 4, seed=2)
    for source in (flat, gray, noise, rand(3, 1, 1)):
        for target in (flat, gray, noise, rand(3, 1, 1)):
            assert coral(source, target).isfinite().all()
    torch.testing.assert_close(coral(noise, flat), torch.full((3, 4, 4), 0.3))


def test_keep_luminance_is_pillows_ycbcr() -> None:
    output, content = (to_tensor(to_image(0.2 + 0.6 * rand(3, 20, 30, seed=seed))) for seed in (1, 2))
    y, _, _ = to_image(output).convert("YCbCr").split()
    _, cb, cr = to_image(content).convert("YCbCr").split()
    expected = to_tensor(Image.merge("YCbCr", (y, cb, cr)).convert("RGB"))
    result = keep_luminance(output, content)
    assert (result - expected).abs().max() < 4 / 255  # Pillow cuts Y, Cb and Cr down to 8 bits
    matrix = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # JFIF
    ycc, wanted, colors = (torch.einsum("ij,jhw->ihw", matrix, image) for image in (result, output, content))
    inside = (result > 0).all(0) & (result < 1).all(0)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(ycc[0][inside], wanted[0][inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(ycc[1:, inside], colors[1:, inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(keep_luminance(output[None], content[None])[0], result)
    torch.testing.assert_close(keep_luminance(content, content), content)
    with pytest.raises(ValueError, match="must have the same shape"):
        keep_luminance(output, content[:, :-1])


def test_grid() -> None:
    red, blue = torch.zeros(3, 4, 6), torch.zeros(3, 2, 6)
    red[0] = blue[2] = 1
    sheet = grid([[red, blue], [blue]], gap=1)
    assert sheet.shape == (3, 2 * 5 + 1, 2 * 7 + 1)
    assert sheet[:, 1, 1].tolist() == [1, 0, 0] and sheet[:, 1, 8].tolist() == [0, 0, 1]
    assert sheet[:, 0, 0].tolist() == sheet[:, 4, 8].tolist() == sheet[:, 7, 9].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="at least one image"):
        grid([[]])
