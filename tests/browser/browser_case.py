"""A headless Chromium for tests; each that wants one is skipped, with the reason, where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def chromium() -> Iterator[object]:
    """Start the system's Chromium by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: requirements-dev.txt")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # a test machine often runs as root, where Chromium's sandbox does not start
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
