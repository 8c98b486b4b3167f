"""`Dataset`: pictures, labels and what belongs to them, whatever the source."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import counted, shown
from eyebright.data.streams import Stream
from eyebright.data.views import View
from eyebright.errors import DataError, StorageError
from eyebright.images import POLICY, Pixels, fit
from eyebright.machine import memory

if TYPE_CHECKING:
    import torch

    from eyebright.data.look import Look

    TorchDataset = torch.utils.data.Dataset[tuple[torch.Tensor, int]]
else:  # torch's DataLoader asks for two methods only, and reading pictures needs no torch
    TorchDataset = object


def allocate_images(count: int, imgsz: int, name: str) -> Pixels:
    """An array for so many pictures, uint8 (count, imgsz, imgsz, 3), with nothing in it yet.

    Raises:
        StorageError: more than the memory that is free; it is better not to find out half way.
    """
    needed = count * imgsz * imgsz * 3
    available = memory()[1] or 2 * needed  # not Linux: let the allocation itself decide
    if needed > 0.8 * available:
        raise StorageError(
            f"{shown(name)}: {count:,} pictures of {imgsz} px need {needed / 1e9:.1f} GB of "
            f"memory, {available / 1e9:.1f} GB are free; lower --imgsz"
        )
    return np.empty((count, imgsz, imgsz, 3), np.uint8)


def _fit_for_torch(images: Pixels, name: str) -> Pixels:
    """The same array; torch takes neither reversed nor read-only ones, which are copied.

    Raises:
        DataError: no pictures.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(
            f"{name}: images must be uint8 of shape (n, height, width, 3), "
            f"not {images.dtype} of shape {images.shape}"
        )
    return np.require(images, requirements=["C", "W"])


class Dataset(TorchDataset):
    """Pictures of one size with their labels. Also a map-style dataset for torch.

    Args:
        images: uint8 RGB of shape (n, height, width, 3), or `View` of an array.
        labels: integers of shape (n,), each from 0 to ``len(classes) - 1``.
        classes: the class names; a label is an index into them.
        ids: what names a picture in its source: an official index or a relative path. Default:
            0, 1, 2, ...
        name: what the data are called, in messages and names of runs.
        source: where `load` found them (a name or an absolute path); None for your own arrays.
        val: the data's own validation part, if they have one.
        sizes: (n, 2) widths and heights before resizing. Default: the size of ``images``.
        modes: colour mode of each picture before conversion. Default: all RGB.
        mirrors: whether a picture means the same with left and right swapped; digits do not.
        columns: what else is known of each picture, by name: n texts each.
        decided: the table of decisions that made them what they are (`eyebright.data.decisions`).
        root: the folder that a table's paths are relative to, where it is not the table's own.
        contents: SHA-256 of the bytes of each picture's file, uint8 (n, 32), where they are known:
            the data are then known by them, and not by their pixels.
        shards: which shard each picture lies in, (n,), where they lie in any: a training goes
            through a few at a time, whether or not there is memory for all.

    Raises:
        DataError: shapes or labels that do not fit together.
    """

    def __init__(
        self,
        images: Pixels | View,
        labels: NDArray[Any] | Sequence[int],
        classes: Sequence[str],
        *,
        ids: Sequence[int | str] | None = None,
        name: str = "data",
        source: str | None = None,
        val: "Dataset | None" = None,
        sizes: NDArray[Any] | None = None,
        modes: Sequence[str] | None = None,
        mirrors: bool = True,
        columns: dict[str, list[str]] | None = None,
        decided: dict[str, Any] | None = None,
        root: str | None = None,
        contents: NDArray[np.uint8] | None = None,
        shards: NDArray[np.int32] | None = None,
    ):
        pixels = images if isinstance(images, View) else View(np.asarray(images))
        labels, n = np.asarray(labels), len(pixels)
        if type(pixels) is View:  # others have no array
            pixels = View(_fit_for_torch(pixels.base, name), pixels.positions)
        if labels.shape != (n,) or (n and not np.issubdtype(labels.dtype, np.integer)):
            raise DataError(f"{name}: one integer label a picture is needed")
        if n and not (labels.min() >= 0 and labels.max() < len(classes)):
            raise DataError(f"{name}: a label lies outside 0 to {len(classes) - 1}")
        if ids is not None and len(ids) != n:
            raise DataError(f"{name}: {len(ids)} ids for {n} pictures")
        self.pixels = pixels
        """What walks over pictures takes them from here, a few at a time."""
        self.labels: NDArray[np.int64] = labels.astype(np.int64)
        self.classes = tuple(str(c) for c in classes)
        self.ids: list[int | str] = list(range(n)) if ids is None else list(ids)
        self.name = name
        self.source = source
        self.val = val
        self.mirrors = mirrors
        self.columns = columns or {}
        self.decided = decided
        self.unreadable: dict[str, str] = {}  # id -> why, of pictures left out as they were read
        self.root = root
        self.contents, self.shards = contents, shards
        if any(len(values) != n for values in self.columns.values()):
            raise DataError(f"{name}: a column must have a value for each of the {n} pictures")
        if val is not None and val.classes != self.classes:
            raise DataError(f"{name}: the validation part has other classes")
        own_size = pixels.shape[2:0:-1]
        self.sizes = np.tile(own_size, (n, 1)) if sizes is None else np.asarray(sizes)
        self.modes = ["RGB"] * n if modes is None else list(modes)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def images(self) -> Pixels:
        """All pictures as one array; a part of a large set of photographs is copied for it.

        Raises:
            StorageError: they are streamed, and more than there is memory for.
        """
        if self.is_streamed:
            images, done = allocate_images(len(self), self.imgsz, self.name), 0
            for part in self.pixels.parts():
                images[done : done + len(part)] = part
                done += len(part)
            self.pixels = View(images)
        elif self.pixels.positions is not None:
            self.pixels = View(self.pixels[:])
        return self.pixels.base

    def __getitem__(self, index: int) -> "tuple[torch.Tensor, int]":
        """One picture as torchvision's ``ToTensor`` gives it, and its label.

        Returns:
            float32 (3, height, width) from 0 to 1, and the label.
        """
        import torch

        pixels = torch.from_numpy(self.pixels[index].copy())
        return pixels.permute(2, 0, 1).float() / 255, int(self.labels[index])

    def __repr__(self) -> str:
        size = "{}×{}".format(*self.pixels.shape[2:0:-1])
        pictures, classes = counted(len(self), "picture"), counted(len(self.classes), "class")
        return f"<{self.name}: {pictures}, {size} px, {classes}>"

    @property
    def is_mapped(self) -> bool:
        """Whether the pictures lie in a file that is mapped, so that parts are never copied."""
        return not self.is_streamed and isinstance(self.pixels.base.base, np.memmap)

    @property
    def is_streamed(self) -> bool:
        """Whether the pictures are decoded as they are asked for, and never all at once."""
        return isinstance(self.pixels, Stream)

    @property
    def imgsz(self) -> int:
        """Side of the pictures, in pixels (the shorter one, should they not be square)."""
        return int(min(self.pixels.shape[1:3]))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over size, pixels and labels: the same data give the same text anywhere.

        Of data in shards, over the SHA-256 of each picture's bytes in place of its pixels.
        """
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        if self.contents is not None:
            digest.update(POLICY.encode() + self.contents.tobytes())
        else:
            for part in self.pixels.parts():
                digest.update(part.data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def counts(self) -> NDArray[np.int64]:
        """How many pictures each class has, of shape (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def subset(
        self, indices: NDArray[np.integer[Any]] | Sequence[int], name: str = ""
    ) -> "Dataset":
        """The pictures at these positions, in this order, without the validation part."""
        indices = np.arange(len(self))[list(indices)]  # a tuple would mean axes to NumPy
        lies_in_files = self.is_mapped or type(self.pixels) is not View
        return Dataset(
            self.pixels.pick(indices) if lies_in_files else self.pixels[indices],
            self.labels[indices],
            self.classes,
            ids=[self.ids[i] for i in indices],
            name=name or self.name,
            sizes=self.sizes[indices],
            modes=[self.modes[i] for i in indices],
            mirrors=self.mirrors,
            columns={key: [values[i] for i in indices] for key, values in self.columns.items()},
            contents=None if self.contents is None else self.contents[indices],
            shards=None if self.shards is None else self.shards[indices],
        )

    def resized(self, imgsz: int) -> "Dataset":
        """The same pictures at another size, by the policy of `eyebright.images`."""
        val = self.val and self.val.resized(imgsz)
        if self.pixels.shape[1:3] == (imgsz, imgsz) and val is self.val:
            return self
        resized = Dataset(
            self._pixels_of(imgsz),
            self.labels,
            self.classes,
            ids=self.ids,
            name=self.name,
            source=self.source,
            val=val,
            sizes=self.sizes,
            modes=self.modes,
            mirrors=self.mirrors,
            columns=self.columns,
            decided=self.decided,
            root=self.root,
            contents=self.contents,
            shards=self.shards,
        )
        resized.unreadable = self.unreadable
        return resized

    def _pixels_of(self, imgsz: int) -> Pixels | View:
        if isinstance(self.pixels, Stream):
            return self.pixels.resized(imgsz)
        images = allocate_images(len(self), imgsz, self.name)
        for i in range(len(self)):
            images[i] = fit(self.pixels[i], imgsz)
        return images

    def look(self, count: int = 16, seed: int = 0) -> "Look":
        """A grid of random pictures with labels, and what there is of each class.

        The result shows itself in a notebook; ``print`` it, or ``save`` it as a PNG.
        """
        from eyebright.data.look import Look

        return Look(self, count, seed)
