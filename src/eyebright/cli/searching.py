"""The verb tune."""

from time import monotonic
from typing import Annotated, Any

import typer

from eyebright.cli.completing import recipes
from eyebright.cli.options import (
    DataArgument,
    Device,
    Group,
    Imgsz,
    Labels,
    Lang,
    MaxPixels,
    Precision,
    Root,
    Runs,
    SkipBad,
    Threads,
    Workers,
)
from eyebright.console import out, say, shown, waiting_for
from eyebright.nearby import RUNS


def tune(
    data: DataArgument = None,
    trials: Annotated[
        int, typer.Option(help="Trials in the study; the first has the recipe's own settings.")
    ] = 30,
    time: Annotated[
        str | None,
        typer.Option(help="What the whole command may take, fresh seeds included: 90s, 30m, 2h."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(help="Fresh seeds on which winner and default are compared; 0: search only."),
    ] = 5,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="quick, fast, best, finetune or tutorial. Default: fast, or finetune above 64 px.",
            autocompletion=recipes,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database that machines share: postgresql://..., mysql://..., sqlite:///... "
            "Default: study.db in the study's folder.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The net, as for train.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures in a trial.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("-b", "--batch-size", help="Fixed, and not searched.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Fixed, and not searched.")] = None,
    augment: Annotated[str | None, typer.Option(help="Fixed, and not searched.")] = None,
    tune: Annotated[
        str | None, typer.Option(help="Of finetune; fixed, and not searched: none, last or all.")
    ] = None,
    imgsz: Imgsz = None,
    val: Annotated[
        float | None, typer.Option(help="Share held out, for the search and again for the verdict.")
    ] = None,
    group: Group = None,
    metric: Annotated[
        str | None, typer.Option(help="What is searched for: accuracy or balanced-accuracy.")
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    threads: Threads = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the search; fresh seeds are those after it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the study and its folder.")] = None,
    runs: Runs = RUNS,
    lang: Lang = "en",
    labels: Labels = None,
    skip_bad: SkipBad = False,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Search settings, go on with a search, and say on fresh seeds whether it helped."""
    waiting_for("reading the pictures")
    from eyebright.machine import process_age
    from eyebright.tune import tune as search_settings

    settings: dict[str, Any] = {
        "model": model, "epochs": epochs, "batch_size": batch_size, "lr": lr, "augment": augment,
        "tune": tune, "imgsz": imgsz, "val": val, "group": group, "metric": metric,
        "device": device, "precision": precision, "threads": threads, "seed": seed,
    }  # fmt: skip
    found = search_settings(
        data, trials, time_limit=time, recipe=recipe, seeds=seeds, storage=storage, name=name,
        runs=runs, language=lang, labels=labels, skip_bad=skip_bad, root=root, workers=workers,
        started=monotonic() - process_age(), **settings,
    )  # fmt: skip
    if found.best:
        out.print(found.table())
    for line in found.lines:
        say(line)
    say(f"all trials: {shown(found.folder)}/trials.csv")
    say(f"report: {shown(found.folder)}/report.html")
