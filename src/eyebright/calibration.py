"""Probabilities that mean something: temperature, "not sure", and sets that hold the true class.

All three are fitted on pictures held out of training, never on those they are measured with.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import as_share, counted
from eyebright.errors import UsageError
from eyebright.metrics import Floats

USUAL_RISK = 0.05  # share of wrong answers that "not sure" allows, where nobody says another
COLDEST, HOTTEST = 0.02, 50.0


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Probabilities (n, classes) of logits (n, classes), in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    probabilities: Floats = powers / powers.sum(1, keepdims=True)
    return probabilities


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any], even: bool = False) -> float:
    """The temperature that logits are best divided by (Guo et al. 2017).

    It minimises the log loss, which is convex in one over the temperature, so that bisection of its
    slope finds it. The true class counts (n + 1) / (n + 2), not 1 (Platt 1999): a few pictures that
    are all right are no proof that the net is never wrong.

    Args:
        logits: (n, classes) of pictures held out.
        labels: their classes, integers (n,).
        even: whether every class counts the same in all, however many of its pictures there are:
            for a net that answers as if classes were equally frequent.
    """
    logits = np.asarray(logits, np.float64)
    n, classes = logits.shape
    weights = 1 / np.bincount(labels)[labels] if even else np.ones(n)
    weights /= weights.sum()
    spread = 1 / (1 / (weights**2).sum() + 2)  # as many pictures as the weights are worth
    at_truth = logits[np.arange(n), labels]
    others = (logits.sum(1) - at_truth) / max(1, classes - 1)
    wanted = float(weights @ ((1 - spread) * at_truth + spread * others))
    cold, hot = COLDEST, HOTTEST
    for _ in range(50):
        middle = math.sqrt(cold * hot)
        expected = float(weights @ (softmax(logits, middle) * logits).sum(1))
        if expected > wanted:  # too sure
            cold = middle
        else:
            hot = middle
    return math.sqrt(cold * hot)


def upper_bound(errors: int, n: int, confidence: float) -> float:
    """The largest share of errors that so few of them leave likely (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv

    return 1.0 if errors >= n else float(betaincinv(errors + 1, n - errors, confidence))


@dataclass(frozen=True)
class Promise:
    """From which confidence on a model answers, so that its errors stay below a bound."""

    risk: float
    """Share of errors among the answers that is promised not to be passed, with 95 % confidence."""
    threshold: float
    """The least probability of the likeliest class that is an answer; below it: "not sure"."""
    answered: float
    """Share of the pictures held out that it answers."""
    n: int
    """Pictures held out that it rests on."""

    def is_sure(self, confidence: Any) -> Any:
        """Whether so sure a prediction is an answer: of a number or an array, by element."""
        return confidence >= self.threshold


@dataclass(frozen=True)
class SetRule:
    """Which classes belong into the set of a picture."""

    coverage: float
    """Share of pictures whose set is to hold the true class."""
    threshold: float
    """The least probability that puts a class into it."""

    def holds(self, probability: Any) -> Any:
        """Whether a class so likely is in: of a number or an array, by element.

        A set that holds no class reads "not sure".
        """
        return probability >= self.threshold


@dataclass(frozen=True)
class Promises:
    """What pictures held out promise of new ones; None: it was not asked for."""

    answers: Promise | None = None
    sets: SetRule | None = None


def least_pictures(risk: float, confidence: float = 0.95) -> int:
    """So many pictures held out are needed for a promise, if not one of them is mistaken."""
    n = 1
    while (needed := math.ceil(math.log((1 - confidence) / _looks(n)) / math.log1p(-risk))) > n:
        n = needed
    return n


def _looks(n: int) -> int:
    """Steps of a binary search over n thresholds: so often might chance be lucky."""
    return max(1, math.ceil(math.log2(n + 1)))


def promise(
    confidences: Floats, right: NDArray[np.bool_], risk: float, confidence: float = 0.95
) -> Promise | None:
    """The threshold that answers most and is still sure to err seldom enough.

    "Selection with guaranteed risk" (Geifman & El-Yaniv 2017): a binary search over thresholds,
    with an exact binomial bound at each, all of which hold together with the confidence asked for.

    Args:
        confidences: probability of the likeliest class, (n,), of pictures held out.
        right: whether it was the true one, (n,).
        risk: share of errors among the answers, from 0 to 1.
        confidence: of the promise.

    Returns:
        None where not even the surest pictures carry such a promise.
    """
    n = len(confidences)
    order = np.argsort(-confidences, kind="stable")
    ranked, errors = confidences[order], np.cumsum(~right[order])
    allowed = (1 - confidence) / _looks(n)
    few, many, best = 1, n, None
    while few <= many:
        middle = (few + many) // 2
        # All that are as sure as the last one are answered too.
        count = int(np.searchsorted(-ranked, -ranked[middle - 1], side="right"))
        if upper_bound(int(errors[count - 1]), count, 1 - allowed) <= risk:
            best = Promise(risk, float(ranked[count - 1]), count / n, n)
            few = count + 1
        else:
            many = middle - 1
    return best


def set_threshold(probabilities: Floats, labels: NDArray[Any], coverage: float) -> float:
    """The least probability that puts a class into a picture's set of classes.

    Split conformal prediction: sets hold the true class with the probability asked for, on average
    over pictures held out and new ones (Sadinle, Lei & Wasserman 2019, "Least ambiguous set-valued
    classifiers").

    Args:
        probabilities: (n, classes) of pictures held out.
        labels: their classes, integers (n,).
        coverage: from 0 to 1.

    Returns:
        0 where there are too few pictures to leave any class out.
    """
    n = len(labels)
    place = int(np.floor((n + 1) * (1 - coverage) + 1e-9))
    if place < 1:
        return 0.0
    return float(np.sort(probabilities[np.arange(n), labels])[place - 1])


def make_promises(
    probabilities: Floats, labels: NDArray[Any], risk: float | None, coverage: float | None
) -> Promises:
    """What pictures held out of training promise of new ones.

    Args:
        probabilities: (n, classes).
        labels: their classes, integers (n,).
        risk: as in `promise`; None: nothing is promised of answers.
        coverage: as in `set_threshold`; None: nothing is promised of sets.

    Raises:
        UsageError: no such share, or none that can be promised from these pictures.
    """
    answers, sets, n = None, None, len(labels)
    if risk is not None:
        if not 0 < risk < 1:
            raise UsageError(
                f"--risk must be a share between 0 and 1, not {risk:g}{as_share(risk)}"
            )
        answers = promise(probabilities.max(1), probabilities.argmax(1) == labels, risk)
        if answers is None:
            why = "too many of the surest answers are wrong"
            if n < (least := least_pictures(risk)):
                why = f"even if all were right, it would take {least:,}"
            raise UsageError(
                f"no errors of at most {100 * risk:g} % can be promised from "
                f"{counted(n, 'picture')} held out: {why}; allow more, or hold out more (--val)"
            )
    if coverage is not None:
        if not 0 < coverage < 1:
            raise UsageError(
                f"--coverage must be a share between 0 and 1, not {coverage:g}{as_share(coverage)}"
            )
        sets = SetRule(coverage, set_threshold(probabilities, labels, coverage))
    return Promises(answers, sets)
