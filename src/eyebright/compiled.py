"""The C of this package: compiled by gcc when first needed, kept in the user's cache folder."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import stat
import subprocess
import tempfile
from pathlib import Path

from torch import Tensor

from eyebright.console import notices

SOURCES = [Path(__file__).with_name(name) for name in ("kernels.c", "winograd.c")]
# Not -ffast-math: linked into a library, it would change how all of the process rounds.
FLAGS = "-O3 -march=native -mprefer-vector-width=512 -ffp-contract=fast -fno-math-errno"
FLAGS += " -fno-trapping-math -fopenmp -shared -fPIC"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had, which is said once."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as error:
        notices.warning("no compiled kernels, so training is slower: %s", error)
        return None


def call(name: str, *arguments: Tensor | int | None) -> int:
    """Call a function; it trusts that shapes and types are right. None is a null pointer."""
    function = getattr(library(), name)
    function.restype = ctypes.c_long
    return int(
        function(
            *(
                ctypes.c_long(a)
                if isinstance(a, int)
                else ctypes.c_void_p(None if a is None else a.data_ptr())
                for a in arguments
            )
        )
    )


def _load() -> ctypes.CDLL:
    """The library, compiled for this very processor if the user's cache does not have it.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled.
    """
    processor = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "flags"))
    ][:2]
    code = [source.read_text() for source in SOURCES]
    key = hashlib.sha256("\n".join([*code, FLAGS, *processor]).encode()).hexdigest()
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eyebright"
    except RuntimeError:  # a user without a home
        cache = Path(os.devnull)
    kept = cache / f"kernels-{key[:16]}.so"
    if kept.is_file() and _is_ours_alone(kept) and _is_ours_alone(cache):
        with contextlib.suppress(OSError):  # damaged, or made beside another C library
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as private:
        made = Path(private) / "kernels.so"
        command = ["gcc", *FLAGS.split(), *map(str, SOURCES), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        _keep(made, kept)
        return ctypes.CDLL(str(made))


def _is_ours_alone(path: Path) -> bool:
    """Whether nobody else may write there."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _keep(made: Path, kept: Path) -> None:
    """Put the library into the cache, whole or not at all, whoever else does the same just now."""
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # without a cache, each process compiles for itself
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with temporary.open("wb") as file:
                file.write(made.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
