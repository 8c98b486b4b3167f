"""The statistics of a net's norms, measured after its last step."""

import math
from collections.abc import Iterable

from torch import Tensor, nn

from eyebright.layers import NormGelu

MEASURED = 10_000  # pictures, whose statistics stand for those of all, ...
SHARE_MEASURED = 0.1  # ... and at most this share of all that went into training, ...
FEWEST_MEASURED = 5  # ... in more batches than the statistics at hand are of
FORWARD = 0.35  # of the time of a step, for a batch that nothing is learned from


def count_measured(steps: int, batch_size: int) -> int:
    """Mini-batches that a net's norms are measured on after its last step."""
    batches = min(math.ceil(MEASURED / batch_size), int(SHARE_MEASURED * steps))
    return batches if batches >= FEWEST_MEASURED else 0


def steps_to_measure(steps: int, batch_size: int) -> float:
    """As many steps would take the time that measuring takes after so many steps."""
    return FORWARD * count_measured(steps, batch_size)


def measure_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the statistics by which norms go in evaluation, now that the net is what it will be.

    While it learns they must follow it within a few batches, and so are those of a few; after the
    last step they are worth more pictures (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm",
    arXiv:2105.07576).

    Args:
        model: in training mode; its `NormGelu` layers that are learning too are measured.
        batches: pictures as in training. None of them is looked at where there is nothing to
            measure.
    """
    norms = [m for m in model.modules() if isinstance(m, NormGelu) and m.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    seen = 0
    try:
        for norm in norms:
            norm.num_batches_tracked = None  # to measure twice must be to measure once
        for pictures in batches if norms else ():
            seen += len(pictures)
            for norm in norms:
                norm.momentum = len(pictures) / seen  # the mean of all so far
            model(pictures)  # with gradients, that nobody asks for: so it is done as in training
    finally:
        for norm, (momentum, batches_tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches_tracked
