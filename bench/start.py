"""Seconds from the shell to the first optimizer step, and to the end of ``--help``.

    python -m bench.start

Each is a fresh process with a warm page cache, five times; the medians make a row of
``results/start.csv``.
"""

import statistics
import subprocess
import sys
import tempfile
import time

from bench.rows import append_row

FIRST_STEP = """
import os, sys, time
from eyebright.optim import Muon
step = Muon.step
def first_step(self):
    step(self)
    os._exit(0)
Muon.step = first_step
from eyebright.__main__ import main
sys.argv = ["eyebright", "train", "cifar10", "--runs", sys.argv[1]]
main()
"""


def seconds_of(command: list[str]) -> float:
    """From the shell to the end of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and write the row."""
    help_seconds = [seconds_of([sys.executable, "-m", "eyebright", "--help"]) for _ in range(5)]
    with tempfile.TemporaryDirectory() as runs:
        step_seconds = [seconds_of([sys.executable, "-c", FIRST_STEP, runs]) for _ in range(5)]
    append_row(
        "start",
        {
            "help_seconds": round(statistics.median(help_seconds), 2),
            "first_step_seconds": round(statistics.median(step_seconds), 2),
        },
    )


if __name__ == "__main__":
    main()
