"""The pictures of a run, read again: those it was trained with, held out, or is to be tested on."""

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from eyebright.checkpoint import ModelCard
from eyebright.console import shown
from eyebright.data import Dataset, load
from eyebright.data.decisions import Decisions, read
from eyebright.data.labels import apply, read_again
from eyebright.data.sources import MissingPartError, find_part_names
from eyebright.errors import DataError, UsageError
from eyebright.images import pixels_limited_to


def load_test(
    run: Path,
    source: str | os.PathLike[str] | None,
    record: dict[str, Any],
    card: ModelCard,
    skip_bad: bool | Collection[str],
    root: str | os.PathLike[str] | None = None,
) -> tuple[Dataset, str]:
    """The test pictures, and which part of their data they are.

    Args:
        run: the folder, for messages.
        source: the data to test on; None: those trained on.
        record: what ``data.json`` holds.
        card: of the model, for size and classes.
        skip_bad: whether, or which, unreadable pictures are left out.
        root: the folder that a table's paths are relative to.

    Raises:
        DataError: no test part, or pictures that cannot be used.
    """
    if source is None and root is None:
        root = record.get("root")
    load_part = partial(load, imgsz=card.imgsz, classes=card.classes, skip_bad=skip_bad, root=root)
    if source is None and record["source"] is None:
        raise DataError(f"{shown(run)}: trained on data from memory; name the test data")
    try:
        return load_part(record["source"] if source is None else source, "test"), "test"
    except MissingPartError:
        if source is None:
            raise DataError(
                f"{shown(record['source'])}: no test part; name the test data: "
                f"eyebright test {shlex.quote(shown(run))} DATA"
            ) from None
        if find_part_names(source):
            raise
    # What has no parts and was named is a test set as a whole.
    return load_part(source), "train"


def load_held_out(
    run: Path, record: dict[str, Any], imgsz: int, decisions: Decisions | None = None
) -> Dataset:
    """The pictures held out, as trained with, or as decided otherwise since.

    Raises:
        DataError: they are gone, or no longer the same.
    """
    raw, data = load_again(run, record, imgsz, decisions)
    held_out = held_out_part(data, record)
    if decisions is not None and data.decided is not None:
        given = held_out_part(raw, record)
        labels = dict(zip(given.ids, given.labels.tolist(), strict=True))
        pairs = zip(held_out.ids, held_out.labels.tolist(), strict=True)
        held_out.decided = data.decided | {
            "dropped": len(given) - len(held_out),
            "relabelled": sum(labels[name] != label for name, label in pairs),
        }
    return held_out


def load_again(
    run: Path, record: dict[str, Any], imgsz: int, decisions: Decisions | None = None
) -> tuple[Dataset, Dataset]:
    """All that it was trained with, as it came and as decided then, or otherwise since.

    Raises:
        DataError: they are gone, or no longer the same.
    """
    if record["source"] is None:
        raise DataError(f"{shown(run)}: trained on data from memory, which are gone")
    recorded = record.get("labels")
    before = None if recorded is None else trained_with(recorded, decisions)
    dropped = frozenset[str]().union(*(one.dropped for one in (before, decisions) if one))
    skip = bool(record["skipped_bad"]) or dropped
    with pixels_limited_to(record["max_pixels"]):
        raw = data = load(record["source"], imgsz=imgsz, skip_bad=skip, root=record.get("root"))
    if before is not None:
        data = apply(raw, before, quiet=decisions is not None)
    if data.fingerprint != record["fingerprint"]:
        raise DataError(
            f"{shown(record['source'])}: no longer the data of this run (its fingerprint was "
            f"{record['fingerprint'][:12]}, now it is {data.fingerprint[:12]})"
        )
    if decisions is not None:
        data = apply(raw, decisions)
    return raw, data


def read_pictures_again(
    run: Path,
    record: dict[str, Any],
    data: Dataset | str | os.PathLike[str] | None,
    imgsz: int,
    workers: int | None,
    labels: str | os.PathLike[str] | None,
    root: str | os.PathLike[str] | None,
) -> Dataset:
    """The pictures of a run that was interrupted, or those that are named in their place.

    Raises:
        UsageError: they were in memory alone.
        DataError: they are gone, or the decisions on them.
    """
    recorded = record.get("labels")
    named, decisions = None if labels is None else Path(labels), None
    if recorded is not None:
        decisions = read_again(recorded, named)
    elif named is not None:
        decisions = read(named)
    if not isinstance(data, Dataset):
        source = record["source"] if data is None else data
        if source is None:
            raise UsageError(f"{shown(run)}: its pictures were in memory; give them again")
        skip = record["skipped_bad"] or (decisions.dropped if decisions else False)
        if data is None and root is None:
            root = record.get("root")
        with pixels_limited_to(record["max_pixels"]):
            data = load(source, imgsz=imgsz, skip_bad=skip, workers=workers, root=root)
    if decisions is not None and data.decided is None:
        data = apply(data, decisions)
    return data.resized(imgsz)


def held_out_part(data: Dataset, record: dict[str, Any]) -> Dataset:
    """The pictures that a run held out, as far as they are still among the data."""
    if record["val"] == "own":
        assert data.val is not None, "recorded as having a part of its own"
        return data.val
    position = {name: i for i, name in enumerate(data.ids)}
    return data.subset([position[i] for i in record["splits"]["val"] if i in position])


def trained_with(record: dict[str, Any], instead: Decisions | None) -> Decisions:
    """The decisions of a run; its table may lie where another one was named, and hold more now."""
    if instead is not None:
        with contextlib.suppress(DataError):
            return read_again(record, instead.path, quiet=True)
    return read_again(record)


def listing(data: Dataset) -> str | None:
    """What data are, however large their pixels: source, ids and labels; None from memory."""
    if data.source is None:
        return None
    named = [data.source, list(map(str, data.ids)), data.labels.tolist()]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()
