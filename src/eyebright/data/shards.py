"""Folders of tar shards, as `eyebright convert` writes them: decoded once, or streamed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eyebright.console import notices, shown
from eyebright.data.contents import Contents, read_contents
from eyebright.data.dataset import Dataset
from eyebright.data.folders import has_folders
from eyebright.data.index import INDEX, STATE, Index, is_indexed, read_index
from eyebright.data.pixels import read_pixels
from eyebright.data.reading import ReadOptions, choose_imgsz, unknown_class
from eyebright.data.streams import Member, Stream
from eyebright.data.views import View
from eyebright.errors import DataError, UsageError
from eyebright.machine import memory

RESIDENT = 0.5  # of the memory that is free may be taken up by decoded pictures


@dataclass(frozen=True)
class Shards:
    """One part of a folder of shards."""

    folder: Path
    index: Index
    part: str

    def parts(self) -> dict[str, "Shards"]:
        """All parts by name; empty where the source had none."""
        return {} if self.index.flat else {n: replace(self, part=n) for n in self.index.parts}


def find_shards(folder: Path) -> Shards | None:
    """The shards of a folder, if it is one that `eyebright convert` wrote.

    Raises:
        DataError: its index is damaged, or there are tar files without one.
    """
    if is_indexed(folder):
        index = read_index(folder)
        return Shards(folder, index, next(iter(index.parts)))
    if not has_folders(folder) and any(folder.glob("*.tar")):
        if (folder / STATE).exists():
            raise DataError(
                f"{shown(folder)}: tar files without an index: its conversion is not finished; the "
                "same 'eyebright convert' again goes on with it"
            )
        raise DataError(
            f"{shown(folder)}: tar files without an index ({INDEX}): others' shards cannot be read "
            "in place; unpack them into class folders, or beside a table with path and label"
        )
    return None


def load_shards(shards: Shards, options: ReadOptions) -> Dataset:
    """The pictures of a part.

    Args:
        shards: what `find_shards` found, or a part of it.
        options: how they are to be read; ``skip_bad`` is of no use here, because `convert` left
            out what cannot be read.

    Raises:
        DataError: a shard that is missing, cut short or changed, or a class that is not known.
        StorageError: the pictures are to be decoded, and fit neither on the disk nor into memory.
    """
    index, folder = shards.index, shards.folder
    names = list(index.classes if options.classes is None else options.classes)
    contents = read_contents(folder, index, shards.part)
    new_label = {name: i for i, name in enumerate(names)}
    known = np.array([new_label.get(name, -1) for name in index.classes])
    labels = known[contents.labels]
    if (labels < 0).any():
        raise unknown_class(folder, index.classes[int(contents.labels[labels < 0][0])], names)
    imgsz = choose_imgsz(contents.sizes, options)
    if options.listed or is_to_be_streamed(len(labels), imgsz, options.stream, shown(folder)):
        images: View = Stream(contents.members, imgsz, options.workers)
    else:
        images = _decode(contents, imgsz, shards, options.workers)
    return Dataset(
        images,
        labels,
        names,
        ids=contents.ids,
        name=folder.resolve().name,
        source=str(folder.resolve()),
        sizes=contents.sizes,
        modes=[index.modes[i] for i in contents.modes.tolist()],
        mirrors=index.mirrors,
        columns=contents.columns,
        contents=contents.members.digest,
        shards=contents.members.file,
    )


def is_to_be_streamed(n: int, imgsz: int, stream: bool | None, name: str) -> bool:
    """Whether so many pictures are to be read as they are asked for.

    Args:
        n: pictures.
        imgsz: their side in pixels.
        stream: what the caller wants; None: EYEBRIGHT_STREAM says (0 or 1), or the memory.
        name: of the data, for the notice.

    Raises:
        UsageError: EYEBRIGHT_STREAM is neither.
    """
    if stream is not None:
        return stream
    said = os.environ.get("EYEBRIGHT_STREAM", "")
    if said not in ("", "0", "1"):
        raise UsageError(f"EYEBRIGHT_STREAM must be 0 or 1, not '{shown(said)}'")
    needed, free = n * imgsz * imgsz * 3, memory()[1]
    if not said and free and needed > RESIDENT * free:
        notices.warning(
            "%s: %s pictures of %d px would take %.1f GB, and %.1f GB of memory are free: they "
            "are decoded as they are needed, each time",
            name, f"{n:,}", imgsz, needed / 1e9, free / 1e9,
        )  # fmt: skip
        return True
    return said == "1"


def _decode(contents: Contents, imgsz: int, shards: Shards, workers: int) -> View:
    members = [Member(contents.members, i) for i in range(len(contents.labels))]
    digests = [digest.tobytes() for digest in contents.members.digest]
    images, bad = read_pixels(members, digests, imgsz, str(shards.folder), workers)
    if bad:
        first, why = next(iter(sorted(bad.items())))
        raise DataError(f"{members[first]}: {why}")
    return images
