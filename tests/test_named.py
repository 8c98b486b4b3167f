"""Data sets by name: from a server with small made-up archives, and from copies that lie there."""

import gc
import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import eyebright
from eyebright.console import notices
from eyebright.data import load, named
from eyebright.data.named import parse_idx
from eyebright.data.sources import MissingPartError, find_part_names
from eyebright.errors import DataError, StorageError

# pooch leaves the socket of a refused download to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

ROWS = {"train": 200, "test": 100}


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as LeCun's files have it."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes(), mtime=0)


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n, dtype=np.uint8) % 10
    noise = np.random.default_rng(n).integers(0, 20, (n, 28, 28))
    return (20 * labels[:, None, None] + noise).astype(np.uint8), labels


def mnist_files() -> dict[str, bytes]:
    files = {}
    for begin, n in (("train", ROWS["train"]), ("t10k", ROWS["test"])):
        pixels, labels = digits(n)
        files[f"{begin}-images-idx3-ubyte.gz"] = idx(pixels)
        files[f"{begin}-labels-idx1-ubyte.gz"] = idx(labels)
    return files


def cifar100_batch(n: int) -> dict[str, object]:
    pixels = np.random.default_rng(n).integers(0, 256, (n, 3072), dtype=np.uint8)
    fine = [i % 100 for i in range(n)]
    return {"data": pixels, "fine_labels": fine, "coarse_labels": [i % 20 for i in fine]}


def cifar100_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, n in ROWS.items():
            content = pickle.dumps(cifar100_batch(n), protocol=4)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


FILES, ARCHIVE = mnist_files(), cifar100_archive()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Sends what the server has under a path; 404 for all else."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.contents.get(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """What it has, by path, and what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Has all files under /good, and the first address of each data set leads nowhere."""
    with Server() as running:
        for name in ("mnist", "fashion-mnist"):
            addresses = [f"{running.url}/gone/{name}/", f"{running.url}/good/{name}/"]
            monkeypatch.setitem(named.ADDRESSES, name, addresses)
            running.contents |= {f"/good/{name}/{file}": c for file, c in FILES.items()}
        running.contents["/good/c100.tar.gz"] = ARCHIVE
        urls = [f"{running.url}/gone/c100.tar.gz", f"{running.url}/good/c100.tar.gz"]
        monkeypatch.setattr(named, "CIFAR100_URLS", urls)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of data sets that does not exist yet; the made-up files are the published ones."""
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    sums = {name: md5(content) for name, content in FILES.items()}
    for name in ("mnist", "fashion-mnist"):
        monkeypatch.setitem(named.FILE_MD5, name, sums)
        monkeypatch.setitem(named.ADDRESSES, name, [])
    monkeypatch.setattr(named, "CIFAR100_URLS", [])
    monkeypatch.setattr(named, "CIFAR100_MD5", md5(ARCHIVE))
    monkeypatch.setattr(named, "CIFAR100_ROWS", ROWS)
    batches = {name: md5(pickle.dumps(cifar100_batch(n), protocol=4)) for name, n in ROWS.items()}
    monkeypatch.setattr(named, "CIFAR100_FILE_MD5", batches)
    before = set(threading.enumerate())
    yield tmp_path / "data"
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    gc.collect()  # the sockets of this test are closed now, not during the next one


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All notices so far, as text."""
    monkeypatch.setattr(notices, "propagate", True)
    return lambda: "\n".join(r.getMessage() for r in caplog.records if r.name == "eyebright")


def refused(name: str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(name, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_and_fashion_mnist(
    name: str, server: Server, home: Path, said: Callable[[], str]
) -> None:
    data, test = load(name), load(name, "test")
    pixels, labels = digits(ROWS["train"])
    assert np.array_equal(data.images, np.repeat(pixels[..., None], 3, axis=3))
    assert data.labels.tolist() == labels.tolist()
    assert (len(test), test.imgsz) == (ROWS["test"], 28)
    assert (data.name, data.source) == (name, name)
    assert data.modes[0] == "L"
    assert data.val is None
    assert data.classes[0] == ("0" if name == "mnist" else "T-shirt/top")
    assert data.mirrors == (name != "mnist"), "the mirror image of a 3 is no 3"
    assert load(name, imgsz=14).imgsz == 14
    # Each file was looked for at the first address too, and none is asked for again.
    assert server.asked == [f"/{a}/{name}/{f}" for f in FILES for a in ("gone", "good")]
    assert sorted(p.name for p in (home / name).iterdir()) == sorted(FILES)
    assert [p.name for p in home.iterdir()] == [name]
    assert said().count("download failed") == 4
    assert "checksum" not in said()


def test_cifar100(server: Server, home: Path, said: Callable[[], str]) -> None:
    data, test = load("cifar100"), load("cifar100", "test")
    batch = cifar100_batch(ROWS["train"])
    assert isinstance(batch["data"], np.ndarray)
    upright = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(data.images, upright)
    assert data.labels.tolist() == batch["fine_labels"]
    assert len(data.classes) == 100
    assert (len(test), test.name, test.source) == (ROWS["test"], "cifar100", "cifar100")
    assert server.asked == ["/gone/c100.tar.gz", "/good/c100.tar.gz"]
    assert [p.name for p in home.iterdir()] == ["cifar-100-python"]
    assert "checksum" not in said()


def test_the_published_constants() -> None:
    assert list(named.CIFAR100_CLASSES) == sorted(set(named.CIFAR100_CLASSES))
    assert len(named.CIFAR100_CLASSES) == 100
    assert [len(names) for names in named.MNIST_CLASSES.values()] == [10, 10]


def test_the_published_checksums_and_addresses() -> None:
    """The module anew, because the fixtures put made-up ones in their place."""
    source = Path(named.__file__).read_text(encoding="utf-8")
    sums = re.findall('"([0-9a-f]{32})"', source)
    assert len(sums) == len(set(sums)) == 11
    torchvision = pytest.importorskip("torchvision.datasets")
    published = [torchvision.CIFAR100.tgz_md5]
    published += [
        md5 for _, md5 in torchvision.CIFAR100.train_list + torchvision.CIFAR100.test_list
    ]
    for kind in (torchvision.MNIST, torchvision.FashionMNIST):
        published += [md5 for _, md5 in kind.resources]
        assert any(mirror in source for mirror in kind.mirrors)
    assert sorted(sums) == sorted(published)
    assert torchvision.CIFAR100.url in source
    assert tuple(torchvision.FashionMNIST.classes) == named.MNIST_CLASSES["fashion-mnist"]


@pytest.mark.parametrize("name", named.NAMES)
def test_there_is_no_validation_part(name: str) -> None:
    with pytest.raises(MissingPartError, match=f"{name} has no validation part"):
        load(name, "val")
    assert find_part_names(name) == ["train", "test"]


@pytest.mark.parametrize("name", [name for name in named.NAMES if name != "digits"])
def test_without_a_network(name: str, home: Path) -> None:
    with pytest.raises(StorageError, match="could not be downloaded; connect") as caught:
        load(name)
    assert caught.value.exit_code == 5
    assert str(home) in str(caught.value)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_what_has_another_checksum_is_not_kept(
    name: str, server: Server, home: Path, said: Callable[[], str]
) -> None:
    for path, content in list(server.contents.items()):
        if "labels" in path or "c100" in path:
            server.contents[path] = content[:-1] + b"!"
    with pytest.raises(StorageError, match="could not be downloaded"):
        load(name)
    assert "another checksum" in said()
    assert list(home.iterdir()) == []


def test_a_run_on_mnist(server: Server) -> None:
    settings = {"epochs": 1, "batch_size": 20, "model": "white16", "device": "cpu", "quiet": True}
    run = eyebright.train("mnist", **settings)
    assert run.has_test_part()
    assert "mirror" not in run.config.augment
    assert run.test().accuracy.n == ROWS["test"]
    assert run.val().accuracy.n == ROWS["train"] // 10


# Copies that lie there


@pytest.fixture
def copy(home: Path) -> Path:
    """A copy of mnist."""
    (home / "mnist").mkdir(parents=True)
    for name, content in FILES.items():
        (home / "mnist" / name).write_bytes(content)
    return home / "mnist"


def test_a_copy_is_used_with_one_notice_if_it_is_another(
    copy: Path, said: Callable[[], str]
) -> None:
    assert len(load("mnist")) == ROWS["train"]
    assert said() == ""
    pixels, labels = digits(50)
    (copy / "train-images-idx3-ubyte.gz").write_bytes(idx(pixels))
    (copy / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    assert len(load("mnist")) == 50
    assert said().count("its checksum is not the published one") == 2


def test_a_copy_cut_short_anywhere_is_refused(copy: Path) -> None:
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        content = (copy / name).read_bytes()
        for part in range(10):
            (copy / name).write_bytes(content[: len(content) * part // 10])
            assert str(copy / name) in refused("mnist")
        (copy / name).write_bytes(content)
    (copy / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "t10k-labels-idx1-ubyte.gz: No such file" in refused("mnist", split="test")


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (digits(20)[0], digits(19)[1], "not 20 labels"),
        (digits(20)[0], np.full(20, 10, np.uint8), "not 20 labels from 0 to 9"),
        (digits(20)[0], np.zeros((20, 2), np.uint8), "not 20 labels"),
        (digits(20)[0][:, :27], digits(20)[1], "not pictures of 28×28 px"),
        (digits(20)[1], digits(20)[1], "not pictures of 28×28 px"),
        (digits(0)[0], digits(0)[1], "not pictures of 28×28 px"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    copy: Path, pixels: np.ndarray, labels: np.ndarray, said: str
) -> None:
    (copy / "train-images-idx3-ubyte.gz").write_bytes(idx(pixels))
    (copy / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    assert said in refused("mnist")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x01\0\0\0\x05abcd",
        b"\0\0\x08\x01\0\0\0\x05abcdef",
        b"\0\0\x0d\x01\0\0\0\x05abcde",
        b"\0\0\x08\0a",
        b"\0\0\x08\x04" + b"\0\0\0\x01" * 4 + b"a",
        b"\0\0\x08\x03" + b"\xff" * 12,
        b"\0\0\x08\x02\0\0",
    ],
    ids=repr,
)
def test_what_is_no_idx_is_refused(content: bytes) -> None:
    assert parse_idx(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde"), "x").tobytes() == b"abcde"
    with pytest.raises(DataError, match="x: no array of bytes in idx format"):
        parse_idx(gzip.compress(content), "x")
    with pytest.raises(DataError, match="x: "):
        parse_idx(content, "x")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "LARGEST", 100_000)
    array = idx(np.zeros((1000, 28, 28), np.uint8))
    with pytest.raises(DataError, match="cut short"):
        parse_idx(array, "x")


def test_cifar100_from_its_archive(home: Path, said: Callable[[], str]) -> None:
    home.mkdir()
    (home / "cifar-100-python.tar.gz").write_bytes(ARCHIVE)
    assert len(load("cifar100")) == ROWS["train"]
    (home / "cifar-100-python.tar.gz").write_bytes(ARCHIVE[:-100])
    assert "cifar-100-python.tar.gz: the archive is cut short" in refused("cifar100")


CHANGES: dict[str, dict[str, object]] = {
    "a label of 100": {"fine_labels": [100] * ROWS["train"]},
    "too few labels": {"fine_labels": [0]},
    "coarse labels only": {"fine_labels": None},
    "short rows": {"data": np.zeros((ROWS["train"], 3000), np.uint8)},
    "an object": {"data": Path()},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_batches_of_cifar100_are_refused(home: Path, change: str) -> None:
    folder = home / "cifar-100-python"
    folder.mkdir(parents=True)
    batch = cifar100_batch(ROWS["train"]) | CHANGES[change]
    (folder / "train").write_bytes(pickle.dumps(batch, protocol=4))
    message = refused("cifar100")
    assert str(folder / "train") in message
    assert "no CIFAR-100 batch" in message or "not 200 pictures" in message
