"""What saving costs: seconds of a training that go into it, and how much work is between two.

Checkpoints and the best model so far are counted, collecting what goes into them included.

    python -m bench.saving fast cifar10
    python -m bench.saving finetune ants-bees --set epochs=3

A row goes into ``results/saving.csv``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import eyebright
from bench.rows import append_row, settings_of
from eyebright import drive
from eyebright.keeper import Keeper
from eyebright.resume import Checkpoint
from eyebright.saver import Saver, list_checkpoints


class WatchedSaver(Saver):
    """Remembers when it saved, and how long that took."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.spent, self.moments = list[float](), [time.perf_counter()]
        savers.append(self)

    def save(self, collect: Callable[[], Checkpoint]) -> None:
        """As `Saver.save`."""
        super().save(collect)
        self.spent.append(self.cost)
        self.moments.append(time.perf_counter())


savers: list[WatchedSaver] = []


def measure(recipe: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One training, and what it spent on saving."""
    beside = 0.0

    def timed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal beside
            begun = time.perf_counter()
            found = real(*arguments, **options)
            beside += time.perf_counter() - begun
            return found

        return call

    with (
        patch.object(drive, "Saver", WatchedSaver),
        patch.object(Keeper, "_save", timed(Keeper._save)),
        tempfile.TemporaryDirectory() as place,
    ):
        begun = time.perf_counter()
        run = eyebright.train(data, recipe=recipe, runs=place, quiet=True, **settings)
        total = time.perf_counter() - begun
        [saver], [(_, newest), *_] = savers, list_checkpoints(run.path)
        size, model = newest.stat().st_size, run.config.model
    gaps = [b - a for a, b in zip(saver.moments, saver.moments[1:], strict=False)]
    cost = sum(saver.spent) + beside
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("data")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    arguments = parser.parse_args()
    settings = settings_of(arguments.set)
    append_row("saving", measure(arguments.recipe, arguments.data, settings))


if __name__ == "__main__":
    main()
