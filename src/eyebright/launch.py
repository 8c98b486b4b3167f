"""`train`: decides what is open, makes the run folder, drives the loop and keeps the best."""

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import nn

from eyebright import kernels, metrics
from eyebright.augment import MIRROR, parse_augment
from eyebright.batches import HALF, Normalization, measure_normalization, predict_logits
from eyebright.checkpoint import write_file, write_json
from eyebright.config import (
    UNBALANCED,
    WITH_MATRIX_HARDWARE,
    TrainConfig,
    fit_to_data,
    parse_time,
    recipe_config,
)
from eyebright.console import out, say, shown
from eyebright.data import Dataset, load
from eyebright.data.splits import group_folds, stratified_folds, stratified_split
from eyebright.errors import DataError, NumbersError, UsageError
from eyebright.evaluation import Evaluation, read_evaluation
from eyebright.keeper import Keeper, claim_folder, describe_data, write_log
from eyebright.models import check_name, create_model
from eyebright.plan import CURVES, Pacer, Plan, make_plan
from eyebright.report import write_report
from eyebright.report.baselines import TrainedOn
from eyebright.run import Run
from eyebright.runtime import (
    available_cores,
    choose_device,
    choose_precision,
    describe,
    has_matrix_hardware,
    memory_errors,
    memory_format,
    set_up,
)
from eyebright.training import EpochResult, count_steps, fit, plain_schedule

SPLIT_SEED = 0  # of what is held out: runs that differ in their seed are compared on the same
MEASURED_PIXELS = 10_000_000  # so many tell the mean and deviation of all
WHITENING_PIXELS = 2_000_000  # so many tell the statistics of patches


def train(
    data: Dataset | str | os.PathLike[str] = "cifar10",
    *,
    recipe: str = "fast",
    model: nn.Module | str | None = None,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    skip_bad: bool = False,
    workers: int | None = None,
    quiet: bool = False,
    started: float | None = None,
    **settings: Any,
) -> Run:
    """Train a classifier and write a run folder.

    Args:
        data: a `Dataset`, or what `load` takes.
        recipe: a key of `RECIPES`, whose settings are the defaults.
        model: a name in `MODELS`, or your own net: float (batch, 3, imgsz, imgsz) in, logits
            (batch, classes) out. It is trained in place.
        name: of the folder; the next free number is appended if it is taken. Default: from data
            and recipe.
        runs: the folder of runs.
        skip_bad: go on without pictures that cannot be read.
        workers: threads that decode pictures; None: one a processor core.
        quiet: print nothing.
        started: when the clock of ``time`` began to run, of ``time.monotonic``; None: now.
        **settings: any other setting of `TrainConfig`; ``time`` also as text, such as ``"3m"``.

    Returns:
        The run, with the model of the best epoch on the pictures held out (of the last epoch
        where nothing is).

    Raises:
        UsageError: an unknown recipe, net or setting.
        DataError: data that cannot be trained on.
        StorageError: the run folder cannot be written, or memory ran out.
        NumbersError: the loss is no longer finite; the last good model is kept.
        KeyboardInterrupt: interrupted, after what there was to save has been saved.
    """
    tell: Callable[[str], None] = (lambda text: None) if quiet else say
    started = time.monotonic() if started is None else started
    if isinstance(model, str):
        settings["model"] = model
    if isinstance(limit := settings.get("time"), str):
        settings["time"] = parse_time(limit)
    settings = {key: value for key, value in settings.items() if value is not None}
    if "time" in settings and settings.keys() & {"epochs", "max_steps"}:
        raise UsageError("--time decides how many epochs there are: leave --epochs out")
    config = recipe_config(recipe).replace(**settings)
    device = choose_device(config.device)
    parse_augment(config.augment)
    if isinstance(model, nn.Module):
        config = config.replace(model=type(model).__qualname__)
    else:
        check_name(config.model)
    if not isinstance(data, Dataset):
        data = load(data, imgsz=config.imgsz, skip_bad=skip_bad, workers=workers)
    data = data.resized(config.imgsz or data.imgsz)
    train_set, val_set = hold_out(data, config)
    if config.target is not None and val_set is None:
        raise UsageError("--target needs pictures held out to see it reached; use --val 0.1")
    config = decide(config, settings, data, len(train_set), device)

    advice = (
        f"{config.batch_size} pictures of {data.imgsz} px a batch are too many: lower "
        "--batch-size or --imgsz"
    )
    plan, pacer = None, None
    with memory_errors(advice):
        set_up(device, config.threads, config.seed)
        if is_to_be_planned(config, settings):
            nets = nets_to_compare(model, config, settings, data, device)
            plan = make_plan(nets, train_set, val_set, config, started)
            config = config.replace(model=plan.chosen.model, max_steps=plan.chosen.steps)
            tell(plan.line(len(train_set), config))
            set_up(device, config.threads, config.seed)  # as if nothing had been tried
        net, normalization = prepare_net(model, config, data, train_set)
        net = to_device(net, config, device)
        folder = claim_folder(Path(runs), name or default_name(data, recipe))
        keeper = Keeper(folder, net, config, data.classes, normalization)
        results: list[EpochResult] = []
        try:
            write_file(folder / "config.json", config.to_json().encode())
            write_json(folder / "env.json", describe_machine(config, device))
            write_json(folder / "data.json", describe_data(data, train_set, val_set, skip_bad))
            tell(f"model will be trained on device: '{device}'")
            schedule = plain_schedule(len(train_set), config)
            steps_per_epoch = count_steps(len(train_set), config)
            if plan:
                plan.write(folder)
            if plan and config.time:
                pacer = Pacer(plan, started + config.time, schedule, steps_per_epoch)
            hear, look = None if quiet else say, pacer.look if pacer else None
            epochs = fit(net, train_set, val_set, config, normalization, hear, schedule, look)
            with contextlib.closing(epochs):
                for result in epochs:
                    keeper.keep(result)
                    results.append(replace(result, val_logits=None))
                    write_log(folder / "log.csv", results)
                    if plan and pacer:
                        pacer.epoch_is_over(result)
                        plan.write(folder)
                    if not result.running_losses:
                        tell(epoch_line(results, math.ceil(schedule.total_steps / steps_per_epoch)))
                    if config.target is not None and keeper.score(result) >= config.target:
                        break
            keeper.finish(val_set)
            TrainedOn.learn(train_set).write(folder)
        except KeyboardInterrupt:
            keeper.save_interrupted(results)
            keeper.finish(val_set)
            tell(f"interrupted; {keeper.what_is_left()}")
            raise
        except NumbersError as error:
            keeper.finish(val_set)
            raise NumbersError(f"{error}. {keeper.what_is_left()}") from None
        finally:
            keeper.leave_nothing_half_done()

    run = Run(folder, model if isinstance(model, nn.Module) else None)
    run.remember(val_set)
    report = write_report(run, data=val_set)
    tell("Finished Training")
    if results[0].running_losses and not quiet:
        out.print(loss_table(results))
    for line in closing_lines(keeper, results, plan, time.monotonic() - started):
        tell(line)
    tell(f"report: {shown(report)}")
    return run


def train_several(
    data: Dataset | str | os.PathLike[str],
    seeds: int = 1,
    *,
    recipe: str = "fast",
    name: str | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    quiet: bool = False,
    **settings: Any,
) -> list[Run]:
    """Train a run for each of several seeds, or for each fold where ``folds`` is among settings.

    Args:
        data: as in `train`.
        seeds: how many, counted from ``seed``.
        recipe: as in `train`.
        name: of the folders, to which seed or fold is added.
        skip_bad: as in `train`.
        workers: as in `train`.
        quiet: print nothing.
        **settings: as in `train`.

    Returns:
        The runs. They are validated on the same pictures, but for folds.
    """
    config = recipe_config(recipe).replace(
        **{key: value for key, value in settings.items() if key != "runs"}
    )
    if not isinstance(data, Dataset):
        data = load(data, imgsz=config.imgsz, skip_bad=skip_bad, workers=workers)
    base = name or default_name(data, recipe)
    if config.folds:
        varied = [(f"fold{k}", {"fold": k}) for k in range(1, config.folds + 1)]
    else:
        varied = [(f"seed{s}", {"seed": s}) for s in range(config.seed, config.seed + seeds)]
    trained = []
    for suffix, change in varied:
        if not quiet:
            say(f"== {suffix}")
        own = settings | change
        trained.append(
            train(
                data, recipe=recipe, name=f"{base}-{suffix}", skip_bad=skip_bad, quiet=quiet, **own
            )
        )
    return trained


def default_name(data: Dataset, recipe: str) -> str:
    """What a run folder is called where the user does not say; a folder's name may be hidden."""
    return f"{data.name}-{recipe}".lstrip(".")


def join_folds(runs: list[Run]) -> tuple[Evaluation, Path]:
    """Out-of-fold predictions: what the runs of all folds said of the pictures they never saw.

    Returns:
        Their evaluation, and the new folder beside the runs that it was written to.
    """
    parts = [read_evaluation(run.path, "val") for run in runs]
    joined = Evaluation(
        split="val",
        classes=parts[0].classes,
        ids=[name for part in parts for name in part.ids],
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        fingerprint=str(runs[0].data_record["fingerprint"]),
        tta=parts[0].tta,
        temperature=1.0,  # each fold's own is in its probabilities
    )
    first = runs[0].path
    folder = claim_folder(first.parent, re.sub(r"-fold1(-\d+)?$", "-folds", first.name))
    joined.write(folder)
    return joined, folder


def is_to_be_planned(config: TrainConfig, settings: dict[str, Any]) -> bool:
    """Whether time or target decides net and length, and not the recipe or the user."""
    if config.time is not None:
        return True
    length_is_set = settings.keys() & {"epochs", "max_steps"}
    return config.target is not None and config.model in CURVES and not length_is_set


def nets_to_compare(
    model: nn.Module | str | None,
    config: TrainConfig,
    settings: dict[str, Any],
    data: Dataset,
    device: torch.device,
) -> Iterator[tuple[str, nn.Module]]:
    """The nets that a plan may choose from: one if the user named it, or the recipe has its own."""
    free = "model" not in settings and model is None and config.model in CURVES
    for name in CURVES if free else [config.model]:
        if isinstance(model, nn.Module):
            check_logits(model, data, HALF)
            net = model
        else:
            net = create_model(name, len(data.classes), data.imgsz)
        yield name, to_device(net, config, device)


def to_device(net: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The net on its device, its filters laid out as its pictures will be."""
    assert config.imgsz is not None, "decided before"
    layout = memory_format(config.batch_size, config.imgsz, config.precision, device)
    return net.to(device).to(memory_format=layout)


def hold_out(data: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on and those to validate on: the data's own part, or one cut out.

    Raises:
        DataError: fewer than two classes, or a class without pictures.
    """
    counts = data.counts()
    if len(data.classes) < 2:
        raise DataError(f"{shown(data.name)}: two classes are the least there is to tell apart")
    if not counts.all():
        empty = data.classes[int(np.argmin(counts))]
        raise DataError(f"{shown(data.name)}: the class '{shown(empty)}' has no pictures")
    if data.val is not None and not config.folds:
        return data, data.val
    held_out = choose_held_out(data, config)
    if not held_out.any():
        return data, None
    kept, val_set = data.subset(np.flatnonzero(~held_out)), data.subset(np.flatnonzero(held_out))
    if not kept.counts().all():
        empty = data.classes[int(np.argmin(kept.counts()))]
        raise DataError(
            f"{shown(data.name)}: nothing of the class '{shown(empty)}' is left to train on, all "
            "of its pictures are held out; choose other parts"
        )
    return kept, val_set


def choose_held_out(data: Dataset, config: TrainConfig) -> NDArray[np.bool_]:
    """Which pictures to hold out, bool (n,): the same ones whatever the seed of the training.

    Raises:
        UsageError: no such fold or column.
        DataError: too few groups.
    """
    if config.group is not None and config.group not in data.columns:
        known = f"it has {', '.join(map(shown, data.columns))}" if data.columns else "it has none"
        raise UsageError(
            f"--group: {shown(data.name)} has no further column '{shown(config.group)}'; {known}"
        )
    if config.folds == 1 or config.fold > max(1, config.folds):
        raise UsageError(f"there is no fold {config.fold} of {config.folds}")
    groups = data.columns[config.group] if config.group else None
    if config.folds or (groups and config.val):
        folds = config.folds or max(2, round(1 / config.val))
        fold_of = (
            group_folds(data.labels, groups, folds, SPLIT_SEED)
            if groups
            else stratified_folds(data.labels, folds, SPLIT_SEED)
        )
        chosen: NDArray[np.bool_] = fold_of == config.fold - 1
        return chosen
    held_out = np.zeros(len(data), bool)
    held_out[stratified_split(data.labels, config.val, SPLIT_SEED)[1]] = True
    return held_out


def decide(
    config: TrainConfig, settings: dict[str, Any], data: Dataset, n: int, device: torch.device
) -> TrainConfig:
    """Everything that was left open: nothing is "auto" any more.

    Args:
        config: recipe and settings.
        settings: what the user set; it is not changed.
        data: what to train on.
        n: pictures that are left to train on.
        device: where.
    """
    precision = choose_precision(config.precision, device)
    if (
        precision == "bf16"
        and has_matrix_hardware(device)
        and not is_to_be_planned(config, settings)
    ):
        suited = WITH_MATRIX_HARDWARE.get(config.recipe, {})
        config = config.replace(**{k: v for k, v in suited.items() if k not in settings})
    config = fit_to_data(config, n, data.imgsz, settings.get("batch_size"))
    if config.balance == "auto":
        counts = data.counts()
        unbalanced = counts.max() >= UNBALANCED * counts.min()
        config = config.replace(balance="logit-adjust" if unbalanced else "none")
    if config.balance != "none" and "metric" not in settings:
        config = config.replace(metric="balanced-accuracy")
    if not data.mirrors:
        names = [name for name in config.augment.split("+") if name != MIRROR]
        config = config.replace(augment="+".join(names) or "none", tta="none")
    wanted: dict[str, Any] = {
        key: settings[key] for key in ("epochs", "augment", "tta") if key in settings
    }
    if "epochs" in settings and "max_steps" not in settings:
        wanted["max_steps"] = 0
    return config.replace(
        **wanted,
        device=str(device),
        precision=precision,
        imgsz=data.imgsz,
        threads=config.threads or available_cores(),
    )


def prepare_net(
    model: nn.Module | str | None, config: TrainConfig, data: Dataset, train_set: Dataset
) -> tuple[nn.Module, Normalization]:
    """The net, ready for its first step, and the normalisation of its pictures.

    Args:
        model: the user's own net, if it is one.
        config: names the net otherwise.
        data: has the classes and the size.
        train_set: some of its pictures are measured for normalisation and whitening.

    Raises:
        UsageError: the net does not fit the data.
    """
    # By chance, because folders are sorted by class; so many that it takes no time.
    order = np.random.default_rng(config.seed).permutation(len(train_set))
    few = train_set.images[order[: max(1, MEASURED_PIXELS // data.imgsz**2)]]
    normalization = HALF if config.normalization == "half" else measure_normalization(few)
    if isinstance(model, nn.Module):
        net = model
    else:
        net = create_model(config.model, len(data.classes), data.imgsz)
    if callable(whiten := getattr(net, "whiten", None)):
        few = few[: max(1, WHITENING_PIXELS // data.imgsz**2)]
        whiten(normalization(torch.from_numpy(few)))
    check_logits(net, data, normalization)
    return net, normalization


def check_logits(net: nn.Module, data: Dataset, normalization: Normalization) -> None:
    """See that a net takes these pictures and tells as many classes apart as there are.

    Raises:
        UsageError: it gives another number of logits.
    """
    shape = tuple(predict_logits(net, data.images[:2], normalization).shape)
    if shape[1:] != (len(data.classes),):
        raise UsageError(
            f"the net gives logits of shape {shape} for two pictures; ({min(2, len(data))}, "
            f"{len(data.classes)}) is needed for {len(data.classes)} classes"
        )


def describe_machine(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """What ``env.json`` holds."""
    on_cpu = config.precision == "bf16" and device.type == "cpu"
    compiled = kernels.library() is not None if on_cpu else None
    return describe(device) | {"compiled_kernels": compiled}


def closing_lines(
    keeper: Keeper, results: list[EpochResult], plan: Plan | None, seconds: float
) -> list[str]:
    """What came of a training, after so many seconds of the whole command."""
    last, config = results[-1], keeper.config
    lines = [keeper.result_line()]
    if config.target is not None:
        lines.append(keeper.target_line(last, config.target, seconds))
    if plan:
        pictures = last.step * config.batch_size
        lines += plan.closing_lines(keeper.score(last), pictures, seconds)
    return [*lines, f"run folder: {shown(keeper.folder)}"]


def epoch_line(results: list[EpochResult], epochs: int) -> str:
    """What is printed when an epoch is over: its loss, accuracy and seconds of training."""
    result = results[-1]
    seconds = result.seconds - (results[-2].seconds if len(results) > 1 else 0)
    line = f"epoch {result.epoch:2d}/{epochs}  train loss {result.train_loss:.3f}"
    if result.val_confusion is not None:
        line += f"  validation accuracy {metrics.accuracy(result.val_confusion).percent()}"
    return f"{line}  {seconds:.1f} s"


def loss_table(results: list[EpochResult]) -> Table:
    """The running losses once more, epoch by mini-batch."""
    batches = [batch for batch, _ in results[0].running_losses]
    table = Table(title="running loss")
    table.add_column("epoch", justify="right")
    for batch in batches:
        table.add_column(f"{batch:,}", justify="right")
    for result in results:
        table.add_row(str(result.epoch), *(f"{loss:.3f}" for _, loss in result.running_losses))
    return table
