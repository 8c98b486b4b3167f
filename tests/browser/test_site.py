"""The documentation site: built without a warning, says what the program says, can be searched."""

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import eyebright
from eyebright.cli import VERBS

pytest.importorskip("material", reason="needs the extra docs")
pytest.importorskip("jieba", reason="needs the extra docs")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet, with which no warning is counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def text_of(page: Path) -> str:
    """What a reader sees of a page, on one line."""
    html = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


def test_every_page_is_there_in_both_languages(site: Path) -> None:
    pages = {path.relative_to(site) for path in site.rglob("index.html")}
    english = {page for page in pages if page.parts[0] != "zh-CN"}
    assert {Path("zh-CN", page) for page in english} == pages - english
    names = {path.name.partition(".")[0] for path in (ROOT / "docs").glob("*.md")}
    assert {page.parts[0] for page in english} >= names
    for verb in VERBS:
        assert Path("verbs", verb.__name__, "index.html") in english


def test_the_home_page_is_the_readme(site: Path) -> None:
    first = "Train image classifiers that see clearly and say how sure they are:"
    assert first in text_of(site / "index.html")
    assert "图像分类器" in text_of(site / "zh-CN" / "index.html")


@pytest.mark.parametrize("language", ["", "zh-CN"])
def test_a_verbs_page_says_what_its_help_says(
    site: Path, language: str, eyebright_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for verb, example in VERBS.items():
        text = text_of(site / language / "verbs" / verb.__name__ / "index.html")
        assert example in text
        _, said, _ = eyebright_says(verb.__name__, "--help")
        options = re.findall(r"^│ (--[a-z-]+)", said, re.MULTILINE)
        assert options.pop() == "--help"
        for option in options:
            assert option in text
        assert " ".join(str(verb.__doc__).split()) in text


def test_the_reference_has_each_public_name(site: Path) -> None:
    html = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in eyebright.__all__:
        assert f'id="eyebright.{name}"' in html


def test_the_readers_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        fetched = re.findall(r'(?:<(?:script|img|iframe)[^>]*src|<link[^>]*href)="([^"]+)"', html)
        assert [url for url in fetched if re.match(r"(https?:)?//", url)] == []


def test_no_link_leads_nowhere(site: Path) -> None:
    for page in site.rglob("index.html"):
        html = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^":#?]+)[^":]*"', html):
            file = page.parent / target
            assert (file / "index.html" if target.endswith(("/", ".")) else file).exists(), target


@pytest.mark.parametrize(
    ("start", "typed", "found"),
    [
        ("", "calibrated probabilities", "honest/"),
        ("", "embed", "verbs/embed/"),
        ("zh-CN/", "分片", "zh-CN/shards/"),
        ("zh-CN/", "校准", "zh-CN/honest/"),
    ],
)
def test_search_finds_pages(browser: Any, address: str, start: str, typed: str, found: str) -> None:
    page = browser.new_page()
    errors: list[str] = []
    elsewhere: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:")) else elsewhere.append(r.url),
    )
    page.goto(address + start)
    page.click(".md-search__input")
    page.keyboard.type(typed, delay=30)
    page.keyboard.press("Shift")  # the last key of an input method
    page.wait_for_selector(".md-search-result__link", timeout=15_000)
    links = page.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.href)")
    assert found in [link.removeprefix(address).split("?")[0] for link in links[:12]]
    assert not errors
    assert not elsewhere
    page.close()


def test_the_switch_of_languages_stays_on_the_page(browser: Any, address: str) -> None:
    page = browser.new_page()
    for here, there in (("honest/", "zh-CN/honest/"), ("", "zh-CN/")):
        page.goto(address + here)
        link = page.locator("a[hreflang='zh-CN'].md-select__link")
        assert link.evaluate("a => a.href") == address + there
        page.goto(address + there)
        link = page.locator("a[hreflang='en'].md-select__link")
        assert link.evaluate("a => a.href") == address + here
    page.close()


def test_a_long_page_fits_a_phone_in_the_dark(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="dark")
    page.goto(address + "architecture/")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 80
    page.close()
