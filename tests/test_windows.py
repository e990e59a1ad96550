"""Images in windows: the values of ordinary reading and writing, in strips and tiles, and nothing left behind by a failure."""

import json
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from test_images import linear_profile, swapped_profile
from torch import Tensor

from stylezoo.images import ImageError, formats, load_image, load_with_alpha, scratch, to_image, windows, write_image
from stylezoo.images.windows import WindowReader, WindowWriter, open_windows

pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install stylezoo[huge]")

Save = Callable[[Path], object]

HEIGHT, WIDTH = 83, 101


def photo() -> Image.Image:
    """Smooth colors, with all values in each channel."""
    small = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def spotted() -> Image.Image:
    """With visible, faint and hidden pixels, and rows that have few or no visible ones."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[20:60, 10:70] = 255
    alpha[30:40, 60:90] = 90
    alpha[70:72, 5:9] = 40
    alpha[5:8, 50:60] = 10
    image = photo()
    image.putalpha(Image.fromarray(alpha))
    return image


def by_pillow(mode: str = "RGB", **options: Any) -> Save:
    source = spotted() if mode in ("RGBA", "LA") else photo()
    return lambda path: source.convert(mode).save(path, **options)


def wide_by_vips(bands: int, **options: Any) -> Save:
    """16 bits per channel, which Pillow does not write; the fourth is the opacity."""
    values = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, bands), dtype=np.uint16)
    kind = {1: "grey16", 2: "grey16", 3: "rgb16", 4: "rgb16"}[bands]
    image = pyvips.Image.new_from_memory(values.tobytes(), WIDTH, HEIGHT, bands, "ushort").copy(interpretation=kind)
    return lambda path: image.write_to_file(str(path), **options)


def tiled(mode: str = "RGB", **options: Any) -> Save:
    def save(path: Path) -> None:
        pixels = np.asarray((spotted() if mode == "RGBA" else photo()).convert(mode))
        pyvips.Image.new_from_array(pixels).write_to_file(
            str(path), tile=True, tile_width=32, tile_height=16, **options
        )

    return save


def late_exif(path: Path) -> None:
    """A PNG whose EXIF data follow the pixels."""
    exif = Image.Exif()
    exif[0x112] = 6
    photo().save(path)
    data, chunk = path.read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    path.write_bytes(
        data[:-12] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[-12:]
    )


def key_of_16_bits(path: Path) -> None:
    """A PNG of 16 bits that declares a color transparent."""
    wide_by_vips(3)(path)
    data = path.read_bytes()
    start = data.index(b"IDAT") - 4
    pixel = pyvips.Image.new_from_file(str(path))(7, 5)
    chunk = b"tRNS" + struct.pack(">3H", *map(int, pixel))
    path.write_bytes(data[:start] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[start:])


PALETTE = {"RGB": photo().quantize(64), "RGBA": spotted().quantize(64)}

STREAMED: dict[str, tuple[str, Save]] = {
    "jpeg": ("a.jpg", by_pillow(quality=90)),
    "jpeg 4:4:4": ("a.jpg", by_pillow(subsampling=0)),
    "jpeg 4:2:2": ("a.jpg", by_pillow(subsampling=1)),
    "gray jpeg": ("a.jpg", by_pillow("L")),
    "cmyk jpeg": ("a.jpg", by_pillow("CMYK")),
    "png": ("a.png", by_pillow()),
    "gray png": ("a.png", by_pillow("L")),
    "bilevel png": ("a.png", by_pillow("1")),
    "palette png": ("a.png", lambda path: PALETTE["RGB"].save(path)),
    "palette png with opacity": ("a.png", lambda path: PALETTE["RGBA"].save(path)),
    "png with opacity": ("a.png", by_pillow("RGBA")),
    "gray png with opacity": ("a.png", by_pillow("LA")),
    "gray png with a key": ("a.png", by_pillow("L", transparency=77)),
    "bilevel png with a key": ("a.png", by_pillow("1", transparency=0)),
    "png with a key": ("a.png", by_pillow(transparency=photo().getpixel((5, 5)))),
    "16-bit gray png": ("a.png", wide_by_vips(1)),
    "16-bit png": ("a.png", wide_by_vips(3)),
    "16-bit png with opacity": ("a.png", wide_by_vips(4)),
    "16-bit gray png with opacity": ("a.png", wide_by_vips(2)),
    "16-bit png with a key": ("a.png", key_of_16_bits),
    "png with late exif": ("a.png", late_exif),
    "tiff": ("a.tif", by_pillow()),
    "tiff lzw": ("a.tif", by_pillow(compression="tiff_lzw")),
    "tiff deflate": ("a.tif", by_pillow(compression="tiff_adobe_deflate")),
    "tiff jpeg": ("a.tif", by_pillow(compression="jpeg")),
    "gray tiff": ("a.tif", by_pillow("L")),
    "bilevel tiff": ("a.tif", by_pillow("1")),
    "palette tiff": ("a.tif", lambda path: PALETTE["RGB"].save(path)),
    "cmyk tiff": ("a.tif", by_pillow("CMYK")),
    "tiff with opacity": ("a.tif", by_pillow("RGBA")),
    "gray tiff with opacity": ("a.tif", by_pillow("LA")),
    "16-bit gray tiff": ("a.tif", wide_by_vips(1)),
    "16-bit tiff": ("a.tif", wide_by_vips(3)),
    "16-bit tiff with opacity": ("a.tif", wide_by_vips(4)),
    "tiled tiff with opacity": ("a.tif", tiled("RGBA")),
    "profile jpeg": ("a.jpg", by_pillow(icc_profile=swapped_profile())),
    "profile png": ("a.png", by_pillow("RGBA", icc_profile=linear_profile())),
    "gray with a profile of colors": ("a.png", by_pillow("L", icc_profile=swapped_profile())),
}
"""Decoded by libvips into a scratch file."""

DIRECT: dict[str, tuple[str, Save]] = {
    "tiled tiff": ("a.tif", tiled()),
    "tiled tiff deflate": ("a.tif", tiled(compression="deflate", predictor="horizontal")),
    "tiled tiff jpeg": ("a.tif", tiled(compression="jpeg")),
    "tiled gray tiff": ("a.tif", tiled("L")),
    "pyramid": ("a.tif", tiled(pyramid=True)),
    "big tiff": ("a.tif", tiled(bigtiff=True)),
    "tiled 16-bit tiff": ("a.tif", wide_by_vips(3, tile=True, tile_width=32, tile_height=16)),
    "tiled 16-bit gray tiff": ("a.tif", wide_by_vips(1, tile=True, tile_width=32, tile_height=16)),
}
"""Decoded by libvips, window by window."""

WHOLE: dict[str, tuple[str, Save]] = {
    "progressive jpeg": ("a.jpg", by_pillow(progressive=True)),
    "32-bit tiff": ("a.tif", by_pillow("I")),
    "float tiff": ("a.tif", by_pillow("F")),
    "lab tiff": ("a.tif", by_pillow("LAB")),
    "webp": ("a.webp", by_pillow("RGBA")),
    "gif": ("a.gif", by_pillow()),
    "bmp": ("a.bmp", by_pillow()),
}
"""Decoded by Pillow."""


@pytest.fixture(autouse=True)
def strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of 16 rows, so that small images have several."""
    monkeypatch.setattr(windows, "_STRIP", 1)


def boxes(height: int, width: int, step: int = 37) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, height, step):
        for left in range(0, width, step):
            yield top, min(top + step, height), left, min(left + step, width)


def joined(reader: WindowReader) -> tuple[Tensor, Tensor | None]:
    """The whole image, from windows."""
    image, alpha = (
        torch.full((3, reader.height, reader.width), -1.0),
        torch.full((1, reader.height, reader.width), -1.0),
    )
    opaque = False
    for top, bottom, left, right in boxes(reader.height, reader.width):
        image[:, top:bottom, left:right] = reader.read(top, bottom, left, right)
        opacity = reader.opacity(top, bottom, left, right)
        opaque = opacity is None
        if opacity is not None:
            alpha[:, top:bottom, left:right] = opacity
    return image, None if opaque else alpha


def check(path: Path) -> WindowReader:
    """Checks an image in windows against the same one in one piece."""
    expected, expected_alpha = load_with_alpha(path)
    with open_windows(path) as reader:
        image, alpha = joined(reader)
    assert torch.equal(image, expected)
    assert (alpha is None) == (expected_alpha is None)
    assert alpha is None or expected_alpha is None or torch.equal(alpha, expected_alpha)
    return reader


@pytest.mark.parametrize("kind", STREAMED)
def test_strips_have_the_values_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name, save = STREAMED[kind]
    save(tmp_path / name)
    monkeypatch.setattr(windows, "_whole", None)
    assert isinstance(check(tmp_path / name)._source, scratch.Scratch)


@pytest.mark.parametrize("kind", DIRECT)
def test_tiles_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name, save = DIRECT[kind]
    save(tmp_path / name)
    monkeypatch.setattr(windows, "Scratch", None)
    check(tmp_path / name)


@pytest.mark.parametrize("kind", WHOLE)
def test_other_files_are_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name, save = WHOLE[kind]
    save(tmp_path / name)
    monkeypatch.setattr(windows, "_spooled", spooled := Spy(windows._spooled))
    check(tmp_path / name)
    assert spooled.calls == 1
    monkeypatch.setattr(formats, "MAX_PIXELS", 1000)
    with pytest.raises(
        ImageError, match=r"the limit of \S+ files of its kind is 0 million: save it as a tiled TIFF first"
    ):
        open_windows(tmp_path / name)


class Spy:
    """Counts the calls of a function, and keeps the largest size that it returns."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls, self.largest = function, 0, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        result = self.function(*args, **options)
        self.largest = max(self.largest, getattr(result, "size", 0))
        return result


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "opacity.png", "a.tif", "tiled.tif"])
def test_every_orientation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, orientation: int) -> None:
    monkeypatch.setattr(windows, "_whole", None)
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / name
    if name == "tiled.tif":
        image = pyvips.Image.new_from_array(np.asarray(photo())).copy()
        image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        image.write_to_file(str(path), tile=True, tile_width=16, tile_height=32)
        monkeypatch.setattr(windows, "Scratch", None)
    else:
        (spotted() if name == "opacity.png" else photo()).save(path, exif=exif)
    reader = check(path)
    assert (reader.height > reader.width) == (orientation >= 5)


@pytest.mark.parametrize("kind", ["png", "png with opacity", "jpeg", "tiff", "16-bit png"])
def test_without_libvips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name, save = STREAMED[kind]
    save(tmp_path / name)
    monkeypatch.setattr(windows, "pyvips", lambda: None)
    check(tmp_path / name)
    copy(tmp_path / name, tmp_path / f"copy_{name}")
    write_image(to_image(*load_with_alpha(tmp_path / name)), tmp_path / f"whole_{name}")
    assert (tmp_path / f"copy_{name}").read_bytes() == (tmp_path / f"whole_{name}").read_bytes()
    monkeypatch.setattr(formats, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"larger images need pyvips and tifffile: pip install stylezoo\[huge\]"):
        open_windows(tmp_path / name)
    with pytest.raises(ImageError, match=r"larger images need pyvips and tifffile: pip install stylezoo\[huge\]"):
        WindowWriter(tmp_path / "b.png", HEIGHT, WIDTH)


def test_an_image_that_is_nowhere_visible_or_everywhere_is_read_as_ever(tmp_path: Path) -> None:
    image = photo()
    image.putalpha(0)
    image.save(tmp_path / "hidden.png")
    with pytest.warns(UserWarning, match="completely transparent"):
        check(tmp_path / "hidden.png")
    image.putalpha(20)
    image.save(tmp_path / "faint.png")
    image.putalpha(255)
    image.save(tmp_path / "opaque.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(tmp_path / "faint.png")
        check(tmp_path / "opaque.png")


def copy(source: Path, target: Path, /, **options: Any) -> None:
    """Copies an image in windows, in another order than that of its rows."""
    with open_windows(source) as reader:
        has_alpha = reader.opacity(0, 1, 0, 1) is not None
        with WindowWriter(target, reader.height, reader.width, has_alpha, **options) as writer:
            for box in reversed(list(boxes(reader.height, reader.width))):
                window, opacity = reader.read(*box), reader.opacity(*box)
                writer.write(box[0], box[2], window if opacity is None else torch.cat([window, opacity]))


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_written_windows_are_the_written_whole(tmp_path: Path, suffix: str, has_alpha: bool) -> None:
    source = tmp_path / "source.png"
    (spotted() if has_alpha else photo()).save(source)
    copy(source, tmp_path / f"copy.{suffix}", quality=90)
    write_image(to_image(*load_with_alpha(source)), tmp_path / f"whole.{suffix}", quality=90)
    # JPEG: the same library with the same settings; a difference of one step would be one of its version
    tolerance = 1.01 / 255 if suffix == "jpg" else 0
    actual, alpha = load_with_alpha(tmp_path / f"copy.{suffix}")
    expected, expected_alpha = load_with_alpha(tmp_path / f"whole.{suffix}")
    assert (actual - expected).abs().max() <= tolerance
    assert (alpha is None) == (expected_alpha is None)
    assert alpha is None or expected_alpha is None or torch.equal(alpha, expected_alpha)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"copy.{suffix}", "source.png", f"whole.{suffix}"]


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
def test_written_windows_have_metadata(tmp_path: Path, suffix: str) -> None:
    exif, settings = Image.Exif(), {"model": "adain", "alpha": 0.5, "name": "a\u00e9"}
    exif[ExifTags.Base.Artist] = "A. Person"
    exif[ExifTags.Base.Make] = "camera"
    photo().save(tmp_path / "source.jpg", exif=exif, dpi=(300, 300))
    copy(tmp_path / "source.jpg", tmp_path / f"copy.{suffix}", source=tmp_path / "source.jpg", settings=settings)
    with Image.open(tmp_path / f"copy.{suffix}") as image:
        tags = image.getexif()
        comment = tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
        text = image.info["stylezoo"] if suffix == "png" else tags.get(ExifTags.Base.ImageDescription) or comment[8:]
        assert json.loads(text) == settings
        assert suffix == "tif" or (tags[ExifTags.Base.Artist] == "A. Person" and ExifTags.Base.Make not in tags)
        assert suffix == "webp" or tuple(map(round, image.info["dpi"])) == (300, 300)


def test_a_written_tiff_is_tiled_and_can_be_a_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo().resize((700, 600)).save(tmp_path / "source.png")
    copy(tmp_path / "source.png", tmp_path / "a.tif", pyramid=True)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[322] == image.tag_v2[323] == 256  # type: ignore[attr-defined]
        assert image.n_frames > 1  # type: ignore[attr-defined]
        image.seek(1)
        assert image.size == (350, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # smaller versions are no pages
        check(tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes()[2] == 42
    monkeypatch.setattr(windows, "_BIG_TIFF", 1000)
    copy(tmp_path / "source.png", tmp_path / "b.tif")
    assert (tmp_path / "b.tif").read_bytes()[2] == 43
    assert torch.equal(load_image(tmp_path / "b.tif"), load_image(tmp_path / "source.png"))


def test_a_large_image_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # strips as they are
    height, width = 2000, 3000
    for name in ("a.jpg", "a.png", "a.tif"):
        with WindowWriter(tmp_path / name, height, width) as writer:
            for top, bottom, left, right in boxes(height, width, 500):
                writer.write(top, left, torch.full((3, bottom - top, right - left), top / height))
        stored, read = Spy(windows._Decoder._stored), Spy(scratch.Scratch.read)
        with monkeypatch.context() as patch:
            patch.setattr(windows._Decoder, "_stored", lambda *args, spy=stored: spy(*args))
            patch.setattr(scratch.Scratch, "read", lambda *args, spy=read: spy(*args))
            patch.setattr(windows, "_whole", None)
            with open_windows(tmp_path / name) as reader:
                for top, bottom, left, right in boxes(height, width, 500):
                    reader.read(top, bottom, left, right)
        most = 3 * max(windows._STRIP, 500 * 500)
        assert stored.calls >= height * width // windows._STRIP and stored.largest <= most
        assert read.largest <= most and (read.calls == 0) == (name == "a.tif")


def test_windows_outside_of_the_image(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    with open_windows(tmp_path / "a.png") as reader:
        for box in ((0, HEIGHT + 1, 0, 1), (0, 1, -1, 1), (5, 5, 0, 1), (0, 1, 9, 8)):
            with pytest.raises(ImageError, match="are no window of it"):
                reader.read(*box)
    with pytest.raises(ImageError, match="are no window of it"), WindowWriter(tmp_path / "b.png", 10, 10) as writer:
        writer.write(5, 0, torch.zeros(3, 6, 10))
    with pytest.raises(ImageError, match=r"a tensor \(4, h, w\), not \(3, 5, 5\)"):  # noqa: SIM117
        with WindowWriter(tmp_path / "b.png", 10, 10, has_alpha=True) as writer:
            writer.write(0, 0, torch.zeros(3, 5, 5))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), WindowWriter(path, 64, 64) as writer:
        writer.write(0, 0, torch.zeros(3, 64, 64))
        raise KeyboardInterrupt
    with (
        pytest.raises(ImageError, match="1,024 of its 4,096 pixels were written"),
        WindowWriter(path, 64, 64) as writer,
    ):
        writer.write(0, 0, torch.zeros(3, 16, 64))
    monkeypatch.setattr("os.replace", no_space)
    with (
        pytest.raises(ImageError, match=f"Cannot write .*a.{suffix}: No space left"),
        WindowWriter(path, 64, 64) as writer,
    ):
        writer.write(0, 0, torch.zeros(3, 64, 64))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_without_space_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo().save(tmp_path / "a.png")
    monkeypatch.setattr(scratch, "SPARE_BYTES", 10**18)
    with pytest.raises(ImageError, match=r"a.png needs 0.0 GB for a scratch file in .*set TMPDIR"):
        open_windows(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"b.png needs 0.0 GB for a scratch file in"):
        WindowWriter(tmp_path / "b.png", 10, 10)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo().save(tmp_path / "a.png")
    monkeypatch.setattr(formats, "MAX_PIXELS", 1000)  # that of ordinary reading does not count
    with open_windows(tmp_path / "a.png") as reader:
        assert (reader.height, reader.width) == (HEIGHT, WIDTH)
    with pytest.raises(ImageError, match=r"the limit is 0 million: write .tif or .png instead"):
        WindowWriter(tmp_path / "b.webp", HEIGHT, WIDTH)
    monkeypatch.setattr(windows, "MAX_WINDOW_PIXELS", 2000)
    with pytest.raises(ImageError, match="million pixels and the limit is 0 million: cut it into parts first"):
        open_windows(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"Cannot write .*b.png: it has"):
        WindowWriter(tmp_path / "b.png", HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "tiled.tif", "a.webp"])
def test_broken_files_get_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (tiled() if name == "tiled.tif" else by_pillow())(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=f"{name} (cannot be read|is not an image)") as caught:
        check_all(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="is empty"):
        open_windows(path)
    path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        open_windows(path)


def check_all(path: Path) -> None:
    with open_windows(path) as reader:
        joined(reader)


def test_only_the_first_of_several_pages_is_read_and_told(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.tif", save_all=True, append_images=[photo().rotate(180)])
    with pytest.warns(UserWarning, match="has 2 pages; the first is used"), open_windows(tmp_path / "a.tif") as reader:
        assert torch.equal(joined(reader)[0], load_image(tmp_path / "a.tif"))
