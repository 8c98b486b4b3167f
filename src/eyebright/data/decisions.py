"""Decisions on pictures: a table that is only ever added to.

A line for each decision, ``id,decision,label``: keep a picture as it is, relabel it, drop it, or
undo what was decided before. Of several lines on a picture the last one counts. Pictures of the
training part are called by their id, others by their part and id: ``val/cat/1.png``, ``test/17``.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eyebright.console import notices, shown
from eyebright.data.cache import data_home
from eyebright.errors import DataError, StorageError
from eyebright.nearby import nearest_path

if TYPE_CHECKING:
    from eyebright.data.dataset import Dataset

COLUMNS = ["id", "decision", "label"]
KEEP, RELABEL, DROP, UNDO = "keep", "relabel", "drop", "undo"
PREFIXES = {"train": "", "val": "val/", "test": "test/"}
"""What stands before an id in the table: the training part and another may use the same ids."""


@dataclass(frozen=True)
class Decision:
    """What is to become of a picture."""

    decision: str
    """``keep``, ``relabel`` or ``drop``."""
    label: str
    """The class that it belongs to, where it is relabelled; else empty."""
    line: int
    """Of the table."""


@dataclass(frozen=True)
class Decisions:
    """What a table says, at one moment."""

    path: Path
    of: dict[str, Decision]
    """By the picture's id, as the table has it."""
    sha256: str
    """Of the bytes that were read."""
    size: int
    """How many those were: what comes later is added behind them."""

    @property
    def dropped(self) -> frozenset[str]:
        """The ids of pictures that are left out; those need not even be readable."""
        return frozenset(name for name, one in self.of.items() if one.decision == DROP)


def table_ids(data: "Dataset", part: str = "train") -> list[str]:
    """What the pictures are called in a table: one line of text each.

    Args:
        data: any.
        part: ``train`` (or all of a flat folder), ``val`` or ``test``.
    """
    return [PREFIXES[part] + shown(name) for name in data.ids]


def table_beside(data: "Dataset") -> Path:
    """Where decisions on these data are kept, unless the user names another place."""
    if data.source is None:
        return Path("labels.csv")
    source = Path(data.source)
    if source.is_dir():
        return source / "labels.csv"
    if source.is_file():  # a table may itself be called labels.csv
        return source.with_name(f"{source.stem.removesuffix('.tar')}-labels.csv")
    return data_home() / f"{data.source}-labels.csv"


def read(path: str | os.PathLike[str], size: int | None = None) -> Decisions:
    """What a table says; nothing where it is empty.

    Args:
        path: of the table.
        size: read so many bytes only, as they stood there before.

    Raises:
        DataError: no such file, no such table, or a line that decides nothing.
    """
    try:
        content = Path(path).read_bytes()[:size]
    except OSError as error:
        raise DataError(f"{shown(path)}: {error.strerror}{nearest_path(Path(path))}") from None
    # Without its end, nobody knows whether "cat" is all there was to be of a line.
    whole, end, rest = content.rpartition(b"\n")
    if rest:
        notices.warning(
            "%s: its last line has no end, as if half written, and is not counted", shown(path)
        )
    content = whole + end
    of: dict[str, Decision] = {}
    for number, row in _rows(content, Path(path)):
        where = f"{shown(path)}, line {number}"
        if len(row) != len(COLUMNS) or not row[0]:
            raise DataError(f"{where}: needs {', '.join(COLUMNS)}; a label may be empty")
        name, decision, label = row
        if decision not in (KEEP, RELABEL, DROP, UNDO):
            choices = ", ".join([KEEP, RELABEL, DROP, UNDO])
            raise DataError(f"{where}: no decision '{shown(decision)}'; choose one of: {choices}")
        if (decision == RELABEL) != bool(label):
            raise DataError(f"{where}: a label belongs to 'relabel', and to nothing else")
        of.pop(name, None)
        if decision != UNDO:
            of[name] = Decision(decision, label, number)
    return Decisions(Path(path), of, hashlib.sha256(content).hexdigest(), len(content))


def _rows(content: bytes, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, with their numbers, without the first, which is checked."""
    try:
        for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
            line = line.removesuffix("\r")  # as spreadsheets end it
            [row] = csv.reader([line], strict=True) if line else [[]]
            if number == 1 and content and row != COLUMNS:
                raise DataError(
                    f"{shown(path)}: no table of decisions; its first line must be "
                    f"{','.join(COLUMNS)}"
                )
            if number > 1 and row:
                yield number, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(path)}: no table in CSV ({error})") from None


def append(path: Path, name: str, decision: str, label: str = "") -> None:
    """Add a decision to a table; it is on the disk when this returns.

    Args:
        path: of the table; made where there is none.
        name: of the picture, as `table_ids` has it.
        decision: ``keep``, ``relabel``, ``drop`` or ``undo``.
        label: of the class, for ``relabel``.

    Raises:
        DataError: a file that is no table of decisions lies there.
        StorageError: the disk refuses; the message names the path.
    """
    append_all(path, [(name, decision, label)])


def append_all(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """As `append`, several decisions at once: (name, decision, label) of each."""
    lines = io.StringIO()
    for name, decision, label in rows:
        assert (decision == RELABEL) == bool(label), "a label belongs to relabel alone"
        csv.writer(lines, lineterminator="\n").writerow([shown(name), decision, shown(label)])
    try:
        with path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            whole = content.rpartition(b"\n")[0]
            start = len(whole) + 1 if whole or content.startswith(b"\n") else 0
            next(_rows(content[:start], path), None)  # nothing is added to a foreign file
            file.truncate(start)  # what a crash left half written, which `read` does not count
            head = b"" if start else (",".join(COLUMNS) + "\n").encode()
            file.write(head + lines.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"{shown(path)}: {error.strerror or error}; name another place with --labels"
        ) from None
