"""`stratified_split`: properties that hold for any labels, share and seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eyebright.data.splits import stratified_split

labels_of_any_kind = st.lists(st.integers(0, 6), max_size=200).map(
    lambda values: np.array(values, np.int64)
)
shares = st.floats(0, 0.99)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(labels_of_any_kind, shares, seeds)
def test_the_parts_are_disjoint_sorted_and_complete(
    labels: np.ndarray, share: float, seed: int
) -> None:
    larger, held_out = stratified_split(labels, share, seed)
    for part in (larger, held_out):
        assert np.issubdtype(part.dtype, np.integer)
        assert (np.diff(part) > 0).all()
    assert sorted([*larger, *held_out]) == list(range(len(labels)))


@settings(deadline=None)
@given(labels_of_any_kind, shares.filter(lambda share: share > 0), seeds)
def test_every_class_keeps_its_share(labels: np.ndarray, share: float, seed: int) -> None:
    larger, held_out = stratified_split(labels, share, seed)
    for label in np.unique(labels):
        total = int((labels == label).sum())
        out = int((labels[held_out] == label).sum())
        if total == 1:
            assert out == 0
        else:
            assert 1 <= out <= total - 1
            assert abs(out - share * total) <= 1
        assert out + int((labels[larger] == label).sum()) == total


@settings(deadline=None)
@given(labels_of_any_kind, shares, seeds)
def test_the_same_seed_gives_the_same_parts(labels: np.ndarray, share: float, seed: int) -> None:
    first, second = (stratified_split(labels, share, seed) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@given(labels_of_any_kind, seeds)
def test_a_share_of_nothing_holds_nothing_out(labels: np.ndarray, seed: int) -> None:
    larger, held_out = stratified_split(labels, 0, seed)
    assert len(held_out) == 0
    assert len(larger) == len(labels)


def test_another_seed_gives_other_parts() -> None:
    labels = np.repeat([0, 1, 2], 100)
    parts = {tuple(stratified_split(labels, 0.1, seed)[1]) for seed in range(5)}
    assert len(parts) == 5
    assert all(len(part) == 30 for part in parts)


def test_names_of_the_labels_do_not_matter() -> None:
    small, large = stratified_split(np.array([7, 7, -3, -3, 7, -3]), 0.34, seed=1)
    assert len(small) == 4
    assert len(large) == 2
