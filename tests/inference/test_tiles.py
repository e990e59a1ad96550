"""When a model works in tiles by itself, and images that go from file to file in windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import thin_model
from PIL import Image
from torch import Tensor

import stylezoo
from stylezoo.cli import main
from stylezoo.errors import StylezooError
from stylezoo.images import load_with_alpha, to_image, write_image
from stylezoo.images.windows import open_windows
from stylezoo.inference import Stylizer, files, tiles
from stylezoo.streaming import Stream, StreamedMap, whole

STYLE = torch.rand(3, 48, 40, generator=torch.Generator().manual_seed(0))
CONTENT = torch.rand(1, 3, 130, 150, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """One MiB of memory, and tiles of a fitting size."""
    monkeypatch.setenv("STYLEZOO_MEMORY", "1")
    monkeypatch.setattr(tiles, "TILES", (128, 64, 32))


def test_tiles_where_an_image_would_not_fit(little: None, capsys: pytest.CaptureFixture[str]) -> None:
    model = thin_model("adain")
    stylizer, whole = Stylizer(model, [STYLE], engine="eager"), Stylizer(model, [STYLE], tile=None, engine="eager")
    for _ in range(2):
        torch.testing.assert_close(stylizer(CONTENT), whole(CONTENT), rtol=0, atol=1e-5)
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith(
        "stylezoo: 150 x 130 pixels at once needs about 0.0 GiB and 0.0 GiB are free: working in tiles of "
    )
    assert stylizer.tile_for(CONTENT) in tiles.TILES and stylizer.tile_for(CONTENT[..., :20, :20]) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [n for n in stylezoo.list_models() if n != "gatys"])
def test_every_system_can_be_estimated(name: str, little: None) -> None:
    """Otherwise it would never work in tiles by itself."""
    model = thin_model(name).eval()
    styles = model.example_styles(STYLE[None])[:1]
    tile, needed, free = Stylizer(model, styles)._fit.tile(CONTENT)
    assert tile is not None and needed > free == 2**20


def test_images_of_the_same_pixels_get_the_same_tiles(little: None) -> None:
    """However long and narrow they are."""
    fit, tall = tiles.Fit(lambda images: 2 * images), torch.zeros(1, 3, 8192, 16)
    tile, needed, free = fit.tile(tall)
    assert tile is not None and needed > free == 2**20 and fit.tile(tall.transpose(2, 3)) == (tile, needed, free)


def test_where_memory_runs_out_it_is_tried_in_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    """On a GPU, say, whose memory others take as well."""
    model = thin_model("adain")
    expected, decode, asked = Stylizer(model, [STYLE], engine="eager")(CONTENT), model.decode, []

    def scarce(*args: object, tile: int | None = None, **options: object) -> Tensor:
        asked.append(tile)
        if tile is None:
            raise RuntimeError("CUDA out of memory.")
        return decode(*args, tile=64, **options)  # type: ignore[arg-type]

    model.decode = scarce  # type: ignore[method-assign, assignment]
    torch.testing.assert_close(Stylizer(model, [STYLE], engine="eager")(CONTENT), expected, rtol=0, atol=1e-5)
    assert asked == [None, 512]
    assert (
        "stylezoo: 150 x 130 pixels at once does not fit into memory: working in tiles of 512"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "controls", [{}, {"preserve_color": "luminance"}, {"preserve_color": "coral"}, {"masks": True}]
)
@pytest.mark.parametrize("name", ["adain", "johnson"])
def test_streams_have_all_controls(name: str, controls: dict[str, object]) -> None:
    model, controls = thin_model(name).double(), dict(controls)
    styles = [STYLE, 1 - STYLE] if name == "adain" and controls else [STYLE] if name == "adain" else []
    if controls.pop("masks", False):
        controls["masks"] = torch.rand(max(1, len(styles)), 65, 75, generator=torch.Generator().manual_seed(2))
    stylizer = Stylizer(model, styles, tile=48, **controls)  # type: ignore[arg-type]
    expected = Stylizer(model, styles, tile=None, **controls)(CONTENT)  # type: ignore[arg-type]
    torch.testing.assert_close(stylizer(CONTENT), expected, rtol=0, atol=1e-9)
    output = stylizer.stream(StreamedMap.of(CONTENT.double(), Stream.of((130, 150), 48, torch.device("cpu"))))
    torch.testing.assert_close(whole(output)[0], expected, rtol=0, atol=1e-9)


def test_files_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pixels as an image that is held in memory, opacity included; and nothing of it is read at once."""
    image = to_image(CONTENT[0])
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (20, 30, 60, 90))
    image.putalpha(alpha)
    image.save(tmp_path / "content.png")
    write_image(STYLE, tmp_path / "style.png")
    common = [
        "stylize",
        "--model",
        "microast",
        "--content",
        str(tmp_path / "content.png"),
        "--style",
        str(tmp_path / "style.png"),
    ]
    main([*common, "--output", str(tmp_path / "whole.png"), "--tile", "none"])
    monkeypatch.setattr(files, "WINDOWED_PIXELS", 130 * 150)
    read = []
    monkeypatch.setattr(files, "load_with_alpha", lambda *args: read.append(args) or load_with_alpha(*args))
    main([*common, "--output", str(tmp_path / "tiled.png"), "--tile", "64"])
    assert not read
    main([*common, "--output", str(tmp_path / "fits.png")])  # in memory, and so with its metadata
    assert read
    outputs = [np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("whole", "tiled", "fits")]
    assert outputs[0].shape == (130, 150, 4) and np.abs(outputs[1] - outputs[0]).max() <= 1
    assert np.array_equal(outputs[2], outputs[0])
    monkeypatch.setenv("STYLEZOO_MEMORY", "1")
    main([*common, "--output", str(tmp_path / "auto.png")])
    assert np.abs(np.asarray(Image.open(tmp_path / "auto.png")).astype(int) - outputs[0]).max() <= 1
    assert "working in tiles of" in capsys.readouterr().err


def test_outputs_in_windows_must_be_finite(tmp_path: Path) -> None:
    model = thin_model("adain")
    next(model.decoder.parameters()).data.fill_(float("nan"))  # type: ignore[union-attr, operator]
    write_image(CONTENT, tmp_path / "content.png")
    stylizer = Stylizer(model, [STYLE], tile=64)
    with (
        pytest.raises(StylezooError, match="output of adain is not finite"),
        open_windows(tmp_path / "content.png") as reader,
    ):
        tiles.stylize_windows(stylizer.stream, reader, tmp_path / "output.png", 64, STYLE)
    assert [path.name for path in tmp_path.iterdir()] == ["content.png"]
