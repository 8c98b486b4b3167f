"""`load`: from a name or a path to a `Dataset`."""

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eyebright.config import RANGES
from eyebright.console import shown
from eyebright.data.cifar import find_cifar10, load_cifar10, official_copy
from eyebright.data.dataset import Dataset
from eyebright.data.folders import LARGE, find_parts, load_folder
from eyebright.data.labels import PREFIXES, apply
from eyebright.data.labels import read as read_decisions
from eyebright.data.splits import stratified_split
from eyebright.data.tables import ENDING, load_table
from eyebright.errors import DataError, UsageError
from eyebright.runtime import available_cores

NAMES = ("cifar10", "digits")


class MissingPartError(DataError):
    """The data are there, but have no such part."""


def load(
    source: str | os.PathLike[str] = "cifar10",
    split: str | None = None,
    *,
    imgsz: int | None = None,
    large: int = LARGE,
    classes: Sequence[str] | None = None,
    skip_bad: bool | Collection[str] = False,
    workers: int | None = None,
    labels: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Pictures to train on, with the data's own validation part in ``.val`` if there is one.

    The test part is never loaded along: it takes a ``split="test"``, which `Run.test` says.

    Args:
        source: ``cifar10``, ``digits``, an official CIFAR-10 folder or archive (or a folder that
            holds either), a folder of class folders, flat or with train, val and test below, or
            a table (.csv) with the columns path and label.
        split: ``train``, ``val`` or ``test``; None: train, or all of a flat folder.
        imgsz: side of the square pictures, in pixels. None: small pictures that are all alike
            keep their size, others become 32 px if small (64 px at most) and ``large`` if not.
        large: side of pictures that are not small.
        classes: class names to count labels by, as a model knows them. None: the data's own.
        skip_bad: go on without pictures that cannot be read: all, or those that a table of
            decisions calls by these ids.
        workers: threads that decode pictures; None: one a processor core.
        labels: a table of decisions to apply (`eyebright.data.labels`).

    Raises:
        DataError: nothing there, not whole, or not the classes wanted; the message says which.
        StorageError: not to be downloaded, or too large for the memory.
        UsageError: no such split.
    """
    if split not in (None, "train", "val", "test"):
        raise UsageError(f"there is no split '{split}'; choose one of: train, val, test")
    if labels is not None:
        decisions = read_decisions(labels)  # a mistake is better known before the pictures are read
        data = load(
            source, split, imgsz=imgsz, large=large, classes=classes,
            skip_bad=skip_bad or decisions.dropped, workers=workers,
        )  # fmt: skip
        return apply(data, decisions, split or "train")
    low, high = RANGES["imgsz"]
    if imgsz is not None and not low <= imgsz <= high:
        raise UsageError(f"--imgsz must be from {low:g} to {high:g} px, not {imgsz}")
    workers = available_cores() if workers is None else workers
    name, path = str(source), Path(source)
    if name == "digits":
        data = load_digits(split)
    elif name == "cifar10":
        data = _load_official(find_cifar10(), split)
        data.source = "cifar10"
    elif not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for a name too long)
        known = ", ".join(NAMES)
        raise DataError(
            f"{shown(source)}: no such file or folder, and no data set by that name ({known})"
        )
    elif official := official_copy(path):
        data = _load_official(official, split)
    elif path.is_file() and path.suffix.lower() == ENDING:
        if split in ("val", "test"):
            raise MissingPartError(f"{shown(source)}: a table has no {split} part")
        read = partial(load_table, classes=classes, skip_bad=skip_bad, workers=workers)
        return read(path, imgsz=imgsz, large=large)
    elif path.is_file():
        raise DataError(
            f"{shown(source)}: neither a folder of pictures, a table (.csv) nor a CIFAR-10 archive "
            "(.tar.gz)"
        )
    else:
        read = partial(load_folder, large=large, workers=workers)
        return _load_parts(read, path, split, classes, imgsz, skip_bad)
    if classes is not None and data.classes != tuple(classes):
        raise DataError(
            f"{shown(source)}: its classes ({', '.join(data.classes)}) are not the model's "
            f"({', '.join(map(shown, classes))})"
        )
    return data.resized(imgsz) if imgsz else data


def _load_official(path: Path, split: str | None) -> Dataset:
    if split == "val":
        raise MissingPartError(f"{shown(path)}: CIFAR-10 has no validation part of its own")
    return load_cifar10(path, split or "train")


def _load_parts(
    read: Callable[..., Dataset],
    path: Path,
    split: str | None,
    classes: Sequence[str] | None,
    imgsz: int | None,
    skip_bad: bool | Collection[str],
) -> Dataset:
    parts = find_parts(path)
    wanted = split or "train"
    if not parts:
        if split in ("val", "test"):
            raise MissingPartError(f"{shown(path)}: no {split} part (no folder '{split}' in it)")
        return read(path, classes=classes, imgsz=imgsz, skip_bad=skip_bad)
    if wanted not in parts:
        raise MissingPartError(f"{shown(path)}: no {wanted} part, only {', '.join(parts)}")
    skip = partial(_of_part, skip_bad)
    data = read(parts[wanted], classes=classes, imgsz=imgsz, skip_bad=skip(wanted))
    if wanted == "train" and "val" in parts:
        read = partial(read, classes=data.classes, imgsz=data.imgsz, skip_bad=skip("val"))
        data.val = read(parts["val"])
    data.name, data.source = path.resolve().name, str(path.resolve())
    return data


def _of_part(skip_bad: bool | Collection[str], part: str) -> bool | Collection[str]:
    """The ids of a part, as that part itself has them."""
    if isinstance(skip_bad, bool):
        return skip_bad
    prefix = PREFIXES[part]
    return {name.removeprefix(prefix) for name in skip_bad if name.startswith(prefix)}


def load_digits(split: str | None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8×8 px, after Alpaydin & Kaynak 1998).

    They come without parts of their own: a fifth, always the same, is the test part.
    """
    if split == "val":
        raise MissingPartError("digits has no validation part of its own")
    from sklearn.datasets import load_digits as scikit_learn_digits

    bunch = scikit_learn_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, 0.2, seed=0)
    chosen = test if split == "test" else train
    data = Dataset(images, labels, [str(c) for c in range(10)], name="digits", mirrors=False)
    data = data.subset(chosen)
    data.source, data.modes = "digits", ["L"] * len(data)
    return data
