"""Archives of class folders: judged member by member, unpacked once, whole or not at all."""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, Any, cast

from eyebright.console import progress_bar, shown
from eyebright.data.cache import data_home, fill_folder
from eyebright.errors import DataError, StorageError
from eyebright.images import ENDINGS as PICTURES

LARGEST = 100_000_000_000  # bytes of content that an archive may unpack to
MOST_MEMBERS = 5_000_000
CHUNK = 1 << 20  # bytes; no header that tarfile reads at once needs more
LARGEST_FIRST = 64 << 20  # bytes of a member that is skipped only to see what follows
LONGEST_NAME, LONGEST_PART = 1000, 255  # bytes
LONGEST_END = 64 << 20  # bytes behind the last member, which fill a record of a tape
OPENERS: dict[str, Callable[[Path], Any]] = {
    ".tar": lambda path: path.open("rb"),
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.xz": lzma.open,
    ".tar.bz2": bz2.open,
}
ENDINGS = (".zip", *OPENERS)
# What the readers raise for bytes that are no archive.
DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
    NotImplementedError, RuntimeError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One entry of an archive."""

    name: str
    """As the archive has it, which may be anything."""
    size: int
    """Bytes of content, as the archive says."""
    kind: str
    """``file``, ``folder``, or in words what it is instead."""
    open: Callable[[], IO[bytes]]


def ending_of(path: Path) -> str | None:
    """The ending that says what kind of archive a file is; None: it is none."""
    return next((e for e in ENDINGS if path.name.lower().endswith(e)), None)


def first_names(archive: Path, count: int) -> list[str]:
    """Names of the first members of an archive, up to a large one; none if it cannot be read."""
    try:
        small = takewhile(lambda member: member.size <= LARGEST_FIRST, _members(archive))
        return [member.name for member in islice(small, count)]
    except DataError:
        return []


def unpack(archive: Path, any_files: bool = False) -> Path:
    """The folder with an archive's content, unpacked if that has not been done before.

    All of its members are judged before anything is written. The folder lies in `data_home` and is
    named by the archive's bytes, so that a changed archive is another folder.

    Args:
        archive: a file with one of `ENDINGS`.
        any_files: whether it may be without pictures.

    Raises:
        DataError: damaged, unpacks to too much, holds no pictures, or a member that could do harm:
            outside the folder, a link, a device, a second one of the same name.
        StorageError: no room for it.
    """
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{shown(archive)}: {error.strerror}") from None
    target = data_home() / "unpacked" / digest[:32]
    if target.is_dir():
        return target
    total, pictures = 0, 0
    for name, member in _judged(archive):
        total += member.size
        pictures += Path(name).suffix.lower() in PICTURES
    if not pictures and not any_files:
        raise DataError(f"{shown(archive)}: no pictures in it")

    def write(folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        if total > free:
            raise StorageError(
                f"{shown(archive)}: unpacks to {total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free "
                f"in {shown(data_home())}; set EYEBRIGHT_DATA to a folder with room"
            )
        _write_all(archive, folder / target.name, total)

    return fill_folder(target, write)


def _write_all(archive: Path, folder: Path, total: int) -> None:
    folder.mkdir()
    written = 0
    with progress_bar(f"unpacking {shown(archive.name)}", total) as bar:
        for name, member in _judged(archive):
            path = folder / name
            if member.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                # What comes is counted, whatever the archive said before.
                for chunk in _content(archive, member):
                    written += len(chunk)
                    if written > total:
                        raise DataError(f"{shown(archive)}: holds more than it says")
                    file.write(chunk)
            bar.update(written, f"{written / 1e6:.0f} of {total / 1e6:.0f} MB")


def _content(archive: Path, member: Member) -> Iterator[bytes]:
    with _reading(archive), member.open() as source:
        got = 0
        while chunk := source.read(CHUNK):
            got += len(chunk)
            yield chunk
        if got != member.size:
            raise EOFError(f"'{member.name}' ends early")


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise DataError(f"{shown(archive)}: headers upon headers, which are not read") from None
    except DAMAGE as error:
        why = shown(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{shown(archive)}: the archive is cut short or damaged ({why})") from None


def _judged(archive: Path) -> Iterator[tuple[str, Member]]:
    """Files and folders of an archive with safe relative names, each once.

    Raises:
        DataError: a member that is not safe; the message names it.
    """
    total = 0
    files: set[str] = set()
    folders: set[str] = set()
    for count, member in enumerate(_members(archive), start=1):
        total += member.size
        if total > LARGEST or count > MOST_MEMBERS:
            raise DataError(
                f"{shown(archive)}: unpacks to more than {LARGEST / 1e9:,.3g} GB or "
                f"{MOST_MEMBERS:,} files; unpack it yourself if you trust it"
            )
        name = _safe_name(member.name)
        why = None
        if name is None:
            why = "lies outside the archive, or has an impossible name"
        elif member.kind not in ("file", "folder"):
            why = f"is {member.kind}"
        elif name in files or (member.kind == "file" and name in folders):
            why = "is there twice"
        else:
            above = [str(parent) for parent in Path(name).parents][:-1]
            if not files.isdisjoint(above):
                why = "lies in a file"
            folders.update(above)
            (files if member.kind == "file" else folders).add(name)
        if why or name is None:
            raise DataError(
                f"{shown(archive)}: the member '{shown(member.name)}' {why}; nothing of it is used"
            )
        if name != ".":
            yield name, member


def _safe_name(name: str) -> str | None:
    """The member's relative path, "." for the archive's own folder; None: not to be trusted."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    encoded = [os.fsencode(part) for part in parts] if _is_text(name) else [b"\0"]
    if (
        name.startswith(("/", "\\"))
        or re.match("[A-Za-z]:", name)
        or ".." in parts
        or any(b"\0" in part or len(part) > LONGEST_PART for part in encoded)
        or sum(len(part) + 1 for part in encoded) > LONGEST_NAME
    ):
        return None
    return "/".join(parts) or "."


def _is_text(name: str) -> bool:
    try:
        os.fsencode(name)
    except ValueError:
        return False
    return True


def _members(archive: Path) -> Iterator[Member]:
    with _reading(archive):
        if ending_of(archive) == ".zip":
            yield from _zip_members(archive)
        else:
            yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if stat.S_ISLNK(mode):
                kind = "a link"
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a device or pipe"
            elif info.flag_bits & 1:
                kind = "encrypted"
            else:
                folder = info.filename.endswith(("/", "\\"))
                kind = "folder" if folder else "file"
            yield Member(info.filename, info.file_size, kind, partial(opened.open, info))


def _tar_members(archive: Path) -> Iterator[Member]:
    with OPENERS[ending_of(archive) or ".tar"](archive) as file:
        stream = _Bounded(file)
        with tarfile.TarFile(fileobj=cast(Any, stream)) as opened:
            while (info := opened.next()) is not None:
                # tarfile keeps them all; a million would take a gigabyte
                cast(Any, opened).members.clear()
                if info.size < 0:
                    raise tarfile.TarError("a negative size")
                if info.issym() or info.islnk():
                    kind = "a link"
                elif info.issparse():
                    kind = "a sparse file"
                elif info.isdir():
                    kind = "folder"
                else:
                    kind = "file" if info.isreg() else "a device or pipe"
                size = info.size if kind == "file" else 0
                yield Member(info.name, size, kind, partial(_extract, opened, info))
            # tarfile takes whatever is no header for the end; the true one is a block of zeros.
            if stream.last != bytes(tarfile.BLOCKSIZE):
                raise EOFError("its end is missing")
        end = file.tell()
        while file.read(CHUNK):  # to the end of the file, where gzip and xz have checksums
            if file.tell() > end + LONGEST_END:
                raise tarfile.TarError("too much behind its end")


def _extract(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(info)
    assert content is not None, "a regular member has content"
    return content


class _Bounded:
    """An unpacked tar that hands out no giant headers."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.last = b""  # what was read last

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.TarError(f"a header of {size:,} bytes")
        self.last = self.file.read(size)
        return self.last

    def seek(self, position: int, whence: int = 0) -> int:
        return self.file.seek(position, whence)

    def tell(self) -> int:
        return self.file.tell()
