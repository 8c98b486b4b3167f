"""The command line: one table of verbs, with no logic of their own.

Nothing heavy is imported here, so that ``--help`` answers at once; each verb imports what it calls.
"""

import json
import shlex
import sys
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from eyebright.console import as_text, err, notices, out, say, shown, waiting_for
from eyebright.errors import EyebrightError, StorageError, UsageError

SURE = 0.05  # share of wrong answers that "not sure" allows, where nobody says another

app = typer.Typer(
    name="eyebright",
    help="Train image classifiers that see clearly and say how sure they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DATA_HELP = (
    "cifar10, cifar100, mnist, fashion-mnist, digits; a folder of class folders (flat, or with "
    "train/val/test) or a zip or tar of one; a table (.csv, .tsv, .jsonl, .parquet) with path, "
    "label and perhaps split; a folder with metadata.csv as Hugging Face has it; or an official "
    "CIFAR-10 folder or archive"
)
DataArgument = Annotated[str | None, typer.Argument(metavar="[DATA]", help=DATA_HELP)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on without unreadable pictures.")]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of a table's paths. Default: the table's own."),
]
Workers = Annotated[
    int | None, typer.Option("-j", "--workers", min=0, help="Threads that decode pictures.")
]
Imgsz = Annotated[
    int | None,
    typer.Option(
        help="Side of the square pictures, px. Default: their own if all alike and small, "
        "32 up to 64 px, 224 above."
    ),
]
Interval = Annotated[str, typer.Option(help="Of proportions: wilson or exact (Clopper-Pearson).")]
Risk = Annotated[
    float | None,
    typer.Option(help="Answer only where at most this share is wrong, with 95 % confidence: 0.01."),
]
Coverage = Annotated[
    float | None, typer.Option(help="Sets of classes that hold the true one this often: 0.9.")
]
Labels = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table of decisions: pictures to drop or to relabel."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


def _limit_pixels(most: int | None) -> None:
    if most is not None:
        from eyebright.images import limit_pixels

        limit_pixels(most)


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        callback=_limit_pixels,
        help="Refuse pictures of more pixels than this. Default: 67108864.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"eyebright {version('eyebright')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, and stop.")
    ] = False,
) -> None:
    """Train image classifiers that see clearly and say how sure they are."""


@app.command()
def look(
    data: DataArgument = "cifar10",
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Pictures to show.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the random choice.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="PNG to write. Default: look-<data>.png.")
    ] = None,
    imgsz: Imgsz = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Look at training pictures with their labels, and at what there is of each class."""
    waiting_for("reading the pictures")
    from eyebright.data import load
    from eyebright.data.look import terminal_grid

    source = "cifar10" if data is None else data
    pictures = load(
        source, imgsz=imgsz, skip_bad=skip_bad, workers=workers, labels=labels, root=root
    )
    seen = pictures.look(count, seed)
    path = output or Path(f"look-{seen.data.name}.png")
    _save_png(seen.image(), path)
    if out.is_terminal and out.color_system is not None:
        out.print(terminal_grid(seen.images, seen.labels, out.width))
    else:
        for line in seen.label_lines():
            say(line)
    out.print(seen.table())
    for line in seen.summary():
        say(line)
    say(f"grid: {shown(path)}")


@app.command()
def audit(
    data: DataArgument = "cifar10",
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not look for wrong labels, which takes longest.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Tested on these data: its accuracy with and without leaks."
        ),
    ] = None,
    review: Annotated[
        bool,
        typer.Option("--review", help="Then open a page to keep, relabel or drop what was found."),
    ] = False,
    port: Annotated[int, typer.Option(min=0, help="Of the page; 0: any.")] = 0,
    lang: Annotated[str, typer.Option(help="Of the page: en or zh (中文).")] = "en",
    drop: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=1,
            metavar="SCORE",
            help="Also decide to drop pictures whose label is this surely wrong: 0.9.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 where anything was found.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write. Default: audit-<data>.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table of decisions to apply; with --review or --drop: where they go.",
        ),
    ] = None,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Look for bad pictures, copies, leaks and wrong labels before anyone trains."""
    waiting_for("reading the pictures")
    from eyebright.audit import audit as find_all
    from eyebright.audit.found import findings_before, write_audit
    from eyebright.audit.inspect import drop_suspects, load_parts
    from eyebright.audit.review import Review
    from eyebright.data.labels import read, table_beside

    if review and (as_json or strict or run or drop is not None):
        raise UsageError("--review is for people: leave out --json, --strict, --run and --drop")
    if drop is not None and (quick or run):
        raise UsageError("--drop looks for wrong labels in data as they are: no --quick, no --run")
    source = "cifar10" if data is None else data
    # Decisions are made on what was found without them.
    applied = None if review or drop is not None else labels
    parts = load_parts(source, labels=applied, root=root, workers=workers)
    folder = output or Path(f"audit-{parts['train'].name}")
    if Path(source).resolve() in folder.resolve().parents:
        raise UsageError(f"{shown(folder)} would lie among the pictures; name another: -o FOLDER")
    table = labels or table_beside(parts["train"])
    if drop is not None and table.exists():
        read(table)  # a mistake is better known before all is looked at
    if review:
        Review(parts, [], table, lang)  # a mistake is better known before all is looked at
        findings = findings_before(parts, folder, not quick)
        if findings is not None:
            say(f"taken up again: {shown(folder)}")
            return _review(parts, findings, table, port, lang)
    tell = (lambda text: None) if as_json else say
    found = find_all(
        source, run=run, wrong_labels=not quick, labels=applied, tell=tell, parts=parts
    )
    write_audit(found, folder)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        out.print(found.table())
        say(f"everything found, and sheets of it: {shown(folder)}")
    if drop is not None:
        dropped = drop_suspects(found, drop, table)
        where = f": {shown(table)} (use it with --labels)" if dropped else ""
        tell(f"{dropped:,} suspect labels dropped{where}")
    if review:
        return _review(parts, found.findings(), table, port, lang)
    if strict and not found.found_nothing:
        raise typer.Exit(3)
    return None


def _review(parts: Any, findings: Any, table: Path, port: int, lang: str) -> None:
    from eyebright.audit.review import serve_review

    if not findings:
        return say("nothing to review")
    return serve_review(parts, findings, table, port, lang)


@app.command()
def train(
    data: DataArgument = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="quick, fast, best, finetune, or tutorial (the lesson). Default: fast, or "
            "finetune above 64 px."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="patch48, white16, white32, wide32, white64, wide64, lesson, or any net of timm."
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
        str | None, typer.Option(metavar="RUN", help="Begin with the weights of a run of yours.")
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(help="After the linear probe, train none, last (a third of layers) or all."),
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
            "focal or logit-adjust."
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
        typer.Option(help="Average each prediction with the mirror image's: none or mirror."),
    ] = None,
    val: Annotated[
        float | None, typer.Option(help="Share held out, where the data have no val part.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Column of a table: its groups are held out whole or not at all."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train a run for each of so many parts held out.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train so many runs that differ in it.")] = 1,
    metric: Annotated[
        str | None, typer.Option(help="Chooses the best epoch: accuracy or balanced-accuracy.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads; 0: all cores.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.")] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="On a GPU: the same digits each time, if slower."),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run, as if it had never stopped."),
    ] = None,
    resume_anyway: Annotated[
        bool,
        typer.Option(
            "--resume-anyway", help="Go on though data, settings or machine are not the same."
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the run folder.")] = None,
    runs: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
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
    from eyebright.config import parse_time
    from eyebright.launch import train as train_run
    from eyebright.machine import process_age
    from eyebright.prepare import begin

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


@app.command()
def val(
    run: RunArgument,
    device: Device = "auto",
    interval: Interval = "wilson",
    risk: Risk = None,
    coverage: Coverage = None,
    labels: Labels = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Evaluate a run on the pictures that were held out of its training."""
    waiting_for("reading the pictures and the model")
    from eyebright.run import Run

    opened = Run(run)
    _show_evaluation(opened.val(device, interval, risk, coverage, labels), opened)


@app.command()
def test(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Default: the data's own test part.")
    ] = None,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    root: Root = None,
    interval: Interval = "wilson",
    risk: Risk = None,
    coverage: Coverage = None,
    shift: Annotated[
        bool, typer.Option("--shift", help="Also on darker, noisier, blurred, turned ... pictures.")
    ] = False,
    labels: Labels = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Open the test set, log that it was opened, and say how good the model is."""
    waiting_for("reading the pictures and the model")
    from eyebright.run import Run

    opened = Run(run)
    evaluation = opened.test(data, device, skip_bad, interval, risk, coverage, shift, labels, root)
    _show_evaluation(evaluation, opened)
    _write_report(opened, evaluation=evaluation)
    times = opened.test_openings()
    say(f"this run has opened a test set {times} time{'s' if times > 1 else ''} (tests.jsonl)")
    looks = opened.looks_at(evaluation.fingerprint)
    if looks > 1:
        say(
            f"the runs in {shown(opened.path.parent)}/ have looked at this test set {looks} times: "
            "if they are chosen by it, expect less on new pictures"
        )


def _show_evaluation(evaluation: Any, run: Any) -> None:
    from eyebright.wording import (
        OTHER_SHARES,
        class_table,
        figures_table,
        lesson_lines,
        promise_lines,
        warnings,
    )

    promised = promise_lines(evaluation)
    first = warnings(evaluation)
    if promised and evaluation.has_other_shares(run.data_record["counts"]):
        first.append(OTHER_SHARES)
    for line in [*first, *lesson_lines(evaluation, run.short_names())]:
        say(line)
    out.print(class_table(evaluation))
    out.print(figures_table(evaluation))
    for line in promised:
        say(line)
    if evaluation.robustness:
        out.print(evaluation.robustness.table())
        for line in evaluation.robustness.lines():
            say(line)
    say(f"all figures: {shown(run.path)}/{evaluation.split}.json")


@app.command()
def report(
    run: RunArgument,
    lang: Annotated[str, typer.Option(help="en or zh (中文).")] = "en",
) -> None:
    """Write report.html, one page that needs nothing else, and model-card.md."""
    waiting_for("reading the pictures")
    from eyebright.run import Run

    _write_report(Run(run), lang)


def _write_report(run: Any, language: str = "en", evaluation: Any = None) -> None:
    from eyebright.report import write_report

    say(f"report: {shown(write_report(run, language, evaluation))}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, two or more.")],
    split: Annotated[
        str | None, typer.Option(help="test or val. Default: test if all runs have it.")
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="Pictures to name that only one gets right.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compare runs on the same pictures: differences with intervals; seeds are put together."""
    from eyebright.compare import compare as compare_runs

    comparison = compare_runs(runs, split)
    if as_json:
        return print(json.dumps(comparison.to_dict(), indent=2))
    out.print(comparison.table())
    for line in comparison.lines(count):
        say(line)
    return None


@app.command("runs")
def runs_command(
    folder: Annotated[Path, typer.Argument(metavar="[RUNS]", help="The folder of runs.")] = Path(
        "runs"
    ),
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove this run, after asking.")
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List runs: data, recipe, figures, size, and whether they came to their end."""
    from eyebright.listing import (
        as_megabytes,
        describe,
        find_run,
        list_runs,
        remove_run,
        runs_table,
    )

    if remove is None:
        entries = list_runs(folder)
        if as_json:
            return print(json.dumps([one.to_dict() for one in entries], indent=2))
        if not entries:
            return say(f"no runs in {shown(folder)}")
        out.print(runs_table(entries))
        return say(f"{len(entries)} runs, {as_megabytes(sum(one.size for one in entries))}")
    path = find_run(folder, remove)
    question = f"remove {shown(path)} ({as_megabytes(describe(path).size)}) for good?"
    try:
        sure = yes or typer.confirm(question)
    except typer.Abort:  # nobody is there to answer
        raise UsageError(f"{shown(path)} was not removed: nobody said yes (--yes)") from None
    if not sure:
        return say("nothing was removed")
    remove_run(path)
    return say(f"removed: {shown(path)}")


@app.command()
def doctor(
    runs: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what a report of a fault needs: versions, device, threads, caches, disk. No secrets."""
    waiting_for("looking at this machine")
    from eyebright.doctor import doctor_table, examine

    facts = examine(runs)
    if as_json:
        return print(json.dumps(facts, indent=2))
    return out.print(doctor_table(facts), soft_wrap=True)


@app.command()
def predict(
    run: RunArgument,
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PICTURE...",
            help="Picture files, folders of them, patterns, tables with a column path, or - for "
            "paths from standard input.",
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Take so many pictures of the test part instead.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write rows here: .csv, .jsonl or .parquet."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Print rows as they come: csv or jsonl.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Name so many of the likeliest classes.")] = 3,
    not_sure: Annotated[
        bool, typer.Option("--not-sure", help="Answer only where it is sure: as --risk 0.05.")
    ] = False,
    copy_into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Sort the pictures into class folders here, by copying."),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="With --copy-into: hard links, which take no room.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --copy-into: do not ask.")] = False,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    risk: Risk = None,
    coverage: Coverage = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Say what is on pictures: the likeliest classes of each, with probabilities."""
    if bool(pictures) == bool(sample):
        raise UsageError("predict needs pictures, or --sample 4 (and not both)")
    if form not in (None, "csv", "jsonl"):
        raise UsageError(f"--format cannot be '{form}'; choose one of: csv, jsonl")
    if sum((output is not None, form is not None, as_json)) > 1:
        raise UsageError("choose one of: --out, --format, --json")
    if copy_into is None and (link or yes):
        raise UsageError("--link and --yes go with --copy-into")
    from eyebright.prediction import Tally, find_pictures, predict_files
    from eyebright.run import Run
    from eyebright.sorting import check_folder
    from eyebright.tabular import format_of, write_rows, write_text
    from eyebright.wording import predictions_table

    if output is not None:
        format_of(output)
    opened = Run(run)
    given = opened.promises(SURE if not_sure and risk is None else risk, coverage)
    if sample:
        return _predict_sample(opened, sample, as_json, device, given)
    classifier = opened.classifier(device)
    if copy_into is not None:
        check_folder(copy_into, classifier.classes)
    files, total = find_pictures(pictures or [], sys.stdin)
    tally = Tally(given, keep=copy_into is not None)
    outcomes = tally.watch(predict_files(classifier, files, workers, total))
    if output is not None:
        say(f"{write_rows(output, (one.row(top, given) for one in outcomes)):,} rows in {output}")
    elif form is not None:
        write_text(sys.stdout, (one.row(top, given) for one in outcomes), form)
    elif as_json:
        print(json.dumps([_json_row(one, given, classifier) for one in outcomes], indent=2))
    else:
        out.print(predictions_table(outcomes, classifier.card, top, given))
        say(tally.line())
    if copy_into is not None:
        _sort_pictures(copy_into, tally.answers, link, yes)
    if not skip_bad:
        tally.check()
    return None


def _json_row(one: Any, given: Any, classifier: Any) -> dict[str, Any]:
    row = {"picture": shown(one.picture)}
    if one.prediction is None:
        return row | {"error": one.error}
    return row | _as_json(one.prediction, given, classifier)


def _sort_pictures(folder: Path, answers: list[Any], link: bool, yes: bool) -> None:
    """Show what would go where, ask, and do it."""
    from eyebright.sorting import plan_table, sort_into

    if not answers:
        return say("there is nothing to sort")
    err.print(plan_table(answers, folder))
    question = f"{'link' if link else 'copy'} {len(answers):,} pictures into {shown(folder)}?"
    try:
        sure = yes or typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        raise UsageError("nothing was sorted: nobody said yes (--yes)") from None
    if not sure:
        return say("nothing was sorted")
    new = sort_into(folder, answers, link)
    there = f", {len(answers) - new:,} were there already" if new < len(answers) else ""
    return say(f"{new:,} pictures {'linked' if link else 'copied'} into {shown(folder)}{there}")


@app.command()
def embed(
    run: RunArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="Picture files, or folders of them.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="File to write: .npy, a .pictures.csv beside it, or .parquet."
        ),
    ] = Path("features.npy"),
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Write what the net's last layer sees of pictures: features to search or to cluster by."""
    waiting_for("reading the pictures")
    import numpy as np

    from eyebright.classifier import in_parts
    from eyebright.data.folders import list_pictures
    from eyebright.embedding import check_format, write_features
    from eyebright.run import Run

    check_format(output)
    paths = list_pictures(pictures)
    classifier = Run(run).classifier(device)
    parts = in_parts("computing features", paths)
    features = np.concatenate([classifier.embed(part) for part in parts])
    write_features(output, [shown(path) for path in paths], features)
    say(f"{len(paths):,} pictures, {features.shape[1]:,} features each: {shown(output)}")


def _as_json(prediction: Any, given: Any, classifier: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "prediction": prediction.label,
        "probabilities": prediction.probabilities,
        "calibrated": classifier.card.temperature is not None,
        "tta": classifier.card.tta,
    }
    said |= prediction.answers(given)
    return said


def _save_png(image: Any, path: Path) -> None:
    try:
        image.save(path, "PNG")
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None


def _predict_sample(run: Any, count: int, as_json: bool, device: str, given: Any) -> None:
    from eyebright.data.look import draw_grid, lesson_labels, terminal_grid
    from eyebright.wording import in_words

    data = run.sample(count)
    classifier = run.classifier(device)
    predictions = classifier.predict(data.images)
    if as_json:
        rows = [
            {"picture": i, "label": data.classes[label]} | _as_json(p, given, classifier)
            for i, label, p in zip(data.ids, data.labels, predictions, strict=True)
        ]
        return print(json.dumps(rows, indent=2))
    short = run.short_names()
    truth = [short.get(name, name) for name in (data.classes[label] for label in data.labels)]
    said = [p.answers(given) for p in predictions]
    answers = [one.get("answer", p.label) for one, p in zip(said, predictions, strict=True)]
    guess = ["not sure" if a is None else short.get(a, a) for a in answers]
    path = run.path / "sample.png"
    _save_png(draw_grid(data.images, truth), path)
    if out.is_terminal and out.color_system is not None:
        out.print(terminal_grid(data.images, truth, out.width))
    say(f"GroundTruth:  {lesson_labels(truth)}")
    say(f"Predicted:  {lesson_labels(guess)}")
    for name, one in zip(truth, said, strict=True):
        if "set" in one:
            say(f"set of a {shown(name)}: {in_words(one['set'])}")
    say(f"grid: {shown(path)}")
    return None


def run_app(arguments: list[str] | None = None) -> int:
    """Run the command line and say what went wrong in one line.

    Args:
        arguments: without the program's name; None: the process's own.

    Returns:
        The exit code: 0, or as in `eyebright.errors`; 2 for a usage error, 130 for Ctrl-C.
    """
    try:
        code = app(args=arguments, standalone_mode=False)
    except EyebrightError as error:
        err.print(as_text(f"eyebright: {error}"), soft_wrap=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except MemoryError:
        err.print("eyebright: out of memory; use fewer pictures, or smaller ones (--imgsz)")
        return StorageError.exit_code
    except Exception as error:
        # Usage errors: typer's own class, or click's in older releases; both explain themselves.
        if (explain := getattr(error, "format_message", None)) is None:
            raise
        if message := " ".join(explain().split()):  # none where the help was printed instead
            err.print(f"eyebright: {message} (see --help)", soft_wrap=True)
        return int(getattr(error, "exit_code", 2))
    return code if isinstance(code, int) else 0
