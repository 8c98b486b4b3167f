"""`View`: some pictures of an array that may be larger than the memory, without copying them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.images import Pixels

PART_BYTES = 32 << 20  # of pictures that are walked over at once


class View:
    """Pictures, uint8 (n, height, width, 3), each of which lies somewhere in an array.

    Args:
        base: uint8 (rows, height, width, 3).
        positions: of the pictures in it, (n,), in any order and as often as you like; None: all.
    """

    def __init__(self, base: Pixels, positions: NDArray[Any] | None = None):
        self.base, self.positions = base, positions

    def __len__(self) -> int:
        return len(self.base if self.positions is None else self.positions)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As that of an array."""
        _, height, width, channels = self.base.shape
        return len(self), height, width, channels

    def __getitem__(self, which: int | slice | NDArray[Any] | Sequence[int]) -> Pixels:
        """One picture, or several: a copy, unless they lie side by side anyway."""
        picked: Pixels = self.base[which if self.positions is None else self.positions[which]]
        return picked

    def __iter__(self) -> Iterator[Pixels]:
        for part in self.parts():
            yield from part

    def pick(self, which: NDArray[Any]) -> "View":
        """The pictures at these positions; none is copied."""
        return View(self.base, which if self.positions is None else self.positions[which])

    def parts(self, size: int | None = None) -> Iterator[Pixels]:
        """All pictures in order, a few at a time.

        Args:
            size: so many at a time. Default: as many as `PART_BYTES` hold.
        """
        _, height, width, channels = self.shape
        size = size or max(1, PART_BYTES // max(1, height * width * channels))
        starts = range(0, len(self), size)
        yield from self.walk(np.arange(start, min(start + size, len(self))) for start in starts)

    def walk(self, wanted: Iterable[NDArray[Any]]) -> Iterator[Pixels]:
        """The pictures at these positions, one array of them after the other.

        What is read as it is asked for is read ahead here: the next ones while these are used.
        """
        for which in wanted:
            yield self[which]


class Files(View):
    """Pictures in files that nobody has read yet: they can be counted and picked, no more."""

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """How large they are is not known."""
        return len(self), 0, 0, 3

    def pick(self, which: NDArray[Any]) -> "Files":
        """The files at these positions."""
        return Files([self.files[i] for i in which])
