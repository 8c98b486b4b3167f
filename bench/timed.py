"""Whether `--time` keeps its word: seconds of the whole command beside those asked for.

    python -m bench.timed --data cifar10 --times 30s 90s 3m

Each is a fresh process, timed from the shell to its end; a row each in ``results/timed.csv``.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.rows import append_row
from bench.start import seconds_of
from eyebright.config import parse_time
from eyebright.plan import Plan
from eyebright.run import Run


def measured(data: str, asked: str, folder: Path) -> dict[str, object]:
    """Train in a given time; gives the row.

    Args:
        data: what ``eyebright train`` takes.
        asked: as ``--time`` takes it.
        folder: for the run.
    """
    words = ["train", data, "--time", asked, "--runs", str(folder), "--name", "timed"]
    taken, wanted = seconds_of([sys.executable, "-m", "eyebright", *words]), parse_time(asked)
    plan, log = Plan.read(folder / "timed"), Run(folder / "timed").log()
    return {
        "data": Path(data).name,
        "asked_seconds": wanted,
        "taken_seconds": round(taken, 1),
        "share": round(taken / wanted, 3),
        "model": plan.chosen.model,
        "epochs": log[-1]["epoch"],
        "changes": len(plan.changes),
        "expected_accuracy": round(plan.chosen.expected_accuracy or 0, 3),
        "val_accuracy": round(max(float(row["val_accuracy"]) for row in log), 4),
    }


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--times", nargs="+", default=["30s", "90s", "3m"])
    arguments = parser.parse_args()
    for asked in arguments.times:
        with tempfile.TemporaryDirectory() as folder:
            append_row("timed", measured(arguments.data, asked, Path(folder)))


if __name__ == "__main__":
    main()
