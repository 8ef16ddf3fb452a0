"""A real browser: Debian's chromium, or the one that playwright installed."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def browser():
    reason = "needs playwright (requirements-dev.txt) and chromium (apt-get install chromium)"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = shutil.which("chromium") or shutil.which("chromium-browser") or (Path(own).exists() and own)
        if not found:
            pytest.skip(reason)
        words = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium has none for root
        browser = playwright.chromium.launch(executable_path=found, args=words)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """Open pages that may complain of nothing, and ask no machine but this one."""
    contexts, complaints, requests = [], [], []

    def open_page(**settings):
        context = browser.new_context(reduced_motion="reduce", **settings)  # scrolls at once
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on("request", lambda request: requests.append(request.url))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    here = ("http://127.0.0.1:", "file://", "blob:", "data:")
    assert [url for url in requests if not url.startswith(here)] == []
