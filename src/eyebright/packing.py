"""What `convert` writes: pictures made ready by threads, shard after shard, and their numbers.

Threads read and decode; one thread writes. A file beside each whole shard says what is in it, until
the index does.
"""

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from eyebright.data import Dataset
from eyebright.data.contents import NUMBERS, Arrays, write_numbers
from eyebright.data.index import Part, Shard
from eyebright.data.streams import Stream
from eyebright.data.tars import TarWriter
from eyebright.data.views import Files
from eyebright.errors import DataError
from eyebright.files import read_safetensors, write_file
from eyebright.images import ENDINGS, read_bytes, read_header, read_image
from eyebright.picture_parts import JPEG

PART_PICTURES, PART_BYTES = 64, 4 << 20  # what a thread prepares before it hands it over
CHECKED_SIDE = 64  # px; a picture is decoded to see that it can be, a large JPEG to an eighth


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


def write_shard(
    path: Path,
    most: int,
    labels: NDArray[np.int64],
    found: Iterator[tuple[int, Picture | str]],
    pending: tuple[int, Picture] | None,
) -> tuple[Written | None, tuple[int, Picture] | None, int, dict[int, str]]:
    """One shard, filled from what comes.

    Args:
        path: of the shard.
        most: bytes that it may have; only a picture that is larger by itself makes it larger.
        labels: (n,), of the source.
        found: positions of the source with their pictures, or why there is none.
        pending: the picture that did not go into the shard before.

    Returns:
        The shard, or None where nothing came; the picture that did not fit; how many of the source
        are done with it; and what was left out.
    """
    rows: list[tuple[int, int, int, Picture]] = []
    bad: dict[int, str] = {}
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
            if rows and tar.size + len(one.content) + 4096 > most:
                pending = i, one
                break
            offset = tar.add(f"{i:09d}.{one.ending}", one.content)
            tar.add(f"{i:09d}.cls", str(labels[i]).encode())
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


def note(folder: Path, one: Written) -> None:
    """Write down that a shard is whole, and what is in it."""
    about = {"shard": vars(one.shard), "modes": one.modes, "consumed": one.consumed}
    about["bad"] = [[int(i), why] for i, why in one.bad.items()]
    coded = np.frombuffer(json.dumps(about).encode(), np.uint8)
    write_file(folder / f".{one.shard.name}.done", save_arrays(one.numbers | {"about": coded}))


def whole_shards(folder: Path, part: str) -> Iterator[Written]:
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


def merge(folder: Path, name: str, data: Dataset, shards: list[Written], modes: list[str]) -> Part:
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


def prepared(
    data: Dataset,
    order: NDArray[np.int64],
    imgsz: int | None,
    workers: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[int, Picture | str]]:
    """Pictures ready to be written, in this order, or why one is not; few are in memory at once."""

    def prepare(which: list[int]) -> list[tuple[int, Picture | str]]:
        return [(i, _prepare(data, i, imgsz)) for i in which]

    waiting: deque[Future[list[tuple[int, Picture | str]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for which in _batches(data, order):
                waiting.append(pool.submit(prepare, which))
                if len(waiting) > 2 * workers:
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
        size += max(0, stamp(data.pixels.files[i])[0]) if isinstance(data.pixels, Files) else 0
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


def stamp(file: Path) -> tuple[int, int]:
    """Bytes of a file and when it was changed; −1 where it cannot be seen."""
    try:
        status = os.stat(file)  # noqa: PTH116 (a third of the time)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
