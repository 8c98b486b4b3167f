"""A training from where it stands to its end: the first rank carries it out, the others follow."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from eyebright import distributed, metrics
from eyebright.console import counted, out, say, shown
from eyebright.errors import ModelError, NumbersError
from eyebright.files import write_file, write_json
from eyebright.finite import check_weights
from eyebright.jobs import Job
from eyebright.keeper import Keeper
from eyebright.measuring import steps_to_measure
from eyebright.memory import advice
from eyebright.optim import Schedule, create_optimizers
from eyebright.pacer import Pacer
from eyebright.plan import Plan
from eyebright.probe import features_of_both, probe_epoch
from eyebright.records import describe_data
from eyebright.report import write_report
from eyebright.run import Run
from eyebright.runtime import explained
from eyebright.saver import Saver
from eyebright.signals import waiting_while
from eyebright.tracking import Tracker
from eyebright.training import EpochResult, Position, count_steps, fit, plain_schedule


def carry_out(
    job: Job,
    folder: Path,
    tracker: type[Tracker] | None,
    own: nn.Module | None,
    started: float,
    quiet: bool,
) -> Run:
    """Train from where a job stands to its end, and write all that there is to write.

    Args:
        job: what to do.
        folder: the run folder.
        tracker: gets what ``log.csv`` gets.
        own: the user's net, if it is one.
        started: when the command began to run, of ``time.monotonic``.
        quiet: print nothing.

    Raises:
        StorageError: the run folder cannot be written, or memory ran out.
        NumbersError: the loss is no longer finite; the last good model is kept.
        KeyboardInterrupt: interrupted, after what there was to save has been saved.
    """
    tell: Callable[[str], None] = (lambda text: None) if quiet else say
    config, net, plan, train_set, val_set = (
        job.config, job.net, job.plan, job.train_set, job.val_set,
    )  # fmt: skip
    keeper = Keeper(
        folder, net, config, job.data.classes, job.normalization, val_set,
        tracker(folder) if tracker else None,
    )  # fmt: skip
    interrupted: Callable[[], bool] = bool  # nobody has asked
    saver, known = Saver(folder), job.known
    leaks = None if val_set is None else known.count_leaks(val_set)
    position, schedule, optimizers = where_it_stands(job, folder)
    results = job.checkpoint.results if job.checkpoint else []
    started -= job.checkpoint.elapsed if job.checkpoint else 0.0
    steps_per_epoch = count_steps(len(train_set), config)
    pacer = None
    if plan and config.time:
        measuring = steps_to_measure(schedule.total_steps, config.batch_size)
        deadline = started + config.time
        pacer = Pacer(plan, deadline, schedule, steps_per_epoch, position, measuring)

    def save() -> None:
        # The loss of the last step, seen already, was that of the weights before it.
        check_weights(
            net.state_dict(), position.step, config.lr * schedule.share(position.step - 1)
        )
        elapsed = time.monotonic() - started
        saver.save(lambda: keeper.checkpoint(optimizers, position, results, elapsed))

    def look() -> None:
        if plan and pacer and pacer.look(position.step):
            plan.write(folder)  # before any step is taken by it
        save_if_due()

    def save_if_due(done: bool = False) -> bool:
        asked, done = agree(schedule, interrupted(), done)
        if asked or (saver.is_due() and not done):
            save()
        if asked:
            raise KeyboardInterrupt
        return done

    keeper.take_up(job.checkpoint, job.resumed)  # until it is done, there is nothing to save
    try:
        known.write(folder)
        if plan:
            plan.write(folder)
        # First of all that it is not exact, if so: whoever is killed after it leaves that behind.
        write_json(folder / "env.json", job.machine)
        record = describe_data(job.data, train_set, val_set, job.skip_bad, job.max_pixels)
        write_json(folder / "data.json", record)
        write_file(folder / "config.json", config.to_json().encode())  # now it is a run
        if position.step >= schedule.total_steps:
            tell(f"all {position.step:,} steps are taken: there is nothing to go on with")
        elif job.checkpoint:
            tell(f"goes on after {counted(position.step, 'step')} of {schedule.total_steps:,}")
        elif job.was_finished:
            tell("it was finished; without a checkpoint it is trained once more from its beginning")
        tell(f"model will be trained on device: '{config.device}'")
        if not config.log_every:  # as the lesson has it, its lines follow at once
            held_out = f", {len(val_set):,} held out" if val_set else ""
            pictures = counted(len(train_set), "picture")
            tell(f"{config.model} on {pictures}{held_out}, into {shown(folder)}")
        if config.tta == "mirror" and val_set is not None:
            tell("every figure averages each picture with its mirror image")
        if (source := job.machine.get("first_weights", "none")) != "none":
            tell(f"{config.model} begins with the weights of {source}")
        with explained(lambda: advice(config, net)):
            if config.probe and not results:
                probe = probe_epoch(net, train_set, val_set, config, job.normalization, tell)
                keeper.keep(probe)
                remember(results, probe)
                keeper.log(probe)
                position.seconds = probe.seconds
                tell(epoch_line(results, config.epochs, config.metric))
            if config.tune != "none":
                save()
            epochs = fit(
                net, train_set, val_set, config, job.normalization, None if quiet else say,
                schedule, look, position, optimizers,
            )  # fmt: skip
            is_there = config.tune == "none" or any(map(keeper.reaches_target, results[-1:]))
            distributed.told(is_there)
            # Ranks stop at a step that they agree on, and nowhere else.
            waiting = waiting_while(lambda: position.under_way or distributed.size() > 1)
            with contextlib.closing(epochs), waiting as interrupted:
                for result in () if is_there else epochs:
                    keeper.keep(result)
                    remember(results, result)
                    keeper.log(result)
                    if plan and pacer:
                        pacer.epoch_is_over(result)
                        plan.write(folder)
                    if not result.running_losses:
                        epochs_in_all = math.ceil(schedule.total_steps / steps_per_epoch)
                        tell(epoch_line(results, epochs_in_all, config.metric))
                    if save_if_due(keeper.reaches_target(result)):
                        break
                if interrupted():  # while it reached its target, or was saved
                    save()
                    raise KeyboardInterrupt
            if config.tune != "none":
                save()
            evaluation = keeper.finish(leaks)
    except KeyboardInterrupt:
        if position.step and not position.under_way:
            save()
        keeper.save_interrupted(results)
        keeper.finish(leaks)
        tell(f"interrupted; {keeper.what_is_left()}")
        raise
    except NumbersError as error:
        keeper.finish(leaks)
        raise NumbersError(f"{error}. {keeper.what_is_left()}") from None
    finally:
        keeper.leave_nothing_half_done()

    run = Run(folder, own)
    run.remember(val_set)
    # Heat maps are left to `test` and `report`: captum is slow to import, and brings matplotlib.
    report = write_report(run, evaluation=evaluation, data=val_set, is_locked=True, heat=False)
    write_json(folder / "env.json", job.machine | {"finished": True})
    tell("Finished Training")
    if results[0].running_losses and not quiet:
        out.print(loss_table(results))
    for line in closing_lines(keeper, results, plan, time.monotonic() - started):
        tell(line)
    tell(f"report: {shown(report)}")
    return run


def where_it_stands(
    job: Job, folder: Path
) -> tuple[Position, Schedule, list[torch.optim.Optimizer]]:
    """Where a job goes on, its net, optimizers and generators being as they were there.

    Raises:
        ModelError: its checkpoint is not whole.
    """
    changes = job.plan.changes if job.plan else ()
    schedule = plain_schedule(len(job.train_set), job.config, changes)
    optimizers = create_optimizers(job.net, job.config)
    if job.checkpoint is None:
        return Position(), schedule, optimizers
    try:
        job.checkpoint.restore(job.net, optimizers)
    except ModelError as error:
        raise ModelError(f"{shown(folder)}: {error}") from None
    return job.checkpoint.position, schedule, optimizers


def follow(job: Job, folder: Path) -> None:
    """Take part in a training that the first rank carries out, and write nothing.

    Raises:
        NumbersError: the loss is no longer finite.
        KeyboardInterrupt: any of the ranks was interrupted.
    """
    config, net = job.config, job.net
    position, schedule, optimizers = where_it_stands(job, folder)
    if config.probe and not (job.checkpoint and job.checkpoint.results):
        features_of_both(net, job.train_set, job.val_set, config, job.normalization)
    if distributed.told(True):  # there is nothing to train
        return
    with waiting_while(lambda: True) as interrupted:

        def look() -> None:
            if agree(schedule, interrupted())[0]:
                raise KeyboardInterrupt

        epochs = fit(
            net, job.train_set, job.val_set, config, job.normalization, None, schedule, look,
            position, optimizers,
        )  # fmt: skip
        with contextlib.closing(epochs):
            for _ in epochs:
                asked, done = agree(schedule, interrupted())
                if asked:
                    raise KeyboardInterrupt
                if done:
                    break


def agree(schedule: Schedule, asked: bool, done: bool = False) -> tuple[bool, bool]:
    """Whether any rank was asked to stop, and whether the first one is done.

    What it changed in the length of the run holds for all from here on.
    """
    said = distributed.said_by_all((asked, done, schedule.changes))
    schedule.changes[:] = said[0][2]
    return any(one[0] for one in said), said[0][1]


def remember(results: list[EpochResult], result: EpochResult) -> None:
    """Add a result: its logits do not stay in memory, and its counts only while it is the last."""
    results[-1:] = [replace(one, val_confusion=None) for one in results[-1:]]
    results.append(replace(result, val_logits=None, spare=None))


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
