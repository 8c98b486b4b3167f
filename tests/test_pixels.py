"""The cache of decoded pictures: what is found again, what is noticed, what is thrown away."""

import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyebright.batches import Normalization, on_device, predict_logits, train_batches
from eyebright.console import notices
from eyebright.data import Dataset, decoding, load, pixels, views
from eyebright.data.views import View
from eyebright.errors import DataError, UsageError
from eyebright.images import read_image
from eyebright.recipes import recipe_config
from eyebright.trained_on import TrainedOn

Make = Callable[..., Path]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents that were decoded so far."""
    contents: list[bytes] = []

    def read(content: bytes, imgsz: int) -> np.ndarray:
        contents.append(content)
        return read_image(content, imgsz)

    monkeypatch.setattr(decoding, "read_image", read)
    return contents


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All notices so far, as text."""
    monkeypatch.setattr(notices, "propagate", True)
    return lambda: "\n".join(r.getMessage() for r in caplog.records if r.name == "eyebright")


def save(path: Path, seed: int, size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def test_a_second_time_nothing_is_decoded(
    class_folders: Make, decoded: list[bytes], pixel_cache: Path
) -> None:
    folder = class_folders(count=5)
    first = load(folder)
    assert len(decoded) == 10
    second = load(folder, workers=0)
    assert len(decoded) == 10
    assert second.fingerprint == first.fingerprint
    assert [entry.is_dir() for entry in entries(pixel_cache)] == [True]
    load(folder, imgsz=24)
    assert len(decoded) == 20, "another size is another entry"
    assert len(entries(pixel_cache)) == 2
    expected = [read_image(folder / str(name), 16) for name in first.ids]
    assert np.array_equal(second.images, expected)


def test_a_folder_that_was_moved_or_renamed_is_known_by_its_content(
    class_folders: Make, decoded: list[bytes]
) -> None:
    folder = class_folders(count=5)
    first = load(folder)
    other = folder.rename(folder.with_name("moved"))
    (other / "dog").rename(other / "wolf")
    assert np.array_equal(load(other).images, first.images)
    assert len(decoded) == 10


def test_a_changed_file_is_noticed_even_with_the_same_size_and_time(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 20)):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (value, 0, 0)).save(tmp_path / "d" / name / "0.bmp")
    first = load(tmp_path / "d")
    path = tmp_path / "d" / "b" / "0.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] = 99
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = load(tmp_path / "d")
    assert second.fingerprint != first.fingerprint
    assert np.array_equal(second.images[1], read_image(path, 8))


def test_a_file_that_changes_between_check_and_decoding_is_named(
    class_folders: Make, monkeypatch: pytest.MonkeyPatch, pixel_cache: Path
) -> None:
    folder = class_folders(count=3)
    path = folder / "cat" / "1.png"
    read_again = decoding._read_again

    def meanwhile(file: Path, digest: bytes) -> bytes:
        if file == path:
            save(path, seed=9)
        return read_again(file, digest)

    monkeypatch.setattr(decoding, "_read_again", meanwhile)
    with pytest.raises(DataError, match=r"1\.png: changed while it was being read"):
        load(folder, skip_bad=True)
    assert entries(pixel_cache) == [], "no entry, and nothing half-written"
    monkeypatch.setattr(
        decoding, "_read_again", lambda file, digest: read_again(Path("gone"), digest)
    )
    with pytest.raises(DataError, match="gone: No such file"):
        load(folder, skip_bad=True)


def test_the_same_content_is_decoded_once(tmp_path: Path, decoded: list[bytes]) -> None:
    for i in range(12):
        save(tmp_path / "d" / "ab"[i % 2] / f"{i}.png", seed=i % 3)
    data = load(tmp_path / "d")
    assert len(decoded) == 3
    assert len(data.pixels.base) == 3
    assert data.images.shape == (12, 16, 16, 3)
    expected = [read_image(tmp_path / "d" / str(name), 16) for name in data.ids]
    assert np.array_equal(data.images, expected)


def spoil(folder: Path) -> list[str]:
    """Pictures with a header but without all of their pixels, and one without anything."""
    whole = save(folder / "whole.png", 7, (32, 32)).read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "0.png").write_bytes(whole[: len(whole) // 3])
    (folder / "dog" / "2.png").write_text("a note")
    return ["cat/1.png", "dog/0.png", "dog/2.png"]


def test_bad_pictures_are_remembered(
    class_folders: Make, decoded: list[bytes], said: Callable[[], str]
) -> None:
    folder = class_folders(count=4)
    bad = spoil(folder)

    def complaint() -> str:
        with pytest.raises(DataError) as caught:
            load(folder, imgsz=16)
        return str(caught.value)

    first = complaint()
    count = len(decoded)
    assert count == 7, "all but the note"
    assert complaint() == first
    assert all(str(folder / name) in first for name in bad)
    data = load(folder, skip_bad=True, imgsz=16)
    assert len(data) == 5
    assert not set(bad) & set(data.ids)
    assert np.array_equal(data.images, [read_image(folder / str(i), 16) for i in data.ids])
    assert len(decoded) == count
    assert "3 unreadable pictures were left out" in said()


def flip_a_bit(entry: Path) -> None:
    content = bytearray((entry / pixels.PIXELS).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / pixels.PIXELS).write_bytes(content)


def cut_short(entry: Path) -> None:
    os.truncate(entry / pixels.PIXELS, 100)


def zero(entry: Path) -> None:  # what a power failure leaves
    size = (entry / pixels.PIXELS).stat().st_size
    (entry / pixels.PIXELS).write_bytes(bytes(size))


def change_about(**changes: object) -> Callable[[Path], None]:
    def change(entry: Path) -> None:
        about = json.loads((entry / pixels.ABOUT).read_text())
        (entry / pixels.ABOUT).write_text(json.dumps(about | changes))

    return change


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip_a_bit,
    "cut short": cut_short,
    "zeros": zero,
    "no pixels": lambda entry: (entry / pixels.PIXELS).unlink(),
    "no about": lambda entry: (entry / pixels.ABOUT).unlink(),
    "about is empty": lambda entry: (entry / pixels.ABOUT).write_bytes(b""),
    "about is no text": lambda entry: (entry / pixels.ABOUT).write_bytes(b"\xff\x00"),
    "about is a list": lambda entry: (entry / pixels.ABOUT).write_text("[]"),
    "unknown bad pictures": change_about(bad={"00" * 32: "bad"}),
    "bad is a list": change_about(bad=["x"]),
    "no parts": change_about(parts=[]),
    "endless parts": change_about(parts=[[float("inf"), 1]]),
    "negative parts": change_about(parts=[[-1, 0], [11, 0]]),
    "an empty folder": lambda entry: [file.unlink() for file in entry.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_anew(
    class_folders: Make, decoded: list[bytes], pixel_cache: Path, damage: str
) -> None:
    folder = class_folders(count=5)
    expected = load(folder).images.copy()
    (entry,) = entries(pixel_cache)
    DAMAGE[damage](entry)
    assert np.array_equal(load(folder).images, expected)
    assert len(decoded) == 20
    assert np.array_equal(load(folder).images, expected)
    assert len(decoded) == 20
    assert entries(pixel_cache) == [entry]


def test_nobody_writes_into_an_entry(class_folders: Make) -> None:
    folder = class_folders(count=3)
    data = load(folder)
    before = data.images.copy()
    data.images[:] = 0  # as torch may, which wants arrays that can be written to
    assert np.array_equal(load(folder).images, before)


def test_several_processes_may_make_it_at_once(class_folders: Make, tmp_path: Path) -> None:
    folder = class_folders(count=60, size=(80, 70))
    code = (
        "import sys\nfrom eyebright.data import load\n"
        "sys.stdin.readline()\nprint(load(sys.argv[1], imgsz=64).fingerprint)"
    )
    home = tmp_path / "home"
    environment = os.environ | {"EYEBRIGHT_DATA": str(home)}
    command = [sys.executable, "-c", code, str(folder)]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(answers) == {load(folder, imgsz=64).fingerprint}
    assert len(entries(home / "pixels")) == 1, "one entry, and nothing half-written"


def test_the_slower_one_takes_what_the_faster_one_made(
    class_folders: Make, monkeypatch: pytest.MonkeyPatch, pixel_cache: Path
) -> None:
    folder = class_folders(count=5)
    build, inside = pixels._build, threading.Event()

    def slowly(temporary: Path, job: decoding.Job) -> None:
        build(temporary, job)
        if not inside.is_set():
            inside.set()
            load(folder)  # another process, meanwhile
            (pixel_cache / job.key / "mark").touch()

    monkeypatch.setattr(pixels, "_build", slowly)
    assert len(load(folder)) == 10
    (entry,) = entries(pixel_cache)
    assert (entry / "mark").exists()


@pytest.mark.parametrize("what", ["a file in the way", "no room", "full half way"])
def test_without_a_cache_pictures_are_in_memory(
    class_folders: Make,
    monkeypatch: pytest.MonkeyPatch,
    pixel_cache: Path,
    said: Callable[[], str],
    what: str,
) -> None:
    folder = class_folders(count=5)
    expected = load(folder).fingerprint
    shutil.rmtree(pixel_cache)
    if what == "a file in the way":
        pixel_cache.write_text("no folder")
    elif what == "no room":
        usage = shutil._ntuple_diskusage(100, 100, 0)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    else:

        def full(folder: Path, job: decoding.Job) -> None:
            folder.mkdir()
            with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
                file.write(b"x")

        monkeypatch.setattr(pixels, "_build", full)
    data = load(folder)
    assert data.fingerprint == expected
    assert not data.is_mapped
    assert said().count("pictures are decoded into memory") == 1
    assert str(pixel_cache) in said()
    if pixel_cache.is_dir():
        assert entries(pixel_cache) == []


def test_a_limit_of_nothing_switches_the_cache_off(
    class_folders: Make,
    monkeypatch: pytest.MonkeyPatch,
    pixel_cache: Path,
    said: Callable[[], str],
) -> None:
    monkeypatch.setenv("EYEBRIGHT_CACHE_GB", "0")
    assert not load(class_folders(count=5)).is_mapped
    assert not pixel_cache.exists()
    assert said() == ""
    monkeypatch.setenv("EYEBRIGHT_CACHE_GB", "plenty")
    with pytest.raises(UsageError, match="EYEBRIGHT_CACHE_GB must be a number, not 'plenty'"):
        load("pets")


def test_the_entry_that_was_not_used_for_longest_goes(
    class_folders: Make,
    monkeypatch: pytest.MonkeyPatch,
    pixel_cache: Path,
    decoded: list[bytes],
) -> None:
    folder = class_folders(count=5)
    made: dict[int, Path] = {}
    for age, imgsz in ((300, 16), (200, 17), (100, 18)):
        load(folder, imgsz=imgsz)
        (made[imgsz],) = set(entries(pixel_cache)) - set(made.values())
        os.utime(made[imgsz], (os.stat(folder).st_mtime - age,) * 2)  # noqa: PTH116
    load(folder, imgsz=16)  # of use again
    bystander = pixel_cache.parent / "bystander"
    bystander.write_text("stays")
    abandoned = pixel_cache / ".building-x"
    abandoned.mkdir()
    os.utime(abandoned, (1e9, 1e9))
    others = pixel_cache / ".building-y"
    others.mkdir()
    sizes = {i: 10 * i * i * 3 for i in (16, 17, 18, 19)}
    limit = sizes[16] + sizes[18] + sizes[19]
    monkeypatch.setenv("EYEBRIGHT_CACHE_GB", str(limit / 1e9))
    load(folder, imgsz=19)
    assert not made[17].exists()
    assert made[16].exists()
    assert made[18].exists()
    assert (bystander.exists(), abandoned.exists(), others.exists()) == (True, False, True)
    count = len(decoded)
    load(folder, imgsz=16)
    assert len(decoded) == count


def mapped(n: int = 200, side: int = 64) -> Dataset:
    noise = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    noise.tofile("noise.u8")
    images = np.memmap("noise.u8", np.uint8, "c", shape=noise.shape)
    return Dataset(View(np.asarray(images)), np.arange(n) % 2, ["a", "b"])


def test_a_part_of_mapped_pictures_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "PART_BYTES", 1 << 20)
    data = mapped(n=2000)
    copied = Dataset(data.images.copy(), data.labels, data.classes)
    which = np.random.default_rng(1).permutation(2000)[:1800]
    tracemalloc.start()
    part = data.subset(which).subset(range(1700))
    fingerprint = part.fingerprint
    known = TrainedOn.learn(part)
    assert known.count_leaks(part) == 1700
    known.probe(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12e6 < data.images.nbytes / 2, "linear probe included"
    assert np.shares_memory(part.pixels.base, data.images)
    same = copied.subset(which[:1700])
    assert same.pixels.positions is None
    assert fingerprint == same.fingerprint
    assert np.array_equal(part[5][0], same[5][0])
    assert np.array_equal(part.images, same.images)
    assert part.pixels.positions is None, "whoever asks for an array gets one, and only once"


def train_on(data: Dataset, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    config = recipe_config("fast").replace(
        batch_size=batch_size, precision="fp32", augment="mirror+shift"
    )
    images, where = on_device(data.pixels, torch.device("cpu"))
    labels = torch.from_numpy(data.labels)
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    return train_batches(images, labels, config, normalization, 1, where)


def test_parts_are_trained_on_and_predicted_like_copies() -> None:
    data = mapped()
    which = np.random.default_rng(1).permutation(200)[:90]
    part = data.subset(which)
    copy = Dataset(data.images[which], data.labels[which], data.classes)
    pairs = list(zip(train_on(part, 32), train_on(copy, 32), strict=True))
    assert len(pairs) == 2, "the last one is dropped"
    for (pictures, labels), (expected, expected_labels) in pairs:
        assert torch.equal(pictures, expected)
        assert torch.equal(labels, expected_labels)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    logits = predict_logits(net, part.pixels, normalization)
    assert torch.equal(logits, predict_logits(net, copy.images, normalization))
    assert part.pixels.positions is not None, "nobody asked for an array"
    images, where = on_device(part.pixels, torch.device("meta"))
    assert (tuple(images.shape), where) == ((90, 64, 64, 3), None)


def test_rows_are_like_an_array() -> None:
    base = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    where = np.array([8, 1, 1, 4])
    some, array = View(base, where), base[where]
    assert (len(some), some.shape) == (4, array.shape)
    for which in (2, -1, slice(1, 3), slice(None), np.array([3, 0]), [1, 1]):
        assert np.array_equal(some[which], array[which])
    assert np.array_equal(np.stack(list(some)), array)
    assert np.array_equal(some.pick(np.array([3, 0]))[:], array[[3, 0]])
    assert list(View(base[:0])) == []
    with pytest.raises(IndexError):
        some[4]


def test_decoding_needs_no_torch() -> None:
    code = (
        "import sys, eyebright.images as images\n"
        "images.read_image(images.np.zeros((9, 9, 3), 'uint8'), 4)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
