"""Temperatures, promises and sets, on data whose truth is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from eyebright.calibration import (
    SetRule,
    fit_temperature,
    least_pictures,
    promise,
    set_threshold,
    softmax,
)
from eyebright.metrics import calibration_error


def drawn(
    n: int, classes: int = 5, seed: int = 0, sharpness: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits whose softmax is the truth, and labels drawn from it."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.standard_normal((n, classes))
    ends = softmax(logits).cumsum(1)
    labels = (generator.random((n, 1)) > ends).sum(1).clip(0, classes - 1)
    return logits, labels


def test_softmax_is_safe() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])) == pytest.approx(
        np.array([[1, 0], [0.5, 0.5]])
    )
    logits = np.random.default_rng(0).normal(size=(7, 4))
    hot = softmax(logits, 2.0)
    assert hot == pytest.approx(softmax(logits / 2))
    assert hot.sum(1) == pytest.approx(np.ones(7))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits, labels = drawn(8000)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.06)


def test_for_even_classes_each_counts_as_if_it_had_as_many_pictures() -> None:
    logits, labels = drawn(20_000, classes=2)
    logits[labels == 1] *= 0.5  # another temperature would suit this class
    frequent, rare = np.flatnonzero(labels == 0)[:8000], np.flatnonzero(labels == 1)[:1000]
    uneven, evened = np.append(frequent, rare), np.append(frequent, np.repeat(rare, 8))
    wanted = fit_temperature(logits[evened], labels[evened])
    found = fit_temperature(logits[uneven], labels[uneven], even=True)
    assert found == pytest.approx(wanted, rel=0.01)
    assert fit_temperature(logits[uneven], labels[uneven]) != pytest.approx(wanted, rel=0.05)


def test_a_temperature_mends_what_it_can() -> None:
    logits, labels = drawn(6000)
    sharp = 3 * logits
    temperature = fit_temperature(sharp[:3000], labels[:3000])
    errors = []
    for probabilities in (softmax(sharp[3000:]), softmax(sharp[3000:], temperature)):
        right = probabilities.argmax(1) == labels[3000:]
        errors.append(calibration_error(probabilities.max(1), right).value)
    assert errors[0] > 0.1
    assert errors[1] < 0.03


def test_a_few_that_are_all_right_do_not_make_it_sure_of_everything() -> None:
    labels = np.arange(16) % 2
    logits = 4.0 * np.eye(2)[labels]
    confidence = softmax(logits, fit_temperature(logits, labels)).max(1)
    assert (confidence < 0.97).all()
    assert (confidence > 0.8).all()


def test_a_promise_is_kept_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    risk, broken, made = 0.15, 0, 0
    for _ in range(400):
        confidences = generator.uniform(0.5, 1.0, 1000)
        right = generator.random(1000) < confidences
        given = promise(confidences, right, risk)
        if given is None:
            continue
        made += 1
        true_risk = (1 - given.threshold) / 2  # the mean of 1 - confidence above the threshold
        broken += true_risk > risk
        assert given.answered == pytest.approx((confidences >= given.threshold).mean())
    assert made > 300
    assert broken / made < 0.05


def test_a_promise_answers_most_where_there_is_most_to_go_by() -> None:
    generator = np.random.default_rng(0)
    shares = []
    for n in (2000, 10_000, 100_000):
        confidences = generator.uniform(0.5, 1.0, n)
        given = promise(confidences, generator.random(n) < confidences, 0.1)
        assert given is not None
        shares.append(given.answered)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.4, abs=0.03)  # (1 - t) / 2 = 0.1 at t = 0.8


def test_where_nothing_can_be_promised() -> None:
    confidences = np.linspace(0.5, 1, 20)
    assert promise(confidences, np.ones(20, bool), 0.01) is None  # too few to know
    assert promise(confidences, np.zeros(20, bool), 0.5) is None
    assert promise(np.empty(0), np.empty(0, bool), 0.5) is None
    every = promise(np.ones(1000), np.ones(1000, bool), 0.01)
    assert every is not None
    assert every.answered == 1


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.99])
def test_sets_hold_the_true_class_as_often_as_asked(coverage: float) -> None:
    logits, labels = drawn(4000, sharpness=1.5)
    probabilities = softmax(logits, 0.5)  # sure beyond its knowledge: sets must mend that
    generator = np.random.default_rng(1)
    held = []
    for _ in range(100):
        order = generator.permutation(len(labels))
        fitted, new = order[:1000], order[1000:]
        threshold = set_threshold(probabilities[fitted], labels[fitted], coverage)
        sets = SetRule(coverage, threshold).holds(probabilities[new])
        held.append(sets[np.arange(len(new)), labels[new]].mean())
    assert np.mean(held) == pytest.approx(coverage, abs=0.005)


def test_too_few_pictures_leave_no_class_out() -> None:
    probabilities = np.full((5, 3), 1 / 3)
    assert set_threshold(probabilities, np.zeros(5, int), 0.9) == 0
    assert SetRule(0.9, 0.0).holds(probabilities).all()


@pytest.mark.parametrize("risk", [0.001, 0.01, 0.05, 0.3])
def test_so_many_pictures_carry_a_promise_and_no_fewer(risk: float) -> None:
    least = least_pictures(risk)
    sure = np.full(least, 0.9)
    assert promise(sure, sure > 0, risk) is not None
    assert promise(sure[1:], sure[1:] > 0, risk) is None
