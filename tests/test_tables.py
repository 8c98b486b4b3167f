"""Tables of paths and labels, and what is wrong with some."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import eyebright
from eyebright import TrainConfig, several
from eyebright.cli import run_app
from eyebright.data.sources import MissingPartError
from eyebright.errors import DataError, UsageError
from eyebright.holdout import choose_held_out, hold_out


@pytest.fixture
def table(class_folders: Callable[..., Path]) -> Path:
    """A table of 40 pictures of cats and dogs by ten photographers."""
    folder = class_folders("pets")
    rows = ["path,label,who"]
    for label in ("cat", "dog"):
        rows += [f"pets/{label}/{i}.png,{label},{i % 10}" for i in range(20)]
    path = folder.parent / "pets.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_table_is_what_its_folder_is(table: Path) -> None:
    data, folder = eyebright.load(table), eyebright.load(table.parent / "pets")
    assert data.classes == folder.classes
    assert data.name == "pets"
    assert data.source == str(table)
    assert data.ids[:2] == ["pets/cat/0.png", "pets/cat/1.png"]
    assert data.fingerprint == folder.fingerprint
    assert data.columns == {"who": [str(i % 10) for i in range(20)] * 2}
    assert data.subset([21, 3]).columns == {"who": ["1", "3"]}
    assert data.resized(8).columns == data.columns


def test_groups_of_a_table_are_held_out_whole(table: Path) -> None:
    settings = {"epochs": 1, "batch_size": 8, "model": "white16", "device": "cpu", "quiet": True}
    run = eyebright.train(table, group="who", val=0.2, **settings)
    record = run.data_record
    of = dict(zip(*(lambda d: (d.ids, d.columns["who"]))(eyebright.load(table)), strict=True))
    train, val = ({of[i] for i in record["splits"][part]} for part in ("train", "val"))
    assert val
    assert not train & val
    assert eyebright.Run(run.path).val().accuracy.n == len(record["splits"]["val"])
    with pytest.raises(UsageError, match="no further column 'owner'; it has who"):
        eyebright.train(table, group="owner", **settings)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.7])
def test_about_the_share_asked_for_is_held_out_in_groups(share: float) -> None:
    data = grouped(50)
    held_out = choose_held_out(data, TrainConfig(group="who", val=share))
    assert held_out.mean() == pytest.approx(share, abs=0.05)
    who = np.array(data.columns["who"])
    assert not set(who[held_out]) & set(who[~held_out])


def grouped(groups: int, n: int = 1000) -> eyebright.Dataset:
    images, labels = np.zeros((n, 4, 4, 3), np.uint8), np.arange(n) % 2
    who = [str(i // 2 % groups) for i in range(n)]
    return eyebright.Dataset(images, labels, ["a", "b"], columns={"who": who})


def test_groups_of_the_datas_own_validation_part_are_looked_at() -> None:
    data = grouped(10, 100)
    for val, said in ((grouped(1, 10), "'0' of who is in the training part and in"), (None, "")):
        data.val = val
        if val is None:
            assert hold_out(data, TrainConfig(group="who"))[1] is not None
            continue
        with pytest.raises(DataError, match=said):
            hold_out(data, TrainConfig(group="who"))
        with pytest.raises(UsageError, match="no further column"):
            hold_out(data, TrainConfig(group="owner"))


def test_a_fold_that_cannot_be_trained_is_known_before_the_first() -> None:
    data = grouped(4, 80)
    data.labels[:] = [int(who == "3") for who in data.columns["who"]]  # a class in one group alone
    with pytest.raises(DataError, match="nothing of the class 'b' is left"):
        several.train_several(data, folds=4, group="who", quiet=True, epochs=1)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must name the columns"),
        ("path,class\na,b\n", "must name the columns"),
        ("path,label,path\na,b,c\n", "must name the columns"),
        ("path,label\n", "names no pictures"),
        ("path,label\npets/cat/0.png\n", "line 2: needs a value"),
        ("path,label\npets/cat/0.png,cat,more\n", "line 2: needs a value"),
        ("path,label\n,cat\n", "line 2: needs a value"),
        ("path,label\npets/cat/0.png,cat\npets/cat/0.png,dog\n", "'pets/cat/0.png' twice"),
        ("path,label\npets/cat/0.png,cat\n", "one class only"),
        ("path,label\npets/cat/0.png,cat\npets/none.png,dog\n", "none.png"),
        ('path,label\n"pets/cat/0.png,cat\n', "no table in CSV"),
    ],
)
def test_what_is_wrong_is_named(table: Path, text: str, said: str) -> None:
    table.write_text(text)
    with pytest.raises(DataError, match=said):
        eyebright.load(table)


def test_bytes_that_are_no_text_and_other_classes(table: Path) -> None:
    with pytest.raises(DataError, match="no class 'dog' among those known: cat, horse"):
        eyebright.load(table, classes=["cat", "horse"])
    table.write_bytes(b"\xff\xfe\x00,label")
    with pytest.raises(DataError, match="no table in CSV"):
        eyebright.load(table)


def test_a_spreadsheets_mark_at_the_beginning_is_no_name(table: Path) -> None:
    before = eyebright.load(table)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert eyebright.load(table).ids == before.ids


def test_unreadable_pictures_are_skipped_where_asked(table: Path) -> None:
    (table.parent / "pets/dog/3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="--skip-bad"):
        eyebright.load(table)
    data = eyebright.load(table, skip_bad=True)
    assert len(data) == 39
    assert "pets/dog/3.png" not in data.ids
    assert np.array_equal(data.counts(), [20, 19])
    assert data.columns["who"][20:24] == ["0", "1", "2", "4"]


# Other kinds of tables, parts, and paths from elsewhere


def rows_of(table: Path) -> list[dict[str, object]]:
    """The table's rows, the photographer as a number."""
    header, *lines = table.read_text().splitlines()
    rows: list[dict[str, object]] = [
        dict(zip(header.split(","), line.split(","), strict=True)) for line in lines
    ]
    return [row | {"who": int(str(row["who"]))} for row in rows]


def write_as(table: Path, ending: str, rows: list[dict[str, object]]) -> Path:
    """The rows as a table of another kind beside the first."""
    path = table.with_suffix(ending)
    columns = list(rows[0])
    if ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif ending == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({c: [row[c] for row in rows] for c in columns}), path)
    else:
        mark = "\t" if ending == ".tsv" else ","
        lines = [columns, *([str(row[c]) for c in columns] for row in rows)]
        path.write_text("\n".join(mark.join(line) for line in lines) + "\n")
    return path


KINDS = [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"]


@pytest.mark.parametrize("ending", KINDS)
def test_every_kind_of_table_says_the_same(table: Path, ending: str) -> None:
    first = eyebright.load(table)
    data = eyebright.load(write_as(table, ending, rows_of(table)))
    assert data.ids == first.ids
    assert data.classes == first.classes
    assert data.columns == first.columns
    assert data.fingerprint == first.fingerprint


@pytest.mark.parametrize("ending", KINDS)
def test_numbers_are_classes_in_natural_order(table: Path, ending: str) -> None:
    rows = [row | {"label": i % 11} for i, row in enumerate(rows_of(table))]
    data = eyebright.load(write_as(table, ending, rows))
    assert data.classes == tuple(str(i) for i in range(11))
    assert data.labels[:12].tolist() == [*range(11), 0]


def test_integers_that_were_written_as_floats_are_integers(table: Path) -> None:
    rows = [row | {"who": float(str(row["who"]))} for row in rows_of(table)]
    rows[3]["who"] = None
    rows[4]["who"] = float("nan")
    for ending in (".jsonl", ".parquet"):
        data = eyebright.load(write_as(table, ending, rows))
        assert data.columns["who"][:6] == ["0", "1", "2", "", "", "5"]


def test_columns_that_a_parquet_nests_are_left_out(table: Path) -> None:
    rows: list[dict[str, object]] = [
        row | {"image": {"bytes": b"x"}, "tags": [1], "raw": b"y"} for row in rows_of(table)
    ]
    assert list(eyebright.load(write_as(table, ".parquet", rows)).columns) == ["who"]


def with_parts(table: Path, *names: str) -> list[dict[str, object]]:
    """The rows, and by turns a name in the column split."""
    return [
        row | {"split": names[i % len(names)]}  # every class has all of them
        for i, row in enumerate(rows_of(table))
    ]


@pytest.mark.parametrize("ending", KINDS)
def test_a_column_split_makes_parts(table: Path, ending: str) -> None:
    rows = with_parts(table, "train", "Train", "training", "validation", "test")
    path = write_as(table, ending, rows)
    data = eyebright.load(path)
    assert data.val is not None
    assert (len(data), len(data.val)) == (24, 8)
    assert data.val.ids == [row["path"] for row in rows if row["split"] == "validation"]
    assert data.columns.keys() == data.val.columns.keys() == {"who"}
    test = eyebright.load(path, "test")
    assert test.ids == [row["path"] for row in rows if row["split"] == "test"]
    assert eyebright.load(path, "val").fingerprint == data.val.fingerprint
    assert eyebright.load(path, "train").ids == data.ids


def test_a_part_that_is_not_there_is_named(table: Path) -> None:
    with pytest.raises(MissingPartError, match=r"pets.csv: no test part \(no column 'split'\)"):
        eyebright.load(table, "test")
    path = write_as(table, ".csv", with_parts(table, "train", "val"))
    with pytest.raises(MissingPartError, match="no test part, only train, val"):
        eyebright.load(path, "test")
    path = write_as(table, ".csv", with_parts(table, "test"))
    with pytest.raises(MissingPartError, match="no train part, only test"):
        eyebright.load(path)


def test_a_split_that_nobody_knows_is_named(table: Path) -> None:
    path = write_as(table, ".csv", with_parts(table, "train", "dev"))
    with pytest.raises(
        DataError, match=r"pets.csv, line 3: there is no split 'dev'; choose one of"
    ):
        eyebright.load(path)
    path = write_as(table, ".csv", with_parts(table, "train", ""))
    with pytest.raises(DataError, match="line 3: there is no split ''"):
        eyebright.load(path)


def test_classes_of_the_parts_must_agree(table: Path) -> None:
    rows = with_parts(table, "train", "val")
    rows[1]["label"] = "eel"
    with pytest.raises(DataError, match="no class 'eel' among those known: cat, dog"):
        eyebright.load(write_as(table, ".csv", rows))


def test_missing_files_are_all_listed(table: Path) -> None:
    for name in ("cat/3", "dog/0", "dog/7"):
        (table.parent / f"pets/{name}.png").unlink()
    (table.parent / "pets/cat/5.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        eyebright.load(table)
    assert caught.value.exit_code == 3
    lines = str(caught.value).splitlines()
    names = ["cat/3.png", "cat/5.png", "dog/0.png", "dog/7.png"]
    assert [line.split(": ")[0] for line in lines[:-1]] == [
        str(table.parent / "pets" / name) for name in names
    ]
    assert lines[0].endswith("No such file or directory")
    assert lines[-1].startswith("4 of 40 pictures cannot be read")
    assert len(eyebright.load(table, skip_bad=True)) == 36


def test_paths_may_be_relative_to_another_folder(table: Path, tmp_path: Path) -> None:
    here = eyebright.load(table)
    elsewhere = tmp_path / "lists" / "pets.csv"
    elsewhere.parent.mkdir()
    table.rename(elsewhere)
    with pytest.raises(DataError, match="40 of 40 pictures cannot be read"):
        eyebright.load(elsewhere)
    data = eyebright.load(elsewhere, root=tmp_path)
    assert data.ids == here.ids
    assert data.fingerprint == here.fingerprint
    assert data.root == str(tmp_path)
    assert data.resized(8).root == data.root
    with pytest.raises(DataError, match=r"nowhere: no such folder \(--root\)"):
        eyebright.load(elsewhere, root="nowhere")
    for source in ("digits", tmp_path / "pets", "nothing.csv"):
        with pytest.raises(UsageError, match="--root is for tables"):
            eyebright.load(source, root=tmp_path)
    with pytest.raises(UsageError, match="--root is for tables"):
        eyebright.train(here, root=tmp_path, quiet=True)


def test_absolute_paths_need_no_root(table: Path, tmp_path: Path) -> None:
    rows = [row | {"path": str(tmp_path / str(row["path"]))} for row in rows_of(table)]
    path = write_as(tmp_path / "pets" / "cat" / "x.csv", ".csv", rows)
    data = eyebright.load(path)
    assert data.ids[0] == str(tmp_path / "pets/cat/0.png")
    assert len(data) == 40


def test_a_run_finds_its_pictures_again(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "lists" / "pets.tsv"
    elsewhere.parent.mkdir()
    write_as(table, ".tsv", with_parts(table, "train", "train", "val", "test")).rename(elsewhere)
    command = f"train {elsewhere} --root . --model white16 --epochs 1 -b 8 --device cpu --name r"
    assert run_app(command.split()) == 0
    assert "open the test set: eyebright test runs/r\n" in capsys.readouterr().out
    run = eyebright.Run("runs/r")
    assert run.data_record["root"] == str(tmp_path)
    assert run.val().accuracy.n == 10
    assert run.pictures("val").ids[0] == "pets/cat/2.png"
    assert run.test().accuracy.n == 10
    again = eyebright.Run("runs/r")
    assert again.pictures("test").ids[0] == "pets/cat/3.png"
    assert len(again.sample(4)) == 4
    # Another table, whose paths begin elsewhere; one without a test part is a test set as a whole.
    plain = write_as(tmp_path / "lists" / "other.csv", ".csv", rows_of(table)[:30])
    assert run_app(["test", "runs/r", str(plain), "--root", str(tmp_path)]) == 0
    assert eyebright.Run("runs/r").pictures("test").ids[0] == "pets/cat/0.png"
    parts = write_as(tmp_path / "lists" / "parts.csv", ".csv", with_parts(table, "train"))
    assert run_app(["test", "runs/r", str(parts), "--root", str(tmp_path)]) == 3
    assert "parts.csv: no test part, only train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "content", "said"),
    [
        (".tsv", b"path,label\na,b\n", "must name the columns path and label; it has path,label"),
        (".tsv", b"path\tlabel\na\n", "line 2: needs a value"),
        (".jsonl", b"", "names no pictures"),
        (".jsonl", b'\n{"path": "a", "label": "b"}\n[1]\n', "line 3: no JSON object"),
        (".jsonl", b'{"path": "a", "label": "b"', "line 1: no JSON object"),
        (".jsonl", b"[" * 100_000, "line 1: no JSON object"),
        (".jsonl", b'{"path": "a"}\n', "must name the columns path and label; it has path"),
        (".jsonl", b'{"path": "a", "label": "b"}\n{"path": "c"}\n', "line 2: needs a value"),
        (".jsonl", b'{"path": "a\\u0000b", "label": "b"}\n', r"line 1: 'a\\x00b' is no path"),
        (".jsonl", b'{"path": "\\ud800", "label": "b"}\n', r"line 1: '\\ud800' is no path"),
        (".jsonl", b"\xff\xfe", "no table in JSON lines"),
        (".parquet", b"", "no table in Parquet"),
        (".parquet", b"path,label\na,b\n", "no table in Parquet"),
        (".parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "no table in Parquet"),
    ],
)
def test_what_is_wrong_with_other_tables_is_named(
    tmp_path: Path, ending: str, content: bytes, said: str
) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"list{ending}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        eyebright.load(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


def test_parquet_cut_short_anywhere_is_refused(table: Path) -> None:
    path = write_as(table, ".parquet", rows_of(table))
    content = path.read_bytes()
    for part in range(10):
        path.write_bytes(content[: len(content) * part // 10])
        with pytest.raises(DataError, match="no table in Parquet"):
            eyebright.load(path)


def test_without_pyarrow_the_command_that_installs_it_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table.with_suffix(".parquet")
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pets.parquet.*pip install .*\[parquet\]"):
        eyebright.load(path)


def test_root_and_decisions_go_together(table: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lists" / "pictures.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(table.read_bytes())
    first = str(eyebright.load(table).ids[0])
    decided = tmp_path / "decided.csv"
    decided.write_text(f"id,decision,label\n{first},drop,\n")
    words = f"--root {tmp_path} --labels {decided} --model white16 --epochs 1 -b 8 --device cpu"
    assert run_app(["train", str(elsewhere), *words.split(), "--name", "both"]) == 0
    run = eyebright.Run("runs/both")
    assert run.data_record["root"] == str(tmp_path)
    assert first not in [*run.data_record["splits"]["train"], *run.data_record["splits"]["val"]]
    assert run.val().accuracy.n == len(run.data_record["splits"]["val"])
    assert run_app(["report", "runs/both"]) == 0
