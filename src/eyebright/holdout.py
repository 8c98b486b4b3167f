"""Which pictures are held out of training: the data's own part, a share, a fold, whole groups."""

import numpy as np
from numpy.typing import NDArray

from eyebright.config import TrainConfig
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.data.splits import group_folds, stratified_folds, stratified_split
from eyebright.errors import DataError, UsageError

MOST_PARTS = 20  # from which whole groups are held out
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
    check_group(data, config.group)
    if data.val is not None and not config.folds:
        if config.group and (shared := set(data.columns[config.group]) & val_groups(data, config)):
            raise DataError(
                f"{shown(data.name)}: '{shown(min(shared))}' of {shown(config.group)} is in the "
                "training part and in the validation part; put it into one of them"
            )
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


def check_group(data: Dataset, group: str | None) -> None:
    """See that the data have such a column.

    Raises:
        UsageError: they have not.
    """
    if group is not None and group not in data.columns:
        known = f"it has {', '.join(map(shown, data.columns))}" if data.columns else "it has none"
        raise UsageError(
            f"--group: {shown(data.name)} has no further column '{shown(group)}'; {known}"
        )


def val_groups(data: Dataset, config: TrainConfig) -> set[str]:
    """The groups in the data's own validation part.

    Raises:
        UsageError: it has no such column.
    """
    assert data.val is not None, "asked for"
    assert config.group is not None, "asked for"
    check_group(data.val, config.group)
    return set(data.val.columns[config.group])


def choose_held_out(data: Dataset, config: TrainConfig) -> NDArray[np.bool_]:
    """Which pictures to hold out, bool (n,): the same ones whatever the seed of the training.

    Whole groups are cut from as many parts as there are, twenty at most, so that about the share
    asked for is held out.

    Raises:
        UsageError: no such fold or column.
        DataError: too few groups.
    """
    check_group(data, config.group)
    if config.folds == 1 or config.fold > max(1, config.folds):
        raise UsageError(f"there is no fold {config.fold} of {config.folds}")
    groups = data.columns[config.group] if config.group else None
    if config.folds:
        fold_of = (
            group_folds(data.labels, groups, config.folds, SPLIT_SEED)
            if groups
            else stratified_folds(data.labels, config.folds, SPLIT_SEED)
        )
        chosen: NDArray[np.bool_] = fold_of == config.fold - 1
        return chosen
    if groups and config.val:
        parts = max(2, min(MOST_PARTS, len(set(groups))))
        part_of = group_folds(data.labels, groups, parts, SPLIT_SEED)
        shares = np.bincount(part_of, minlength=parts).cumsum()[:-1] / len(data)
        last = int(np.abs(shares - config.val).argmin())
        return np.asarray(part_of <= last)
    held_out = np.zeros(len(data), bool)
    held_out[stratified_split(data.labels, config.val, SPLIT_SEED)[1]] = True
    return held_out
