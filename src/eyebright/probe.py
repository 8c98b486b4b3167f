"""The linear probe: a last layer fitted to a net's features of all pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eyebright.batches import Normalization
from eyebright.config import TrainConfig
from eyebright.console import counted, progress_bar
from eyebright.data import Dataset
from eyebright.features import Features, cached_features
from eyebright.metrics import Floats, confusion_matrix
from eyebright.models import head_of
from eyebright.regression import (
    FOLDS,
    find_penalty,
    leave_out,
    logits_left_out,
    mean_log_loss,
    regression,
    standardize,
)
from eyebright.training import EpochResult


def probe_epoch(
    net: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    normalization: Normalization,
    tell: Callable[[str], None],
) -> EpochResult:
    """Fit the last layer of a net to its features, in place; counts as epoch 0.

    Of several ranks the first one does; the others help it with `features_of_both`.

    Args:
        net: on its device, its other weights pretrained.
        train_set: what to fit to.
        val_set: held out; the penalty is chosen without it.
        config: says how classes are balanced, and the seed.
        normalization: of the pictures.
        tell: told the penalty.
    """
    start = time.perf_counter()
    features, seen = features_of_both(net, train_set, val_set, config, normalization)
    groups = train_set.columns[config.group] if config.group else None
    bias = head_of(net).bias is not None
    probe = fit_probe(features, train_set.labels, len(train_set.classes), config, groups, bias)
    probe.put_into(head_of(net))
    tell(probe.line(len(train_set)))
    confusion, logits = None, None
    if val_set is not None and seen is not None:
        logits = torch.from_numpy(probe.logits(seen))
        confusion = confusion_matrix(val_set.labels, logits.argmax(1).numpy(), len(val_set.classes))
    seconds = time.perf_counter() - start
    spare = None
    if probe.spare:
        logits_left_out, labels_left_out = map(np.concatenate, zip(*probe.spare, strict=True))
        spare = torch.from_numpy(logits_left_out.astype(np.float32)), labels_left_out
    return EpochResult(0, 0, seconds, probe.loss, (), confusion, logits, spare)


def features_of_both(
    net: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    normalization: Normalization,
) -> tuple[Features, Features | None]:
    """The features of the pictures to fit to and of those held out, made by all ranks together."""
    features = cached_features(net, train_set, normalization, config.tta)
    if val_set is None:
        return features, None
    return features, cached_features(net, val_set, normalization, config.tta)


@dataclass(frozen=True)
class Probe:
    """A last layer, as logistic regression found it."""

    weights: Floats
    """(classes, width)."""
    bias: Floats
    """(classes,)."""
    penalty: float
    """Of the squared weights, features being scaled to a deviation of 1."""
    losses: dict[float, float]
    """Penalty -> mean log loss on the parts left out; empty where nothing could be compared."""
    loss: float
    """Mean log loss on the pictures fitted to."""
    spare: list[tuple[Floats, NDArray[np.int64]]]
    """Logits and labels of each part that was left out of a fit with this penalty."""

    def logits(self, features: Features) -> Features:
        """Float32 (n, classes) of features (n, width)."""
        return (features @ self.weights.T + self.bias).astype(np.float32)

    def put_into(self, head: nn.Linear) -> None:
        """Make it a net's last layer."""
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(self.weights))
            if head.bias is not None:
                head.bias.copy_(torch.from_numpy(self.bias))

    def line(self, n: int) -> str:
        """What a user is told of it."""
        how = f"the best of {len(self.losses)} by {FOLDS}-fold cross-validation"
        if not self.losses:
            how = "too few pictures of a class to compare"
        return (
            f"linear probe on {self.weights.shape[1]:,} features of {counted(n, 'picture')}: "
            f"penalty {self.penalty:g}, {how}"
        )


def fit_probe(
    features: Features,
    labels: NDArray[np.int64],
    classes: int,
    config: TrainConfig,
    groups: list[str] | None = None,
    with_bias: bool = True,
) -> Probe:
    """Logistic regression on features, its penalty chosen by cross-validation.

    With ``logit-adjust`` the log of each class's share is taken off the biases afterwards (Menon et
    al. 2021); the other ways to balance weigh each class by one over its share.

    Args:
        features: float32 (n, width).
        labels: (n,), each class at least once.
        classes: how many there are.
        config: says how classes are balanced, and the seed of the parts.
        groups: pictures of one are left out together.
        with_bias: whether the layer has one.
    """
    x, centre, scale = standardize(features, with_bias)
    shares = np.zeros(classes)
    if config.balance == "logit-adjust" and with_bias:
        shares = np.log(np.bincount(labels, minlength=classes) / len(labels))
    weighing = "balanced" if config.balance != "none" and not shares.any() else None
    regress = partial(regression, x, labels, with_bias, weighing)
    parts = leave_out(labels, config.seed, groups)
    penalty, losses = find_penalty(x, labels, parts, regress)

    weights, bias = regress(np.arange(len(x)), penalty)
    loss = mean_log_loss(x @ weights.T + bias, labels)
    weights = weights / scale
    spare = [
        (logits_left_out(x, kept, out, penalty, regress) - shares, labels[out])
        for kept, out in parts
    ]
    return Probe(weights, bias - weights @ centre - shares, penalty, losses, loss, spare)


def out_of_fold_logits(features: Features, labels: NDArray[np.int64], seed: int) -> Floats:
    """What probes say of pictures that they were not fitted to.

    Args:
        features: float32 (n, width).
        labels: (n,), each class at least twice.
        seed: of the parts.

    Returns:
        (n, classes).
    """
    x = standardize(features)[0].astype(np.float32)  # of many pictures: half the time
    regress = partial(regression, x, labels, True, None)
    penalty, _ = find_penalty(x, labels, leave_out(labels, seed, None), regress)
    logits = np.empty((len(x), len(np.unique(labels))))
    parts = leave_out(labels, seed, None, most=len(labels))
    with progress_bar("judging labels", len(parts)) as bar:
        for kept, out in parts:
            logits[out] = logits_left_out(x, kept, out, penalty, regress)
            bar.advance()
    return logits
