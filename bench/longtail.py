"""Unbalanced classes: every value of ``--balance`` on the long-tailed CIFAR-10, three seeds each.

    python -m bench.longtail $EYEBRIGHT_DATA/cifar10-folder/cifar10-longtail.csv
    python -m bench.longtail ... --model wide32 --balance none logit-adjust

The table names 12,406 pictures, 5,000 of the first class down to 50 of the last. A tenth of them is
held out, the rest trained on; the test is CIFAR-10's own, with 1,000 pictures of each class. A row
for each run goes into ``results/longtail.csv``.
"""

import argparse
import tempfile
from pathlib import Path
from typing import get_args, get_type_hints

import eyebright
from bench.rows import append_row
from eyebright.config import TrainConfig
from eyebright.data import load
from eyebright.run import Run


def options() -> list[str]:
    """Every value of ``--balance`` but auto, which is one of the others."""
    names = get_args(get_type_hints(TrainConfig)["balance"])
    return [name for name in names if name != "auto"]


def row_of(run: Run, test_set: eyebright.Dataset) -> dict[str, object]:
    """Test a run; gives its row."""
    evaluation = run.test(test_set)
    recalls = [figures["recall"].value or 0.0 for figures in evaluation.per_class().values()]
    figures = evaluation.figures
    return {
        "model": run.config.model,
        "balance": run.config.balance,
        "seed": run.config.seed,
        "epochs": run.config.epochs,
        "training_seconds": round(float(run.log()[-1]["seconds"]), 1),
        "balanced_accuracy": round(figures["balanced accuracy"].value or 0.0, 4),
        "worst_recall": round(min(recalls), 4),
        "log_loss": round(figures["log loss"].value or 0.0, 4),
    }


def main() -> None:
    """Train, test, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="lies where its paths begin: beside train")
    parser.add_argument("--model", default="white16", help="fast's own is wide32")
    parser.add_argument("--balance", nargs="+", default=options())
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data, test_set = load(arguments.table), load("cifar10", split="test")
    with tempfile.TemporaryDirectory() as runs:
        for seed in range(arguments.seeds):
            for balance in arguments.balance:
                run = eyebright.train(
                    data,
                    model=arguments.model,
                    balance=balance,
                    seed=seed,
                    runs=runs,
                    quiet=True,
                )
                append_row("longtail", row_of(run, test_set))


if __name__ == "__main__":
    main()
