"""The page docs/onnx_web stylizes in a browser what PyTorch stylizes.

It needs Chromium with its driver, selenium, and the npm package onnxruntime-web: ``make browser`` installs them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from browsing import open_browser, until
from conftest import ROOT, thin_model

import stylezoo
from stylezoo.exporters.interface import images
from stylezoo.images import load_image, write_image
from stylezoo.module import StyleModel

PAGE = ROOT / "docs" / "onnx_web"
PLACES = (PAGE, ROOT / "build" / "web")  # npm install onnxruntime-web, make browser
PACKAGE = next((path for place in PLACES if (path := place / "node_modules" / "onnxruntime-web").is_dir()), None)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    extensions_map: ClassVar[dict[str, str]] = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm",
        ".mjs": "text/javascript",
    }

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    if PACKAGE is None:
        pytest.skip("the npm package onnxruntime-web is not there (make browser)")
    driver = open_browser(tmp_path / "profile")
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[[StyleModel], None]]:
    """Exports a model and opens the page with it."""
    folder = tmp_path / "site"
    (folder / "node_modules").mkdir(parents=True)
    assert PACKAGE is not None
    (folder / "node_modules" / "onnxruntime-web").symlink_to(PACKAGE)
    shutil.copy(PAGE / "index.html", folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def open_page(model: StyleModel) -> None:
        stylezoo.export(model, folder / "model.onnx")
        browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
        wait(browser, "Ready.")

    yield open_page
    server.shutdown()
    server.server_close()


def wait(browser: Any, start: str) -> str:
    """Waits until the page says something that starts so."""

    def said() -> str | None:
        text: str = browser.find_element("id", "status").text
        return text if text.startswith(start) else None

    text: str = until(browser, said, start)
    return text


def pixels(browser: Any) -> torch.Tensor:
    """Returns the image on the page, (3, H, W) in [0, 1]."""
    values, width, height = browser.execute_script(
        "const canvas = document.getElementById('output');"
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "return [Array.from(data), canvas.width, canvas.height];"
    )
    array = np.asarray(values, dtype=np.float32).reshape(height, width, 4)[..., :3] / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def test_the_page_stylizes_as_pytorch_does(opened: Callable[[StyleModel], None], browser: Any, tmp_path: Path) -> None:
    model = stylezoo.load_model("microast.wikiart")
    opened(model)
    paths = {name: tmp_path / f"{name}.png" for name in ("content", "style")}
    write_image(images(1, 75, 90, 3), paths["content"])
    write_image(images(1, 101, 88, 4), paths["style"])
    browser.find_element("id", "content").send_keys(str(paths["content"]))
    browser.find_element("id", "run").click()
    assert wait(browser, "Choose") == "Choose an image for style first."
    browser.find_element("id", "style").send_keys(str(paths["style"]))
    browser.find_element("id", "run").click()
    wait(browser, "Done")
    content, style = (load_image(path)[None] for path in paths.values())
    with torch.inference_mode():
        expected = model(content, style).clamp(0, 1)[0]
    assert float((expected - content[0]).abs().mean()) > 0.05
    torch.testing.assert_close(pixels(browser), expected.clone(), rtol=0, atol=1.01 / 255)


def test_a_broken_file_gives_a_message(opened: Callable[[StyleModel], None], browser: Any, tmp_path: Path) -> None:
    opened(thin_model("johnson"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    browser.find_element("id", "content").send_keys(str(broken))
    browser.find_element("id", "run").click()
    assert "This did not work" in wait(browser, "This")
