"""The trials of a search, in a database that several processes and machines may share (Optuna)."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eyebright.console import shown
from eyebright.database import Database, without_warnings
from eyebright.errors import NumbersError, StorageError, UsageError

RECORD = "eyebright"  # what a study remembers of its data and settings
PATIENCE = 10.0  # seconds that whoever began a study has to write down what it is about
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
        self.name, self.seed = name, seed
        self._database = Database(url, name)
        self._optuna, self._storage = self._database.optuna, self._database.storage

    def begin_or_join(self, record: dict[str, Any]) -> dict[str, Any]:
        """The study's record: that of its first process.

        Args:
            record: what to write down if this is the first one; ``settings`` are those of the
                recipe, ``own`` those of trial 0.

        Raises:
            UsageError: a study of this name that is not one of eyebright.
            StorageError: the database, or what stands in it, is not to be used.
        """
        with self._database.explained():
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
            while known is None and not is_new and time.monotonic() - waited < PATIENCE:
                time.sleep(0.1)
                known = self._storage.get_study_user_attrs(study_id).get(RECORD)
            if known is None:
                if not is_new and self.trials():
                    raise UsageError(
                        f"{self._database.where}: its study '{shown(self.name)}' is not one of "
                        "eyebright; choose another --name"
                    )
                self._ask_for_default(record["own"])
                self._study.set_user_attr(RECORD, record)
            record = known or record
        if not isinstance(record, dict) or not {"own", "settings"} <= record.keys():
            raise StorageError(
                f"{self._database.where}: not what belongs into a study of eyebright"
            )
        epochs = int(record["settings"]["epochs"])
        self._study.pruner = self._optuna.pruners.MedianPruner(
            n_startup_trials=FIRST_UNPRUNED, n_warmup_steps=int(epochs * LOOKED_AT_LATER)
        )
        self._own = record["own"]
        return record

    def trials(self) -> list[Trial]:
        """All that were begun, in order; those of dead processes are given up."""
        with self._database.explained():
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
        with self._database.explained():
            if self._needs_default():  # it was stopped before it was over
                self._ask_for_default(self._own)
            with without_warnings():
                trial = self._study.ask()
        number, started = trial.number, time.monotonic()
        is_default = bool(trial.user_attrs.get("default"))
        try:
            with self._database.explained():
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
                with self._database.explained():
                    trial.report(score, epoch)
                    if not is_default and trial.should_prune():
                        raise PrunedError

            with self._database.beating(trial._trial_id):
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
        with self._database.explained():
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
