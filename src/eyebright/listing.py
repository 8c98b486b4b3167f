"""`list_runs`: what there is in a folder of runs; `remove_run`."""

import contextlib
import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from eyebright.checkpoint import CARD, WEIGHTS, load_card
from eyebright.console import nearest, shown
from eyebright.errors import EyebrightError, ModelError, StorageError, UsageError
from eyebright.files import read_json
from eyebright.lock import is_locked, locked
from eyebright.metrics import Figure
from eyebright.records import is_of_this_model
from eyebright.run import Run

USUAL_NAME = 32  # characters of a run's name that a table does not break
LATEST = 253_402_300_799.0  # the end of the year 9999
MOST_HASHED = 100 << 20  # bytes of weights that a list of runs looks at
CONFIG, DOOMED = "config.json", ".removing-"


@dataclass(frozen=True)
class Entry:
    """A run, as a list shows it."""

    name: str
    state: str
    """``done``, ``training`` (a process is at it), ``interrupted`` or ``damaged``."""
    exact: bool
    """Whether it ended as it would have without interruption."""
    data: str
    recipe: str
    model: str
    epochs: int
    """That are over."""
    val: Figure | None
    """Accuracy on the pictures held out."""
    test: Figure | None
    """Accuracy on a test set; None: it was never opened."""
    size: int
    """Bytes on the disk."""
    changed: str
    """When, in UTC."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def list_runs(folder: Path) -> list[Entry]:
    """All runs in a folder of runs, the newest last.

    Raises:
        UsageError: no such folder.
        StorageError: it cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{shown(folder)}: no such folder of runs")
    try:
        found = [path for path in folder.iterdir() if is_run(path)]
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    return [describe(path) for path in sorted(found, key=_when)]


def is_run(path: Path) -> bool:
    """Whether this is a run folder itself, and no link to one."""
    doomed = path.name.startswith(DOOMED)  # by somebody who was killed while removing it
    try:
        return (path / CONFIG).is_file() and not path.is_symlink() and not doomed
    except OSError:  # somebody else's, who shows it to nobody
        return False


def describe(path: Path) -> Entry:
    """What there is to say of a run, damaged or not."""
    name, recipe, model, epochs, exact, done = "", "", "", 0, True, False
    damaged = False
    try:
        run = Run(path)
        config, log = run.config, run.log()
        recipe, model = config.recipe, config.model
        epochs = int(log[-1]["epoch"]) if log else 0
        env = read_json(path / "env.json")
        exact = all(bool(one["exact"]) for one in env.get("resumed", []))
        done = bool(env.get("finished")) and (path / CARD).exists()
        damaged = done and not _has_its_weights(path)
        name = run.data_record["name"]
    except (EyebrightError, KeyError, TypeError, ValueError, AttributeError, OSError):
        damaged = True
    state = "damaged" if damaged else "done" if done else "interrupted"
    if is_locked(path):
        state = "training"
    return Entry(
        path.name, state, exact, name, recipe, model, epochs,
        _accuracy(path, "val"), _accuracy(path, "test"),
        bytes_below(path), datetime.fromtimestamp(_when(path), UTC).isoformat(" ", "minutes")[:16],
    )  # fmt: skip


def runs_table(entries: list[Entry]) -> Table:
    """For people."""
    table = Table()
    # A name of usual length stays whole, to be copied.
    longest = max((len(shown(one.name)) for one in entries), default=0)
    table.add_column("run", overflow="fold", min_width=min(longest, USUAL_NAME))
    for title in ("state", "data", "recipe", "net"):
        table.add_column(title, overflow="fold")
    for title in ("epochs", "validation accuracy", "test accuracy", "size"):
        table.add_column(title, justify="right")
    for one in entries:
        state = one.state if one.exact else f"{one.state}, not exact"
        figures = ["" if f is None else f.percent() for f in (one.val, one.test)]
        table.add_row(
            shown(one.name), state, shown(one.data), shown(one.recipe), shown(one.model),
            str(one.epochs), *figures, as_megabytes(one.size),
        )  # fmt: skip
    return table


def as_megabytes(size: float) -> str:
    """A size for people."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def find_run(folder: Path, name: str) -> Path:
    """The run of this name in a folder of runs.

    Raises:
        UsageError: there is none.
    """
    names = [path.name for path in folder.iterdir() if is_run(path)] if folder.is_dir() else []
    if name in names:
        return folder / name
    raise UsageError(f"{shown(folder)} has no run called '{shown(name)}'{nearest(name, names)}")


def remove_run(path: Path) -> None:
    """Remove a run folder: at once or not at all, whatever becomes of this process.

    Raises:
        ModelError: it is no run.
        BusyError: a process is training into it.
        StorageError: it cannot be removed.
    """
    if not is_run(path):
        raise ModelError(f"{shown(path)}: no run folder")
    doomed = path.with_name(f"{DOOMED}{path.name}-{os.getpid()}")
    try:
        with locked(path):
            path.rename(doomed)
        for left in path.parent.glob(f"{DOOMED}*"):  # by others who were killed, too
            shutil.rmtree(left)
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None


def _accuracy(run: Path, split: str) -> Figure | None:
    """Of the model that is there now; None where nobody has looked at it."""
    with contextlib.suppress(ModelError, KeyError, TypeError, ValueError):
        record = read_json(run / f"{split}.json")
        figure = Figure(**record["figures"]["accuracy"])
        figure.percent()
        return figure if is_of_this_model(run, record) else None
    return None


def _has_its_weights(run: Path) -> bool:
    """Whether the weights are those of the card, where it does not take long to see."""
    if (run / WEIGHTS).stat().st_size > MOST_HASHED:
        return True
    digest = hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()
    return digest == load_card(run).weights_sha256


def _when(path: Path) -> float:
    with contextlib.suppress(OSError):
        return min(LATEST, max(file.stat().st_mtime for file in path.iterdir()))
    return 0.0


def bytes_below(path: Path) -> int:
    """Of all files in a folder and below it."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total
