"""Rows of results: appended to a CSV with the machine, the versions and the command beside them."""

import ast
import contextlib
import csv
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from eyebright.machine import available_cores
from eyebright.runtime import describe

RESULTS = Path(__file__).parent / "results"
Rows = list[dict[str, str]]


def read(name: str) -> Rows:
    """The rows of ``bench/results/<name>.csv``."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def latest_settings(rows: Rows) -> dict[str, Rows]:
    """The rows of each program that have the settings of its latest one: never a mixture."""
    latest = {row["program"]: row["settings"] for row in rows}
    return {
        program: [r for r in rows if (r["program"], r["settings"]) == (program, settings)]
        for program, settings in latest.items()
    }


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """Settings of a run from words such as ``epochs=3`` and ``lr=0.1``."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        found[key] = value
        with contextlib.suppress(ValueError, SyntaxError):  # a word, not a number
            found[key] = ast.literal_eval(value)
    return found


def describe_here() -> dict[str, str]:
    """The day, the machine, the versions and the command."""
    has = torch.cpu.get_capabilities()
    best = "amx" if has.get("amx_bf16") else "avx512" if has.get("avx512_bf16") else "none"
    machine = f"{describe(torch.device('cpu'))['device_name']}, {available_cores()} cores"
    if torch.cuda.is_available():
        machine = f"{torch.cuda.get_device_name()}, {machine}"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "bf16": os.environ.get("ONEDNN_MAX_CPU_ISA") or best,
        "python": platform.python_version(),
        "torch": version("torch"),
        "eyebright": version("eyebright"),
        "command": " ".join(["python -m", f"bench.{Path(sys.argv[0]).stem}", *arguments()]),
    }


def append_row(name: str, row: dict[str, Any]) -> None:
    """Add a row to ``bench/results/<name>.csv`` and print it.

    Args:
        name: of the table; all its rows have the same columns.
        row: what was measured; where and with what is added.
    """
    where = describe_here()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*row, *where], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row | where)
    print({**row})


def arguments() -> list[str]:
    """What the program was called with, without the folders of this machine."""
    home = os.environ.get("EYEBRIGHT_DATA", "")
    said = [a.replace(home, "$EYEBRIGHT_DATA") if home else a for a in sys.argv[1:]]
    return [Path(a).name if Path(a).is_absolute() else a for a in said]
