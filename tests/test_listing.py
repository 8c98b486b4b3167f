"""The list of runs: what state they are in, and how one is removed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyebright import drive, listing
from eyebright.cli import run_app
from eyebright.errors import BusyError, ModelError, StorageError, UsageError
from eyebright.listing import list_runs, remove_run
from eyebright.lock import locked

FAST = "--recipe fast --model white16 --epochs 2 -b 8 --device cpu".split()


@pytest.fixture
def runs(class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that came to its end and was tested, one that died, and a damaged one."""
    train = str(class_folders())
    test = str(class_folders("others", size=(15, 15)))
    assert run_app(["train", train, *FAST, "--name", "done"]) == 0
    assert run_app(["test", "runs/done", test]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(drive, "write_report", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_app(["train", train, *FAST, "--name", "died"])
    (Path("runs") / "broken").mkdir()
    (Path("runs") / "broken" / "config.json").write_text("{")
    (Path("runs") / "notes").mkdir()
    return Path("runs")


def test_what_somebody_else_shows_to_nobody_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()

    def refuse(path: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", refuse)
        assert list_runs(tmp_path) == []
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(StorageError, match="Permission denied"):
            list_runs(tmp_path)


def test_a_list_says_what_became_of_each(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [(one.name, one.state) for one in list_runs(runs)] == [
        ("done", "done"),
        ("died", "interrupted"),
        ("broken", "damaged"),
    ]
    done, died, broken = list_runs(runs)
    assert (done.data, done.recipe, done.model, done.epochs) == ("pets", "fast", "white16", 2)
    assert done.val is not None
    assert done.val.n == 4
    assert done.test is not None
    assert done.test.n == 40
    assert died.test is None
    assert broken.val is None
    assert done.size > 100_000
    capsys.readouterr()
    with locked(runs / "died"):
        assert run_app(["runs"]) == 0
    out = capsys.readouterr().out
    assert "training" in out
    assert "3 runs, " in out
    assert done.val.percent() in out
    assert run_app(["train", "--resume", "runs/died"]) == 0
    capsys.readouterr()
    assert run_app(["runs", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["died"]["state"] == "done"
    assert rows["died"]["exact"] is True
    assert rows["done"]["test"]["n"] == 40


def test_looking_changes_nothing(runs: Path) -> None:
    (runs / "died" / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    list_runs(runs)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_a_run_that_did_not_go_on_exactly_says_so(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--resume", "runs/died", "--resume-anyway", "--epochs", "3"]
    assert run_app(words) == 0
    capsys.readouterr()
    assert run_app(["runs"]) == 0
    assert "done, not exact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "words", "code", "gone"),
    [
        ("y\n", [], 0, True),
        ("n\n", [], 0, False),
        ("", [], 2, False),
        ("", ["--yes"], 0, True),
    ],
)
def test_a_run_is_removed_after_asking(
    answer: str, words: list[str], code: int, gone: bool, runs: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert run_app(["runs", "--remove", "done", *words]) == code
    assert (runs / "done").exists() != gone
    said = capsys.readouterr()
    assert ("removed: runs/done" in said.out) == gone
    assert {path.name for path in runs.iterdir()} >= {"died", "broken", "notes"}


def test_what_is_no_run_of_this_folder_is_not_removed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "link").symlink_to(tmp_path / "runs" / "done")
    for name in ("nothing", "..", "../pets", "/", "", "notes", "link"):
        assert run_app(["runs", "--remove", name, "--yes"]) == 2
        assert "has no run called" in capsys.readouterr().err
    assert "link" not in [one.name for one in list_runs(runs)]
    with locked(runs / "done"), pytest.raises(BusyError):
        remove_run(runs / "done")
    assert (runs / "done" / "model.json").exists()
    with pytest.raises(UsageError, match="no such folder of runs"):
        list_runs(Path("elsewhere"))
    assert list_runs(tmp_path / "pets") == []


def test_a_removal_that_breaks_off_leaves_no_half_a_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(listing.shutil, "rmtree", fail)
        with pytest.raises(StorageError, match="runs/done: Permission denied"):
            remove_run(runs / "done")
    assert "done" not in [one.name for one in list_runs(runs)]
    with pytest.raises(ModelError):
        remove_run(runs / "done")
