"""What the shell offers after a tab: run folders, recipes, settings.

Each function takes the beginning of a word and gives the words it may become. Where none fits, the
shell offers files. A tab should be answered in a third of a second, so nothing heavy is imported.
"""

from collections.abc import Callable
from pathlib import Path

from eyebright.nearby import RUNS, holds_run


def run_folders(begun: str) -> list[str]:
    """Run folders, in runs/ or in the folder that is being typed."""
    places = {RUNS, Path(f"{begun}*").parent}
    try:
        inside = [path for place in places if place.is_dir() for path in place.iterdir()]
        runs = [str(path) for path in inside if holds_run(path)]
    except OSError:
        return []  # a tab is no place to complain
    return sorted(run for run in runs if run.startswith(begun))


def run_names(begun: str) -> list[str]:
    """Names of the run folders in runs/."""
    return [Path(run).name for run in run_folders(f"runs/{begun}")]


def recipes(begun: str) -> list[str]:
    """Names of recipes."""
    from eyebright.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(begun)]


def one_of(*choices: str) -> Callable[[str], list[str]]:
    """One of a few words."""

    def words(begun: str) -> list[str]:
        return [word for word in choices if word.startswith(begun)]

    return words


def setting(name: str) -> Callable[[str], list[str]]:
    """The values that a setting of `TrainConfig` can have."""

    def values(begun: str) -> list[str]:
        from typing import get_args, get_type_hints

        from eyebright.config import TrainConfig

        return one_of(*get_args(get_type_hints(TrainConfig)[name]))(begun)

    return values
