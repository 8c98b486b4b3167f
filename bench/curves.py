"""How accurate each net becomes with training: the curves behind ``--time`` and ``--target``.

    python -m bench.curves          # trains each net for several lengths: a row each
    python -m bench.curves --fit    # fits ``CURVES`` of eyebright/plan.py to the rows

Every point is a run of its own whose learning rate goes down to zero, because a run that is cut
short is worse than a short run.
"""

import argparse
import json
import re
import subprocess
import sys

import numpy as np

from bench.rows import append_row, read

BATCH, PICTURES = 500, 50_000
RACED = re.compile(r"recipe \w+: (\w+), (\d+) epochs, batch (?:500|1000)")
LENGTHS = {  # net -> steps of 500 pictures
    "patch48": (40, 400),
    "white16": (50, 200, 600),
    "wide32": (100, 300),
    "wide64": (100,),
}


def train(net: str, steps: int) -> dict[str, object]:
    """One run; gives its row."""
    command = [sys.executable, "-m", "bench.peers.ours", "--model", net, "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        "model": net,
        "steps": steps,
        "epochs": steps * BATCH / PICTURES,
        "training_seconds": round(result["training_seconds"], 2),
        "test_accuracy": round(result["test_accuracy"], 4),
    }


def fit(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(floor, slope, power) of error = floor + slope * epochs ** -power, by least squares.

    Args:
        points: (epochs, test error).
    """
    epochs, errors = np.array(points).T
    best = (np.inf, 0.0, 0.0, 0.0)
    # Three lengths tell a power, two do not: then a usual one.
    powers = np.arange(0.5, 0.91, 0.05) if len(set(epochs)) > 2 else [0.55]
    for power in powers:
        basis = np.stack([np.ones_like(epochs), epochs**-power], 1)
        (floor, slope), *_ = np.linalg.lstsq(basis, errors, rcond=None)
        if floor < 0.03:  # the copy's own mistakes and blocks of JPEG stay
            floor = 0.03
            slope = float(((errors - floor) * basis[:, 1]).sum() / (basis[:, 1] ** 2).sum())
        rest = float(((floor + slope * basis[:, 1] - errors) ** 2).sum())
        best = min(best, (rest, float(floor), float(slope), float(power)))
    return best[1:]


def main() -> None:
    """Train, or fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true")
    if not parser.parse_args().fit:
        for net, lengths in LENGTHS.items():
            for steps in lengths:
                append_row("curves", train(net, steps))
        return
    points: dict[str, list[tuple[float, float]]] = {}
    for row in read("curves"):
        point = float(row["epochs"]), 1 - float(row["test_accuracy"])
        points.setdefault(row["model"], []).append(point)
    for row in read("race"):  # the recipes' own runs
        if found := RACED.match(row["settings"]):
            net, epochs = found.groups()
            points[net].append((float(epochs), 1 - float(row["test_accuracy"])))
    for net, of_net in points.items():
        floor, slope, power = fit(of_net)
        print(f'    "{net}": ({floor:.3f}, {slope:.3f}, {power:.2f}),')


if __name__ == "__main__":
    main()
