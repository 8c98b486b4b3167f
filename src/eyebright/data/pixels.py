"""Decoded pictures, kept in a file that is mapped into memory: each content is decoded once.

An entry is a folder ``pixels/<key>`` in the folder of data sets. Its key follows from the content
of the files, the side of the pictures and the policy of `eyebright.images`, so an entry never goes
out of date: whatever changes has another key. In it lie ``pixels.u8``, the decoded pictures one
after the other, and ``about.json``, with checksums and what could not be decoded. It is written
into a temporary folder, which one rename then puts in its place: several processes may do so at
once, and the slower ones throw theirs away.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyebright.console import Bar, notices, progress_bar, shown
from eyebright.data.cache import data_home
from eyebright.data.dataset import allocate_images
from eyebright.data.decoding import Job, decode_parts
from eyebright.data.streams import Member
from eyebright.data.views import View
from eyebright.errors import ModelError, UsageError
from eyebright.files import MOST_LOG, read_json
from eyebright.images import POLICY, Pixels

LIMIT_GB = 50.0  # of all entries together, unless EYEBRIGHT_CACHE_GB says otherwise
ABANDONED = 24 * 3600  # seconds after which an unfinished entry is nobody's any more
ABOUT, PIXELS = "about.json", "pixels.u8"


def read_pixels(
    files: Sequence[Path | Member], digests: Sequence[bytes], imgsz: int, name: str, workers: int
) -> tuple[View, dict[int, str]]:
    """The decoded pictures of these files: mapped from the cache, where they are put if need be.

    Where the cache cannot be written they are decoded into memory.

    Args:
        files: of the pictures, or where they lie in shards.
        digests: `digest_of` the content of each file.
        imgsz: side of the pictures in pixels.
        name: of the data, in messages.
        workers: threads that decode; 0 and 1 are the same.

    Returns:
        The pictures that can be decoded, in order; why the others cannot, by position.

    Raises:
        DataError: a file is no longer what it was.
        StorageError: the cache cannot be written, and the pictures do not fit into memory.
    """
    # Of files with the same content the first one is decoded, for all.
    first = dict(zip(reversed(digests), reversed(files), strict=True))
    job = Job({digest: first[digest] for digest in dict.fromkeys(digests)}, imgsz, workers)
    entry = _cached(job) or _decode_into_memory(job, name)
    row_of = {d: i for i, d in enumerate(d for d in job.files if d.hex() not in entry.bad)}
    bad = {i: entry.bad[d.hex()] for i, d in enumerate(digests) if d not in row_of}
    rows = np.array([row_of[d] for d in digests if d in row_of], np.int64)
    all_of_them = np.array_equal(rows, np.arange(len(entry.pixels)))
    return View(entry.pixels, None if all_of_them else rows), bad


@dataclass(frozen=True)
class Entry:
    """Decoded pictures."""

    pixels: Pixels
    """(n, imgsz, imgsz, 3), of all files but the bad ones."""
    bad: dict[str, str]
    """Digest as hexadecimal text -> why it cannot be decoded."""


def cache_folder() -> Path:
    """Where the entries are."""
    return data_home() / "pixels"


def cache_limit() -> float:
    """Bytes that all entries together may have; the one in use may have as many by itself.

    Raises:
        UsageError: EYEBRIGHT_CACHE_GB is no number.
    """
    said = os.environ.get("EYEBRIGHT_CACHE_GB", "")
    try:
        return 1e9 * (float(said) if said else LIMIT_GB)
    except ValueError:
        raise UsageError(f"EYEBRIGHT_CACHE_GB must be a number, not '{shown(said)}'") from None


def _cached(job: Job) -> Entry | None:
    """The entry for these files, made if it is not there; None where there is no room for it."""
    limit, needed = cache_limit(), len(job.files) * job.picture_bytes
    if needed > limit:
        return None
    folder = cache_folder()
    try:
        entry = _open_entry(folder / job.key, job)
        if entry is None:
            folder.mkdir(parents=True, exist_ok=True)
            if needed > shutil.disk_usage(folder).free:
                raise OSError("no room for decoded pictures")  # better known before than half way
            with tempfile.TemporaryDirectory(
                prefix=".building-", dir=folder, ignore_cleanup_errors=True
            ) as temporary:
                _build(Path(temporary) / "entry", job)
                _put_in_place(Path(temporary), folder / job.key, job)
            entry = _open_entry(folder / job.key, job, checked=True)
            _drop_oldest(folder, limit, keep=job.key)
    except OSError as error:
        notices.warning(
            "%s: %s; pictures are decoded into memory, and again the next time (EYEBRIGHT_DATA "
            "names a folder with room)",
            shown(folder),
            error.strerror or error,
        )
        return None
    return entry


def _open_entry(folder: Path, job: Job, checked: bool = False) -> Entry | None:
    """A whole entry, mapped; None where there is none, or a damaged one.

    Args:
        folder: of the entry.
        job: what it should hold.
        checked: it was written a moment ago: its checksums need not be compared.
    """
    try:
        about = read_json(folder / ABOUT, MOST_LOG)
        bad = {str(digest): str(why) for digest, why in about["bad"].items()}
        parts = [(int(count), int(checksum)) for count, checksum in about["parts"]]
    except (ModelError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None
    known = {digest.hex() for digest in job.files}
    n, file = len(known) - len(bad), folder / PIXELS
    counts = [count for count, _ in parts]
    whole = bad.keys() <= known and sum(counts) == n and min(counts, default=0) >= 0
    try:
        if not whole or file.stat().st_size != n * job.picture_bytes:
            return None
        if not checked and not _is_intact(file, parts, job):
            return None
        shape = (n, job.imgsz, job.imgsz, 3)
        # Copy on write: torch wants arrays that may be written to, and nobody may change the file.
        mapped = np.memmap(file, np.uint8, "c", shape=shape) if n else np.empty(shape, np.uint8)
        with contextlib.suppress(OSError):
            os.utime(folder)  # when it was last of use
    except OSError:
        return None
    return Entry(np.asarray(mapped), bad)


def _is_intact(file: Path, parts: list[tuple[int, int]], job: Job) -> bool:
    ends = np.cumsum([count for count, _ in parts], dtype=np.int64)

    def matches(i: int) -> bool:
        # Read, not mapped: what is looked at once need not count as memory of this process.
        count, checksum = parts[i]
        with file.open("rb", buffering=0) as pixels:
            pixels.seek((int(ends[i]) - count) * job.picture_bytes)
            return zlib.crc32(pixels.read(count * job.picture_bytes)) == checksum

    with ThreadPoolExecutor(max(1, job.workers)) as pool:
        return all(pool.map(matches, range(len(parts))))


def _build(folder: Path, job: Job) -> None:
    folder.mkdir()
    bad: dict[str, str] = {}
    parts: list[tuple[int, int]] = []
    # Written, not mapped: where a disk is full, a mapping kills the process.
    with (folder / PIXELS).open("wb", buffering=0) as file, _reading_bar(job) as bar:
        for part in decode_parts(job):
            left = part.pixels.ravel().data
            while left:
                left = left[file.write(left) :]
            bad |= part.bad
            parts.append((len(part.pixels), part.checksum))
            bar.advance(part.files)
    about = {"policy": POLICY, "imgsz": job.imgsz, "bad": bad, "parts": parts}
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _put_in_place(temporary: Path, target: Path, job: Job) -> None:
    try:
        (temporary / "entry").rename(target)
    except OSError:  # something is there already: another process's entry, or a damaged one
        if _open_entry(target, job) is None:
            target.rename(temporary / "damaged")
            (temporary / "entry").rename(target)


def _drop_oldest(folder: Path, limit: float, keep: str) -> None:
    """Entries go that have not been used for longest, until all are within the limit."""
    found: list[tuple[float, Path, int]] = []
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may have been faster
            used = entry.stat().st_mtime
            if entry.name.startswith(".building-"):
                if time.time() - used > ABANDONED:
                    shutil.rmtree(entry, ignore_errors=True)
            else:
                found.append((used, entry, (entry / PIXELS).stat().st_size))
    total = sum(size for _, _, size in found)
    for _, entry, size in sorted(found):
        if total > limit and entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            total -= size


def _decode_into_memory(job: Job, name: str) -> Entry:
    """As `_cached` gives it, but nothing is kept.

    Raises:
        StorageError: more than the memory that is free.
    """
    images = allocate_images(len(job.files), job.imgsz, name)
    bad: dict[str, str] = {}
    done = 0
    with _reading_bar(job) as bar:
        for part in decode_parts(job):
            images[done : done + len(part.pixels)] = part.pixels
            done += len(part.pixels)
            bad |= part.bad
            bar.advance(part.files)
    return Entry(images[:done], bad)


def _reading_bar(job: Job) -> contextlib.AbstractContextManager[Bar]:
    return progress_bar("reading pictures", len(job.files))
