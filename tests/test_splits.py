"""`stratified_split`: properties that hold for any labels, share and seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyebright.data.splits import group_folds, stratified_folds, stratified_split
from eyebright.errors import DataError

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


@settings(deadline=None)
@given(labels_of_any_kind, st.integers(2, 12), seeds)
def test_folds_share_out_every_class(labels: np.ndarray, folds: int, seed: int) -> None:
    fold_of = stratified_folds(labels, folds, seed)
    assert fold_of.shape == labels.shape
    assert ((fold_of >= 0) & (fold_of < folds)).all()
    for part in (labels, *(labels[labels == c] for c in np.unique(labels))):
        members = fold_of if part is labels else fold_of[labels == part[0]]
        counts = np.bincount(members, minlength=folds)
        assert counts.max() - counts.min() <= 1
    assert (fold_of == stratified_folds(labels, folds, seed)).all()


def test_groups_stay_together() -> None:
    generator = np.random.default_rng(0)
    groups = [f"patient {i}" for i in generator.integers(0, 40, 600)]
    labels = generator.integers(0, 3, 600)
    fold_of = group_folds(labels, groups, 5, 0)
    for group in set(groups):
        assert len({int(f) for f, g in zip(fold_of, groups, strict=True) if g == group}) == 1
    counts = np.bincount(fold_of, minlength=5)
    assert counts.min() > 60
    with pytest.raises(DataError, match="too few"):
        group_folds(labels[:20], ["a"] * 20, 5, 0)
