"""The audit: what is found, what is not, and how it is told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import eyebright
from eyebright.audit import audit, suspects
from eyebright.audit.duplicates import ALIKE, Searcher, best_match, compare, detail, thumbnails
from eyebright.audit.found import Audit, Twin, findings_before
from eyebright.audit.inspect import load_parts
from eyebright.audit.quality import bad_pictures
from eyebright.audit.suspects import calibrated, label_suspects
from eyebright.cli import run_app
from eyebright.data import Dataset, load
from eyebright.data.decisions import read
from eyebright.errors import ModelError, StorageError, install_command


def scenes(n: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures with shapes of their own: noise at several scales."""
    generator = np.random.default_rng(seed)
    total = np.zeros((n, side, side, 3))
    for size, weight in ((4, 40), (8, 30), (16, 25), (32, 10)):
        coarse = generator.normal(size=(n, size, size, 3)) * weight
        for i in range(n):
            for channel in range(3):
                layer = Image.fromarray(coarse[i, ..., channel].astype(np.float32), mode=None)
                total[i, ..., channel] += np.asarray(layer.resize((side, side), 3))
    return (128 + total).clip(0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "same": lambda p: p,
    "darker": lambda p: (p * 0.7).astype(np.uint8),
    "contrast": lambda p: (128 + 0.6 * (p.astype(float) - 128)).astype(np.uint8),
    "mirrored": lambda p: p[:, ::-1],
    "moved": lambda p: np.roll(p, (2, 1), (0, 1)),
    "zoomed": lambda p: np.asarray(Image.fromarray(p).crop((2, 2, 30, 30)).resize((32, 32), 2)),
    "noisy": lambda p: (
        (p + np.random.default_rng(0).normal(0, 6, p.shape)).clip(0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change: str) -> None:
    train, others = scenes(60), scenes(40, seed=1)
    others[7] = CHANGES[change](train[33])
    pairs = Searcher(train).like(others)
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(7, 33)]
    assert (pairs.similarity[0] == 1) == (change == "same")
    assert pairs.similarity[0] >= ALIKE


def test_each_pair_within_a_part_is_found_once() -> None:
    pictures = scenes(30)
    pictures[20], pictures[25], pictures[3] = pictures[4], pictures[4], pictures[9] // 2
    pairs = Searcher(pictures).like()
    found = {
        tuple(sorted(pair))
        for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    }
    assert len(found) == len(pairs.first)
    assert {(4, 20), (4, 25), (3, 9)} <= found <= {(4, 20), (4, 25), (20, 25), (3, 9)}
    assert (np.diff(pairs.similarity) <= 0).all()


def test_little_detail_counts_for_little() -> None:
    # A small dark spot in a plain sky looks like any other such spot.
    sky = np.full((2, 32, 32, 3), 200, np.uint8)
    sky[0, 13:18, 13:18], sky[1, 14:17, 12:19] = 30, 40
    spots = thumbnails(sky)
    full = thumbnails(scenes(1))
    assert best_match(detail(spots[:1]), [detail(spots[1:])])[0] > ALIKE
    assert compare(spots[:1], spots[1:])[0] < ALIKE
    assert compare(full, full)[0] > 0.9


def test_thumbnails_are_of_one_size_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert thumbnails(scenes(3, side=64)).shape == (3, 3, 32, 32)
    Searcher(scenes(20))
    assert torch.equal(torch.get_rng_state(), before)


def test_pictures_too_small_for_detail_are_only_told_if_they_are_the_same() -> None:
    digits = scenes(20, side=8)
    digits[3] = digits[5]
    digits[7] = digits[9] - 1
    pairs = Searcher(digits).like()
    assert list(zip(pairs.first, pairs.second, pairs.similarity, strict=True)) == [(3, 5, 1.0)]


def test_bad_pictures_are_named_with_the_reason() -> None:
    pictures = scenes(8)
    pictures[1], pictures[2], pictures[3] = 90, pictures[2] // 10, 235 + pictures[3] // 13
    pictures[4] = (200, 180, 90)  # one colour, and not grey
    sizes = np.tile((300, 200), (8, 1))
    sizes[5], sizes[6] = (12, 30), (900, 200)
    data = Dataset(pictures, [0, 1] * 4, ["a", "b"], sizes=sizes)
    found = {one.id: one.note for one in bad_pictures(data)}
    assert set(found) == {"1", "2", "3", "4", "5", "6"}
    for name, word in zip(
        "12356", ("blank", "very dark", "very bright", "tiny", "very long"), strict=True
    ):
        assert found[name].startswith(word)
    assert [one.score for one in bad_pictures(data)] == sorted(
        (one.score for one in bad_pictures(data)), reverse=True
    )


def test_wrong_labels_are_found(class_folders: Callable[..., Path]) -> None:
    data = load(class_folders(count=60, size=(32, 32)))
    labels = data.labels.copy()
    wrong = [3, 40, 75, 100]
    labels[wrong] = 1 - labels[wrong]
    noisy = Dataset(data.images, labels, data.classes, ids=data.ids)
    said: list[str] = []
    found = label_suspects(noisy, said.append)
    assert len({one.id for one in found[:5]} & {str(data.ids[i]) for i in wrong}) >= 3
    assert all(one.suggested != one.given for one in found)
    assert [one.score for one in found] == sorted((s.score for s in found), reverse=True)
    assert "nets are trained" in said[0]


@pytest.mark.parametrize("failure", [None, StorageError("none to be had"), ModelError("damaged")])
def test_where_many_labels_are_disagreed_with_others_are_asked(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    rng = np.random.default_rng(0)
    opinions = rng.normal(size=(3, 40, 2))
    data = Dataset(np.zeros((40, 32, 32, 3), np.uint8), rng.integers(0, 2, 40), ["a", "b"])

    def by_probe(_: Dataset, imgsz: int) -> object:
        assert imgsz > 32
        if failure:
            raise failure
        return opinions[2]

    monkeypatch.setattr(suspects, "by_nets", lambda _, seed, tell: opinions[seed].copy())
    monkeypatch.setattr(suspects, "by_probe", by_probe)
    said: list[str] = []
    found = suspects.out_of_fold(data, said.append)
    together = opinions[: 2 if failure else 3].sum(0)
    assert np.allclose(found, calibrated(together, data.labels))
    assert "others are asked too" in said[1]
    agreed = Dataset(data.images, opinions[0].argmax(1), data.classes)
    surest = calibrated(opinions[0], agreed.labels)
    assert np.allclose(suspects.out_of_fold(agreed, said.append), surest)
    assert len(said) == 3


def test_opinions_are_as_sure_as_they_are_often_right() -> None:
    labels = np.arange(1000) % 2
    logits = np.where(np.arange(1000) < 800, 1, -1)[:, None] * np.eye(2)[labels] * 9.0
    found = calibrated(logits, labels)  # nearly certain, and right of 80 %
    assert found.max(1) == pytest.approx(0.8, abs=0.01)


def test_small_pictures_are_enlarged_for_a_probe(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "home"))
    data = load(class_folders(count=20, size=(32, 32)))
    logits = suspects.by_probe(data, 64)
    assert (logits.argmax(1) == data.labels).mean() > 0.9


def test_photographs_are_judged_by_a_probe(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "home"))
    data = load(class_folders(count=20, size=(96, 96)), imgsz=96)
    labels = data.labels.copy()
    labels[7] = 1 - labels[7]
    found = label_suspects(Dataset(data.images, labels, data.classes, ids=data.ids), print)
    assert found[0].id == str(data.ids[7])


@pytest.fixture
def pets(class_folders: Callable[..., Path]) -> Path:
    """A folder with two parts, a leak, an unreadable picture, a blank one and a copy."""
    train = class_folders("pets/train", count=20, size=(32, 32))
    class_folders("pets/test", count=6, size=(32, 32))
    for i, pixels in enumerate(scenes(20)):
        Image.fromarray(pixels).save(train / "cat" / f"{i}.png")
    for i, pixels in enumerate(scenes(26, seed=9)):
        folder = train if i < 20 else train.parent / "test"
        Image.fromarray(pixels).save(folder / "dog" / f"{i % 20}.png")
    for i, pixels in enumerate(scenes(6, seed=4)):
        Image.fromarray(pixels).save(train.parent / "test" / "cat" / f"{i}.png")
    Image.open(train / "cat" / "4.png").save(train.parent / "test" / "cat" / "1.png")
    Image.open(train / "cat" / "5.png").save(train / "cat" / "6.png")
    Image.new("RGB", (32, 32), "navy").save(train / "dog" / "2.png")
    (train / "dog" / "3.png").write_bytes(b"no picture")
    return train.parent


def test_everything_is_found_and_nothing_is_changed(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in pets.rglob("*") if path.is_file()}
    assert run_app(["audit", str(pets), "--quick", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pictures"] == {"train": 39, "test": 12}
    [bad] = record["unreadable"]
    assert bad["id"] == "dog/3.png"
    assert "no picture" in bad["why"]
    assert [one["id"] for one in record["bad"]] == ["dog/2.png"]
    [leak] = record["duplicates"]["across_splits"]
    assert leak == {"test": "cat/1.png", "train": "cat/4.png", "similarity": 1.0}
    [copy] = record["duplicates"]["within"]["train"]
    assert {copy["first"], copy["second"]} == {"cat/5.png", "cat/6.png"}
    assert "labels" not in record
    assert json.loads(Path("audit-pets/audit.json").read_text()) == record
    with Image.open("audit-pets/duplicates.png") as sheet:
        assert sheet.width > 200
    assert before == {path: path.read_bytes() for path in pets.rglob("*") if path.is_file()}
    assert run_app(["audit", str(pets), "--quick", "--strict"]) == 3
    text = capsys.readouterr().out
    for words in (
        "leaks: alike in two parts", "test cat/1.png and train cat/4.png", "audit-pets",
        "dog/3.png: no picture in a format", "1, identical",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    ("alike", "said"),
    [([1.0], "1, identical"), ([1.0, 1.0], "2, all of them identical"), ([0.98], "1"),
     ([1.0, 0.98, 0.97], "3, 1 of them identical")],
)  # fmt: skip
def test_the_table_says_how_many_are_identical(
    class_folders: Callable[..., Path], alike: list[float], said: str
) -> None:
    data = eyebright.load(class_folders(count=2))
    ids = data.ids[0], data.ids[1]
    twins = [Twin(("train", "train"), ids, one) for one in alike]
    table = Audit({"train": data}, {}, [], [], {"train": twins}, None).table()
    assert list(table.columns[1].cells)[3] == said


def test_a_clean_folder_passes_the_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, pixels in enumerate(scenes(12)):
        (tmp_path / "clean" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "clean" / "ab"[i % 2] / f"{i}.png")
    assert run_app(["audit", str(tmp_path / "clean"), "--quick", "--strict"]) == 0


def test_pictures_without_classes_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    for i, pixels in enumerate(scenes(5)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    Image.open(folder / "1.png").save(folder / "copy.png")
    assert run_app(["audit", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["duplicates"]["within"]["train"]) == 1
    assert "labels" not in record  # there are none
    assert run_app(["train", str(folder)]) == 3
    assert "a folder for each class is needed" in capsys.readouterr().err


def test_scores_with_and_without_leaks(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "train" / "dog" / "3.png").unlink()
    run = eyebright.train(pets, model="white16", epochs=1, quiet=True)
    other = eyebright.train("digits", model="white16", max_steps=2, quiet=True)
    other.test()
    assert run_app(["audit", str(pets), "--quick", "--run", str(other.path)]) == 2
    assert "tested on other pictures" in capsys.readouterr().err
    assert run_app(["audit", str(pets), "--quick", "--run", str(run.path)]) == 2
    assert "not tested yet" in capsys.readouterr().err
    evaluation = run.test()
    found = audit(pets, run=run.path, wrong_labels=False)
    assert found.scores["on all"].value == evaluation.accuracy.value
    assert found.scores["without leaked ones"].n == 11
    right = (evaluation.predictions == evaluation.labels)[
        [name != "cat/1.png" for name in evaluation.ids]
    ]
    assert found.scores["without leaked ones"].value == right.mean()


def test_decisions_are_honoured_and_reviews_taken_up_again(pets: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,decision,label\ntest/cat/1.png,drop,\ndog/3.png,drop,\n")
    found = audit(pets, wrong_labels=False, labels=table)
    assert found.across == []
    assert found.unreadable == {}
    table.write_text("id,decision,label\ntest/cat/1.png,keep,\ndog/2.png,keep,\n")
    found = audit(pets, wrong_labels=False, labels=table)
    assert found.across == found.pictures == []
    assert set(found.unreadable) == {"dog/3.png"}
    assert run_app(["audit", str(pets), "--quick"]) == 0
    parts = load_parts(pets)
    findings = findings_before(parts, Path("audit-pets"), False)
    assert findings is not None
    assert [one.kind for one in findings] == ["duplicate", "duplicate", "picture", "picture"]
    assert findings_before(parts, Path("audit-pets"), judged=True) is None  # that was --quick
    assert findings[0].id == "test/cat/1.png"
    assert findings[0].other == "cat/4.png"
    Image.fromarray(scenes(1, seed=8)[0]).save(pets / "train" / "cat" / "9.png")
    assert findings_before(load_parts(pets), Path("audit-pets"), False) is None  # other data now


def test_a_table_of_one_class_is_looked_at(
    class_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(count=3, size=(32, 32))
    rows = "".join(f"pets/cat/{i}.png,cat\n" for i in range(3))
    Path("cats.csv").write_text(f"path,label\n{rows}")
    assert run_app(["audit", "cats.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == {"train": 3}
    assert run_app(["train", "cats.csv"]) == 3


def test_the_surest_suspects_can_be_dropped(
    class_folders: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspects, "LENGTH", {"epochs": 4, "min_steps": 60})
    folder = class_folders(count=60, size=(32, 32))
    for name, dog in (("a", "3"), ("b", "4"), ("c", "5")):
        (folder / "dog" / f"{dog}.png").rename(folder / "cat" / f"{name}.png")
    table = folder / "labels.csv"
    table.write_text("id,decision,label\ncat/a.png,keep,\n")
    assert run_app(["audit", str(folder), "--drop", "0.5", "-o", "found"]) == 0
    said = capsys.readouterr().out
    found = json.loads(Path("found/audit.json").read_text())["labels"]["suspects"]
    surest = [one["id"] for one in found if one["score"] >= 0.5 and one["id"] != "cat/a.png"]
    assert {"cat/b.png", "cat/c.png"} <= set(surest)
    assert f"{len(surest)} suspect labels dropped" in said
    assert {name for name, one in read(table).of.items() if one.decision == "drop"} == set(surest)
    assert read(table).of["cat/a.png"].decision == "keep"  # what a person decided stands
    assert run_app(["audit", str(folder), "--drop", "0.5", "--quick"]) == 2
    table.write_text("a,b\n")
    assert run_app(["audit", str(folder), "--drop", "0.5"]) == 3
    assert "no table of decisions" in capsys.readouterr().err


def test_what_is_missing_is_named(
    pets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "find_spec", lambda name: None)
    assert run_app(["audit", str(pets)]) == 2
    assert install_command("audit") in capsys.readouterr().err
    assert run_app(["audit", str(pets), "--quick", "-o", str(pets / "found")]) == 2
    assert "would lie among the pictures" in capsys.readouterr().err
    assert run_app(["audit", str(pets), "--review", "--json"]) == 2
    assert run_app(["audit", str(pets), "--quick", "--review", "--lang", "fr"]) == 2
    assert "--lang" in capsys.readouterr().err
    assert not (pets / "found").exists()
    assert run_app(["audit", "nowhere"]) == 3
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_leaks_of_cifar10_are_found(cifar10_home: Path) -> None:
    # The 2,000 test pictures that come first, against 6,000 training pictures and known twins.
    test, train = load("cifar10", "test"), load("cifar10")
    known = {4838: 29986, 6341: 44230, 7652: 9510, 7445: None}
    here = [test.ids.index(name) for name in known]
    there = sorted({*range(6000), *(name for name in known.values() if name is not None)})
    pairs = Searcher(train.images[there]).like(test.images[here]).of_each()
    found = {here[a]: there[b] for a, b in zip(pairs.first, pairs.second, strict=True)}
    assert found == {name: twin for name, twin in known.items() if twin is not None}
