"""Losses: functions of (logits, labels), also for classes of very different size."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (batch, classes) and int64 labels (batch,) to a scalar, in nats."""

EVEN = ("weights", "sampler", "effective-number", "logit-adjust")
"""Values of ``--balance`` with which a net answers as if all classes were equally frequent."""


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy: log-softmax, then the negative log-likelihood of the right class.

    The log-softmax is part of it, so a net needs no activation at its end; a softmax there would
    be applied twice and flatten the gradient.

    Args:
        logits: (batch, classes), of any float type; the loss is computed in fp32.
        labels: int64 (batch,).
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        weights: (classes,), how much pictures of each class count; None: all the same.

    Returns:
        A scalar, in nats.
    """
    if weights is None:
        return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    # A picture's whole loss has its class's weight. Torch would weigh each term of the smoothed
    # target by its own class: a rare one's small share, times a large weight, outweighs the truth.
    losses = F.cross_entropy(
        logits.float(), labels, label_smoothing=label_smoothing, reduction="none"
    )
    of_picture = weights[labels]
    return (of_picture * losses).sum() / of_picture.sum()


def inverse_frequency(counts: Tensor) -> Tensor:
    """Weights (classes,) with which every class counts the same in all (King & Zeng 2001)."""
    return counts.sum() / (len(counts) * counts)


def effective_number(counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Weights (classes,) by how much new a class's further pictures bring, their mean 1.

    One over the effective number of pictures, (1 - beta^n) / (1 - beta) (Cui et al. 2019,
    "Class-balanced loss based on effective number of samples").
    """
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean focal loss: sure and right predictions hardly count (Lin et al. 2017).

    Args:
        logits: (batch, classes).
        labels: int64 (batch,).
        gamma: 0 is cross-entropy.
    """
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return ((1 - torch.exp(-losses)) ** gamma * losses).mean()


def logit_adjusted(
    logits: Tensor, labels: Tensor, shares: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of logits to which the log of each class's share is added while training.

    What the net itself then says is free of those shares, as if all classes were equally frequent
    (Menon et al. 2021, "Long-tail learning via logit adjustment").

    The smoothed part of the target is spread by the same shares ("unigram" smoothing, Pereyra et
    al. 2017), so that the net's likeliest class stays the one that a balanced world would make
    likeliest. Spread evenly, it would be far more than a rare class's share, and the net would
    see rare classes everywhere.

    Args:
        logits: (batch, classes).
        labels: int64 (batch,).
        shares: each class's share of the training pictures, (classes,).
        label_smoothing: share of the target that is spread, from 0 to 1.
    """
    log_p = F.log_softmax(logits.float() + shares.log(), dim=1)
    spread = -(log_p @ shares).mean()
    return (1 - label_smoothing) * F.nll_loss(log_p, labels) + label_smoothing * spread


def create_loss(balance: str, counts: Tensor, label_smoothing: float) -> Loss:
    """The loss of a run.

    Args:
        balance: what is done about classes of different size, as `TrainConfig.balance` names it;
            a sampler needs nothing from the loss.
        counts: training pictures of each class, (classes,), on the device of the logits.
        label_smoothing: as in `cross_entropy`; focal loss has none.
    """
    if balance == "focal":
        return focal
    if balance == "logit-adjust":
        counts = counts.float().clamp_min(1)
        shares = counts / counts.sum()
        return partial(logit_adjusted, shares=shares, label_smoothing=label_smoothing)
    weights = class_weights(balance, counts)
    return partial(cross_entropy, label_smoothing=label_smoothing, weights=weights)


def class_weights(balance: str, counts: Tensor) -> Tensor | None:
    """How much a picture of each class counts in the mean, (classes,); None: all the same.

    Args:
        balance: as in `create_loss`.
        counts: as in `create_loss`.
    """
    weighting = {"weights": inverse_frequency, "effective-number": effective_number}.get(balance)
    return None if weighting is None else weighting(counts.float().clamp_min(1))
