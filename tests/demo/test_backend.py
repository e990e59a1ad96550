"""What the web page does, without the page: outputs, limits, regions, clips, comparisons and messages."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stylezoo
from stylezoo import StylezooError, commands
from stylezoo.cli import main
from stylezoo.controls import ClipControls, Controls
from stylezoo.data.synthetic import draw
from stylezoo.demo.backend import Backend, Limits, Request, StoppedByUser
from stylezoo.video import open_clip

FAST = "microast.wikiart"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = {name: folder / f"{name}.png" for name in ("photo", "waves", "dots")}
    for number, (name, path) in enumerate(paths.items()):
        draw("photos" if name == "photo" else "paintings", number, 96).save(path)
    return {name: str(path) for name, path in paths.items()}


def pixels(image: Any) -> np.ndarray[Any, Any]:
    return np.asarray((image if isinstance(image, Image.Image) else Image.open(image)).convert("RGB"), int)


def test_an_image_is_what_stylize_makes_with_its_settings_in_the_file(pictures: dict[str, str], tmp_path: Path) -> None:
    styles = [pictures["waves"], pictures["dots"]]
    controls = Controls(alpha=0.7, style_weights=[1, 0.5], preserve_color="luminance", size=64, style_size=80)
    made = Backend([FAST]).image(Request(FAST, pictures["photo"], styles, controls), tmp_path)
    expected = stylezoo.stylize(
        pictures["photo"],
        styles,
        FAST,
        alpha=0.7,
        style_weights=[1, 0.5],
        preserve_color="luminance",
        size=64,
        style_size=80,
    )
    assert made.path.name == "photo_microast.wikiart.png"
    assert (pixels(made.path) == pixels(expected)).all()
    settings = json.loads(Image.open(made.path).info["stylezoo"])
    assert {name: settings[name] for name in ("model", "alpha", "size", "styles")} == {
        "model": FAST,
        "alpha": 0.7,
        "size": 64,
        "styles": ["waves.png", "dots.png"],
    }
    assert made.before is not None and Image.open(made.before).size == (64, 64)
    assert made.notes[0].startswith("64 x 64 pixels in ")
    command = made.notes[-1].splitlines()[-2]
    assert command == (
        f"python -m stylezoo stylize --model {FAST} --content photo.png --style waves.png dots.png --alpha 0.7"
        " --style_weights 1,0.5 --preserve_color luminance --size 64 --style_size 80 --output photo_microast.wikiart.png"
    )


def test_regions_take_their_styles(pictures: dict[str, str], tmp_path: Path) -> None:
    left = np.zeros((96, 96), np.uint8)
    left[:, :48] = 255
    masks = [Image.fromarray(left), Image.fromarray(255 - left)]
    styles = [pictures["waves"], pictures["dots"]]
    request = Request(FAST, pictures["photo"], styles, Controls(has_masks=True), masks)
    made = Backend([FAST]).image(request, tmp_path, ".jpg")
    expected = stylezoo.stylize(pictures["photo"], styles, FAST, masks=masks)
    assert made.path.suffix == ".jpg" and np.abs(pixels(made.path) - pixels(expected)).mean() < 4
    assert "--masks region_1.png region_2.png" in made.notes[-1]


def test_outputs_stay_within_the_limits(pictures: dict[str, str], tmp_path: Path) -> None:
    backend = Backend([FAST], limits=Limits(megapixels=0.004))
    made = backend.image(Request(FAST, pictures["photo"], [pictures["waves"]]), tmp_path)
    assert Image.open(made.path).size == (63, 63)
    assert "Resized to 63 pixels: this page allows 0.004 megapixels." in made.notes
    small = backend.image(Request(FAST, pictures["photo"], [pictures["waves"]], Controls(size=32)), tmp_path)
    assert Image.open(small.path).size == (32, 32) and len(small.notes) == 2


def test_models_of_given_styles_need_no_image(pictures: dict[str, str], tmp_path: Path) -> None:
    backend = Backend(["cin.sixteen", "johnson.the_kiss"])
    name = backend.model("cin.sixteen").styles[3]
    for request in (Request("cin.sixteen", pictures["photo"], [name]), Request("johnson.the_kiss", pictures["photo"])):
        made = backend.image(request, tmp_path)
        expected = stylezoo.stylize(pictures["photo"], list(request.styles), request.model)
        assert (pixels(made.path) == pixels(expected)).all()


@pytest.mark.parametrize(
    ("content", "styles", "sentence"),
    [
        (None, ["waves"], "Choose a photo first."),
        ("photo", [], "Choose a style image first."),
        ("broken", ["waves"], "broken.png"),
        ("photo", ["broken"], "broken.png"),
    ],
)
def test_what_is_missing_or_broken_is_told(
    content: str | None, styles: list[str], sentence: str, pictures: dict[str, str], tmp_path: Path
) -> None:
    files = {**pictures, "broken": str(tmp_path / "broken.png")}
    Path(files["broken"]).write_bytes(b"no image")
    request = Request(FAST, None if content is None else files[content], [files[style] for style in styles])
    with pytest.raises(StylezooError, match=sentence):
        Backend([FAST]).image(request, tmp_path)
    assert not list(tmp_path.glob("*microast*"))


def test_only_offered_models_are_loaded(pictures: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(StylezooError, match="This page has no model adain.slim: choose one of microast"):
        Backend([FAST]).image(Request("adain.slim", pictures["photo"], [pictures["waves"]]), tmp_path)
    with pytest.raises(StylezooError, match="There is no system"):
        Backend(["nothing"])


def test_work_on_iterations_is_shown_and_can_be_stopped(pictures: dict[str, str], tmp_path: Path) -> None:
    backend, seen = Backend(["gatys.slim"]), list[int]()

    def progress(done: int, total: int | None) -> None:
        seen.append(done)
        if done == 2:
            backend.stop("somebody else")
        if done == 3:
            backend.stop("me")

    request = Request("gatys.slim", pictures["photo"], [pictures["waves"]], Controls(size=32))
    made = backend.image(request, tmp_path, who="me", progress=progress)
    assert seen == [1, 2, 3]
    assert any("Stopped after 3 of" in note and "unfinished" in note for note in made.notes)
    assert Image.open(made.path).size == (32, 32)
    assert backend.model("gatys.slim").on_iteration is None
    with pytest.raises(StylezooError, match=r"gatys.slim optimizes each frame for minutes"):
        backend.clip(request, ClipControls(), tmp_path)


def test_a_comparison_is_stopped_after_the_model_at_work(pictures: dict[str, str], tmp_path: Path) -> None:
    backend = Backend([FAST, "johnson.the_kiss"])
    sheets = backend.compare(backend.models, Request(FAST, pictures["photo"], [pictures["waves"]]), tmp_path, "me")
    assert len(next(sheets)) == 1
    backend.stop("me")
    with pytest.raises(StoppedByUser):
        next(sheets)
    backend.stop("me")  # nothing is done for them any more, so that nothing is kept
    assert not backend._stopped


def test_all_models_are_compared_one_after_the_other(pictures: dict[str, str], tmp_path: Path) -> None:
    backend = Backend([FAST, "johnson.the_kiss"])
    assert backend.one_of_each_system() == [FAST]
    request = Request(FAST, pictures["photo"], [pictures["waves"]], Controls(size=64))
    first, both = backend.compare(backend.models, request, tmp_path)
    assert [caption for _, caption in both] == [FAST, "johnson.the_kiss: klimt_the_kiss"]
    assert first == both[:1]
    expected = stylezoo.stylize(pictures["photo"], pictures["waves"], FAST, size=64)
    assert (pixels(both[0][0]) == pixels(expected)).all()


def test_a_clip_is_cut_and_resized(pictures: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("av")
    source = tmp_path / "clip.gif"
    first, *others = (draw("photos", number, 64) for number in range(6))
    first.save(source, save_all=True, append_images=others, duration=100)
    backend, steps = Backend([FAST], limits=Limits(seconds=0.3)), list[Any]()
    request = Request(FAST, str(source), [pictures["waves"]], Controls(size=48))
    made = backend.clip(request, ClipControls(seconds=5), tmp_path, progress=lambda *step: steps.append(step))
    assert made.path.name == "clip_microast.wikiart.mp4" and made.notes[0].startswith("3 frames in ")
    assert [done for done, _ in steps] == [1, 2, 3]
    clip = open_clip(made.path)
    assert clip.properties.size == (48, 48)
    clip.close()


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["demo", *words])
        assert stop.value.code == 1
        return capsys.readouterr().err

    assert "megapixels is a number from 0.01 up, not 0" in fails("--megapixels", "0")
    assert "port is a number from 1 to 65535, not 70000" in fails("--port", "70000")
    assert "did you mean 'adain'" in fails("--models", "adian")
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = f"The page cannot be served at 127.0.0.1:{port}: choose another --host or --port."
        assert sentence in fails("--models", FAST, "--port", str(port))
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert 'pip install "stylezoo[demo]"' in fails("--models", FAST)


def test_sizes_are_within_the_limits() -> None:
    limits = Limits(megapixels=1)
    assert limits.size(1000, 1000, None) is None and limits.size(1001, 1000, None) == 999
    assert limits.size(100, 100, 1000) == 1000 and limits.size(100, 100, 1001) == 1000
    for width, height in torch.randint(16, 9000, (50, 2)).tolist():
        side = limits.size(width, height, None) or min(width, height)
        scale = side / min(width, height)
        assert width * height * scale**2 <= 1e6
