"""``python -m eyebright``, and what the command ``eyebright`` starts."""

import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until we listen, Ctrl-C leaves no traceback
    from eyebright.cli import run_app
    from eyebright.console import show_notices
    from eyebright.signals import exit_code, listen

    listen()
    show_notices()
    try:
        code = run_app()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(exit_code(code))


if __name__ == "__main__":
    main()
