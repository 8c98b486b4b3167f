"""`convert`: pictures into tar shards that are read in sequence, with an index of what is where.

The shards are in WebDataset's layout (``<key>.jpg`` and ``<key>.cls`` side by side), so that any
reader of it reads them. An unfinished conversion goes on behind its last whole shard.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyebright.config import RANGES
from eyebright.console import counted, notices, progress_bar, shown
from eyebright.data import Dataset
from eyebright.data.contents import numbers_file
from eyebright.data.index import INDEX, SHARD, STATE, Index
from eyebright.data.sources import find_part_names, list_part
from eyebright.data.views import Files
from eyebright.errors import DataError, ModelError, StorageError, UsageError
from eyebright.files import read_json, sweep, write_json
from eyebright.images import POLICY
from eyebright.lock import FILE as LOCK
from eyebright.lock import locked
from eyebright.machine import available_cores
from eyebright.packing import (
    Picture,
    Written,
    merge,
    note,
    prepared,
    stamp,
    whole_shards,
    write_shard,
)

SHARD_SIZE = 128 << 20  # bytes; some hundred megabytes are read in one go on any disk
LEAST_SIZE = 10 << 10
NAMED = 20  # bad pictures, in messages
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes, from text such as ``256M``.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"([0-9]{1,9})([KMG]?)", text.strip().upper().removesuffix("B"))
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if not LEAST_SIZE <= size <= 1 << 40:
        raise UsageError(f"--shard-size must be a size such as 128M, not '{shown(text)}'")
    return size


@dataclass(frozen=True)
class Plan:
    """What is to be converted, and how."""

    parts: dict[str, Dataset]
    flat: bool
    imgsz: int | None
    shard_size: int
    workers: int

    @property
    def digest(self) -> str:
        """Of all that decides what the shards hold: another one means other shards."""
        digest = hashlib.sha256(f"{POLICY} {self.imgsz} {self.shard_size}".encode())
        for name, data in self.parts.items():
            about = [name, data.classes, [str(one) for one in data.ids], data.labels.tolist()]
            digest.update(json.dumps([*about, data.columns]).encode())
            if isinstance(data.pixels, Files):
                digest.update(repr([stamp(file) for file in data.pixels.files]).encode())
            else:
                digest.update(data.fingerprint.encode())
        return digest.hexdigest()


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    shard_size: int = SHARD_SIZE,
    imgsz: int | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Index:
    """Write pictures into tar shards, which `load` takes in place of the source.

    Every picture is decoded once, so that none is found unreadable in the middle of a training.
    The order in train shards is by chance, always the same, so that each holds pictures of all
    classes; val and test are in the order of the source.

    Args:
        source: what `load` takes.
        folder: to write; it must be empty, or an unfinished conversion of the same source, which
            goes on where it was interrupted (from the beginning, where the pictures or the settings
            have changed since).
        shard_size: bytes of a shard; only a larger picture makes a larger one.
        imgsz: resize each picture once, to so many pixels, and write it as PNG. None: the bytes of
            each file stay as they are.
        skip_bad: leave out what cannot be read.
        workers: threads that read and decode; None: one a processor core.
        root: the folder that a table's paths are relative to; None: the table's own.

    Returns:
        What was written.

    Raises:
        UsageError: a folder that holds something else, or settings that make no sense.
        DataError: no pictures, or some that cannot be read; the message names them.
        StorageError: the disk refuses.
        BusyError: another process is converting into this folder.
    """
    folder = Path(folder)
    if imgsz is not None and not RANGES["imgsz"][0] <= imgsz <= RANGES["imgsz"][1]:
        low, high = RANGES["imgsz"]
        raise UsageError(f"--imgsz must be from {low:g} to {high:g} px, not {imgsz}")
    if Path(source).resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UsageError(f"{shown(folder)} would lie among the pictures; name another folder")
    _check_target(folder, str(source))
    names = find_part_names(source)
    parts: dict[str, Dataset] = {}
    for name in names or (None,):
        known = next(iter(parts.values())).classes if parts else None
        parts[name or "train"] = list_part(source, name, known, root)
    workers = max(1, available_cores() if workers is None else workers)
    plan = Plan(parts, not names, imgsz, shard_size, workers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    with locked(folder):
        return _carry_out(plan, folder, str(source), skip_bad)


def _check_target(folder: Path, source: str) -> None:
    """See that nothing of somebody else's lies there.

    Raises:
        UsageError: something does.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"{shown(folder)}: there is a file of that name; name another folder")
    if (folder / INDEX).exists() and not (folder / STATE).exists():
        raise UsageError(
            f"{shown(folder)}: holds shards already; name another folder, or remove it"
        )
    others = [
        entry.name
        for entry in folder.iterdir()
        if entry.name not in (STATE, LOCK) and not entry.name.endswith(".tmp")
    ]
    if not others:
        return
    if not (folder / STATE).exists():
        raise UsageError(f"{shown(folder)}: not empty ({shown(others[0])}); name another folder")
    if _state(folder).get("source") != _named(source):
        raise UsageError(
            f"{shown(folder)}: holds an unfinished conversion of "
            f"{shown(_state(folder).get('source'))}; name another folder, or remove it"
        )


def _state(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / STATE)
    except ModelError:
        return {}


def _named(source: str) -> str:
    return str(Path(source).resolve()) if os.path.lexists(source) else source


def _carry_out(plan: Plan, folder: Path, source: str, skip_bad: bool) -> Index:
    sweep(folder)
    state = {"source": _named(source), "plan": plan.digest}
    if _state(folder) != state:
        if (folder / STATE).exists():
            notices.warning(
                "%s: begun anew, for pictures or settings are no longer the same", shown(folder)
            )
        _remove_ours(folder)
        write_json(folder / STATE, state)
    (folder / INDEX).unlink(missing_ok=True)  # it is written last
    bad: list[str] = []
    modes: list[str] = []
    written: dict[str, list[Written]] = {}
    for name, data in plan.parts.items():
        written[name], left_out = _write_part(plan, folder, name, data)
        bad += [f"{shown(_name_of(data, i))}: {why}" for i, why in sorted(left_out.items())]
        modes = list(dict.fromkeys(modes + [m for one in written[name] for m in one.modes]))
    if bad and not skip_bad:
        more = f"\n... and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise DataError(
            "\n".join(bad[:NAMED])
            + f"{more}\n{counted(len(bad), 'picture')} cannot be read; mend or remove "
            "them, or go on without them: --skip-bad"
        )
    if bad:
        were = "was" if len(bad) == 1 else "were"
        notices.warning("%s %s left out", counted(len(bad), "unreadable picture"), were)
    first = next(iter(plan.parts.values()))
    index = Index(
        list(first.classes),
        {
            name: merge(folder, name, plan.parts[name], shards, modes)
            for name, shards in written.items()
        },
        plan.flat,
        first.mirrors,
        modes,
    )
    index.write(folder)
    for entry in folder.iterdir():
        if entry.name.endswith(".done"):
            entry.unlink()
    (folder / STATE).unlink()
    return index


def _remove_ours(folder: Path) -> None:
    ours = {INDEX, STATE, *(numbers_file(part) for part in ("train", "val", "test"))}
    for entry in folder.iterdir():
        whole = entry.name.removeprefix(".").removesuffix(".done")
        if entry.name in ours or SHARD.fullmatch(whole):
            entry.unlink()


def _name_of(data: Dataset, i: int) -> Path | str:
    if isinstance(data.pixels, Files):
        return data.pixels.files[i]
    return f"{data.name}, picture {data.ids[i]}"


def _write_part(
    plan: Plan, folder: Path, name: str, data: Dataset
) -> tuple[list[Written], dict[int, str]]:
    """All shards of a part, those that were whole before included; what is left out, and why."""
    order = np.arange(len(data))
    if name == "train":  # sources are sorted by class, and a shard is to hold all of them
        order = np.random.default_rng(0).permutation(order)
    done = list(whole_shards(folder, name))
    consumed = done[-1].consumed if done else 0
    bad = {i: why for one in done for i, why in one.bad.items()}
    with progress_bar(f"converting {name}", len(data)) as bar:
        bar.advance(consumed)
        found = prepared(data, order[consumed:], plan.imgsz, plan.workers, bar.advance)
        pending: tuple[int, Picture] | None = None
        while True:
            path = folder / f"{name}-{len(done):06d}.tar"
            shard = write_shard(path, plan.shard_size, data.labels, found, pending)
            one, pending, consumed_here, bad_here = shard
            bad |= bad_here
            if one is None:
                break
            consumed += consumed_here
            one.consumed = consumed
            note(folder, one)
            done.append(one)
            if pending is None:
                break
    if not done:
        why = f" ({bad[min(bad)]})" if bad else ""
        raise DataError(f"{shown(data.name)}: not one readable picture of {name}{why}")
    if name == next(iter(plan.parts)):
        kept = np.concatenate([one.numbers["position"] for one in done])
        counts = np.bincount(data.labels[kept], minlength=len(data.classes))
        if not counts.all():
            empty = data.classes[int(counts.argmin())]
            raise DataError(
                f"{shown(data.name)}: not one readable picture in the class '{shown(empty)}'"
            )
    return done, bad
