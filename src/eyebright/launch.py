"""`train`: decides or takes up what there is to do, and has it carried out in the run folder."""

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from eyebright import distributed
from eyebright.config import TrainConfig, parse_time
from eyebright.console import say, shown
from eyebright.data import Dataset
from eyebright.drive import carry_out, follow
from eyebright.errors import StorageError, UsageError
from eyebright.files import sweep
from eyebright.jobs import new_job, old_job
from eyebright.lock import locked
from eyebright.prepare import read_data
from eyebright.run import Run
from eyebright.saver import FOLDER as CHECKPOINTS
from eyebright.tracking import find_tracker


def train(
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    recipe: str | None = None,
    model: nn.Module | str | None = None,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    resume: str | os.PathLike[str] | None = None,
    resume_anyway: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    track: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    started: float | None = None,
    **settings: Any,
) -> Run:
    """Train a classifier and write a run folder, or go on with one that was interrupted.

    Args:
        data: a `Dataset`, or what `load` takes. Default: ``cifar10``, or what the run was trained
            on.
        recipe: a key of `RECIPES`, whose settings are the defaults. None: ``finetune`` for pictures
            above 64 px or a backbone of timm, ``fast`` for others and for your own net.
        model: a name in `MODELS` or of timm, or your own net: float (batch, 3, imgsz, imgsz) in,
            logits (batch, classes) out. It is trained in place.
        name: of the folder; the next free number is appended if it is taken. Default: from data
            and recipe.
        runs: the folder of runs.
        resume: a run folder to go on with, to the very weights that it would have had. Other
            arguments may be left out; those that are given must be what they were.
        resume_anyway: go on although data, settings or machine are no longer the same, and write
            down that it was not exact.
        skip_bad: go on without pictures that cannot be read.
        workers: threads that decode pictures; None: one a processor core.
        track: ``tensorboard`` also sends there what ``log.csv`` gets.
        labels: a table of decisions to apply first: pictures dropped, others relabelled.
        root: the folder that a table's paths are relative to; None: the table's own.
        quiet: print nothing.
        started: when the clock of ``time`` began to run, of ``time.monotonic``; None: now.
        **settings: any other setting of `TrainConfig`; ``time`` also as text, such as ``"3m"``.

    Returns:
        The run, with the model of the best epoch on the pictures held out (of the last epoch
        where nothing is).

    Raises:
        UsageError: an unknown recipe, net or setting; or a run that cannot be gone on with exactly.
        DataError: data that cannot be trained on.
        ModelError: weights, a checkpoint or a run to begin with that cannot be used.
        StorageError: the run folder cannot be written, memory ran out, or there are no pretrained
            weights to be had.
        NumbersError: the loss is no longer finite; the last good model is kept.
        BusyError: another process is training into this run folder.
        KeyboardInterrupt: interrupted, after what there was to save has been saved.
    """
    started = time.monotonic() if started is None else started
    if isinstance(model, str):
        settings["model"] = model
    if isinstance(limit := settings.get("time"), str):
        settings["time"] = parse_time(limit)
    settings = {key: value for key, value in settings.items() if value is not None}
    own = model if isinstance(model, nn.Module) else None
    tracker = find_tracker(track)
    source = "cifar10" if data is None else data

    def read(recipe: str | None, settings: dict[str, Any]) -> tuple[Dataset, TrainConfig]:
        return read_data(source, recipe, settings, skip_bad, workers, labels, root)

    distributed.join()
    with distributed.explained(), contextlib.ExitStack() as locks:
        is_first = distributed.is_first()
        quiet = quiet or not is_first
        tell: Callable[[str], None] = (lambda text: None) if quiet else say
        asked = digest_of(source, recipe, name, settings, own)
        restarted = distributed.was_restarted()
        begun = distributed.find_begun(Path(runs), asked, restarted) if is_first else None
        if resume is None and (begun := distributed.told(begun)):
            resume, resume_anyway = begun, True  # nobody is there to be asked
        if resume is not None:
            given = settings if recipe is None else settings | {"recipe": recipe}
            folder = Path(resume)
            Run(folder)  # or nothing is written there
            if is_first:
                locks.enter_context(locked(folder))
                for place in (folder, folder / CHECKPOINTS):
                    sweep(place)
            distributed.wait()
            job = old_job(folder, data, given, own, resume_anyway, workers, labels, root)
            distributed.check_alike("the checkpoint", job.checkpoint and job.checkpoint.position)
        else:
            job = new_job(read, recipe, settings, own, skip_bad, started, tell)
            job.machine["asked"] = asked
            named = name or default_name(job.data, job.config.recipe)
            folder = distributed.told(claim_folder(Path(runs), named) if is_first else Path())
            distributed.check_seen(folder)
            if folder.name != named:
                taken = shown(Path(runs) / named)
                tell(f"{taken} is there already, so that this run is {shown(folder)}")
            if is_first:
                locks.enter_context(locked(folder))
        if is_first:
            run = carry_out(job, folder, tracker, own, started, quiet)
            distributed.wait()
            return run
        follow(job, folder)
        distributed.wait()
        run = Run(folder, own)
        run.remember(job.val_set)
        return run


def digest_of(
    source: Dataset | str | os.PathLike[str],
    recipe: str | None,
    name: str | None,
    settings: dict[str, Any],
    own: nn.Module | None,
) -> str:
    """What `train` was asked for, in few letters; other words give others."""
    data = source.fingerprint if isinstance(source, Dataset) else os.fspath(source)
    net = type(own).__qualname__ if own is not None else None
    words = json.dumps([data, recipe, name, net, settings], sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def default_name(data: Dataset, recipe: str) -> str:
    """What a run folder is called where the user does not say; a folder's name may be hidden."""
    return f"{data.name}-{recipe}".lstrip(".")


def claim_folder(runs: Path, name: str) -> Path:
    """Make a new folder of this name, or of the name with the next free number.

    Raises:
        UsageError: a name that would lie elsewhere.
        StorageError: it cannot be made.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"--name must be a plain folder name, not '{shown(name)}'")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = runs / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise StorageError(f"{shown(runs)}: {error.strerror or error}") from None
    raise AssertionError("counting has no end")
