"""The training loop: all of it, and the package's only ``optimizer.step()``."""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eyebright import distributed
from eyebright.batches import (
    Normalization,
    on_device,
    predict_logits,
    train_batches,
)
from eyebright.config import TrainConfig
from eyebright.console import progress_bar
from eyebright.data import Dataset
from eyebright.finite import check_weights, finite_losses
from eyebright.graphs import Replayed, is_known
from eyebright.losses import class_weights, create_loss
from eyebright.measuring import count_measured, measure_norms
from eyebright.metrics import Counts, confusion_matrix
from eyebright.norms import over_ranks, share_of_batch
from eyebright.optim import Schedule, create_optimizers, set_lr
from eyebright.order import derived_seed
from eyebright.runtime import autocast, memory_format, onednn_for, records_steps, timed_kernels

REFRESH = 0.5  # seconds between looks at the losses, where no other rhythm is asked for


@dataclass(frozen=True)
class EpochResult:
    """What is known when an epoch is over."""

    epoch: int
    """Counted from 1."""
    step: int
    """Mini-batches so far."""
    seconds: float
    """Of training so far: without loading and validation."""
    train_loss: float
    """Mean over the epoch."""
    running_losses: tuple[tuple[int, float], ...]
    """(mini-batch, mean loss since the one before), as often as ``log_every`` says."""
    val_confusion: Counts | None
    """Of the pictures held out, in fp32; None where there are none."""
    val_logits: Tensor | None = None
    """Of the pictures held out, float32 (n, classes); None where there are none."""
    spare: tuple[Tensor, NDArray[np.int64]] | None = None
    """Logits and labels of further pictures that had no part in them, to calibrate by."""


@dataclass
class Position:
    """Where a training stands between two mini-batches."""

    epoch: int = 0
    """Epochs that are over."""
    step: int = 0
    """Mini-batches so far."""
    seconds: float = 0.0
    """Of training so far."""
    batch: int = 0
    """Mini-batches of the epoch that is under way."""
    losses: list[float] = field(default_factory=list)
    """Of each of those."""
    running: list[tuple[int, float]] = field(default_factory=list)
    """As in `EpochResult.running_losses`, of that epoch."""
    under_way: bool = field(default=True, compare=False)
    """Whether all this may be changing just now; not while pictures held out are looked at."""


def fit(
    model: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    normalization: Normalization,
    say: Callable[[str], None] | None,
    schedule: Schedule | None = None,
    look: Callable[[], None] | None = None,
    position: Position | None = None,
    optimizers: list[torch.optim.Optimizer] | None = None,
) -> Generator[EpochResult]:
    """Train a net, an epoch at a time.

    Args:
        model: on the device already; it is changed in place.
        train_set: pictures of the size that the net takes.
        val_set: pictures held out, to look at after each epoch.
        config: with nothing left to "auto".
        normalization: of the pictures, the same in training and validation.
        say: told the running loss, where ``config.log_every`` asks for it; None: be silent.
        schedule: steps and learning rate. Default: what config says.
        look: called about twice a second; like whoever gets the results, it may look at the
            position and change the length of the schedule.
        position: where to begin; it is kept up to date. Default: at the beginning.
        optimizers: of the model. Default: what config says, as they are before the first step.

    Yields:
        A result for each epoch, when it is over; the last one may be cut short.

    Raises:
        NumbersError: a loss or weight that is not finite; names the step and learning rate.
    """
    optimizers = create_optimizers(model, config) if optimizers is None else optimizers
    device = next(model.parameters()).device
    images, rows = on_device(train_set.pixels, device)
    labels = torch.from_numpy(train_set.labels).to(device)
    counts = torch.from_numpy(train_set.counts()).to(device)
    loss_of = create_loss(config.balance, counts, config.label_smoothing)
    weights = class_weights(config.balance, counts)
    ranks = distributed.size()
    net, norms = over_ranks(model) if ranks > 1 else (model, contextlib.nullcontext())
    steps_per_epoch = count_steps(len(train_set), config)
    schedule = schedule or plain_schedule(len(train_set), config)
    at = Position() if position is None else position
    every, tell = config.log_every, say or (lambda line: None)
    layout = memory_format(config.batch_size, train_set.imgsz, config.precision, device)

    def batches_of(epoch: int, first: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        shards = train_set.shards
        return train_batches(images, labels, config, normalization, epoch, rows, first, shards)

    def take_step(pictures: Tensor, targets: Tensor) -> Tensor:
        with autocast(device, config.precision), norms:
            logits = net(pictures)
        loss = loss_of(logits, targets)
        if ranks > 1:  # whose gradients are averaged: a part counts by what it weighs
            loss = loss * share_of_batch(loss, targets, weights)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    can_be_recorded = records_steps(device) and is_known(model) and ranks == 1
    step = Replayed(take_step, config.batch_size) if can_be_recorded else take_step
    with progress_bar("training", schedule.total_steps, quiet=say is None) as bar:
        while at.step < schedule.total_steps or at.batch:
            set_train(model)
            epoch, watch = at.epoch + 1, Watch(at, config, schedule)
            left = min(steps_per_epoch - at.batch, schedule.total_steps - at.step)
            steps = at.batch + max(0, left)  # none, where the run has become shorter since
            batches = batches_of(epoch, at.batch)
            with onednn_for(layout), timed_kernels():
                for pictures, targets in islice(batches, steps - at.batch):
                    set_lr(optimizers, schedule.share(at.step))
                    if ranks > 1:  # dropout: other units in each rank, the same after a restart
                        torch.manual_seed(derived_seed(config.seed, at.step, distributed.rank()))
                    watch.losses.append(step(pictures, targets))
                    at.step += 1
                    at.batch += 1
                    log_now = bool(every) and at.batch % every == 0
                    last = at.batch == steps or at.step == schedule.total_steps
                    if log_now or last or watch.is_due():
                        watch.read()
                        if log_now:
                            at.running.append((at.batch, mean(at.losses[-every:])))
                            tell(f"[{epoch}, {at.batch:5d}] loss: {at.running[-1][1]:.3f}")
                        bar.update(at.step, watch.info(), schedule.total_steps)
                        if look and not last:
                            look()
                    if at.step >= schedule.total_steps:
                        break
            if at.step >= schedule.total_steps:
                bar.update(at.step, "measuring norms", schedule.total_steps)
                few = count_measured(at.step, config.batch_size)
                with (
                    contextlib.closing(batches_of(epoch + 1)) as batches,
                    onednn_for(layout), autocast(device, config.precision), norms,
                ):  # fmt: skip
                    measure_norms(model, (pictures for pictures, _ in islice(batches, few)))
            check_weights(model.state_dict(), at.step, config.lr * schedule.share(at.step - 1))
            at.seconds = watch.seconds()
            at.under_way = False
            confusion, logits = (
                validate(model, val_set, normalization, config.tta) if val_set else (None, None)
            )
            at.under_way = True
            result = EpochResult(
                epoch, at.step, at.seconds, mean(at.losses), tuple(at.running), confusion, logits
            )
            at.epoch, at.batch, at.losses, at.running = epoch, 0, [], []
            yield result


class Watch:
    """The losses of an epoch: they stay on the device, for asking for one waits for the device.

    Args:
        at: where the training stands; it is kept up to date.
        config: with the size of a batch and the rate.
        schedule: of the rate.
    """

    def __init__(self, at: Position, config: TrainConfig, schedule: Schedule):
        self.at, self.config, self.schedule = at, config, schedule
        self.losses: list[Tensor] = []
        """That nobody has read yet."""
        self._begun, self._before = at.batch, at.seconds
        self._start = self._read = time.perf_counter()
        self._next = at.batch + 1

    def seconds(self) -> float:
        """Of training, this epoch and those before."""
        return self._before + time.perf_counter() - self._start

    def is_due(self) -> bool:
        """Whether they are to be read: about twice a second."""
        if distributed.size() == 1:
            return time.perf_counter() - self._read > REFRESH
        return self.at.batch >= self._next  # ranks meet at a step, whatever their clocks say

    def read(self) -> None:
        """Bring losses and seconds of the position up to date.

        Raises:
            NumbersError: a loss that is not finite.
        """
        at, seconds, now = self.at, self.seconds(), time.perf_counter()
        at.losses += finite_losses(self.losses, at.step, self.config.lr, self.schedule)
        at.seconds = seconds
        self.losses.clear()
        steps_till_then = round(REFRESH * (at.batch - self._begun) / (now - self._start))
        self._read, self._next = now, at.batch + max(1, distributed.told(steps_till_then))

    def info(self) -> str:
        """The last loss and the speed, to stand behind a progress bar."""
        pictures = (self.at.batch - self._begun) * self.config.batch_size
        speed = pictures / (self._read - self._start)
        return f"loss {self.at.losses[-1]:.3f}  {speed:,.0f} images/s"


def set_train(model: nn.Module) -> None:
    """Training mode, but for batch norms that are not trained: they keep their statistics too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            module.train(any(p.requires_grad for p in module.parameters()))


def count_steps(n: int, config: TrainConfig) -> int:
    """Mini-batches in an epoch of n pictures."""
    return n // config.batch_size if config.drop_last else math.ceil(n / config.batch_size)


def plain_schedule(
    n: int, config: TrainConfig, changes: Iterable[tuple[int, int]] = ()
) -> Schedule:
    """The schedule of a run with n pictures, and changes that were made on the way."""
    steps = config.max_steps or config.epochs * count_steps(n, config)
    return Schedule(config.schedule, steps, changes)


def mean(values: list[float]) -> float:
    """Arithmetic mean, without rounding errors that add up."""
    return math.fsum(values) / len(values)


def validate(
    model: nn.Module, val_set: Dataset, normalization: Normalization, tta: str
) -> tuple[Counts, Tensor]:
    """The confusion matrix and the logits (n, classes) of the net on these pictures, in fp32."""
    mine = val_set.pixels
    if distributed.size() > 1:
        mine = mine.pick(np.arange(len(val_set))[distributed.part(len(val_set))])
    logits = predict_logits(model, mine, normalization, tta)
    logits = distributed.joined(logits, len(val_set))
    predictions = logits.argmax(1).numpy()
    return confusion_matrix(val_set.labels, predictions, len(val_set.classes)), logits
