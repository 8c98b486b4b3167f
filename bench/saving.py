"""What checkpoints cost: seconds of a training that go into them, and how much work is between two.

    python -m bench.saving fast cifar10
    python -m bench.saving finetune ants-bees --set epochs=3

A row goes into ``results/saving.csv``.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import eyebright
from bench.rows import append_row
from eyebright import launch
from eyebright.keeper import Keeper
from eyebright.resume import Checkpoint, Saver, list_checkpoints


class WatchedSaver(Saver):
    """Remembers when it saved, and how long that took."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.spent, self.moments = list[float](), [time.perf_counter()]
        savers.append(self)

    def save(self, checkpoint: Checkpoint) -> None:
        """As `Saver.save`."""
        super().save(checkpoint)
        self.spent.append(self.cost)
        self.moments.append(time.perf_counter())


savers: list[WatchedSaver] = []


def measure(recipe: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One training; what it spent on checkpoints, collecting what goes into them included."""
    collecting = 0.0

    def collected(*arguments: Any, **options: Any) -> Checkpoint:
        nonlocal collecting
        begun = time.perf_counter()
        found = real(*arguments, **options)
        collecting += time.perf_counter() - begun
        return found

    real = Keeper.checkpoint
    with (
        patch.object(launch, "Saver", WatchedSaver),
        patch.object(Keeper, "checkpoint", collected),
        tempfile.TemporaryDirectory() as place,
    ):
        begun = time.perf_counter()
        run = eyebright.train(data, recipe=recipe, runs=place, quiet=True, **settings)
        total = time.perf_counter() - begun
        [saver], [(_, newest), *_] = savers, list_checkpoints(run.path)
        size, model = newest.stat().st_size, run.config.model
    gaps = [b - a for a, b in zip(saver.moments, saver.moments[1:], strict=False)]
    cost = sum(saver.spent) + collecting
    return {
        "recipe": recipe,
        "data": Path(data).name,
        "settings": " ".join(f"{k}={v}" for k, v in settings.items()),
        "model": model,
        "seconds": round(total, 1),
        "checkpoints": len(saver.spent),
        "saving_s": round(cost, 3),
        "share": round(cost / total, 5),
        "longest_gap_s": round(max(gaps), 1),
        "megabytes": round(size / 1e6, 1),
    }


def main() -> None:
    """Measure one recipe, and write the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("data")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {}
    for one in arguments.set:
        key, value = one.split("=")
        settings[key] = int(value) if value.isdigit() else float(value) if "." in value else value
    append_row("saving", measure(arguments.recipe, arguments.data, settings))


if __name__ == "__main__":
    main()
