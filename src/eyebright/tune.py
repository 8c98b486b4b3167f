"""`tune`: searches settings, and then says on fresh seeds whether that helped."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from eyebright.choices import begin, decide
from eyebright.config import TrainConfig, flag, parse_time
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.database import database_in, import_optuna
from eyebright.errors import EyebrightError, StorageError, UsageError
from eyebright.finals import OF_A_LENGTH, Finals
from eyebright.holdout import hold_out
from eyebright.hunt import Hunt, Parts
from eyebright.launch import default_name
from eyebright.lock import locked
from eyebright.prepare import read_data
from eyebright.ranks import from_environment
from eyebright.report.search import write_search
from eyebright.report.words import LANGUAGES
from eyebright.runtime import choose_device
from eyebright.search import Search
from eyebright.space import own_settings, space_of
from eyebright.study import Study

FORMAT = 1
OF_THE_MACHINE = {"device", "precision", "threads", "deterministic"}  # each its own


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
    check(trials, seeds, language, given)
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

    def fresh() -> Finals:
        so_far = replace(search, trials=study.trials())
        return Finals(so_far, parts.data, base, seeds, Path(runs), skip_bad, quiet)

    def write(found: Search) -> Search:
        found.write()
        write_search(found, language)
        return found

    try:
        hunt.search()
        if not seeds:
            return write(fresh().judged_before())
        with locked(folder):
            return write(fresh().judged())
    except BaseException:
        with contextlib.suppress(EyebrightError):  # what went wrong first is what is to be told
            write(fresh().judged_before())
        raise


def check(trials: int, seeds: int, language: str, given: dict[str, Any]) -> None:
    """Refuse what cannot be searched.

    Raises:
        UsageError: it cannot.
    """
    if trials < 1:
        raise UsageError(f"--trials must be 1 or more, not {trials}")
    if from_environment().size > 1:
        raise UsageError(
            "tune shares its trials through a database, not under torchrun: start it by itself, "
            "several times if you like, with the same --storage"
        )
    if seeds < 0:
        raise UsageError(f"--seeds must be 0 or more, not {seeds}")
    if language not in LANGUAGES:
        raise UsageError(f"--lang cannot be '{language}'; choose one of: {', '.join(LANGUAGES)}")
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
        StorageError: what stands of it in the database is damaged.
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


def fingerprints(data: Dataset) -> list[str]:
    """What tells whether pictures are the same, those of their own validation part too."""
    return [data.fingerprint, *([data.val.fingerprint] if data.val is not None else [])]


def json_of(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back, to compare with what a database holds."""
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found
