"""The order of pictures in an epoch: a function of (seed, epoch), so there is no state to keep."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyebright.config import TrainConfig

WINDOW, WINDOW_SHARDS = 16_384, 4  # pictures, and shards, that are shuffled among one another


def order_for(
    labels: Tensor, config: TrainConfig, epoch: int, shards: NDArray[np.int32] | None
) -> Tensor:
    """Positions of the pictures of an epoch, int64, on the processor.

    Args:
        labels: int64 (n,).
        config: says the seed, whether classes are drawn equally often, and the batches.
        epoch: counted from 1.
        shards: which shard each picture lies in, (n,): a few are gone through at a time. None: they
            lie in none.
    """
    if config.balance == "sampler":
        order = balanced_order(labels, config.seed, epoch)
    else:
        order = epoch_order(len(labels), config.seed, epoch)
    if shards is not None:
        order = order_by_windows(order, shards, config.seed, epoch)
    return order[: len(order) - len(order) % config.batch_size] if config.drop_last else order


def derived_seed(*numbers: int) -> int:
    """One seed that follows from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def epoch_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """The random numbers of one epoch: a function of (seed, epoch), however it is reached."""
    return torch.Generator(device).manual_seed(derived_seed(seed, epoch))


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n pictures in an epoch (int64), drawn on the processor on any device."""
    generator = epoch_generator(seed, epoch, torch.device("cpu"))
    return torch.randperm(n, generator=generator, device="cpu")


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """As many pictures as there are, drawn with replacement, every class equally often.

    Class-balanced sampling (Kang et al. 2020, "Decoupling representation and classifier").

    Args:
        labels: int64 (n,).
        seed: of the run.
        epoch: counted from 1.
    """
    labels = labels.cpu()
    generator = epoch_generator(seed, epoch, torch.device("cpu"))
    share = 1 / torch.bincount(labels).double()[labels]
    ends = share.cumsum(0)
    drawn = torch.rand(len(labels), generator=generator, dtype=torch.float64) * ends[-1]
    return torch.searchsorted(ends, drawn).clamp_max(len(labels) - 1)


def order_by_windows(order: Tensor, shards: NDArray[np.int32], seed: int, epoch: int) -> Tensor:
    """An order of pictures that keeps to a few shards at a time, so that reading is sequential.

    Shards are shuffled. So are the pictures of those that follow one another, `WINDOW_SHARDS` of
    them or more with `WINDOW` pictures or more: they stay in the order given, which is by chance.

    Args:
        order: positions of pictures, int64 (m,), in any order; some may come more than once.
        shards: which shard each picture lies in, (n,).
        seed: of the run.
        epoch: counted from 1.

    Returns:
        The same positions, window by window.
    """
    found, counts = np.unique(shards, return_counts=True)
    drawn = np.random.default_rng(derived_seed(seed, epoch, 0)).permutation(len(found))
    window_of = np.empty(len(found), np.int64)
    window = held = pictures = 0
    for place in drawn.tolist():
        if held >= WINDOW_SHARDS and pictures >= WINDOW:
            window, held, pictures = window + 1, 0, 0
        window_of[place] = window
        held, pictures = held + 1, pictures + int(counts[place])
    of_picture = window_of[np.searchsorted(found, shards)]
    return order[torch.from_numpy(np.argsort(of_picture[order.numpy()], kind="stable"))]
