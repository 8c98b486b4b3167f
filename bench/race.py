"""The race: other programs and ours, one after the other, trained on the same pictures.

    python -m bench.race --programs lesson fastai timm airbench fast best quick --seeds 1
    python -m bench.race --plot

Each program is a process of its own (`bench.peers`) that trains on all 50,000 pictures of CIFAR-10
and looks at the 10,000 test pictures after each epoch; its row goes into ``results/race.csv``.
``--peers-python`` runs fastai and timm where these are installed elsewhere.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.lesson import plain_script
from bench.race_plot import plot
from bench.rows import append_row

UNIT_STEPS = 2000
LESSON_STEPS = 62_500  # five epochs of batches of four
RECIPES = ("fast", "best", "quick")
PEERS = {"fastai": "fastai_loop", "timm": "timm_loop"}
PROGRAMS = ("lesson", *PEERS, "airbench", *RECIPES)
GLANCE, SAMPLE = 0.02, 2.0  # seconds between looks at whether it is over, and at its memory


def command_of(program: str, seed: int, peers_python: str) -> list[str]:
    """What to type for a program."""
    python = peers_python if program in PEERS else sys.executable
    if program in RECIPES:
        words = ["bench.peers.ours", "--recipe", program]
    else:
        words = [f"bench.peers.{PEERS.get(program, program)}"]
    return [python, "-m", *words, "--seed", str(seed)]


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and that these started; none outside Linux."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def memory_of(pids: list[int]) -> float:
    """Megabytes that processes hold together; pages that they share count once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def watch(command: list[str]) -> tuple[str, float, float]:
    """Run a program to its end.

    Args:
        command: what to run; its errors go to ours.

    Returns:
        What it printed, its seconds from the shell, and its peak of memory in megabytes, with its
        loaders' processes.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        start = looked = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed)
        peak = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            now = time.perf_counter()
            if pid:
                break
            # A look at the memory stops the process for some milliseconds: only where there are
            # several, since of a single one the kernel keeps the peak by itself.
            if now - looked > SAMPLE:
                looked = now
                try:
                    if children := descendants(process.pid):
                        peak = max(peak, memory_of([process.pid, *children]))
                except OSError:  # one of them ended while we looked
                    pass
            time.sleep(GLANCE)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        printed.seek(0)
        return printed.read(), now - start, max(peak, usage.ru_maxrss / 1024)


def run_program(program: str, seed: int, command: list[str], unit: float) -> dict[str, Any]:
    """Run a program once; gives the row of results.

    Args:
        program: its name in the table.
        seed: which the command holds already.
        command: what to run.
        unit: seconds that the lesson's script takes for 2,000 mini-batches.
    """
    printed, seconds, peak = watch(command)
    result = json.loads(printed.splitlines()[-1])
    averaged = result["test_accuracy_averaged"]
    lesson = LESSON_STEPS / UNIT_STEPS * unit
    return {
        "program": program,
        "versions": result["versions"],
        "settings": result["settings"],
        "seed": seed,
        "training_seconds": round(result["training_seconds"], 2),
        "process_seconds": round(seconds, 1),
        "peak_memory_mb": round(peak),
        "private_memory_mb": round(result["private_memory_mb"]),
        "test_accuracy": round(result["test_accuracy"], 4),
        "test_accuracy_averaged": "" if averaged is None else round(averaged, 4),
        "lesson_unit": round(unit, 3),
        "times_lesson": round(lesson / result["training_seconds"], 2),
        "curve": ";".join(f"{at:.2f}:{accuracy:.4f}" for at, accuracy in result["curve"]),
    }


def main() -> None:
    """Run the race, a row for each program and seed, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--unit", type=float, help="seconds of the lesson's 2,000 mini-batches")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--plot", action="store_true", help="draw results/race.png, run nothing")
    parser.add_argument("--table", default="race")
    parser.add_argument("--few", nargs=2, metavar=("EPOCHS", "PICTURES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plot:
        plot(arguments.table)
        return
    unit = arguments.unit or statistics.median(plain_script(UNIT_STEPS) for _ in range(3))
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for program in arguments.programs:
            command = command_of(program, seed, arguments.peers_python)
            if arguments.few:
                command += ["--epochs", arguments.few[0], "--pictures", arguments.few[1]]
            append_row(arguments.table, run_program(program, seed, command, unit))


if __name__ == "__main__":
    main()
