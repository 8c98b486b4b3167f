"""The exception tree, and the exit code that each branch of it gives a command.

A user's mistake is one line that names the thing, the cause and the fix. The command line prints
the message and exits with ``exit_code``; a Python user catches the class.
"""

from pathlib import Path


class EyebrightError(Exception):
    """Whatever goes wrong for a reason that its message explains."""

    exit_code = 1


class UsageError(EyebrightError):
    """An unknown name or flag, a missing extra, or something asked for that cannot be."""

    exit_code = 2


class DataError(EyebrightError):
    """Pictures, labels or archives that cannot be used as they are."""

    exit_code = 3


class ModelError(EyebrightError):
    """A model file that cannot be trusted or read, or a folder that is no run."""

    exit_code = 4


class StorageError(EyebrightError):
    """The network or the disk let us down, or memory ran out."""

    exit_code = 5


class NumbersError(EyebrightError):
    """A loss or a weight that is no longer a finite number."""

    exit_code = 6


class BusyError(EyebrightError):
    """Another process is writing into the same run folder."""

    exit_code = 7


def install_command(extra: str) -> str:
    """What installs the packages of an extra, for a copy that is installed as this one is."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "constraints.txt").is_file():
        return f'pip install "eyebright[{extra}]"'
    here = checkout.samefile(Path.cwd())
    place, pins = (".", "constraints.txt") if here else (checkout, checkout / "constraints.txt")
    return f'pip install -e "{place}[{extra}]" -c {pins}'
