"""Ctrl-C and SIGTERM: a step that is under way is finished and saved; the second ends at once."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_received: list[int] = []  # of this process, one after the other
_is_under_way: Callable[[], bool] = bool  # nothing is


def listen() -> None:
    """From now on, `KeyboardInterrupt` comes for SIGTERM too, and never in the middle of a step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells in the background say
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    # Whoever asks twice does not want to wait until all is saved; and while torch is loading there
    # is nothing to save, but an exception within its C++ would be a crash.
    if len(_received) > 1 or _torch_is_loading(frame):
        with contextlib.suppress(OSError):
            os.write(2, b"\x1b[?25h\n" if os.isatty(2) else b"")  # the bar hid the cursor
        os._exit(128 + number)
    if not _is_under_way():
        raise KeyboardInterrupt


def _torch_is_loading(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch" and frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def waiting_while(is_under_way: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """While the block runs, a signal waits as long as this is true.

    Gives a function that says whether one is waiting. Who asks must raise `KeyboardInterrupt`.
    """
    global _is_under_way
    _is_under_way = is_under_way
    try:
        yield lambda: bool(_received)
    finally:
        _is_under_way = bool


def exit_code(code: int) -> int:
    """The exit code of the process: that of the signal, if it was interrupted."""
    return 128 + _received[0] if _received and code == 130 else code
