"""Files on disk: each is written whole or not at all, and none of ours that is read holds code.

A file is written beside its place, synced and renamed, and so is its folder: what was there before
is whole until what comes after is.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from eyebright.console import shown
from eyebright.errors import ModelError, StorageError

TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
MOST_JSON = 4 << 20  # bytes of a file of ours, but for logs and for lists of pictures
MOST_LOG = 64 << 20
MOST_FIGURES = 32 << 20  # a thousand classes have a million counts
MOST_LIST = 1 << 30
MOST_HEADER = 4 << 20  # bytes of what a safetensors file says of its tensors


def beside(path: Path) -> Path:
    """Where a file is written before it takes its place; `sweep` knows such names."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    with _written_beside(path, content) as temporary:
        temporary.replace(path)


def create_file(path: Path, content: bytes) -> bool:
    """Write a file whole, unless it is there: of several processes the first one wins.

    Where a file system knows no hard links the last one does: read what is there afterwards.

    Returns:
        Whether it was written.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    written = True
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            written = False
        except OSError:
            written = not path.exists()
            if written:
                temporary.replace(path)
        temporary.unlink(missing_ok=True)
    return written


@contextlib.contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """The content, synced, in a file that the block gives its place; then the folder is synced."""
    temporary = beside(path)
    try:
        try:
            _write(temporary, content, os.O_TRUNC)
            yield temporary
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that is only ever added to.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    try:
        size, torn = _size_and_torn(path)
        try:
            how = os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            _write(path, b"\n" * torn + line.encode() + b"\n", how)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None


def _size_and_torn(path: Path) -> tuple[int, bool]:
    """Bytes of a file, and whether a power cut left half a line at its end."""
    if path.is_symlink():  # it may lead out of the run folder
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not path.exists():
        return 0, False
    if not path.is_file():  # writing into a pipe would wait for ever
        raise OSError("no regular file")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return size, file.read(1) not in (b"", b"\n")


def _write(path: Path, content: bytes, how: int) -> None:
    """Write to a file and sync it; a disk may take less at once than it is given."""
    binary = getattr(os, "O_BINARY", 0)  # of Windows
    file = os.open(path, os.O_WRONLY | os.O_CREAT | how | binary, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """See that a name that was given in it outlives a power cut."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in a folder."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs alike: indented, ASCII, NaN refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_file(path, text.encode() + b"\n")


def read_json(path: Path, most: int = MOST_JSON) -> dict[str, Any]:
    """The object that a JSON file of ours holds.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        ModelError: missing, damaged, too large, or no object.
    """
    try:
        return parse_json(read_within(path, most))
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown(path)}: unreadable ({error})") from None


def parse_json(content: str | bytes) -> dict[str, Any]:
    """The object that JSON of ours holds.

    Raises:
        ValueError: it is no JSON, or no object.
    """
    try:
        found = json.loads(content, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("not what belongs there")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        _refuse(text)
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def count(value: Any) -> int:
    """A number of things, as JSON has it.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{value!r} is no count")
    return value


def number(value: Any) -> float:
    """A finite number, as JSON has it.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float) or not abs(value) < 1e100:
        raise ValueError(f"{value!r} is no number")
    return float(value)


def read_rows(path: Path, most: int) -> list[list[str]]:
    """The rows of a CSV file of ours.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than it may be, or no CSV.
    """
    try:
        return list(csv.reader(io.StringIO(read_within(path, most).decode(), newline="")))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def read_within(path: Path, most: int) -> bytes:
    """The content of a regular file that is not larger than it may be.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or no regular file.
    """
    with _open_within(path, most) as file:
        return file.read(most)


def read_safetensors(path: Path, most: int | None = None) -> bytes:
    """The content of a safetensors file, before anything is made of it.

    Its reader checks that names, types, shapes and lengths agree; that they are not too many is
    seen to here.

    Args:
        path: of the file.
        most: bytes that all tensors may have; None: as many as there are.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than it may be, or says too much of its tensors.
    """
    with _open_within(path, None if most is None else most + MOST_HEADER) as file:
        length = file.read(8)
        if int.from_bytes(length, "little") > MOST_HEADER:
            raise ValueError(f"it would begin with more than {MOST_HEADER:,} bytes on its tensors")
        return length + file.read()


def _open_within(path: Path, most: int | None) -> BinaryIO:
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError("no regular file")
    size = path.stat().st_size
    if most is not None and size > most:
        raise ValueError(f"{size:,} bytes; more than {most:,} cannot belong there")
    return path.open("rb")
