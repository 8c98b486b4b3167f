"""`load`: from a name or a path to a `Dataset`."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eyebright.config import RANGES
from eyebright.console import shown
from eyebright.data import archives, named, rows
from eyebright.data.cifar import find_cifar10, load_cifar10, official_copy
from eyebright.data.dataset import Dataset
from eyebright.data.decisions import PREFIXES
from eyebright.data.decisions import read as read_decisions
from eyebright.data.folders import find_parts, has_folders, load_folder, only_folder
from eyebright.data.labels import apply
from eyebright.data.reading import LARGE, ReadOptions
from eyebright.data.shards import Shards, find_shards, load_shards
from eyebright.data.tables import Table, load_table, read_metadata, read_table
from eyebright.errors import DataError, EyebrightError, UsageError
from eyebright.machine import available_cores
from eyebright.nearby import nearest_path

Pictures = Path | Table | Shards
"""What a part of data may be: a folder, rows that name files, or tar files with an index."""
NAMES = ("cifar10", *named.NAMES)


class MissingPartError(DataError):
    """The data are there, but have no such part."""


def load(
    source: str | os.PathLike[str] = "cifar10",
    split: str | None = None,
    *,
    imgsz: int | None = None,
    large: int | Callable[[], int] = LARGE,
    classes: Sequence[str] | None = None,
    skip_bad: bool | Collection[str] = False,
    workers: int | None = None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    classless: bool = False,
    stream: bool | None = None,
) -> Dataset:
    """Pictures to train on, with the data's own validation part in ``.val`` if there is one.

    The test part is never loaded along: it takes a ``split="test"``, which `Run.test` says.

    Args:
        source: one of `NAMES`, an official CIFAR-10 folder or archive (or a folder that holds
            either), a folder of class folders, flat or with train, val and test below, an archive
            of one (.zip, .tar, .tar.gz, ...), a folder with a metadata file as Hugging Face has it,
            a folder of shards that `eyebright convert` wrote, or a table (.csv, .tsv, .jsonl,
            .parquet) with the columns path and label, and perhaps split.
        split: ``train``, ``val`` or ``test``; None: train, or all of what has no parts.
        imgsz: side of the square pictures, in pixels. None: small pictures that are all alike
            keep their size, others become 32 px if small (64 px at most) and ``large`` if not.
        large: side of pictures that are not small, or what to ask for it where some are.
        classes: class names to count labels by, as a model knows them. None: the data's own.
        skip_bad: go on without pictures that cannot be read: all, or those that a table of
            decisions calls by these ids.
        workers: threads that decode pictures; None: one a processor core.
        labels: a table of decisions to apply (`eyebright.data.decisions`).
        root: the folder that a table's paths are relative to; None: the table's own.
        classless: also take a folder of pictures without classes, or of one: nothing to train on.
        stream: whether shards are read as they are asked for, and never all at once; None: where
            they would take up more than half of the memory that is free.

    Raises:
        DataError: nothing there, not whole, or not the classes wanted; the message says which.
        StorageError: not to be downloaded, or too large for the memory or the disk.
        UsageError: no such split, ``root`` for what is no table, or what reads it is not installed.
    """
    if split not in (None, "train", "val", "test"):
        raise UsageError(f"there is no split '{split}'; choose one of: train, val, test")
    # First of all, because a mistake in it is better known before pictures are read.
    decisions = None if labels is None else read_decisions(labels)
    low, high = RANGES["imgsz"]
    if imgsz is not None and not low <= imgsz <= high:
        raise UsageError(f"--imgsz must be from {low:g} to {high:g} px, not {imgsz}")
    options = ReadOptions(
        classes=classes,
        imgsz=imgsz,
        large=large,
        skip_bad=skip_bad or (False if decisions is None else decisions.dropped),
        workers=available_cores() if workers is None else workers,
        classless=classless,
        stream=stream,
    )
    data = _load(source, split, root, options)
    return data if decisions is None else apply(data, decisions, split or "train")


def list_part(
    source: str | os.PathLike[str],
    split: str | None,
    classes: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A part of data in files, none of which is read: its `Dataset.pixels` are `Files`.

    What is no files (official CIFAR-10, shards, data by name) is given as `load` has it.

    Raises:
        DataError: as in `load`.
        StorageError: as in `load`.
        UsageError: as in `load`.
    """
    options = ReadOptions(classes, workers=available_cores(), listed=True)
    return _load(source, split, root, options)


def _load(
    source: str | os.PathLike[str],
    split: str | None,
    root: str | os.PathLike[str] | None,
    options: ReadOptions,
) -> Dataset:
    name, path = str(source), Path(source)
    if root is not None and not (is_table(path) and os.path.isfile(path)):  # noqa: PTH113
        raise UsageError(f"--root is for tables, and {shown(source)} is none")
    if name == "cifar10":
        data = _load_official(find_cifar10(), split)
        data.source = "cifar10"
    elif name in named.NAMES:
        if split == "val":
            raise MissingPartError(f"{name} has no validation part of its own")
        data = named.load_named(name, split or "train")
    elif not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for a name too long)
        meant = nearest_path(path, NAMES) or f" ({', '.join(NAMES)})"
        raise DataError(f"{shown(source)}: no such file or folder, and no data by that name{meant}")
    elif official := official_copy(path):
        data = _load_official(official, split)
    else:
        return _load_pictures(path, split, None if root is None else Path(root), options)
    if options.classes is not None and data.classes != tuple(options.classes):
        raise DataError(
            f"{shown(source)}: its classes ({', '.join(data.classes)}) are not the model's "
            f"({', '.join(map(shown, options.classes))})"
        )
    return data.resized(options.imgsz) if options.imgsz else data


def is_table(path: Path) -> bool:
    """Whether a file of this name is read as a table."""
    return path.suffix.lower() in rows.ENDINGS


def find_part_names(source: str | os.PathLike[str]) -> list[str]:
    """Which of train, val and test data have, as `load` takes them; none where they are one whole.

    Raises:
        DataError: a table or an archive that cannot be read.
        StorageError: no room for an archive.
        UsageError: what reads a table is not installed.
    """
    path = Path(source)
    if str(source) in NAMES:
        return ["train", "test"]
    if not os.path.exists(path):  # noqa: PTH110
        return []
    if official_copy(path):
        return ["train", "test"]
    if path.is_dir():
        return list(_parts_of(_with_metadata(path)))
    if not path.is_file():
        return []  # reading a pipe would wait for ever
    if archives.ending_of(path):
        return list(_parts_of(_with_metadata(_inside(archives.unpack(path)))))
    return list(read_table(path).parts()) if is_table(path) else []


def _load_official(path: Path, split: str | None) -> Dataset:
    if split == "val":
        raise MissingPartError(f"{shown(path)}: CIFAR-10 has no validation part of its own")
    return load_cifar10(path, split or "train")


def _load_pictures(
    path: Path, split: str | None, root: Path | None, options: ReadOptions
) -> Dataset:
    """Pictures in files of their own, named by a folder, an archive or a table."""
    if path.is_dir():
        return _load_folder(path, split, options)
    if not path.is_file():
        raise DataError(f"{shown(path)}: no regular file")  # reading a pipe would wait for ever
    if is_table(path):
        if root is not None and not root.is_dir():
            raise DataError(f"{shown(root)}: no such folder (--root)")
        table = read_table(path, root)
        data = _load_parts(path, table, table.parts(), split, options)
        for part in (data, data.val):
            if part is not None and root is not None:
                part.root = str(root.resolve())
        return data
    if archives.ending_of(path):
        return _load_archive(path, split, options)
    raise DataError(
        f"{shown(path)}: neither a folder of pictures, a table ({', '.join(rows.ENDINGS)}) nor an "
        f"archive ({', '.join(archives.ENDINGS)})"
    )


def _load_folder(path: Path, split: str | None, options: ReadOptions) -> Dataset:
    whole = _with_metadata(path)
    data = _load_parts(path, whole, _parts_of(whole), split, options)
    data.name, data.source = path.resolve().name, str(path.resolve())
    return data


def _with_metadata(pictures: Pictures) -> Pictures:
    """What an index or a metadata file says of a folder; the folder itself where there is none."""
    if not isinstance(pictures, Path):
        return pictures
    return find_shards(pictures) or read_metadata(pictures) or pictures


def _parts_of(whole: Pictures) -> Mapping[str, Pictures]:
    return find_parts(whole) if isinstance(whole, Path) else whole.parts()


def _load_archive(path: Path, split: str | None, options: ReadOptions) -> Dataset:
    folder = archives.unpack(path)
    try:
        data = _load_folder(_inside(folder), split, options)
    except EyebrightError as error:
        # The archive is what was named, not the folder that it was unpacked into.
        raise type(error)(str(error).replace(shown(folder), shown(path))) from None
    ending = archives.ending_of(path) or ""
    data.name, data.source = path.resolve().name[: -len(ending)], str(path.resolve())
    return data


def _inside(folder: Path) -> Path:
    """What an archive holds: most have everything in one folder."""
    top = only_folder(folder)
    if top is None or find_parts(folder) or read_metadata(folder):
        return folder
    return top if has_folders(top) or read_metadata(top) else folder


def _load_parts(
    path: Path,
    whole: Pictures,
    parts: Mapping[str, Pictures],
    split: str | None,
    options: ReadOptions,
) -> Dataset:
    """One part of data, with the validation part beside the training part.

    Args:
        path: what was named, for messages.
        whole: all of the data, where they have no parts.
        parts: by name.
        split: which is wanted; None: train, or the whole.
        options: how it is to be read; ``skip_bad`` has ids of all parts.
    """
    wanted = split or "train"
    if not parts:
        if split in ("val", "test"):
            why = "no column 'split'" if isinstance(whole, Table) else f"no folder '{split}' in it"
            raise MissingPartError(f"{shown(path)}: no {split} part ({why})")
        return _read(whole, options)
    if wanted not in parts:
        raise MissingPartError(f"{shown(path)}: no {wanted} part, only {', '.join(parts)}")
    data = _read_part(parts, wanted, options)
    if wanted == "train" and "val" in parts:
        as_train = replace(options, classes=data.classes, imgsz=data.imgsz)
        data.val = _read_part(parts, "val", as_train)
    return data


def _read_part(parts: Mapping[str, Pictures], name: str, options: ReadOptions) -> Dataset:
    if not isinstance(skip := options.skip_bad, bool):  # ids, as that part itself has them
        prefix = PREFIXES[name]
        skip = {one.removeprefix(prefix) for one in skip if one.startswith(prefix)}
    return _read(_with_metadata(parts[name]), replace(options, skip_bad=skip))


def _read(pictures: Pictures, options: ReadOptions) -> Dataset:
    if isinstance(pictures, Shards):
        return load_shards(pictures, options)
    if options.stream:
        raise UsageError("only shards are streamed: eyebright convert DATA OUT makes some")
    if isinstance(pictures, Table):
        return load_table(pictures, options)
    return load_folder(pictures, options)
