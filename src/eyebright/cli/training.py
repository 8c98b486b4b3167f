"""The verb train."""

import shlex
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from eyebright.cli.completing import recipes, run_folders, setting
from eyebright.cli.options import (
    DataArgument,
    Device,
    Group,
    Imgsz,
    Labels,
    MaxPixels,
    Precision,
    Root,
    Runs,
    SkipBad,
    Threads,
    Workers,
)
from eyebright.console import notices, out, say, shown, waiting_for
from eyebright.errors import StorageError, UsageError
from eyebright.nearby import RUNS


def train(
    data: DataArgument = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="quick, fast, best, finetune, or tutorial (the lesson). Default: fast, or "
            "finetune above 64 px.",
            autocompletion=recipes,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="patch48, white16, white32, wide32, deep32, white64, wide64, deep64, lesson, or "
            "any net of timm."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Begin with these weights (.safetensors, .pth)."),
    ] = None,
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="Begin with weights by chance.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Begin with the weights of a run of yours.",
            autocompletion=run_folders,
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            help="After the linear probe, train none, last (a third of layers) or all.",
            autocompletion=setting("tune"),
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.")] = None,
    time: Annotated[
        str | None,
        typer.Option(help="What the whole command may take, as 90s, 3m or 2h: chooses the net."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Stop when the pictures held out reach this accuracy, as 0.9."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("-b", "--batch-size", help="Pictures a mini-batch.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    imgsz: Imgsz = None,
    balance: Annotated[
        str | None,
        typer.Option(
            help="For classes of different size: auto, none, weights, sampler, effective-number, "
            "focal or logit-adjust.",
            autocompletion=setting("balance"),
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="none, or any of mirror, shift, shift8, crop, cutout joined by +, as mirror+shift."
        ),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            help="Average each prediction with the mirror image's: none or mirror.",
            autocompletion=setting("tta"),
        ),
    ] = None,
    val: Annotated[
        float | None, typer.Option(help="Share held out, where the data have no val part.")
    ] = None,
    group: Group = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train a run for each of so many parts held out.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train so many runs that differ in it.")] = 1,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Chooses the best epoch: accuracy or balanced-accuracy.",
            autocompletion=setting("metric"),
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    threads: Threads = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.")] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="On a GPU: the same digits each time, if slower."),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run, as if it had never stopped.",
            autocompletion=run_folders,
        ),
    ] = None,
    resume_anyway: Annotated[
        bool,
        typer.Option(
            "--resume-anyway", help="Go on though data, settings or machine are not the same."
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the run folder.")] = None,
    runs: Runs = RUNS,
    track: Annotated[
        str | None, typer.Option(help="Also send what log.csv gets to: tensorboard.")
    ] = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Train a classifier: hold out a tenth, train, keep the best, write a run folder."""
    waiting_for("reading the pictures")
    from eyebright.choices import begin
    from eyebright.config import parse_time
    from eyebright.distributed import is_first
    from eyebright.launch import train as train_run
    from eyebright.machine import process_age
    from eyebright.ranks import from_environment

    if no_pretrained and weights:
        raise UsageError("--weights and --no-pretrained exclude each other")
    settings: dict[str, Any] = {
        "model": model, "weights": "none" if no_pretrained else weights, "init": init,
        "tune": tune, "epochs": epochs, "time": None if time is None else parse_time(time),
        "target": target, "batch_size": batch_size, "lr": lr, "imgsz": imgsz,
        "balance": balance, "augment": augment, "tta": tta, "val": val, "group": group,
        "folds": folds, "metric": metric, "device": device, "precision": precision,
        "threads": threads, "seed": seed, "deterministic": deterministic or None,
    }  # fmt: skip
    settings = {key: value for key, value in settings.items() if value is not None}
    begin(recipe, settings)  # a mistyped setting is better known at once
    several = seeds > 1 or folds is not None
    if several and (time is not None or (seeds > 1 and folds is not None)):
        raise UsageError("--seeds, --folds and --time exclude each other")
    if resume is not None and (several or init or name):
        raise UsageError("--resume goes on with one run: no --seeds, --folds, --init or --name")
    if several and from_environment().size > 1:
        raise UsageError("--seeds and --folds train one run after the other: not under torchrun")
    if resume is None and resume_anyway:
        raise UsageError("--resume-anyway needs --resume RUN")
    source = _cifar10_or_digits() if data is None and resume is None else data
    common: dict[str, Any] = {
        "recipe": recipe, "name": name, "runs": runs, "track": track, "labels": labels,
        "skip_bad": skip_bad, "root": root,
    }  # fmt: skip
    if several:
        return _train_several(source, seeds, workers, common | settings)
    started = monotonic() - process_age()
    common |= {"resume": resume, "resume_anyway": resume_anyway}
    run = train_run(source, workers=workers, started=started, **common, **settings)
    if not is_first():
        return None
    others = "" if run.has_test_part() else " DATA"
    say(f"open the test set: eyebright test {shlex.quote(shown(run.path))}{others}")
    return None


def _train_several(source: Any, seeds: int, workers: int | None, settings: dict[str, Any]) -> None:
    from eyebright.compare import compare as compare_runs
    from eyebright.several import join_folds, train_several
    from eyebright.wording import class_table, figures_table, warnings

    trained = train_several(source, seeds, workers=workers, **settings)
    if "folds" in settings:
        joined, folder = join_folds(trained)
        for line in warnings(joined):
            say(line)
        out.print(class_table(joined))
        out.print(figures_table(joined))
        say(f"out-of-fold predictions: {shown(folder)}/predictions-val.csv")
    elif all((run.path / "val.json").exists() for run in trained):
        out.print(compare_runs([run.path for run in trained], "val").table())


def _cifar10_or_digits() -> Any:
    """The first command always works: without CIFAR-10 and a network there are the digits."""
    from eyebright.data import load

    try:
        return load("cifar10")
    except StorageError as error:
        notices.warning("%s", error)
        say("no CIFAR-10 to be had: training on the handwritten digits of scikit-learn instead")
        return load("digits")
