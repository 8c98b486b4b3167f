"""Whether numbers are finite: which tensor is not, and which step of a training did it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from eyebright import distributed
from eyebright.errors import NumbersError
from eyebright.optim import Schedule


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first of these tensors that is not all finite numbers; None: all are.

    Wherever they lie, they are waited for once.
    """
    floats = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not floats:
        return None
    # Eight-bit floats do not say whether they are finite.
    wide = [t.float() if t.element_size() == 1 else t for t in floats.values()]
    finite = torch.stack([torch.isfinite(t).all() for t in wide]).tolist()
    return next((name for name, fine in zip(floats, finite, strict=True) if not fine), None)


def finite_losses(
    losses: list[Tensor], step: int, full_lr: float, schedule: Schedule
) -> list[float]:
    """The losses of the last steps as numbers.

    Raises:
        NumbersError: names the first step whose loss is not finite, and its learning rate.
    """
    values: list[float] = distributed.average(torch.stack(losses)).tolist()
    for i, value in enumerate(values):
        if not math.isfinite(value):
            bad_step = step - len(values) + i
            lr = full_lr * schedule.share(bad_step)
            raise NumbersError(
                f"the loss is {value} at step {bad_step + 1} (learning rate {lr:.3g}); lower --lr"
            )
    return values


def check_weights(weights: Mapping[str, Tensor], step: int, lr: float) -> None:
    """See that the last step, whose loss nobody has looked at, left finite weights.

    Args:
        weights: a net's ``state_dict``.
        step: the number of that step.
        lr: its learning rate.

    Raises:
        NumbersError: it did not.
    """
    if name := first_not_finite(weights):
        raise NumbersError(
            f"the weights {name} are not finite after step {step} (learning rate {lr:.3g}); "
            "lower --lr"
        )
