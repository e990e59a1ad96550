"""The picture of the web page in the documentation: an example photo, stylized in Chromium.

    python tools/screenshot.py [--model NAME] [--output docs/pictures/demo.png]

Needs selenium, Chromium and its driver. The photo is scikit-image's, the style is procedural.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from jsonargparse import auto_cli
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from stylezoo.demo.backend import Backend
from stylezoo.demo.page import launch
from stylezoo.images import read_image, write_image

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")


def main(
    model: str = "sanet.slim",
    output: Path = Path("docs/pictures/demo.png"),
    photo: int = 1,
    style: int = 2,
    width: int = 1360,
    height: int = 900,
) -> None:
    """Writes the picture.

    Args:
        model: The name of weights.
        output: An image file.
        photo: Which of the photos on the page, from 1.
        style: Which of the styles.
        width: Of the window in pixels.
        height: Of the window in pixels.
    """
    backend = Backend()
    backend.default = model

    page = launch(backend)
    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(page.local_url)
        wait = WebDriverWait(browser, 120)
        examples = wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".gallery-item"))
        for number in (photo - 1, len(examples) // 2 + style - 1):
            examples[number].click()
        for name in ("content", "style"):
            wait.until(lambda _, name=name: browser.find_elements(By.CSS_SELECTOR, f"#{name} img"))
        browser.find_element(By.ID, "stylize").click()
        wait.until(lambda _: browser.find_element(By.ID, "notes").text)
        browser.execute_script("window.scrollTo(0, 0)")
        browser.save_screenshot(f"{profile}/page.png")
        write_image(read_image(f"{profile}/page.png"), output)
    finally:
        browser.quit()
        page.close()


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
