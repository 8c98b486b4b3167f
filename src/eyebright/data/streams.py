"""`Stream`: pictures that stay in files, and are read and decoded as they are asked for.

Threads decode, as everywhere; what is asked for next is decoded while the net is busy. Few pictures
are in memory at once, however many there are.
"""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import shown
from eyebright.data.views import View
from eyebright.errors import DataError
from eyebright.images import Pixels, read_image

AHEAD = 2  # arrays that are decoded while one is used
PART = 16  # pictures that a thread decodes before it takes others
BLOCK, LONGEST_NAME = 512, 100  # bytes of a tar's header, and of the name that it begins with
MOST_OPEN = 128  # files at once; systems allow a thousand


class OpenFiles:
    """Files kept open for reading at any place, by any thread; those used last."""

    def __init__(self) -> None:
        self._lock, self._files = threading.Lock(), OrderedDict[Path, int]()
        self._users: dict[int, int] = {}
        self._closing: set[int] = set()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer than asked for where it ends.

        Raises:
            OSError: it cannot be read.
        """
        file = self._take(path)
        try:
            if hasattr(os, "pread"):
                return os.pread(file, length, offset)
            with self._lock:  # Windows: place and read are two calls
                os.lseek(file, offset, os.SEEK_SET)
                return os.read(file, length)
        finally:
            self._give_back(file)

    def read_ahead(self, path: Path) -> None:
        """Tell the system that all of a file will be needed soon; it reads it in one go."""
        if hasattr(os, "posix_fadvise"):
            file = self._take(path)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                self._give_back(file)

    def _take(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
                self._files[path] = os.open(path, flags)
            self._files.move_to_end(path)
            file = self._files[path]
            self._users[file] = self._users.get(file, 0) + 1
            while len(self._files) > MOST_OPEN:
                self._close(self._files.popitem(last=False)[1])
            return file

    def _give_back(self, file: int) -> None:
        with self._lock:
            self._users[file] -= 1
            if file in self._closing and not self._users[file]:
                self._closing.discard(file)
                self._close(file)

    def _close(self, file: int) -> None:
        if self._users.get(file):
            self._closing.add(file)  # by whoever reads from it last
        else:
            self._users.pop(file, None)
            os.close(file)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # another process opens its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)


@dataclass(frozen=True)
class Members:
    """Where pictures lie in files, and what each must be."""

    files: tuple[Path, ...]
    file: NDArray[np.int32]
    """Of each picture, (n,), an index into files."""
    offset: NDArray[np.int64]
    """Of its first byte, (n,)."""
    length: NDArray[np.int64]
    """In bytes, (n,)."""
    digest: NDArray[np.uint8]
    """SHA-256 of its bytes, (n, 32)."""
    opened: OpenFiles

    def name(self, i: int) -> str:
        """What a picture is called in messages: its shard, and what the shard calls it."""
        path, offset = self.files[self.file[i]], int(self.offset[i])
        try:
            called = self.opened.read(path, offset - BLOCK, LONGEST_NAME).split(b"\0")[0]
        except OSError:
            called = b""
        return f"{shown(path)}, {shown(os.fsdecode(called)) or f'byte {offset:,}'}"

    def read(self, i: int) -> bytes:
        """The bytes of a picture, which are those that were written down.

        Raises:
            DataError: the file is gone, or is no longer what it was; names file and place.
        """
        offset, length = int(self.offset[i]), int(self.length[i])
        try:
            content = self.opened.read(self.files[self.file[i]], offset, length)
        except OSError as error:
            raise DataError(f"{self.name(i)}: {error.strerror or error}") from None
        if hashlib.sha256(content).digest() != self.digest[i].tobytes():
            raise DataError(
                f"{self.name(i)}: not the bytes that the index knows; the file was changed or "
                "damaged: convert again"
            )
        return content


@dataclass(frozen=True)
class Member:
    """One picture of `Members`."""

    all: Members
    position: int

    def read(self) -> bytes:
        """Its bytes, as `Members.read`."""
        return self.all.read(self.position)

    def __str__(self) -> str:
        return self.all.name(self.position)


class Stream(View):
    """Pictures that are decoded as they are asked for, uint8 (n, imgsz, imgsz, 3).

    Args:
        members: where they lie.
        imgsz: side in pixels.
        workers: threads that decode; 0 and 1 are the same.
        positions: of the pictures among the members, (n,); None: all.
    """

    def __init__(
        self, members: Members, imgsz: int, workers: int, positions: NDArray[Any] | None = None
    ):
        self.members, self.imgsz, self.workers = members, imgsz, max(1, workers)
        self.of_members = np.arange(len(members.file)) if positions is None else positions
        """The positions among the members, (n,)."""

    def __len__(self) -> int:
        return len(self.of_members)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As that of an array."""
        return len(self), self.imgsz, self.imgsz, 3

    def __getitem__(self, which: int | slice | NDArray[Any] | Sequence[int]) -> Pixels:
        """One picture, or several, decoded.

        Raises:
            DataError: one that cannot be read; names its file and place.
        """
        picked = self.of_members[which]
        if not isinstance(picked, np.ndarray) or not picked.ndim:
            return self._decode(int(picked))
        return next(self._walk([picked]), np.empty((0, *self.shape[1:]), np.uint8))

    def pick(self, which: NDArray[Any]) -> "Stream":
        """The pictures at these positions; none is read."""
        return Stream(self.members, self.imgsz, self.workers, self.of_members[which])

    def resized(self, imgsz: int) -> "Stream":
        """The same pictures at another size, from their files again."""
        return Stream(self.members, imgsz, self.workers, self.of_members)

    def walk(self, wanted: Iterable[NDArray[Any]]) -> Iterator[Pixels]:
        """The pictures at these positions, one array after the other; the next are on the way."""
        return self._walk(self.of_members[which] for which in wanted)

    def walk_whole_files(self, wanted: Iterable[NDArray[Any]]) -> Iterator[Pixels]:
        """As `walk`, where all pictures of a few files are wanted before those of the next ones.

        The system is told of each file as its first picture comes up, and reads it in one go.
        """
        seen: set[int] = set()

        def announced() -> Iterator[NDArray[Any]]:
            for which in wanted:
                picked = self.of_members[which]
                for file in set(self.members.file[picked].tolist()) - seen:
                    seen.add(file)
                    with contextlib.suppress(OSError):  # whoever reads from it will say so
                        self.members.opened.read_ahead(self.members.files[file])
                yield picked

        return self._walk(announced())

    def _walk(self, wanted: Iterable[NDArray[Any]]) -> Iterator[Pixels]:
        waiting: deque[tuple[Pixels, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.workers, "decoding") as pool:
            try:
                for picked in wanted:
                    waiting.append(self._begin(pool, picked))
                    if len(waiting) > AHEAD:
                        yield _finish(waiting.popleft())
                while waiting:
                    yield _finish(waiting.popleft())
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _begin(
        self, pool: ThreadPoolExecutor, picked: NDArray[Any]
    ) -> tuple[Pixels, list[Future[None]]]:
        pixels: Pixels = np.empty((len(picked), *self.shape[1:]), np.uint8)

        def decode(start: int) -> None:
            for i in range(start, min(start + part, len(picked))):
                pixels[i] = self._decode(int(picked[i]))

        part = max(1, min(PART, -(-len(picked) // self.workers)))
        return pixels, [pool.submit(decode, start) for start in range(0, len(picked), part)]

    def _decode(self, i: int) -> Pixels:
        content = self.members.read(i)
        try:
            return read_image(content, self.imgsz)
        except DataError as error:
            raise DataError(f"{self.members.name(i)}: {error}") from None


def _finish(begun: tuple[Pixels, list[Future[None]]]) -> Pixels:
    pixels, futures = begun
    for future in futures:
        future.result()
    return pixels
