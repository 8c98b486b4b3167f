"""The report in a real browser: it opens, answers clicks and asks nobody for anything."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eyebright


@pytest.fixture
def report(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    middle = 60 + 30 * labels[:, None, None, None] + 15 * generator.normal(size=(300, 1, 1, 1))
    pixels = np.clip(middle + generator.normal(0, 10, (300, 16, 16, 3)), 0, 255).astype(np.uint8)
    data = eyebright.Dataset(pixels, labels, ["dark", "grey", "light"], name="shades")
    run = eyebright.train(
        data, epochs=3, batch_size=16, model="white16", device="cpu", quiet=True, runs=tmp_path
    )
    return run.path / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_report_works(browser: Any, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors: list[str] = []
    requests: list[str] = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else 0
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert page.locator(".headline").inner_text().endswith("%")
    assert page.evaluate("document.documentElement.classList.contains('dark')") == (
        scheme == "dark"
    )
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.click("#theme")
    cell = page.locator("[data-cell]").first
    panel = page.locator(f"#cell-{cell.get_attribute('data-cell')}")
    assert panel.is_hidden()
    cell.click()
    assert panel.is_visible()
    assert panel.locator("img").first.evaluate("image => image.naturalWidth") > 0
    other = page.locator("[data-cell]").last
    other.click()
    assert panel.is_hidden()
    other.click()
    assert page.locator("[id^=cell-]:visible").count() == 0
    # Nothing but a table within its own frame is wider than the window.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # On paper it is dark on light, whatever the screen was.
    page.emulate_media(media="print")
    dark_on_light = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle("
        "document.querySelector('#headline')).backgroundColor]"
    )
    assert dark_on_light == ["rgb(27, 36, 48)", "rgb(255, 255, 255)"]
    assert not errors
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    page.close()
