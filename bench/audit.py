"""What an audit finds and how long it takes, and what it is worth to clean labels by it.

    python -m bench.audit cifar10
    python -m bench.audit cifar10-folder/cifar10-noisy.csv --clean 3

A row for each audit, a command of its own, goes into ``results/audit.csv``. Where a table's paths
tell the true classes (``train/cat/29.jpg``), which the audit itself never looks at, the suspects
are judged by them. With ``--clean``, so many seeds of a net are trained on the table as it is and
as cleaned, without the surest suspects (``--drop``); they are tested on CIFAR-10's test set, and
have a row each in ``results/cleaned.csv``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rows import append_row
from eyebright import train

FIRST = (1000, 3000, 5000)  # suspects that are judged
SUREST = 0.9  # score from which a suspect is dropped
NET: dict[str, Any] = {"model": "wide32", "epochs": 6, "val": 0.0}


def audit(source: str, table: Path) -> tuple[dict[str, Any], float]:
    """Audit in a process of its own; what it prints as JSON, and seconds of the process.

    Args:
        source: of the data.
        table: gets the decisions to drop the surest suspects.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "eyebright", "audit", source, "--json", "-o", folder]
        command += ["--drop", str(SUREST), "--labels", str(table)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout), time.perf_counter() - start


def share_of_wrong(source: str, suspects: list[dict[str, Any]], first: int) -> float | str:
    """Of a table's first suspects, the share whose path tells another class than the one given."""
    few = suspects[:first]
    if len(few) < first or not source.endswith(".csv"):
        return ""
    wrong: int = sum(Path(str(one["id"])).parent.name != one["given"] for one in few)
    return round(wrong / first, 4)


def clean(source: str, table: Path, seeds: int) -> None:
    """Train on the data as they are and as cleaned, and write a row for each net."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for labels in (None, table):
                run = train(
                    source, recipe="fast", seed=seed, labels=labels, runs=folder, quiet=True, **NET
                )
                accuracy = run.test("cifar10").accuracy.value or 0.0
                row = {
                    "data": Path(source).stem,
                    "labels": f"without suspects from {SUREST}" if labels else "as given",
                    **NET,
                    "seed": seed,
                }
                append_row("cleaned", row | {"accuracy": round(accuracy, 4)})


def report(source: str, record: dict[str, Any], seconds: float) -> None:
    """Write the row of an audit, which took so many seconds."""
    suspects = record["labels"]["suspects"]
    found = {
        "data": record["data"],
        "pictures": sum(record["pictures"].values()),
        "seconds": round(seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "across_splits": len(record["duplicates"]["across_splits"]),
        "suspects": len(suspects),
    }
    append_row(
        "audit",
        found | {f"wrong_of_{n}": share_of_wrong(source, suspects, n) for n in FIRST},
    )


def main() -> None:
    """Audit, judge what was found, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="cifar10, a folder or a table")
    parser.add_argument("--clean", type=int, default=0, metavar="SEEDS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "labels.csv"
        report(arguments.source, *audit(arguments.source, table))
        if arguments.clean:
            clean(arguments.source, table, arguments.clean)


if __name__ == "__main__":
    main()
