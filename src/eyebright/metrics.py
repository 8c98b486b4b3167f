"""Figures from counts and probabilities, with their intervals. No state, no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
RESAMPLES = 2000
LEAST_PICTURES, LEAST_MISTAKES = 100, 10  # for a bootstrap of a mean to cover
BINS = 15  # of a calibration error

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure with what it rests on."""

    value: float | None
    """None where it is undefined: nothing to count."""
    n: int
    """What it was counted over."""
    low: float | None
    """Lower end of the 95 % interval; None where none is known that covers."""
    high: float | None

    def percent(self, to: str = " to ") -> str:
        """Such as ``61.0 % (60.0 to 62.0)``; the word between its ends may be another."""
        if self.value is None:
            return "–"
        text = f"{100 * self.value:.1f} %"
        if self.low is None or self.high is None:
            return text
        return f"{text} ({100 * self.low:.1f}{to}{100 * self.high:.1f})"

    def decimal(self, to: str = " to ") -> str:
        """Such as ``0.612 (0.590 to 0.634)``; the word between its ends may be another."""
        if self.value is None:
            return "–"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}{to}{self.high:.3f})"


def wilson(successes: float, n: float) -> tuple[float, float]:
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


def clopper_pearson(successes: float, n: float) -> tuple[float, float]:
    """95 % "exact" interval of a proportion (Clopper & Pearson 1934): covers at least 95 %.

    Args:
        successes: from 0 to n.
        n: trials, at least 1.
    """
    from scipy.special import betaincinv

    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, 0.025))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 0.975))
    return low, high


# name -> (successes, n) -> 95 % interval of a proportion
INTERVALS: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "wilson": wilson,
    "exact": clopper_pearson,
}


def proportion(successes: int, n: int, interval: str = "wilson") -> Figure:
    """Successes out of n with an interval of `INTERVALS`; undefined for n = 0."""
    successes, n = int(successes), int(n)
    if n == 0:
        return Figure(None, 0, None, None)
    return Figure(successes / n, n, *INTERVALS[interval](successes, n))


def f1_score(
    true_positives: int, false_positives: int, false_negatives: int, interval: str = "wilson"
) -> Figure:
    """F1 = 2J / (1 + J), with J = TP / (TP + FP + FN) a plain proportion.

    F1 rises with J, so the ends of J's interval give the ends of F1's.
    """
    n = true_positives + false_positives + false_negatives
    jaccard = proportion(true_positives, n, interval)
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


def shares_differ(first: Counts, second: Counts) -> bool:
    """Whether the shares of classes surely differ between two sets of pictures, and by far.

    Surely: by a chi-squared test at one in a thousand. By far: a tenth of the pictures, or more,
    would have to change their class.

    Args:
        first: pictures of each class (classes,).
        second: the same of the other set.
    """
    table = np.stack([first, second])
    table = table[:, table.any(0)]
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    if table.shape[1] < 2 or not table.any(1).all() or np.abs(np.diff(shares, axis=0)).sum() < 0.2:
        return False
    from scipy.stats import chi2_contingency  # a second, which most data do not need

    return float(chi2_contingency(table).pvalue) < 1e-3


def accuracy(confusion: Counts, interval: str = "wilson") -> Figure:
    """Share of all pictures that are predicted right."""
    return proportion(int(np.trace(confusion)), int(confusion.sum()), interval)


def balanced_accuracy(confusion: Counts) -> float:
    """Mean recall of the classes that have pictures."""
    present = confusion.sum(1) > 0
    return float((np.diag(confusion)[present] / confusion.sum(1)[present]).mean())


def balanced_accuracy_figure(confusion: Counts, interval: str = "wilson") -> Figure:
    """Balanced accuracy with a 95 % interval that comes from those of the classes' recalls.

    The distances of the recalls from the ends of their intervals are added as deviations are
    (Zou & Donner 2008, "Construction of confidence intervals about effect measures"). A bootstrap
    would hold a class without mistakes to be perfect, and cover far too seldom. It is never
    narrower than that of a single proportion whose variance is as large at equal recalls.
    """
    present = np.flatnonzero(confusion.sum(1)).tolist()
    recalls = [recall(confusion, label, interval) for label in present]
    if not recalls:
        return Figure(None, 0, None, None)
    value, total = balanced_accuracy(confusion), int(confusion.sum())
    ends = np.array([(r.value, r.low, r.high) for r in recalls], np.float64)
    below, above = np.sqrt(((ends[:, 1:] - ends[:, :1]) ** 2).sum(0)) / len(recalls)
    # Many classes almost without mistakes: never narrower than one proportion of as many pictures.
    alike = len(recalls) ** 2 / sum(1 / r.n for r in recalls)
    low, high = INTERVALS[interval](value * alike, alike)
    low, high = min(low, value - float(below)), max(high, value + float(above))
    return Figure(value, total, max(0.0, low), min(1.0, high))


def recall(confusion: Counts, label: int, interval: str = "wilson") -> Figure:
    """Share of a class's pictures that are predicted as it."""
    return proportion(int(confusion[label, label]), int(confusion[label].sum()), interval)


def precision(confusion: Counts, label: int, interval: str = "wilson") -> Figure:
    """Share of right ones among the pictures that are predicted as a class."""
    return proportion(int(confusion[label, label]), int(confusion[:, label].sum()), interval)


def f1(confusion: Counts, label: int, interval: str = "wilson") -> Figure:
    """The harmonic mean of a class's precision and recall."""
    right = int(confusion[label, label])
    wrong = int(confusion[:, label].sum()) - right
    return f1_score(right, wrong, int(confusion[label].sum()) - right, interval)


def top_k(probabilities: Floats, labels: NDArray[Any], k: int, interval: str = "wilson") -> Figure:
    """Share of pictures whose true class is among the k likeliest.

    Args:
        probabilities: (n, classes).
        labels: integers (n,).
        k: at most as many as there are classes.
        interval: a key of `INTERVALS`.
    """
    likeliest = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    return proportion(int((likeliest == labels[:, None]).sum()), len(labels), interval)


def log_losses(probabilities: Floats, labels: NDArray[Any]) -> Floats:
    """Negative log-likelihood of each picture's true class, in nats, of shape (n,)."""
    likelihood = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: Floats = -np.log(np.maximum(likelihood, np.finfo(np.float32).tiny))
    return losses


def brier_scores(probabilities: Floats, labels: NDArray[Any]) -> Floats:
    """Squared distance of each picture's probabilities from the truth (Brier 1950), from 0 to 2."""
    truth = np.eye(probabilities.shape[1])[labels]
    scores: Floats = ((probabilities - truth) ** 2).sum(1)
    return scores


def mean_figure(values: Floats, mistakes: int | None = None) -> Figure:
    """The mean of one value a picture, with a bias-corrected, accelerated bootstrap interval.

    ``RESAMPLES`` resamples, always the same ones; the acceleration of a mean is a sixth of its
    skewness (Efron 1987, "Better bootstrap confidence intervals"). There is no interval where it
    would not cover: below `LEAST_PICTURES`, or where a few mistakes make up the mean.

    Args:
        values: (n,).
        mistakes: for losses, how many pictures are predicted wrong.
    """
    n, mean = len(values), float(values.mean())
    rare = mistakes is not None and mistakes < LEAST_MISTAKES
    if n < LEAST_PICTURES or rare or not (offset := values - mean).any():
        return Figure(mean, n, None, None)
    generator = np.random.default_rng(0)
    resampled = np.array(
        [values[generator.integers(0, n, n)].mean() for _ in range(RESAMPLES)], np.float64
    )
    acceleration = float((offset**3).sum() / (6 * (offset**2).sum() ** 1.5))
    return Figure(mean, n, *bias_corrected(mean, resampled, acceleration))


def bias_corrected(
    estimate: float, resampled: Floats, acceleration: float = 0.0
) -> tuple[float, float]:
    """95 % interval from a bootstrap, corrected for bias and acceleration (Efron 1987).

    Args:
        estimate: of the data themselves.
        resampled: the same of each resample.
        acceleration: how the spread changes with the figure.
    """
    normal, most = NormalDist(), len(resampled)
    below = (resampled < estimate).sum() + 0.5 * (resampled == estimate).sum()
    bias = normal.inv_cdf(min(max(below / most, 0.5 / most), 1 - 0.5 / most))
    ends = []
    for quantile in (-Z95, Z95):
        z = bias + quantile
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(resampled, ends)
    return float(low), float(high)


@dataclass(frozen=True)
class Bin:
    """Pictures of like confidence."""

    confidence: float
    """Mean probability of the class that was named."""
    accuracy: Figure
    """Share that was right."""


def reliability(confidences: Floats, right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """What a reliability diagram shows: about equally many pictures in each bin, by confidence.

    Pictures of the very same confidence are in the same bin.

    Args:
        confidences: probability of the class that was named, (n,).
        right: whether it was the true one, (n,).
        bins: at most so many; there are at least two pictures in each.
    """
    order = np.argsort(confidences, kind="stable")
    ranked, count = confidences[order], max(1, min(bins, len(order) // 2))
    ends = np.cumsum([len(part) for part in np.array_split(order, count)])
    ends = np.unique(np.searchsorted(ranked, ranked[ends - 1], side="right"))
    parts = np.split(order, ends[:-1])
    return [
        Bin(float(confidences[part].mean()), proportion(int(right[part].sum()), len(part)))
        for part in parts
        if len(part)
    ]


def calibration_error(confidences: Floats, right: NDArray[np.bool_]) -> Figure:
    """Root mean square distance of confidence from accuracy, over `BINS` bins, debiased.

    What chance alone adds to the squares is taken off (Kumar, Liang & Ma 2019, "Verified
    uncertainty calibration"). There is no interval: the bootstrap of it does not cover.

    Args:
        confidences: probability of the class that was named, (n,).
        right: whether it was the true one, (n,).
    """
    n, total = len(confidences), 0.0
    for part in reliability(confidences, right):
        accuracy, count = part.accuracy.value or 0.0, part.accuracy.n
        by_chance = accuracy * (1 - accuracy) / (count - 1) if count > 1 else 0.0
        total += count / n * ((accuracy - part.confidence) ** 2 - by_chance)
    return Figure(math.sqrt(max(0.0, total)), n, None, None)
