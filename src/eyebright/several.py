"""`train_several`: a run for each seed or fold, and what all folds say together."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from eyebright.console import say
from eyebright.data import Dataset
from eyebright.evaluation import Evaluation
from eyebright.holdout import hold_out
from eyebright.launch import claim_folder, default_name, train
from eyebright.prepare import read_data
from eyebright.records import read_evaluation
from eyebright.run import Run


def train_several(
    data: Dataset | str | os.PathLike[str],
    seeds: int = 1,
    *,
    recipe: str | None = None,
    name: str | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    track: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> list[Run]:
    """Train a run for each of several seeds, or for each fold where ``folds`` is among settings.

    Args:
        data: as in `train`.
        seeds: how many, counted from ``seed``; each net is made anew, so it takes a net's name.
        recipe: as in `train`.
        name: of the folders, to which seed or fold is added.
        skip_bad: as in `train`.
        workers: as in `train`.
        track: as in `train`.
        labels: as in `train`.
        root: as in `train`.
        quiet: print nothing.
        **settings: as in `train`.

    Returns:
        The runs. They are validated on the same pictures, but for folds.
    """
    own = {key: value for key, value in settings.items() if key != "runs"}
    data, config = read_data(data, recipe, own, skip_bad, workers, labels, root)
    base = name or default_name(data, config.recipe)
    if config.folds:
        varied = [(f"fold{k}", {"fold": k}) for k in range(1, config.folds + 1)]
    else:
        varied = [(f"seed{s}", {"seed": s}) for s in range(config.seed, config.seed + seeds)]
    for _, change in varied:
        hold_out(data, config.replace(**change))  # better known now than after hours of training
    trained = []
    for suffix, change in varied:
        if not quiet:
            say(f"== {suffix}")
        given: dict[str, Any] = settings | change
        given |= {"recipe": recipe, "skip_bad": skip_bad, "track": track, "quiet": quiet}
        trained.append(train(data, name=f"{base}-{suffix}", **given))
    return trained


def join_folds(runs: list[Run]) -> tuple[Evaluation, Path]:
    """Out-of-fold predictions: what the runs of all folds said of the pictures they never saw.

    Returns:
        Their evaluation, and the new folder beside the runs that it was written to.
    """
    parts = [read_evaluation(run.path, "val") for run in runs]
    leaks = [part.leaks for part in parts]
    joined = Evaluation(
        split="val",
        classes=parts[0].classes,
        ids=[name for part in parts for name in part.ids],
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        fingerprint=str(runs[0].data_record["fingerprint"]),
        data=parts[0].data,
        tta=parts[0].tta,
        leaks=None if None in leaks else sum(leaks),  # type: ignore[arg-type]
        temperature=1.0,  # each fold's own is in its probabilities
    )
    first = runs[0].path
    folder = claim_folder(first.parent, re.sub(r"-fold1(-\d+)?$", "-folds", first.name))
    joined.write(folder)
    return joined, folder
