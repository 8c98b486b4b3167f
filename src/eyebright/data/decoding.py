"""Decoding of many pictures by threads, a part of them at a time, and in order."""

import hashlib
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from eyebright.console import shown
from eyebright.data.streams import Member
from eyebright.errors import DataError
from eyebright.images import POLICY, Pixels, read_bytes, read_image

PART_BYTES, PART_PICTURES = 4 << 20, 256  # what a thread decodes before it hands it over


def digest_of(content: bytes) -> bytes:
    """What the content of a file is known by."""
    return hashlib.sha256(content).digest()


@dataclass(frozen=True)
class Job:
    """What is to be decoded."""

    files: dict[bytes, Path | Member]
    """By the digest of their content."""
    imgsz: int
    workers: int

    @property
    def key(self) -> str:
        """Of the entry, a function of contents, side and policy, and of who decodes."""
        how = f"{POLICY}; Pillow {PIL.__version__}; {self.imgsz} px; "
        return hashlib.sha256(how.encode() + b"".join(self.files)).hexdigest()

    @property
    def picture_bytes(self) -> int:
        """Of one decoded picture."""
        return self.imgsz * self.imgsz * 3


@dataclass(frozen=True)
class Part:
    """Some decoded pictures, one after the other."""

    pixels: Pixels
    bad: dict[str, str]
    files: int
    """So many are done, good or bad."""
    checksum: int


def decode_parts(job: Job) -> Iterator[Part]:
    """All pictures in order, a part at a time; few parts are in memory at once.

    Raises:
        DataError: a file is no longer what it was.
    """
    size = max(1, min(PART_PICTURES, PART_BYTES // job.picture_bytes))
    todo = list(job.files.items())
    waiting: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(max(1, job.workers)) as pool:
        try:
            for start in range(0, len(todo), size):
                waiting.append(pool.submit(_decode_part, todo[start : start + size], job.imgsz))
                if len(waiting) > 2 * job.workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_part(todo: list[tuple[bytes, Path | Member]], imgsz: int) -> Part:
    pixels: Pixels = np.empty((len(todo), imgsz, imgsz, 3), np.uint8)
    bad: dict[str, str] = {}
    done = 0
    for digest, file in todo:
        content = _read_again(file, digest)
        try:
            pixels[done] = read_image(content, imgsz)
            done += 1
        except DataError as error:
            bad[digest.hex()] = str(error)
    return Part(pixels[:done], bad, len(todo), zlib.crc32(pixels[:done].data))


def _read_again(file: Path | Member, digest: bytes) -> bytes:
    if isinstance(file, Member):
        return file.read()
    try:
        content = read_bytes(file)
    except DataError as error:
        raise DataError(f"{shown(file)}: {error}") from None
    if digest_of(content) != digest:
        raise DataError(f"{shown(file)}: changed while it was being read; start again")
    return content
