"""A model behind HTTP: what it answers, and what it does not put up with."""

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.load import Mixed
from PIL import Image

import eyebright
from eyebright.classifier import Classifier
from eyebright.errors import UsageError
from eyebright.images import read_image
from eyebright.serve.net import Net, Wanted
from serving import HEADERS, Reply, Served, read_all, served

CLASSES = ("cat", "<b>dog</b>")
SMALL_BODY = 1 << 20


def png(image: Image.Image | np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, form)
    return file.getvalue()


def shade(value: int, side: int = 16, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 20, (side, side, 3))
    return png(np.clip(value + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells dark from light, tested."""
    generator = np.random.default_rng(0)
    middles = np.tile([40, 210], 250)[:, None, None, None]
    images = np.clip(middles + generator.integers(-30, 30, (500, 16, 16, 3)), 0, 255)
    data = eyebright.Dataset(images.astype(np.uint8), np.arange(500) % 2, list(CLASSES))
    folder = tmp_path_factory.mktemp("runs")
    trained = eyebright.train(
        data,
        model="white16",
        epochs=2,
        val=0.4,
        device="cpu",
        quiet=True,
        runs=folder,
        name="shades",
    )
    other = np.clip(images[:80] + generator.integers(-9, 9, (80, 16, 16, 3)), 0, 255)
    trained.test(eyebright.Dataset(other.astype(np.uint8), np.arange(80) % 2, list(CLASSES)))
    return trained.path


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Served]:
    with served(run, "--max-body", str(SMALL_BODY)) as one:
        yield one


def test_a_picture_gets_what_the_library_says(server: Served, run: Path) -> None:
    reply = server.predict(shade(40))
    (row,) = reply.json["predictions"]
    said = Classifier.load(run).predict([shade(40)])[0]
    assert reply.status == 200
    assert row["picture"] is None
    assert row["prediction"] == said.label == "cat"
    assert row["probabilities"] == pytest.approx(said.probabilities, abs=1e-6)
    assert list(row["probabilities"]) == list(said.probabilities)
    assert row["calibrated"] is True


def test_a_form_holds_many_and_says_of_each(server: Served) -> None:
    files = [("dark.png", shade(40)), ("no.png", b"words"), ("light.png", shade(210))]
    dark, bad, light = server.predict_form(files, "/predict?top=1").json["predictions"]
    assert (dark["picture"], dark["prediction"]) == ("dark.png", "cat")
    assert bad == {"picture": "no.png", "error": bad["error"]}
    assert "no picture" in bad["error"]
    assert list(light["probabilities"]) == [light["prediction"]] == ["<b>dog</b>"]


def test_a_camera_s_turned_picture_is_turned(server: Served, run: Path) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    turned = read_image(file.getvalue(), 16)
    assert not np.array_equal(turned, read_image(png(pixels), 16))
    said = Classifier.load(run).predict_proba([turned])[0]
    (row,) = server.predict(file.getvalue()).json["predictions"]
    assert [row["probabilities"][name] for name in CLASSES] == pytest.approx(said, abs=1e-6)


def test_the_model_says_what_it_is(server: Served) -> None:
    about = server.ask("GET", "/model").json
    assert about["name"] == "shades"
    assert about["classes"] == list(CLASSES)
    assert about["evaluation"]["split"] == "test"
    assert about["evaluation"]["n"] == 80
    assert about["evaluation"]["trained_on_too"] == 0
    accuracy = about["evaluation"]["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert about["limits"]["body_bytes"] == SMALL_BODY
    assert about["promise"]["risk"] == 0.05


def test_sure_enough_is_an_answer(server: Served) -> None:
    threshold = server.ask("GET", "/model").json["promise"]["threshold"]
    grey = [server.predict(shade(v, seed=v)).json["predictions"][0] for v in range(0, 256, 5)]
    for row in grey:
        wanted = row["prediction"] if row["probability"] >= threshold else None
        assert row["answer"] == wanted


def test_a_heat_map_is_a_picture_to_lay_over_the_centre_square(server: Served) -> None:
    pytest.importorskip("captum")
    for path in ("/explain", "/explain?label=%3Cb%3Edog%3C/b%3E"):
        reply = server.predict(shade(120, side=40), path)
        assert reply.status == 200
        assert reply.headers["content-type"] == "image/png"
        heat = Image.open(io.BytesIO(reply.body))
        assert (heat.mode, heat.size) == ("RGBA", (16, 16))
    assert server.predict(b"no picture", "/explain").status == 422
    assert (
        server.predict_form([("a.png", shade(40)), ("b.png", shade(40))], "/explain").status == 400
    )


def test_lives_and_is_ready_and_counts(server: Served) -> None:
    assert server.ask("GET", "/healthz").status == 200
    assert server.ask("GET", "/readyz").json == {"status": "ready"}
    before = server.figure('eyebright_pictures_total{outcome="predicted"}')
    server.predict(shade(40))
    server.predict(b"no picture")
    assert server.figure('eyebright_pictures_total{outcome="predicted"}') == before + 1
    assert server.figure('eyebright_requests_total{path="/predict",status="422"}') >= 1
    assert server.figure("eyebright_waiting_pictures") == 0


def test_explains_its_routes(server: Served) -> None:
    api = server.ask("GET", "/openapi.json").json
    assert {"/predict", "/explain", "/model", "/healthz", "/readyz", "/metrics"} <= set(
        api["paths"]
    )
    page = server.ask("GET", "/docs")
    text = page.body.decode()
    assert page.headers["content-type"].startswith("text/html")
    for path in api["paths"]:
        assert path in text
    assert "<script" not in text  # nothing to load from elsewhere, nothing to run
    assert "http://cdn" not in text
    assert "https://" not in text


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/predict", HEADERS, b"", 422),
        ("/predict", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 422),
        ("/predict", {"Content-Type": "multipart/form-data"}, b"abc", 400),
        ("/predict", {"Content-Type": "multipart/form-data; boundary=x"}, b"\x00\xff" * 99, 400),
        ("/predict?top=0", HEADERS, shade(1), 422),
        ("/predict?top=x", HEADERS, shade(1), 422),
        ("/explain?label=bird", HEADERS, shade(1), 422),
        ("/nothing", HEADERS, b"x", 404),
        ("/model", HEADERS, b"x", 405),
    ],
)
def test_wrong_requests_are_told_why(
    server: Served, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    reply = server.ask("POST", path, body, headers)
    assert reply.status == status
    assert isinstance(reply.json["error"], str)


def test_head_is_answered_like_get_without_a_body(server: Served) -> None:
    for path in ("/", "/model", "/healthz"):
        reply = server.ask("HEAD", path)
        assert (reply.status, reply.body) == (200, b"")
        assert int(reply.headers["content-length"]) == len(server.ask("GET", path).body)


def test_requests_one_behind_the_other_are_all_answered(server: Served) -> None:
    content = shade(40)
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
    with server.connect() as connection:
        ask = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection.sendall(ask + head.encode() + content[:20])
        time.sleep(1.5)  # the first is answered meanwhile, and the second still on its way
        connection.sendall(content[20:])
        connection.settimeout(5)
        said = b""
        while b"predictions" not in said:
            part = connection.recv(65536)
            assert part, said
            said += part
    assert said.count(b"HTTP/1.1 200") == 2


def test_forms_are_known_however_they_are_written(server: Served) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="p"; filename="a"\r\n\r\n' + shade(40)
    kind = {"Content-Type": "Multipart/Form-Data; boundary=x"}
    assert server.ask("POST", "/predict", body + b"\r\n--x--\r\n", kind).status == 200


def test_no_heat_where_nobody_wants_to_wait_for_it(run: Path) -> None:
    with served(run, "--no-heat") as server:
        assert server.ask("GET", "/model").json["explain"] is False
        assert server.predict(shade(40), "/explain").status == 501


def test_too_many_pictures_in_a_form(server: Served) -> None:
    reply = server.predict_form([(f"{i}.png", b"x") for i in range(300)])
    assert reply.status == 400
    assert "256" in reply.json["error"]


def bomb(side: int) -> bytes:
    """A black PNG of side × side pixels, in few bytes."""

    def part(name: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(name + content)
        return len(content).to_bytes(4) + name + content + sum_.to_bytes(4)

    head = side.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


def test_battery_27_bombs_and_other_formats_are_refused_before_decoding(server: Served) -> None:
    few = np.zeros((8, 8), np.uint8)
    fits = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
    before = server.peak_memory()
    started = time.monotonic()
    for content in (
        bomb(60_000),
        bomb(6000),
        png(few, "TIFF"),
        eps,
        fits,
        b"GIF89a",
        b"\xff\xd8\xff",
    ):
        reply = server.predict(content)
        assert reply.status in (413, 415, 422)
        assert reply.json["error"]
    assert time.monotonic() - started < 5
    assert server.peak_memory() - before < 100 << 20


def test_battery_27_bombs_within_the_limit_hold_up_nobody(server: Served) -> None:
    content = png(Image.new("1", (4000, 4000)))
    assert len(content) < 8192  # fewer bytes than a photograph of 32 px may have
    before = server.peak_memory()
    replies: list[Reply] = []
    bombs = [
        threading.Thread(target=lambda: replies.append(server.predict(content))) for _ in range(12)
    ]
    for thread in bombs:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in bombs):
        started = time.monotonic()
        assert server.predict(shade(40)).status in (200, 429)
        slowest = max(slowest, time.monotonic() - started)
    assert {reply.status for reply in replies} <= {200, 429, 503}
    assert slowest < 1
    assert server.peak_memory() - before < 400 << 20


def test_battery_25_bodies_without_end_are_refused_at_once(server: Served) -> None:
    before = server.peak_memory()
    started = time.monotonic()
    with server.connect() as connection:
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(1000))
        said = connection.recv(65536)
        assert said.startswith(b"HTTP/1.1 413")
        assert time.monotonic() - started < 1
    for chunk in (b"10000\r\n" + bytes(0x10000) + b"\r\n", b"1\r\nx\r\n" * 1000):
        with server.connect() as connection:
            head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode())
            said, sent, started = b"", 0, time.monotonic()
            connection.settimeout(0.001)
            while not said and sent < 64 * SMALL_BODY and time.monotonic() - started < 30:
                connection.settimeout(20)
                connection.sendall(chunk)
                sent += len(chunk)
                connection.settimeout(0.0005)
                try:
                    said = connection.recv(65536)
                except TimeoutError:
                    continue
            assert said.startswith(b"HTTP/1.1 413")
            assert sent < 16 * SMALL_BODY
    with server.connect() as connection:  # headers behind the body, without end
        connection.sendall(head.encode() + b"1\r\nx\r\n0\r\n")
        said, sent = b"", 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 * SMALL_BODY:
                connection.sendall(b"X-a: b\r\n" * 10_000)
                sent += 80_000
        with contextlib.suppress(ConnectionError):
            said = connection.recv(65536)
        assert said[9:12] in (b"", b"431")
        assert sent < 16 * SMALL_BODY
    assert server.peak_memory() - before < 100 << 20
    assert server.predict(shade(40)).status == 200


@pytest.mark.slow
def test_battery_26_slow_senders_are_closed_and_others_served(server: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n"
    took: list[float] = []
    said: list[bytes] = []

    def send_slowly(first: bytes, after: bytes) -> None:
        started = time.monotonic()
        with server.connect() as connection:
            connection.sendall(first)
            connection.settimeout(0.5)
            found = b""
            with contextlib.suppress(ConnectionError):
                while b" 408 " not in found and time.monotonic() - started < 20:
                    try:
                        if not (part := connection.recv(65536)):
                            break
                        found += part
                    except TimeoutError:
                        connection.sendall(after)
            said.append(found)
        took.append(time.monotonic() - started)

    slow = [
        (b"", b""),  # says nothing at all
        (head, b"X-A: b\r\n"),  # headers without end
        (head + b"\r\n", b"x"),  # a body, byte by byte
        # a whole request, and behind it the beginning of another one
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + head, b"X-A: b\r\n"),
        (b"\r\n", b"\r\n"),  # blank lines, with which a request may begin
    ]
    threads = [threading.Thread(target=send_slowly, args=pair) for pair in slow * 20]
    for thread in threads:
        thread.start()
    time.sleep(1)
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert server.predict(shade(40)).status == 200
        assert time.monotonic() - started < 2
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert len(took) == len(threads)
    assert max(took) < 15
    assert sum(b"HTTP/1.1 408" in one for one in said) >= 0.9 * len(said)
    assert server.figure("eyebright_waiting_pictures") == 0


@pytest.mark.slow
def test_battery_26_who_does_not_read_is_closed(server: Served) -> None:
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        started = time.monotonic()
        connection.settimeout(1)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 30:
                with contextlib.suppress(TimeoutError):
                    connection.send(ask)
                time.sleep(0.003)
        assert time.monotonic() - started < 28
    assert server.predict(shade(40)).status == 200


def test_battery_25_requests_without_end_are_not_all_taken(server: Served) -> None:
    before = server.peak_memory()
    ask = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with server.connect() as connection:
        sent = 0
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while sent < 64 * SMALL_BODY:
                sent += connection.send(ask * 2000)
    assert sent < 64 * SMALL_BODY
    assert server.peak_memory() - before < 50 << 20
    assert server.predict(shade(40)).status == 200


def test_too_many_headers_are_refused(server: Served) -> None:
    many = "".join(f"X-{i}: y\r\n" for i in range(200))
    with server.connect() as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{many}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 431")


def test_headers_without_end_are_refused(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * (1 << 17))
        assert read_all(connection).startswith(b"HTTP/1.1 431")


async def flood(port: int, content: bytes, clients: int, seconds: float) -> list[Reply]:
    """Many clients at once, each of which asks again as soon as it is answered."""
    replies: list[Reply] = []
    until = time.monotonic() + seconds
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        headers: dict[str, str] = {}
        while time.monotonic() < until:
            if headers.get("connection") == "close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + content)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in lines[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            replies.append(Reply(int(lines[0].split()[1]), headers, body))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


def test_battery_28_what_is_too_much_is_refused_with_a_time_to_come_back(server: Served) -> None:
    slowest = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal slowest
        while not done.wait(0.05):
            started = time.monotonic()
            assert server.ask("GET", "/healthz").status == 200
            slowest = max(slowest, time.monotonic() - started)

    watcher = threading.Thread(target=watch)
    watcher.start()
    replies = asyncio.run(flood(server.port, shade(40), clients=300, seconds=3))
    done.set()
    watcher.join()
    counts = Counter(reply.status for reply in replies)
    assert counts.keys() == {200, 429}
    assert counts[200] > 100
    assert all(int(r.headers["retry-after"]) >= 1 for r in replies if r.status == 429)
    assert all("predictions" in r.json for r in replies if r.status == 200)
    # Refused at the door, and later over a connection that was let in before.
    assert {r.headers.get("connection") for r in replies if r.status == 429} == {"close", None}
    assert slowest < 2
    assert server.predict(shade(40)).status == 200


def test_the_door_knows_a_request_that_is_all_there() -> None:
    from eyebright.serve.door import WHOLE

    head = b"POST /predict?top=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nX-Y: z\r\n\r\n"
    whole = WHOLE.match(head + b"content")
    assert whole is not None
    assert (whole[1], whole[2], whole.end()) == (b"/predict", b"7", len(head))
    for start in (b"GET /healthz", b"POST /../predict", b"POST http://x/predict"):
        assert WHOLE.match(head.replace(b"POST /predict", start)) is None
    assert WHOLE.match(head.replace(b"Content-Length", b"Transfer-Encoding")) is None
    assert WHOLE.match(head[:-2]) is None


def test_battery_29_a_server_that_leaves_finishes_what_it_took(run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    slow = png(noise)  # takes some tenths of a second to decode
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(slow)}\r\n\r\n"
    with served(run) as server:
        taken = [server.connect() for _ in range(6)]
        senders = [
            threading.Thread(target=connection.sendall, args=(head.encode() + slow,))
            for connection in taken
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        until = time.monotonic() + 10
        while server.figure("eyebright_waiting_pictures") < 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert server.figure("eyebright_waiting_pictures") >= 1
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        ready = server.ask("GET", "/readyz")  # it still listens, but says that it leaves
        late = server.predict(shade(40))
        said = [connection.recv(65536) for connection in taken]
        assert server.process.wait(timeout=10) == 143
        assert time.monotonic() - started < 10
        for connection in taken:
            connection.close()
    assert ready.status == 503
    assert late.status == 503
    assert int(late.headers["retry-after"]) >= 1
    assert [one[9:12] for one in said] == [b"200"] * 6


@pytest.mark.slow
def test_a_net_that_dies_is_replaced(run: Path) -> None:
    with served(run) as server:
        found = {one: Path(f"/proc/{one}/cmdline").read_bytes() for one in server.children()}
        (net,) = (child for child, words in found.items() if b"spawn_main" in words)
        os.kill(net, signal.SIGKILL)
        time.sleep(0.2)
        reply = server.predict(shade(40))
        assert reply.status == 503
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("GET", "/healthz").status == 200
        until = time.monotonic() + 30
        while server.ask("GET", "/readyz").status != 200 and time.monotonic() < until:
            time.sleep(0.2)
        assert server.predict(shade(40)).json["predictions"][0]["prediction"] == "cat"
        children_before = set(server.children())
        server.process.kill()  # and with the server its net goes, even so
        until = time.monotonic() + 10
        while any(Path(f"/proc/{one}").exists() for one in children_before - {net}):
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_net_that_is_closed_leaves_no_thread(run: Path) -> None:
    before = set(threading.enumerate())
    net = Net(Wanted(run, "cpu", 1, None, None, 1_000_000, heat_maps=False))
    net.load()
    net.close()
    assert set(threading.enumerate()) <= before


def test_ctrl_c_ends_it_quietly(run: Path) -> None:
    with served(run) as server:
        server.process.send_signal(signal.SIGINT)
        _, err = server.process.communicate(timeout=15)
        assert server.process.returncode == 130
        assert not err


def test_battery_30_who_is_gone_is_dropped_and_leaves_room(server: Served) -> None:
    from eyebright.serve.batching import Batcher, FullError

    seen: list[object] = []

    async def slowly(pictures: Sequence[object]) -> tuple[float, list[np.ndarray]]:
        await asyncio.sleep(0.05)
        seen.extend(pictures)
        return 0.05, [np.array([0.5, 0.5])] * len(pictures)

    async def leave() -> int:
        batcher = Batcher(slowly, 16, seconds=0.0019)
        task = asyncio.get_running_loop().create_task(batcher.work())
        waiting = batcher.submit([b"%d" % i for i in range(40)])
        with pytest.raises(FullError):
            batcher.submit([b"one too many"])
        await asyncio.sleep(0.03)
        for one in waiting[20:]:
            one.cancel()
        await asyncio.sleep(0)  # what waits for a future hears of it in the next turn
        left = batcher.load.waiting
        await asyncio.gather(*waiting[:20])
        await batcher.submit([b"last"])[0]
        task.cancel()
        batcher.close()
        return left

    assert asyncio.run(leave()) == 20
    assert seen == [*(b"%d" % i for i in range(20)), b"last"]  # two batches were with the net
    # And over a connection: what is decoded for somebody who is gone goes no further.
    noise = np.random.default_rng(0).integers(0, 256, (560, 560, 3), dtype=np.uint8)
    slow = png(noise)
    assert len(slow) < SMALL_BODY
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(slow)}\r\n\r\n"
    counted = [f'eyebright_pictures_total{{outcome="{x}"}}' for x in ("predicted", "unreadable")]
    before = sum(map(server.figure, counted))
    for _ in range(40):
        with server.connect() as connection:
            connection.sendall(head.encode() + slow)
    until = time.monotonic() + 10
    while server.figure("eyebright_waiting_pictures") and time.monotonic() < until:
        time.sleep(0.01)
    assert server.figure("eyebright_waiting_pictures") == 0
    assert sum(map(server.figure, counted)) - before < 40
    assert server.figure('eyebright_requests_total{path="/predict",status="499"}') >= 1
    assert server.predict(shade(40)).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example:80"}, 400),
        ({"Host": "localhost@evil.example"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Host": "192.168.1.7"}, 200),  # a number cannot be made to lead elsewhere
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:99", "Origin": "http://127.0.0.1:99"}, 200),
    ],
)
def test_battery_31_hostile_names_and_origins(
    server: Served, headers: dict[str, str], status: int
) -> None:
    assert server.predict(shade(40), **headers).status == status


def test_battery_31_errors_say_nothing_of_this_machine(server: Served, run: Path) -> None:
    script = "<script>alert(1)</script>.png"
    reply = server.predict_form([(script, shade(40)), ("../../etc/passwd", b"x")])
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert [row["picture"] for row in reply.json["predictions"]] == [script, "../../etc/passwd"]
    probes = [
        ("GET", "/page/../app.py"),
        ("GET", "/page/..%2fapp.py"),
        ("GET", "/page/%2e%2e%2f%2e%2e%2f__init__.py"),
        ("GET", "/../../../../etc/passwd"),
        ("GET", "/page/" + "a" * 4000),
        ("GET", "/page/%00"),
        ("GET", "/%ff%fe"),
        ("PUT", "/predict"),
        ("POST", "/predict?top=" + "9" * 400),
        ("POST", "/predict?url=http://127.0.0.1/&path=/etc/passwd&file=/etc/passwd"),
        ("POST", "/explain?label=/etc/passwd"),
        ("BREW", "/"),
    ]
    for method, path in probes:
        reply = server.ask(method, path, b"/etc/passwd" if method == "POST" else None)
        text = reply.body.decode()
        assert 400 <= reply.status < 500, (method, path)
        for word in ("Traceback", str(Path.home()), str(run), "site-packages", "root:", ".py"):
            assert word not in text, (method, path)


def test_battery_31_only_this_machine_can_ask(server: Served) -> None:
    addresses = {i[4][0] for i in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, server.port), timeout=2)
    table = Path("/proc/net/tcp").read_text()
    listening = re.findall(rf"([0-9A-F]{{8}}):{server.port:04X} 00000000:0000 0A", table)
    assert listening == ["0100007F"]  # 127.0.0.1, as the kernel writes it


def test_battery_32_a_port_that_is_taken_or_a_model_that_is_not_there(
    server: Served, run: Path, tmp_path: Path, eyebright_says: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = eyebright_says("serve", run, "--port", server.port)
    assert (code, out) == (5, "")
    assert str(server.port) in err
    assert "Traceback" not in err
    code, _, err = eyebright_says("serve", tmp_path / "none", "--port", 0)
    assert code == 4
    assert "none" in err
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "eyebright", "serve", str(broken), "--port", str(port)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    statuses = set()
    while process.poll() is None:
        try:
            reply = Served(process, port).ask("GET", "/readyz", timeout=1)  # type: ignore[arg-type]
            statuses.add(reply.status)
        except OSError:
            time.sleep(0.05)
    assert process.returncode == 4
    assert "model.safetensors" in process.communicate()[1]
    assert 200 not in statuses


def test_a_token_is_asked_for(run: Path) -> None:
    with served(run, "--token", "open-sesame") as server:
        assert server.predict(shade(40)).status == 401
        assert server.predict(shade(40), Authorization="Bearer sesame").status == 401
        assert server.predict(shade(40), Authorization="Bearer open-sesame").status == 200
        assert server.ask("GET", "/model").status == 401
        assert server.ask("GET", "/metrics").status == 401
        for path in ("/", "/healthz", "/readyz"):  # nothing secret, and a page that can ask for it
            assert server.ask("GET", path).status == 200


def test_other_names_are_allowed_where_asked_for(run: Path) -> None:
    with served(run, "--allow-host", "Pictures.example") as server:
        assert server.ask("GET", "/model", headers={"Host": "pictures.example:80"}).status == 200
        assert server.ask("GET", "/model", headers={"Host": "other.example"}).status == 400


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--port", "99999"], 2, "port"),
        (["--host", "256.1.1.1"], 5, "256.1.1.1"),
        (["--risk", "2"], 2, "risk"),
        (["--device", "tpu"], 2, "tpu"),
        (["--timeout", "0"], 2, "timeout"),
        (["--token", "two words"], 2, "--token"),
    ],
)
def test_wrong_settings_are_refused(
    run: Path, words: list[str], code: int, named: str,
    eyebright_says: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    found, _, err = eyebright_says(
        "serve", run, *(() if "--port" in words else ("--port", 0)), *words
    )
    assert found == code
    assert named in err


def test_battery_34_http_command_line_library_and_evaluation_agree(
    cifar10_home: Path, tmp_path: Path, eyebright_says: Callable[..., tuple[int, str, str]]
) -> None:
    data = eyebright.load("cifar10").subset(range(3000))
    trained = eyebright.train(data, model="white16", epochs=1, device="cpu", quiet=True, val=0.1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = sorted((cifar10_home / "cifar10-folder" / "test").rglob("*.jpg"))[::10][:1000]
    assert len(files) == 1000
    names, labels = [], []
    for i, file in enumerate(files):
        names.append(folder / f"{i:04}.jpg")
        shutil.copy(file, names[-1])
        labels.append(trained.data_record["classes"].index(file.parent.name))
    pixels = np.stack([read_image(file, 32) for file in names])
    test = eyebright.Dataset(pixels, np.array(labels), trained.data_record["classes"])
    evaluated = trained.test(test).probabilities
    classifier = trained.classifier()
    library = classifier.predict_proba(names)
    torch.set_num_threads(1)
    single = np.concatenate([classifier.predict_proba([name]) for name in names])
    code, out, _ = eyebright_says("predict", trained.path, folder, "--json")
    rows = json.loads(out)
    assert code == 0
    classes = classifier.classes
    command = np.array([[row["probabilities"][name] for name in classes] for row in rows])
    with served(trained.path) as server:
        replies = [server.predict(name.read_bytes()).json["predictions"][0] for name in names]
        batch = [(name.name, name.read_bytes()) for name in names[:250]]
        form = server.predict_form(batch).json["predictions"]
    http = np.array([[row["probabilities"][name] for name in classes] for row in replies])
    many = np.array([[row["probabilities"][name] for name in classes] for row in form])
    for other in (evaluated, single, command, http):
        assert np.abs(other - library).max() < 1e-6
        assert (other.argmax(1) == library.argmax(1)).all()
    assert np.abs(many - library[:250]).max() < 1e-6


def test_missing_packages_are_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eyebright.serve import serve

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"\[serve\]"):
        serve(run, port=0)


@pytest.mark.slow
def test_a_short_while_of_good_bad_and_hostile_load(run: Path) -> None:
    with served(run) as server:
        before = server.peak_memory()
        mixed = Mixed(server.port, shade(40))
        mixed.run(seconds=12)
        grown = server.peak_memory() - before
        assert server.figure("eyebright_waiting_pictures") == 0
        assert server.predict(shade(40)).json["predictions"][0]["prediction"] == "cat"
        server.process.send_signal(signal.SIGTERM)
        _, err = server.process.communicate(timeout=15)
    assert not err  # what others do wrong fills no log
    assert grown < 200 << 20
    assert mixed.statuses[200] > 100
    assert {400, 403, 404, 413, 422} <= mixed.statuses.keys()
    assert not [status for status in mixed.statuses if status >= 500]
    assert not mixed.failures
    assert mixed.slowest_liveness < 1
