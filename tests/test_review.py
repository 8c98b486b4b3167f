"""The review page's server: what it writes, and whom it refuses."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyebright import Dataset
from eyebright.audit import findings, review_server
from eyebright.audit.findings import Finding
from eyebright.audit.review import Review
from eyebright.audit.review_server import LARGEST_BODY, make_server, serve_review
from eyebright.audit.review_words import CHINESE, NOTES, note, words
from eyebright.data.labels import append, read
from eyebright.errors import DataError, UsageError
from eyebright.images import read_image

HOSTILE = "</script><script>alert(1)</script>"


def pictures(n: int = 12) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return Dataset(images, np.arange(n) % 3, ["cat", "dog", HOSTILE], name="pets")


def found() -> list[Finding]:
    return [
        Finding("label", "4", "dog", "cat", 0.9, "the model says cat", None),
        Finding("duplicate", "1", "dog", None, 1.0, "the same pixels", "val/2"),
        Finding("picture", "unreadable.png", "cat", None, float("nan"), "cut short", None),
        Finding("label", "2", HOSTILE, "cat", 0.5, "<b>bold</b>", None),
    ]


@pytest.fixture
def review() -> Review:
    return Review({"train": pictures(), "val": pictures(5)}, found(), "labels.csv")


@pytest.fixture
def server(review: Review) -> Iterator[Any]:
    with make_server(review) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(server: Any) -> Callable[..., tuple[int, bytes, dict[str, str]]]:
    """Asks the server; headers given replace those that the page would send, None leaves out."""
    port = server.server_address[1]

    def ask(
        path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str | None
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{port}"}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value.format(port=port))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, dict(answer.getheaders())

    return ask


@pytest.fixture
def decide(ask: Any, review: Review) -> Callable[..., int]:
    """Sends a decision as the page does."""

    def decide(wish: object, **headers: str | None) -> int:
        own = {"Origin": "http://127.0.0.1:{port}", "X_Token": review.token}
        body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
        status: int = ask("/decide", "POST", body, **(own | headers))[0]
        return status

    return decide


def wish(finding: int, decision: str, label: int | None = None, twin: bool = False) -> Any:
    return {"finding": finding, "decision": decision, "label": label, "twin": twin}


def test_each_decision_is_a_line_of_the_table(decide: Callable[..., int]) -> None:
    for one in (
        wish(0, "relabel", 0),
        wish(1, "drop", twin=True),
        wish(2, "drop"),
        wish(3, "keep"),
        wish(3, "undo"),
        wish(3, "relabel", 2),
    ):
        assert decide(one) == 200
    lines = Path("labels.csv").read_text().splitlines()
    assert lines[1:4] == ["4,relabel,cat", "val/2,drop,", "unreadable.png,drop,"]
    assert lines[4:6] == ["2,keep,", "2,undo,"]
    assert read("labels.csv").of["2"].label == HOSTILE


def test_a_decision_is_on_the_disk_before_the_answer(
    decide: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(Path("labels.csv").read_text()))
    assert decide(wish(0, "keep")) == 200
    assert synced == ["id,decision,label\n4,keep,\n"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b"[" * LARGEST_BODY,
        wish(4, "keep"),
        wish(-1, "keep"),
        wish(0, "remove"),
        wish(0, "relabel"),
        wish(0, "keep", 1),
        wish(0, "relabel", 3),
        wish(0, "relabel", -1),
        wish(0, "drop", twin=True),  # it has none
        wish(0, "keep") | {"more": 1},
        wish(0, "keep") | {"finding": True},
        wish(0, "keep") | {"finding": "0"},
        wish(0, "relabel") | {"label": "cat"},
        wish(0, "relabel") | {"label": True},
        wish(0, "keep") | {"twin": None},
    ],
)
def test_what_is_no_decision_is_refused(decide: Callable[..., int], body: object) -> None:
    assert decide(body) == 400
    assert not Path("labels.csv").exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"}, 403),
        ({"Host": None}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),  # not the name that it was asked by
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"X_Token": "guessed"}, 403),
        ({"X_Token": None}, 403),
        ({"X_Token": "\xe9"}, 403),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": str(LARGEST_BODY + 1)}, 413),
        ({"Content_Length": "9" * 30}, 411),
    ],
)
def test_only_the_page_itself_may_decide(
    decide: Callable[..., int], headers: dict[str, str | None], status: int
) -> None:
    assert decide(wish(0, "keep"), **headers) == status
    assert not Path("labels.csv").exists()
    localhost = {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"}
    assert decide(wish(0, "keep"), **localhost) == 200


def test_other_names_get_neither_page_nor_pictures(ask: Any, review: Review) -> None:
    for path in ("/", "/picture/0"):
        assert ask(path)[0] == 200
        for host in ("evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", None):
            status, content, _ = ask(path, Host=host)
            assert (status, content) == (403, b"Forbidden")
            assert review.token.encode() not in content


@pytest.mark.parametrize(
    "path",
    [
        "/labels.csv",
        "/../labels.csv",
        "/picture/../labels.csv",
        "/picture/%2e%2e/labels.csv",
        "/picture//etc/passwd",
        "/picture/17",
        "/picture/-1",
        "/picture/1.0",
        "/picture/99999999999999999999",
        "/decide",
        "//evil.example/",
        "/" + "a" * 5000,
    ],
)
def test_pictures_are_served_by_number_alone(ask: Any, path: str) -> None:
    append(Path("labels.csv"), "1", "keep")
    status, content, headers = ask(path)
    assert (status, content) == (404, b"Not Found")
    assert headers["Content-Type"].startswith("text/plain")


def test_pictures_are_the_pixels_of_the_data(ask: Any, review: Review) -> None:
    train, val = review.parts
    for number, pixels in ((0, train.images[0]), (11, train.images[11]), (14, val.images[2])):
        status, content, headers = ask(f"/picture/{number}?{review.version}")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_errors_say_little(ask: Any, server: Any) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "EVIL<b>"):
        status, content, headers = ask("/", method)
        assert status == 501
        assert content in (b"Not Implemented", b"")
        assert headers["Server"].strip() == "eyebright"
        assert "Access-Control-Allow-Origin" not in headers
    assert ask("/elsewhere", "POST", b"{}")[0] == 403
    with socket.create_connection(server.server_address, timeout=10) as connection:
        connection.sendall(b"<script>\r\n\r\n")
        answer = connection.recv(4096)
    assert b"script>" not in answer
    assert b"Traceback" not in answer
    assert server.server_address[0] == "127.0.0.1"


class Scripts(HTMLParser):
    """The scripts of a page with their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.found.append((dict(attributes), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            attributes, text = self.found.pop()
            self.found.append((attributes, text + data))


def test_the_page_is_whole_and_hostile_names_are_text(ask: Any, review: Review) -> None:
    _, content, headers = ask()
    html = content.decode()
    (kind, state), (code, _) = Scripts(html).found
    assert kind["type"] == "application/json"
    assert HOSTILE not in html
    known = json.loads(state)
    assert known["findings"][3]["given"] == known["classes"][2] == HOSTILE
    assert known["findings"][3]["note"] == "<b>bold</b>"
    assert known["findings"][2]["picture"] is None
    assert known["findings"][2]["score"] is None
    assert known["findings"][1]["twin"] == {"id": "val/2", "picture": 14, "given": HOSTILE}
    assert known["token"] == review.token
    policy = headers["Content-Security-Policy"]
    assert f"script-src 'nonce-{code['nonce']}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    other = ask()[2]["Content-Security-Policy"]
    assert policy != other  # a nonce is for one page
    assert not re.search(r"https?://|url\(|@import", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", html)


def test_examples_are_not_under_suspicion(review: Review) -> None:
    state = review.state()
    examples = dict(state["examples"])
    assert examples["dog"] == [7, 10]  # 1 and 4 are findings
    assert examples["cat"] == [0, 3, 6, 9]
    labels = review.parts[0].labels
    assert all(labels[i] == state["classes"].index(n) for n, some in examples.items() for i in some)


def test_the_page_has_what_the_table_says_by_now(ask: Any, decide: Callable[..., int]) -> None:
    decide(wish(0, "relabel", 0))
    decide(wish(1, "drop"))
    decide(wish(0, "drop"))

    def state() -> Any:
        return json.loads(Scripts(ask()[1].decode()).found[0][1])["decisions"]

    assert [(name, one["decision"]) for name, one in state()] == [("1", "drop"), ("4", "drop")]
    append(Path("labels.csv"), "1", "undo")
    assert [name for name, _ in state()] == ["4"]
    Path("labels.csv").write_text("something else\n")
    status, content, _ = ask()
    assert status == 500
    assert b"no table of decisions" in content
    assert decide(wish(0, "keep")) == 500
    assert Path("labels.csv").read_text() == "something else\n"


def test_every_text_of_the_page_has_its_chinese(ask: Any) -> None:
    html = files("eyebright.audit").joinpath("review.html").read_text(encoding="utf-8")
    used = set(re.findall(r"""\bt\((?:"([^"]+)"|'([^']+)')""", html))
    used_texts = {a or b for a, b in used} | set(
        re.findall(r'"(perhaps a [^"]+)"', html.split("const KINDS")[1].split("\n")[0])
    )
    assert used_texts == set(CHINESE)
    for english, chinese in CHINESE.items():
        assert re.findall(r"[\u4e00-\u9fff]", chinese), english
        braces = [sorted(re.findall(r"\{\w+\}", text)) for text in (english, chinese)]
        assert braces[0] == braces[1], english
    assert words("en")["keep"] == "keep"
    page = Review({"train": pictures()}, found(), "labels.csv", "zh").page("nonce")
    assert '<html lang="zh">' in page
    assert ">保留 <kbd>K</kbd>" in page


def test_what_cannot_be_reviewed_is_known_at_once(server: Any, review: Review) -> None:
    with pytest.raises(UsageError, match="--lang cannot be 'de'"):
        Review({"train": pictures()}, [], "labels.csv", "de")
    Path("labels.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="no table of decisions"):
        Review({"train": pictures()}, [], "labels.csv")
    for port in (server.server_address[1], 99999):
        with pytest.raises(UsageError, match=f"--port {port}: "):
            make_server(review, port)


def test_several_parts_may_be_reviewed_together() -> None:
    both = Review({"train": pictures(), "test": pictures(6)}, [], "labels.csv")
    assert both.number["11"] == 11
    assert both.number["test/0"] == 12
    assert len(both.number) == 18


PROGRAM = """
import sys
from unittest import mock
import numpy as np
from eyebright import Dataset
from eyebright.audit.findings import Finding
from eyebright.audit.review_server import serve_review
data = Dataset(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1], ["cat", "dog"])
serve_review({"train": data}, [Finding("label", "1", "dog", "cat", 0.9, "", None)],
    "labels.csv", open_browser=False)
"""


def test_an_interrupt_ends_it_and_says_where_the_table_is() -> None:
    append(Path("labels.csv"), "1", "drop")
    command = [sys.executable, "-u", "-c", PROGRAM]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
    ) as p:
        assert p.stdout is not None
        found = re.match(r"review 1 findings: http://(\S+)/ \(Ctrl-C ends it", p.stdout.readline())
        assert found
        connection = http.client.HTTPConnection(found[1], timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert p.returncode == 0
    assert err == ""
    assert out == "1 decided: labels.csv (use it with --labels)\n"


def test_the_browser_is_opened_where_it_should(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    done = threading.Event()
    monkeypatch.setattr(
        review_server.webbrowser, "open", lambda url: (opened.append(url), done.set())
    )

    def interrupted(server: Any) -> None:
        assert done.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(review_server._Server, "serve_forever", interrupted)
    serve_review({"train": pictures()}, found(), "labels.csv")
    assert len(opened) == 1
    assert opened[0].startswith("http://127.0.0.1:")
    assert "nothing was decided" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            findings.NEVER_SAW.format(sure=93.4, guess="{0} 狗, 5 % x", less=6.6, given="cat"),
            "没见过它的模型认为：93 % 是 {0} 狗, 5 % x，7 % 是 cat",
        ),
        (findings.SAME.format(part="test"), "test 中有完全相同的图片"),
        (findings.ALMOST.format(part="val"), "val 中有几乎相同的图片"),
        (findings.TINY.format(width=3, height=4), "太小：3×4 像素"),
        (findings.LONG.format(width=90, height=4), "太狭长：90×4 像素"),
        (findings.BLANK, "空白：通体一色"),
        (findings.DARK.format(of=12.2), "太暗：99 % 的像素低于 12（最亮为 255）"),
        (findings.BRIGHT.format(of=240.0), "太亮：95 % 的像素高于 240（最亮为 255）"),
        ("what nobody foresaw", "what nobody foresaw"),
    ],
)
def test_what_was_found_is_said_in_the_language_of_the_page(english: str, chinese: str) -> None:
    found = [Finding("label", "4", "dog", "cat", 0.9, english, None)]
    for language, said in (("en", english), ("zh", chinese)):
        review = Review({"train": pictures()}, found, "t.csv", language)
        assert review.state()["findings"][0]["note"] == said


def test_why_a_picture_cannot_be_read_is_said_in_chinese(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(pictures().pixels[0]).resize((64, 64)).save(whole, "PNG")
    contents = {"damaged or": whole.getvalue()[:900], "the file": b"", "no picture": b"hello"}
    for i, (begins, content) in enumerate(contents.items()):
        (file := tmp_path / f"{i}.png").write_bytes(content)
        with pytest.raises(DataError, match=begins) as caught:
            read_image(file, 32)
        assert note(str(caught.value), "zh").split("（")[0] in (
            c.split("（")[0] for c in NOTES.values()
        )
