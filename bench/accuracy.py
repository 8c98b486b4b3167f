"""Accuracy of a recipe on CIFAR-10's test set, with the seconds of the whole command.

    python -m bench.accuracy --recipe fast --seeds 5

Each seed is a fresh process: `eyebright train cifar10 --recipe ...`, then `eyebright test`. Seconds
are those of the training command from the shell to its end. ``--set rest_lr=0.01`` tries a setting
that the command line does not have.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import append_row, settings_of
from eyebright import Run
from eyebright.machine import available_cores

WITH_SETTINGS = "import sys, ast, eyebright; eyebright.train(**ast.literal_eval(sys.argv[1]))"


def one_run(recipe: str, seed: int, settings: dict[str, object]) -> dict[str, object]:
    """Train and test once; gives the row of results."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        if settings:
            arguments = {"recipe": recipe, "seed": seed, "runs": str(runs), **settings}
            command = [sys.executable, "-c", WITH_SETTINGS, repr(arguments)]
        else:
            command = [sys.executable, "-m", "eyebright", "train", "cifar10"]
            command += ["--recipe", recipe, "--seed", str(seed), "--runs", str(runs)]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        [path] = runs.iterdir()
        test = [sys.executable, "-m", "eyebright", "test", str(path)]
        subprocess.run(test, check=True, stdout=subprocess.DEVNULL)
        run = Run(path)
        figures = json.loads((path / "test.json").read_text())["figures"]
        record = json.loads((path / "data.json").read_text())
        return {
            "data": f"CIFAR-10 {record['fingerprint'][:12]}",
            "recipe": recipe,
            "settings": json.dumps(settings) if settings else "",
            "seed": seed,
            "model": run.config.model,
            "epochs": run.config.epochs,
            "train_pictures": len(record["splits"]["train"]),
            "threads": run.config.threads or available_cores(),
            "precision": run.config.precision,
            "training_seconds": round(float(run.log()[-1]["seconds"]), 1),
            "command_seconds": round(seconds, 1),
            "val_accuracy": run.log()[-1]["val_accuracy"],
            "test_accuracy": figures["accuracy"]["value"],
        }


def main() -> None:
    """Run all seeds, a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--table", default="accuracy")
    arguments = parser.parse_args()
    settings = settings_of(arguments.set)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        append_row(arguments.table, one_run(arguments.recipe, seed, settings))


if __name__ == "__main__":
    main()
