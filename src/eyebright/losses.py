"""Losses: functions of (logits, labels)."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy: log-softmax, then the negative log-likelihood of the right class.

    The log-softmax is part of it, so a net needs no activation at its end; a softmax there would
    be applied twice and flatten the gradient.

    Args:
        logits: (batch, classes), of any float type; the loss is computed in fp32.
        labels: int64 (batch,).
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).

    Returns:
        A scalar, in nats.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
