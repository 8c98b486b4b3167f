"""Logistic regression on features: fits, parts left out of them, and the penalty they choose."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from eyebright.console import progress_bar
from eyebright.data.splits import group_folds, stratified_folds
from eyebright.features import Features
from eyebright.metrics import Floats

PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(5, -4.5, -0.5))
"""Tried for the weights, each as a share of the loss summed over the pictures; heavy ones, which
are quick to fit, first."""
PATIENCE = 2  # lighter penalties that are tried in vain before the rest is not
FOLDS = 5
MOST_COMPARED = 4000  # pictures by which penalties are compared: of more, so many by chance

Numbers = NDArray[np.float32] | NDArray[np.float64]
Positions = NDArray[np.int64]


def standardize(features: Features, with_bias: bool = True) -> tuple[Floats, Features, Features]:
    """Features (n, width) at a deviation of 1, and the centre and scale that were taken off."""
    centre, scale = features.mean(0) * with_bias, features.std(0)
    scale = np.where(scale > 0, scale, 1)  # a feature that is always the same says nothing
    return ((features - centre) / scale).astype(np.float64), centre, scale


def regression(
    x: Numbers,
    labels: NDArray[np.int64],
    with_bias: bool,
    weighing: str | None,
    which: Positions,
    penalty: float,
) -> tuple[Floats, Floats]:
    """Weights (classes, width) and biases (classes,) of a regression on some rows of x."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / penalty, class_weight=weighing, fit_intercept=with_bias, max_iter=1000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that stopped before its last digits
        model.fit(x[which], labels[which])
    weights, bias = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_))
    if len(weights) == 1:  # two classes: one row that tells the second from the first
        return np.concatenate((-weights, weights)) / 2, np.concatenate((-bias, bias)) / 2
    return weights, bias


def logits_left_out(
    x: Numbers,
    kept: Positions,
    out: Positions,
    penalty: float,
    regress: Callable[[Positions, float], tuple[Floats, Floats]],
) -> Floats:
    """Logits of the rows of x that are left out, by a fit to those kept with this penalty."""
    # Of fewer pictures, the loss is a smaller sum: so is the penalty beside it.
    weights, bias = regress(kept, penalty * len(kept) / len(x))
    logits: Floats = x[out] @ weights.T + bias
    return logits


def leave_out(
    labels: NDArray[np.int64], seed: int, groups: list[str] | None, most: int | None = None
) -> list[tuple[Positions, Positions]]:
    """Positions to fit to and positions left out, for each of `FOLDS` parts.

    Args:
        labels: (n,).
        seed: of the parts, and of the choice where there are more than ``most`` pictures.
        groups: pictures of one are left out together.
        most: so many pictures are used; None: `MOST_COMPARED`.

    Returns:
        Nothing where a class has only one picture, or is all of one group.
    """
    few = np.arange(len(labels))
    most = MOST_COMPARED if most is None else most
    if len(few) > most:
        few = np.sort(np.random.default_rng(seed).permutation(few)[:most])
    folds = min(FOLDS, int(np.bincount(labels).min()))
    if folds < 2 or (groups and len({groups[i] for i in few}) < folds):
        return []
    fold_of = (
        group_folds(labels[few], [groups[i] for i in few], folds, seed)
        if groups
        else stratified_folds(labels[few], folds, seed)
    )
    parts = [(few[fold_of != k], few[fold_of == k]) for k in range(folds)]
    classes = len(np.unique(labels))
    return parts if all(len(np.unique(labels[kept])) == classes for kept, _ in parts) else []


def find_penalty(
    x: Numbers,
    labels: NDArray[np.int64],
    parts: list[tuple[Positions, Positions]],
    regress: Callable[[Positions, float], tuple[Floats, Floats]],
) -> tuple[float, dict[float, float]]:
    """The best penalty, and the mean log loss of each on parts left out of its fit in turn.

    Args:
        x: scaled features (n, width).
        labels: (n,).
        parts: positions to fit to and positions left out; none: nothing can be compared.
        regress: fits to the pictures at these positions with a penalty.
    """
    losses: dict[float, float] = {}
    best, compared = 1.0, sum(len(out) for _, out in parts)
    with progress_bar("comparing penalties", len(PENALTIES) * len(parts)) as bar:
        for i, penalty in enumerate(PENALTIES if parts else ()):
            losses[penalty] = 0.0
            for kept, out in parts:
                logits = logits_left_out(x, kept, out, penalty, regress)
                loss = mean_log_loss(logits, labels[out])
                losses[penalty] += loss * len(out) / compared
                bar.advance()
            best = min(losses, key=lambda p: losses[p])
            if i - PENALTIES.index(best) >= PATIENCE:
                break
    return best, losses


def mean_log_loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy of logits (n, classes), in nats."""
    return float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)))
