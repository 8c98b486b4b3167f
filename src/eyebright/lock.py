"""One process at a time writes into a run folder."""

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from eyebright.console import shown
from eyebright.errors import BusyError, StorageError

FILE = ".lock"
PATIENCE = 0.3  # seconds; who only looks whether a folder is locked has it for a moment


def is_locked(folder: Path) -> bool:
    """Whether a process has it just now; nothing is written."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        file = _open(folder / FILE, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the block runs, no other process may write into this folder.

    The operating system lets go of the lock when a process ends, however it ends. Where the file
    system knows no locks, there is none.

    Raises:
        BusyError: another process has it; names it and its host.
        StorageError: the file cannot be written.
    """
    if os.name != "posix":
        yield
        return
    path = folder / FILE
    try:
        file = _open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None
    try:
        _take(file, folder)
        yield
    finally:
        # It stays where it is: whoever waits for a file that is removed would lock nothing.
        with contextlib.suppress(OSError):
            os.close(file)


def _open(path: Path, how: int) -> int:
    """A regular file, and no link to another one: reading a pipe would wait for ever."""
    file = os.open(path, how | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("no regular file")
    return file


def _take(file: int, folder: Path) -> None:
    import fcntl

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            who = os.read(file, 200).decode("utf-8", "replace").strip() or "another process"
            raise BusyError(
                f"{shown(folder)}: {shown(who)} is writing into it; wait for its end, or stop it"
            ) from None
        except OSError:  # a file system without locks
            return
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:
        raise StorageError(f"{shown(folder / FILE)}: {error.strerror or error}") from None
