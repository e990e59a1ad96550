"""Reading every kind of image to the right colors, writing, lists, color preservation, contact sheets."""

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin
from torch import Tensor

from stylezoo import images
from stylezoo.images import (
    ALPHA_SUFFIXES,
    ImageError,
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
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132]), 12):
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


@pytest.mark.parametrize("profile", [b"broken", b"\0" * 200, swapped_profile()[:300]])
def test_broken_or_unfitting_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    assert np.array_equal(read(quarters(), tmp_path / "a.png", icc_profile=profile), quarters())
    gray = Image.new("L", (4, 4), 50)
    assert read(gray, tmp_path / "b.png", icc_profile=swapped_profile()).getpixel((0, 0)) == (50, 50, 50)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (GREEN, RED, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    result = read(frames[0], tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert result.getpixel((4, 4)) == GREEN


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


def test_giant_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("1", (20000, 10000)).save(tmp_path / "a.png")  # beyond Pillow's own limit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").size == (20000, 10000)
    Image.new("1", (40000, 10000)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="b.png has 400 million pixels and the limit is 300 million"):
        read_image(tmp_path / "b.png")
    assert limit == Image.MAX_IMAGE_PIXELS
    Image.new("L", (3000, 1000), 9).save(tmp_path / "c.jpg")
    monkeypatch.setattr(formats, "MAX_PIXELS", 1_000_000)
    with pytest.raises(ImageError, match="c.jpg has 3 million pixels"):
        read_image(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg", min_side=100).size == (750, 250)  # small enough as the JPEG is decoded


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


@pytest.mark.parametrize("suffix", sorted(images.IMAGE_SUFFIXES))
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
    with pytest.raises(ImageError, match=r"suffix '.xyz' is not one of .*\.jpg.*\.png"):
        write_image(quarters(), tmp_path / "a.xyz")


def test_write_transparent_image_as_jpeg(tmp_path: Path) -> None:
    write_image(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").getpixel((5, 5)) == WHITE


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
