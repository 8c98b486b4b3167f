"""The compiled kernels against PyTorch's functions in float64, and what happens without them."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bf16_kernels import features, needs_kernels, with_and_without_winograd
from eyebright import compiled, convolution, kernels
from eyebright.layers import NormGelu
from eyebright.models import WhiteNet, create_model


def reference(x: Tensor, bias: Tensor, pool: bool) -> Tensor:
    """Pooling, batch norm and GELU as PyTorch has them."""
    x = F.max_pool2d(x, 2) if pool else x
    mean, variance = torch.zeros_like(bias), torch.ones_like(bias)
    return F.gelu(F.batch_norm(x, mean, variance, None, bias, training=True, eps=1e-5))


SHAPES = [
    (6, 32, 31, 31),
    (5, 24, 15, 15),
    (4, 128, 7, 7),
    (3, 200, 8, 6),
    (2, 3, 2, 2),
    (9, 1, 5, 4),
]


@needs_kernels
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_gelu_and_its_gradient(shape: tuple[int, ...], pool: bool) -> None:
    norm = NormGelu(shape[1])
    with torch.no_grad():
        norm.bias.copy_(torch.linspace(-1, 1, shape[1]))
    x = features(*shape).requires_grad_()
    out = kernels.norm_gelu(x, norm, pool)
    gradient = features(*out.shape, seed=1)
    out.backward(gradient)

    exact = x.detach().double().requires_grad_()
    bias = norm.bias.detach().double().requires_grad_()
    wanted = reference(exact, bias, pool)
    wanted.backward(gradient.double())
    # One rounding to bf16: half of 2**-7 of the value.
    torch.testing.assert_close(out.double(), wanted, rtol=2**-8, atol=4e-4)
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=2**-7, atol=1e-3)
    torch.testing.assert_close(norm.bias.grad.double(), bias.grad, rtol=1e-3, atol=1e-2)


@needs_kernels
def test_running_statistics_follow_as_torch_has_them() -> None:
    norm, other = NormGelu(8), torch.nn.BatchNorm2d(8, momentum=0.4)
    for seed in range(3):
        x = features(4, 8, 6, 6, seed=seed)
        kernels.norm_gelu(x, norm, pool=False)
        other(x.float())
    torch.testing.assert_close(norm.running_mean, other.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, other.running_var, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_pooling_gives_the_gradient_to_the_first_of_equals() -> None:
    x = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    pooled = torch.empty(1, 1, 1, 1, dtype=torch.bfloat16)
    which = torch.full((1, 1, 1, 1), 9, dtype=torch.int16)
    compiled.call("pool", x, pooled, which, torch.empty(1, 2, 1), 1, 2, 2, 1)
    assert which.item() == 0
    assert pooled.item() == 1


@needs_kernels
def test_pooling_knows_negative_numbers_zeros_and_infinities() -> None:
    values = torch.tensor([-3.0, -0.5, 0.0, -0.0, float("inf"), -float("inf"), 1e30, 2.0])
    x = torch.stack([values, values.roll(1), values.roll(3), -values]).bfloat16()
    x = x.view(1, 2, 2, 8).permute(0, 3, 1, 2)
    pooled = torch.empty(1, 8, 1, 1, dtype=torch.bfloat16)
    compiled.call("pool", x, pooled, torch.empty(8, dtype=torch.int16), torch.empty(16), 1, 2, 2, 8)
    assert torch.equal(pooled, F.max_pool2d(x.float(), 2).bfloat16())


@needs_kernels
@pytest.mark.parametrize("sign", [1, -1])  # what a processor makes of inf - inf is negative
def test_what_is_not_a_number_stays_visible(sign: int) -> None:
    x = features(2, 8, 4, 4)
    x[0, 3, 1, 1] = sign * float("nan")
    for pool in (False, True):
        assert kernels.norm_gelu(x, NormGelu(8), pool)[:, 3].isnan().any()
    whitened = kernels.bias_gelu(x, torch.zeros(8))
    assert whitened[0, 3, 1, 1].isnan()


@needs_kernels
@pytest.mark.parametrize("shape", [(3, 24, 31, 31), (5, 7, 3, 4)], ids=str)
def test_bias_gelu_and_its_gradient(shape: tuple[int, ...]) -> None:
    x = features(*shape)
    bias = torch.linspace(-1, 1, shape[1]).requires_grad_()
    out = kernels.bias_gelu(x, bias)
    gradient = features(*shape, seed=1)
    out.backward(gradient)
    exact = bias.detach().double().requires_grad_()
    wanted = F.gelu(x.double() + exact[:, None, None])
    wanted.backward(gradient.double())
    torch.testing.assert_close(out.double(), wanted, rtol=2**-8, atol=4e-4)
    torch.testing.assert_close(bias.grad.double(), exact.grad, rtol=1e-3, atol=5e-2)


@needs_kernels
def test_the_slope_of_gelu_is_exact_far_out() -> None:
    x = torch.linspace(-12, 12, 4001).bfloat16()
    bias = torch.zeros(len(x), requires_grad=True)
    kernels.bias_gelu(x[None, :, None, None], bias).sum().backward()
    exact = x.double().requires_grad_()
    F.gelu(exact).sum().backward()
    assert bias.grad is not None
    error = (bias.grad - exact.grad).abs()
    assert error.max() < 2.5e-4
    assert error[x.abs() > 6].max() < 1e-4


@needs_kernels
def test_other_types_of_parameters_and_buffers_are_no_danger() -> None:
    x = features(4, 8, 6, 6)
    wanted = kernels.norm_gelu(x, NormGelu(8), pool=True)
    torch.set_default_dtype(torch.float64)
    try:
        got = kernels.norm_gelu(x, NormGelu(8).float(), pool=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, wanted)
    assert torch.equal(kernels.norm_gelu(x, NormGelu(8).bfloat16(), pool=True), wanted)


@needs_kernels
def test_pictures_that_need_a_gradient_get_one() -> None:
    net = create_model("white16", 10).to(memory_format=torch.channels_last)
    pictures = torch.randn(4, 3, 32, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        net(pictures.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.any()


def train_gradients(net: WhiteNet, pictures: Tensor, compiled: bool) -> list[Tensor]:
    ready = kernels.ready if compiled else lambda features: False
    net.zero_grad()
    with patch.object(kernels, "ready", ready), torch.autocast("cpu", torch.bfloat16):
        logits = net(pictures)
    F.cross_entropy(logits.float(), torch.arange(len(pictures)) % 10).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@needs_kernels
@with_and_without_winograd
@pytest.mark.parametrize("size", [32, 20, 8, 4])
def test_a_net_has_the_same_gradients_with_and_without(
    size: int, minimal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "winograd_pays", lambda: minimal)
    errors = []
    for seed in range(8):
        torch.manual_seed(seed)
        net = create_model("white16", 10, size).to(memory_format=torch.channels_last)
        assert isinstance(net, WhiteNet)
        pictures = torch.randn(40, 3, size, size).contiguous(memory_format=torch.channels_last)
        net.whiten(pictures)
        both = [train_gradients(net, pictures, compiled) for compiled in (True, False)]
        net.zero_grad()
        F.cross_entropy(net(pictures), torch.arange(40) % 10).backward()
        exact = [p.grad for p in net.parameters() if p.grad is not None]
        errors.append(
            [
                [((x - wanted).norm() / wanted.norm()).item() for x in found]
                for *found, wanted in zip(*both, exact, strict=True)
            ]
        )
    # Both are off by bf16's roundings; ours, which rounds less often, by no more. Of a single net
    # either may be the luckier one, so many are averaged: of each weight. Minimal filtering rounds
    # larger numbers.
    ours, torchs = torch.tensor(errors).mean(0).unbind(1)
    assert (ours < (2.2 if minimal else 1.1) * torchs + 0.005).all()


@needs_kernels
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            x = features(7, 32, 9, 9).requires_grad_()
            norm = NormGelu(32)
            out = kernels.norm_gelu(x, norm, pool=True)
            out.backward(features(*out.shape, seed=1))
            results.append((out, x.grad, norm.bias.grad, norm.running_var))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_what_the_kernels_do_not_take_goes_another_way() -> None:
    x = features(2, 8, 4, 4)
    assert kernels.ready(x) == (compiled.library() is not None)
    assert not kernels.ready(x.float())
    assert not kernels.ready(x.contiguous())
    with torch.no_grad():
        assert not kernels.ready(x)
