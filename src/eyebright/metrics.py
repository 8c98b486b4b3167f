"""Figures from counts, with their intervals. No state, no torch."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Figure:
    """A figure with what it rests on."""

    value: float | None
    """None where it is undefined: nothing to count."""
    n: int
    """What it was counted over."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None

    def percent(self) -> str:
        """Such as ``61.0 % (60.0 to 62.0)``."""
        if self.value is None or self.low is None or self.high is None:
            return "–"
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927).

    Args:
        successes: from 0 to n.
        n: trials, at least 1.
    """
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + spread) / scale)
    return low, high


def proportion(successes: int, n: int) -> Figure:
    """Successes out of n with Wilson's interval; undefined for n = 0."""
    successes, n = int(successes), int(n)
    if n == 0:
        return Figure(None, 0, None, None)
    return Figure(successes / n, n, *wilson(successes, n))


def f1_score(true_positives: int, false_positives: int, false_negatives: int) -> Figure:
    """F1 = 2J / (1 + J), with J = TP / (TP + FP + FN) a plain proportion.

    F1 rises with J, so the ends of J's Wilson interval give the ends of F1's.
    """
    n = true_positives + false_positives + false_negatives
    jaccard = proportion(true_positives, n)
    if jaccard.value is None:
        return jaccard
    value, low, high = (
        2 * j / (1 + j) for j in (jaccard.value, jaccard.low or 0.0, jaccard.high or 0.0)
    )
    return Figure(value, jaccard.n, low, high)


def confusion_matrix(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> Counts:
    """Counts (classes, classes): rows are the true classes, columns the predicted ones."""
    flat = labels.astype(np.int64) * classes + predictions
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Counts) -> Figure:
    """Share of all pictures that are predicted right."""
    return proportion(int(np.trace(confusion)), int(confusion.sum()))


def balanced_accuracy(confusion: Counts) -> float:
    """Mean recall of the classes that have pictures."""
    present = confusion.sum(1) > 0
    return float((np.diag(confusion)[present] / confusion.sum(1)[present]).mean())


def recall(confusion: Counts, label: int) -> Figure:
    """Share of a class's pictures that are predicted as it."""
    return proportion(int(confusion[label, label]), int(confusion[label].sum()))


def precision(confusion: Counts, label: int) -> Figure:
    """Share of right ones among the pictures that are predicted as a class."""
    return proportion(int(confusion[label, label]), int(confusion[:, label].sum()))


def f1(confusion: Counts, label: int) -> Figure:
    """The harmonic mean of a class's precision and recall."""
    right = int(confusion[label, label])
    return f1_score(
        right, int(confusion[:, label].sum()) - right, int(confusion[label].sum()) - right
    )


def log_loss(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean negative log-likelihood of the true classes, in nats.

    Args:
        probabilities: (n, classes).
        labels: integers (n,).
    """
    likelihood = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
