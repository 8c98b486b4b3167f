"""Files of pictures to a `Dataset`: each is checked, then all are decoded at one size."""

import os
import stat
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import counted, notices, progress_bar, shown
from eyebright.data.dataset import Dataset
from eyebright.data.decoding import digest_of
from eyebright.data.pixels import read_pixels
from eyebright.data.views import Files, View
from eyebright.errors import DataError
from eyebright.images import Header, read_bytes, read_header

CHECKED = 64  # files that a thread checks before it hands them over
SMALL, LARGE = 64, 224
"""Px: data up to the first keep their size or become 32 px, larger ones become the second."""


@dataclass(frozen=True)
class ReadOptions:
    """How a part of data is to be read."""

    classes: Sequence[str] | None = None
    """Names that labels must count by, as a model knows them; None: the data's own."""
    imgsz: int | None = None
    """Side of the pictures in pixels; None: as `choose_imgsz` says."""
    large: int | Callable[[], int] = LARGE
    """The side that it gives to pictures that are not small; a function is asked where it does."""
    skip_bad: bool | Collection[str] = False
    """Go on without pictures that cannot be read: all, or those of these ids."""
    workers: int = 1
    """Threads that decode; 0 and 1 are the same."""
    classless: bool = False
    """Also take pictures without classes, or of one: they are to be looked at only."""
    stream: bool | None = None
    """Whether shards are read as they are asked for; None: where memory is short."""
    listed: bool = False
    """Only say which pictures there are; none of them is read."""

    @property
    def allows_empty_classes(self) -> bool:
        """Whether a class may have no picture: a model's may, of the data's own each needs some."""
        return self.classes is not None or self.classless


def read_files(
    files: list[Path],
    labels: list[int],
    names: list[str],
    ids: list[str],
    source: Path,
    options: ReadOptions,
) -> Dataset:
    """The pictures of these files.

    Args:
        files: of the pictures, one or more.
        labels: one a file, an index into names.
        names: of the classes.
        ids: what names each picture in its source.
        source: folder or table that named the pictures.
        options: how they are to be read.

    Raises:
        DataError: pictures that cannot be read, or a class without any that can.
        StorageError: the pictures fit neither on the disk nor into memory.
    """
    place = source.resolve()
    name = place.stem if source.is_file() else place.name
    if options.listed:
        nobody_read, known = Files(files), np.asarray(labels, np.int64)
        return Dataset(nobody_read, known, names, ids=ids, name=name, source=str(place))
    bad, headers, digests = _check(files, options.workers)
    images, undecodable = _decode(files, headers, digests, source, options)
    bad |= undecodable
    unreadable = {ids[i]: why for i, why in sorted(bad.items())}
    if bad:
        _complain(bad, files, ids, options.skip_bad)
        good = [i for i in range(len(files)) if i not in bad]
        if not good:
            raise DataError(f"{shown(source)}: not one readable picture")
        labels, ids = [labels[i] for i in good], [ids[i] for i in good]
        headers = {i: headers[i] for i in good}
        emptied = sorted(set(range(len(names))) - set(labels))
        if emptied and not options.allows_empty_classes:
            raise DataError(
                f"{shown(source)}: not one readable picture in the class "
                f"'{shown(names[emptied[0]])}'"
            )
        if choose_imgsz(_sizes(headers), options) != images.shape[1]:
            # A picture that is left out has no say in the size: once more, with the right one.
            images, _ = _decode(files, headers, digests, source, options)
    seen = headers.values()
    animated = sum(header.animated for header in seen)
    if animated:
        notices.warning("%s: the first frame of each is used", counted(animated, "animation"))
    data = Dataset(
        images,
        np.asarray(labels, np.int64),
        names,
        ids=ids,
        name=name,
        source=str(place),
        sizes=_sizes(headers),
        modes=[header.mode for header in seen],
    )
    data.unreadable = unreadable
    return data


def _check(
    files: list[Path], workers: int
) -> tuple[dict[int, str], dict[int, Header], dict[int, bytes]]:
    """Why files are no pictures; headers and digests of those that are; all by position.

    Each file is read whole, because only its content says for certain whether it has changed.
    """

    def look_at(file: Path) -> tuple[Header, bytes] | str:
        try:
            if not stat.S_ISREG(os.stat(file).st_mode):  # noqa: PTH116 (a third of the time)
                return "no regular file"  # reading a pipe would wait for ever
            content = read_bytes(file)
            return read_header(content), digest_of(content)
        except OSError as error:
            return error.strerror or "cannot be read"
        except DataError as error:
            return str(error)

    def look_at_part(start: int) -> list[tuple[Header, bytes] | str]:
        return [look_at(file) for file in files[start : start + CHECKED]]

    bad: dict[int, str] = {}
    headers: dict[int, Header] = {}
    digests: dict[int, bytes] = {}
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        progress_bar("checking pictures", len(files)) as bar,
    ):
        starts = range(0, len(files), CHECKED)
        for start, part in zip(starts, pool.map(look_at_part, starts), strict=True):
            for i, result in enumerate(part, start):
                if isinstance(result, str):
                    bad[i] = result
                else:
                    headers[i], digests[i] = result
            bar.advance(len(part))
    return bad, headers, digests


def _decode(
    files: list[Path],
    headers: dict[int, Header],
    digests: dict[int, bytes],
    source: Path,
    options: ReadOptions,
) -> tuple[View, dict[int, str]]:
    """The pictures that have headers; why some of them cannot be decoded, by position."""
    which = list(headers)
    of_them = [files[i] for i in which], [digests[i] for i in which]
    imgsz = choose_imgsz(_sizes(headers), options)
    images, bad = read_pixels(*of_them, imgsz, str(source), options.workers)
    return images, {which[i]: why for i, why in bad.items()}


def _sizes(headers: dict[int, Header]) -> NDArray[np.int64]:
    sizes = [(one.width, one.height) for one in headers.values()]
    return np.array(sizes, np.int64).reshape(-1, 2)


def choose_imgsz(sizes: NDArray[np.integer[Any]], options: ReadOptions) -> int:
    """The side of pictures that is asked for; else their own if all are alike and small.

    Of others small ones become 32 px, and larger ones ``options.large``. What counts is the shorter
    side, of the picture in the middle.

    Args:
        sizes: (n, 2) widths and heights.
        options: what is asked for.
    """
    if options.imgsz:
        return options.imgsz
    if not len(sizes):
        return 32
    sides = sizes.min(1)
    alike = bool((sizes == sizes[0]).all())
    if alike and sides[0] <= SMALL:
        return max(4, int(sides[0]))
    if np.median(sides) <= SMALL:
        return 32
    return options.large() if callable(options.large) else options.large


def _complain(
    bad: dict[int, str], files: list[Path], ids: list[str], skip_bad: bool | Collection[str]
) -> None:
    if skip_bad is True:
        were = "was" if len(bad) == 1 else "were"
        notices.warning("%s %s left out", counted(len(bad), "unreadable picture"), were)
        return
    dropped = skip_bad or ()
    lines = [
        f"{shown(files[i])}: {why}"
        for i, why in sorted(bad.items())
        if shown(ids[i]) not in dropped
    ]
    if lines:
        raise DataError(
            "\n".join(lines)
            + f"\n{len(lines)} of {counted(len(files), 'picture')} cannot be read; mend or remove "
            "them, or go on without them: --skip-bad"
        )


def unknown_class(where: Path, name: str, known: Sequence[str]) -> DataError:
    """What is said of a class that is not among those wanted."""
    return DataError(
        f"{shown(where)}: there is no class '{shown(name)}' among those known: "
        f"{', '.join(map(shown, known))}"
    )
