"""Parts of a set of pictures, the same ones for the same seed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_split(labels: NDArray[Any], share: float, seed: int) -> tuple[Indices, Indices]:
    """Positions of a larger and of a held-out part, with the same share of every class.

    A class of one picture stays whole in the larger part; of any other class at least one picture
    goes to each part.

    Args:
        labels: integers of shape (n,).
        share: of the held-out part, from 0 to below 1; 0 holds nothing out.
        seed: of the random choice.

    Returns:
        Sorted positions of the larger and of the held-out part.
    """
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels) if share else ():
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
