"""Augmentation: pure functions that keep shape and type and do what they say."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from eyebright.augment import (
    AUGMENTATIONS,
    Chance,
    crop,
    cutout,
    mirror,
    parse_augment,
    shift,
    sides_of_epoch,
)
from eyebright.errors import UsageError


def chance(n: int, seed: int = 0) -> Chance:
    return Chance(seeded(seed), n)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random pictures without the grey that a cut-out hole is filled with."""
    pictures = torch.randint(0, 255, (n, height, width, 3), generator=seeded(seed))
    return (pictures + (pictures >= 128)).to(torch.uint8)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    name=st.sampled_from(sorted(AUGMENTATIONS)),
    n=st.integers(0, 5),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_every_function_is_pure(name: str, n: int, height: int, width: int, seed: int) -> None:
    images = noise(n, height, width)
    before = images.clone()
    torch.manual_seed(1)
    first = AUGMENTATIONS[name](images, chance(n, seed))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = AUGMENTATIONS[name](images, chance(n, seed))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from elsewhere


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_decides(name: str) -> None:
    images = noise(50, 16, 16)
    drawn = chance(50)
    first, second = (AUGMENTATIONS[name](images, drawn) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, AUGMENTATIONS[name](images, chance(50, 1)))
    assert not torch.equal(first, images)


def test_mirror_swaps_left_and_right_where_told() -> None:
    images = noise(100, 6, 9)
    which = torch.arange(100) % 3 == 0
    result = mirror(images, which)
    assert torch.equal(result[which], images[which].flip(2))
    assert torch.equal(result[~which], images[~which])


def test_every_picture_is_seen_from_both_sides_in_two_epochs() -> None:
    first, second, third = (sides_of_epoch(1000, epoch, seeded()) for epoch in (1, 2, 3))
    assert 440 < first.sum() < 560  # half of them by chance, within four deviations
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    assert not torch.equal(first, sides_of_epoch(1000, 1, seeded(1)))


@pytest.mark.parametrize(("height", "width", "up", "left"), [(32, 32, 2, 2), (16, 50, 1, 3)])
def test_shift_moves_by_a_sixteenth_and_reflects_the_edge(
    height: int, width: int, up: int, left: int
) -> None:
    images = noise(400, height, width)
    result = shift(images, chance(400)).numpy()
    seen = []
    for before, after in zip(images.numpy(), result, strict=True):
        padded = np.pad(before, ((up, up), (left, left), (0, 0)), mode="reflect")
        moves = [
            (y - up, x - left)
            for y, x in product(range(2 * up + 1), range(2 * left + 1))
            if np.array_equal(after, padded[y : y + height, x : x + width])
        ]
        assert len(moves) == 1
        seen += moves
    every = set(product(range(-up, up + 1), range(-left, left + 1)))
    assert set(seen) == every  # each move occurs, none farther
    assert max(seen.count(move) for move in every) < 3 * len(seen) / len(every)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (28, 12), (4, 4)])
def test_cutout_greys_one_square(height: int, width: int) -> None:
    images = noise(200, height, width)
    result = cutout(images, chance(200))
    rows, columns = max(1, height * 3 // 8), max(1, width * 3 // 8)
    corners = set()
    for before, after in zip(images.numpy(), result.numpy(), strict=True):
        hole = (after == 128).all(2)
        assert hole.sum() == rows * columns
        top, left = np.argwhere(hole)[0]
        assert hole[top : top + rows, left : left + columns].all()
        assert np.array_equal(after[~hole], before[~hole])
        corners.add((int(top), int(left)))
    tops, lefts = ({corner[i] for corner in corners} for i in (0, 1))
    assert tops == set(range(height - rows + 1))
    assert lefts == set(range(width - columns + 1))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_crop_enlarges_a_rectangle_of_the_picture(height: int, width: int) -> None:
    # Red says how far right a pixel was, green how far down: a line through each gives the crop.
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    one = np.zeros((height, width, 3), np.uint8)
    one[..., 0], one[..., 1] = x[None, :].round(), y[:, None].round()
    result = crop(torch.from_numpy(one).repeat(300, 1, 1, 1), chance(300)).numpy().astype(float)
    assert (result[..., 2] == 0).all()
    across = (result[:, 0, -5, 0] - result[:, 0, 4, 0]) / (x[-5] - x[4])
    down = (result[:, -5, 0, 1] - result[:, 4, 0, 1]) / (y[-5] - y[4])
    assert (np.abs(result - result[:, :1])[..., 0] <= 1).all()  # upright
    area, stretch = across * down, across / down
    assert 0.3 < area.min() < 0.45
    assert 0.9 < area.max() < 1.05
    assert 0.65 < stretch.min() < 0.85
    assert 1.15 < stretch.max() < 1.5
    starts = result[:, 0, 0, 0] / 255
    assert starts.min() < 0.02
    assert starts.max() > 0.25  # anywhere in the picture


@pytest.mark.parametrize(
    ("spec", "mirrored", "functions"),
    [
        ("none", False, []),
        ("mirror", True, []),
        ("mirror+shift", True, [shift]),
        ("cutout+shift", False, [cutout, shift]),
        ("mirror+shift+cutout", True, [shift, cutout]),
    ],
)
def test_a_setting_names_functions_in_order(
    spec: str, mirrored: bool, functions: list[object]
) -> None:
    assert parse_augment(spec) == (mirrored, functions)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("flip", "flip"),
        ("mirror+flip", "flip"),
        ("", ""),
        ("mirror+", ""),
        ("none+mirror", "none"),
        ("mirror shift", "mirror shift"),
        ("Mirror", "Mirror"),
    ],
)
def test_an_unknown_augmentation_names_the_choices(spec: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_augment(spec)
    message = str(caught.value)
    assert f"'{name}'" in message
    assert all(choice in message for choice in ["mirror", *AUGMENTATIONS])
