"""The linear probe: a net's features of all pictures once, and a last layer fitted to them."""

import contextlib
import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor, nn

from eyebright.batches import Normalization, predict_logits
from eyebright.checkpoint import write_file
from eyebright.config import TrainConfig
from eyebright.console import progress_bar
from eyebright.data import Dataset
from eyebright.data.cache import data_home
from eyebright.data.splits import group_folds, stratified_folds
from eyebright.data.views import View
from eyebright.errors import StorageError
from eyebright.images import POLICY
from eyebright.metrics import Floats, confusion_matrix
from eyebright.models import head_of
from eyebright.training import EpochResult

PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(5, -4.5, -0.5))
"""Tried for the weights, each as a share of the loss summed over the pictures; heavy ones, which
are quick to fit, first."""
PATIENCE = 2  # lighter penalties that are tried in vain before the rest is not
FOLDS = 5
MOST_COMPARED = 4000  # pictures by which penalties are compared: of more, so many by chance
PART = 64  # pictures between two looks at the progress bar

Features = NDArray[np.float32]
Numbers = NDArray[np.float32] | NDArray[np.float64]
Positions = NDArray[np.int64]


class Penultimate(nn.Module):
    """What the last layer of a net sees, in place of what it says."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.head = net, head_of(net)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features (batch, width) of normalised pictures (batch, 3, height, width)."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.net(pictures)
        finally:
            handle.remove()
        return seen[0].flatten(1)


def compute_features(
    net: nn.Module,
    images: NDArray[np.uint8] | View,
    normalization: Normalization,
    tta: str = "none",
    hear: Callable[[int], None] | None = None,
) -> Features:
    """The features of pictures, uint8 (n, imgsz, imgsz, 3): float32 (n, width).

    ``hear`` is told how many more are done.

    With ``mirror``, the mean of a picture's and its mirror image's: the last layer being linear,
    their mean logits follow from it.
    """
    eye, parts = Penultimate(net), []
    for start in range(0, len(images), PART):
        part = images[start : start + PART]
        parts.append(predict_logits(eye, part, normalization, tta).numpy())
        if hear:
            hear(len(part))
    return np.concatenate(parts) if parts else np.empty((0, eye.head.in_features), np.float32)


def cached_features(
    net: nn.Module, data: Dataset, normalization: Normalization, tta: str
) -> Features:
    """As `compute_features`, but a second time they are read from the folder of data sets.

    They are kept by what they follow from: pictures, weights, normalisation, and how pictures are
    read. A file that is damaged or of another shape is made anew.
    """
    digest = hashlib.sha256(f"{data.fingerprint} {POLICY} {normalization} {tta}".encode())
    head = {id(parameter) for parameter in head_of(net).parameters()}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if id(tensor) not in head:
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    path = data_home() / "features" / f"{digest.hexdigest()}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError):
        found: Features = load_arrays(path.read_bytes())["features"]
        if found.shape == (len(data), head_of(net).in_features) and found.dtype == np.float32:
            return found
    with progress_bar("computing features", len(data)) as bar:
        features = compute_features(net, data.pixels, normalization, tta, bar.advance)
    with contextlib.suppress(OSError, StorageError):  # no room to keep them: they are here
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, save_arrays({"features": features}))
    return features


def probe_epoch(
    net: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    normalization: Normalization,
    tell: Callable[[str], None],
) -> EpochResult:
    """Fit the last layer of a net to its features, in place; counts as epoch 0.

    Args:
        net: on its device, its other weights pretrained.
        train_set: what to fit to.
        val_set: held out; the penalty is chosen without it.
        config: says how classes are balanced, and the seed.
        normalization: of the pictures.
        tell: told the penalty.
    """
    start = time.perf_counter()
    features = cached_features(net, train_set, normalization, config.tta)
    groups = train_set.columns[config.group] if config.group else None
    bias = head_of(net).bias is not None
    probe = fit_probe(features, train_set.labels, len(train_set.classes), config, groups, bias)
    probe.put_into(head_of(net))
    tell(probe.line(len(train_set)))
    confusion, logits = None, None
    if val_set is not None:
        seen = cached_features(net, val_set, normalization, config.tta)
        logits = torch.from_numpy(probe.logits(seen))
        confusion = confusion_matrix(val_set.labels, logits.argmax(1).numpy(), len(val_set.classes))
    seconds = time.perf_counter() - start
    spare = None
    if probe.spare:
        logits_left_out, labels_left_out = map(np.concatenate, zip(*probe.spare, strict=True))
        spare = torch.from_numpy(logits_left_out.astype(np.float32)), labels_left_out
    return EpochResult(0, 0, seconds, probe.loss, (), confusion, logits, spare)


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
            f"linear probe on {self.weights.shape[1]:,} features of {n:,} pictures: penalty "
            f"{self.penalty:g}, {how}"
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


def standardize(features: Features, with_bias: bool = True) -> tuple[Floats, Features, Features]:
    """Features (n, width) at a deviation of 1, and the centre and scale that were taken off."""
    centre, scale = features.mean(0) * with_bias, features.std(0)
    scale = np.where(scale > 0, scale, 1)  # a feature that is always the same says nothing
    return ((features - centre) / scale).astype(np.float64), centre, scale


def regression(
    x: Numbers,
    labels: NDArray[np.int64],
    with_bias: bool,
    weighing: str | None,
    which: Positions,
    penalty: float,
) -> tuple[Floats, Floats]:
    """Weights (classes, width) and biases (classes,) of a regression on some rows of x."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / penalty, class_weight=weighing, fit_intercept=with_bias, max_iter=1000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that stopped before its last digits
        model.fit(x[which], labels[which])
    weights, bias = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_))
    if len(weights) == 1:  # two classes: one row that tells the second from the first
        return np.concatenate((-weights, weights)) / 2, np.concatenate((-bias, bias)) / 2
    return weights, bias


def logits_left_out(
    x: Numbers,
    kept: Positions,
    out: Positions,
    penalty: float,
    regress: Callable[[Positions, float], tuple[Floats, Floats]],
) -> Floats:
    """Logits of the rows of x that are left out, by a fit to those kept with this penalty."""
    # Of fewer pictures, the loss is a smaller sum: so is the penalty beside it.
    weights, bias = regress(kept, penalty * len(kept) / len(x))
    logits: Floats = x[out] @ weights.T + bias
    return logits


def leave_out(
    labels: NDArray[np.int64], seed: int, groups: list[str] | None, most: int | None = None
) -> list[tuple[Positions, Positions]]:
    """Positions to fit to and positions left out, for each of `FOLDS` parts.

    Args:
        labels: (n,).
        seed: of the parts, and of the choice where there are more than ``most`` pictures.
        groups: pictures of one are left out together.
        most: so many pictures are used; None: `MOST_COMPARED`.

    Returns:
        Nothing where a class has only one picture, or is all of one group.
    """
    few = np.arange(len(labels))
    most = MOST_COMPARED if most is None else most
    if len(few) > most:
        few = np.sort(np.random.default_rng(seed).permutation(few)[:most])
    folds = min(FOLDS, int(np.bincount(labels).min()))
    if folds < 2 or (groups and len({groups[i] for i in few}) < folds):
        return []
    fold_of = (
        group_folds(labels[few], [groups[i] for i in few], folds, seed)
        if groups
        else stratified_folds(labels[few], folds, seed)
    )
    parts = [(few[fold_of != k], few[fold_of == k]) for k in range(folds)]
    classes = len(np.unique(labels))
    return parts if all(len(np.unique(labels[kept])) == classes for kept, _ in parts) else []


def find_penalty(
    x: Numbers,
    labels: NDArray[np.int64],
    parts: list[tuple[Positions, Positions]],
    regress: Callable[[Positions, float], tuple[Floats, Floats]],
) -> tuple[float, dict[float, float]]:
    """The best penalty, and the mean log loss of each on parts left out of its fit in turn.

    Args:
        x: scaled features (n, width).
        labels: (n,).
        parts: positions to fit to and positions left out; none: nothing can be compared.
        regress: fits to the pictures at these positions with a penalty.
    """
    losses: dict[float, float] = {}
    best, compared = 1.0, sum(len(out) for _, out in parts)
    with progress_bar("comparing penalties", len(PENALTIES) * len(parts)) as bar:
        for i, penalty in enumerate(PENALTIES if parts else ()):
            losses[penalty] = 0.0
            for kept, out in parts:
                logits = logits_left_out(x, kept, out, penalty, regress)
                loss = mean_log_loss(logits, labels[out])
                losses[penalty] += loss * len(out) / compared
                bar.advance()
            best = min(losses, key=lambda p: losses[p])
            if i - PENALTIES.index(best) >= PATIENCE:
                break
    return best, losses


def mean_log_loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy of logits (n, classes), in nats."""
    return float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)))
