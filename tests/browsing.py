"""Chromium for the tests of pages, without a window and without the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--window-size=1400,1200"),
)


def open_browser(profile: Path) -> Any:
    """Returns a driver of selenium; skips the test where selenium, Chromium or its driver is missing.

    Args:
        profile: A new folder for what the browser stores.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService(programs[1]))


def until(browser: Any, found: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """Waits until something is found on the page, and returns it.

    Args:
        browser: The driver.
        found: Returns it, or something that is false.
        what: What failures call it.
        seconds: The longest wait.
    """
    from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    ignored = (StaleElementReferenceException,)
    try:
        return WebDriverWait(browser, seconds, 0.2, ignored).until(lambda _: found())
    except TimeoutException as error:
        text = browser.find_element("tag name", "body").text
        raise AssertionError(f"{what} did not appear; the page says: {text}") from error
