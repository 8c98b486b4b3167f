"""Few photographs: a linear probe and fine-tuning on ants and bees, five seeds each.

    python -m bench.finetune ANTS_BEES

The folder is the unpacked ``ants-bees.tar``. Everything is chosen on what is held out of its
``train``; its ``val`` is the test set, opened once a run. Each run is a command of its own with an
empty folder of data sets, so that nothing is cached; its seconds are those of the whole process.
The difference is to the probe of the same seed, on the same pictures. A row for each run goes into
``results/finetune.csv``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import append_row
from eyebright.checkpoint import load_card
from eyebright.compare import compare
from eyebright.console import out
from eyebright.run import Run

WAYS = ("none", "last", "all")


def train(data: Path, tune: str, seed: int, runs: Path) -> tuple[Run, float]:
    """Train in a process of its own, with nothing cached; the run, and seconds of the process."""
    name = f"{tune}-{seed}"
    command = [sys.executable, "-m", "eyebright", "train", str(data), "--recipe", "finetune"]
    command += ["--tune", tune, "--seed", str(seed), "--runs", str(runs), "--name", name]
    with tempfile.TemporaryDirectory() as empty:
        start = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"EYEBRIGHT_DATA": empty},
        )
        return Run(runs / name), time.perf_counter() - start


def main() -> None:
    """Train, test, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds train and val")
    parser.add_argument("--tune", nargs="+", default=WAYS)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        for seed in range(arguments.seeds):
            for tune in arguments.tune:  # none first
                run, seconds = train(arguments.folder / "train", tune, seed, runs)
                evaluation = run.test(arguments.folder / "val")
                accuracy = evaluation.accuracy
                row = {
                    "model": run.config.model,
                    "tune": tune,
                    "seed": seed,
                    "shipped_epoch": load_card(run.path).epoch,
                    "process_seconds": round(seconds, 1),
                    "accuracy": round(accuracy.value or 0.0, 4),
                    "log_loss": round(evaluation.figures["log loss"].value or 0.0, 4),
                    "n": accuracy.n,
                    "difference_to_probe": 0.0,
                    "low": 0.0,
                    "high": 0.0,
                }
                if tune != "none":
                    both = compare([runs / f"none-{seed}", run.path], "test")
                    difference = both.difference(both.groups[1])
                    row["difference_to_probe"] = round(difference.value or 0.0, 4)
                    row["low"] = round(difference.low or 0.0, 4)
                    row["high"] = round(difference.high or 0.0, 4)
                append_row("finetune", row)
        if len(arguments.tune) > 1:
            out.print(compare(sorted(runs.iterdir()), "test").table())


if __name__ == "__main__":
    main()
