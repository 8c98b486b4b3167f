"""The training loop: all of it, and the package's only ``optimizer.step()``."""

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eyebright.batches import Normalization, on_device, predict_logits, train_batches
from eyebright.config import TrainConfig
from eyebright.console import progress_bar
from eyebright.data import Dataset
from eyebright.errors import NumbersError
from eyebright.losses import create_loss
from eyebright.metrics import Counts, confusion_matrix
from eyebright.optim import Schedule, create_optimizers, set_lr
from eyebright.runtime import memory_format, onednn_for

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


def fit(
    model: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    normalization: Normalization,
    say: Callable[[str], None] | None,
    schedule: Schedule | None = None,
    look: Callable[[int], None] | None = None,
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
        look: told the steps so far about twice a second; like whoever gets the results, it may
            change the length of the schedule.

    Yields:
        A result for each epoch, when it is over; the last one may be cut short.

    Raises:
        NumbersError: a loss or weight that is not finite; names the step and learning rate.
    """
    optimizers = create_optimizers(model, config)
    device = next(model.parameters()).device
    images, rows = on_device(train_set.pixels, device)
    labels = torch.from_numpy(train_set.labels).to(device)
    counts = torch.from_numpy(train_set.counts()).to(device)
    loss_of = create_loss(config.balance, counts, config.label_smoothing)
    steps_per_epoch = count_steps(len(train_set), config)
    schedule = schedule or plain_schedule(len(train_set), config)
    autocast = (
        torch.autocast(device.type, torch.bfloat16)
        if config.precision == "bf16"
        else contextlib.nullcontext()
    )
    epoch, step, seconds = 0, 0, 0.0
    every = config.log_every
    log_points = range(every, steps_per_epoch + 1, every) if every else ()
    tell = say or (lambda line: None)
    layout = memory_format(config.batch_size, train_set.imgsz, config.precision, device)
    with progress_bar("training", schedule.total_steps, quiet=say is None) as bar:
        while step < schedule.total_steps:
            epoch += 1
            set_train(model)
            steps = min(steps_per_epoch, schedule.total_steps - step)
            start = looked = time.perf_counter()
            losses: list[Tensor] = []  # left on the device: asking for one waits for the device
            history: list[float] = []
            running: list[tuple[int, float]] = []
            batches = train_batches(images, labels, config, normalization, epoch, rows)
            with onednn_for(layout):
                for batch, (pictures, targets) in enumerate(islice(batches, steps), start=1):
                    set_lr(optimizers, schedule.share(step))
                    with autocast:
                        logits = model(pictures)
                    loss = loss_of(logits, targets)
                    loss.backward()
                    for optimizer in optimizers:
                        optimizer.step()
                        optimizer.zero_grad()
                    step += 1
                    losses.append(loss.detach())
                    now, log_now = time.perf_counter(), batch in log_points
                    last = batch == steps or step == schedule.total_steps
                    if log_now or last or now - looked > REFRESH:
                        history += finite_losses(losses, step, config.lr, schedule)
                        losses.clear()
                        looked = now
                        speed = batch * config.batch_size / (now - start)
                        info = f"loss {history[-1]:.3f}  {speed:,.0f} images/s"
                        bar.update(step, info, schedule.total_steps)
                        if look and not last:
                            look(step)
                    if log_now:
                        running.append((batch, mean(history[-config.log_every :])))
                        tell(f"[{epoch}, {batch:5d}] loss: {running[-1][1]:.3f}")
                    if step >= schedule.total_steps:
                        break
            check_weights(model, step)
            seconds += time.perf_counter() - start
            confusion, logits = (
                validate(model, val_set, normalization, config.tta) if val_set else (None, None)
            )
            yield EpochResult(
                epoch, step, seconds, mean(history), tuple(running), confusion, logits
            )


def set_train(model: nn.Module) -> None:
    """Training mode, but for batch norms that are not trained: they keep their statistics too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            module.train(any(p.requires_grad for p in module.parameters()))


def count_steps(n: int, config: TrainConfig) -> int:
    """Mini-batches in an epoch of n pictures."""
    return n // config.batch_size if config.drop_last else math.ceil(n / config.batch_size)


def plain_schedule(n: int, config: TrainConfig) -> Schedule:
    """The schedule of a run whose length is known beforehand, with n pictures."""
    steps = config.max_steps or config.epochs * count_steps(n, config)
    return Schedule(config.schedule, steps)


def mean(values: list[float]) -> float:
    """Arithmetic mean, without rounding errors that add up."""
    return math.fsum(values) / len(values)


def finite_losses(
    losses: list[Tensor], step: int, full_lr: float, schedule: Schedule
) -> list[float]:
    """The losses of the last steps as numbers.

    Raises:
        NumbersError: names the first step whose loss is not finite, and its learning rate.
    """
    values: list[float] = torch.stack(losses).tolist()
    for i, value in enumerate(values):
        if not math.isfinite(value):
            bad_step = step - len(values) + i
            lr = full_lr * schedule.share(bad_step)
            raise NumbersError(
                f"the loss is {value} at step {bad_step + 1} (learning rate {lr:.3g}); lower --lr"
            )
    return values


def check_weights(model: nn.Module, step: int) -> None:
    """See that the last step, whose loss nobody has looked at, left finite weights.

    Raises:
        NumbersError: it did not.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NumbersError(f"the weights {name} are not finite after step {step}; lower --lr")


def validate(
    model: nn.Module, val_set: Dataset, normalization: Normalization, tta: str
) -> tuple[Counts, Tensor]:
    """The confusion matrix and the logits (n, classes) of the net on these pictures, in fp32."""
    logits = predict_logits(model, val_set.pixels, normalization, tta)
    predictions = logits.argmax(1).numpy()
    return confusion_matrix(val_set.labels, predictions, len(val_set.classes)), logits
