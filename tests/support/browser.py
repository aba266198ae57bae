"""A page of headless Chromium, for tests of what people see."""

import shutil

import pytest


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium without a window; while it runs, this thread has an event loop and can start no other."""
    tool = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium: apt install chromium")
    with tool.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page 1400 pixels wide; a script error on it fails the test."""
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []
