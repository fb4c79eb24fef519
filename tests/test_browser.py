"""The report as a reader meets it: in a browser, from a file, with no network."""

import os
import shutil

import pytest
from fake_runs import fake_run

from reports.html import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_report_opens_by_double_click(tmp_path, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    page_file = write_report([fake_run(tmp_path / "run")])
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        figures = page.eval_on_selector_all(
            "img", "images => images.map(i => [i.complete && i.naturalWidth > 0, i.alt])"
        )
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        tables = page.locator("table").count()
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert figures
    assert all(drawn and words for drawn, words in figures)
    assert tables >= 4
    assert overflow <= 0  # wide tables scroll inside their own frame
