"""Parts of a set of pictures, the same ones for the same seed."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.errors import DataError

Indices = NDArray[np.int64]


def stratified_split(labels: NDArray[Any], share: float, seed: int) -> tuple[Indices, Indices]:
    """Positions of a larger and of a held-out part, with the same share of every class.

    A class of one picture stays whole in the larger part; of any other class at least one picture
    goes to each part.

    Args:
        labels: integers of shape (n,).
        share: of the held-out part, from 0 to below 1; 0 holds nothing out.
        seed: of the random choice.

    Returns:
        Sorted positions of the larger and of the held-out part.
    """
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels) if share else ():
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_folds(labels: NDArray[Any], folds: int, seed: int) -> Indices:
    """Which of so many folds each picture is in, with about the same share of every class.

    Args:
        labels: integers of shape (n,).
        folds: two or more.
        seed: of the random choice.

    Returns:
        Integers (n,) from 0 to folds - 1.
    """
    generator = np.random.default_rng(seed)
    fold_of = np.empty(len(labels), np.int64)
    dealt = 0  # goes on from class to class, so that the folds are equally large
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        fold_of[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return fold_of


def group_folds(labels: NDArray[Any], groups: list[str], folds: int, seed: int) -> Indices:
    """As `stratified_folds`, but pictures of a group are all in the same fold.

    Args:
        labels: integers of shape (n,).
        groups: n texts; equal ones are a group.
        folds: two or more.
        seed: of the random choice.

    Raises:
        DataError: fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if len(set(groups)) < folds:
        raise DataError(f"too few groups ({len(set(groups))}) to cut {folds} parts from")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer pictures than folds
        for fold, (_, members) in enumerate(splitter.split(labels, labels, groups)):
            fold_of[members] = fold
    return fold_of
