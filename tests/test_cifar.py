"""CIFAR-10 in its official form: found, read without running it, refused if it is not whole."""

import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eyebright.console import notices
from eyebright.data import Dataset, cifar, load
from eyebright.data.sources import MissingPartError
from eyebright.errors import DataError, UsageError

ROWS = 20
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (ROWS, 3072), dtype=np.uint8)


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The bytes that Python 2 wrote: the published files have this form."""

    def short(text: str) -> bytes:
        return b"U" + bytes([len(text)]) + text.encode("ascii")

    shape = b"M" + struct.pack("<H", len(pixels)) + b"M" + struct.pack("<H", pixels.shape[1])
    return b"".join([
        b"\x80\x02}(", short("batch_label"), short("training batch 1 of 5"),
        short("labels"), b"](", *(b"K" + bytes([label]) for label in labels), b"e",
        short("data"), b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85",
        short("b"), b"\x87R(K\x01", shape, b"\x86cnumpy\ndtype\n", short("u1"),
        b"K\x00K\x01\x87R(K\x03", short("|"), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
        b"T", struct.pack("<i", pixels.nbytes), pixels.tobytes(), b"tbu.",
    ])  # fmt: skip


LABELS = [(7 * i) % 10 for i in range(ROWS)]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small official folder: 20 pictures a batch, by seeds 0 to 5."""
    monkeypatch.setattr(cifar, "ROWS", ROWS)
    folder = tmp_path / "home" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        (folder / name).write_bytes(python2_batch(rows(seed), LABELS))
    return folder


@pytest.fixture(autouse=True)
def said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[str]]:
    """All notices so far."""
    monkeypatch.setattr(notices, "propagate", True)
    return lambda: [r.getMessage() for r in caplog.records if r.name == "eyebright"]


def pack(folder: Path, path: Path, mode: str = "w:gz", top: str = "cifar-10-batches-py") -> Path:
    options = {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(path, mode, **options) as archive:
        archive.add(folder, top)
    return path


def refused(path: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert caught.value.exit_code == 3
    assert str(caught.value).isprintable(), "one line, no control characters"
    return str(caught.value)


def upright(pixels: np.ndarray) -> np.ndarray:
    """As the lesson does it: planes of red, green and blue, row by row."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_the_official_order_is_kept(official: Path) -> None:
    data = load(official)
    assert data.images.shape == (5 * ROWS, 32, 32, 3)
    assert data.ids == list(range(5 * ROWS))
    assert data.classes == tuple(CLASSES)
    assert data.labels.tolist() == LABELS * 5
    assert data.name == "cifar10"
    for seed in range(5):
        assert np.array_equal(data.images[seed * ROWS :][:ROWS], upright(rows(seed)))


def test_the_test_part_is_opened_by_its_name_only(official: Path) -> None:
    data, test = load(official), load(official, "test")
    assert test.ids == list(range(ROWS))
    assert np.array_equal(test.images, upright(rows(5)))
    assert load(official, "train").fingerprint == data.fingerprint
    assert data.val is None
    with pytest.raises(MissingPartError, match="no validation part"):
        load(official, "val")
    with pytest.raises(UsageError):
        load(official, "all")


def same(first: Dataset, *others: Dataset) -> bool:
    return {(d.fingerprint, d.name, d.classes) for d in others} == {
        (first.fingerprint, first.name, first.classes)
    }


def test_all_ways_to_name_it_give_the_same_data(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(official)
    (tmp_path / "archives").mkdir()
    archive = pack(official, tmp_path / "archives" / "cifar-10-python.tar.gz")
    (tmp_path / "bare").mkdir()
    found = [
        load(official.parent),  # a directory that holds the folder
        load(archive),
        load(archive.parent),  # a directory that holds the archive
        load(str(archive)),
        load(pack(official, tmp_path / "mine.tgz")),
        load(pack(official, tmp_path / "plain.tar", "w")),
        load(pack(official, tmp_path / "bare" / "dotted.tar.gz", top="./cifar-10-batches-py")),
        load(pack(official, tmp_path / "bare" / "top.tar.gz", top=".")),
    ]
    assert same(data, *found)
    for home in (official.parent, archive.parent):
        monkeypatch.setenv("EYEBRIGHT_DATA", str(home))
        by_name = load("cifar10")
        assert same(data, by_name, load())
        assert by_name.source == "cifar10"


@pytest.mark.parametrize("protocol", [3, 4])
def test_batches_that_python_3_wrote_are_read(official: Path, protocol: int) -> None:
    whole = load(official).fingerprint
    for seed, name in enumerate(BATCHES):
        batch = {"data": rows(seed), "labels": LABELS}
        (official / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    assert load(official).fingerprint == whole


def test_one_notice_about_checksums(
    official: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(official)
    (line,) = said()
    assert str(official) in line
    assert "checksums are not the published ones" in line
    import hashlib

    published = {
        name: hashlib.md5((official / name).read_bytes(), usedforsecurity=False).hexdigest()
        for name in BATCHES
    }
    monkeypatch.setattr(cifar, "BATCH_MD5", published)
    load(official)
    assert len(said()) == 1, "the published files need no notice"


def test_the_published_constants() -> None:
    sums = [cifar.ARCHIVE_MD5, *cifar.BATCH_MD5.values()]
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in sums)
    assert len(set(sums)) == 7
    assert cifar.ARCHIVE_MD5 == "c58f30108f718f92721af3b95e74349a"
    assert list(cifar.BATCH_MD5) == BATCHES
    hosts = [url.split("/")[2] for url in cifar.URLS]
    assert hosts == ["www.cs.toronto.edu", "zenodo.org"]
    assert all(url.startswith("https://") for url in cifar.URLS)


def test_other_classes_and_sizes(official: Path) -> None:
    assert load(official, classes=CLASSES).classes == tuple(CLASSES)
    assert load(official, imgsz=16).images.shape == (5 * ROWS, 16, 16, 3)
    assert "are not the model's (ant, bee)" in refused(official, classes=["ant", "bee"])


# What is not whole


def test_a_missing_batch_is_named(official: Path, tmp_path: Path) -> None:
    (official / "data_batch_3").unlink()
    (official / "test_batch").unlink()
    assert "data_batch_3, test_batch missing" in refused(official)
    message = refused(pack(official, tmp_path / "cifar-10-python.tar.gz"))
    assert "cifar-10-python.tar.gz: holds no data_batch_3" in message


def test_all_six_are_checked_whichever_part_is_wanted(official: Path) -> None:
    content = (official / "test_batch").read_bytes()
    (official / "test_batch").write_bytes(content[:-100])
    assert "test_batch" in refused(official, split="train")
    (official / "test_batch").write_bytes(content)
    (official / "data_batch_2").write_bytes(content[: len(content) // 2])
    assert "data_batch_2" in refused(official, split="test")


def test_one_batch_is_not_the_data_set(official: Path) -> None:
    message = refused(official / "data_batch_1")
    assert "data_batch_1: one batch is not the data set" in message


def test_a_batch_cut_short_anywhere_is_refused(official: Path) -> None:
    content = (official / "data_batch_4").read_bytes()
    for offset in [*(len(content) * i // 10 for i in range(10)), len(content) - 1]:
        (official / "data_batch_4").write_bytes(content[:offset])
        assert str(official / "data_batch_4") in refused(official)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_an_archive_cut_short_anywhere_is_refused(
    official: Path, tmp_path: Path, mode: str
) -> None:
    archive = pack(official, tmp_path / "cifar-10-python.tar.gz", mode)
    content = archive.read_bytes()
    length = len(content) if mode != "w" else 6 * 64_000  # zeros follow the last batch
    for i in range(10):
        archive.write_bytes(content[: length * i // 10])
        assert str(archive) in refused(archive)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_a_damaged_archive_is_refused_or_read(official: Path, tmp_path: Path, mode: str) -> None:
    archive = pack(official, tmp_path / "cifar-10-python.tar.gz", mode)
    content = archive.read_bytes()
    failures = 0
    for position in range(20, len(content), len(content) // 12):
        archive.write_bytes(content[:position] + bytes(40) + content[position + 40 :])
        try:
            assert len(load(archive)) == 5 * ROWS
        except DataError as error:
            failures += str(archive) in str(error)
    assert failures > 3


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "data_batch_1", ""])
def test_battery_12_the_real_cut_short_files_are_refused_by_name(shared: Path, name: str) -> None:
    message = refused(shared / "cut-short" / name)
    assert str(shared / "cut-short" / (name or "data_batch_1")) in message
    assert "cut short" in message


CHANGES: dict[str, dict[str, object]] = {
    "a label of 10": {"labels": [*LABELS[1:], 10]},
    "a negative label": {"labels": [*LABELS[1:], -1]},
    "labels of floats": {"labels": [float(label) for label in LABELS]},
    "labels of text": {"labels": [str(label) for label in LABELS]},
    "labels that are true": {"labels": [True] * ROWS},
    "labels as text": {"labels": "0" * ROWS},
    "too few labels": {"labels": LABELS[1:]},
    "no labels": {"labels": None},
    "too few rows": {"data": rows(0)[1:]},
    "too many rows": {"data": np.concatenate([rows(0), rows(0)])},
    "short rows": {"data": rows(0)[:, :3071]},
    "four axes": {"data": rows(0).reshape(ROWS, 3, 32, 32)},
    "floats": {"data": rows(0).astype(np.float32)},
    "signed bytes": {"data": rows(0).astype(np.int8)},
    "wide integers": {"data": rows(0).astype(np.int64)},
    "a list": {"data": [[0] * 3072] * ROWS},
    "bytes": {"data": rows(0).tobytes()},
    "no data": {"data": None},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_batch_is_refused(official: Path, change: str) -> None:
    batch = {"data": rows(0), "labels": LABELS} | CHANGES[change]
    (official / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=4))
    assert "data_batch_1" in refused(official)


@pytest.mark.parametrize("content", [[], 5, "data", {}, {"data": {}}], ids=repr)
def test_other_pickles_are_refused(official: Path, content: object) -> None:
    (official / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    assert "data_batch_1" in refused(official)


def test_a_batch_of_great_length_is_not_even_read(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (official / "data_batch_1").open("r+b") as file:
        file.truncate(10 << 30)  # a hole of 10 GiB, which takes no room
    assert "10,737,418,240 bytes are no CIFAR-10 batch" in refused(official)


# What is hostile


class Calls:
    """Pickled, it calls a function as soon as it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def in_object_array(content: object) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = content
    return array


CANARY = "canary"
TOUCH = f"open({CANARY!r}, 'w').close()"
HOSTILE = {
    "os.system": Calls(os.system, f"touch {CANARY}"),
    "eval": Calls(eval, TOUCH),
    "exec": Calls(exec, TOUCH),
    "open": Calls(open, CANARY, "w"),
    "subprocess": Calls(subprocess.call, ["touch", CANARY]),
    "in an object array": in_object_array(Calls(os.system, f"touch {CANARY}")),
    "getattr": Calls(getattr, np.ndarray, "tofile"),
    "numpy's own writer": Calls(np.save, CANARY + ".npy", 1),
    "a memory map": Calls(np.memmap, CANARY, "u1", "w+", 0, (4,)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_batch_is_ever_run(
    official: Path, tmp_path: Path, name: str, protocol: int
) -> None:
    batch = {"data": HOSTILE[name], "labels": LABELS}
    content = pickle.dumps(batch, protocol=protocol)
    (official / "data_batch_1").write_bytes(content)
    archive = pack(official, tmp_path / "cifar-10-python.tar.gz")
    for path in (official, official / "data_batch_1", archive):
        assert "data_batch_1" in refused(path)
    assert not list(tmp_path.rglob(f"{CANARY}*"))


@pytest.mark.parametrize("name", ["os.system", "eval", "open"])
def test_the_hostile_pickles_would_do_harm(tmp_path: Path, name: str) -> None:
    """The other way round: read by plain pickle, the canary appears."""
    result = pickle.loads(pickle.dumps(HOSTILE[name]))
    if name == "open":
        result.close()
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cbuiltins\nbytearray\n.",
        b"\x80\x04\x8c\x05\x1b[31m\x8c\x03a\nb\x93.",
        b"cos\nsystem\n(Vtouch canary\ntR.",
        b"(Vtouch canary\nios\nsystem\n.",
        b"Pcanary\n.",
        b"(cnumpy\ndtype\nVO\no.",
    ],
    ids=repr,
)
def test_hand_written_pickles_are_refused(official: Path, content: bytes) -> None:
    (official / "data_batch_1").write_bytes(content)
    assert "data_batch_1" in refused(official)
    assert not Path(CANARY).exists()


def test_no_array_is_laid_over_an_arbitrary_address(tmp_path: Path) -> None:
    """``numpy.ndarray`` as a function makes "objects" of any bytes; to touch one is a crash."""
    array = (
        b"\x80\x05cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\n\x8c\x01O\x85R"
        + (b"\x96" + struct.pack("<Q", 8) + b"A" * 8)  # a bytearray: eight bytes, to be an address
        + b"tR"
    )
    (tmp_path / "data_batch_1").write_bytes(array + b"(K\x00Nu.")  # array[0] = None
    code = (
        "import sys; from eyebright.data import load\n"
        "from eyebright.errors import DataError\n"
        "try: load(sys.argv[1])\n"
        "except DataError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data_batch_1")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, "it crashed"
    assert "data_batch_1: no CIFAR-10 batch" in result.stdout


# The real copy


@pytest.fixture(scope="module")
def real(cifar10_home: Path) -> Dataset:
    return load(cifar10_home / "cifar-10-batches-py")


def test_the_real_train_part(real: Dataset, cifar10_home: Path) -> None:
    assert len(real) == 50_000
    assert real.ids == list(range(50_000))
    assert real.counts().tolist() == [5000] * 10
    assert real.classes == tuple(CLASSES)
    # Row 123 of the third batch, as the class folders have it under its official index.
    (path,) = (cifar10_home / "cifar10-folder" / "train").rglob("20123.jpg")
    assert path.parent.name == real.classes[real.labels[20123]]
    from eyebright.images import decode

    assert np.array_equal(decode(path.read_bytes()), real.images[20123])


def test_the_real_test_part_by_name(cifar10_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEBRIGHT_DATA", str(cifar10_home))
    test = load("cifar10", "test")
    assert len(test) == 10_000
    assert test.ids == list(range(10_000))
    assert test.counts().tolist() == [1000] * 10


def test_the_real_archive(real: Dataset, cifar10_home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        tar.add(cifar10_home / "cifar-10-batches-py", "cifar-10-batches-py")
    try:
        assert load(tmp_path).fingerprint == real.fingerprint
    finally:
        archive.unlink()  # 180 MB
