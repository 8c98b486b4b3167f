"""Cross-entropy against its definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eyebright.losses import create_loss, cross_entropy, effective_number, inverse_frequency

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


COUNTS = torch.tensor([90, 9, 1])


def test_weights_are_those_of_the_papers() -> None:
    assert inverse_frequency(COUNTS).tolist() == pytest.approx([100 / 270, 100 / 27, 100 / 3])
    # Weighted by how many there are, every class counts the same.
    total = inverse_frequency(COUNTS) * COUNTS
    assert total.tolist() == pytest.approx([total[0].item()] * 3)
    weights = effective_number(COUNTS, beta=0.9)
    by_hand = [(1 - 0.9) / (1 - 0.9**n) for n in (90, 9, 1)]
    assert weights.tolist() == pytest.approx([3 * w / sum(by_hand) for w in by_hand])
    assert effective_number(COUNTS, beta=0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("balance", ["none", "sampler", "weights", "effective-number"])
def test_weighted_losses_are_weighted_means(balance: str, smoothing: float) -> None:
    logits, labels = example(3)
    weights = {
        "weights": inverse_frequency(COUNTS),
        "effective-number": effective_number(COUNTS),
    }.get(balance, torch.ones(3))
    each = torch.stack(
        [cross_entropy(x[None], y[None], smoothing) for x, y in zip(logits, labels, strict=True)]
    )
    wanted = (weights[labels] * each).sum() / weights[labels].sum()
    torch.testing.assert_close(create_loss(balance, COUNTS, smoothing)(logits, labels), wanted)


def test_focal_loss_is_its_definition() -> None:
    logits, labels = example(4)
    p = torch.softmax(logits.double(), 1)[torch.arange(64), labels]
    wanted = (-((1 - p) ** 2) * p.log()).mean().float()
    torch.testing.assert_close(create_loss("focal", COUNTS, 0.3)(logits, labels), wanted)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_logit_adjustment_takes_the_shares_of_classes_out_of_the_net(smoothing: float) -> None:
    logits, labels = example(3)
    shares = COUNTS / COUNTS.sum()
    loss = create_loss("logit-adjust", COUNTS, smoothing)
    if not smoothing:
        torch.testing.assert_close(
            loss(logits, labels), cross_entropy(logits + shares.log(), labels)
        )
    # A net that knows nothing of the picture does best by saying that all classes are alike.
    often = torch.repeat_interleave(torch.arange(3), COUNTS)
    knows_nothing = torch.zeros(3, requires_grad=True)
    loss(knows_nothing.expand(100, 3), often).backward()
    assert knows_nothing.grad is not None
    torch.testing.assert_close(knows_nothing.grad, torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("balance", ["none", "weights", "effective-number", "logit-adjust"])
@pytest.mark.parametrize("truth", [0, 1, 2])
def test_a_net_that_is_sure_of_a_class_does_best_by_naming_it(
    truth: int, balance: str, smoothing: float
) -> None:
    """However rare or frequent it is: smoothing takes no picture out of its class."""
    loss = create_loss(balance, torch.tensor([5000, 500, 50]), smoothing)
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits, torch.tensor([truth]))
        value.backward()
        return value

    optimizer.step(closure)
    assert logits.argmax().item() == truth


def losses_in_float64(balance: str, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """All losses once more, from their definitions."""
    classes, rows = logits.shape[1], torch.arange(len(labels))
    shares = COUNTS.double() / COUNTS.sum()
    if balance == "focal":
        p = logits.softmax(1)[rows, labels]
        return (-((1 - p) ** 2) * p.log()).mean()
    spread = torch.full((classes,), 1 / classes, dtype=torch.float64)
    if balance == "logit-adjust":
        logits, spread = logits + shares.log(), shares
    target = smoothing * spread.repeat(len(labels), 1)
    target[rows, labels] += 1 - smoothing
    each = -(target * logits.log_softmax(1)).sum(1)
    weights = {
        "weights": 1 / (3 * shares),
        "effective-number": (1 - 0.9999) / (1 - 0.9999 ** COUNTS.double()),
    }.get(balance, torch.ones(3, dtype=torch.float64))[labels]
    return (weights * each).sum() / weights.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    "balance", ["none", "weights", "effective-number", "focal", "logit-adjust"]
)
def test_losses_and_their_gradients_are_those_of_float64(balance: str, smoothing: float) -> None:
    logits, labels = example(3)
    exact = logits.double().requires_grad_()
    wanted = losses_in_float64(balance, exact, labels, smoothing)
    wanted.backward()
    logits.requires_grad_()
    loss = create_loss(balance, COUNTS, smoothing)(logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)
