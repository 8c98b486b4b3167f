"""The page and the real server together, as a user has them."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.browser.waiting import until

import eyebright
from serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("captum", reason="needs the extra explain")


def patch(grey: int) -> bytes:
    """A picture with a light or a dark patch, larger than the net takes it and not square."""
    pixels = np.full((64, 96, 3), 128, np.uint8)
    pixels[20:40, 30:50] = grey
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    generator = np.random.default_rng(0)
    images = generator.integers(108, 148, (400, 16, 16, 3), dtype=np.uint8)
    for i in range(400):
        y, x = generator.integers(0, 11, 2)
        images[i, y : y + 5, x : x + 5] = (250, 5)[i % 2]
    data = eyebright.Dataset(images, np.arange(400) % 2, ["light", "dark"])
    runs = tmp_path_factory.mktemp("runs")
    run = eyebright.train(
        data, model="white16", epochs=3, val=0.4, device="cpu", quiet=True, runs=runs, name="patch"
    )
    with served(Path(run.path)) as one:
        yield one


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    wrong: list[str] = []
    context = browser.new_context(locale="en-GB", viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = (server.url, "blob:", "data:")
    page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
    page.goto(server.url)
    yield page
    context.close()
    assert wrong == []


def choose(page: Any, **pictures: bytes) -> None:
    files = [
        {"name": f"{n}.png", "mimeType": "image/png", "buffer": b} for n, b in pictures.items()
    ]
    page.set_input_files("#files", files)


def test_a_picture_is_answered_and_explained_where_the_patch_is(page: Any) -> None:
    choose(page, light=patch(250))
    page.get_by_text("The model says").wait_for()
    assert page.locator("#one").get_by_text("light", exact=True).first.is_visible()
    until(page, "document.querySelector('#heat').naturalWidth === 16")
    encoded = page.evaluate(
        """() => {
          const heat = document.querySelector('#heat');
          const canvas = document.createElement('canvas');
          canvas.width = canvas.height = 16;
          canvas.getContext('2d').drawImage(heat, 0, 0);
          return canvas.toDataURL('image/png').split(',')[1];
        }"""
    )
    strength = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))[..., 3].astype(float)
    # The patch lies at 20 to 40 of 64 px from above, and at 14 to 34 of the centre square.
    inside = strength[4:11, 2:10].mean()
    assert inside > 2 * strength.mean()


def test_many_pictures_with_one_that_is_none(page: Any) -> None:
    choose(page, light=patch(250), dark=patch(5), words=b"no picture at all")
    page.get_by_text("3 pictures").wait_for()
    rows = page.locator("tbody tr")
    rows.nth(2).wait_for()
    text = " ".join(rows.all_inner_texts())
    assert "light" in text
    assert "dark" in text
    page.get_by_text("Errors").wait_for()


def test_the_model_is_described_as_measured(page: Any, server: Served) -> None:
    about = server.ask("GET", "/model").json
    accuracy = f"{100 * about['evaluation']['accuracy']['value']:.1f} %"
    page.get_by_text(accuracy).first.wait_for()


def test_the_api_page_loads_nothing_from_elsewhere(page: Any, server: Served) -> None:
    page.goto(f"{server.url}/docs")
    assert page.get_by_text("POST /predict").first.is_visible()
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 < width
