"""The folder of data sets, and how one is downloaded into it: whole or not at all."""

import contextlib
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from eyebright.console import Bar, notices, progress_bar, shown
from eyebright.errors import StorageError

PATIENCE = 15.0  # seconds without a single byte until a download gives up


def data_home() -> Path:
    """The folder of data sets: ``$EYEBRIGHT_DATA``, or ``eyebright`` in the user's cache folder."""
    if chosen := os.environ.get("EYEBRIGHT_DATA"):
        with contextlib.suppress(RuntimeError):  # no such user: it is a folder of that name
            return Path(chosen).expanduser()
        return Path(chosen)
    import pooch

    return Path(pooch.os_cache("eyebright"))


def fill_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """A folder in `data_home` that is filled whole or not at all.

    Everything happens in a temporary folder beside the destination, which a single rename then
    fills: what is in the cache is always whole.

    Args:
        target: the folder.
        fill: makes a folder of the same name in the temporary folder that it is given.

    Returns:
        The folder.

    Raises:
        StorageError: no room, or no permission.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
            fill(Path(temporary))
            try:
                if not target.exists():
                    (Path(temporary) / target.name).rename(target)
            except OSError:
                if not target.is_dir():  # another process may have been faster
                    raise
    except OSError as error:
        raise StorageError(
            f"{shown(data_home())}: {error.strerror or error}; set EYEBRIGHT_DATA to a folder with "
            "room"
        ) from None
    return target


def download_archive(urls: list[str], md5: str, folder: str) -> Path:
    """Download a tar archive and unpack one folder of it into `data_home`.

    Args:
        urls: addresses to try in turn.
        md5: of the archive; an archive with another one is thrown away.
        folder: the archive's top folder, which is what stays in the cache.

    Returns:
        The unpacked folder.

    Raises:
        StorageError: no address gave the archive, or there is no room for it.
    """

    def fill(temporary: Path) -> None:
        archive = _fetch_any(urls, md5, temporary, folder)
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")

    return fill_folder(data_home() / folder, fill)


def download_files(addresses: list[str], files: dict[str, str], folder: str) -> Path:
    """Download files into a folder of `data_home`.

    Args:
        addresses: of folders that have them all, to try in turn for each file.
        files: md5 of each, by name.
        folder: what to call it.

    Returns:
        The folder.

    Raises:
        StorageError: as in `download_archive`.
    """

    def fill(temporary: Path) -> None:
        (temporary / folder).mkdir()
        for name, md5 in files.items():
            urls = [address + name for address in addresses]
            fetched = _fetch_any(urls, md5, temporary, folder)
            fetched.rename(temporary / folder / name)

    return fill_folder(data_home() / folder, fill)


def _fetch_any(urls: list[str], md5: str, temporary: Path, what: str) -> Path:
    """The file that one of these addresses gives.

    Raises:
        StorageError: none of them gives it.
    """
    deadline = Deadline()
    for url in urls:
        try:
            return _fetch(url, md5, temporary, deadline)
        except _DownloadError as error:
            notices.warning("download failed: %s", f"{url}: {error}")
    raise StorageError(
        f"{what} could not be downloaded; connect to the network and try again, or put the "
        f"folder or its archive into {shown(data_home())} (EYEBRIGHT_DATA names another place)"
    )


class _DownloadError(Exception):
    """One address did not give the file that was expected."""


class Deadline:
    """Moves ahead with every byte that comes; `PATIENCE` seconds without one, and it has passed."""

    def __init__(self) -> None:
        self.touch()

    def touch(self) -> None:
        """Something came."""
        self.moment = time.monotonic() + PATIENCE

    def remaining(self) -> float:
        """Seconds left."""
        return max(0.0, self.moment - time.monotonic())


class _Report:
    """What pooch wants of a progress bar; tells the deadline of every piece that comes."""

    def __init__(self, bar: Bar, deadline: Deadline):
        self.bar, self.deadline = bar, deadline
        self.total, self.done = 0, 0

    def update(self, size: int) -> None:
        self.deadline.touch()
        self.done += size
        megabytes = f"{self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        self.bar.update(self.done, megabytes, total=self.total)

    def reset(self) -> None:
        self.done = 0  # pooch says the whole size once more at the end

    def close(self) -> None:
        """Called at the end."""


def _fetch(url: str, md5: str, folder: Path, deadline: Deadline) -> Path:
    """Download one address, verified.

    It runs in a thread of its own, because looking a name up and connecting can each hang for
    minutes, whatever time-outs one sets.

    Raises:
        _DownloadError: no answer, a refusal, or another file than the one expected.
    """
    import pooch
    import requests

    outcome: list[Path | BaseException] = []

    def work(report: _Report) -> None:
        downloader = pooch.HTTPDownloader(
            progressbar=report, timeout=PATIENCE / 2, chunk_size=1 << 16
        )
        try:
            name = pooch.retrieve(
                url, known_hash=f"md5:{md5}", fname="archive", path=folder, downloader=downloader
            )
            outcome.append(Path(name))
        except BaseException as error:
            outcome.append(error)

    pooch.get_logger().setLevel("ERROR")
    with progress_bar(f"downloading {url.split('/')[2]}", None) as bar:
        thread = threading.Thread(target=work, args=(_Report(bar, deadline),), daemon=True)
        thread.start()
        while thread.is_alive() and deadline.remaining() > 0:
            thread.join(0.1)
    if not outcome:
        raise _DownloadError(f"nothing came for {PATIENCE:.0f} seconds")
    result = outcome[0]
    if isinstance(result, Path):
        return result
    if isinstance(result, OSError) and not isinstance(result, requests.RequestException):
        raise result  # the disk, not the network
    if isinstance(result, ValueError) and "hash" in str(result):
        raise _DownloadError("what came has another checksum than the published archive")
    raise _DownloadError(type(result).__name__)
