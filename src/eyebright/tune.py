"""`tune`: searches settings, and then says on fresh seeds whether that helped."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eyebright import metrics
from eyebright.config import TrainConfig, flag, parse_time
from eyebright.console import Bar, progress_bar, say, shown
from eyebright.data import Dataset
from eyebright.errors import (
    EyebrightError,
    ModelError,
    NumbersError,
    StorageError,
    UsageError,
)
from eyebright.evaluation import read_evaluation
from eyebright.files import read_json, write_json
from eyebright.holdout import hold_out
from eyebright.jobs import advice
from eyebright.launch import default_name, train
from eyebright.lock import locked
from eyebright.plan import CLOSING
from eyebright.prepare import begin, decide, prepare_net, read_data
from eyebright.pretrained import find_weights
from eyebright.probe import probe_epoch
from eyebright.report.search import write_search
from eyebright.run import Run
from eyebright.runtime import choose_device, explained, set_up
from eyebright.search import Search, in_words
from eyebright.space import Range, is_probe_alone, own_settings, space_of, suggest
from eyebright.study import OutOfTimeError, Study, Trial, database_in, import_optuna
from eyebright.training import EpochResult, fit
from eyebright.verdict import Verdict, judge

FORMAT = 1
OF_THE_MACHINE = {"device", "precision", "threads", "deterministic"}  # each its own
OF_A_LENGTH = {"epochs", "lr", "max_steps"}  # which a linear probe has not
FINALS = "final.json"
WAIT = 0.5  # seconds between looks at trials of others


@dataclass(frozen=True)
class Parts:
    """The pictures, and who may see which."""

    data: Dataset
    """All, as `train` gets them: fresh seeds are judged on what is held out of these."""
    searched: Dataset
    """Those that are left for the search."""
    train_set: Dataset
    """What trials are trained on."""
    val_set: Dataset
    """What they are compared by."""
    kept: int
    """Pictures that the search never sees."""


def tune(
    data: Dataset | str | os.PathLike[str] | None = None,
    trials: int = 30,
    *,
    time_limit: float | str | None = None,
    recipe: str | None = None,
    seeds: int = 5,
    storage: str | None = None,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    language: str = "en",
    skip_bad: bool = False,
    workers: int | None = None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    started: float | None = None,
    **settings: Any,
) -> Search:
    """Search settings of a recipe, or go on with a search, and say whether it helped.

    The pictures that `train` would hold out are kept away from the search, which holds out others
    of its own. Afterwards its winner and the recipe's own settings are trained on fresh seeds, as
    ordinary runs, and judged on the pictures kept. The test part is never opened.

    Args:
        data: as in `train`.
        trials: how many there are to be in the study, by whichever process; the first one has the
            recipe's own settings.
        time_limit: seconds that all of it may take, or text such as ``30m``. Time for the fresh
            seeds is set aside, from what trials took. None: there is no limit.
        recipe: as in `train`.
        seeds: fresh ones for the verdict; 0: search only, as further machines do.
        storage: URL of a database that others share; None: ``study.db`` in the study's folder.
        name: of the study and its folder. Default: from data and recipe.
        runs: the folder of runs.
        language: of the page, ``en`` or ``zh``.
        skip_bad: as in `train`.
        workers: as in `train`.
        labels: as in `train`.
        root: as in `train`.
        quiet: print nothing.
        started: when the clock of ``time_limit`` began, of ``time.monotonic``; None: now.
        **settings: as in `train`; those that are given are not searched.

    Returns:
        What was found; it is in the study's folder too, with a page, ``report.html``.

    Raises:
        UsageError: no optuna, a study of other data or settings, or too little time.
        StorageError: the database cannot be reached, or is damaged.
        NumbersError: the recipe's own settings cannot be trained.
        BusyError: another process trains the fresh seeds of this study.
        DataError: as in `train`, or nothing can be held out.
        KeyboardInterrupt: interrupted; what there is has been written.
    """
    started = time.monotonic() if started is None else started
    limit = parse_time(time_limit) if isinstance(time_limit, str) else time_limit
    given = {key: value for key, value in settings.items() if value is not None}
    check(trials, seeds, given)
    import_optuna()
    begin(recipe, without_length(recipe, given))  # a mistake is better known before they are read
    source = "cifar10" if data is None else data
    parts, config = read_parts(
        source, recipe, given, lambda r, s: read_data(r, recipe, s, skip_bad, workers, labels, root)
    )
    label = name or f"{default_name(parts.data, config.recipe)}-tune"
    folder = study_folder(Path(runs), label)
    study = Study(storage or database_in(folder), label, config.seed)
    space = space_of(config, set(given))
    record = {
        "format": FORMAT, "recipe": config.recipe, "given": json_of(given),
        "settings": json_of({k: v for k, v in asdict(config).items() if k not in OF_THE_MACHINE}),
        "data": parts.data.name, "pictures": fingerprints(parts.data),
        "own": json_of(own_settings(config, space)),
    }  # fmt: skip
    known = study.begin_or_join(record)
    base = take_over(known, record, config, label)
    space = space_of(base, set(known["given"]))
    hunt = Hunt(study, parts, base, space, trials, seeds, started, limit, quiet)
    names = {"looked at": len(parts.val_set), "trained on": len(parts.train_set)}
    search = Search(
        folder, base.recipe, parts.data.source or parts.data.name, base.metric, known["settings"],
        {k: v for k, v in known["given"].items() if k not in OF_THE_MACHINE}, tuple(space),
        names | {"kept": parts.kept}, [],
    )  # fmt: skip
    try:
        hunt.search()
        search = replace(search, trials=study.trials())
        if seeds:
            final_runs = Finals(search, parts.data, base, seeds, Path(runs), skip_bad, quiet)
            with locked(folder):
                search = final_runs.judged()
    except BaseException:
        with contextlib.suppress(EyebrightError):  # what went wrong first is what is to be told
            search = replace(search, trials=study.trials())
            search.write()
            write_search(search, language)
        raise
    search.write()
    write_search(search, language)
    return search


def check(trials: int, seeds: int, given: dict[str, Any]) -> None:
    """Refuse what cannot be searched.

    Raises:
        UsageError: it cannot.
    """
    if trials < 1:
        raise UsageError(f"--trials must be 1 or more, not {trials}")
    if seeds < 0:
        raise UsageError(f"--seeds must be 0 or more, not {seeds}")
    if no := given.keys() & {"folds", "fold", "target", "time"}:
        raise UsageError(f"a search takes no {', '.join(map(flag, sorted(no)))}")


def without_length(recipe: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings to begin with: where the recipe is a linear probe, others still have a length."""
    return {k: v for k, v in settings.items() if recipe != "finetune" or k not in OF_A_LENGTH}


def read_parts(
    source: Any,
    recipe: str | None,
    given: dict[str, Any],
    read: Callable[[Any, dict[str, Any]], tuple[Dataset, TrainConfig]],
) -> tuple[Parts, TrainConfig]:
    """The pictures, divided, and the recipe's settings with nothing left open.

    Raises:
        UsageError: nothing is held out.
    """
    data, config = read(source, without_length(recipe or "finetune", given))
    config = config.replace(**{k: v for k, v in given.items() if k in OF_A_LENGTH})
    left, kept = hold_out(data, config)
    searched = left.subset(np.arange(len(left)))
    train_set, val_set = hold_out(searched, config)
    if kept is None or val_set is None or not len(kept) or not len(val_set):
        raise UsageError(
            "a search needs pictures held out to compare trials by, and others to judge the "
            "winner by; use --val 0.1, or more pictures"
        )
    device = choose_device(config.device)
    config = decide(config, given, searched, len(train_set), device)
    return Parts(data, searched, train_set, val_set, len(kept)), config


def study_folder(runs: Path, name: str) -> Path:
    """The folder of a study, new or not.

    Raises:
        UsageError: a name that would lie elsewhere, or a run of that name.
        StorageError: it cannot be made.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"--name must be a plain folder name, not '{shown(name)}'")
    folder = runs / name
    if (folder / "config.json").exists():
        raise UsageError(f"{shown(folder)} is a run; choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    return folder


def take_over(
    known: dict[str, Any], mine: dict[str, Any], config: TrainConfig, name: str
) -> TrainConfig:
    """The settings of a study, on this machine.

    Raises:
        UsageError: it was begun with other data or settings; the message says which.
    """
    try:
        was, given = known["settings"], known["given"]
        said = {k: v for k, v in mine["given"].items() if k not in OF_THE_MACHINE}
        differences = [
            f"{flag(key)} was {was.get(key)}, now {value}"
            for key, value in said.items()
            if value not in (was.get(key), given.get(key))
        ]
        if known["recipe"] != mine["recipe"]:
            differences.insert(0, f"--recipe was {known['recipe']}, now {mine['recipe']}")
        elif known["pictures"] != mine["pictures"]:
            differences.append(
                f"the pictures of {shown(known['data'])} are not those of {shown(mine['data'])}"
            )
        device = {key: getattr(config, key) for key in OF_THE_MACHINE}
        base = TrainConfig.from_json(json.dumps(was | device))
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise StorageError(f"the study '{shown(name)}' is damaged ({error})") from None
    if differences:
        raise UsageError(
            f"the study '{shown(name)}' was begun with something else: {'; '.join(differences)}. "
            "Choose another --name"
        )
    return base


class Hunt:
    """The search itself: trials until there are enough, or there is no time for another."""

    def __init__(
        self,
        study: Study,
        parts: Parts,
        config: TrainConfig,
        space: dict[str, Range],
        trials: int,
        seeds: int,
        started: float,
        limit: float | None,
        quiet: bool,
    ):
        self.study, self.parts, self.config, self.space = study, parts, config, space
        self.most, self.seeds, self.started, self.limit = trials, seeds, started, limit
        self.quiet = quiet
        self._end: float | None = None  # of the search, once it is known how long runs take

    def search(self) -> None:
        """Go on until the trials are over, those of others too.

        Raises:
            NumbersError: the recipe's own settings cannot be trained.
            UsageError: there is no time for a search.
        """
        if self.limit is not None and not self.config.probe:
            # What a process does once, such as compiling, would count as time of every run.
            best_epoch(self.config.replace(max_steps=2), self.parts, lambda *_: None)
        with progress_bar("trials", self.most, self.quiet) as bar:
            while True:
                known = self.study.trials()
                self._look(known, bar)
                defaults = [t for t in known if t.is_default and t.state != "stopped"]
                default_over = any(t.is_over for t in defaults)
                over = sum(t.is_over for t in known)
                running = sum(t.state == "running" for t in known)
                if over >= self.most and default_over:
                    return
                if default_over and self._is_late(known):
                    return
                if defaults and over + running >= self.most:
                    bar.update(over, f"waiting for {running} of other processes")
                    time.sleep(WAIT)  # others are at the last ones, or are dead
                    continue
                trial = self.study.run_one(self.most, self._suggest, self._train)
                if trial is not None and not self.quiet:
                    say(self._line(trial))

    def _look(self, known: list[Trial], bar: Bar) -> None:
        failed = next((t for t in known if t.is_default and t.state == "failed"), None)
        if failed is not None:
            raise NumbersError(f"trial {failed.number}, the recipe's own settings: {failed.why}")
        best = max((t.score for t in known if t.score is not None), default=None)
        info = "" if best is None else f"best {100 * best:.2f} %"
        bar.update(sum(t.is_over for t in known), info)

    def _is_late(self, known: list[Trial]) -> bool:
        """Whether no time is left for another trial; from now on, running ones know the end too."""
        if self.limit is None:
            return False
        done = [t for t in known if t.score is not None and t.seconds]
        spent = [t.seconds or 0.0 for t in known if t.is_over and t.seconds]
        if not done:
            return False
        default = next((t for t in done if t.is_default), done[0])
        best = max(done, key=lambda t: t.score or 0.0)
        longer = len(self.parts.data) / len(self.parts.searched)
        of_both = longer * ((default.seconds or 0.0) + (best.seconds or 0.0)) + 2 * CLOSING
        set_aside = self.seeds * of_both + CLOSING
        self._end = self.started + self.limit - set_aside
        usual = sum(spent) / len(spent)
        late = time.monotonic() + usual > self._end
        if late and len(spent) == 1:
            least = math.ceil(time.monotonic() - self.started + usual + set_aside)
            raise UsageError(
                f"--time: {self.limit:.0f} s are too short here, {least} s the least: the "
                f"default took {usual:.0f} s, and two times {self.seeds} fresh seeds come after "
                "the search; lower --seeds or --epochs. The study is kept"
            )
        return late

    def _suggest(self, trial: Any) -> dict[str, Any]:
        parts = self.parts
        return suggest(trial, self.config, self.space, len(parts.train_set), parts.data.mirrors)

    def _train(self, settings: dict[str, Any], tell: Callable[[int, float], None]) -> float:
        """Train with these settings; nothing of the net is kept."""
        config = self.config.replace(**settings)
        is_first = settings == own_settings(self.config, self.space)

        def told(epoch: int, score: float) -> None:
            tell(epoch, score)
            if self._end is not None and not is_first and time.monotonic() > self._end:
                raise OutOfTimeError

        try:
            return best_epoch(config, self.parts, told)
        except StorageError as error:  # no memory for such batches
            if is_first:
                raise
            raise NumbersError(str(error)) from None

    def _line(self, trial: Trial) -> str:
        best = max((t.score for t in self.study.trials() if t.score is not None), default=0.0)
        came = {"done": f"{100 * (trial.score or 0.0):.2f} %", "failed": f"failed ({trial.why})"}
        said = came.get(trial.state, trial.state)
        whose = "the recipe's own" if trial.is_default else in_words(trial.settings)
        return f"trial {trial.number:2d}  {said}  (best {100 * best:.2f} %)  {whose}"


def best_epoch(config: TrainConfig, parts: Parts, tell: Callable[[int, float], None]) -> float:
    """Train a net and forget it.

    Args:
        config: with nothing left to "auto".
        parts: what to train on, and to look at after each epoch.
        tell: told the figure of each epoch; may raise to end it.

    Returns:
        The best figure on the pictures looked at.
    """

    def score_of(result: EpochResult) -> float:
        assert result.val_confusion is not None, "there are pictures to look at"
        if config.metric == "balanced-accuracy":
            return metrics.balanced_accuracy(result.val_confusion)
        return metrics.accuracy(result.val_confusion).value or 0.0

    scores = []
    with explained(lambda: advice(config)):
        set_up(choose_device(config.device), config.threads, config.seed, config.deterministic)
        weights = find_weights(config, parts.data.imgsz)
        if weights:
            config = config.replace(model=weights.model)
        net, normalization = prepare_net(None, config, parts.searched, parts.train_set, weights)
        both = parts.train_set, parts.val_set
        if config.probe:
            probe = probe_epoch(net, *both, config, normalization, lambda _: None)
            scores.append(score_of(probe))
            tell(probe.epoch, scores[-1])
        if config.tune != "none":
            for result in fit(net, *both, config, normalization, None):
                scores.append(score_of(result))
                tell(result.epoch, scores[-1])
    return max(scores)


class Finals:
    """The winner and the default on fresh seeds, as ordinary runs; those that are there count."""

    def __init__(
        self,
        search: Search,
        data: Dataset,
        config: TrainConfig,
        seeds: int,
        runs: Path,
        skip_bad: bool,
        quiet: bool,
    ):
        self.search, self.data, self.config, self.runs = search, data, config, runs
        self.seeds = range(
            config.seed + 1, config.seed + 1 + seeds
        )  # the search had the one before
        self.skip_bad, self.quiet = skip_bad, quiet
        self._there = self._read()

    def judged(self) -> Search:
        """The search with its verdict; as it was where the default won."""
        default, winner = self.search.default, self.search.winner
        if default is None or winner is None or winner is default:
            return self.search
        groups = {"default": default, "winner": winner}
        folders: dict[str, list[Path]] = {key: [] for key in groups}
        with progress_bar("fresh seeds", 2 * len(self.seeds), self.quiet) as bar:
            for seed in self.seeds:
                for key, trial in groups.items():
                    folders[key].append(self._run(key, trial, seed))
                    bar.advance()
        found = {key: [read_evaluation(path, "val") for path in folders[key]] for key in groups}
        promised = (winner.score or 0.0) - (default.score or 0.0)
        verdict: Verdict = judge(found["default"], found["winner"], self.config.metric, promised)
        named = {key: [str(path) for path in paths] for key, paths in folders.items()}
        return replace(self.search, verdict=verdict, runs=named)

    def _run(self, key: str, trial: Trial, seed: int) -> Path:
        known = json.dumps([self.data.fingerprint, trial.settings, seed], sort_keys=True)
        name = self._there.get(known)
        if name and (self.runs / name / "val.json").is_file():
            return self.runs / name
        name = f"{self.search.folder.name}-{key}-seed{seed}"
        run = train(
            self.data, recipe=self.config.recipe, name=name,
            runs=self.runs, skip_bad=self.skip_bad, quiet=True, seed=seed,
            **settings_for(self.config, trial.settings),
        )  # fmt: skip
        self._there[known] = run.path.name
        write_json(self.search.folder / FINALS, self._there)
        if not self.quiet:
            figure = Run(run.path).held_out().figures[self.config.metric.replace("-", " ")]
            say(f"{key}, seed {seed}  {figure.percent()}  {shown(run.path)}")
        return run.path

    def _read(self) -> dict[str, str]:
        path = self.search.folder / FINALS
        if not path.exists():
            return {}
        found = read_json(path)
        names = {str(key): str(name) for key, name in found.items()}
        if any(Path(name).name != name for name in names.values()):
            raise ModelError(f"{shown(path)}: not what belongs there")
        return names


def settings_for(config: TrainConfig, chosen: dict[str, Any]) -> dict[str, Any]:
    """What to say to `train`, so that it trains as a trial did."""
    settings = asdict(config.replace(**chosen))
    leave_out = {"recipe", "seed", "max_steps" if not config.max_steps else ""}
    if is_probe_alone(config, chosen):
        leave_out |= OF_A_LENGTH
    return {k: v for k, v in settings.items() if k not in leave_out and v is not None}


def fingerprints(data: Dataset) -> list[str]:
    """What tells whether pictures are the same, those of their own validation part too."""
    return [data.fingerprint, *([data.val.fingerprint] if data.val is not None else [])]


def json_of(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back, to compare with what a database holds."""
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found
