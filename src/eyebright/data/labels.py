"""What decisions make of a `Dataset`, and how a run remembers them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eyebright.console import counted, notices, shown
from eyebright.data.decisions import DROP, PREFIXES, RELABEL, Decisions, read, table_ids
from eyebright.errors import DataError, UsageError

if TYPE_CHECKING:
    from eyebright.data.dataset import Dataset


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
            "%s: %s of %s dropped and %d relabelled, %d left",
            shown(decisions.path), counted(dropped, "picture"), shown(data.name), relabelled,
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
