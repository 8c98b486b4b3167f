"""One process at a time writes into a run folder."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from eyebright.console import shown
from eyebright.errors import BusyError, StorageError

FILE = ".lock"


def is_locked(folder: Path) -> bool:
    """Whether a process has it just now; nothing is written."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        with (folder / FILE).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
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
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / FILE
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(file, 200).decode("utf-8", "replace").strip() or "another process"
            raise BusyError(
                f"{shown(folder)}: {shown(who)} is training into it; wait for its end, or stop it"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        # It stays where it is: whoever waits for a file that is removed would lock nothing.
        os.close(file)
