"""Class folders: a folder for each class, its name the label, pictures anywhere below it."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from eyebright.console import counted, notices, shown
from eyebright.data.dataset import Dataset
from eyebright.data.reading import ReadOptions, read_files, unknown_class
from eyebright.errors import DataError
from eyebright.images import ENDINGS
from eyebright.nearby import holds_run, nearest_path

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# What systems and tools leave behind; so do names that begin with a dot.
LITTER = frozenset(
    "thumbs.db desktop.ini __macosx $recycle.bin @eadir lost+found __pycache__".split()
)


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts "2" before "10"."""
    parts = re.split(r"(\d+)", name)
    return [int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)], name


def _entries(folder: Path) -> list[Path]:
    try:
        entries = [
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".") and entry.name.casefold() not in LITTER
        ]
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
    """What `list_pictures` lists, a folder at a time.

    Raises:
        DataError: a path that is not there, or a folder without pictures.
    """
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
            raise DataError(f"{shown(path)}: no such file or folder{nearest_path(path)}")


def load_folder(folder: Path, options: ReadOptions) -> Dataset:
    """The pictures of a folder of class folders.

    Args:
        folder: holds a folder for each class.
        options: how they are to be read.

    Raises:
        DataError: no pictures, an empty class, one class only, an unknown class, or pictures that
            cannot be read.
        StorageError: the pictures fit neither on the disk nor into memory.
    """
    folders = _folders(folder)
    if not folders and not options.classless:
        if holds_run(folder):
            raise DataError(f"{shown(folder)}: a run folder; name the pictures instead")
        loose = sum(entry.suffix.lower() in ENDINGS for entry in _entries(folder))
        what = f"{counted(loose, 'picture')} but no class folders" if loose else "no class folders"
        hint = f"; without classes: eyebright predict RUN {shlex.quote(shown(folder))}"
        raise DataError(
            f"{shown(folder)}: {what}; a folder for each class is needed{hint if loose else ''}"
        )
    if not folders:
        names, files = ["no class"], list_pictures([folder])
        labels = [0] * len(files)
    else:
        own = [entry.name for entry in folders]
        names = own if options.classes is None else list(options.classes)
        files, labels = _list_files(folders, names, options)
    if not files:
        raise DataError(f"{shown(folder)}: no pictures in its class folders")
    if len(names) < 2 and not options.allows_empty_classes:
        raise DataError(
            f"{shown(folder)}: one class only ('{shown(names[0])}'); two are the least there is "
            "to tell apart"
        )
    ids = [file.relative_to(folder).as_posix() for file in files]
    return read_files(files, labels, names, ids, folder, options)


def _list_files(
    folders: list[Path], names: list[str], options: ReadOptions
) -> tuple[list[Path], list[int]]:
    """The pictures in class folders, and the number of each one's class among these names."""
    files: list[Path] = []
    labels: list[int] = []
    passed_over: Counter[str] = Counter()
    for class_folder in folders:
        if class_folder.name not in names:
            raise unknown_class(class_folder, class_folder.name, names)
        found = []
        for file in _walk(class_folder, set()):
            if file.suffix.lower() in ENDINGS:
                found.append(file)
            else:
                passed_over[file.suffix.lower() or "no ending"] += 1
        if not found and not options.allows_empty_classes:
            if holds_run(class_folder):
                raise DataError(f"{shown(class_folder)}: a run folder, and no class of pictures")
            raise DataError(
                f"{shown(class_folder)}: no pictures in this class; remove the folder or fill it"
            )
        files += found
        labels += [names.index(class_folder.name)] * len(found)
    if passed_over:
        kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in passed_over.most_common(5))
        notices.warning("files in no format that is read were passed over: %s", kinds)
    return files, labels
