"""Class folders: a folder for each class, its name the label, pictures anywhere below it."""

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import notices, progress_bar, shown
from eyebright.data.dataset import Dataset
from eyebright.data.pixels import digest_of, read_pixels
from eyebright.data.views import Files, View
from eyebright.errors import DataError
from eyebright.images import ENDINGS, Header, read_bytes, read_header

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# What systems and tools leave behind; so do names that begin with a dot.
LITTER = frozenset(
    "thumbs.db desktop.ini __macosx $recycle.bin @eadir lost+found __pycache__".split()
)
CHECKED = 64  # files that a thread checks before it hands them over
SMALL, LARGE = 64, 224
"""Px: data up to the first keep their size or become 32 px, larger ones become the second."""


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts "2" before "10"."""
    parts = re.split(r"(\d+)", name)
    return [int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)], name


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in LITTER


def _entries(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not _is_litter(entry.name)]
    except OSError as error:
        raise DataError(f"{shown(folder)}: {error.strerror}") from None
    return sorted(entries, key=lambda entry: natural_order(entry.name))


def _folders(folder: Path) -> list[Path]:
    # (Path.is_dir raises where the folder may be listed but not entered.)
    return [entry for entry in _entries(folder) if os.path.isdir(entry)]  # noqa: PTH112


def has_folders(folder: Path) -> bool:
    """Whether there are folders in it, which may be classes."""
    return bool(_folders(folder))


def only_folder(folder: Path) -> Path | None:
    """The folder that is all there is in this one, if so."""
    inside = _entries(folder)
    return inside[0] if len(inside) == 1 and _folders(folder) else None


def find_parts(folder: Path) -> dict[str, Path]:
    """The folders of train, val and test below this one; empty where it is flat.

    A folder called train settles it. Without one, all its folders must be called by the names of
    parts, because a class may well be called "test".
    """
    below = {entry.name.casefold(): entry for entry in _folders(folder)}
    parts = {
        split: below[name]
        for split, names in SPLITS.items()
        for name in reversed(names)
        if name in below
    }
    # A class may be called "train" too, beside "bus"; but then it holds pictures, not classes.
    split = "train" in parts and _folders(parts["train"])
    return parts if split or len(parts) == len(below) else {}


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """All files below a folder, each folder once even where links go round in circles."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in _entries(folder):
        if os.path.isdir(entry):  # noqa: PTH112
            yield from _walk(entry, seen)
        else:
            yield entry


def list_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the pictures in the folders named and below them, in natural order.

    Raises:
        DataError: nothing there, or a folder without pictures.
    """
    return list(each_picture(paths))


def each_picture(paths: Iterable[Path]) -> Iterator[Path]:
    """What `list_pictures` lists, a folder at a time."""
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112
            nothing = True
            for file in _walk(path, set()):
                if file.suffix.lower() in ENDINGS:
                    nothing = False
                    yield file
            if nothing:
                raise DataError(f"{shown(path)}: no pictures in it")
        elif os.path.exists(path):  # noqa: PTH110
            yield path
        else:
            raise DataError(f"{shown(path)}: no such file or folder")


def load_folder(
    folder: Path,
    *,
    classes: Sequence[str] | None,
    imgsz: int | None,
    large: int,
    skip_bad: bool | Collection[str],
    workers: int,
    classless: bool = False,
    listed: bool = False,
) -> Dataset:
    """The pictures of a folder of class folders.

    Args:
        folder: holds a folder for each class.
        classes: class names that labels must count by; None: the folders' names in natural order.
        imgsz: side of the pictures in pixels; None: as `choose_imgsz` says.
        large: the side that it gives to pictures that are not small.
        skip_bad: go on without pictures that cannot be read: all, or those of these ids.
        workers: threads that decode; 0 and 1 are the same.
        classless: also take pictures without classes, or of one: they are to be looked at only.
        listed: only say which files there are; none of them is read.

    Raises:
        DataError: no pictures, an empty class, one class only, an unknown class, or pictures that
            cannot be read.
        StorageError: the pictures fit neither on the disk nor into memory.
    """
    folders = _folders(folder)
    loose_only = classless and not folders
    if not folders and not classless:
        loose = sum(entry.suffix.lower() in ENDINGS for entry in _entries(folder))
        count = f"{loose} picture{'s' if loose > 1 else ''}"
        what = f"{count} but no class folders" if loose else "no class folders"
        hint = f"; without classes: eyebright predict RUN {shlex.quote(shown(folder))}"
        raise DataError(
            f"{shown(folder)}: {what}; a folder for each class is needed{hint if loose else ''}"
        )
    names = [entry.name for entry in folders] if classes is None else list(classes)
    may_be_empty = classes is not None or classless
    if loose_only:
        names, files = ["no class"], list_pictures([folder])
        labels = [0] * len(files)
    else:
        files, labels = _list_files(folders, names, may_be_empty)
    if not files:
        raise DataError(f"{shown(folder)}: no pictures in its class folders")
    if classes is None and len(names) < 2 and not classless:
        raise DataError(
            f"{shown(folder)}: one class only ('{shown(names[0])}'); two are the least there is "
            "to tell apart"
        )
    return read_files(
        files,
        labels,
        names,
        ids=[file.relative_to(folder).as_posix() for file in files],
        source=folder,
        may_be_empty=may_be_empty,
        imgsz=imgsz,
        large=large,
        skip_bad=skip_bad,
        workers=workers,
        listed=listed,
    )


def read_files(
    files: list[Path],
    labels: list[int],
    names: list[str],
    *,
    ids: list[str],
    source: Path,
    may_be_empty: bool,
    imgsz: int | None,
    large: int,
    skip_bad: bool | Collection[str],
    workers: int,
    listed: bool = False,
) -> Dataset:
    """The pictures of these files, as `load_folder` gives them.

    Args:
        files: of the pictures, one or more.
        labels: one a file, an index into names.
        names: of the classes.
        ids: what names each picture in its source.
        source: folder or table that named the pictures.
        may_be_empty: whether a class may have no readable picture.
        imgsz: side of the pictures in pixels; None: as `choose_imgsz` says.
        large: the side that it gives to pictures that are not small.
        skip_bad: go on without pictures that cannot be read: all, or those of these ids.
        workers: threads that decode; 0 and 1 are the same.
        listed: only say which files there are.

    Raises:
        DataError: pictures that cannot be read, or a class without any that can.
        StorageError: the pictures fit neither on the disk nor into memory.
    """
    name = source.resolve().stem if source.is_file() else source.resolve().name
    named: dict[str, Any] = {"name": name, "source": str(source.resolve())}
    if listed:
        return Dataset(Files(files), np.asarray(labels, np.int64), names, ids=ids, **named)
    bad, headers, digests = _check(files, workers)
    images, undecodable = _read(files, headers, digests, imgsz, large, source, workers)
    bad |= undecodable
    unreadable: dict[str, str] = {}
    if bad:
        _complain(bad, files, ids, skip_bad)
        good = [i for i in range(len(files)) if i not in bad]
        unreadable = {ids[i]: why for i, why in sorted(bad.items())}
        labels, ids = [labels[i] for i in good], [ids[i] for i in good]
        headers = {i: headers[i] for i in good}
        own_size = choose_imgsz(_sizes(headers.values()), large)
        if imgsz is None and good and own_size != images.shape[1]:
            # A picture that is left out has no say in the size: once more, with the right one.
            images, _ = _read(files, headers, digests, own_size, large, source, workers)
        if not good:
            raise DataError(f"{shown(source)}: not one readable picture")
        emptied = sorted(set(range(len(names))) - set(labels))
        if emptied and not may_be_empty:
            raise DataError(
                f"{shown(source)}: not one readable picture in the class "
                f"'{shown(names[emptied[0]])}'"
            )
    seen = list(headers.values())
    animated = sum(header.animated for header in seen)
    if animated:
        notices.warning("%d animations: the first frame of each is used", animated)
    data = Dataset(
        images,
        np.asarray(labels, np.int64),
        names,
        ids=ids,
        **named,
        sizes=np.array([(header.width, header.height) for header in seen]),
        modes=[header.mode for header in seen],
    )
    data.unreadable = unreadable
    return data


def _list_files(
    folders: list[Path], names: list[str], may_be_empty: bool
) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    passed_over: Counter[str] = Counter()
    for class_folder in folders:
        if class_folder.name not in names:
            raise DataError(
                f"{shown(class_folder)}: there is no class '{shown(class_folder.name)}' among "
                f"those known: {', '.join(map(shown, names))}"
            )
        found = []
        for file in _walk(class_folder, set()):
            if file.suffix.lower() in ENDINGS:
                found.append(file)
            else:
                passed_over[file.suffix.lower() or "no ending"] += 1
        if not found and not may_be_empty:
            raise DataError(
                f"{shown(class_folder)}: no pictures in this class; remove the folder or fill it"
            )
        files += found
        labels += [names.index(class_folder.name)] * len(found)
    if passed_over:
        kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in passed_over.most_common(5))
        notices.warning("files in no format that is read were passed over: %s", kinds)
    return files, labels


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


def _read(
    files: list[Path],
    headers: dict[int, Header],
    digests: dict[int, bytes],
    imgsz: int | None,
    large: int,
    source: Path,
    workers: int,
) -> tuple[View, dict[int, str]]:
    """The pictures that have headers; why some of them cannot be decoded, by position."""
    which = list(headers)
    imgsz = imgsz or choose_imgsz(_sizes(headers.values()), large)
    of_them = [files[i] for i in which], [digests[i] for i in which]
    images, bad = read_pixels(*of_them, imgsz, str(source), workers)
    return images, {which[i]: why for i, why in bad.items()}


def _sizes(headers: Iterable[Header]) -> NDArray[np.int64]:
    return np.array([(one.width, one.height) for one in headers], np.int64).reshape(-1, 2)


def choose_imgsz(sizes: NDArray[Any], large: int) -> int:
    """Their own size if all are alike and small; else 32 px for small ones, ``large`` above.

    What counts is the shorter side, of the picture in the middle.

    Args:
        sizes: (n, 2) widths and heights.
        large: side of pictures that are not small.
    """
    if not len(sizes):
        return 32
    sides = sizes.min(1)
    alike = bool((sizes == sizes[0]).all())
    if alike and sides[0] <= SMALL:
        return max(4, int(sides[0]))
    return 32 if np.median(sides) <= SMALL else large


def _complain(
    bad: dict[int, str], files: list[Path], ids: list[str], skip_bad: bool | Collection[str]
) -> None:
    if skip_bad is True:
        notices.warning("%d unreadable pictures were left out", len(bad))
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
            + f"\n{len(lines)} of {len(files)} pictures cannot be read; mend or remove them, or go "
            "on without them: --skip-bad"
        )
