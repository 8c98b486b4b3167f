"""Shards: what is written, who can read it, in which order, and what happens when it is damaged."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load as load_arrays
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from eyebright import batches, conversion, convert, order, packing, train
from eyebright.batches import Normalization, on_device, train_batches
from eyebright.classifier import Classifier
from eyebright.config import TrainConfig
from eyebright.data import Dataset, index, load, shards, streams
from eyebright.data.contents import numbers_file
from eyebright.data.index import INDEX
from eyebright.data.streams import Stream
from eyebright.data.tars import TarWriter
from eyebright.errors import DataError, EyebrightError, StorageError, UsageError
from eyebright.holdout import hold_out
from eyebright.images import read_image
from eyebright.order import epoch_order, order_by_windows
from eyebright.recipes import recipe_config

Make = Callable[..., Path]
Says = Callable[..., tuple[int, str, str]]
AS_THEY_ARE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def numbered(folder: Path, count: int, side: int = 8) -> Path:
    """Class folders whose picture number i has the colour i: the pixels say which one it is."""
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (i % 256, i // 256, 0)).save(path)
    return folder


def numbers_of(pictures: torch.Tensor) -> list[int]:
    """The numbers of normalised pictures (n, 3, side, side) of `numbered`."""
    colours = (pictures[:, :, 0, 0] * 255).round().long()
    return (colours[:, 0] + 256 * colours[:, 1]).tolist()


def plain(batch_size: int = 10, **settings: Any) -> TrainConfig:
    config = recipe_config("fast").replace(
        batch_size=batch_size, augment="none", precision="fp32", drop_last=False, balance="none"
    )
    return config.replace(**settings)


def epoch_of(
    data: Dataset, epoch: int, first: int = 0, config: TrainConfig | None = None
) -> Iterator[list[int]]:
    """The numbers of the pictures of each batch."""
    images, rows = on_device(data.pixels, torch.device("cpu"))
    labels = torch.from_numpy(data.labels)
    config = config or plain()
    for pictures, targets in train_batches(
        images, labels, config, AS_THEY_ARE, epoch, rows, first, data.shards
    ):
        found = numbers_of(pictures)
        assert [n % 2 for n in found] == targets.tolist(), "labels belong to their pictures"
        yield found


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """300 numbered pictures in 30 shards or so, streamed; windows of four shards."""
    monkeypatch.setattr(order, "WINDOW", 1)
    numbered(tmp_path / "n", 300)
    convert(tmp_path / "n", tmp_path / "out", shard_size=conversion.LEAST_SIZE * 2)
    return load(tmp_path / "out", stream=True)


# What is written


def photographs(class_folders: Make) -> Path:
    folder = class_folders("photos", count=9, size=(40, 30), ending=".jpg")
    Image.new("L", (20, 50), 99).save(folder / "cat" / "grey.PNG")
    (folder / "cat" / "0.jpg").rename(folder / "cat" / "a.b c.jpeg")
    return folder


def test_bytes_labels_and_ids_stay_as_they_are(class_folders: Make, tmp_path: Path) -> None:
    folder = photographs(class_folders)
    found = convert(folder, tmp_path / "out", shard_size=20_000)
    part = found.parts["train"]
    assert part.pictures == 19
    assert len(part.shards) > 1
    assert all(shard.bytes <= 20_000 for shard in part.shards)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        ".lock", INDEX, "train.safetensors", *(shard.name for shard in part.shards),
    }  # fmt: skip
    original, data = load(folder), load(tmp_path / "out", stream=True)
    assert data.ids == original.ids
    assert data.classes == original.classes == ("cat", "dog")
    assert np.array_equal(data.labels, original.labels)
    assert np.array_equal(data.sizes, original.sizes)
    assert data.modes == original.modes
    assert isinstance(data.pixels, Stream)
    for i, name in enumerate(data.ids):
        assert data.pixels.members.read(i) == (folder / str(name)).read_bytes()
    assert np.array_equal(data.pixels[:], original.images)
    assert np.array_equal(load(tmp_path / "out", stream=False).images, original.images)


def test_tarfile_reads_them_and_the_same_pictures_give_the_same_bytes(
    class_folders: Make, tmp_path: Path
) -> None:
    folder = photographs(class_folders)
    one = convert(folder, tmp_path / "one", shard_size=20_000, workers=1)
    two = convert(folder, tmp_path / "two", shard_size=20_000, workers=3)
    assert one == two
    data = load(tmp_path / "one", stream=True)
    pictures = {}
    for shard in one.parts["train"].shards:
        path = tmp_path / "one" / shard.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.mode, m.isreg()) for m in members} == {
                (0, 0, 0, 0o644, True)
            }
            contents = {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]
        names = list(contents)
        for picture, label in zip(names[::2], names[1::2], strict=True):
            key, ending = picture.split(".")
            assert label == f"{key}.cls"
            i = int(key)
            assert f".{ending}" == Path(str(data.ids[i])).suffix.lower()
            assert contents[label] == str(data.labels[i]).encode()
            pictures[i] = contents[picture]
    assert sorted(pictures) == list(range(19))
    assert all(pictures[i] == (folder / str(data.ids[i])).read_bytes() for i in pictures)


READ_BY_WEBDATASET = """
import hashlib, io, json, sys, webdataset
raw = webdataset.WebDataset(sys.argv[1:], shardshuffle=False)
found = [
    {"key": one["__key__"], "label": one["cls"].decode()}
    | {k: hashlib.sha256(one[k]).hexdigest() for k in one if k in ("jpg", "jpeg", "png")}
    for one in raw
]
decoded = webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode("pil")
sizes = [(p.size, label) for p, label in decoded.to_tuple("jpg;jpeg;png", "cls")]
print(json.dumps([found, sizes]))
"""


def test_webdataset_reads_them(class_folders: Make, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    folder = photographs(class_folders)
    found = convert(folder, tmp_path / "out", shard_size=20_000)
    paths = [str(tmp_path / "out" / shard.name) for shard in found.parts["train"].shards]
    data = load(tmp_path / "out", stream=True)
    # In a process of its own, for it leaves files open.
    command = [sys.executable, "-c", READ_BY_WEBDATASET, *paths]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    samples, decoded = json.loads(said)
    assert sorted(int(one["key"]) for one in samples) == list(range(19))
    for one, (size, label) in zip(samples, decoded, strict=True):
        i = int(one["key"])
        ending = Path(str(data.ids[i])).suffix.lower().removeprefix(".")
        content = (folder / str(data.ids[i])).read_bytes()
        assert one[ending] == hashlib.sha256(content).hexdigest()
        assert int(one["label"]) == label == data.labels[i]
        assert size == data.sizes[i].tolist()


def test_each_shard_holds_all_classes(streamed: Dataset) -> None:
    assert streamed.shards is not None
    assert streamed.shards.max() > 10
    for shard in range(streamed.shards.max()):  # the last one may have few
        assert set(streamed.labels[streamed.shards == shard]) == {0, 1}


def test_parts_of_a_source_stay_parts(tmp_path: Path) -> None:
    for part, count in (("train", 12), ("val", 6), ("test", 8)):
        numbered(tmp_path / "d" / part, count)
    convert(tmp_path / "d", tmp_path / "out")
    data, test = load(tmp_path / "out", stream=True), load(tmp_path / "out", "test")
    assert data.val is not None
    assert (len(data), len(data.val), len(test)) == (12, 6, 8)
    assert test.ids == load(tmp_path / "d", "test").ids
    flat = numbered(tmp_path / "f", 4)
    convert(flat, tmp_path / "flat")
    with pytest.raises(DataError, match="no test part"):
        load(tmp_path / "flat", "test")


def test_tables_keep_their_columns_and_paths(tmp_path: Path) -> None:
    numbered(tmp_path / "pictures", 6)
    rows = [f"{'ab'[i % 2]}/{i}.png,{'xy'[i % 2]},p{i // 2},train" for i in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient,split", *rows]) + "\n")
    with pytest.raises(DataError, match="not one readable picture of train"):
        convert(tmp_path / "t.csv", tmp_path / "out")
    convert(tmp_path / "t.csv", tmp_path / "with-root", root=tmp_path / "pictures")
    data = load(tmp_path / "with-root", stream=True)
    assert data.ids == [row.split(",")[0] for row in rows]
    assert data.classes == ("x", "y")
    assert data.columns == {"patient": ["p0", "p0", "p1", "p1", "p2", "p2"]}
    kept, held_out = hold_out(data, plain(group="patient", val=0.3))
    assert held_out is not None
    assert not set(kept.columns["patient"]) & set(held_out.columns["patient"])


def test_official_data_become_png_with_their_ids(small_cifar10: Path, tmp_path: Path) -> None:
    found = convert("cifar10", tmp_path / "out", shard_size=1 << 20)
    assert {name: part.pictures for name, part in found.parts.items()} == {
        "train": 500, "test": 100,
    }  # fmt: skip
    official, data = load("cifar10", "test"), load(tmp_path / "out", "test")
    assert data.ids == official.ids
    assert np.array_equal(data.images, official.images)
    assert np.array_equal(data.labels, official.labels)


def test_digits_are_not_mirrored(tmp_path: Path) -> None:
    convert("digits", tmp_path / "out")
    data = load(tmp_path / "out")
    assert not data.mirrors
    assert np.array_equal(data.images, load("digits").images)


def test_pictures_may_be_resized_once(class_folders: Make, tmp_path: Path) -> None:
    folder = photographs(class_folders)
    convert(folder, tmp_path / "out", imgsz=16)
    data = load(tmp_path / "out", imgsz=16, stream=True)
    for i in (0, 9, 18):
        assert np.array_equal(data.pixels[i], read_image(folder / str(data.ids[i]), 16))
    assert data.sizes.min() == 20, "as they were before"
    again = convert(tmp_path / "out", tmp_path / "again", imgsz=8)
    assert again.parts["train"].pictures == 19
    assert load(tmp_path / "again", stream=True).ids == data.ids


# Interrupted, and begun again


def test_an_interrupted_conversion_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, class_folders: Make
) -> None:
    folder = numbered(tmp_path / "n", 200)
    (folder / "a" / "44.png").write_text("a note")
    size = conversion.LEAST_SIZE * 2
    whole = convert(folder, tmp_path / "whole", shard_size=size, skip_bad=True)
    prepared: list[int] = []
    prepare, finish = packing._prepare, TarWriter.finish

    def watched(data: Dataset, i: int, imgsz: int | None) -> packing.Picture | str:
        prepared.append(i)
        return prepare(data, i, imgsz)

    def killed(tar: TarWriter) -> str:
        if tar.path.name == "train-000006.tar":
            raise KeyboardInterrupt
        return finish(tar)

    monkeypatch.setattr(packing, "_prepare", watched)
    monkeypatch.setattr(TarWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out", shard_size=size, skip_bad=True)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert names == [f"train-{i:06d}.tar" for i in range(6)]
    assert not list((tmp_path / "out").glob("*.tmp"))
    with pytest.raises(DataError, match="again goes on with it"):
        load(tmp_path / "out")
    monkeypatch.setattr(TarWriter, "finish", finish)
    prepared.clear()
    again = convert(folder, tmp_path / "out", shard_size=size, skip_bad=True)
    assert again == whole
    done = sum(shard.pictures for shard in whole.parts["train"].shards[:6])
    assert 200 - done - 1 <= len(prepared) <= 200 - done
    for path in (tmp_path / "whole").iterdir():
        if path.name != ".lock":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_it_begins_anew_where_pictures_have_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion.notices, "propagate", True)
    folder = numbered(tmp_path / "n", 40)
    good = (folder / "a" / "4.png").read_bytes()
    (folder / "a" / "4.png").write_bytes(good[:45])
    with pytest.raises(DataError, match=r"4\.png: damaged.*\n1 picture cannot be read.*--skip"):
        convert(folder, tmp_path / "out")
    assert (tmp_path / "out" / conversion.STATE).exists()
    (folder / "a" / "4.png").write_bytes(good)
    convert(folder, tmp_path / "out")
    assert "begun anew" in caplog.text
    assert len(load(tmp_path / "out", stream=True)) == 40


def test_nothing_of_somebody_elses_is_touched(tmp_path: Path, eyebright_says: Says) -> None:
    folder, other = numbered(tmp_path / "n", 4), numbered(tmp_path / "m", 4)
    (folder / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError):
        convert(folder, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    convert(other, tmp_path / "done")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words, complaint in (
        ((other, tmp_path / "out"), "unfinished conversion of"),
        ((other, tmp_path / "full"), "not empty (letter.txt)"),
        ((other, tmp_path / "file"), "a file of that name"),
        ((other, tmp_path / "done"), "holds shards already"),
        ((other, other / "out"), "would lie among the pictures"),
        ((other, other), "would lie among the pictures"),
        ((other, tmp_path / "new", "--shard-size", "1"), "--shard-size must be"),
        ((other, tmp_path / "new", "--shard-size", "much"), "--shard-size must be"),
        ((other, tmp_path / "new", "--imgsz", "2"), "--imgsz must be"),
        ((other, tmp_path / "new", "--root", tmp_path), "--root is for tables"),
    ):
        code, _, error = eyebright_says("convert", *words)
        assert code == 2, words
        assert complaint in error
        assert error.count("\n") == 1
    code, _, error = eyebright_says("convert", tmp_path / "gone", tmp_path / "new")
    assert code == 3
    assert "no such file or folder" in error
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_the_command_says_what_it_wrote(
    tmp_path: Path,
    eyebright_says: Says,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversion.notices, "propagate", True)
    folder = numbered(tmp_path / "n", 40)
    (folder / "a" / "0.png").write_text("a note")
    code, said, error = eyebright_says("convert", folder, "out", "--shard-size", "20k")
    assert code == 3
    assert "0.png: no picture in a format that is read" in error
    code, said, _ = eyebright_says("convert", folder, "out", "--shard-size", "20k", "--skip-bad")
    assert code == 0
    assert "1 unreadable picture was left out" in caplog.text
    assert said.startswith("train: 39 pictures in 5 shards, 0.1 MB\n")
    assert "eyebright train out" in said
    code, said, _ = eyebright_says("look", "out")
    assert code == 0
    assert "39 training pictures" in said


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = numbered(tmp_path / "n", 4)

    def full(file: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eyebright.data.tars.os.write", full)
    with pytest.raises(StorageError, match=r"out.*: No space left on device"):
        convert(folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_all_bad_and_a_class_without_pictures(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "n", 4)
    for name in ("0", "2"):
        (folder / "a" / f"{name}.png").write_text("a note")
    with pytest.raises(DataError, match="not one readable picture in the class 'a'"):
        convert(folder, tmp_path / "out", skip_bad=True)
    for name in ("1", "3"):
        (folder / "b" / f"{name}.png").write_text("a note")
    with pytest.raises(DataError, match="not one readable picture of train"):
        convert(folder, tmp_path / "out2", skip_bad=True)


# Order


def test_every_picture_comes_once_an_epoch_and_epochs_differ(streamed: Dataset) -> None:
    first, second = ([n for b in epoch_of(streamed, e) for n in b] for e in (1, 2))
    assert sorted(first) == sorted(second) == list(range(300))
    assert first != second
    assert first == [n for b in epoch_of(streamed, 1) for n in b]
    other = [n for b in epoch_of(streamed, 1, config=plain(seed=7)) for n in b]
    assert sorted(other) == list(range(300))
    assert other != first


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_resumed_epoch_goes_on_with_the_very_next_picture(
    streamed: Dataset, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 20)
    config = plain(batch_size)
    whole = list(epoch_of(streamed, 3, config=config))
    for killed in (0, 1, 2, len(whole) // 2, len(whole) - 1):
        walk = epoch_of(streamed, 3, config=config)
        before = [next(walk) for _ in range(killed)]
        walk.close()  # type: ignore[attr-defined]
        after = list(epoch_of(streamed, 3, killed, config))
        assert before + after == whole
        assert sorted(n for b in before + after for n in b) == list(range(300))


def test_reads_stay_within_a_few_shards(streamed: Dataset) -> None:
    assert streamed.shards is not None
    shard_of = dict(enumerate(streamed.shards.tolist()))
    place = {int(Path(str(name)).stem): i for i, name in enumerate(streamed.ids)}
    seen: list[set[int]] = []
    for found in epoch_of(streamed, 1):
        seen.append({shard_of[place[n]] for n in found})
    assert max(map(len, seen)) <= 2 * order.WINDOW_SHARDS
    last = {shard: i for i, one in enumerate(seen) for shard in one}
    for shard, end in last.items():  # once left, a shard is not come back to
        begin = next(i for i, one in enumerate(seen) if shard in one)
        window = set().union(*seen[begin : end + 1])
        assert len(window) <= 3 * order.WINDOW_SHARDS
    resident = Dataset(streamed.images, streamed.labels, streamed.classes)
    everywhere = [{shard_of[place[n]] for n in found} for found in epoch_of(resident, 1)]
    assert np.mean([len(one) for one in everywhere]) > 1.5 * np.mean([len(one) for one in seen])


def test_windows_hold_as_many_pictures_as_they_should() -> None:
    shards_of = np.repeat(np.arange(40, dtype=np.int32), 1000)
    order = order_by_windows(epoch_order(40_000, 0, 1), shards_of, 0, 1).numpy()
    assert np.array_equal(np.sort(order), np.arange(40_000))
    first = set(shards_of[order[:17_000]])
    assert len(first) == 17, "more than 16,384 pictures"
    assert not first & set(shards_of[order[17_000:]])
    large = np.repeat(np.arange(10, dtype=np.int32), 20_000)
    order = order_by_windows(epoch_order(200_000, 0, 1), large, 0, 1).numpy()
    assert len(set(large[order[:80_000]])) == 4, "four shards at least"


def test_balanced_drawing_keeps_to_windows_too(streamed: Dataset) -> None:
    few = streamed.subset([i for i in range(300) if streamed.labels[i] or i % 5 == 0])
    found = [n for b in epoch_of(few, 1, config=plain(balance="sampler")) for n in b]
    assert len(found) == len(few)
    assert abs(np.mean([n % 2 for n in found]) - 0.5) < 0.1


def test_shards_of_another_number_of_ranks_leave_the_epoch_as_it_is(streamed: Dataset) -> None:
    """Each rank takes a slice of each batch, so that together they see what one sees."""
    for epoch, ranks in ((1, 1), (2, 3), (3, 2)):
        seen = [n for b in epoch_of(streamed, epoch) for r in range(ranks) for n in b[r::ranks]]
        assert sorted(seen) == list(range(300))


# Streamed and resident


def test_a_streamed_training_gives_the_very_weights_of_a_resident_one(
    class_folders: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(count=60)
    convert(folder, tmp_path / "out", shard_size=conversion.LEAST_SIZE * 2)
    settings: dict[str, Any] = {
        "recipe": "quick", "epochs": 2, "batch_size": 8, "device": "cpu",
        "quiet": True, "imgsz": 16,
    }  # fmt: skip
    runs = {}
    for name, stream in (("resident", "0"), ("streamed", "1")):
        monkeypatch.setenv("EYEBRIGHT_STREAM", stream)
        assert load(tmp_path / "out").is_streamed == (stream == "1")
        runs[name] = train(tmp_path / "out", name=name, **settings)
    # killed in the middle of its second epoch, and gone on with where there is memory
    decode, calls = Stream._decode, [0]

    def killed(self: Stream, i: int) -> Any:
        calls[0] += 1
        if calls[0] == 250:
            raise KeyboardInterrupt
        return decode(self, i)

    monkeypatch.setattr(Stream, "_decode", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out", name="killed", **settings)
    monkeypatch.setattr(Stream, "_decode", decode)
    monkeypatch.setenv("EYEBRIGHT_STREAM", "0")
    runs["resumed"] = train(resume=Path("runs/killed"), quiet=True)
    weights = {n: load_file(run.path / "model.safetensors") for n, run in runs.items()}
    for name in ("streamed", "resumed"):
        for key, value in weights["resident"].items():
            assert np.array_equal(weights[name][key], value), (name, key)
        losses = [[row["train_loss"] for row in runs[n].log()] for n in ("resident", name)]
        assert losses[0] == losses[1]
    assert runs["resident"].data_record == runs["streamed"].data_record
    monkeypatch.setenv("EYEBRIGHT_STREAM", "1")
    said = runs["resident"].val()  # the data are the same, streamed or not
    assert said.leaks == 0
    with pytest.raises(DataError, match="the very pictures it was trained on"):
        runs["resident"].test(tmp_path / "out")
    assert runs["resident"].test(folder).leaks is None


def test_what_walks_over_pictures_need_not_know(streamed: Dataset, tmp_path: Path) -> None:
    resident = load(tmp_path / "out", stream=False)
    assert resident.fingerprint == streamed.fingerprint
    assert not resident.is_streamed
    every = resident.images
    assert np.array_equal(streamed.pixels[3], every[3])
    assert np.array_equal(streamed.pixels[[5, 1]], every[[5, 1]])
    assert np.array_equal(streamed.pixels[10:4:-2], every[10:4:-2])
    assert streamed.pixels[np.array([], int)].shape == (0, 8, 8, 3)
    assert np.array_equal(np.concatenate(list(streamed.pixels.parts(7))), every)
    assert np.array_equal(streamed.resized(4).pixels[:], resident.resized(4).images)
    part, same = streamed.subset([9, 2, 200]), resident.subset([9, 2, 200])
    assert part.is_streamed
    assert part.fingerprint == same.fingerprint != streamed.fingerprint
    assert np.array_equal(part.images, same.images), "asked for as an array, they are decoded"
    picture, label = streamed[4]
    assert picture.shape == (3, 8, 8)
    assert label == streamed.labels[4]
    again = pickle.loads(pickle.dumps(streamed.pixels))
    assert np.array_equal(again[7], every[7])
    loaded = list(torch.utils.data.DataLoader(streamed, 50, num_workers=2))
    assert sum(len(labels) for _, labels in loaded) == 300


def test_nothing_is_decoded_to_load_split_and_name(
    streamed: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Stream, "_decode", decode)
    data = load(tmp_path / "out", stream=True)
    kept, held_out = hold_out(data, plain(val=0.2))
    assert held_out is not None
    assert (len(kept), len(held_out)) == (240, 60)
    assert len(data.fingerprint) == 64
    assert not set(kept.ids) & set(held_out.ids)


def test_few_pictures_are_in_memory_at_once(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "n", 400, side=64)
    convert(folder, tmp_path / "out")
    data = load(tmp_path / "out", imgsz=224, stream=True, workers=2)
    all_of_them = len(data) * 224 * 224 * 3
    images, rows = on_device(data.pixels, torch.device("cpu"))
    labels = torch.from_numpy(data.labels)
    assert isinstance(images, Stream)
    tracemalloc.start()
    n = 0
    for pictures in batches.take(images, rows, torch.arange(400).split(20), labels.device):
        n += len(pictures)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 400
    assert peak < (streams.AHEAD + 3) * 20 * 224 * 224 * 3 < all_of_them / 3


def test_the_next_pictures_are_decoded_while_these_are_used(streamed: Dataset) -> None:
    assert isinstance(streamed.pixels, Stream)
    asked = []

    def wanted() -> Iterator[np.ndarray]:
        for start in range(0, 300, 50):
            asked.append(start)
            yield np.arange(start, start + 50)

    walk = streamed.pixels.walk(wanted())
    next(walk)
    assert asked == [0, 50, 100], "two more are on their way"
    walk.close()  # type: ignore[attr-defined]


def test_memory_decides_unless_somebody_says(
    streamed: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shards.notices, "propagate", True)
    assert not load(tmp_path / "out").is_streamed
    needed = 300 * 8 * 8 * 3
    monkeypatch.setattr(shards, "memory", lambda: (10 * needed, 2 * needed - 2))
    assert load(tmp_path / "out").is_streamed
    assert "300 pictures of 8 px would take" in caplog.text
    monkeypatch.setattr(shards, "memory", lambda: (10 * needed, 2 * needed))
    assert not load(tmp_path / "out").is_streamed
    monkeypatch.setenv("EYEBRIGHT_STREAM", "1")
    assert load(tmp_path / "out").is_streamed
    assert not load(tmp_path / "out", stream=False).is_streamed
    monkeypatch.setenv("EYEBRIGHT_STREAM", "yes")
    with pytest.raises(UsageError, match="EYEBRIGHT_STREAM must be 0 or 1"):
        load(tmp_path / "out")
    with pytest.raises(UsageError, match="only shards are streamed"):
        load(tmp_path / "n", stream=True)


def test_decisions_and_other_classes_apply_to_shards(streamed: Dataset, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,decision,label\na/0.png,drop,\na/2.png,relabel,b\n")
    data = load(tmp_path / "out", labels=table, stream=True)
    assert data.is_streamed
    assert len(data) == 299
    assert "a/0.png" not in data.ids
    assert data.labels[data.ids.index("a/2.png")] == 1
    other = load(tmp_path / "out", classes=["z", "b", "a"], stream=True)
    assert np.array_equal(other.labels, 2 - streamed.labels)
    with pytest.raises(DataError, match="there is no class 'b' among those known: a, z"):
        load(tmp_path / "out", classes=["a", "z"])


# Damage


def first_shard(folder: Path) -> Path:
    return folder / "train-000000.tar"


def edit_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / INDEX).read_text())
        change(about)
        (folder / INDEX).write_text(json.dumps(about))

    return damage


def edit_numbers(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Whoever lies may put the right sum beside it."""

    def damage(folder: Path) -> None:
        path = folder / numbers_file("train")
        arrays = {k: v.copy() for k, v in load_arrays(path.read_bytes()).items()}
        change(arrays)
        path.write_bytes(content := save_arrays(arrays))
        sha256 = hashlib.sha256(content).hexdigest()
        edit_index(lambda about: about["parts"]["train"].update(sha256=sha256))(folder)

    return damage


def shard_says(**changes: object) -> Callable[[Path], None]:
    return edit_index(lambda about: about["parts"]["train"]["shards"][0].update(changes))


def set_first(name: str, value: int) -> Callable[[Path], None]:
    return edit_numbers(lambda arrays: arrays[name].__setitem__(0, value))


def behind(folder: Path) -> None:
    size = first_shard(folder).stat().st_size
    edit_numbers(lambda a: a["offset"].__setitem__(a["shard"] == 0, size - 5))(folder)


def fifo(folder: Path) -> None:
    first_shard(folder).unlink()
    os.mkfifo(first_shard(folder))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (lambda f: first_shard(f).unlink(), r"train-000000\.tar: missing"),
    "a short shard": (lambda f: os.truncate(first_shard(f), 700), r"000000\.tar: 700 bytes, and"),
    "a pipe": (fifo, r"train-000000\.tar: missing"),
    "zeros": (
        lambda f: first_shard(f).write_bytes(bytes(first_shard(f).stat().st_size)),
        r"train-000000\.tar: no picture where its index has one",
    ),
    "no index": (lambda f: (f / INDEX).unlink(), "tar files without an index"),
    "an empty index": (lambda f: (f / INDEX).write_text(""), r"index\.json: unreadable"),
    "half an index": (lambda f: os.truncate(f / INDEX, 99), r"index\.json: unreadable"),
    "a deep index": (lambda f: (f / INDEX).write_text("[" * 100_000), r"index\.json: unreadable"),
    "no numbers": (lambda f: (f / numbers_file("train")).unlink(), r"safetensors: No such file"),
    "other numbers": (
        lambda f: (f / numbers_file("train")).write_bytes(b"\0" * 99), "not the file that",
    ),
    "no classes": (edit_index(lambda a: a.update(classes=[])), "no index of shards"),
    "numbers for classes": (edit_index(lambda a: a.update(classes=[1, 2])), "no index of shards"),
    "one class": (edit_index(lambda a: a.update(classes=["a"])), "label of a picture lies outside"),
    "a list of parts": (edit_index(lambda a: a.update(parts=[1])), "no index of shards"),
    "another part": (edit_index(lambda a: a["parts"].update(more={})), "no index of shards"),
    "a path": (shard_says(name="../train-000000.tar"), "is no shard of train"),
    "a shard of another part": (shard_says(name="val-000000.tar"), "is no shard of train"),
    "endless": (shard_says(bytes=float("inf")), "no index|Infinity is no JSON"),
    "minus": (shard_says(pictures=-1), "is no count"),
    "too many": (shard_says(pictures=2**52), "its count of train"),
    "a negative offset": (set_first("offset", -512), "offset of a picture lies outside"),
    "a huge offset": (set_first("offset", 2**62), "offset of a picture lies outside"),
    "a huge length": (set_first("length", 2**40), "length of a picture lies outside"),
    "a negative length": (set_first("length", -1), "length of a picture lies outside"),
    "behind the end": (behind, "behind the end of its shard"),
    "another shard": (set_first("shard", 99), "shard of a picture lies outside"),
    "a label": (set_first("label", 2), "label of a picture lies outside"),
    "a mode": (set_first("mode", 5), "mode of a picture lies outside"),
    "a missing column": (edit_numbers(lambda a: a.pop("width")), "no index of these shards"),
    "fewer": (edit_numbers(lambda a: a.update(label=a["label"][:5])), "no index of these shards"),
    "floats": (
        edit_numbers(lambda a: a.update(offset=a["offset"].astype(float))),
        "no index of these shards",
    ),
    "ids that overlap": (
        edit_numbers(lambda a: a["ids.ends"].__setitem__(0, 10**6)), "do not fit together",
    ),
    "negative ids": (
        edit_numbers(lambda a: a["ids.ends"].__setitem__(0, -3)), "do not fit together",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, damage: str) -> None:
    numbered(tmp_path / "n", 30)
    convert(tmp_path / "n", tmp_path / "out", shard_size=conversion.LEAST_SIZE)
    change, complaint = DAMAGE[damage]
    change(tmp_path / "out")
    with pytest.raises(DataError, match=complaint) as caught:
        load(tmp_path / "out", stream=True)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "out") in str(caught.value)


@pytest.mark.parametrize("stream", [True, False])
def test_a_changed_picture_names_shard_and_member(tmp_path: Path, stream: bool) -> None:
    numbered(tmp_path / "n", 30)
    convert(tmp_path / "n", tmp_path / "out")
    data = load(tmp_path / "out", stream=True)
    assert isinstance(data.pixels, Stream)
    members = data.pixels.members
    middle = np.argsort(members.offset)[15]
    content = bytearray(first_shard(tmp_path / "out").read_bytes())
    content[int(members.offset[middle]) + 40] ^= 1
    first_shard(tmp_path / "out").write_bytes(content)
    name = rf"train-000000\.tar, {middle:09d}\.png: not the bytes that the index knows"
    with pytest.raises(DataError, match=name):
        list(epoch_of(load(tmp_path / "out", stream=stream), 1))


def test_a_picture_that_is_none_names_shard_and_member(tmp_path: Path) -> None:
    """An index may know the right sum of what is no picture."""
    numbered(tmp_path / "n", 30)
    convert(tmp_path / "n", tmp_path / "out")
    path = first_shard(tmp_path / "out")
    content = bytearray(path.read_bytes())

    def lie(arrays: dict[str, np.ndarray]) -> None:
        offset, length = int(arrays["offset"][7]), int(arrays["length"][7])
        content[offset : offset + length] = b"x" * length
        sha256 = hashlib.sha256(b"x" * length).digest()
        arrays["digest"][7] = np.frombuffer(sha256, np.uint8)

    edit_numbers(lie)(tmp_path / "out")
    path.write_bytes(content)
    for stream in (True, False):
        with pytest.raises(DataError, match=r"000000\.tar, 000000007\.png: no picture in a format"):
            load(tmp_path / "out", stream=stream).pixels[:]


def test_a_shard_that_vanishes_while_it_is_read(streamed: Dataset, tmp_path: Path) -> None:
    assert isinstance(streamed.pixels, Stream)
    fresh = pickle.loads(pickle.dumps(streamed.pixels))  # with no file open
    for path in (tmp_path / "out").glob("*.tar"):
        path.unlink()
    with pytest.raises(DataError, match=r"train-\d+\.tar, byte [\d,]+: No such file"):
        fresh[:]


def test_files_are_closed_again(streamed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_OPEN", 3)
    assert isinstance(streamed.pixels, Stream)
    pixels = Stream(streamed.pixels.members, 8, workers=4)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert len(pixels[:]) == 300
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


def test_shards_of_others_are_explained(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "others-0.tar", "w") as tar:
        (tmp_path / "0.cls").write_text("0")
        tar.add(tmp_path / "0.cls", "0.cls")
    with pytest.raises(EyebrightError, match="others' shards cannot be read in place"):
        load(tmp_path)
    (tmp_path / index.STATE).write_text("{}")
    with pytest.raises(EyebrightError, match="not finished; the same 'eyebright convert' again"):
        load(tmp_path)


def test_a_classifier_takes_streamed_pictures(
    class_folders: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(class_folders(count=30), tmp_path / "out")
    monkeypatch.setenv("EYEBRIGHT_STREAM", "1")
    run = train(tmp_path / "out", recipe="quick", imgsz=16, epochs=1, device="cpu", quiet=True)
    data = load(tmp_path / "out", imgsz=16)
    assert data.is_streamed
    said = Classifier.load(run.path).predict_proba(data.pixels)
    resident = load(tmp_path / "out", imgsz=16, stream=False)
    assert np.array_equal(said, Classifier.load(run.path).predict_proba(resident.pixels))
    assert index.read_index(tmp_path / "out").flat
