"""Whether what is promised of answers and sets holds, over 100 splits of a run's test set.

    python -m bench.promises RUN

Half of the test pictures, drawn by chance, stand for those held out and give the promise; the other
half shows whether it was kept. A row for each promise goes into ``results/promises.csv``.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.rows import append_row
from eyebright.errors import UsageError
from eyebright.evaluation import Evaluation
from eyebright.records import read_evaluation

SPLITS = 100
RISKS, COVERAGES = (0.01, 0.05, 0.1), (0.8, 0.9, 0.95)


def part(evaluation: Evaluation, which: NDArray[np.int64]) -> Evaluation:
    """The same evaluation on some of its pictures."""
    return replace(
        evaluation,
        ids=[evaluation.ids[i] for i in which],
        labels=evaluation.labels[which],
        probabilities=evaluation.probabilities[which],
    )


def splits(evaluation: Evaluation) -> list[tuple[Evaluation, Evaluation]]:
    """Halves of the pictures: what gives the promise, and what it is checked on."""
    n, generator = len(evaluation.labels), np.random.default_rng(0)
    orders = [generator.permutation(n) for _ in range(SPLITS)]
    return [(part(evaluation, o[: n // 2]), part(evaluation, o[n // 2 :])) for o in orders]


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run whose test set has been opened")
    arguments = parser.parse_args()
    evaluation = read_evaluation(arguments.run, "test")
    halves = splits(evaluation)
    common = {"run": arguments.run.name, "n": len(evaluation.labels) // 2, "splits": SPLITS}
    for coverage in COVERAGES:
        held = [
            replace(new, promises=given.promise(coverage=coverage)).set_figures()[0].value or 0.0
            for given, new in halves
        ]
        means = {"mean_share": round(float(np.mean(held)), 4), "answered": "", "broken": ""}
        append_row("promises", {"promise": f"coverage {coverage:g}"} | common | means)
    for risk in RISKS:
        right, answered = [], []
        for given, new in halves:
            try:
                found = replace(new, promises=given.promise(risk)).answered()
            except UsageError:  # too few pictures for so much: nothing is promised
                continue
            answered.append(found[0].value or 0.0)
            right.append(found[1].value or 0.0)
        row = {"promise": f"risk {risk:g}"} | common | {"splits": len(right)}
        means = {"mean_share": "", "answered": "", "broken": ""}
        if right:
            means = {
                "mean_share": round(float(np.mean(right)), 4),
                "answered": round(float(np.mean(answered)), 4),
                "broken": sum(1 - share > risk for share in right),
            }
        append_row("promises", row | means)


if __name__ == "__main__":
    main()
