"""Which of several processes this is, as torchrun tells each of them; no torch."""

import os
from dataclasses import dataclass

from eyebright.errors import UsageError

FIX = "start with torchrun, which sets it, or unset RANK and WORLD_SIZE"


@dataclass(frozen=True)
class Ranks:
    """A process among those that were started together; alone, it is 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    local_size: int = 1


def from_environment() -> Ranks:
    """What RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE say.

    Without the last two it is alone on its machine, as where a cluster starts one process a node.

    Raises:
        UsageError: they are no such numbers, or only one of the first two is there.
    """
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return Ranks()
    size = _number("WORLD_SIZE", 1)
    rank = _number("RANK", 0, size)
    local_size = _number("LOCAL_WORLD_SIZE", 1, size + 1, missing=1)
    return Ranks(rank, size, _number("LOCAL_RANK", 0, local_size, missing=0), local_size)


def _number(name: str, least: int, below: int | None = None, missing: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None:
        if missing is None:
            raise UsageError(f"{name} is not set, but others of torchrun's are: {FIX}")
        return missing
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} cannot be '{text}', which is no number: {FIX}")
    if int(text) < least or (below is not None and int(text) >= below):
        bounds = f"from {least} on" if below is None else f"from {least} to {below - 1}"
        raise UsageError(f"{name} cannot be {text}: it goes {bounds}; {FIX}")
    return int(text)
