"""What somebody may have meant who named what is not there: runs, files and folders beside it."""

import contextlib
from pathlib import Path

from eyebright.console import nearest, shown

RUNS = Path("runs")  # where runs are, if nobody says otherwise
NAMED = 5  # runs that are named to somebody who asked for one that is not there


def holds_run(path: Path) -> bool:
    """Whether this is a run folder."""
    try:
        return (path / "config.json").is_file()
    except OSError:  # a name too long, or somebody else's folder
        return False


def newest_runs() -> list[Path]:
    """The newest few runs of `RUNS`, the newest first."""
    with contextlib.suppress(OSError):
        there = [folder for folder in RUNS.iterdir() if holds_run(folder)]
        return sorted(there, key=lambda run: run.stat().st_mtime, reverse=True)[:NAMED]
    return []


def runs_there() -> str:
    """What to name in place of a run that is not there, or how to make one."""
    if runs := newest_runs():
        return f"there are {', '.join(map(shown, runs))}"
    return f"none is in {RUNS}/ either: eyebright train DATA makes one"


def nearest_path(path: Path, names: tuple[str, ...] = ()) -> str:
    """What was meant by a path that is not there, to put into a message; nothing if none is near.

    Args:
        path: it may be a file or folder beside it.
        names: or one of these.
    """
    beside: list[str] = []
    with contextlib.suppress(OSError):
        if path.exists():
            return ""
        beside = [str(other) for other in path.parent.iterdir() if other.name[0] != "."]
    return nearest(str(path), [*names, *beside])


def nearest_run(path: Path) -> str:
    """The run that was meant, by its path or its name alone; nothing if none is near."""
    runs = newest_runs()
    if path.name in (names := [run.name for run in runs]):
        return f" (did you mean {shown(runs[names.index(path.name)])}?)"
    return nearest_path(path) or nearest(path.name, names)
