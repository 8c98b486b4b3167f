"""Batches: normalised like torchvision's, and a function of (seed, epoch) alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import transforms

import eyebright.batches
from eyebright.batches import (
    HALF,
    Normalization,
    measure_normalization,
    predict_logits,
    train_batches,
)
from eyebright.config import TrainConfig
from eyebright.images import Pixels
from eyebright.models import create_model
from eyebright.order import balanced_order, epoch_generator, epoch_order
from eyebright.runtime import memory_format

CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def pixels(n: int, size: int = 8, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def numbered(n: int) -> tuple[Tensor, Tensor]:
    """Pictures that carry their number in their first pixel, and the number as the label."""
    images = torch.zeros(n, 4, 4, 3, dtype=torch.uint8)
    numbers = torch.arange(n)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    return images, numbers


def epoch_of(config: TrainConfig, n: int = 50, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    images, labels = torch.from_numpy(pixels(n, 16)), torch.arange(n)
    return list(train_batches(images, labels, config, CIFAR10, epoch))


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, y) and torch.equal(a, b)
        for (x, a), (y, b) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("normalization", [HALF, CIFAR10], ids=["half", "cifar10"])
def test_normalisation_equals_torchvision(normalization: Normalization) -> None:
    images = pixels(20, 16)
    images[0, 0, :, 0] = np.arange(16)
    images[0, 1:, :, :] = np.arange(240).reshape(15, 16, 1)  # all values but the last few
    images[1] = 255
    reference = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(normalization.mean, normalization.std)]
    )
    wanted = torch.stack([reference(image) for image in images])
    result = normalization(torch.from_numpy(images))
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_half_goes_from_minus_one_to_one() -> None:
    ends = HALF(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 4, 4, 3))
    assert ends[0].unique().tolist() == [-1]
    assert ends[1].unique().tolist() == [1]


@pytest.mark.parametrize("n", [1, 300, 4096, 5000])
def test_measured_mean_and_deviation_equal_numpy_in_float64(n: int) -> None:
    images = pixels(n, 4)
    images[..., 1] //= 3
    images[n // 2 :, ..., 2] = 200
    values = images.astype(np.float64) / 255
    measured = measure_normalization(images)
    assert measured.mean == pytest.approx(values.mean((0, 1, 2)), rel=1e-12)
    assert measured.std == pytest.approx(values.std((0, 1, 2)).clip(1 / 255), rel=1e-12)


def test_measured_pictures_have_mean_zero_and_deviation_one() -> None:
    images = pixels(500)
    result = measure_normalization(images)(torch.from_numpy(images)).double()
    assert result.mean((0, 2, 3)).abs().max() < 1e-6
    assert (result.std((0, 2, 3)) - 1).abs().max() < 1e-4


def test_a_channel_that_never_changes_is_not_blown_up() -> None:
    images = pixels(30)
    images[..., 0] = 77
    normalization = measure_normalization(images)
    assert normalization.std[0] == 1 / 255
    assert normalization(torch.from_numpy(images))[:, 0].abs().max() < 1e-4


@pytest.mark.parametrize("augment", ["none", "mirror+shift+cutout"])
def test_an_epoch_is_a_function_of_seed_and_epoch(augment: str) -> None:
    config = TrainConfig(batch_size=8, seed=3, augment=augment)
    first = epoch_of(config)
    torch.manual_seed(99)  # neither the global generator ...
    list(train_batches(*numbered(20), config, HALF, 7))  # ... nor other epochs before it matter
    assert same(first, epoch_of(config))
    assert not same(first, epoch_of(config, epoch=2))
    assert not same(first, epoch_of(config.replace(seed=4)))


def test_two_epochs_show_every_picture_from_both_sides() -> None:
    config = TrainConfig(batch_size=50, augment="mirror", drop_last=False)
    images = torch.from_numpy(pixels(50, 8))
    mirrored = []
    for epoch in (1, 2):
        ((pictures, which),) = train_batches(images, torch.arange(50), config, HALF, epoch)
        unchanged = (pictures == HALF(images[which])).flatten(1).all(1)
        mirrored.append(torch.zeros(50, dtype=torch.bool).index_put((which,), ~unchanged))
    assert 0 < mirrored[0].sum() < 50
    assert torch.equal(mirrored[0], ~mirrored[1])


@pytest.mark.parametrize("n", [1, 8, 20, 50, 1500, 5000])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 20, 2000])
@pytest.mark.parametrize("drop_last", [True, False])
def test_every_picture_comes_once_an_epoch(n: int, batch_size: int, drop_last: bool) -> None:
    if drop_last:
        batch_size = min(batch_size, n)
    config = TrainConfig(batch_size=batch_size, drop_last=drop_last, augment="none")
    images, labels = numbered(n)
    batches = list(train_batches(images, labels, config, HALF, 1))
    sizes = [len(targets) for _, targets in batches]
    rest = [] if drop_last or not n % batch_size else [n % batch_size]
    assert sizes == [batch_size] * (n // batch_size) + rest
    # Batch by batch, the pictures are those of the epoch's order, with their own labels.
    order = epoch_order(n, config.seed, 1)
    for i, (pictures, targets) in enumerate(batches):
        which = order[i * batch_size : (i + 1) * batch_size]
        assert torch.equal(targets, labels[which])
        assert torch.equal(pictures, HALF(images[which]))
    seen = [number for _, targets in batches for number in targets.tolist()]
    assert len(set(seen)) == len(seen) == sum(sizes)


def test_no_batch_is_empty() -> None:
    config = TrainConfig(batch_size=20, drop_last=True, augment="none")
    for n in (1, 19, 20, 21):
        assert all(len(targets) for _, targets in epoch_of(config, n))


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_tiny_batches_made_many_at_once_are_the_same(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(batch_size=batch_size, drop_last=False, augment="none")
    at_once = epoch_of(config)
    monkeypatch.setattr(eyebright.batches, "CHUNK", 1)
    assert same(at_once, epoch_of(config))


@pytest.mark.parametrize("batch_size", [4, 80])
def test_batches_are_what_the_net_wants(batch_size: int) -> None:
    for pictures, targets in epoch_of(TrainConfig(batch_size=batch_size, precision="fp32"), n=160):
        assert pictures.shape == (batch_size, 3, 16, 16)
        assert pictures.dtype == torch.float32
        layout = memory_format(batch_size, 16, "fp32", torch.device("cpu"))
        assert (layout == torch.channels_last) == (batch_size > 4)
        assert pictures.is_contiguous(memory_format=layout)
        assert targets.shape == (batch_size,)
        assert targets.dtype == torch.int64


def test_the_pictures_themselves_are_not_changed() -> None:
    images = torch.from_numpy(pixels(50, 16))
    before = images.clone()
    config = TrainConfig(batch_size=8, augment="mirror+shift+cutout")
    assert len(list(train_batches(images, torch.arange(50), config, HALF, 1))) == 6
    assert torch.equal(images, before)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_order(1000, seed=1, epoch=2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(epoch_order(1000, seed=1, epoch=2), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.device.type == "cpu"
    assert first.dtype == torch.int64
    assert torch.equal(first.sort().values, torch.arange(1000))
    others = [(2, 1), (1, 1), (1, 3), (0, 2), (3, 0), (2**32 - 1, 2)]
    orders = [first, *(epoch_order(1000, seed, epoch) for seed, epoch in others)]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_the_order_ignores_a_default_device() -> None:
    wanted = epoch_order(100, 0, 1)
    with torch.device("meta"):
        order = epoch_order(100, 0, 1)
    assert order.device.type == "cpu"
    assert torch.equal(order, wanted)


def test_epochs_of_one_run_are_shuffled_independently() -> None:
    orders = torch.stack([epoch_order(500, 0, epoch) for epoch in range(1, 41)])
    # Where a picture stands in one epoch says nothing of where it stands in the next.
    ranks = orders.double() - orders.double().mean()
    between = (ranks @ ranks.T / ranks[0].square().sum()).fill_diagonal_(0)
    assert between.abs().max() < 0.25  # 5.6 deviations


def test_a_generator_is_made_anew_each_time() -> None:
    device = torch.device("cpu")
    draws = [torch.rand(5, generator=epoch_generator(1, 1, device)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", ["lesson", "white16"])
def test_pictures_are_judged_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, images = create_model(name, 10), pixels(11, 32)
    together = predict_logits(net, images, CIFAR10)
    for batch_size in (1, 4, 11):
        monkeypatch.setattr(eyebright.batches, "BATCH_PIXELS", batch_size * 32 * 32)
        parts = predict_logits(net, images, CIFAR10)
        torch.testing.assert_close(parts, together, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        predict_logits(net, images[::-1].copy(), CIFAR10).flip(0), together, rtol=0, atol=1e-6
    )


def test_large_pictures_come_in_small_batches() -> None:
    sizes = []
    net = create_model("white16", 10)
    net.register_forward_pre_hook(lambda net, pictures: sizes.append(len(pictures[0])))
    predict_logits(net, np.zeros((20, 512, 512, 3), np.uint8), CIFAR10)
    assert sizes == [15, 5]  # at most four million pixels at once


def test_logits_are_those_of_the_net_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    net, images = create_model("white16", 10), pixels(6, 16)
    net.train()
    statistics = net.stages[0].norm1.running_mean.clone()
    logits = predict_logits(net, torch.from_numpy(images), CIFAR10)
    assert torch.equal(net.stages[0].norm1.running_mean, statistics)
    assert not net.training
    with torch.no_grad():
        wanted = net(CIFAR10(torch.from_numpy(images)))
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-6)
    assert logits.shape == (6, 10)
    assert logits.dtype == torch.float32
    assert logits.device.type == "cpu"
    assert not logits.requires_grad


def test_averaging_with_the_mirror_image() -> None:
    torch.manual_seed(0)
    net, images = create_model("white16", 10), pixels(9, 32)
    plain = predict_logits(net, images, CIFAR10)
    mirrored = predict_logits(net, images[:, :, ::-1].copy(), CIFAR10)
    averaged = predict_logits(net, images, CIFAR10, tta="mirror")
    torch.testing.assert_close(averaged, (plain + mirrored) / 2, rtol=0, atol=1e-6)
    of_mirrored = predict_logits(net, images[:, :, ::-1].copy(), CIFAR10, tta="mirror")
    torch.testing.assert_close(averaged, of_mirrored, rtol=0, atol=1e-6)


def test_a_balanced_order_shows_every_class_equally_often() -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([9000, 900, 100]))
    order = balanced_order(labels, seed=0, epoch=1)
    assert order.shape == labels.shape
    shares = torch.bincount(labels[order]) / len(labels)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert torch.equal(order, balanced_order(labels, seed=0, epoch=1))
    assert not torch.equal(order, balanced_order(labels, seed=0, epoch=2))
    assert len(order.unique()) > 3000


AUGMENTS = ["none", "mirror", "mirror+shift", "crop+cutout"]
CONFIGS = st.builds(
    TrainConfig,
    batch_size=st.integers(1, 40),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    augment=st.sampled_from(AUGMENTS),
    balance=st.sampled_from(["none", "sampler"]),
)


@settings(deadline=None, max_examples=60)
@given(CONFIGS, st.integers(1, 90), st.integers(1, 9), st.integers(0, 9))
def test_an_epoch_may_begin_with_any_batch(
    config: TrainConfig, n: int, epoch: int, first: int
) -> None:
    """What a resumed run sees is what it would have seen."""
    images, labels = torch.from_numpy(pixels(n, 8)), torch.arange(n) % 5
    whole = list(train_batches(images, labels, config, CIFAR10, epoch))
    rest = list(train_batches(images, labels, config, CIFAR10, epoch, first=first))
    assert same(whole[first:], rest)
    assert sum(len(y) for _, y in whole) == n - (n % config.batch_size if config.drop_last else 0)


@given(st.integers(1, 500), st.integers(0, 2**32 - 1), st.integers(1, 10**6))
def test_an_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, epoch_order(n, seed, epoch))


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=300).filter(lambda y: len(set(y)) > 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, 10**6),
)
def test_a_balanced_order_draws_pictures_that_are_there(
    labels: list[int], seed: int, epoch: int
) -> None:
    y = torch.tensor(labels)
    order = balanced_order(y, seed, epoch)
    assert order.shape == y.shape
    assert 0 <= int(order.min()) <= int(order.max()) < len(y)
    assert torch.equal(order, balanced_order(y, seed, epoch))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_measured_pictures_are_normal_whatever_they_show(n: int, side: int, seed: int) -> None:
    images = pixels(n, side, seed)
    x = measure_normalization(images)(torch.from_numpy(images)).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    spread = x.square().mean((0, 2, 3)).sqrt()
    assert ((spread - 1).abs() < 1e-3).logical_or(spread < 1e-3).all()
