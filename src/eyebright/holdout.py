"""Which pictures are held out of training: the data's own part, a share, a fold, whole groups."""

import numpy as np
from numpy.typing import NDArray

from eyebright.config import TrainConfig
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.data.splits import group_folds, stratified_folds, stratified_split
from eyebright.errors import DataError, UsageError

SPLIT_SEED = 0  # of what is held out: runs that differ in their seed are compared on the same


def hold_out(data: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on and those to validate on: the data's own part, or one cut out.

    Raises:
        DataError: fewer than two classes, or a class without pictures.
    """
    counts = data.counts()
    if len(data.classes) < 2:
        raise DataError(f"{shown(data.name)}: two classes are the least there is to tell apart")
    if not counts.all():
        empty = data.classes[int(np.argmin(counts))]
        raise DataError(f"{shown(data.name)}: the class '{shown(empty)}' has no pictures")
    if data.val is not None and not config.folds:
        return data, data.val
    held_out = choose_held_out(data, config)
    if not held_out.any():
        return data, None
    kept, val_set = data.subset(np.flatnonzero(~held_out)), data.subset(np.flatnonzero(held_out))
    if not kept.counts().all():
        empty = data.classes[int(np.argmin(kept.counts()))]
        raise DataError(
            f"{shown(data.name)}: nothing of the class '{shown(empty)}' is left to train on, all "
            "of its pictures are held out; choose other parts"
        )
    return kept, val_set


def choose_held_out(data: Dataset, config: TrainConfig) -> NDArray[np.bool_]:
    """Which pictures to hold out, bool (n,): the same ones whatever the seed of the training.

    Raises:
        UsageError: no such fold or column.
        DataError: too few groups.
    """
    if config.group is not None and config.group not in data.columns:
        known = f"it has {', '.join(map(shown, data.columns))}" if data.columns else "it has none"
        raise UsageError(
            f"--group: {shown(data.name)} has no further column '{shown(config.group)}'; {known}"
        )
    if config.folds == 1 or config.fold > max(1, config.folds):
        raise UsageError(f"there is no fold {config.fold} of {config.folds}")
    groups = data.columns[config.group] if config.group else None
    if config.folds or (groups and config.val):
        folds = config.folds or max(2, round(1 / config.val))
        fold_of = (
            group_folds(data.labels, groups, folds, SPLIT_SEED)
            if groups
            else stratified_folds(data.labels, folds, SPLIT_SEED)
        )
        chosen: NDArray[np.bool_] = fold_of == config.fold - 1
        return chosen
    held_out = np.zeros(len(data), bool)
    held_out[stratified_split(data.labels, config.val, SPLIT_SEED)[1]] = True
    return held_out
