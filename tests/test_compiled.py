"""Compiling and keeping the C of this package, and doing without."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from bf16_kernels import needs_kernels
from eyebright import compiled


@pytest.mark.parametrize(
    "system", [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")]
)
def test_other_systems_do_without(system: tuple[str, str]) -> None:
    with patch("platform.system", lambda: system[0]), patch("platform.machine", lambda: system[1]):
        assert compiled.library.__wrapped__() is None


TRAIN = """
import torch
from eyebright import compiled
from eyebright.layers import NormGelu
x = torch.randn(2, 8, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last)
assert NormGelu(8)(x).shape == x.shape
print("kernels" if compiled.library() else "without")
"""


def run_script(cache: Path, path: str = os.environ["PATH"]) -> str:
    """What the script says where there are such a cache folder and such programs."""
    env = {"XDG_CACHE_HOME": str(cache), "PATH": path, "HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], env=env, capture_output=True, text=True, check=True
    )
    assert ("no compiled kernels" in done.stderr) == (done.stdout.strip() == "without")
    return done.stdout.strip()


def test_without_a_compiler_torch_does_the_work(tmp_path: Path) -> None:
    assert run_script(tmp_path, str(tmp_path)) == "without"
    assert not list(tmp_path.rglob("*.so"))


def test_with_a_broken_compiler_torch_does_the_work(tmp_path: Path) -> None:
    gcc = tmp_path / "gcc"
    gcc.write_text("#!/bin/sh\nexit 1\n")
    gcc.chmod(0o755)
    assert run_script(tmp_path, f"{tmp_path}:{os.environ['PATH']}") == "without"
    assert not list(tmp_path.rglob("*.so"))


@needs_kernels
def test_they_are_compiled_once_and_kept(tmp_path: Path) -> None:
    assert run_script(tmp_path) == "kernels"
    [kept] = tmp_path.rglob("*.so")
    before = kept.stat().st_mtime_ns
    # No compiler is needed any more.
    assert run_script(tmp_path, str(tmp_path)) == "kernels"
    assert kept.stat().st_mtime_ns == before


@needs_kernels
def test_a_damaged_library_is_compiled_again(tmp_path: Path) -> None:
    assert run_script(tmp_path) == "kernels"
    [kept] = tmp_path.rglob("*.so")
    kept.write_bytes(b"damaged")
    assert run_script(tmp_path) == "kernels"
    assert kept.stat().st_size > 1000


@needs_kernels
def test_nobody_elses_library_is_loaded(tmp_path: Path) -> None:
    assert run_script(tmp_path) == "kernels"
    with patch.dict(os.environ, XDG_CACHE_HOME=str(tmp_path)):
        with patch("ctypes.CDLL") as load:
            compiled._load()
        assert load.call_args.args[0].startswith(str(tmp_path))
        with patch("ctypes.CDLL") as load, patch("os.getuid", lambda: os.geteuid() + 1):
            compiled._load()
        assert not load.call_args.args[0].startswith(str(tmp_path))


@needs_kernels
def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "eyebright").write_text("a file in the folder's place")
    assert run_script(tmp_path) == "kernels"
