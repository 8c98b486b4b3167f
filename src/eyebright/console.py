"""What a person sees while waiting: one console for results, one for notices, one progress bar."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Figures and class names are printed as they are: no markup, no automatic colours.
out = Console(markup=False, highlight=False, emoji=False)
err = Console(markup=False, highlight=False, emoji=False, stderr=True)
if not out.is_terminal:
    out.width = 120  # a file has no width; tables should not be squeezed into 80 columns


def say(text: str) -> None:
    """Print a line of a result, however long."""
    out.print(text, soft_wrap=True)


# Notices (never results) go through Python's own logging, to standard error.
notices = logging.getLogger("eyebright")


def show_notices() -> None:
    """Send notices to standard error as plain lines, for the command line."""
    notices.handlers[:] = [_NoticeHandler()]
    notices.propagate = False


class _NoticeHandler(logging.Handler):
    """Prints through the console, so that a running progress bar stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), soft_wrap=True)


@contextmanager
def progress_bar(description: str, total: int | None, info: str = "") -> Iterator["Bar"]:
    """A progress bar on standard error while the block runs; silent where there is no terminal.

    Args:
        description: what is being done.
        total: how many items there are; None if nobody knows yet.
        info: shown behind the bar, until `Bar.update` changes it.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield Bar(progress, description, total, info)


class Bar:
    """One bar of a running `progress_bar`."""

    def __init__(self, progress: Progress, description: str, total: int | None, info: str):
        self.progress = progress
        self.task = progress.add_task(description, total=total, info=info)

    def advance(self, items: int = 1) -> None:
        """So many more items are done."""
        self.progress.advance(self.task, items)

    def update(self, completed: int, info: str, total: int | None = None) -> None:
        """Set how many items are done and what stands behind the bar."""
        self.progress.update(self.task, completed=completed, info=info, total=total)


def shown(name: object) -> str:
    """A file or class name made fit to print: one line, no control characters, valid UTF-8."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
