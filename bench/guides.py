"""The pictures of the guides: cut-outs of a real report, and the page where labels are reviewed.

    eyebright train cifar10 --model white16 --epochs 6 --name reading
    eyebright test runs/reading --shift --risk 0.05 --coverage 0.9
    python -m bench.guides report runs/reading
    python -m bench.guides review $EYEBRIGHT_DATA/cifar10-folder/cifar10-noisy.csv

Writes ``docs/reading-*.png`` and ``docs/review.png``, and each in Chinese as ``*.zh-CN.png``. Needs
chromium, playwright and a font with Chinese characters.
"""

import argparse
import contextlib
import io
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from eyebright.report import write_report
from eyebright.run import Run

DOCS = Path(__file__).parents[1] / "docs"
ENDINGS = {"en": ".png", "zh": ".zh-CN.png"}
REVIEWED = 4000  # rows of the table of noisy labels: enough to find some, in a few minutes
# name -> what is cut out, all in one piece
CUT_OUTS = {
    "top": ("#headline", "#warnings"),
    "figures": ("main > .two >> nth=0",),
    "classes": ("section:has(+ #confusion)",),
    "confusion": ("#confusion",),
    "surest": ("#surest",),
    "believed": ("main > .two >> nth=1",),
    "shifts": ("section:has(table.shifts)",),
}


@contextlib.contextmanager
def opened(language: str, width: int, height: int, scheme: Any = "light") -> Iterator[Any]:
    """A page of a browser, light or dark."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        size: Any = {"width": width, "height": height}
        yield browser.new_page(viewport=size, color_scheme=scheme, locale=language)
        browser.close()


def save(png: bytes, path: Path) -> None:
    """Write a picture, with 256 colours: a third of the bytes."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(path, optimize=True)


def cut_out(run: Run, language: str) -> None:
    """Cut the sections of a run's report out."""
    write_report(run, language)
    with opened(language, 1180, 1300) as page:
        page.goto((run.path / "report.html").resolve().as_uri())
        for name, places in CUT_OUTS.items():
            if not all(page.locator(place).count() for place in places):
                continue  # such as shifts, which were not asked for
            boxes = [page.locator(place).bounding_box() for place in places]
            top = min(box["y"] for box in boxes) + page.evaluate("scrollY")
            bottom = max(box["y"] + box["height"] for box in boxes) + page.evaluate("scrollY")
            left, width = boxes[0]["x"], boxes[0]["width"]
            clip = {"x": left, "y": top, "width": width, "height": bottom - top}
            path = DOCS / f"reading-{name}{ENDINGS[language]}"
            save(page.screenshot(clip=clip, full_page=True), path)
    write_report(run)


def review(table: Path, language: str, folder: Path) -> None:
    """Audit the first labels of a table, and photograph the page that asks about them."""
    few = folder / "noisy.csv"
    with table.open(encoding="utf-8") as lines:
        few.write_text("".join(itertools.islice(lines, REVIEWED + 1)), encoding="utf-8")
    command = [sys.executable, "-u", "-m", "eyebright", "audit", str(few), "--root"]
    command += [str(table.parent), "--review", "--lang", language]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = next(m[0] for m in (re.search(r"http://\S+", line) for line in server.stdout) if m)
        with opened(language, 1000, 620) as page:
            page.goto(url)
            page.wait_for_load_state("networkidle")
            save(page.screenshot(), DOCS / f"review{ENDINGS[language]}")
    finally:
        server.kill()
        server.communicate()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("report", "review"))
    parser.add_argument("source", type=Path, help="the run, or the table of noisy labels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for language in ENDINGS:
            if arguments.what == "report":
                cut_out(Run(arguments.source), language)
            else:
                review(arguments.source.resolve(), language, Path(folder))


if __name__ == "__main__":
    main()
