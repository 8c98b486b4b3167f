"""`--track`: what ``log.csv`` gets goes to an experiment tracker too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from eyebright.errors import UsageError, install_command


class Tracker(Protocol):
    """Whoever wants to know of each epoch when it is over."""

    def __init__(self, folder: Path) -> None: ...

    def add(self, row: Mapping[str, str]) -> None:
        """Take a row of ``log.csv``: column to value, empty where there is none."""


class TensorBoard:
    """Writes scalars by step into the folder ``tensorboard`` of a run.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard")

    def add(self, row: Mapping[str, str]) -> None:
        """Every figure of an epoch, at once on the disk."""
        for name, value in row.items():
            if value and name not in ("epoch", "step"):
                self._writer.add_scalar(name, float(value), int(row["step"]))
        self._writer.flush()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard}


def find_tracker(name: str | None) -> type[Tracker] | None:
    """The tracker of this name; None for None.

    Raises:
        UsageError: there is none, or its package is not installed.
    """
    if name is None:
        return None
    if name not in TRACKERS:
        raise UsageError(f"--track cannot be '{name}'; choose one of: {', '.join(TRACKERS)}")
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise UsageError(f"--track {name} needs a package: {install_command(name)}")
    return TRACKERS[name]
