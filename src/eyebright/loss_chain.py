"""The loss of one picture, link by link: logits, softmax, log-softmax, one-hot label, loss.

It is what `losses.cross_entropy` computes in one go, taken apart to be looked at, in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eyebright.calibration import softmax
from eyebright.classifier import Classifier, Picture
from eyebright.config import TrainConfig
from eyebright.losses import create_loss
from eyebright.metrics import Floats


@dataclass(frozen=True)
class LossChain:
    """The logits of one picture and all that cross-entropy makes of them, in nats."""

    classes: tuple[str, ...]
    logits: Floats
    """What the net's last layer says, float64 (classes,)."""
    label: str | None = None
    """The true class; None where nobody knows it."""
    temperature: float | None = None
    """What the model divides logits by before it gives probabilities; None: nothing."""

    @property
    def prediction(self) -> str:
        """The class with the largest logit, whatever the temperature (argmax)."""
        return self.classes[int(self.logits.argmax())]

    @property
    def log_sum_exp(self) -> float:
        """The logarithm of the sum of exp(logit), by the largest one so that none overflows."""
        return log_sum_exp(self.logits)

    @property
    def probabilities(self) -> Floats:
        """The softmax of the logits, (classes,)."""
        return self._softmax(1.0)

    @property
    def losses(self) -> Floats:
        """The loss for each class that might be the true one, (classes,): minus log-softmax."""
        return self.log_sum_exp - self.logits

    @property
    def log_probabilities(self) -> Floats:
        """The log-softmax: each logit less `log_sum_exp`, (classes,)."""
        return self.logits - self.log_sum_exp

    @property
    def one_hot(self) -> Floats | None:
        """The label as a distribution, (classes,): 1 at the true class; None without a label."""
        if self.label is None:
            return None
        found: Floats = np.zeros(len(self.classes))
        found[self.classes.index(self.label)] = 1
        return found

    @property
    def products(self) -> Floats | None:
        """Minus one-hot times log-softmax, (classes,); its sum is the loss."""
        return None if self.one_hot is None else self.one_hot * self.losses

    @property
    def loss(self) -> float | None:
        """Cross-entropy of logits and label, as ``torch.nn.CrossEntropyLoss()`` has it."""
        return None if self.products is None else float(self.products.sum())

    @property
    def calibrated(self) -> Floats | None:
        """The softmax of the logits over the temperature: what the model says, (classes,)."""
        return None if self.temperature is None else self._softmax(self.temperature)

    @property
    def calibrated_loss(self) -> float | None:
        """The loss of the logits over the temperature: what the figure "log loss" averages."""
        if self.temperature is None or self.label is None:
            return None
        scaled = self.logits / self.temperature
        return log_sum_exp(scaled) - float(scaled[self.classes.index(self.label)])

    def _softmax(self, temperature: float) -> Floats:
        row: Floats = softmax(self.logits[None], temperature)[0]
        return row


def log_sum_exp(logits: Floats) -> float:
    """The logarithm of the sum of exp(logit): a smooth maximum, at most log(n) above the true one.

    Args:
        logits: (n,); of any size, none overflows.
    """
    return float(np.logaddexp.reduce(logits))


def explain_loss(classifier: Classifier, picture: Picture, label: str | None = None) -> LossChain:
    """Follow one picture from its logits to its loss.

    Args:
        classifier: the model.
        picture: a path, encoded bytes or uint8 RGB pixels.
        label: the true class, if it is known.

    Raises:
        UsageError: the model has no such class.
        DataError: a picture that cannot be read; the message names it.
    """
    if label is not None:
        classifier.column(label)
    logits = classifier.logits([picture])[0].astype(np.float64)
    return LossChain(classifier.classes, logits, label, classifier.card.temperature)


def training_loss(chain: LossChain, config: TrainConfig, counts: Sequence[int]) -> float | None:
    """What the loss that a run was trained with would be, for these logits and this label.

    Label smoothing, logit adjustment and focal loss change it. Weights of classes do not: they say
    how much a picture counts among others (`losses.class_weights`).

    Args:
        chain: of a picture.
        config: the run's.
        counts: training pictures of each class, in the order of the classes.

    Returns:
        None without a label.
    """
    if chain.label is None:
        return None
    loss_of = create_loss(config.balance, torch.tensor(counts), config.label_smoothing)
    logits = torch.from_numpy(chain.logits[None])
    return float(loss_of(logits, torch.tensor([chain.classes.index(chain.label)])))
