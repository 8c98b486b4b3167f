"""The page of `eyebright serve` in a real browser, against a server that can misbehave."""

import base64
import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.browser.served import Served
from tests.browser.waiting import until

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

PAGE = files("eyebright") / "serve" / "page"
LIGHT, DARK, MIDDLE = 230, 20, 140  # surely light, surely dark, neither
Visit = Callable[..., Any]


def png(grey: int = LIGHT, size: tuple[int, int] = (40, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, grey).save(buffer, "PNG")
    return buffer.getvalue()


def upload(name: str, data: bytes | None = None) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": png() if data is None else data}


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    if served.thread.is_alive():
        served.stop()


@pytest.fixture
def page_url(served: Served) -> str:
    return served.url


@pytest.fixture
def visit(browser: Any, page_url: str) -> Iterator[Visit]:
    """Opens the page. Afterwards nothing may have been asked of others, or have gone wrong."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_page(address: str = "", with_browser: Any = None, **settings: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | settings
        context = (with_browser or browser).new_context(**settings)
        contexts.append(context)
        page = context.new_page()

        def listen(message: Any) -> None:
            # That a request was refused or lost is said by the browser itself.
            if message.type in ("error", "warning") and "load resource" not in message.text:
                wrong.append(message.text)

        page.on("console", listen)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (page_url, "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
        page.set_default_timeout(10_000)
        page.goto(page_url + address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def choose(page: Any, *pictures: dict[str, Any]) -> None:
    page.set_input_files("#files", list(pictures))


def transfer(page: Any, name: str, data: bytes) -> Any:
    return page.evaluate_handle(
        """([name, data]) => {
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, {type: "image/png"}));
          return transfer;
        }""",
        [name, base64.b64encode(data).decode()],
    )


def answer(page: Any, text: str) -> None:
    sync_api.expect(page.locator("#answer")).to_have_text(text)


def test_both_languages_have_the_same_words_and_every_word_is_used(visit: Visit) -> None:
    words = visit().evaluate("import('/page/words.js').then(words => words.WORDS)")
    assert words["en"].keys() == words["zh"].keys()
    for key, english in words["en"].items():
        named = re.compile(r"\{\w+\}")
        assert set(named.findall(english)) == set(named.findall(words["zh"][key])), key
    code = "".join(file.read_text("utf-8") for file in PAGE.iterdir() if file.name != "words.js")
    used = re.findall(r"""\bt\("(\w+)"|data-t(?:-label)?="(\w+)\"""", code)
    assert {key for pair in used for key in pair if key} - words["en"].keys() == set()
    assert [key for key in words["en"] if not re.search(rf'(?:"|\b){key}\b', code)] == []


def test_no_markup_has_code_or_style_of_its_own() -> None:
    code = "".join(file.read_text("utf-8") for file in PAGE.iterdir())
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\b", code)
    index = (PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|https?:", index)


def test_the_empty_page_says_what_the_model_is(visit: Visit) -> None:
    page = visit()
    lead = page.locator("#lead")
    sync_api.expect(lead).to_have_text(
        "Show it to this model. It tells 3 classes apart and was right on 91.8\u00a0% of 10,000 "
        "test pictures (91.3 to 92.4\u00a0%)."
    )
    card = page.locator("#card").inner_text()
    for text in (
        "91.8\u00a0%",
        "grey",
        "82.0\u00a0% (80.0–84.0)",
        "grey taken for light",
        "61 of 1,000",
        "Of 5,000 pictures held out it answered 83\u00a0%",
        "calibrated (temperature 1.25)",
        "white16",
        "Anything else.",
    ):
        assert text in card
    assert page.title() == "shades – eyebright"
    sync_api.expect(page.locator("footer")).to_contain_text("does not keep them")


def test_a_model_of_many_classes_without_evaluation(visit: Visit, served: Served) -> None:
    served.model |= {"classes": [f"class {i}" for i in range(100)], "evaluation": None}
    served.model |= {"promise": None, "calibrated": False, "temperature": None, "explain": False}
    page = visit()
    sync_api.expect(page.locator("#lead")).to_contain_text("not evaluated yet")
    assert page.locator(".chips li").last.is_hidden()
    page.click("summary")
    assert page.locator(".chips li").last.inner_text() == "class 99"
    served.model["classes"] = ["dark", "light", "grey"]
    choose(page, upload("a.png", png(MIDDLE)))
    answer(page, "light")  # nothing was promised: no "not sure"
    sync_api.expect(page.locator("#belief")).to_contain_text("Not calibrated")
    sync_api.expect(page.locator("#rest")).to_contain_text("The other 97 classes together")
    assert page.locator("#heat-tools").is_hidden()
    assert page.locator("#bars button").count() == 0


def test_drop(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("#card:not([hidden])")
    carried = transfer(page, "dropped.png", png(DARK))
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": carried})
    assert page.locator("#over").is_visible()
    page.dispatch_event("#drop", "drop", {"dataTransfer": carried})
    answer(page, "dark")
    assert page.locator("#over").is_hidden()
    sync_api.expect(page.locator("#name")).to_have_text("dropped.png")
    bars = page.locator("#bars li")
    assert [bar.inner_text().split("\n") for bar in bars.all()] == [
        ["dark", "90.3\u00a0%"],
        ["light", "7.7\u00a0%"],
        ["grey", "2.0\u00a0%"],
    ]
    sync_api.expect(page.locator("#belief")).to_contain_text("about 90\u00a0%, about 90\u00a0%")
    sync_api.expect(page.locator("#live")).to_have_text("dropped.png: dark, 90.3\u00a0%")
    empty = page.evaluate_handle("new DataTransfer()")
    page.dispatch_event("#drop", "drop", {"dataTransfer": empty})
    sync_api.expect(page.locator("#message")).to_contain_text("That was not a file")


def test_paste(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("#card:not([hidden])")
    carried = transfer(page, "image.png", png())
    page.evaluate(
        "clipboardData => document.body.dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData, bubbles: true}))",
        carried,
    )
    answer(page, "light")


def test_not_sure_is_said_with_the_reason(visit: Visit) -> None:
    page = visit()
    choose(page, upload("a.png", png(MIDDLE)))
    answer(page, "not sure")
    why = page.locator("#why").inner_text()
    assert "It leans to light, 53.8\u00a0%" in why
    assert "Below 71\u00a0% it keeps silent, so that 95\u00a0% of the answers" in why


def test_the_heat_lies_over_the_picture_and_can_be_taken_away(visit: Visit, served: Served) -> None:
    page = visit()
    choose(page, upload("wide.png", png(LIGHT, (90, 45))))
    heat, toggle = page.locator("#heat"), page.locator("#heat-toggle")
    sync_api.expect(heat).to_be_visible()
    same = "element => JSON.stringify(element.getBoundingClientRect())"
    assert heat.evaluate(same) == page.locator("#frame").evaluate(same)
    assert heat.evaluate("heat => heat.naturalWidth") == 8
    sync_api.expect(page.locator("#cut")).to_contain_text("50\u00a0% of this picture lies outside")
    page.locator("#heat-strength").focus()
    before = heat.evaluate("heat => Number(getComputedStyle(heat).opacity)")
    page.keyboard.press("Home")
    assert heat.evaluate("heat => Number(getComputedStyle(heat).opacity)") == 0 < before
    toggle.focus()
    page.keyboard.press("Enter")
    assert heat.is_hidden()
    assert toggle.get_attribute("aria-pressed") == "false"
    page.click("#bars [data-label=dark]")
    sync_api.expect(heat).to_be_visible()
    sync_api.expect(page.locator("#heat-state")).to_have_text("What spoke for “dark”")
    page.click("#bars [data-label=light]")  # known already: not asked for twice
    sync_api.expect(page.locator("#heat-state")).to_have_text("What spoke for “light”")
    asked = [path for path in served.asked if path.startswith("/explain")]
    assert asked == ["/explain?label=light", "/explain?label=dark"]


def test_many_pictures_become_a_table_and_a_csv(
    visit: Visit, served: Served, tmp_path: Path
) -> None:
    page = visit()
    pictures = [upload(f"{i:03}.png", png(LIGHT - i % 8)) for i in range(60)]
    pictures[3] = upload("=cmd|' /C calc'!A0.png", png(DARK))
    pictures[5] = upload('comma, "quote".png', png(MIDDLE))
    pictures[7] = upload("text.jpg", b"no picture at all")
    pictures[9] = upload("huge.png", bytes(200_001))
    choose(page, *pictures)
    sync_api.expect(page.locator("#progress")).to_be_hidden(timeout=20_000)
    sync_api.expect(page.locator("#live")).to_have_text("All 60 pictures were looked at.")
    rows = page.locator("#rows tr")
    assert rows.count() == 50
    assert page.locator("#page-of").inner_text() == "1–50 of 60"
    page.click("#next")
    assert rows.count() == 10
    assert len([path for path in served.asked if path.startswith("/predict")]) == 15  # 59 by 4

    page.click("#head .probability button")
    lowest = rows.first.locator(".probability").inner_text()
    page.click("#head .probability button")
    assert page.locator("#head .probability").get_attribute("aria-sort") == "descending"
    assert float(lowest.split()[0]) < float(
        rows.first.locator(".probability").inner_text().split()[0]
    )
    page.click("#filter button:has-text('Not sure')")
    assert [text.split() for text in rows.all_inner_texts()] == [
        'comma, "quote".png not sure, leans to light 53.8 % dark 44.2 %'.split()
    ]
    assert rows.locator("img").evaluate("image => image.src").startswith("data:image/jpeg")
    page.click("#filter button:has-text('Errors')")
    assert set(rows.locator("td.error").all_inner_texts()) == {
        "no picture in a format that is read",
        "too large: 0.2 MB, the server takes 0.2 MB",
    }

    with page.expect_download() as download:
        page.click("#csv")
    data = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename == "eyebright.csv"
    assert data.startswith(b"\xef\xbb\xbf")
    assert data.count(b"\r\n") == 61
    table = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert table[0] == "picture label probability label_2 probability_2 answer error".split()
    assert table[1][:2] == ["000.png", "light"]
    assert float(table[1][2]) == pytest.approx(230 / 255 * 0.98)
    assert table[4][0] == "'=cmd|' /C calc'!A0.png"
    assert table[6][:2] == ['comma, "quote".png', "light"]
    assert table[6][5] == ""  # not sure
    assert table[8] == ["text.jpg", "", "", "", "", "", "no picture in a format that is read"]

    page.click("#filter button:has-text('Not sure')")
    page.click("button.row:has-text('comma')")
    answer(page, "not sure")
    # The table asked for two classes only.
    sync_api.expect(page.locator("#bars li")).to_have_count(3)
    page.click("#back")
    assert rows.count() == 1


def test_a_whole_folder(visit: Visit, tmp_path: Path) -> None:
    inside = tmp_path / "album" / "deeper"
    inside.mkdir(parents=True)
    for name in ("a.png", ".hidden.png", "notes.txt", "deeper/b.png"):
        (tmp_path / "album" / name).write_bytes(png())
    page = visit()
    page.wait_for_selector("#card:not([hidden])")
    page.set_input_files("#directory", str(tmp_path / "album"))
    sync_api.expect(page.locator("td.label")).to_have_count(2)
    assert sorted(page.locator("button.row").all_inner_texts()) == [
        "album/a.png",
        "album/deeper/b.png",
    ]


def test_stop_and_go_on(visit: Visit, served: Served) -> None:
    page = visit()
    served.slowly = 0.5
    choose(page, *(upload(f"{i}.png") for i in range(20)))
    sync_api.expect(page.locator("#count")).to_have_text(re.compile("^(4|8) of 20"))
    page.click("#stop")
    sync_api.expect(page.locator("#stop")).to_have_text("Go on")
    done = page.locator("#count").inner_text()
    page.wait_for_timeout(700)
    assert page.locator("#count").inner_text() == done
    served.slowly = 0
    page.click("#stop")
    sync_api.expect(page.locator("#progress")).to_be_hidden()
    assert page.locator("td.label").count() == 20


def test_a_wrong_file_and_one_too_large(visit: Visit, served: Served) -> None:
    page = visit(locale="zh-CN")
    choose(page, upload("wide.png", png(LIGHT, (90, 45))))
    sync_api.expect(page.locator("#cut")).to_be_visible()
    choose(page, upload("text.jpg", b"no picture at all"))
    answer(page, "没有回答")
    sync_api.expect(page.locator("#unseen")).to_be_visible()
    assert page.locator("#cut").is_hidden()  # what was said of the picture before
    sync_api.expect(page.locator("#why")).to_have_text(
        "这不是模型能读取的图片。服务器的说明：no picture in a format that is read"
    )
    before = len(served.asked)
    choose(page, upload("huge.png", bytes(200_001)))
    sync_api.expect(page.locator("#message")).to_contain_text("“huge.png”太大了")
    assert len(served.asked) == before


@pytest.mark.parametrize(
    ("status", "says"),
    [(403, "does not allow"), (413, "too large"), (500, "failed"), (418, "understand (418)")],
)
def test_what_the_server_refuses(visit: Visit, served: Served, status: int, says: str) -> None:
    served.refusals = [(status, {}, "because <b>so</b>")]
    page = visit()
    choose(page, upload("a.png"))
    answer(page, "no answer")
    why = page.locator("#why").inner_text()
    assert says in why
    assert "because <b>so</b>" in why


def test_a_busy_server_is_waited_for(visit: Visit, served: Served) -> None:
    served.refusals = [(429, {"Retry-After": "1"}, "slow down"), (503, {"Retry-After": "1"}, "")]
    page = visit()
    choose(page, upload("a.png"))
    sync_api.expect(page.locator("#waiting")).to_have_text(
        "The server is busy. Trying again in 1 s …"
    )
    answer(page, "light")
    assert page.locator("#waiting").is_hidden()
    assert served.refusals == []


def test_a_server_that_is_gone_is_waited_for(visit: Visit, served: Served) -> None:
    page = visit()
    page.wait_for_selector("#card:not([hidden])")
    served.stop()
    choose(page, upload("a.png"))
    sync_api.expect(page.locator("#gone")).to_be_visible()
    served.start()
    answer(page, "light")  # by itself
    sync_api.expect(page.locator("#gone")).to_be_hidden()


def test_a_token_comes_with_the_address_or_is_asked_for(visit: Visit, served: Served) -> None:
    served.token = "s3cret"
    page = visit("#token=s3cret")
    page.wait_for_selector("#card:not([hidden])")
    assert page.url == served.url
    choose(page, upload("a.png"))
    answer(page, "light")
    page.reload()
    page.wait_for_selector("#card:not([hidden])")

    other = visit()
    other.fill("#token", "wrong")
    other.keyboard.press("Enter")
    sync_api.expect(other.locator("#ask-says")).to_contain_text("did not take this token")
    other.fill("#token", "s3cret")
    other.click("#give")
    other.wait_for_selector("#card:not([hidden])")
    assert other.locator("#ask").is_hidden()

    third = visit()
    third.click("#give-not")
    sync_api.expect(third.locator("#message")).to_contain_text("asks for a token")


def test_leaks_stand_beside_the_accuracy(visit: Visit, served: Served) -> None:
    assert visit().locator("#card .warning").count() == 0
    served.model["evaluation"]["trained_on_too"] = 1234
    card = visit().locator("#card")
    sync_api.expect(card.locator(".warning")).to_contain_text("It was trained on 1,234 of these")
    chinese = visit(locale="zh-CN").locator("#card .warning")
    sync_api.expect(chinese).to_contain_text("其中 1,234 张与训练图片")


def test_hostile_names_are_shown_as_text(visit: Visit, served: Served) -> None:
    hostile = '<img src=x onerror="document.title=1">'
    served.model["classes"] = ["dark", hostile, "</script><script>alert(1)</script>"]
    served.model["evaluation"]["weakest"][0]["class"] = hostile
    served.model["name"] = "<b>run</b>"
    page = visit()
    choose(page, upload(f"{hostile}.png"))
    answer(page, hostile)
    sync_api.expect(page.locator("#name")).to_have_text(f"{hostile}.png")
    sync_api.expect(page.locator("#heat")).to_be_visible()
    choose(page, upload("a.png"), upload(f"{hostile}2.png"))
    sync_api.expect(page.locator("td.label")).to_have_text([hostile, hostile])
    assert page.title() == "<b>run</b> – eyebright"
    assert page.locator("main b, [onerror]").count() == 0


def test_history_shows_a_picture_again_without_asking(visit: Visit, served: Served) -> None:
    page = visit()
    for name, grey in (("first.png", LIGHT), ("second.png", DARK)):
        choose(page, upload(name, png(grey)))
        sync_api.expect(page.locator("#live")).to_contain_text(name)
    sync_api.expect(page.locator("#heat")).to_be_visible()
    before = len(served.asked)
    strip = page.locator("#strip button")
    assert strip.all_inner_texts() == ["dark", "light"]
    page.get_by_role("button", name="Show again: first.png, light").click()
    answer(page, "light")
    sync_api.expect(strip.nth(1)).to_have_attribute("aria-current", "true")
    sync_api.expect(page.locator("#heat")).to_be_visible()
    assert [path for path in served.asked[before:] if "predict" in path] == []
    page.click("#clear")
    assert page.locator("#history, #one").first.is_hidden()
    assert page.locator("body").get_attribute("data-view") == "empty"
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]


def test_the_language_is_the_browsers_and_can_be_changed(visit: Visit) -> None:
    page = visit(locale="zh-CN")
    assert page.locator("h1").inner_text() == "你的图片里是什么？"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    choose(page, upload("a.png", png(MIDDLE)))
    answer(page, "不确定")
    page.click("#en")
    answer(page, "not sure")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("#heat-toggle").inner_text() == "Heat map"
    english = visit(locale="fr-FR")
    assert english.locator("h1").inner_text() == "What is in your picture?"


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("#card:not([hidden])")
    reached = []
    with page.expect_file_chooser() as chooser:
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || 'skip'"))
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            if reached[-1] == "choose":
                page.keyboard.press("Enter")
                break
    assert reached == ["skip", "en", "zh", "choose"]
    chooser.value.set_files([upload("a.png")])
    answer(page, "light")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.label") == "dark":
            break
    page.keyboard.press("Space")
    sync_api.expect(page.locator("#heat-state")).to_have_text("What spoke for “dark”")


@pytest.mark.parametrize("width", [320, 390, 800])
def test_narrow_screens_do_not_scroll_sideways(visit: Visit, served: Served, width: int) -> None:
    long = "a_class_with_a_name_that_does_not_end_" * 3
    served.model["classes"] = ["dark", long, "grey"]
    page = visit(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    page.wait_for_selector("#card:not([hidden])")
    assert page.evaluate(fits)
    choose(page, upload("picture_" * 30 + ".png", png(LIGHT, (80, 40))))
    answer(page, long)
    assert page.evaluate(fits)
    choose(page, upload("a.png"), upload("picture_" * 30), upload("b.png", b"text"))
    sync_api.expect(page.locator("#progress")).to_be_hidden()
    assert page.evaluate(fits)
    assert page.evaluate("innerWidth") == width


CONTRAST = """() => {
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!text || !element.checkVisibility()) continue;
    if (element.closest(":disabled, .hear, .skip, noscript")) continue;
    let behind = element;
    let back = numbers(getComputedStyle(behind).backgroundColor);
    while (back.length === 4 && back[3] === 0) {
      behind = behind.parentElement;
      back = numbers(getComputedStyle(behind).backgroundColor);
    }
    const [a, b] = [luminance(numbers(getComputedStyle(element).color)), luminance(back)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${element.textContent}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_heard(visit: Visit, scheme: str) -> None:
    page = visit(color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector("#card:not([hidden])")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}[scheme]

    def check() -> None:
        assert page.evaluate(CONTRAST) == []
        heard = page.locator("body").aria_snapshot()
        for landmark in ("banner", "main", "contentinfo"):
            assert len(re.findall(rf"^\s*- {landmark}\b", heard, re.M)) == 1
        assert len(re.findall(r"\[level=1\]", heard)) == 1
        nameless = r"- (?:button|link|slider|textbox|progressbar|region|img|group)(?! \").*"
        assert re.findall(nameless, heard) == []
        assert page.evaluate(
            "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
        ) == (page.locator("[id]").count())

    check()
    choose(page, upload("a.png", png(MIDDLE, (80, 40))))
    sync_api.expect(page.locator("#heat")).to_be_visible()
    check()
    choose(page, upload("a.png"), upload("b.png", b"text"), upload("c.png", png(MIDDLE)))
    sync_api.expect(page.locator("#progress")).to_be_hidden()
    check()
    assert page.get_by_role("columnheader").count() == 4
    assert page.get_by_role("rowheader").count() == 3


def test_a_photo_from_the_camera(browser: Any, visit: Visit) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    fake = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    with_camera = browser.browser_type.launch(
        executable_path=program, args=[*fake, "--use-fake-ui-for-media-stream"]
    )
    page = visit(with_browser=with_camera)
    page.click("#camera")
    sync_api.expect(page.locator("#shoot")).to_be_enabled()
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.click("#shoot")
    sync_api.expect(page.locator("#live")).to_contain_text("Camera")
    assert page.locator("#picture").evaluate("image => image.naturalWidth") > 300
    until(page, "window.track.readyState === 'ended'")
    page.click("#camera")
    sync_api.expect(page.locator("#shoot")).to_be_enabled()
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("#lens")).to_be_hidden()
    until(page, "window.track.readyState === 'ended'")
    with_camera.close()

    refused = browser.browser_type.launch(
        executable_path=program, args=[*fake, "--deny-permission-prompts"]
    )
    page = visit(with_browser=refused)
    page.click("#camera")
    sync_api.expect(page.locator("#lens-says")).to_contain_text("No camera without your permission")
    assert page.locator("#shoot").is_disabled()
    page.click("#put-away")
    refused.close()


def test_cells_of_a_csv(visit: Visit) -> None:
    cells = [
        "=1+1",
        "+1",
        "-1",
        "@SUM",
        "\t=1",
        "a,b",
        'say "hi"',
        "two\nlines",
        "猫",
        None,
        0.5,
        -1,
    ]
    made = visit().evaluate(
        "cells => import('/page/csv.js').then(({cell}) => cells.map(cell))", cells
    )
    assert made == [
        "'=1+1",
        "'+1",
        "'-1",
        "'@SUM",
        "'\t=1",
        '"a,b"',
        '"say ""hi"""',
        '"two\nlines"',
        "猫",
        "",
        "0.5",
        "-1",
    ]


def test_classes_that_are_numbers_keep_their_order(visit: Visit, served: Served) -> None:
    served.model["classes"] = ["3", "7", "1"]  # objects would put 1 and 3 before 7
    page = visit()
    choose(page, upload("a.png"))
    page.get_by_text("The model says").wait_for()
    assert page.locator("#answer").inner_text() == "7"
    labels = page.locator("#bars .label").all_inner_texts()
    assert labels[0] == "7"
    choose(page, upload("a.png"), upload("b.png", png(DARK)))
    with page.expect_download() as download:
        page.locator("#csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"))))
    assert [(row["label"], row["label_2"]) for row in rows] == [("7", "3"), ("3", "7")]
