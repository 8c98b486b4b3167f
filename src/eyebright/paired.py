"""Statistics of classifiers that were evaluated on the very same pictures."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eyebright import metrics
from eyebright.metrics import Z95, Figure


def mcnemar(only_first: int, only_second: int) -> tuple[float, float]:
    """McNemar's test that two classifiers err equally often: exact p and mid-p, two-sided.

    The exact test never passes its level; mid-p counts half of what was seen and comes nearer to it
    (Fagerland, Lydersen & Laake 2013).

    Args:
        only_first: pictures that the first alone gets right.
        only_second: pictures that the second alone gets right.
    """
    from scipy.stats import binom

    n, fewer = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0, 1.0
    exact = min(1.0, 2 * float(binom.cdf(fewer, n, 0.5)))
    if only_first == only_second:
        return 1.0, 1.0 - 0.5 * float(binom.pmf(fewer, n, 0.5))
    return exact, exact - float(binom.pmf(fewer, n, 0.5))


def paired_difference(only_first: int, only_second: int, n: int) -> Figure:
    """Difference of two accuracies on the same n pictures, with a 95 % interval.

    Wald's interval after half a picture is added to each of the four cells of the table, which
    covers well from small n on (Agresti & Min 2005, "Simple improved confidence intervals for
    comparing matched proportions").

    Args:
        only_first: pictures that the first alone gets right.
        only_second: pictures that the second alone gets right.
        n: all pictures.
    """
    first, second, count = only_first + 0.5, only_second + 0.5, n + 2
    centre = (first - second) / count
    spread = Z95 * math.sqrt(first + second - (first - second) ** 2 / count) / count
    low, high = max(-1.0, centre - spread), min(1.0, centre + spread)
    return Figure((only_first - only_second) / n, n, low, high)


def mean_accuracy(right: NDArray[np.bool_]) -> Figure:
    """Mean accuracy of several seeds, with an interval that counts both seeds and pictures.

    Seeds and pictures are crossed random effects: their variances come from the mean squares of
    the two-way table, and Student's quantile from Satterthwaite's degrees of freedom (Searle,
    Casella & McCulloch 1992, "Variance components"). It is never narrower than that of a single
    run of the same accuracy, so that few mistakes are not taken for none. With two seeds it covers
    about 87 %, with three or more 90 to 95 %.

    Args:
        right: bool (seeds, pictures), two seeds or more.
    """
    table = right.astype(np.float64)
    seeds, pictures = table.shape
    mean, cells = float(table.mean()), table.size
    by_seed, by_picture = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    of_seeds = pictures * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    of_pictures = seeds * float(((by_picture - mean) ** 2).sum()) / max(1, pictures - 1)
    rest = float(((table - by_seed - by_picture + mean) ** 2).sum())
    freedom_of_rest = (seeds - 1) * max(1, pictures - 1)
    rest /= freedom_of_rest
    # Never less than what either effect has alone: the difference can come out negative by chance.
    variance = max(of_seeds + of_pictures - rest, of_seeds, of_pictures) / cells
    parts = [(of_seeds, seeds - 1), (of_pictures, max(1, pictures - 1)), (rest, freedom_of_rest)]
    freedom = _freedom(variance, [(mean_square / cells, f) for mean_square, f in parts])
    found = _figure(mean, variance, freedom, pictures)
    low, high = metrics.wilson(round(mean * pictures), pictures)
    return replace(
        found, low=max(0.0, min(low, found.low or 0.0)), high=min(1.0, max(high, found.high or 0.0))
    )


def mean_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Figure:
    """Difference of the mean accuracies of two groups of seeds on the same pictures.

    The pictures' share of the variance is that of their mean differences, to which half a picture
    is added in either direction as in `paired_difference`; the seeds' share is that of each group's
    accuracies. A single run's seed is taken to vary as the other group's do. Chance within a cell
    counts in both, so the interval is rather too wide than too narrow; with two seeds against one
    it covers about 87 %.

    Args:
        first: bool (seeds, pictures).
        second: bool (seeds, pictures), the same pictures; one of the two has two seeds or more.
    """
    difference = first.mean(0) - second.mean(0)
    count = len(difference) + 2
    spread = (float((difference**2).sum()) + 1) / count - (float(difference.sum()) / count) ** 2
    parts = [(spread / count, max(1, len(difference) - 1))]
    several = [group for group in (first, second) if len(group) > 1]
    variances = [(float(group.mean(1).var(ddof=1)), len(group) - 1) for group in several]
    if len(several) == 2:
        parts += [(v / (f + 1), f) for v, f in variances]
    else:
        [(v, f)] = variances
        parts.append((v * (1 / (f + 1) + 1), f))
    variance = sum(v for v, _ in parts)
    found = _figure(float(difference.mean()), variance, _freedom(variance, parts), len(difference))
    return replace(found, low=max(-1.0, found.low or 0.0), high=min(1.0, found.high or 0.0))


def _freedom(variance: float, parts: list[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a variance that is made of (variance, freedom)."""
    below = sum(v**2 / f for v, f in parts)
    return variance**2 / below if below else math.inf


def _figure(value: float, variance: float, freedom: float, n: int) -> Figure:
    from scipy.stats import t

    spread = float(t.ppf(0.975, max(1.0, freedom))) * math.sqrt(variance) if variance else 0.0
    return Figure(value, n, value - spread, value + spread)
