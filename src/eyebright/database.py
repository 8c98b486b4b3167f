"""The database of a study: opened, its errors in one line, signs of life that trials give there."""

import contextlib
import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyebright.console import shown
from eyebright.errors import EyebrightError, StorageError, UsageError, install_command

FILE = "study.db"  # in the folder of a study, where no other database is named
PATIENCE = 60.0  # seconds that SQLite waits for whoever is writing
BEAT, DEAD = 20, 120  # seconds: between signs of life of a trial, and until it counts as dead
TRIES = 8  # to open a database that others are making just now


class Database:
    """What Optuna keeps trials in.

    Args:
        url: of the database; its tables are made if they are not there.
        study: the name in it that messages are about.

    Raises:
        UsageError: optuna or a driver is missing, or it is no URL.
        StorageError: no database can be reached there, or it is damaged.
    """

    def __init__(self, url: str, study: str):
        self.url, self.study = url, study
        self.optuna = import_optuna()
        self.where = hidden_password(url)
        with self.explained():
            self.storage = self._open()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the database says into one line that names it.

        Raises:
            UsageError: it is no URL, or a driver is missing.
            StorageError: it cannot be reached or used, or is damaged.
        """
        from sqlalchemy.exc import ArgumentError, SQLAlchemyError

        exceptions = self.optuna.exceptions
        try:
            yield
        except EyebrightError:
            raise
        except ArgumentError as error:
            raise UsageError(
                f"--storage: '{self.where}' is no URL of a database ({first_line(error)}); say "
                "sqlite:////path/to/study.db or postgresql://user@host/name"
            ) from None
        except ImportError as error:
            missing = error.__cause__ or error
            raise UsageError(
                f"--storage: {self.where} needs a driver that is not there "
                f"({first_line(missing)}); install it with pip"
            ) from None
        except (SQLAlchemyError, exceptions.StorageInternalError) as error:
            cause = error.__cause__ or error
            raise StorageError(
                f"{self.where}: no database that can be used ({first_line(cause)})"
            ) from None
        except (exceptions.UpdateFinishedTrialError, KeyError, AssertionError) as error:
            raise StorageError(
                f"{self.where}: its study '{shown(self.study)}' was changed meanwhile, or is "
                f"damaged ({first_line(error)})"
            ) from None
        except RuntimeError as error:  # tables of another version
            raise StorageError(f"{self.where}: {first_line(error)}") from None

    @contextlib.contextmanager
    def beating(self, trial: int) -> Iterator[None]:
        """Give a sign of life of a trial, by its id there, now and then while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while True:
                with contextlib.suppress(Exception):  # a sign may be lost, as on a network
                    self.storage.record_heartbeat(trial)
                if over.wait(BEAT):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE)

    def _open(self) -> Any:
        from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

        of_sqlite = {"connect_args": {"timeout": PATIENCE}} if is_sqlite(self.url) else {}
        for tries_left in reversed(range(TRIES)):
            try:
                with without_warnings():
                    return self.optuna.storages.RDBStorage(
                        self.url, of_sqlite, heartbeat_interval=BEAT, grace_period=DEAD
                    )
            except (IntegrityError, OperationalError, ProgrammingError):
                # Two who make the tables at once: one of them comes too late, and finds them.
                if not tries_left:
                    raise
                time.sleep(0.1 + 0.3 * random.random())
        raise AssertionError("the last try returns or raises")


def import_optuna() -> Any:
    """Optuna, silent.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            f"tune needs optuna ({first_line(error)}): {install_command('tune')}"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Optuna calls signs of life experimental; those who use it here know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def database_in(folder: Path) -> str:
    """The URL of the database in the folder of a study."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str((folder / FILE).resolve())).render_as_string()


def is_sqlite(url: str) -> bool:
    """Whether it is a file, and no server."""
    return url.startswith("sqlite")


def hidden_password(url: str) -> str:
    """A URL that may be shown to others.

    Raises:
        UsageError: it is none.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return shown(make_url(url).render_as_string(hide_password=True))
    except (ArgumentError, ValueError):
        raise UsageError(
            "--storage takes the URL of a database, such as sqlite:////path/to/study.db or "
            "postgresql://user@host/name"
        ) from None


def first_line(error: object) -> str:
    """What an exception says, in one line."""
    return shown(str(getattr(error, "orig", None) or error).strip().splitlines()[0][:200])
