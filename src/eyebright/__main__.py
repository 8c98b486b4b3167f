"""``python -m eyebright``, and what the command ``eyebright`` starts."""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from eyebright.cli import run_app
    from eyebright.console import show_notices

    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:  # whoever asks twice does not want to wait until all is saved
            with contextlib.suppress(OSError):
                os.write(2, b"\x1b[?25h\n" if os.isatty(2) else b"")  # the bar hid the cursor
            os._exit(128 + number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells in the background say
            signal.signal(number, stop)
    show_notices()
    try:
        code = run_app()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(128 + received[0] if received and code == 130 else code)


if __name__ == "__main__":
    main()
