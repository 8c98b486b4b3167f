"""`eyebright predict --parts`: every picture once, whoever is killed and however often."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from eyebright import lake, prediction
from eyebright.cli import run_app
from eyebright.files import beside, create_file
from eyebright.lake import Listing, part_name
from eyebright.ranks import Ranks

Says = Callable[..., tuple[int, str, str]]
BAD = "pictures/7.png"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run ``runs/r``, and the picture 0 to 299 in ``made``."""
    home = tmp_path_factory.mktemp("lake")
    (home / "made").mkdir()
    for i in range(300):
        noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        label = "cat" if i % 2 else "dog"
        for folder in ("made", f"pets/{label}") if i < 60 else ("made",):
            (home / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise // (1 + i % 2)).save(home / folder / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYEBRIGHT_CACHE_GB", "0")
        words = "--recipe fast --model white16 --epochs 1 -b 16 --device cpu --name r"
        assert run_app(["train", str(home / "pets"), *words.split(), "--runs", str(home)]) == 0
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> str:
    """The run; ``pictures`` are the first 50 pictures, of which one cannot be read."""
    (tmp_path / "pictures").mkdir()
    for i in range(50):
        (tmp_path / "pictures" / f"{i}.png").symlink_to(home / "made" / f"{i}.png")
    Path(BAD).unlink()
    Path(BAD).write_bytes(b"no picture")
    return str(home / "r")


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Lets this process be one of several on its machine."""
    threads = torch.get_num_threads()

    def become(rank: int, size: int) -> None:
        for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
            monkeypatch.setenv(name, str(value))
            monkeypatch.setenv(f"LOCAL_{name}", str(value))

    yield become
    torch.set_num_threads(threads)


def rows_in(folder: str | Path) -> list[dict[str, Any]]:
    return list(ds.dataset(str(folder)).to_table().to_pylist())


def check_rows(run: str, rows: list[dict[str, Any]], says: Says, *pictures: str) -> None:
    """They are what one process says of the same pictures, in order."""
    assert says("predict", run, *pictures, "-o", "one.parquet", "--skip-bad")[0] == 0
    wanted = pq.read_table("one.parquet").to_pylist()
    assert [row["picture"] for row in rows] == [row["picture"] for row in wanted]
    for row, one in zip(rows, wanted, strict=True):
        assert row.keys() == one.keys()
        for key, value in one.items():
            if isinstance(value, float):
                assert row[key] == pytest.approx(value, abs=1e-6)
            else:
                assert row[key] == value


def names_in(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def parts_of(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("part-*"))


def test_parts_hold_every_picture_once_and_in_order(run: str, eyebright_says: Says) -> None:
    words = ["predict", run, "pictures", "--parts", "deep/lake", "--part-size", 8]
    code, out, err = eyebright_says(*words)
    assert (code, err) == (0, "")  # one picture is bad: a row among others
    assert "50 pictures, 7 parts in deep/lake (" in out
    assert "unreadable 1" in out
    assert parts_of("deep/lake") == [part_name(i) for i in range(7)]
    rows = rows_in("deep/lake")
    check_rows(run, rows, eyebright_says, "pictures")
    assert [row["picture"] for row in rows if row["error"]] == [BAD]
    assert pq.read_table("deep/lake").num_rows == 50
    Path("deep/lake/.part-000001.parquet.77.tmp").write_bytes(b"half")
    assert len(rows_in("deep/lake")) == 50


def test_a_finished_folder_has_nothing_left(
    run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", run, "pictures", "--parts", "lake"]
    assert eyebright_says(*words)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("lake").iterdir()}
    monkeypatch.setattr(lake, "predict_files", lambda *_, **__: pytest.fail("again"))
    code, out, _ = eyebright_says(*words)
    assert (code, out) == (0, "nothing is left to do: the one part of lake is there\n")
    assert {path: path.stat().st_mtime_ns for path in Path("lake").iterdir()} == before


def test_ranks_share_them(
    run: str, eyebright_says: Says, as_rank: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = ["predict", run, "pictures", "--parts", "lake", "--part-size", 10]
    as_rank(1, 2)  # the second comes first
    code, out, _ = eyebright_says(*words)
    assert code == 0
    assert out.startswith("rank 1 of 2: 20 pictures, 2 parts in lake (")
    assert parts_of("lake") == ["part-000001.parquet", "part-000003.parquet"]
    assert eyebright_says(*words)[1] == (
        "rank 1 of 2: nothing is left to do: its 2 of the 5 parts of lake are there\n"
    )
    as_rank(7, 8)
    assert "its 0 of the 5 parts" in eyebright_says(*words)[1]
    as_rank(2, 3)  # three of them go on with what two have begun
    code, out, _ = eyebright_says(*words)
    assert out.startswith("rank 2 of 3: 10 pictures, 1 part in lake (")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name)
    code, out, _ = eyebright_says(*words)
    assert out.startswith("20 pictures, 2 parts in lake, 3 were there (")
    check_rows(run, rows_in("lake"), eyebright_says, "pictures")


def test_only_the_first_rank_shows_progress(
    run: str, eyebright_says: Says, as_rank: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shown = []
    real = prediction.progress_bar

    def bar(title: str, total: int | None, quiet: bool = False) -> Any:
        shown.append((title, total, quiet))
        return real(title, total, quiet)

    monkeypatch.setattr(prediction, "progress_bar", bar)
    for rank in (0, 1):
        as_rank(rank, 2)
        eyebright_says("predict", run, "pictures", "--parts", "lake", "--part-size", 10)
    assert shown == [("predicting, 1 share of 2", 30, False), ("", 20, True)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--part-size 9", "begun with --part-size 10, and now it is 9"),
        ("--top 1", "begun with --top 2, and now it is 1"),
        ("--max-pixels 99", "begun with --max-pixels 67108864, and now it is 99"),
        ("--coverage 0.9", "begun with --coverage none, and now it is coverage 0.9, threshold"),
        ("extra.png", "begun with 50 pictures, and now it is 51"),
    ],
)
def test_what_would_not_fit_is_refused(
    words: str, said: str, run: str, eyebright_says: Says
) -> None:
    begun = ["predict", run, "pictures", "--parts", "lake", "--part-size", 10]
    assert eyebright_says(*begun)[0] == 0
    Path("lake", part_name(2)).unlink()
    Path("extra.png").write_bytes(b"")
    code, _, err = eyebright_says(*begun, *words.split())
    assert code == 2
    assert err.startswith("eyebright: lake: begun with")
    assert said in err
    assert "name a new folder for --parts" in err
    assert part_name(2) not in parts_of("lake")


def test_pictures_that_come_go_or_change_places_are_noticed(run: str, eyebright_says: Says) -> None:
    begun = ["predict", run, "pictures", "--parts", "lake", "--part-size", 10]
    assert eyebright_says(*begun)[0] == 0
    Path("pictures/50.png").write_bytes(b"new")
    code, _, err = eyebright_says(*begun)
    assert code == 2
    assert "begun with 50 pictures, and now it is 51" in err
    assert "added, removed or renamed" in err
    Path("pictures/50.png").rename("pictures/3.png")
    assert eyebright_says(*begun)[0] == 0  # the names are what they were
    Path("pictures/3.png").rename("pictures/3a.png")
    code, _, err = eyebright_says(*begun)
    assert "begun with 50 pictures, and now it is 50 that are not all the same" in err
    code, _, err = eyebright_says(
        "predict", run, "pictures/1.png", "pictures/0.png", "--parts", "two"
    )
    assert code == 0
    code, _, err = eyebright_says(
        "predict", run, "pictures/0.png", "pictures/1.png", "--parts", "two"
    )
    assert code == 2
    assert "named in another order" in err


def test_another_model_is_noticed(run: str, eyebright_says: Says, tmp_path: Path) -> None:
    begun = ["pictures", "--parts", "lake", "--part-size", 10]
    assert eyebright_says("predict", run, *begun)[0] == 0
    words = "--recipe fast --model white16 --epochs 1 -b 16 --device cpu --name other --seed 9"
    pets = Path(run).parent / "pets"
    assert run_app(["train", str(pets), *words.split()]) == 0
    code, _, err = eyebright_says("predict", "runs/other", *begun)
    assert code == 2
    assert "lake: begun with another model: name a new folder" in err


@pytest.mark.parametrize("kind", ["empty", "cut", "of another block", "of another lake", "text"])
def test_damaged_parts_are_named(kind: str, run: str, eyebright_says: Says) -> None:
    begun = ["predict", run, "pictures", "--parts", "lake", "--part-size", 10]
    assert eyebright_says(*begun)[0] == 0
    assert eyebright_says(*begun, "--parts", "lake2", "--top", 1)[0] == 0
    part = Path("lake", part_name(3))
    whole = part.read_bytes()
    part.write_bytes(
        {
            "empty": b"",
            "cut": whole[:-100],
            "of another block": Path("lake", part_name(2)).read_bytes(),
            "of another lake": Path("lake2", part_name(3)).read_bytes(),
            "text": b"x" * 5000,
        }[kind]
    )
    code, _, err = eyebright_says(*begun)
    assert code == 3
    assert "lake/part-000003.parquet: damaged (" in err
    assert "remove it, and it is made again" in err
    part.unlink()
    assert eyebright_says(*begun)[0] == 0
    check_rows(run, rows_in("lake"), eyebright_says, "pictures")


def test_what_is_not_ours_is_left_alone(run: str, eyebright_says: Says) -> None:
    begun = ["predict", run, "pictures", "--parts", "lake", "--part-size", 10]
    Path("lake").mkdir()
    Path("lake/.hidden").write_text("")
    Path("lake/notes.txt").write_text("mine")
    code, _, err = eyebright_says(*begun)
    assert code == 2
    assert "lake: holds notes.txt and no _listing.json; name a new folder" in err
    assert names_in("lake") == [".hidden", "notes.txt"]
    Path("lake/notes.txt").unlink()
    assert eyebright_says(*begun)[0] == 0
    Path("lake/part-000005.parquet").write_bytes(Path("lake", part_name(0)).read_bytes())
    code, _, err = eyebright_says(*begun)
    assert code == 2
    assert "lake/part-000005.parquet: no part of these predictions" in err
    Path("lake/part-000005.parquet").unlink()
    Path("lake/_listing.json").unlink()
    code, _, err = eyebright_says(*begun)
    assert code == 2
    assert "lake: holds part-000000.parquet and no _listing.json" in err
    Path("lake/_listing.json").write_text("[")
    code, _, err = eyebright_says(*begun)
    assert code == 4
    assert "lake/_listing.json: unreadable" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("pictures --parts pictures/1.png", 2, "pictures/1.png: no folder"),
        ("pictures --parts pictures/1.png/lake", 5, "pictures/1.png/lake: Not a directory"),
        ("pictures --parts lake -o rows.csv", 2, "choose one of"),
        ("pictures --parts lake --json", 2, "choose one of"),
        ("pictures --parts lake --copy-into x", 2, "choose one of"),
        ("--sample 2 --parts lake", 2, "--parts needs pictures"),
        ("pictures --part-size 3", 2, "goes with --parts"),
        ("pictures --part-size 0 --parts lake", 2, "--part-size"),
        ("nowhere --parts lake", 3, "nowhere: no such file"),
        ("empty --parts lake", 3, "empty: no pictures in it"),
        ("- pictures --parts lake", 3, "name no others"),
    ],
)
def test_wrong_wishes_are_refused(
    words: str, code: int, said: str, run: str, eyebright_says: Says
) -> None:
    Path("empty").mkdir()
    found, _, err = eyebright_says("predict", run, *words.split())
    assert found == code
    assert said in err
    assert not Path("lake").exists()


def test_several_processes_share_files_only(
    run: str, eyebright_says: Says, as_rank: Callable[[int, int], None]
) -> None:
    as_rank(0, 2)
    code, _, err = eyebright_says("predict", run, "pictures", "-o", "rows.csv")
    assert (code, "2 processes share pictures with --parts DIR only" in err) == (2, True)
    code, _, err = eyebright_says("predict", run, "-", "--parts", "lake")
    assert (code, "cannot read one standard input" in err) == (2, True)
    as_rank(2, 2)
    code, _, err = eyebright_says("predict", run, "pictures", "--parts", "lake")
    assert (code, "RANK cannot be 2" in err) == (2, True)


def test_lines_and_names_that_no_file_can_have(
    run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("pictures/1.png\ngone.png\n"))
    assert eyebright_says("predict", run, "-", "--parts", "lines")[0] == 0
    assert [row["error"] is None for row in rows_in("lines")] == [True, False]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = eyebright_says("predict", run, "-", "--parts", "none")
    assert (code, "no pictures are named" in err) == (3, True)
    odd = ["pictures/2.png", "a\0b.png", "\ud800.png", "\udcff.png", "a\nb.png", ""]
    Path("odd.jsonl").write_text("".join(json.dumps({"path": name}) + "\n" for name in odd))
    assert eyebright_says("predict", run, "odd.jsonl", "--parts", "odd", "--part-size", 4)[0] == 0
    rows = rows_in("odd")
    assert [row["error"] is None for row in rows] == [True, *[False] * 5]
    assert rows[1]["error"] == "cannot be read"
    assert eyebright_says("predict", run, "odd.jsonl", "--format", "csv", "--skip-bad")[0] == 0


def test_an_interruption_leaves_whole_parts(
    run: str, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", run, "pictures", "--parts", "lake", "--part-size", 10]
    predict_files = prediction.predict_files

    def interrupted(*given: Any, **named: Any) -> Iterator[Any]:
        for i, one in enumerate(predict_files(*given, **named)):
            if i == 25:
                raise KeyboardInterrupt
            yield one

    with monkeypatch.context() as patch:
        patch.setattr(lake, "predict_files", interrupted)
        assert eyebright_says(*words)[0] == 130
    assert names_in("lake") == ["_listing.json", part_name(0), part_name(1)]

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = eyebright_says(*words)
    assert (code, "lake/part-000002.parquet: No space left" in err) == (5, True)
    assert names_in("lake") == ["_listing.json", part_name(0), part_name(1)]
    assert "30 pictures, 3 parts in lake, 2 were there" in eyebright_says(*words)[1]
    check_rows(run, rows_in("lake"), eyebright_says, "pictures")


def test_only_own_halves_are_swept(
    run: str, eyebright_says: Says, as_rank: Callable[[int, int], None]
) -> None:
    Path("lake").mkdir()
    own = [".part-000003.parquet.9.tmp", "._listing.json.9.tmp"]
    others = [".part-000002.parquet.9.tmp", ".part-3.parquet.tmp", ".mine.9.tmp"]
    for name in own + others:
        Path("lake", name).write_text("")
    as_rank(1, 2)
    assert eyebright_says("predict", run, "pictures", "--parts", "lake", "--part-size", 10)[0] == 0
    assert {name for name in names_in("lake") if name.startswith(".")} == set(others)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_a_listing_is_the_same_for_all_ranks(size: int) -> None:
    paths = [Path(f"folder/{i}.png") for i in range(53)]
    lists = [Listing(iter(paths), 10, Ranks(rank, size)) for rank in range(size)]
    assert {one.sha256 for one in lists} == {Listing(paths, 7, Ranks()).sha256}
    files = {block: one.files(block) for one in lists for block in one.own}
    assert sum(len(one.own) for one in lists) == len(files) == lists[0].blocks == 6
    assert [file for block in sorted(files) for file in files[block]] == paths
    assert all(len(files[block]) == lists[0].size(block) for block in files)


def test_a_long_listing_takes_little_memory() -> None:
    n = 200_000
    one = Listing((Path(f"/lake/{i % 100:03d}/{i}.jpg") for i in range(n)), 10_000, Ranks(1, 4))
    assert (one.n, one.blocks, list(one.own)) == (n, 20, [1, 5, 9, 13, 17])
    assert sum(map(len, one.own.values())) < n  # bytes, of 50,000 paths


def test_of_several_files_the_first_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"

    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    assert not create_file(path, b"third")
    assert path.read_bytes() == b"first"
    assert create_file(tmp_path / "other", b"fourth")
    assert (tmp_path / "other").read_bytes() == b"fourth"
    assert names_in(tmp_path) == ["file", "other"]
    assert not beside(path).exists()


def test_an_exported_model_fills_parts_too(
    shipped: Path, eyebright_says: Says, as_rank: Callable[[int, int], None]
) -> None:
    model, pictures = shipped / "onnx" / "model.onnx", shipped / "pets" / "cat"
    words = [model, pictures, "--parts", "lake", "--part-size", 40]
    for rank in (0, 1):
        as_rank(rank, 2)
        assert eyebright_says("predict", *words)[0] == 0
    rows = rows_in("lake")
    as_rank(0, 1)
    assert eyebright_says("predict", model, pictures, "-o", "one.parquet")[0] == 0
    wanted = pq.read_table("one.parquet").to_pylist()
    assert [row["picture"] for row in rows] == [row["picture"] for row in wanted]
    assert [row["label"] for row in rows] == [row["label"] for row in wanted]
    code, _, err = eyebright_says("predict", shipped / "runs" / "r", *words[1:])
    assert (code, "another model" in err) == (2, True)


def workers_of(launcher: int) -> list[int]:
    """The processes that torchrun has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            words = stat.with_name("cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if parent == launcher and b"eyebright" in words:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_rank_loses_nothing(home: Path, eyebright_says: Says) -> None:
    Path("pictures").symlink_to(home / "made")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "2", "-m", "eyebright"]
    command += ["predict", str(home / "r"), "pictures", "--parts", "lake", "--part-size", "10"]
    with Path("said").open("wb") as said:
        launched = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        while len(workers := workers_of(launched.pid)) < 2 and launched.poll() is None:
            time.sleep(0.05)
        while not parts_of("lake") and launched.poll() is None:
            time.sleep(0.001)
        os.kill(workers[0], signal.SIGKILL)
        there = len(parts_of("lake"))
        assert launched.wait(120) == 0, Path("said").read_text()
    finally:
        if launched.poll() is None:
            launched.terminate()  # and its ranks with it
            launched.wait(60)
    assert 0 < there < 30  # it was killed on the way
    said_in_all = Path("said").read_text()
    assert "were there" in said_in_all or "are there" in said_in_all  # and went on
    assert {name for name in names_in("lake") if not name.startswith(".")} == {
        "_listing.json", *map(part_name, range(30)),
    }  # fmt: skip
    check_rows(str(home / "r"), rows_in("lake"), eyebright_says, "pictures")
