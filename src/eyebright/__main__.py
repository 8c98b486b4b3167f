"""``python -m eyebright``, and what the command ``eyebright`` starts."""

import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from eyebright.cli import run_app
    from eyebright.console import show_notices

    terminated = False

    def on_sigterm(signal_number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt  # saved like Ctrl-C; only the exit code differs

    signal.signal(signal.SIGTERM, on_sigterm)
    show_notices()
    try:
        code = run_app()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(143 if terminated and code == 130 else code)


if __name__ == "__main__":
    main()
