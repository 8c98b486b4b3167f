"""Figures against published values, scikit-learn and exact enumeration."""

import io
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from scipy import optimize, stats

from eyebright.evaluation import Evaluation
from eyebright.metrics import (
    Z95,
    Figure,
    accuracy,
    balanced_accuracy,
    balanced_accuracy_figure,
    brier_scores,
    calibration_error,
    clopper_pearson,
    confusion_matrix,
    f1,
    f1_score,
    log_losses,
    mean_figure,
    precision,
    proportion,
    recall,
    reliability,
    top_k,
    wilson,
)
from eyebright.wording import class_table

CLASSES = 6


def predictions(n: int = 500, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels, unevenly many of each class, and predictions that are right half the time."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(CLASSES, n, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    guesses = generator.integers(0, CLASSES, n)
    return labels, np.where(generator.random(n) < 0.5, labels, guesses)


def test_the_quantile_is_the_normal_distributions() -> None:
    assert pytest.approx(stats.norm.ppf(0.975), rel=1e-15) == Z95


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 1000, 10_000])
def test_the_ends_are_the_roots_of_the_score_equation(n: int) -> None:
    def score(p: float, successes: int) -> float:
        return (successes / n - p) ** 2 - Z95**2 * p * (1 - p) / n

    for successes in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        share = successes / n
        low, high = wilson(successes, n)
        if successes:
            root = optimize.brentq(score, 1e-15, share - 1e-12, (successes,), xtol=1e-14)
            assert low == pytest.approx(root, abs=1e-10)
        if successes < n:
            root = optimize.brentq(score, share + 1e-12, 1 - 1e-15, (successes,), xtol=1e-14)
            assert high == pytest.approx(root, abs=1e-10)
        assert 0 <= low <= share <= high <= 1
    assert wilson(0, n)[0] == 0
    assert wilson(n, n)[1] == 1


@pytest.mark.parametrize("n", [20, 100, 10_000])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    lows, highs = np.array([wilson(k, n) for k in range(n + 1)]).T
    p = (np.arange(4000) + 0.5) / 4000
    # Both ends rise with k, so that the counts whose interval covers p lie in a row.
    first, last = np.searchsorted(highs, p, "left"), np.searchsorted(lows, p, "right") - 1
    coverage = stats.binom.cdf(last, n, p) - stats.binom.cdf(first - 1, n, p)
    assert 0.945 < coverage.mean() < 0.955
    middle = (p > 0.1) & (p < 0.9)
    assert coverage[middle].min() > 0.91


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_proportion_lies_in_its_interval(counts: tuple[int, int]) -> None:
    successes, n = counts
    figure = proportion(successes, n)
    assert figure.n == n
    assert figure.value == successes / n
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.low < figure.high
    # Counting failures instead of successes mirrors the interval.
    mirrored = proportion(n - successes, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((figure.low, figure.high))


@settings(deadline=None, max_examples=200, derandomize=True)
@given(*3 * [st.integers(0, 10_000)])
def test_f1_is_the_harmonic_mean_with_the_interval_of_jaccard(tp: int, fp: int, fn: int) -> None:
    figure = f1_score(tp, fp, fn)
    n = tp + fp + fn
    assert figure.n == n
    if not n:
        assert figure == Figure(None, 0, None, None)
        return
    assert figure.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    if tp:
        p, r = tp / (tp + fp), tp / (tp + fn)
        assert figure.value == pytest.approx(2 * p * r / (p + r))
    low, high = wilson(tp, n)
    assert (figure.low, figure.high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))
    assert 0 <= figure.low <= figure.value + 1e-15
    assert figure.value <= figure.high + 1e-15 <= 1 + 2e-15


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_those_of_scikit_learn(seed: int) -> None:
    labels, guesses = predictions(seed=seed)
    confusion = confusion_matrix(labels, guesses, CLASSES)
    every = range(CLASSES)
    assert confusion.dtype == np.int64
    assert np.array_equal(confusion, sklearn.metrics.confusion_matrix(labels, guesses))
    assert accuracy(confusion).value == sklearn.metrics.accuracy_score(labels, guesses)
    assert accuracy(confusion).n == len(labels)
    assert balanced_accuracy(confusion) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, guesses)
    )
    for ours, theirs in (
        (recall, sklearn.metrics.recall_score),
        (precision, sklearn.metrics.precision_score),
        (f1, sklearn.metrics.f1_score),
    ):
        wanted = theirs(labels, guesses, average=None)
        assert [ours(confusion, k).value for k in every] == pytest.approx(wanted)
    assert [recall(confusion, k).n for k in every] == np.bincount(labels).tolist()
    assert [precision(confusion, k).n for k in every] == np.bincount(guesses).tolist()


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    confusion = confusion_matrix(np.array([0, 0, 2]), np.array([1, 1, 0]), 3)
    assert confusion.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_small_integers_do_not_overflow() -> None:
    labels = np.array([250, 3], np.uint8)
    confusion = confusion_matrix(labels, labels, 251)
    assert confusion.sum() == 2
    assert confusion[250, 250] == confusion[3, 3] == 1


def test_what_cannot_be_counted_is_undefined() -> None:
    nothing = Figure(None, 0, None, None)
    assert proportion(0, 0) == nothing
    # Class 2 is never the truth, class 1 never predicted, class 3 neither.
    confusion = confusion_matrix(np.array([0, 1]), np.array([0, 2]), 4)
    assert recall(confusion, 2) == precision(confusion, 1) == nothing
    assert recall(confusion, 3) == precision(confusion, 3) == f1(confusion, 3) == nothing
    assert accuracy(np.zeros((3, 3), np.int64)) == nothing
    # Nothing right of something is nought, which is not the same.
    assert recall(confusion, 1).value == precision(confusion, 2).value == 0
    assert f1(confusion, 1).value == 0
    assert balanced_accuracy(confusion) == 0.5  # of the two classes that have pictures


def test_log_loss_equals_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 300)
    probabilities = generator.dirichlet(np.full(CLASSES, 0.5), 300)
    wanted = sklearn.metrics.log_loss(labels, probabilities, labels=range(CLASSES))
    assert log_losses(probabilities, labels).mean() == pytest.approx(wanted, rel=1e-12)
    short = probabilities.astype(np.float32)
    assert log_losses(short, labels).mean() == pytest.approx(wanted, rel=1e-6)


def test_log_loss_of_the_impossible_is_finite_and_large() -> None:
    loss = log_losses(np.array([[1.0, 0.0]]), np.array([1]))[0]
    assert math.isfinite(loss)
    assert loss > 80


@pytest.mark.parametrize(
    ("successes", "n", "text"),
    [
        (6100, 10_000, "61.0 % (60.0 to 62.0)"),
        (81, 263, "30.8 % (25.5 to 36.6)"),
        (0, 20, "0.0 % (0.0 to 16.1)"),
        (20, 20, "100.0 % (83.9 to 100.0)"),
        (0, 0, "–"),
    ],
)
def test_a_figure_says_its_interval(successes: int, n: int, text: str) -> None:
    assert proportion(successes, n).percent() == text


def test_the_table_fits_80_columns() -> None:
    """No class name, figure or count is lost on the narrowest common terminal."""
    labels = np.arange(3000) % 3
    evaluation = Evaluation(
        "test", ("cat", "automobile", "dog"), list(range(3000)), labels, np.eye(3)[labels], ""
    )
    console = Console(width=80, file=io.StringIO())
    console.print(class_table(evaluation))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert all(name in text for name in evaluation.classes)
    assert text.count("–100.0)") == 9
    assert text.count("of 1,000") == 9


@pytest.mark.parametrize("n", [7, 20, 100])
def test_the_exact_interval_never_covers_too_seldom(n: int) -> None:
    ends = [clopper_pearson(k, n) for k in range(n + 1)]
    for k, (low, high) in enumerate(ends):
        exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    for p in np.linspace(0.001, 0.999, 199):
        inside = [k for k, (low, high) in enumerate(ends) if low <= p <= high]
        assert stats.binom.pmf(inside, n, p).sum() >= 0.95 - 1e-9
    assert accuracy(np.diag([n, 0]) + 0, "exact").low == ends[n][0]


def test_the_bootstrap_of_a_mean_covers() -> None:
    generator = np.random.default_rng(1)
    for draw, truth in (
        (lambda: generator.exponential(size=100), 1.0),
        (lambda: generator.uniform(size=100), 0.5),
    ):
        figures = [mean_figure(draw()) for _ in range(300)]
        covered = np.mean([f.low <= truth <= f.high for f in figures])
        assert 0.91 < covered < 0.98
    assert mean_figure(np.full(200, 0.5)) == Figure(0.5, 200, None, None)
    assert mean_figure(np.array([0.5])) == Figure(0.5, 1, None, None)
    values = generator.exponential(size=150)
    assert mean_figure(values) == mean_figure(values)  # always the same resamples
    assert mean_figure(values[:99]).low is None


@pytest.mark.parametrize(("sure", "n"), [(0.95, 500), (0.99, 3000)])
def test_the_losses_of_a_good_net_have_an_interval_that_covers(sure: float, n: int) -> None:
    # A calibrated net: it is sure of most pictures, and right on as many as it says.
    generator = np.random.default_rng(3)

    def losses(n: int) -> tuple[NDArray[np.float64], int]:
        p = generator.beta(20 * sure, 20 * (1 - sure), n).clip(0.5, 1 - 1e-6)
        right = generator.random(n) < p
        return -np.log(np.where(right, p, 1 - p)), int((~right).sum())

    truth = losses(1_000_000)[0].mean()
    figures = [mean_figure(*losses(n)) for _ in range(150)]
    given = [f for f in figures if f.low is not None and f.high is not None]
    assert len(given) > 140
    assert np.mean([f.low <= truth <= f.high for f in given]) > 0.89
    few, mistakes = losses(n // 25)  # a mistake or two: nothing is said
    assert mistakes < 10
    assert mean_figure(few, mistakes).low is None


LONG_TAIL = (500, 300, 180, 108, 64, 39, 23, 14, 8, 5)


@pytest.mark.parametrize("interval", ["wilson", "exact"])
@pytest.mark.parametrize(
    ("counts", "recalls"),
    [
        ((120, 60, 30), (0.9, 0.7, 0.5)),
        ((100,) * 100, (0.99,) * 100),  # the shape of CIFAR-100's test set
        ((10,) * 100, (0.99,) * 100),
        ((970, 30), (0.99, 0.97)),  # the rare class often has no mistake
        (LONG_TAIL, (0.97, 0.97, *[0.9] * 8)),
        (LONG_TAIL, (*[0.99] * 8, 0.95, 0.95)),
        ((1000, 1000), (0.999, 0.999)),
    ],
)
def test_the_interval_of_balanced_accuracy_covers(
    counts: tuple[int, ...], recalls: tuple[float, ...], interval: str
) -> None:
    generator, classes = np.random.default_rng(2), np.arange(len(counts))
    covered = 0
    for _ in range(500):
        right = generator.binomial(counts, recalls)
        confusion = np.diag(right)
        confusion[classes, (classes + 1) % len(counts)] += np.array(counts) - right
        figure = balanced_accuracy_figure(confusion, interval)
        assert figure.value == balanced_accuracy(confusion)
        assert 0 <= figure.low < figure.high <= 1
        covered += figure.low <= np.mean(recalls) <= figure.high
    assert covered / 500 > 0.88
    assert interval == "exact" or covered / 500 < 0.985


def test_balanced_accuracy_of_equal_classes_without_mistakes_is_no_certainty() -> None:
    figure = balanced_accuracy_figure(np.diag([20, 20]))
    assert figure.value == figure.high == 1
    assert figure.low == pytest.approx(1 - (1 - wilson(20, 20)[0]) / math.sqrt(2))
    nothing = balanced_accuracy_figure(np.zeros((2, 2), np.int64))
    assert nothing == Figure(None, 0, None, None)


def test_top_k_and_brier_equal_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(CLASSES), 400)
    labels = generator.integers(0, CLASSES, 400)
    for k in (1, 2, 5):
        wanted = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=k)
        assert top_k(probabilities, labels, k).value == pytest.approx(wanted)
    by_hand = sum(
        sklearn.metrics.brier_score_loss(labels == c, probabilities[:, c]) for c in range(CLASSES)
    )
    assert brier_scores(probabilities, labels).mean() == pytest.approx(by_hand)


def test_calibration_error_is_what_it_should_be_and_not_what_chance_makes_of_it() -> None:
    generator = np.random.default_rng(0)
    found = []
    for off in (0.0, 0.1, 0.2):
        errors = []
        for _ in range(60):
            confidences = generator.uniform(0.5, 0.9, 600)
            right = generator.random(600) < confidences - off
            errors.append(calibration_error(confidences, right).value ** 2)
        found.append(math.sqrt(np.mean(errors)))
    # Undebiased, chance alone makes 0.07 of nothing with 40 pictures a bin.
    assert found[0] < 0.03
    assert found[1:] == pytest.approx([0.1, 0.2], abs=0.01)
    # The order of pictures that are equally sure tells nothing.
    even = np.full(400, 0.5)
    assert calibration_error(even, np.arange(400) < 200).value == 0
    assert len(reliability(even, np.arange(400) < 200)) == 1


def test_a_reliability_diagram_has_equally_many_in_each_bin() -> None:
    confidences = np.random.default_rng(0).random(101)
    right = confidences > 0.5
    bins = reliability(confidences, right, 10)
    assert {b.accuracy.n for b in bins} == {10, 11}
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    assert [b.accuracy.value for b in bins][:4] == [0, 0, 0, 0]
    assert len(reliability(confidences[:3], right[:3])) == 1
