"""The review page in a real browser: driven by keyboard, through a reload and a crash."""

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

# Grey pictures, each of another shade; the class "<b>" would show whether names become markup.
PROGRAM = """
import sys
import numpy as np
from eyebright import Dataset
from eyebright.audit.findings import Finding
from eyebright.audit.review_server import serve_review
n, port, language, count = 40, int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
classes = ["cat", "dog", "<b>bold</b>", *(f"class {i}" for i in range(count - 3))]
pixels = np.arange(n)[:, None, None, None] * 6 + np.zeros((n, 12, 12, 3))
ids = [f"{i}.png" for i in range(n)]
data = Dataset(pixels.astype(np.uint8), np.arange(n) % 3, classes, ids=ids)
findings = [
    Finding("label", f"{i}.png", classes[i % 3], classes[(i + 1) % 3], 0.99 - i / 100, f"note {i}")
    for i in range(8)
]
findings.append(Finding("duplicate", "20.png", "<b>bold</b>", None, 1.0, "same pixels", "30.png"))
findings.append(Finding("picture", "gone.png", "cat", None, 0.5, "cut short"))
serve_review(
    {"train": data}, findings, "labels.csv", port=port, language=language, open_browser=False
)
"""


class Server:
    """The review in a process of its own, which can be killed."""

    def __init__(self, language: str = "en", classes: int = 12):
        self.settings, self.port = [language, str(classes)], 0
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-u", "-c", PROGRAM, str(self.port), *self.settings]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.process.stdout.readline())
        assert found
        self.url, self.port = found[0], int(found[1])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.kill()


class Reviewer:
    """A page, what it asked for and what it complained of."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light"):
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_default_timeout(10_000)
        self.page.goto(url)

    def press(self, key: str, then: str) -> None:
        """Press a key and wait until the page says that it is at another picture, or the same."""
        self.page.keyboard.press(key)
        self.at(then)

    def at(self, position: str) -> None:
        sync_api.expect(self.page.locator("#position")).to_have_text(position)

    def badge(self, text: str) -> None:
        sync_api.expect(self.page.locator("#badge")).to_have_text(text)


def decided() -> list[tuple[str, ...]]:
    with Path("labels.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def test_it_is_driven_by_keyboard_and_survives_a_crash(browser: Any, server: Server) -> None:
    one = Reviewer(browser, server.url)
    page = one.page
    one.at("1 of 10")
    assert page.locator("#given").inner_text() == "cat"
    assert page.locator("#suggested").inner_text() == "dog"
    assert page.locator("#note").inner_text() == "note 0"
    image = page.locator("#picture")
    assert image.evaluate("image => image.naturalWidth") == 12
    assert image.evaluate("image => image.width") > 300
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"

    one.press("k", "2 of 10")
    assert decided() == [("0.png", "keep", "")]
    one.press("r", "3 of 10")
    assert decided()[-1] == ("1.png", "relabel", "<b>bold</b>")
    one.press("Enter", "4 of 10")
    assert decided()[-1] == ("2.png", "relabel", "cat")
    one.press("d", "5 of 10")
    assert decided()[-1] == ("3.png", "drop", "")
    one.press("3", "6 of 10")
    assert decided()[-1] == ("4.png", "relabel", "<b>bold</b>")

    page.keyboard.press("l")
    page.locator("#search").wait_for()
    page.keyboard.type("SS 7")
    assert page.locator("#choices li").all_inner_texts() == ["class 7"]
    one.press("Enter", "7 of 10")
    assert decided()[-1] == ("5.png", "relabel", "class 7")

    one.press("u", "6 of 10")
    assert decided()[-1] == ("5.png", "undo", "")
    assert page.locator("#badge").is_hidden()
    one.press("u", "5 of 10")
    assert decided()[-1] == ("4.png", "undo", "")
    one.press("ArrowLeft", "4 of 10")
    one.badge("dropped")
    one.press("k", "5 of 10")  # another decision on the same picture
    one.press("u", "4 of 10")  # and back to the one before it
    one.badge("dropped")
    assert decided()[-2:] == [("3.png", "keep", ""), ("3.png", "drop", "")]
    sync_api.expect(page.locator("#decided")).to_have_text("4 decided")

    page.reload()
    one.at("4 of 10")
    one.badge("dropped")
    assert page.locator("#decided").inner_text() == "4 decided"
    one.press("ArrowLeft", "3 of 10")
    one.badge("now: cat")
    one.press("u", "4 of 10")  # the latest decision, which was made before the reload
    assert decided()[-1] == ("3.png", "undo", "")
    assert one.errors == []

    server.kill()
    page.keyboard.press("d")
    alert = page.locator("#alert")
    sync_api.expect(alert).to_contain_text("Not saved: nothing answers")
    one.at("4 of 10")  # it does not go on
    assert page.locator("#badge").is_hidden()
    with Path("labels.csv").open("ab") as file:
        file.write(b"6.png,relab")  # as a crash may leave it
    server.start()
    page.keyboard.press("d")
    sync_api.expect(alert).to_contain_text("reload this page")
    one.errors.clear()
    page.reload()
    one.at("4 of 10")
    assert page.locator("#decided").inner_text() == "3 decided"
    one.press("d", "5 of 10")
    assert decided()[-1] == ("3.png", "drop", "")

    for key, place in (("k", "6"), ("k", "7"), ("k", "8"), ("k", "9")):
        one.press(key, f"{place} of 10")
    assert page.locator("[data-do=take]").is_hidden()
    assert "30.png" in page.locator("#twin figcaption").inner_text()
    one.press("t", "10 of 10")
    assert decided()[-1] == ("30.png", "drop", "")
    assert page.locator("#one .missing").is_visible()
    page.keyboard.press("d")
    sync_api.expect(page.locator("#done")).to_be_visible()  # its text is there before
    assert page.locator("#done").inner_text().startswith("All of them are decided")
    assert decided()[-1] == ("gone.png", "drop", "")
    assert page.locator("b", has_text="bold").count() == 0  # no name became markup
    assert one.errors == []
    assert [url for url in one.requests if not url.startswith((server.url, "data:"))] == []
    page.close()


def test_what_is_typed_fast_is_written_in_order(browser: Any, server: Server) -> None:
    one = Reviewer(browser, server.url)
    for key in "kkdru":
        one.page.keyboard.press(key)
    for _ in range(200):  # the page looks the same after three keys as after five
        if Path("labels.csv").exists() and len(decided()) == 5:
            break
        one.page.wait_for_timeout(50)
    one.at("4 of 10")
    sync_api.expect(one.page.locator("#decided")).to_have_text("3 decided")
    assert decided() == [
        ("0.png", "keep", ""),
        ("1.png", "keep", ""),
        ("2.png", "drop", ""),
        ("3.png", "relabel", "dog"),
        ("3.png", "undo", ""),
    ]
    one.page.keyboard.down("d")
    one.page.keyboard.down("d")  # held down: no decision on what nobody has seen
    one.page.keyboard.up("d")
    one.at("5 of 10")
    one.press("ArrowRight", "6 of 10")
    assert decided()[5:] == [("3.png", "drop", "")]
    one.page.keyboard.press("Control+d")
    one.page.keyboard.press("x")
    one.press("ArrowRight", "7 of 10")
    assert len(decided()) == 6
    assert one.errors == []
    one.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_works_by_touch_in_chinese_with_few_classes(
    browser: Any, width: int, scheme: str
) -> None:
    server = Server("zh", 3)
    one = Reviewer(browser, server.url, width, scheme)
    page = one.page
    one.at("第 1 张，共 10 张")
    assert page.evaluate("document.documentElement.classList.contains('dark')") == (
        scheme == "dark"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width > 900:  # all of it at one look
        assert page.evaluate("document.documentElement.scrollHeight") <= 800
    page.click("[data-do=keep]")
    one.at("第 2 张，共 10 张")
    page.click("[data-do=take]")
    one.at("第 3 张，共 10 张")
    page.keyboard.press("Enter")  # is the suggestion's key again, not the button's
    one.at("第 4 张，共 10 张")
    page.click("#chips button >> nth=1")
    one.at("第 5 张，共 10 张")
    page.click("#chips button:last-child")
    page.click("#choices li >> nth=0")
    one.at("第 6 张，共 10 张")
    page.click("#chips button:last-child")
    page.click("#cancel")
    page.click("[data-do=undo]")
    one.at("第 5 张，共 10 张")
    page.click("#strip button >> nth=1")
    one.at("第 2 张，共 10 张")
    one.badge("改为：<b>bold</b>")
    assert [row[:2] for row in decided()] == [
        ("0.png", "keep"),
        ("1.png", "relabel"),
        ("2.png", "relabel"),
        ("3.png", "relabel"),
        ("4.png", "relabel"),
        ("4.png", "undo"),
    ]
    assert decided()[3][2] == "dog"
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert one.errors == []
    page.close()
    server.kill()
