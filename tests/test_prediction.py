"""`eyebright predict` on many pictures: what it takes, what it writes, and sorting them."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyebright import Classifier, Run, prediction
from eyebright.calibration import Promise, Promises
from eyebright.cli import run_app
from eyebright.errors import DataError, StorageError, UsageError
from eyebright.prediction import Outcome, find_pictures, predict_files
from eyebright.sorting import check_folder, folder_name, sort_into
from eyebright.tabular import write_rows

NOBODY = io.StringIO()
Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(class_folders: Callable[..., Path]) -> str:
    """A run on the folder ``pets``; ``pets/dog/2.png`` cannot be read."""
    folder = class_folders(size=(32, 32))
    words = ["--recipe", "fast", "--model", "white16", "--epochs", "1", "-b", "8"]
    assert run_app(["train", str(folder), *words, "--name", "r"]) == 0
    (folder / "dog" / "2.png").write_bytes(b"no picture")
    return "runs/r"


def names(words: list[str], lines: str = "") -> list[str]:
    files, n = find_pictures([Path(word) for word in words], io.StringIO(lines))
    found = [str(file) for file in files]
    assert n in (None, len(found))
    return found


def test_files_folders_patterns_tables_and_lines(class_folders: Callable[..., Path]) -> None:
    class_folders(count=2)
    cats, dogs = ["pets/cat/0.png", "pets/cat/1.png"], ["pets/dog/0.png", "pets/dog/1.png"]
    assert names(["pets"]) == [*cats, *dogs]
    assert names(["pets/dog", "pets/cat/0.png"]) == [*dogs, cats[0]]
    assert names(["pets/*/0.png"]) == [cats[0], dogs[0]]
    assert names(["pets/**/1.png"]) == [cats[1], dogs[1]]
    Path("pets/list.csv").write_text("path,label\ncat/0.png,cat\nnot/there.png,cat\n")
    assert names(["pets/list.csv"]) == [cats[0], "pets/not/there.png"]
    Path("list.txt").write_bytes(b"pets/dog/1.png\n\n\xff.png\r\n")
    assert names(["list.txt", "pets/cat"]) == [dogs[1], os.fsdecode(b"\xff.png"), *cats]
    write_rows(Path("list.parquet"), [{"path": path, "n": "1"} for path in dogs])
    assert names(["list.parquet"]) == dogs
    write_rows(Path("other.parquet"), [{"file": path} for path in dogs])
    Path("list.jsonl").write_text('{"path": "pets/dog/0.png"}\n')
    assert names(["list.jsonl"]) == [dogs[0]]
    assert names(["-"], "pets/cat/1.png\n\nany thing\r\n") == [cats[1], "any thing"]
    Path("pets/[odd].png").write_bytes(b"")
    assert names(["pets/[odd].png"]) == ["pets/[odd].png"]  # there is a file of that name
    for words, said in (
        (["nowhere.png"], "no such file"), (["pets/*.gif"], "nothing is called so"),
        (["-", "pets"], "name no others"), (["empty.csv"], "no column 'path'"),
        (["other.parquet"], "no column 'path'"), (["empty.txt"], "no paths in it"),
        (["torn.csv"], "line 3: needs a value"), (["torn.parquet"], "no table in Parquet"),
        (["torn.jsonl"], "line 1: no JSON object"), (["only.jsonl"], "no column 'path'"),
    ):  # fmt: skip
        Path("empty.csv").write_text("a,b\n1,2\n")
        Path("empty.txt").write_text("\n \n")
        Path("torn.csv").write_text("path,label\na.png,cat\nb.png\n")
        Path("torn.parquet").write_bytes(Path("list.parquet").read_bytes()[:-9])
        Path("torn.jsonl").write_text("{\n")
        Path("only.jsonl").write_text('{"file": "a.png"}\n')
        with pytest.raises(DataError, match=said):
            names(words)


def test_lines_are_taken_as_they_come(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "MOST_CHUNK", 16)
    taken = 0

    def for_ever() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield "pets/cat/0.png\n"

    files, n = find_pictures([Path("-")], for_ever())  # type: ignore[arg-type]
    assert n is None
    outcomes = predict_files(Classifier.load(run), files)
    assert [next(outcomes).picture for _ in range(40)] == [Path("pets/cat/0.png")] * 40
    outcomes.close()  # type: ignore[attr-defined]
    assert taken == 48


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_in_parts_it_is_the_same(run: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "MOST_CHUNK", 5)
    monkeypatch.setattr(prediction, "LEAST_CHUNK", 1)
    monkeypatch.setattr(prediction, "PART", 2)
    classifier = Classifier.load(run)
    files = [Path(f"pets/{pet}/{i}.png") for i in range(12) for pet in ("cat", "dog")]
    files = [file for file in files if file.exists()]
    outcomes = list(predict_files(classifier, files, workers))
    assert [one.picture for one in outcomes] == files
    bad = files.index(Path("pets/dog/2.png"))
    assert [i for i, one in enumerate(outcomes) if one.prediction is None] == [bad]
    assert "no picture in a format" in outcomes[bad].error
    good = [one for one in outcomes if one.prediction is not None]
    for one, wanted in zip(good, classifier.predict([g.picture for g in good]), strict=True):
        assert one.prediction is not None
        assert one.prediction.label == wanted.label
        assert one.prediction.probability == pytest.approx(wanted.probability, abs=1e-6)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_rows_are_written(ending: str, run: str, eyebright_says: Says) -> None:
    file = Path(f"rows{ending}")
    code, out, err = eyebright_says(
        "predict", run, "pets", "-o", file, "--top", 2, "--coverage", 0.9
    )
    assert code == 3
    assert "1 of " in err
    assert "pets/dog/2.png: no picture" in err
    rows = read(file)
    assert f"{len(rows)} rows" in out
    assert list(rows[0]) == [
        "picture", "label", "probability", "label_2", "probability_2", "set", "error",
    ]  # fmt: skip
    bad = next(row for row in rows if row["picture"] == "pets/dog/2.png")
    assert not bad["label"]
    assert "no picture" in bad["error"]
    good = rows[0]
    wanted = Classifier.load(run).predict([good["picture"]])[0]
    assert good["label"] == wanted.label
    assert float(good["probability"]) == pytest.approx(wanted.probability, abs=1e-6)
    assert float(good["probability"]) + float(good["probability_2"]) == pytest.approx(1, abs=1e-5)
    promises = Run(run).promises(coverage=0.9)
    found = json.loads(good["set"]) if ending == ".csv" else list(good["set"])
    assert found == wanted.answers(promises)["set"]
    assert not list(Path().glob(".rows*"))


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(file).to_pylist())
    with file.open(newline="") as opened:
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in opened]
        return list(csv.DictReader(opened))


def test_rows_are_printed(run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = eyebright_says("predict", run, "pets", "--format", "csv", "--skip-bad")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["picture"] == "pets/cat/0.png"
    monkeypatch.setattr("sys.stdin", io.StringIO("pets/cat/0.png\ngone.png\n"))
    code, out, err = eyebright_says("predict", run, "-", "--format", "jsonl")
    assert code == 3
    first, second = map(json.loads, out.splitlines())
    assert first["label"] == rows[0]["label"]
    assert (second["label"], second["error"]) == (None, "No such file or directory")
    assert "1 of 2 pictures cannot be read" in err
    code, out, _ = eyebright_says("predict", run, "pets", "--json", "--skip-bad")
    assert code == 0
    assert {"error", "picture"} in [set(row) for row in json.loads(out)]


def test_a_table_for_people(
    run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyebright.answers.MOST_SHOWN", 3)
    code, out, _ = eyebright_says("predict", run, "pets", "--skip-bad", "--top", 1)
    assert code == 0
    assert out.count(".png") == 3
    assert "more: --out" in out
    assert "unreadable 1" in out.splitlines()[-1]
    assert " then" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-o rows.txt", "rows go into .csv, .jsonl, .parquet"),
        ("--format xml", "--format cannot be 'xml'"),
        ("--format csv --json", "choose one of"),
        ("--link", "go with --copy-into"),
        ("--copy-into pets/cat/0.png", "no folder"),
    ],
)
def test_wrong_wishes_are_refused(words: str, said: str, run: str, eyebright_says: Says) -> None:
    code, _, err = eyebright_says("predict", run, "pets", *words.split())
    assert code == 2
    assert said in err


def test_not_sure_is_an_answer(
    run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def promises(self: Run, risk: float | None, coverage: float | None) -> Promises:
        asked.append((risk, coverage))
        return Promises(Promise(risk=0.05, threshold=0.85, answered=0.5, n=100))

    monkeypatch.setattr(Run, "promises", promises)
    code, out, _ = eyebright_says(
        "predict", run, "pets", "--not-sure", "--format", "jsonl", "--skip-bad"
    )
    assert code == 0
    assert (
        eyebright_says("predict", run, "pets", "--not-sure", "--risk", 0.01, "--skip-bad")[0] == 0
    )
    assert asked == [(0.05, None), (0.01, None)]
    rows = [json.loads(line) for line in out.splitlines()]
    for row in rows:
        if row["error"] is None:
            assert row["answer"] == (row["label"] if row["probability"] >= 0.85 else None)
    words = ("--copy-into", "sorted", "--yes", "--skip-bad")
    assert eyebright_says("predict", run, "pets", "--not-sure", *words)[0] == 0
    unsure = [row for row in rows if row["error"] is None and row["answer"] is None]
    there = list(Path("sorted/not sure").iterdir()) if unsure else []
    assert len(there) == len(unsure)


def test_what_there_is_is_kept_when_it_is_interrupted(tmp_path: Path) -> None:
    def rows() -> Any:
        yield from ({"picture": str(i), "error": None} for i in range(3))
        raise KeyboardInterrupt

    for ending in (".csv", ".jsonl", ".parquet"):
        with pytest.raises(KeyboardInterrupt):
            write_rows(tmp_path / f"rows{ending}", rows())
        assert [row["picture"] for row in read(tmp_path / f"rows{ending}")] == ["0", "1", "2"]
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "none.csv", (_ for _ in [None] if rows().throw(KeyboardInterrupt)))
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".csv", ".jsonl", ".parquet"]
    with pytest.raises(StorageError, match=r"nowhere/rows\.csv"):
        write_rows(tmp_path / "nowhere" / "rows.csv", [{"a": 1}])


@pytest.mark.parametrize("link", [False, True])
def test_pictures_are_sorted_into_folders(
    link: bool, run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody is there to answer
    words = ["predict", run, "pets", "--copy-into", "sorted", "--skip-bad", *["--link"] * link]
    code, _, err = eyebright_says(*words)
    assert code == 2
    assert "nobody said yes" in err
    assert not Path("sorted").exists()
    code, out, err = eyebright_says(*words, "--yes")
    assert code == 0
    assert "into sorted" in err  # the plan
    rows = [
        json.loads(line) for line in eyebright_says(*words[:3], "--format", "jsonl")[1].splitlines()
    ]
    rows = [row for row in rows if row["error"] is None]
    assert f"{len(rows)} pictures {'linked' if link else 'copied'}" in out
    files = [file for file in Path("sorted").rglob("*") if file.is_file()]
    assert len(files) == len(rows)  # cats and dogs have the same names: some have got a number
    for row in rows:
        content = Path(row["picture"]).read_bytes()
        folder = Path("sorted") / row["label"]
        assert content in [file.read_bytes() for file in folder.iterdir()]
        assert Path(row["picture"]).stat().st_nlink == 1 + link
    code, out, _ = eyebright_says(*words, "--yes")
    assert f"0 pictures {'linked' if link else 'copied'}" in out
    assert f"{len(rows)} were there already" in out


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_text(name)
    answers = [(tmp_path / name / "x.png", "cat") for name in ("a", "b", "a")]
    assert sort_into(tmp_path / "out", answers, link=False) == 2
    assert (tmp_path / "out" / "cat" / "x.png").read_text() == "a"
    assert (tmp_path / "out" / "cat" / "x-2.png").read_text() == "b"
    assert sort_into(tmp_path / "out", [(tmp_path / "a" / "x.png", None)], link=False) == 1
    assert (tmp_path / "out" / "not sure" / "x.png").exists()
    with pytest.raises(StorageError, match=r"gone\.png"):
        sort_into(tmp_path / "out", [(tmp_path / "gone.png", "cat")], link=False)


@pytest.mark.parametrize(
    ("label", "name"),
    [("cat", "cat"), ("../../etc", "_.._etc"), ("a/b\\c", "a_b_c"), (" . ", "_"), ("猫", "猫")],
)
def test_a_class_is_one_plain_folder(label: str, name: str) -> None:
    assert folder_name(label) == name


def test_classes_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", ["a", "b"])
    for classes in (["a/b", "a_b"], ["not sure", "a"]):
        with pytest.raises(UsageError, match="several classes"):
            check_folder(tmp_path, classes)


def test_an_animation_is_said_once(
    run: str, picture: Callable[..., Any], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(prediction.notices, "propagate", True)
    first, second = picture(), picture()
    first.save("moving.gif", save_all=True, append_images=[second.rotate(90)])
    shutil.copy("moving.gif", "again.gif")
    outcomes = list(predict_files(Classifier.load(run), [Path("moving.gif"), Path("again.gif")]))
    assert all(isinstance(one, Outcome) and one.prediction for one in outcomes)
    assert caplog.text.count("2 animations") == 1


def test_rows_have_the_same_columns_without_a_prediction() -> None:
    row = Outcome(Path(os.fsdecode(b"\xff.png")), None, "why").row(2, Promises())
    assert row == {
        "picture": "\\udcff.png", "label": None, "probability": None, "label_2": None,
        "probability_2": None, "error": "why",
    }  # fmt: skip
