"""Decisions on pictures: a table that is only ever added to, and what it makes of a `Dataset`.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from eyebright.console import notices, shown
from eyebright.data.cache import data_home
from eyebright.errors import DataError, StorageError, UsageError

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
        raise DataError(f"{shown(path)}: {error.strerror}") from None
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


def apply(
    data: "Dataset", decisions: Decisions, part: str = "train", quiet: bool = False
) -> "Dataset":
    """The pictures as decided: without those dropped, others with another label; says how many.

    Args:
        data: the pictures; a validation part of their own is decided on too.
        decisions: what `read` gave.
        part: which part the pictures are, ``train`` (or all of a flat folder), ``val`` or ``test``.
        quiet: say nothing.

    Returns:
        New data, which know the table in ``decided``. The pictures given stay as they are.

    Raises:
        UsageError: they have been decided on already.
        DataError: a class that the data do not have, or a table of other pictures.
    """
    if data.decided is not None:
        raise UsageError(
            f"{shown(data.name)}: {shown(data.decided['path'])} has been applied to these pictures "
            "already; load them without it"
        )
    parts = {part: data} | ({"val": data.val} if data.val is not None else {})
    made, known, dropped, relabelled = {}, set[str](), 0, 0
    for one, pictures in parts.items():
        names = table_ids(pictures, one)
        kept, labels = _decide(names, pictures, decisions)
        if not len(kept):
            raise DataError(f"{shown(decisions.path)}: drops every picture of {shown(data.name)}")
        unread = {PREFIXES[one] + shown(name) for name in pictures.unreadable}
        known |= decisions.of.keys() & (unread | set(names))
        dropped += len(pictures) - len(kept) + len(decisions.dropped & unread)
        relabelled += int((labels[kept] != pictures.labels[kept]).sum())
        made[one] = pictures.subset(kept)
        made[one].labels[:] = labels[kept]
        made[one].source, made[one].root = pictures.source, pictures.root
        made[one].unreadable = {
            name: why
            for name, why in pictures.unreadable.items()
            if PREFIXES[one] + shown(name) not in decisions.dropped
        }
    new = made[part]
    new.val = made.get("val") if data.val is not None else None
    unknown = _unknown(decisions, known, part, data.name)
    new.decided = {
        "path": str(decisions.path.resolve()),
        "sha256": decisions.sha256,
        "bytes": decisions.size,
        "dropped": dropped,
        "relabelled": relabelled,
    }
    if not quiet:
        if unknown:
            notices.warning(
                "%s: %d decided that %s does not have, such as '%s'",
                shown(decisions.path), len(unknown), shown(data.name), shown(unknown[0]),
            )  # fmt: skip
        notices.warning(
            "%s: %d pictures of %s dropped and %d relabelled, %d left",
            shown(decisions.path), dropped, shown(data.name), relabelled,
            sum(map(len, made.values())),
        )  # fmt: skip
    return new


def _decide(
    names: list[str], data: "Dataset", decisions: Decisions
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Positions of what is kept, and the labels of all (n,)."""
    number = {shown(name): i for i, name in enumerate(data.classes)}
    kept, labels = np.ones(len(data), bool), data.labels.copy()
    for i, name in enumerate(names):
        one = decisions.of.get(name)
        if one is None:
            continue
        kept[i] = one.decision != DROP
        if one.decision == RELABEL:
            if one.label not in number:
                raise DataError(
                    f"{shown(decisions.path)}, line {one.line}: there is no class "
                    f"'{shown(one.label)}' among those of {shown(data.name)}: "
                    f"{', '.join(number)}"
                )
            labels[i] = number[one.label]
    return np.flatnonzero(kept), labels


def _unknown(decisions: Decisions, known: set[str], part: str, name: str) -> list[str]:
    """Decisions on pictures that are not there; those on other parts are no mistake.

    Raises:
        DataError: there is not one that is.
    """
    prefix, elsewhere = PREFIXES[part], PREFIXES["test"]  # train has val along, but never test
    unknown = [
        one
        for one in decisions.of
        if one not in known
        and (one.startswith(prefix) if prefix else not one.startswith(elsewhere))
    ]
    if unknown and not known:
        raise DataError(
            f"{shown(decisions.path)}: knows none of the pictures of {shown(name)}, but "
            f"'{shown(unknown[0])}'; it belongs to other data"
        )
    return unknown


def read_again(record: dict[str, Any], path: Path | None = None, quiet: bool = False) -> Decisions:
    """The decisions that a run was trained or tested with, from what it remembers of them.

    What was added to the table since is not counted: it is only ever added to.

    Args:
        record: `Dataset.decided`, as a run wrote it down.
        path: where the table lies now, if not where it was.
        quiet: do not say that there is more in it now.

    Raises:
        DataError: it is gone, or is no longer the same.
    """
    where, wanted = path or Path(record["path"]), record["sha256"]
    try:
        content = where.read_bytes()
    except OSError as error:
        raise DataError(
            f"{shown(where)}: {error.strerror}; this run used these decisions, put them back"
        ) from None
    if hashlib.sha256(content[: record["bytes"]]).hexdigest() != wanted:
        raise DataError(
            f"{shown(where)}: no longer the decisions of this run (their SHA-256 was "
            f"{wanted[:12]}); put them back, or train again"
        )
    if len(content) > record["bytes"] and not quiet:
        notices.warning(
            "%s: more has been decided since; this run knows the first %d bytes only",
            shown(where),
            record["bytes"],
        )
    return read(where, record["bytes"])


def check_decided(record: Any) -> dict[str, Any] | None:
    """See that what a file says of a table is what `Dataset.decided` was.

    Raises:
        ValueError: it is not.
    """
    kinds = {"path": str, "sha256": str, "bytes": int, "dropped": int, "relabelled": int}
    if record is None:
        return None
    if (
        not isinstance(record, dict)
        or record.keys() != kinds.keys()
        or any(type(record[key]) is not kind for key, kind in kinds.items())
    ):
        raise ValueError("no record of a table of decisions")
    return record
