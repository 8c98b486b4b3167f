"""Files are written whole or not at all, whatever the disk does; none that is read is too large."""

import errno
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyebright.errors import ModelError, StorageError
from eyebright.files import (
    MOST_HEADER,
    append_line,
    read_json,
    read_safetensors,
    read_within,
    sweep,
    write_file,
    write_json,
)
from tampering import disk, honest, power_cuts


def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_file(path, b"old")
    seen = set()
    for left in power_cuts(tmp_path, lambda: write_file(path, b"new and longer")):
        seen.add(left.get("model.json"))
    assert seen == {b"old", b"new and longer"}


def test_without_syncing_first_a_power_cut_would_leave_nothing(tmp_path: Path) -> None:
    """That the test above could fail."""

    def write_carelessly() -> None:
        file = os.open(tmp_path / "temporary", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"new")
        os.close(file)
        (tmp_path / "temporary").replace(tmp_path / "model.json")

    write_file(tmp_path / "model.json", b"old")
    left = [state.get("model.json") for state in power_cuts(tmp_path, write_carelessly)]
    assert b"" in left


@pytest.mark.parametrize("most", [1, 7])
def test_a_disk_may_take_less_at_once_than_it_is_given(most: int, tmp_path: Path) -> None:
    def short(index: int, name: str, arguments: Any, real: Callable[..., Any]) -> Any:
        if name == "write":
            return real(arguments[0], arguments[1][:most])
        return real(*arguments)

    with disk(short) as calls:
        write_file(tmp_path / "a", b"a few bytes")
        append_line(tmp_path / "b", "one line")
    assert (tmp_path / "a").read_bytes() == b"a few bytes"
    assert (tmp_path / "b").read_bytes() == b"one line\n"
    assert calls.count("write") > 3


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_whatever_call_fails_the_old_file_is_whole(error: int, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_file(path, b"old")
    with disk(honest) as calls:
        write_file(path, b"old")
    assert len(calls) == 8
    for failing in range(8):

        def refuse(index: int, name: str, arguments: Any, real: Callable[..., Any]) -> Any:
            if index == failing:  # noqa: B023 (called within this turn of the loop)
                if name == "close":
                    real(*arguments)
                raise OSError(error, os.strerror(error))
            return real(*arguments)

        with disk(refuse), pytest.raises(StorageError) as caught:
            write_file(path, b"new and longer")
        assert str(caught.value) == f"{path}: {os.strerror(error)}"
        assert path.read_bytes() in (b"old", b"new and longer")
        assert list(tmp_path.iterdir()) == [path]
        write_file(path, b"old")


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".model.json.123.tmp", "deep/.x.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    for name in ("notes.tmp", ".notes.tmp"):
        (tmp_path / name).write_bytes(b"a user's")
    sweep(tmp_path)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == [".notes.tmp", "deep", "deep/.x.7.tmp", "notes.tmp"]


def test_what_is_too_large_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, of which nothing is on the disk
    tracemalloc.start()
    with pytest.raises(ModelError, match="cannot belong there"):
        read_json(path)
    with pytest.raises(ValueError, match="cannot belong there"):
        read_safetensors(path, 1000)
    with path.open("r+b") as file:
        file.write((MOST_HEADER + 1).to_bytes(8, "little"))
    with pytest.raises(ValueError, match="on its tensors"):
        read_safetensors(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (
        lambda: read_within(tmp_path / "pipe", 10),
        lambda: read_safetensors(tmp_path / "pipe"),
    ):
        with pytest.raises(ValueError, match="no regular file"):
            read()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interruption_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    write_file(path, b"old")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_file, append_line], ids=["write_file", "append_line"])
@pytest.mark.parametrize("where", ["nowhere/log.csv", "file/log.csv", "folder"])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, write: Callable[..., None], where: str
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as caught:
        write(tmp_path / where, "text" if write is append_line else b"text")
    assert str(caught.value).startswith(f"{tmp_path / where}: ")
    assert caught.value.exit_code == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_lines_are_added_and_a_full_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "test-log.jsonl"
    append_line(path, "one")
    append_line(path, "zwei – 二")
    assert path.read_text(encoding="utf-8") == "one\nzwei – 二\n"

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match=r"test-log\.jsonl"):
        append_line(path, "three")


def test_half_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "tests.jsonl"
    path.write_text("whole\nto")
    append_line(path, "next")
    append_line(path, "last")
    assert path.read_text() == "whole\nto\nnext\nlast\n"

    def fill_up(index: int, called: str, arguments: Any, real: Any) -> Any:
        if called == "write" and index > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(arguments[0], arguments[1][:3]) if called == "write" else real(*arguments)

    with disk(fill_up), pytest.raises(StorageError, match="No space"):
        append_line(path, "lost")
    assert path.read_text() == "whole\nto\nnext\nlast\n"


def test_a_line_is_not_added_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine\n")
    (tmp_path / "log.csv").symlink_to("diary")
    with pytest.raises(StorageError, match=r"log\.csv"):
        append_line(tmp_path / "log.csv", "not mine")
    assert (tmp_path / "diary").read_text() == "mine\n"


def test_json_is_plain_and_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    write_json(path, {"größe": [1, None]})
    assert path.read_bytes().isascii()
    assert json.loads(path.read_text()) == {"größe": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == {"größe": [1, None]}
