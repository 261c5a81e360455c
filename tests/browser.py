"""A headless browser for the tests of pages; skipped with a reason where it is not installed."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

INSTALLED = all(shutil.which(name) for name in ("chromium", "chromedriver"))
needs_browser = pytest.mark.skipif(
    not INSTALLED or importlib.util.find_spec("selenium") is None,
    reason="chromium, chromedriver or selenium is missing (Debian: chromium chromium-driver)",
)


@contextmanager
def headless(width: int = 400, height: int = 900) -> Iterator[Any]:
    """A narrow window, as wide as a phone."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True},
        )
        yield browser
    finally:
        browser.quit()
