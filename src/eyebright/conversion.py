"""`convert`: pictures into tar shards that are read in sequence, with an index of what is where.

The shards are in WebDataset's layout (``<key>.jpg`` and ``<key>.cls`` side by side), so that any
reader of it reads them. Threads read and decode; one thread writes, shard after shard. What is done
of an unfinished conversion is known by a file beside each whole shard, so that it goes on where it
was interrupted.
"""

import hashlib
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from eyebright.config import RANGES
from eyebright.console import notices, progress_bar, shown
from eyebright.data import Dataset
from eyebright.data.index import (
    INDEX,
    NUMBERS,
    SHARD,
    Arrays,
    Index,
    Part,
    Shard,
    numbers_file,
    write_numbers,
)
from eyebright.data.sources import find_part_names, list_part
from eyebright.data.streams import Stream
from eyebright.data.tars import TarWriter
from eyebright.data.views import Files
from eyebright.errors import DataError, ModelError, StorageError, UsageError
from eyebright.files import read_json, read_safetensors, sweep, write_file, write_json
from eyebright.images import ENDINGS, JPEG, POLICY, read_bytes, read_header, read_image
from eyebright.lock import FILE as LOCK
from eyebright.lock import locked
from eyebright.machine import available_cores

SHARD_SIZE = 128 << 20  # bytes; some hundred megabytes are read in one go on any disk
LEAST_SIZE = 10 << 10
STATE = "convert.json"
PART_PICTURES, PART_BYTES = 64, 4 << 20  # what a thread prepares before it hands it over
CHECKED_SIDE = 64  # px; a picture is decoded to see that it can be, a large JPEG to an eighth
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
class Picture:
    """A picture as it goes into a shard."""

    content: bytes
    ending: str
    digest: bytes
    size: tuple[int, int]
    """Width and height, before it was resized if it was."""
    mode: str


@dataclass
class Written:
    """A shard that is whole, and what is in it."""

    shard: Shard
    numbers: Arrays
    """Offset, length, width, height, digest and mode of each picture, and its position in the
    source."""
    modes: list[str]
    consumed: int
    """Pictures of the source that are done when this shard is, good or bad."""
    bad: dict[int, str] = field(default_factory=dict)
    """Position -> why it is left out."""


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
                digest.update(repr([_stamp(file) for file in data.pixels.files]).encode())
            else:
                digest.update(data.fingerprint.encode())
        return digest.hexdigest()


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = os.stat(file)  # noqa: PTH116 (a third of the time)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


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
            "\n".join(bad[:NAMED]) + f"{more}\n{len(bad)} pictures cannot be read; mend or remove "
            "them, or go on without them: --skip-bad"
        )
    if bad:
        notices.warning("%d unreadable pictures were left out", len(bad))
    first = next(iter(plan.parts.values()))
    index = Index(
        list(first.classes),
        {
            name: _merge(folder, name, plan.parts[name], shards, modes)
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
    done = list(_whole_shards(folder, name))
    consumed = done[-1].consumed if done else 0
    bad = {i: why for one in done for i, why in one.bad.items()}
    with progress_bar(f"converting {name}", len(data)) as bar:
        bar.advance(consumed)
        found = _prepared(plan, data, order[consumed:], bar.advance)
        pending: tuple[int, Picture] | None = None
        while True:
            shard = _write_shard(plan, folder, name, len(done), data, found, pending)
            one, pending, consumed_here, bad_here = shard
            bad |= bad_here
            if one is None:
                break
            consumed += consumed_here
            one.consumed = consumed
            _note(folder, one)
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


def _write_shard(
    plan: Plan,
    folder: Path,
    part: str,
    number: int,
    data: Dataset,
    found: Iterator[tuple[int, Picture | str]],
    pending: tuple[int, Picture] | None,
) -> tuple[Written | None, tuple[int, Picture] | None, int, dict[int, str]]:
    """One shard, filled from what comes.

    Args:
        plan: says how large it may become.
        folder: where to.
        part: its name.
        number: of the shard.
        data: of the part, for labels.
        found: positions of the source with their pictures, or why there is none.
        pending: the picture that did not go into the shard before.

    Returns:
        The shard, or None where nothing came; the picture that did not fit; how many of the source
        are done with it; and what was left out.
    """
    rows: list[tuple[int, int, int, Picture]] = []
    bad: dict[int, str] = {}
    path = folder / f"{part}-{number:06d}.tar"
    with TarWriter(path) as tar:
        while True:
            if pending is not None:
                (i, one), pending = pending, None
            else:
                i, result = next(found, (-1, ""))
                if i < 0:
                    break
                if isinstance(result, str):
                    bad[i] = result
                    continue
                one = result
            if rows and tar.size + len(one.content) + 4096 > plan.shard_size:
                pending = i, one
                break
            offset = tar.add(f"{i:09d}.{one.ending}", one.content)
            tar.add(f"{i:09d}.cls", str(data.labels[i]).encode())
            rows.append((i, offset, len(one.content), one))
        if not rows:
            return None, None, 0, bad
        sha256 = tar.finish()
    modes = list(dict.fromkeys(one.mode for *_, one in rows))
    digests = b"".join(one.digest for *_, one in rows)
    numbers: Arrays = {
        "position": np.array([i for i, *_ in rows], np.int64),
        "offset": np.array([offset for _, offset, _, _ in rows], np.int64),
        "length": np.array([length for _, _, length, _ in rows], np.int64),
        "width": np.array([one.size[0] for *_, one in rows], np.int32),
        "height": np.array([one.size[1] for *_, one in rows], np.int32),
        "mode": np.array([modes.index(one.mode) for *_, one in rows], np.int16),
        "digest": np.frombuffer(digests, np.uint8).reshape(-1, 32),
    }
    shard = Shard(path.name, tar.size, sha256, len(rows))
    return Written(shard, numbers, modes, 0, bad), pending, len(rows) + len(bad), bad


def _note(folder: Path, one: Written) -> None:
    """Write down that a shard is whole, and what is in it."""
    about = {"shard": vars(one.shard), "modes": one.modes, "consumed": one.consumed}
    about["bad"] = [[int(i), why] for i, why in one.bad.items()]
    coded = np.frombuffer(json.dumps(about).encode(), np.uint8)
    write_file(folder / f".{one.shard.name}.done", save_arrays(one.numbers | {"about": coded}))


def _whole_shards(folder: Path, part: str) -> Iterator[Written]:
    """The shards that an interrupted conversion finished, from the first one on."""
    for number in range(10**6):
        name = f"{part}-{number:06d}.tar"
        try:
            arrays = load_arrays(read_safetensors(folder / f".{name}.done"))
            about = json.loads(arrays.pop("about").tobytes())
            shard = Shard(**about["shard"])
            if shard.name != name or (folder / name).stat().st_size != shard.bytes:
                return
            bad = {int(i): str(why) for i, why in about["bad"]}
            yield Written(shard, arrays, list(about["modes"]), int(about["consumed"]), bad)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError):
            return


def _merge(folder: Path, name: str, data: Dataset, shards: list[Written], modes: list[str]) -> Part:
    """Write the numbers of a part's pictures, in the order of their source."""
    keys = ("position", "offset", "length", "width", "height", "digest")
    numbers = {key: np.concatenate([one.numbers[key] for one in shards]) for key in keys}
    counts = [one.shard.pictures for one in shards]
    numbers["shard"] = np.repeat(np.arange(len(shards)), counts)
    codes = [np.array([modes.index(m) for m in one.modes])[one.numbers["mode"]] for one in shards]
    numbers["mode"] = np.concatenate(codes)
    order = np.argsort(numbers["position"])
    kept = numbers.pop("position")[order]
    numbers = {key: values[order] for key, values in numbers.items()}
    numbers["label"] = data.labels[kept]
    numbers |= {key: numbers[key].astype(kind) for key, kind in NUMBERS.items()}
    columns = {key: [values[i] for i in kept] for key, values in data.columns.items()}
    sha256 = write_numbers(folder, name, numbers, [data.ids[i] for i in kept], columns)
    return Part([one.shard for one in shards], sha256, list(columns))


def _prepared(
    plan: Plan, data: Dataset, order: NDArray[np.int64], advance: Callable[[int], None]
) -> Iterator[tuple[int, Picture | str]]:
    """Pictures ready to be written, in this order, or why one is not; few are in memory at once."""

    def prepare(which: list[int]) -> list[tuple[int, Picture | str]]:
        return [(i, _prepare(data, i, plan.imgsz)) for i in which]

    waiting: deque[Future[list[tuple[int, Picture | str]]]] = deque()
    with ThreadPoolExecutor(plan.workers) as pool:
        try:
            for which in _batches(data, order):
                waiting.append(pool.submit(prepare, which))
                if len(waiting) > 2 * plan.workers:
                    part = waiting.popleft().result()
                    yield from part
                    advance(len(part))
            while waiting:
                part = waiting.popleft().result()
                yield from part
                advance(len(part))
        finally:
            for future in waiting:
                future.cancel()


def _batches(data: Dataset, order: NDArray[np.int64]) -> Iterator[list[int]]:
    """Positions in this order, a few at a time, as long as they are not too many bytes."""
    which: list[int] = []
    size = 0
    for i in order.tolist():
        size += max(0, _stamp(data.pixels.files[i])[0]) if isinstance(data.pixels, Files) else 0
        which.append(i)
        if len(which) == PART_PICTURES or size > PART_BYTES:
            yield which
            which, size = [], 0
    if which:
        yield which


def _prepare(data: Dataset, i: int, imgsz: int | None) -> Picture | str:
    """A picture as it is to be written, or why it cannot be."""
    try:
        if isinstance(data.pixels, Files):
            content, ending = read_bytes(data.pixels.files[i]), data.pixels.files[i].suffix.lower()
        elif isinstance(data.pixels, Stream):
            content, ending = data.pixels.members.read(int(data.pixels.of_members[i])), ""
        else:
            content, ending = _as_png(data.pixels[i]), ".png"
        header = read_header(content)
        pixels = read_image(content, imgsz or CHECKED_SIDE)
    except DataError as error:
        return str(error)
    if imgsz:
        content, ending = _as_png(pixels), ".png"
    if ending not in ENDINGS:
        ending = ".jpg" if content.startswith(JPEG) else ".png"  # readers go by the content
    size = header.width, header.height
    return Picture(content, ending[1:], hashlib.sha256(content).digest(), size, header.mode)


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
