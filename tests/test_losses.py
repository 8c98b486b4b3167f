"""Cross-entropy against its definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eyebright.losses import cross_entropy

SMOOTHINGS = [0.0, 0.1, 0.2, 0.9]


def example(classes: int = 10, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(64, classes, generator=generator)
    return logits, torch.randint(0, classes, (64,), generator=generator)


def reference(logits: Tensor, labels: Tensor, smoothing: float) -> float:
    """The definition in float64: log-softmax, then minus the expectation under the target."""
    values = logits.double().numpy()
    values = values - values.max(1, keepdims=True)
    log_p = values - np.log(np.exp(values).sum(1, keepdims=True))
    target = np.full(log_p.shape, smoothing / log_p.shape[1])
    target[np.arange(len(labels)), labels.numpy()] += 1 - smoothing
    return float(-(target * log_p).sum(1).mean())


def test_it_is_log_softmax_and_negative_log_likelihood() -> None:
    logits, labels = example()
    wanted = F.nll_loss(F.log_softmax(logits, dim=1), labels)
    torch.testing.assert_close(cross_entropy(logits, labels), wanted)
    torch.testing.assert_close(torch.nn.CrossEntropyLoss()(logits, labels), wanted)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("scale", [0.01, 3.0, 300.0])
def test_it_equals_its_definition_in_float64(smoothing: float, classes: int, scale: float) -> None:
    logits, labels = example(classes, scale)
    loss = cross_entropy(logits, labels, smoothing).item()
    assert loss == pytest.approx(reference(logits, labels, smoothing), rel=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    loss = cross_entropy(torch.zeros(5, 10), torch.arange(5))
    assert loss.item() == pytest.approx(np.log(10), rel=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_softmax_before_it_is_one_too_many(smoothing: float) -> None:
    logits, labels = example(scale=1.0)
    logits[torch.arange(64), labels] += 10  # a net that is right, and sure
    right = cross_entropy(logits, labels, smoothing).item()
    twice = cross_entropy(logits.softmax(1), labels, smoothing).item()
    assert abs(twice - right) > 0.1
    # The second one flattens: even certainty costs ln(e + 9) - 1 = 1.46 at the least.
    if not smoothing:
        assert right < 0.1
        assert twice > 1.4


def test_a_softmax_before_it_flattens_the_gradient() -> None:
    norms = []
    for softmax in (False, True):
        logits, labels = example()
        logits.requires_grad_()
        cross_entropy(logits.softmax(1) if softmax else logits, labels).backward()
        norms.append(logits.grad.norm().item())
    assert norms[1] < norms[0] / 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_short_floats_are_computed_in_fp32(dtype: torch.dtype, smoothing: float) -> None:
    logits, labels = example()
    short = logits.to(dtype)
    loss = cross_entropy(short, labels, smoothing)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference(short.float(), labels, smoothing), rel=1e-6)


def test_its_gradient_is_probability_minus_target() -> None:
    logits, labels = example()
    logits.requires_grad_()
    cross_entropy(logits, labels, 0.2).backward()
    target = torch.full((64, 10), 0.02)
    target[torch.arange(64), labels] += 0.8
    wanted = (logits.detach().softmax(1) - target) / 64
    torch.testing.assert_close(logits.grad, wanted, rtol=1e-4, atol=1e-7)
