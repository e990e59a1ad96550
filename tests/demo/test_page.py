"""The web page in Chromium: what its users do, one and two at a time, and what they are told."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import open_browser, until
from PIL import Image

import stylezoo
from stylezoo.data.synthetic import draw
from stylezoo.errors import StylezooError

gradio = pytest.importorskip("gradio", reason="the page needs Gradio (pip install stylezoo[demo])")

from stylezoo.demo import page as layout
from stylezoo.demo.backend import Backend, Limits

FAST = "microast.wikiart"
SIDE = 96


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    page = layout.launch(Backend([FAST, "cin.sixteen", "gatys.slim"], "cpu", Limits(megabytes=1)))
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = open_browser(tmp_path_factory.mktemp("profile") / "new")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = {name: folder / f"{name}.png" for name in ("photo", "waves", "dots")}
    for number, (name, path) in enumerate(paths.items()):
        draw("photos" if name == "photo" else "paintings", number, SIDE).save(path)
    return paths


def opened(browser: Any, address: str) -> None:
    browser.get(address)
    until(browser, lambda: browser.find_elements("css selector", "#style input[type=file]"), "The page")


def choose(browser: Any, model: str) -> None:
    """Chooses a model."""
    field = browser.find_element("css selector", "input[aria-label=Model]")
    field.clear()
    field.send_keys(f"{model}\n")


def upload(browser: Any, name: str, path: Path) -> None:
    """Uploads a file; where it is an image, waits until the page shows it."""
    (field,) = browser.find_elements("css selector", f"#{name} input[type=file]")
    field.send_keys(str(path))
    if path.suffix == ".png" and path.name != "broken.png":
        until(browser, lambda: browser.find_elements("css selector", f"#{name} img"), path.name)


def result(browser: Any) -> np.ndarray[Any, Any]:
    """The output on the page."""
    images = until(browser, lambda: browser.find_elements("css selector", "#result img"), "The output")
    with urllib.request.urlopen(images[-1].get_attribute("src")) as answer:
        return np.asarray(Image.open(BytesIO(answer.read())).convert("RGB"), int)


def expected(pictures: dict[str, Path], style: str) -> np.ndarray[Any, Any]:
    return np.asarray(stylezoo.stylize(pictures["photo"], pictures[style], FAST, size=512), int)


@pytest.mark.slow
def test_an_uploaded_photo_is_stylized(browser: Any, address: str, pictures: dict[str, Path]) -> None:
    opened(browser, address)
    upload(browser, "content", pictures["photo"])
    upload(browser, "style", pictures["waves"])
    browser.find_element("id", "stylize").click()
    output = result(browser)
    assert (output == expected(pictures, "waves")).all()
    with Image.open(pictures["photo"]) as photo:
        assert np.abs(output - np.asarray(photo.convert("RGB").resize((512, 512)), int)).mean() > 10
    assert "512 x 512 pixels in" in until(browser, lambda: browser.find_element("id", "notes").text, "The notes")
    assert browser.find_element("id", "download").is_enabled()


def test_a_broken_file_gives_a_message(browser: Any, address: str, pictures: dict[str, Path], tmp_path: Path) -> None:
    opened(browser, address)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    upload(browser, "content", broken)
    body = browser.find_element("tag name", "body")
    sentence = "\nbroken.png is not an image in a known format."
    until(browser, lambda: sentence in body.text, "The message")
    upload(browser, "style", pictures["waves"])
    browser.find_element("id", "stylize").click()
    until(browser, lambda: body.text.count(sentence) >= 2, "The message after the click")


def test_a_file_that_is_too_large_gives_a_message(browser: Any, address: str, tmp_path: Path) -> None:
    opened(browser, address)
    large = tmp_path / "large.bin.png"
    large.write_bytes(bytes(2**21))
    browser.find_element("css selector", "#content input[type=file]").send_keys(str(large))
    body = browser.find_element("tag name", "body")
    until(browser, lambda: "exceed the maximum allowed size of 1.0 Mb" in body.text, "The message")


@pytest.mark.slow
def test_two_users_get_what_each_asked_for(
    browser: Any, address: str, pictures: dict[str, Path], tmp_path: Path
) -> None:
    second = open_browser(tmp_path / "profile")
    try:
        users = {"waves": browser, "dots": second}
        for style, user in users.items():
            opened(user, address)
            upload(user, "content", pictures["photo"])
            upload(user, "style", pictures[style])
        for user in users.values():
            user.find_element("id", "stylize").click()
        for style, user in users.items():
            assert (result(user) == expected(pictures, style)).all(), style
    finally:
        second.quit()


@pytest.mark.slow
def test_whoever_leaves_ends_the_work(browser: Any, address: str, pictures: dict[str, Path]) -> None:
    """A system that optimizes for minutes does not keep others waiting, and Stop shows the unfinished image."""
    opened(browser, address)
    choose(browser, "gatys.slim")
    for name, picture in (("content", "photo"), ("style", "waves")):
        upload(browser, name, pictures[picture])
    browser.find_element("id", "stylize").click()
    until(browser, lambda: "/300" in browser.find_element("tag name", "body").text, "The iterations")
    browser.find_element("id", "stylize-stop").click()
    until(browser, lambda: "unfinished image" in browser.find_element("id", "notes").text, "The unfinished image")
    browser.find_element("id", "stylize").click()
    until(browser, lambda: "/300" in browser.find_element("tag name", "body").text, "The iterations")
    opened(browser, address)  # leaves the page
    for name, picture in (("content", "photo"), ("style", "waves")):
        upload(browser, name, pictures[picture])
    browser.find_element("id", "stylize").click()
    assert (result(browser) == expected(pictures, "waves")).all()


def test_a_model_of_trained_styles_offers_them(browser: Any, address: str, pictures: dict[str, Path]) -> None:
    opened(browser, address)
    choose(browser, "cin.sixteen")
    until(browser, lambda: "Trained styles" in browser.find_element("tag name", "body").text, "The choice of styles")
    until(browser, lambda: not browser.find_elements("css selector", "#style input[type=file]"), "No style image")
    upload(browser, "content", pictures["photo"])
    browser.find_element("id", "stylize").click()
    first = stylezoo.load_model("cin.sixteen").styles[0]
    wanted = stylezoo.stylize(pictures["photo"], first, "cin.sixteen", size=512)
    assert (result(browser) == np.asarray(wanted, int)).all()


@pytest.mark.slow
def test_regions_are_painted(browser: Any, address: str, pictures: dict[str, Path]) -> None:
    """Of a single style, what is not painted stays as in the photo."""
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, address)
    upload(browser, "content", pictures["photo"])
    upload(browser, "style", pictures["waves"])
    (label,) = (each for each in browser.find_elements("css selector", "button.label-wrap") if "regions" in each.text)
    label.click()
    canvas = until(browser, lambda: browser.find_elements("css selector", "#regions canvas"), "The canvas")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    until(browser, lambda: canvas.size["height"] > 50, "The photo on the canvas")
    stroke = ActionChains(browser).move_to_element(canvas).click_and_hold()
    stroke.move_by_offset(8, 0).move_by_offset(0, 8).release().perform()
    browser.execute_script("window.scrollTo(0, 0)")
    browser.find_element("id", "stylize").click()
    output = result(browser)
    before = browser.find_elements("css selector", "#result img")[0].get_attribute("src")
    with urllib.request.urlopen(before) as answer:
        photo = np.asarray(Image.open(BytesIO(answer.read())).convert("RGB"), int)
    same = (output == photo).all(-1)
    assert 0.02 < same.mean() < 0.98
    stylized = (output == expected(pictures, "waves")).all(-1)
    assert (same | stylized).mean() > 0.9  # but for the edge, where the stroke is soft


def test_the_page_loads_nothing_from_elsewhere(browser: Any, address: str) -> None:
    opened(browser, address)
    names = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(names) > 5
    assert [name for name in names if not name.startswith((address, "data:", "blob:"))] == []


def painted(*boxes: tuple[int, tuple[int, int, int, int]]) -> dict[str, Any]:
    """What the editor gives for rectangles in the colors of styles."""
    layer = Image.new("RGBA", (40, 30))
    for style, box in boxes:
        layer.paste(Image.new("RGBA", (1, 1), layout.COLORS[style]).getpixel((0, 0)), box)
    return {"background": None, "layers": [layer], "composite": None}


def test_colors_are_regions() -> None:
    assert layout.region_masks(None, 2) == layout.region_masks(painted(), 2) == []
    (alone,) = layout.region_masks(painted((2, (0, 0, 10, 30))), 1)
    assert np.asarray(alone)[:, :10].all() and not np.asarray(alone)[:, 10:].any()
    first, second = (np.asarray(mask) for mask in layout.region_masks(painted((1, (0, 0, 10, 30))), 2))
    assert second[:, :10].all() and not second[:, 10:].any() and (first == 255 - second).all()
    with pytest.raises(StylezooError, match="a region for style 3, but there are 2 styles"):
        layout.region_masks(painted((2, (0, 0, 10, 30))), 2)
