"""What a person sees while waiting: one console for results, one for notices, one progress bar."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1; `__main__` knows that `head` is content


# Figures and class names are printed as they are: no markup, no automatic colours.
out = _Output(markup=False, highlight=False, emoji=False)
err = Console(markup=False, highlight=False, emoji=False, stderr=True)
if not out.is_terminal:
    out.width = 120  # a file has no width; tables should not be squeezed into 80 columns


def waiting_for(what: str) -> None:
    """Say at once what takes the next seconds, to whoever sits before a terminal."""
    if err.is_terminal:
        err.print(f"{what} …", style="dim")


_live: Progress | None = None  # the bar that is on the screen
_bars = 0  # that are open, seen or not
_last_said = 0.0  # when, of time.monotonic
SIGN_OF_LIFE = 60.0  # seconds of silence after which a file or pipe is told how far it is


def say(text: str) -> None:
    """Print a line of a result, however long; above the progress bar, if one is on the screen."""
    global _last_said
    console = _live.console if _live is not None and out.is_terminal else out
    console.print(text, soft_wrap=True)
    _last_said = time.monotonic()


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
def progress_bar(description: str, total: int | None, quiet: bool = False) -> Iterator["Bar"]:
    """A progress bar on standard error while the block runs.

    Where there is no terminal, a line after each minute in which nothing was said.

    Args:
        description: what is being done.
        total: how many items there are; None if nobody knows yet.
        quiet: show none.
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
    global _live, _bars, _last_said
    visible = err.is_terminal and not quiet
    if not _bars:
        _last_said = time.monotonic()
    with Progress(*columns, console=err, transient=True, disable=not visible) as progress:
        outer, _live = _live, progress if visible else _live
        _bars += 1
        try:
            yield Bar(progress, description, total, math.inf if visible or quiet else SIGN_OF_LIFE)
        finally:
            _live = outer
            _bars -= 1


class Bar:
    """One bar of a running `progress_bar`."""

    def __init__(self, progress: Progress, description: str, total: int | None, silence: float):
        self.progress, self.silence = progress, silence
        self.task = progress.add_task(description, total=total, info="")

    def advance(self, items: int = 1) -> None:
        """So many more items are done."""
        self.progress.advance(self.task, items)
        self._break_silence()

    def update(self, completed: int, info: str, total: int | None = None) -> None:
        """Set how many items are done and what stands behind the bar."""
        self.progress.update(self.task, completed=completed, info=info, total=total, refresh=True)
        self._break_silence()

    def _break_silence(self) -> None:
        global _last_said
        if time.monotonic() - _last_said < self.silence:
            return
        [task] = self.progress.tasks
        total = "" if task.total is None else f" of {task.total:,.0f}"
        info = f"  {task.fields['info']}" if task.fields["info"] else ""
        err.print(f"{task.description}: {task.completed:,.0f}{total}{info}", soft_wrap=True)
        _last_said = time.monotonic()


def nearest(name: str, names: Iterable[str]) -> str:
    """A guess at what was meant, to put into a message; nothing where nothing is near."""
    by_small_letters = {other.casefold(): other for other in names}
    close = get_close_matches(name.casefold(), by_small_letters, n=1)
    return f" (did you mean {shown(by_small_letters[close[0]])}?)" if close else ""


def as_share(value: float) -> str:
    """What was meant by somebody who gave percents for a share, to put into a message."""
    return f" (did you mean {value / 100:g}?)" if 1 < value < 100 else ""


def counted(n: int, what: str) -> str:
    """Such as ``1 picture`` and ``2,000 pictures``; ``what`` is one of them."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}{'es' if what.endswith('s') else 's'}"


def as_text(name: object) -> str:
    """A file or class name as tables have it: what is no UTF-8 is escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def shown(name: object) -> str:
    """A file or class name made fit to print: one line, no control characters, valid UTF-8."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in as_text(name)
    )
