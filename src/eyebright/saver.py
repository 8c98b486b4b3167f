"""Checkpoints on disk: when one is written, which are kept, and which one counts.

A checkpoint is the file ``checkpoints/<step>-<SHA-256 of the file>.safetensors`` of the run folder,
so that a flipped bit is found by the name. It is written beside its place, synced and renamed; the
newest whole one counts, by its step, and the last two are kept.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from eyebright.checkpoint import bytes_of
from eyebright.config import TrainConfig
from eyebright.console import notices, shown
from eyebright.errors import ModelError, StorageError
from eyebright.files import read_safetensors, write_file
from eyebright.resume import MOST_STATE, Checkpoint

FOLDER = "checkpoints"
NAME = re.compile(r"(\d{10})-([0-9a-f]{64})\.safetensors")
KEPT = 2
MOST_LOST = 50.0  # seconds of work, beside those of a step
LEAST = 5.0  # seconds between two checkpoints ...
SHARE = 0.015  # ... and the share of the time that they may take
MOST_EPOCHS = 1_000_000  # that a checkpoint has room for where nobody knows how many there will be


class Saver:
    """Writes checkpoints into a run folder, not too often and not too seldom.

    At most `MOST_LOST` seconds lie between two of them; less where they take little of the time.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.saved, self.cost = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether it is time for another one."""
        pause = max(LEAST, self.cost / SHARE)
        return time.monotonic() - self.saved >= min(pause, MOST_LOST)

    def save(self, collect: Callable[[], Checkpoint]) -> None:
        """Write one, and remove all but the last two.

        Args:
            collect: gives it; the time that it takes counts too.

        Raises:
            StorageError: the disk refuses; the message names the path.
        """
        begun = time.monotonic()
        save_checkpoint(self.folder, collect())
        self.saved = time.monotonic()
        self.cost = self.saved - begun


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whole or not at all, then remove all but the last two.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    folder, content = run / FOLDER, checkpoint.pack()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{checkpoint.position.step:010d}-{digest}.safetensors"
    write_file(path, content)
    others = [one for one in list_checkpoints(run) if one[1] != path]
    earlier = [one for one in others if one[0] < checkpoint.position.step]
    # Later ones are damaged, and of the same step this one is the newest.
    for old in set(others) - set(earlier[: KEPT - 1]):
        with contextlib.suppress(OSError):
            old[1].unlink()
    return path


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, path) of each file that is called as a checkpoint, the newest first.

    Raises:
        StorageError: the folder cannot be read.
    """
    folder = run / FOLDER
    try:
        found = [(p, NAME.fullmatch(p.name)) for p in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    named = [(int(match[1]), path) for path, match in found if match]
    return sorted(named, key=lambda one: (-one[0], one[1].name))


def newest_checkpoint(run: Path, most: int | None = None) -> Checkpoint | None:
    """The newest whole one; None where there is none yet. Damaged ones are passed over, loudly.

    Args:
        run: the run folder.
        most: bytes that a checkpoint can have, as `most_bytes` says.

    Raises:
        ModelError: there are some, and all are damaged.
        StorageError: the folder cannot be read.
    """
    found = list_checkpoints(run)
    for _, path in found:
        try:
            content = read_safetensors(path, most)
            if hashlib.sha256(content).hexdigest() not in path.name:
                raise ValueError("not the content that its name tells")
            return Checkpoint.unpack(content)
        except (OSError, ValueError) as error:
            notices.warning("%s: damaged (%s); an earlier one is looked for", shown(path), error)
    if found:
        raise ModelError(
            f"{shown(run / FOLDER)}: no checkpoint is whole; remove the folder to go on from the "
            "beginning"
        )
    return None


def most_bytes(net: nn.Module, pictures: int, classes: int, config: TrainConfig) -> int:
    """What a checkpoint can have at most.

    Args:
        net: whose it is.
        pictures: trained on and held out together.
        classes: of them.
        config: of the run.
    """
    weights = 4 * bytes_of(net)  # its own, the kept ones, and two more of an optimizer
    seen = 2 * pictures * (4 * classes + 8) + 3 * 8 * classes**2  # logits, labels, counts
    # By the clock, or by steps, there may be more epochs than the configuration says.
    epochs = MOST_EPOCHS if config.time or config.max_steps else config.epochs
    steps = -(-pictures // config.batch_size)
    means = 16 * epochs * (steps // config.log_every) if config.log_every else 0
    return weights + seen + MOST_STATE + 8 * steps + 200 * epochs + 3 * means
