"""Norms whose statistics are measured when the net is what it will be."""

from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from bf16_kernels import features, needs_kernels
from eyebright import kernels
from eyebright.layers import NormGelu
from eyebright.measuring import count_measured, measure_norms


def batches_of(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(size, 2, 5, 5, generator=generator) + 1 for size in sizes]


def test_statistics_are_the_mean_of_all_batches() -> None:
    norm, batches = NormGelu(2).train(), batches_of(8, 8, 8, 4)
    measure_norms(norm, batches)
    shares = torch.tensor([[8.0], [8.0], [8.0], [4.0]]) / 28
    means = torch.stack([b.mean((0, 2, 3)) for b in batches])
    variances = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches])
    torch.testing.assert_close(norm.running_mean, (shares * means).sum(0))
    torch.testing.assert_close(norm.running_var, (shares * variances).sum(0))
    assert norm.momentum == 0.4


@needs_kernels
def test_in_bf16_they_are_measured_as_in_training() -> None:
    norm, batches = NormGelu(4).train(), [features(8, 4, 5, 5, seed=seed) for seed in range(3)]
    with patch.object(kernels, "norm_gelu", wraps=kernels.norm_gelu) as quick:
        measure_norms(norm, batches)
    assert quick.call_count == 3
    wanted = torch.cat(batches).double().mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean.double(), wanted, rtol=1e-4, atol=1e-4)


def test_to_measure_twice_is_to_measure_once() -> None:
    norm, batches = NormGelu(2).train(), batches_of(8, 8)
    norm(batches[0])
    measure_norms(norm, batches)
    once = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    measure_norms(norm, batches)
    assert list(once) == list(norm.state_dict())
    for name, tensor in norm.state_dict().items():
        assert torch.equal(tensor, once[name]), name
    assert once["num_batches_tracked"] == 1  # what is measured is no step


def test_a_norm_that_is_not_ours_follows_as_it_always_does() -> None:
    net, batches = nn.Sequential(NormGelu(2), nn.BatchNorm2d(2)), batches_of(8, 8, 8)
    measure_norms(net, batches)
    ours, followed = NormGelu(2), nn.BatchNorm2d(2)
    for batch in batches:
        followed(ours(batch))
    torch.testing.assert_close(net[1].running_mean, followed.running_mean)


def test_nothing_is_looked_at_where_nothing_is_to_be_measured() -> None:
    net, batches = NormGelu(2).train(), batches_of(8, 8)
    net(batches[0])
    before = net.running_mean.clone()
    measure_norms(net, [])
    assert torch.equal(net.running_mean, before)
    untouched = iter(batches)
    measure_norms(net.eval(), untouched)
    assert torch.equal(net.running_mean, before)
    assert next(untouched) is batches[0]


def test_they_follow_again_after_a_failure() -> None:
    net = NormGelu(2).train()
    with pytest.raises(RuntimeError):
        measure_norms(net, [torch.zeros(8, 3, 5, 5)])
    assert net.momentum == 0.4
    assert net.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("steps", "batch_size", "batches"), [(700, 500, 20), (500, 1000, 10), (56, 200, 5), (49, 16, 0)]
)
def test_measuring_norms_takes_a_small_part_of_a_run(
    steps: int, batch_size: int, batches: int
) -> None:
    assert count_measured(steps, batch_size) == batches
