"""The trials of a search, in a database that several processes and machines may share (Optuna)."""

import contextlib
import os
import random
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyebright.console import shown
from eyebright.errors import EyebrightError, NumbersError, StorageError, UsageError

DATABASE = "study.db"  # in the folder of a study, where no other database is named
RECORD = "eyebright"  # what a study remembers of its data and settings
PATIENCE = 60.0  # seconds that SQLite waits for whoever is writing
BEAT, DEAD = 20, 120  # seconds: between signs of life of a trial, and until it counts as dead
TRIES = 8  # to open a database that others are making just now
FIRST_UNPRUNED = 5  # trials
LOOKED_AT_LATER = 1 / 3  # of the epochs, in which nothing is pruned
OVER = "numbers"  # why a trial failed, where it is over for all that
HOME = "process"


class PrunedError(Exception):
    """A trial is not worth its time."""


class OutOfTimeError(Exception):
    """There is no time to end a trial."""


@dataclass(frozen=True)
class Trial:
    """A trial, as a list shows it."""

    number: int
    state: str
    """``done``, ``pruned`` (given up early), ``failed`` (it could not be trained), ``running``, or
    ``stopped`` (from outside; it does not count)."""
    is_default: bool
    """Whether its settings are the recipe's own."""
    settings: dict[str, Any]
    scores: dict[int, float]
    """Epoch -> figure on the pictures that the search looks at."""
    score: float | None
    """The best of them; None until it is done."""
    seconds: float | None
    why: str
    """Of a trial that failed."""

    @property
    def is_over(self) -> bool:
        """Whether it counts as one of so many trials."""
        return self.state in ("done", "pruned", "failed")


class Study:
    """A search under way.

    Args:
        url: of the database; its tables are made if they are not there.
        name: of the study in it.
        seed: of what is drawn.

    Raises:
        UsageError: optuna or a driver is missing, or it is no URL.
        StorageError: no database can be reached there, or it is damaged.
    """

    def __init__(self, url: str, name: str, seed: int = 0):
        self.url, self.name, self.seed = url, name, seed
        self._optuna = import_optuna()
        self._where = hidden_password(url)
        with self._explained():
            self._storage = self._open()

    def begin_or_join(self, record: dict[str, Any]) -> dict[str, Any]:
        """The study's record: that of its first process.

        Args:
            record: what to write down if this is the first one; ``settings`` are those of the
                recipe, ``own`` those of trial 0.
        """
        with self._explained():
            try:
                study_id = self._storage.create_new_study(
                    [self._optuna.study.StudyDirection.MAXIMIZE], self.name
                )
                is_new = True
            except self._optuna.exceptions.DuplicatedStudyError:
                study_id = self._storage.get_study_id_from_name(self.name)
                is_new = False
            self._study = self._optuna.load_study(study_name=self.name, storage=self._storage)
            known = self._storage.get_study_user_attrs(study_id).get(RECORD)
            waited = time.monotonic()
            # Whoever began it has yet to write down what it is about, if it has not been killed.
            while known is None and not is_new and time.monotonic() - waited < PATIENCE / 6:
                time.sleep(0.1)
                known = self._storage.get_study_user_attrs(study_id).get(RECORD)
            if known is None:
                if not is_new and self.trials():
                    raise UsageError(
                        f"{self._where}: its study '{shown(self.name)}' is not one of eyebright; "
                        "choose another --name"
                    )
                self._ask_for_default(record["own"])
                self._study.set_user_attr(RECORD, record)
            record = known or record
        if not isinstance(record, dict) or not {"own", "settings"} <= record.keys():
            raise StorageError(f"{self._where}: not what belongs into a study of eyebright")
        epochs = int(record["settings"]["epochs"])
        self._study.pruner = self._optuna.pruners.MedianPruner(
            n_startup_trials=FIRST_UNPRUNED, n_warmup_steps=int(epochs * LOOKED_AT_LATER)
        )
        self._own = record["own"]
        return record

    def trials(self) -> list[Trial]:
        """All that were begun, in order; those of dead processes are given up."""
        with self._explained():
            self._bury_the_dead()
            found = self._storage.get_all_trials(self._study._study_id, deepcopy=False)
            names = {"COMPLETE": "done", "PRUNED": "pruned", "RUNNING": "running"}
            trials = []
            for one in found:
                known = one.user_attrs
                why = str(known.get("why", ""))
                failed = "failed" if known.get("over") == OVER else "stopped"
                if one.state.name == "WAITING":
                    continue
                scores = {int(k): float(v) for k, v in one.intermediate_values.items()}
                trials.append(
                    Trial(
                        one.number, names.get(one.state.name, failed),
                        bool(known.get("default")), dict(one.params), scores,
                        one.value if one.state.name == "COMPLETE" else None,
                        known.get("seconds"), why,
                    )
                )  # fmt: skip
            return sorted(trials, key=lambda trial: trial.number)

    def run_one(
        self,
        most: int,
        suggest: Callable[[Any], dict[str, Any]],
        train: Callable[[dict[str, Any], Callable[[int, float], None]], float],
    ) -> Trial | None:
        """Draw settings, train with them, and write down what came of it.

        Args:
            most: trials in all; None comes where others have begun the last of them.
            suggest: draws settings from a trial of Optuna.
            train: with these settings; tells the figure of each epoch to what it is given, and
                gives the best of them.

        Raises:
            KeyboardInterrupt: interrupted; the trial is written down as stopped.
        """
        with self._explained():
            if self._needs_default():  # it was stopped before it was over
                self._ask_for_default(self._own)
            with without_warnings():
                trial = self._study.ask()
        number, started = trial.number, time.monotonic()
        is_default = bool(trial.user_attrs.get("default"))
        try:
            with self._explained():
                if not is_default and self._counted_before(number) >= most:
                    self._end(trial, "FAIL", why="others have begun the last trial")
                    return None
                # What a trial draws depends on those before it, and on nothing else.
                self._study.sampler = self._optuna.samplers.TPESampler(
                    seed=(self.seed * 100_003 + number) % 2**32
                )
                trial.set_user_attr(HOME, [socket.gethostname(), os.getpid()])
                settings = suggest(trial)

            def tell(epoch: int, score: float) -> None:
                with self._explained():
                    trial.report(score, epoch)
                    if not is_default and trial.should_prune():
                        raise PrunedError

            with self._beating(trial):
                score = train(settings, tell)
            state, over, why, value = "COMPLETE", "", "", score
        except PrunedError:
            state, over, why, value = "PRUNED", "", "", None
        except OutOfTimeError:
            state, over, why, value = "FAIL", "", "out of time", None
        except NumbersError as error:
            state, over, why, value = "FAIL", OVER, str(error), None
        except BaseException as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            with contextlib.suppress(Exception):  # what went wrong first is what is to be told
                self._end(trial, "FAIL", why=why[:500])
            raise
        with self._explained():
            self._end(trial, state, value, over, why, time.monotonic() - started)
        return next(one for one in self.trials() if one.number == number)

    def _end(
        self,
        trial: Any,
        state: str,
        value: float | None = None,
        over: str = "",
        why: str = "",
        seconds: float | None = None,
    ) -> None:
        for key, said in {"over": over, "why": why, "seconds": seconds}.items():
            if said:
                trial.set_user_attr(key, said)
        self._study.tell(trial, value, state=getattr(self._optuna.trial.TrialState, state))

    def _counted_before(self, number: int) -> int:
        return sum(t.number < number and t.state != "stopped" for t in self.trials())

    def _needs_default(self) -> bool:
        waiting = self._storage.get_all_trials(
            self._study._study_id, deepcopy=False, states=(self._optuna.trial.TrialState.WAITING,)
        )
        begun = any(t.is_default and t.state != "stopped" for t in self.trials())
        return not waiting and not begun

    def _ask_for_default(self, own: dict[str, Any]) -> None:
        self._study.enqueue_trial(own, user_attrs={"default": True})

    def _bury_the_dead(self) -> None:
        """Trials of processes that were killed are over, so that others may take their place."""
        running = self._storage.get_all_trials(
            self._study._study_id, deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)
        )
        for one in running:
            host, process = one.user_attrs.get(HOME, ["", 0])
            if host == socket.gethostname() and not is_alive(process):
                with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
                    self._storage.set_trial_state_values(
                        one._trial_id, self._optuna.trial.TrialState.FAIL
                    )
        if running:
            with without_warnings():
                self._optuna.storages.fail_stale_trials(self._study)

    @contextlib.contextmanager
    def _beating(self, trial: Any) -> Iterator[None]:
        """Give a sign of life now and then while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while True:
                with contextlib.suppress(Exception):  # a sign may be lost, as on a network
                    self._storage.record_heartbeat(trial._trial_id)
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
                    return self._optuna.storages.RDBStorage(
                        self.url, of_sqlite, heartbeat_interval=BEAT, grace_period=DEAD
                    )
            except (IntegrityError, OperationalError, ProgrammingError):
                # Two who make the tables at once: one of them comes too late, and finds them.
                if not tries_left:
                    raise
                time.sleep(0.1 + 0.3 * random.random())
        raise AssertionError("the last try returns or raises")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What the database says, in one line that names it."""
        from sqlalchemy.exc import ArgumentError, SQLAlchemyError

        exceptions = self._optuna.exceptions
        try:
            yield
        except EyebrightError:
            raise
        except ArgumentError as error:
            raise UsageError(
                f"--storage: '{self._where}' is no URL of a database ({first_line(error)}); say "
                "sqlite:////path/to/study.db or postgresql://user@host/name"
            ) from None
        except ImportError as error:
            missing = error.__cause__ or error
            raise UsageError(
                f"--storage: {self._where} needs a driver that is not there "
                f"({first_line(missing)}); install it with pip"
            ) from None
        except (SQLAlchemyError, exceptions.StorageInternalError) as error:
            cause = error.__cause__ or error
            raise StorageError(
                f"{self._where}: no database that can be used ({first_line(cause)})"
            ) from None
        except (exceptions.UpdateFinishedTrialError, KeyError, AssertionError) as error:
            raise StorageError(
                f"{self._where}: its study '{shown(self.name)}' was changed meanwhile, or is "
                f"damaged ({first_line(error)})"
            ) from None
        except RuntimeError as error:  # tables of another version
            raise StorageError(f"{self._where}: {first_line(error)}") from None


def import_optuna() -> Any:
    """Optuna, silent.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            f'tune needs optuna ({first_line(error)}): pip install "eyebright[tune]"'
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

    return URL.create("sqlite", database=str((folder / DATABASE).resolve())).render_as_string()


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


def is_alive(process: int) -> bool:
    """Whether a process of this machine is there."""
    if os.name != "posix":  # asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def first_line(error: object) -> str:
    """What an exception says, in one line."""
    return shown(str(getattr(error, "orig", None) or error).strip().splitlines()[0][:200])
