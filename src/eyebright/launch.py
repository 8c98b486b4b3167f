"""`train`: makes the run folder, drives the loop and keeps the best."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from eyebright import kernels, metrics
from eyebright.augment import parse_augment
from eyebright.checkpoint import write_file, write_json
from eyebright.config import TrainConfig, parse_time
from eyebright.console import out, say, shown
from eyebright.data import Dataset
from eyebright.errors import NumbersError, UsageError
from eyebright.holdout import hold_out
from eyebright.keeper import Keeper, claim_folder, describe_data
from eyebright.plan import Pacer, Plan, make_plan
from eyebright.prepare import (
    begin,
    check_tuning,
    decide,
    is_to_be_planned,
    nets_to_compare,
    prepare_net,
    read_data,
    to_device,
)
from eyebright.pretrained import find_weights
from eyebright.probe import probe_epoch
from eyebright.report import write_report
from eyebright.run import Run
from eyebright.runtime import choose_device, describe, memory_errors, set_up
from eyebright.tracking import find_tracker
from eyebright.trained_on import TrainedOn
from eyebright.training import EpochResult, count_steps, fit, plain_schedule


def train(
    data: Dataset | str | os.PathLike[str] = "cifar10",
    *,
    recipe: str | None = None,
    model: nn.Module | str | None = None,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    skip_bad: bool = False,
    workers: int | None = None,
    track: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    started: float | None = None,
    **settings: Any,
) -> Run:
    """Train a classifier and write a run folder.

    Args:
        data: a `Dataset`, or what `load` takes.
        recipe: a key of `RECIPES`, whose settings are the defaults. None: ``finetune`` for pictures
            above 64 px or a backbone of timm, ``fast`` for others and for your own net.
        model: a name in `MODELS` or of timm, or your own net: float (batch, 3, imgsz, imgsz) in,
            logits (batch, classes) out. It is trained in place.
        name: of the folder; the next free number is appended if it is taken. Default: from data
            and recipe.
        runs: the folder of runs.
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
        UsageError: an unknown recipe, net or setting.
        DataError: data that cannot be trained on.
        ModelError: weights or a run to begin with that cannot be used.
        StorageError: the run folder cannot be written, memory ran out, or there are no pretrained
            weights to be had.
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
    if recipe is None and isinstance(model, nn.Module):
        recipe = "fast"
    config = begin(recipe, settings)  # a mistake is better known before the pictures are read
    if recipe is not None:
        check_tuning(config, settings)
    device, tracker = choose_device(config.device), find_tracker(track)
    parse_augment(config.augment)
    data, config = read_data(data, recipe, settings, skip_bad, workers, labels, root)
    if isinstance(model, nn.Module):
        config = config.replace(model=type(model).__qualname__)
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
        if weights := find_weights(config, data.imgsz):
            config = config.replace(model=weights.model)
        source = weights.source if weights else "none"
        net, normalization = prepare_net(model, config, data, train_set, weights)
        net = to_device(net, config, device)
        folder = claim_folder(Path(runs), name or default_name(data, config.recipe))
        tracked = tracker(folder) if tracker else None
        keeper = Keeper(folder, net, config, data.classes, normalization, val_set, tracked)
        results: list[EpochResult] = []
        known = TrainedOn.learn(train_set)
        leaks = None if val_set is None else known.count_leaks(val_set)
        try:
            known.write(folder)
            write_file(folder / "config.json", config.to_json().encode())
            machine = describe_machine(config, device)
            write_json(folder / "env.json", machine | {"first_weights": source})
            write_json(folder / "data.json", describe_data(data, train_set, val_set, skip_bad))
            tell(f"model will be trained on device: '{device}'")
            if config.tta == "mirror" and val_set is not None:
                tell("every figure averages each picture with its mirror image")
            if weights:
                tell(f"{config.model} begins with the weights of {source}")
            if config.probe:
                probe = probe_epoch(net, train_set, val_set, config, normalization, tell)
                keeper.keep(probe)
                results.append(replace(probe, val_logits=None))
                keeper.log(probe)
                tell(epoch_line(results, config.epochs, config.metric))
            schedule = plain_schedule(len(train_set), config)
            steps_per_epoch = count_steps(len(train_set), config)
            if plan:
                plan.write(folder)
            if plan and config.time:
                pacer = Pacer(plan, started + config.time, schedule, steps_per_epoch)
            hear, look = None if quiet else say, pacer.look if pacer else None
            epochs = fit(net, train_set, val_set, config, normalization, hear, schedule, look)
            is_there = config.tune == "none" or any(map(keeper.reaches_target, results))
            with contextlib.closing(epochs):
                for result in () if is_there else epochs:
                    keeper.keep(result)
                    results.append(replace(result, val_logits=None))
                    keeper.log(result)
                    if plan and pacer:
                        pacer.epoch_is_over(result)
                        plan.write(folder)
                    if not result.running_losses:
                        epochs_in_all = math.ceil(schedule.total_steps / steps_per_epoch)
                        tell(epoch_line(results, epochs_in_all, config.metric))
                    if keeper.reaches_target(result):
                        break
            evaluation = keeper.finish(leaks)
        except KeyboardInterrupt:
            keeper.save_interrupted(results)
            keeper.finish(leaks)
            tell(f"interrupted; {keeper.what_is_left()}")
            raise
        except NumbersError as error:
            keeper.finish(leaks)
            raise NumbersError(f"{error}. {keeper.what_is_left()}") from None
        finally:
            keeper.leave_nothing_half_done()

    run = Run(folder, model if isinstance(model, nn.Module) else None)
    run.remember(val_set)
    report = write_report(run, evaluation=evaluation, data=val_set)
    tell("Finished Training")
    if results[0].running_losses and not quiet:
        out.print(loss_table(results))
    for line in closing_lines(keeper, results, plan, time.monotonic() - started):
        tell(line)
    tell(f"report: {shown(report)}")
    return run


def default_name(data: Dataset, recipe: str) -> str:
    """What a run folder is called where the user does not say; a folder's name may be hidden."""
    return f"{data.name}-{recipe}".lstrip(".")


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


def epoch_line(results: list[EpochResult], epochs: int, metric: str) -> str:
    """What is printed when an epoch is over: its loss, accuracy and seconds of training."""
    result = results[-1]
    seconds = result.seconds - (results[-2].seconds if len(results) > 1 else 0)
    what = f"epoch {result.epoch:2d}/{epochs}" if result.epoch else "linear probe"
    line = f"{what}  train loss {result.train_loss:.3f}"
    if result.val_confusion is not None:
        line += f"  validation accuracy {metrics.accuracy(result.val_confusion).percent()}"
        if metric == "balanced-accuracy":
            line += f", balanced {metrics.balanced_accuracy_figure(result.val_confusion).percent()}"
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
