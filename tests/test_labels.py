"""Decisions on pictures: the table, what it makes of data, and that runs remember it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import eyebright
from eyebright import Dataset, Run
from eyebright.cli import run_app
from eyebright.data import labels
from eyebright.data.decisions import append, read, table_beside, table_ids
from eyebright.data.labels import apply, read_again
from eyebright.errors import DataError, ModelError, StorageError, UsageError
from eyebright.report import write_report

QUICK = {"epochs": 1, "batch_size": 16, "model": "white16", "device": "cpu", "quiet": True}
HEAD = "id,decision,label\n"


@pytest.fixture
def data() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return Dataset(images, np.arange(12) % 3, ["cat", "dog", "two\nlines"], name="pets")


def table(text: str, path: str = "labels.csv") -> Path:
    Path(path).write_text(HEAD + text, encoding="utf-8")
    return Path(path)


def test_what_is_written_is_read_and_the_last_line_counts() -> None:
    path = Path("labels.csv")
    for line in (
        ("3", "drop"),
        ("cat/1, 2.png", "relabel", 'a "dog"'),
        ("4", "keep"),
        ("3", "relabel", "猫"),
        ("5", "drop"),
        ("5", "undo"),
        ("6", "undo"),
        ("4", "drop"),
    ):
        append(path, *line)
    found = read(path)
    assert {name: (d.decision, d.label) for name, d in found.of.items()} == {
        "cat/1, 2.png": ("relabel", 'a "dog"'),
        "3": ("relabel", "猫"),
        "4": ("drop", ""),
    }
    assert found.of["3"].line == 5
    assert path.read_text(encoding="utf-8").startswith(HEAD + '3,drop,\n"cat/1, 2.png",relabel,')
    assert found.size == path.stat().st_size


def test_a_half_written_line_is_ignored_wherever_it_breaks_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = Path("labels.csv")
    append(path, "1", "drop")
    whole = path.read_bytes()
    append(path, "2", "relabel", 'a "dog", 猫')
    for end in range(len(whole), path.stat().st_size):
        torn = Path("torn.csv")
        torn.write_bytes(path.read_bytes()[:end])
        caplog.clear()
        assert list(read(torn).of) == ["1"]
        assert ("half written" in caplog.text) == (end > len(whole))
        append(torn, "3", "keep")
        assert list(read(torn).of) == ["1", "3"]
    for end in range(len(HEAD)):
        torn.write_bytes(HEAD.encode()[:end])
        assert read(torn).of == {}
        append(torn, "3", "keep")
        assert torn.read_text() == HEAD + "3,keep,\n"


def test_what_a_spreadsheet_saves_is_read() -> None:
    Path("labels.csv").write_bytes(b"\xef\xbb\xbfid,decision,label\r\n1,drop,\r\n\r\n2,keep,\r\n")
    assert list(read("labels.csv").of) == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,drop\n", "line 2: needs id, decision, label"),
        ("1,keep,\n,drop,\n", "line 3: needs id"),
        ("1,remove,\n", "line 2: no decision 'remove'; choose one of: keep, relabel, drop, undo"),
        ("1,relabel,\n", "line 2: a label belongs to 'relabel'"),
        ("1,drop,cat\n", "line 2: a label belongs to 'relabel'"),
        ('"1,drop,\n2,drop,\n', "no table in CSV"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(table(text))


def test_a_foreign_file_is_neither_read_nor_added_to() -> None:
    path = Path("labels.csv")
    for foreign in (b"path,label\na.png,cat\n", b"\xff\xfe\n"):
        path.write_bytes(foreign)
        with pytest.raises(DataError, match="no table"):
            read(path)
        with pytest.raises(DataError, match="no table"):
            append(path, "1", "drop")
        assert path.read_bytes() == foreign
    with pytest.raises(DataError, match=r"nowhere\.csv: No such file"):
        read("nowhere.csv")
    with pytest.raises(StorageError, match="--labels"):
        append(Path("nowhere/labels.csv"), "1", "drop")


def test_pictures_are_dropped_and_relabelled(
    data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    before = data.fingerprint
    path = table(
        "1,drop,\n2,relabel,cat\n3,keep,\n4,relabel,dog\n99,drop,\n5,relabel,two\\nlines\n"
    )
    new = apply(data, read(path))
    assert new.ids == [0, *range(2, 12)]
    assert new.classes == data.classes
    wanted = np.delete(data.labels, 1)
    wanted[1] = 0
    assert np.array_equal(new.labels, wanted)
    assert np.array_equal(new.images, np.delete(data.images, 1, axis=0))
    assert data.fingerprint == before != new.fingerprint
    assert "1 picture of pets dropped and 1 relabelled, 11 left" in caplog.text
    assert "1 decided that pets does not have, such as '99'" in caplog.text
    assert new.decided is not None
    assert (new.decided["dropped"], new.decided["relabelled"]) == (1, 1)
    assert new.resized(4).decided == new.decided
    with pytest.raises(UsageError, match="already"):
        apply(new, read(path))


def test_other_parts_have_names_of_their_own(
    data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    data.val = data.subset(range(6))
    decisions = read(table("1,drop,\nval/2,drop,\ntest/3,drop,\nval/4,relabel,cat\n"))
    new = apply(data, decisions)
    assert 1 not in new.ids
    assert 2 in new.ids
    assert new.val is not None
    assert new.val.ids == [0, 1, 3, 4, 5]
    assert new.val.labels[3] == 0
    test = apply(data.subset(range(6)), decisions, "test")
    assert test.ids == [0, 1, 2, 4, 5]
    assert "does not have" not in caplog.text
    # Nothing is said of the test part: nothing is changed, and that is no mistake.
    assert len(apply(data, read(table("1,drop,\n")), "test")) == 12


def test_tables_of_other_data_and_classes_are_refused(data: Dataset) -> None:
    with pytest.raises(DataError, match=r"knows none of the pictures of pets, but 'x\.png'"):
        apply(data, read(table("x.png,drop,\n")))
    with pytest.raises(DataError, match="line 3: there is no class 'horse' among those of pets"):
        apply(data, read(table("1,drop,\n2,relabel,horse\n")))
    with pytest.raises(DataError, match="drops every picture"):
        apply(data, read(table("".join(f"{i},drop,\n" for i in range(12)))))


def test_ids_are_one_line_of_text_whatever_files_are_called(data: Dataset) -> None:
    data.ids[:3] = ["a\nb", "caf\udce9", 'x,"y"']
    for name in table_ids(data)[:3]:
        append(Path("labels.csv"), name, "drop")
    assert apply(data, read("labels.csv")).ids == data.ids[3:]


def test_the_table_lies_beside_the_data(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, data: Dataset
) -> None:
    folder = class_folders()
    assert table_beside(eyebright.load(folder)) == folder / "labels.csv"
    append(folder / "labels.csv", "cat/1.png", "drop")
    assert len(eyebright.load(folder, labels=folder / "labels.csv")) == 39
    own = folder.parent / "labels.csv"
    own.write_text("path,label\npets/cat/0.png,cat\npets/dog/0.png,dog\n")
    assert table_beside(eyebright.load(own)) == folder.parent / "labels-labels.csv"
    monkeypatch.setenv("EYEBRIGHT_DATA", "/somewhere")
    for name, beside in (("a.v1.zip", "a.v1"), ("b.tar.gz", "b"), ("c.csv", "c")):
        (folder.parent / name).write_bytes(b"")
        data.source = str(folder.parent / name)
        assert table_beside(data) == folder.parent / f"{beside}-labels.csv"
    data.source = None
    assert table_beside(eyebright.load("digits")) == Path("/somewhere/digits-labels.csv")
    assert table_beside(data) == Path("labels.csv")


def test_a_run_remembers_its_decisions(
    class_folders: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = class_folders()
    path = table("cat/1.png,drop,\ncat/2.png,relabel,dog\n")
    run = eyebright.train(folder, labels=path, **QUICK)
    record = run.data_record
    assert record["labels"]["path"] == str(path.resolve())
    assert record["labels"]["sha256"] == read(path).sha256
    assert sum(map(len, record["splits"].values())) == 39
    assert "cat/1.png" not in record["splits"]["train"] + record["splits"]["val"]
    figures = run.held_out().figures
    again = Run(run.path)
    assert again.val().figures["accuracy"] == figures["accuracy"]
    assert again.val().decided is None  # nothing else than what it was trained with
    html = write_report(again).read_text(encoding="utf-8")
    assert "labels.csv, SHA-256" in html
    assert "could not be read again" not in html
    # More is decided later: this run still knows what it was trained with.
    append(path, "dog/3.png", "drop")
    caplog.clear()
    assert again.val().fingerprint == run.held_out().fingerprint
    assert "more has been decided since" in caplog.text
    path.write_text(path.read_text().replace("cat/1.png", "cat/4.png"))
    with pytest.raises(DataError, match="no longer the decisions of this run"):
        again.val()
    path.unlink()
    with pytest.raises(DataError, match="put them back"):
        again.val()


def test_held_out_pictures_can_be_decided_on_later(class_folders: Callable[..., Path]) -> None:
    folder = class_folders()
    run = Run(eyebright.train(folder, labels=table("cat/1.png,drop,\n"), **QUICK).path)
    first, second, *_ = held_out = run.data_record["splits"]["val"]
    table(f"cat/1.png,drop,\n{first},drop,\n{second},relabel,dog\n", "other.csv")
    Path("labels.csv").unlink()  # it has moved, and more was decided
    evaluation = run.val(labels="other.csv")
    assert evaluation.ids == held_out[1:]
    assert evaluation.decided is not None
    assert evaluation.decided["dropped"] == 1
    assert evaluation.decided["relabelled"] == int(second.startswith("cat"))
    table("cat/1.png,drop,\n")
    html = write_report(run).read_text(encoding="utf-8")
    assert "As other.csv says, 1 of its pictures were left out" in html
    assert "could not be read again" not in html


def test_a_data_sets_own_validation_part_is_decided_on(class_folders: Callable[..., Path]) -> None:
    class_folders("pets/train")
    class_folders("pets/val", count=4)
    path = table("val/cat/1.png,drop,\nval/dog/2.png,relabel,cat\ncat/3.png,drop,\n")
    run = Run(eyebright.train("pets", labels=path, **QUICK).path)
    assert run.val().accuracy.n == 7
    assert len(run.data_record["splits"]["train"]) == 39
    later = run.val(labels=table("val/cat/2.png,drop,\n", "later.csv"))
    assert later.accuracy.n == 7
    assert later.decided is not None
    assert (later.decided["dropped"], later.decided["relabelled"]) == (1, 0)


def test_test_pictures_are_decided_on_only_where_asked(
    class_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders("pets/train")
    class_folders("pets/test", count=4)
    path = table("cat/0.png,drop,\ntest/cat/1.png,drop,\ntest/dog/1.png,relabel,cat\n")
    run = Run(eyebright.train("pets", labels=path, name="one", **QUICK).path)
    plain = run.test()
    assert plain.accuracy.n == 8
    assert plain.decided is None
    assert run_app(["test", "runs/one", "--labels", "labels.csv", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "As labels.csv says, 1 of its pictures were left out and 1 relabelled" in said
    assert "have looked at this test set 2 times" in said  # corrected or not
    record = json.loads((run.path / "test.json").read_text())
    assert record["labels"]["dropped"] == record["labels"]["relabelled"] == 1
    html = write_report(Run(run.path)).read_text(encoding="utf-8")
    assert "1 of its pictures were left out" in html
    assert "accuracy on 7 test pictures" in html
    assert "could not be read again" not in html
    for damaged in ("7", '{"path": 3}'):
        (run.path / "test.json").write_text(json.dumps(record | {"labels": json.loads(damaged)}))
        with pytest.raises(ModelError, match="table of decisions"):
            write_report(Run(run.path))


def test_a_flat_folder_that_is_tested_on_has_plain_names(
    class_folders: Callable[..., Path],
) -> None:
    run = eyebright.train(class_folders(), **QUICK)
    other = class_folders("others", count=3)
    assert run.test(other, labels=table("cat/1.png,drop,\n")).accuracy.n == 5
    assert run.pictures("test").ids == Run(run.path).pictures("test").ids


def test_unreadable_pictures_may_be_dropped(class_folders: Callable[..., Path]) -> None:
    folder, _ = class_folders("pets/train").parent, class_folders("pets/test", count=3)
    for name in ("train/cat/1.png", "test/dog/1.png"):
        (folder / name).write_bytes(b"no picture")
    path = table("cat/1.png,drop,\n")
    with pytest.raises(DataError, match="1 of 40 pictures cannot be read"):
        eyebright.load(folder)
    data = eyebright.load(folder, labels=path)
    assert len(data) == 39
    assert data.decided is not None
    assert data.decided["dropped"] == 1
    run = Run(eyebright.train(folder, labels=path, **QUICK).path)
    assert run.val().fingerprint == run.held_out().fingerprint
    with pytest.raises(DataError, match="1 of 6 pictures cannot be read"):
        run.test(labels=path)
    append(path, "test/dog/1.png", "drop")
    assert run.test(labels=path).accuracy.n == 5
    (folder / "train/cat/2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat/2\.png: .*\n1 of 40 pictures cannot be read"):
        eyebright.load(folder, labels=path)


def test_the_command_line_takes_it_everywhere(
    class_folders: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = class_folders()
    table("cat/1.png,drop,\ncat/2.png,relabel,dog\n")
    with caplog.at_level(logging.WARNING):
        assert run_app(["look", str(folder), "--labels", "labels.csv"]) == 0
        line = "labels.csv: 1 picture of pets dropped and 1 relabelled, 39 left"
        assert line in caplog.text
        settings = "--epochs 1 -b 16 --model white16 --device cpu --labels labels.csv".split()
        assert run_app(["train", str(folder), *settings, "--seeds", "2", "--name", "a"]) == 0
    records = [Run(f"runs/a-seed{i}").data_record["labels"] for i in range(2)]
    assert records[0] == records[1]
    assert records[0]["relabelled"] == 1
    assert run_app(["val", "runs/a-seed0", "--device", "cpu"]) == 0
    assert "Accuracy of the network on the 4 validation images" in capsys.readouterr().out
    assert run_app(["look", str(folder), "--labels", "nothing.csv"]) == 3
    assert "nothing.csv: No such file" in capsys.readouterr().err


def test_damaged_records_are_refused(class_folders: Callable[..., Path]) -> None:
    run = eyebright.train(class_folders(), **QUICK)
    record = json.loads((run.path / "data.json").read_text())
    assert record["labels"] is None
    good = {"path": "x", "sha256": "y", "bytes": 1, "dropped": 1, "relabelled": 1}
    assert labels.check_decided(good) == good
    for damaged in ([], {}, good | {"bytes": "1"}, good | {"more": 1}):
        (run.path / "data.json").write_text(json.dumps(record | {"labels": damaged}))
        with pytest.raises(ModelError, match="no record"):
            _ = run.data_record
    (run.path / "data.json").write_text(json.dumps(record))
    assert Run(run.path).val().accuracy.n == 4


def test_what_was_read_can_be_read_again() -> None:
    path = table("1,drop,\n")
    record = {"path": str(path), "sha256": read(path).sha256, "bytes": read(path).size}
    append(path, "1", "undo")
    assert list(read_again(record).of) == ["1"]
    assert read(path).of == {}
