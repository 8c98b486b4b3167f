"""Writing tar files: the same bytes for the same members, whole or not at all."""

import contextlib
import hashlib
import os
import tarfile
from pathlib import Path
from types import TracebackType

from eyebright.console import shown
from eyebright.data.streams import BLOCK
from eyebright.errors import StorageError
from eyebright.files import beside, sync_folder

END = bytes(2 * BLOCK)


class TarWriter:
    """A tar file that is being written, beside its place; `finish` puts it there.

    Args:
        path: of the file.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """

    def __init__(self, path: Path):
        self.path, self.size, self._digest = path, 0, hashlib.sha256()
        self._temporary = beside(path)
        self._file: int | None = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
            self._file = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            raise StorageError(f"{shown(path)}: {error.strerror or error}") from None

    def add(self, name: str, content: bytes) -> int:
        """Add a member, of which nothing is said but its name and length.

        Returns:
            Where its content begins.
        """
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        padding = bytes(-len(content) % BLOCK)
        start = self.size + BLOCK
        self._write(header.tobuf(tarfile.USTAR_FORMAT) + content + padding)
        return start

    def finish(self) -> str:
        """Put the file in its place.

        Returns:
            Its SHA-256.

        Raises:
            StorageError: the disk refuses; the message names the path.
        """
        self._write(END)
        assert self._file is not None, "open until now"
        try:
            os.fsync(self._file)
            self._close()
            self._temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(f"{shown(self.path)}: {error.strerror or error}") from None
        return self._digest.hexdigest()

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:  # not finished: nothing of it stays
            self._close()
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    def _write(self, content: bytes) -> None:
        assert self._file is not None, "not finished yet"
        self._digest.update(content)
        self.size += len(content)
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise StorageError(f"{shown(self.path)}: {error.strerror or error}") from None

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
