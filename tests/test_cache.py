"""Downloads: whole or not at all, from the first address or its mirror, never waiting for ever."""

import gc
import hashlib
import io
import pickle
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from eyebright.console import notices
from eyebright.data import cache, cifar, load
from eyebright.data.cache import data_home
from eyebright.data.cifar import find_cifar10
from eyebright.errors import DataError, StorageError

# pooch leaves the socket of a refused download to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

ROWS = 20
Answer = Callable[[BaseHTTPRequestHandler], None]


def small_archive() -> bytes:
    """An archive in the official form, of 20 pictures a batch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for seed, name in enumerate(cifar.BATCH_MD5):
            pixels = np.random.default_rng(seed).integers(0, 256, (ROWS, 3072), dtype=np.uint8)
            batch = {"data": pixels, "labels": [i % 10 for i in range(ROWS)]}
            content = pickle.dumps(batch, protocol=4)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = small_archive()


class Server(ThreadingHTTPServer):
    """Answers each path by a function, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    def url(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answers[self.path](self)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def begin(request: BaseHTTPRequestHandler, length: int) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(length))
    request.end_headers()


def sends(content: bytes) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        begin(request, len(content))
        request.wfile.write(content)

    return answer


def slowly(request: BaseHTTPRequestHandler) -> None:
    begin(request, len(ARCHIVE))
    for start in range(0, len(ARCHIVE), 1 << 16):
        time.sleep(0.4)
        request.wfile.write(ARCHIVE[start : start + (1 << 16)])
        request.wfile.flush()


def cut(request: BaseHTTPRequestHandler) -> None:
    """The connection breaks in the middle of the file."""
    begin(request, len(ARCHIVE))
    request.wfile.write(ARCHIVE[: len(ARCHIVE) // 2])
    request.close_connection = True


def missing(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def hang_at_once(request: BaseHTTPRequestHandler) -> None:
    request.server.closing.wait(30)
    request.close_connection = True


def hang_midway(request: BaseHTTPRequestHandler) -> None:
    begin(request, len(ARCHIVE))
    request.wfile.write(ARCHIVE[: 3 << 16])
    request.wfile.flush()
    hang_at_once(request)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of data sets that does not exist yet; the small archive is the published one."""
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "deep" / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar, "ROWS", ROWS)
    monkeypatch.setattr(
        cifar, "ARCHIVE_MD5", hashlib.md5(ARCHIVE, usedforsecurity=False).hexdigest()
    )
    monkeypatch.setattr(cifar, "URLS", [])
    before = set(threading.enumerate())
    yield tmp_path / "deep" / "data"
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    gc.collect()  # the sockets of this test are closed now, not during the next one


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All notices so far, as text."""
    monkeypatch.setattr(notices, "propagate", True)
    return lambda: "\n".join(r.getMessage() for r in caplog.records if r.name == "eyebright")


def urls(monkeypatch: pytest.MonkeyPatch, server: Server, first: Answer, second: Answer) -> None:
    addresses = [server.url("/first", first), server.url("/second", second)]
    monkeypatch.setattr(cifar, "URLS", addresses)


def contents(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


WHOLE = sorted(f"cifar-10-batches-py/{name}" for name in cifar.BATCH_MD5)


def test_the_first_address_suffices(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    urls(monkeypatch, server, sends(ARCHIVE), missing)
    data = load("cifar10")
    assert len(data) == 5 * ROWS
    assert server.asked == ["/first"]
    assert contents(home) == WHOLE
    assert [path.name for path in home.iterdir()] == ["cifar-10-batches-py"]
    assert "download failed" not in said()
    # What is there is used: no address is asked again.
    assert load("cifar10").fingerprint == data.fingerprint
    assert len(load("cifar10", "test")) == ROWS
    assert server.asked == ["/first"]


DAMAGED = ARCHIVE[:1000] + bytes(8) + ARCHIVE[1008:]


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (sends(DAMAGED), "another checksum"),
        (sends(ARCHIVE[:-1]), "another checksum"),
        (sends(b"<html>Log in to the hotel's network</html>"), "another checksum"),
        (cut, ""),
        (missing, "HTTPError"),
    ],
    ids=["damaged", "one byte short", "a web page", "cut", "missing"],
)
def test_battery_12_what_is_wrong_is_fetched_from_the_mirror(
    server: Server,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
    first: Answer,
    why: str,
) -> None:
    urls(monkeypatch, server, first, sends(ARCHIVE))
    assert find_cifar10() == home / "cifar-10-batches-py"
    assert server.asked == ["/first", "/second"]
    assert contents(home) == WHOLE
    assert f"download failed: {cifar.URLS[0]}: " in said()
    assert why in said()


@pytest.mark.parametrize(
    "second", [sends(DAMAGED), cut, missing], ids=["damaged", "cut", "missing"]
)
def test_battery_12_two_bad_addresses_leave_the_folder_empty(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, second: Answer
) -> None:
    urls(monkeypatch, server, sends(DAMAGED), second)
    with pytest.raises(StorageError, match="could not be downloaded") as caught:
        load("cifar10")
    assert caught.value.exit_code == 5
    assert "try again" in str(caught.value)
    assert str(home) in str(caught.value)
    assert list(home.iterdir()) == []
    # Nothing stands in the way of the next attempt.
    urls(monkeypatch, server, sends(ARCHIVE), missing)
    assert len(load("cifar10")) == 5 * ROWS


@pytest.mark.parametrize("hang", [hang_at_once, hang_midway])
def test_a_network_that_hangs_is_given_up(
    server: Server,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
    hang: Answer,
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 1.0)
    urls(monkeypatch, server, hang, hang)
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"connect to the network and try again.*EYEBRIGHT_DATA"):
        load("cifar10")
    assert 0.5 < time.monotonic() - start < 6
    assert said().count("download failed") == 2
    assert list(home.iterdir()) == []


def test_a_first_address_that_hangs_leaves_time_for_the_mirror(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 3.0)
    urls(monkeypatch, server, hang_at_once, sends(ARCHIVE))
    assert len(load("cifar10")) == 5 * ROWS
    assert contents(home) == WHOLE


def test_a_name_that_is_never_looked_up_is_given_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time-out of a request covers this: a resolver may take minutes."""
    import socket

    monkeypatch.setattr(cache, "PATIENCE", 0.5)
    monkeypatch.setattr(cifar, "URLS", ["http://example.invalid/archive"])
    asleep = threading.Event()

    def look_up(*args: object, **options: object) -> list[object]:
        asleep.wait(20)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    start = time.monotonic()
    try:
        with pytest.raises(StorageError, match="could not be downloaded"):
            load("cifar10")
        assert time.monotonic() - start < 6
        assert list(home.iterdir()) == []
    finally:
        asleep.set()


def test_a_slow_network_that_does_not_hang_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(ARCHIVE) > 5 * (1 << 16)
    monkeypatch.setattr(cache, "PATIENCE", 1.8)  # the whole takes longer
    urls(monkeypatch, server, slowly, missing)
    assert len(load("cifar10")) == 5 * ROWS
    assert server.asked == ["/first"]


def test_a_copy_that_is_there_needs_no_network(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls(monkeypatch, server, missing, missing)
    home.mkdir(parents=True)
    archive = home / "cifar-10-python.tar.gz"
    archive.write_bytes(ARCHIVE)
    assert find_cifar10() == archive
    packed = load("cifar10")
    with tarfile.open(archive) as tar:
        tar.extractall(home, filter="data")
    assert find_cifar10() == home / "cifar-10-batches-py"
    archive.unlink()
    assert load("cifar10").fingerprint == packed.fingerprint
    assert server.asked == []


def test_a_broken_copy_is_named_not_replaced(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls(monkeypatch, server, sends(ARCHIVE), missing)
    home.mkdir(parents=True)
    archive = home / "cifar-10-python.tar.gz"
    archive.write_bytes(ARCHIVE[:-5000])
    with pytest.raises(DataError, match="cut short") as caught:
        load("cifar10")
    assert str(archive) in str(caught.value)
    assert server.asked == []
    assert archive.read_bytes() == ARCHIVE[:-5000]


def test_another_process_may_be_faster(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(request: BaseHTTPRequestHandler) -> None:
        with tarfile.open(fileobj=io.BytesIO(ARCHIVE)) as tar:
            tar.extractall(home, filter="data")
        sends(ARCHIVE)(request)

    urls(monkeypatch, server, meanwhile, missing)
    assert len(load("cifar10")) == 5 * ROWS
    assert contents(home) == WHOLE


def test_a_folder_of_data_sets_that_cannot_be_made(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls(monkeypatch, server, sends(ARCHIVE), missing)
    home.parent.write_text("a file where a folder is needed")
    with pytest.raises(StorageError, match="EYEBRIGHT_DATA") as caught:
        load("cifar10")
    assert str(home) in str(caught.value)
    assert server.asked == []


def test_a_full_disk_is_named(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls(monkeypatch, server, sends(ARCHIVE), sends(ARCHIVE))

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        load("cifar10")
    assert str(home) in str(caught.value)
    assert list(home.iterdir()) == []


def test_where_data_sets_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "here"))
    assert data_home() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EYEBRIGHT_DATA", "~/there")
    assert data_home() == tmp_path / "there"
    for unset in ("", None):
        monkeypatch.delenv("EYEBRIGHT_DATA", raising=False)
        if unset is not None:
            monkeypatch.setenv("EYEBRIGHT_DATA", unset)
        assert data_home().name == "eyebright"
        assert tmp_path in data_home().parents, "below the user's own folder"
    assert not (tmp_path / "here").exists(), "asking makes nothing"
