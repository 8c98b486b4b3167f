"""Norms whose statistics are measured when the net is what it will be."""

import pytest
import torch
from torch import Tensor, nn

from eyebright.layers import NormGelu, measure_norms


def batches_of(n: int, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(size, 2, 5, 5, generator=generator) + 1 for _ in range(n)]


def test_statistics_are_the_mean_of_all_batches() -> None:
    net = nn.Sequential(NormGelu(2), nn.BatchNorm2d(2, momentum=0.25))
    first, others = net[0], net[1]
    batches = batches_of(7)
    measure_norms(net.train(), batches)
    means = torch.stack([b.mean((0, 2, 3)) for b in batches])
    variances = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches])
    torch.testing.assert_close(first.running_mean, means.mean(0))
    torch.testing.assert_close(first.running_var, variances.mean(0))
    assert first.momentum == 0.4
    # A norm that is not ours goes on as it always does.
    assert others.momentum == 0.25
    followed = nn.BatchNorm2d(2, momentum=0.25)
    ours = NormGelu(2)
    for batch in batches:
        followed(ours(batch))
    torch.testing.assert_close(others.running_mean, followed.running_mean)


def test_nothing_is_measured_without_batches_or_where_nothing_is_learned() -> None:
    net, batches = NormGelu(2).train(), batches_of(2)
    net(batches[0])
    before = net.running_mean.clone()
    measure_norms(net, [])
    assert torch.equal(net.running_mean, before)
    untouched = iter(batches)
    measure_norms(net.eval(), untouched)
    assert torch.equal(net.running_mean, before)
    assert next(untouched) is batches[0]  # no picture goes through the net


def test_they_follow_again_after_a_failure() -> None:
    net = NormGelu(2).train()
    with pytest.raises(RuntimeError):
        measure_norms(net, [torch.zeros(8, 3, 5, 5)])
    assert net.momentum == 0.4
