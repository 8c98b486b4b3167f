"""The verbs that use a model: predict, embed."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eyebright.cli.completing import run_folders
from eyebright.cli.mistakes import check_order
from eyebright.cli.options import (
    Coverage,
    Device,
    MaxPixels,
    Risk,
    RunArgument,
    SkipBad,
    Workers,
    save_png,
)
from eyebright.console import counted, err, out, say, shown, waiting_for
from eyebright.errors import UsageError
from eyebright.machine import available_cores
from eyebright.ranks import Ranks, from_environment


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or an exported model.onnx.",
            autocompletion=run_folders,
        ),
    ],
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PICTURE",
            help="Picture files, folders of them, patterns, tables with a column path, .txt files "
            "with a path a line, or - for such lines from standard input.",
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Take so many pictures of the test part instead.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write rows here: .csv, .jsonl or .parquet."),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write Parquet parts here; goes on where it stopped, alone or under torchrun.",
        ),
    ] = None,
    part_size: Annotated[
        int | None, typer.Option(min=1, help="With --parts: pictures in each. Default: 10000.")
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
    check_order("predict", run, pictures or [])
    if bool(pictures) == bool(sample):
        raise UsageError(
            f"predict needs pictures, or --sample 4 (and not both): eyebright predict "
            f"{shlex.quote(shown(run))} PICTURE..."
        )
    if form not in (None, "csv", "jsonl"):
        raise UsageError(f"--format cannot be '{form}'; choose one of: csv, jsonl")
    if sum((output is not None, form is not None, as_json, parts is not None)) > 1:
        raise UsageError("choose one of: --out, --parts, --format, --json")
    if copy_into is None and (link or yes):
        raise UsageError("--link and --yes go with --copy-into")
    ranks = from_environment()
    _check_parts(parts, part_size, ranks, pictures, copy_into)
    waiting_for("loading the model")
    from eyebright.answers import predictions_table
    from eyebright.calibration import USUAL_RISK
    from eyebright.prediction import Tally, each_named, find_pictures, predict_files
    from eyebright.sorting import check_folder
    from eyebright.tabular import check_pyarrow, format_of, write_rows, write_text

    if output is not None:
        format_of(output)
    if parts is not None:
        check_pyarrow("write .csv, with --out")
    risk = USUAL_RISK if not_sure and risk is None else risk
    classifier: Any
    if run.is_file():
        if sample:
            raise UsageError("--sample needs a run folder: an exported model knows no test part")
        from eyebright.exported import ExportedClassifier

        classifier = ExportedClassifier.load(
            run, device, available_cores() if ranks.size > 1 else 0
        )
        given = classifier.promises(risk, coverage)
    else:
        from eyebright.run import Run
        from eyebright.runtime import use_own_cores

        opened = Run(run)
        use_own_cores()
        given = opened.promises(risk, coverage)
        if sample:
            return _predict_sample(opened, sample, as_json, device, given)
        classifier = opened.classifier(device)
    if copy_into is not None:
        check_folder(copy_into, classifier.classes)
    top = min(top, len(classifier.classes))
    if parts is not None:
        from eyebright.lake import PART_SIZE, Lake, Listing, settings_of

        listing = Listing(each_named(pictures or [], sys.stdin), part_size or PART_SIZE, ranks)
        lake = Lake(parts, listing, settings_of(run, top, given))
        return say(lake.fill(classifier, top, given, workers).text())
    files, total = find_pictures(pictures or [], sys.stdin)
    tally = Tally(given, keep=copy_into is not None)
    outcomes = tally.watch(predict_files(classifier, files, workers, total))
    if output is not None:
        n = write_rows(output, (one.row(top, given) for one in outcomes))
        say(f"{counted(n, 'row')} in {shown(output)}")
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


def _check_parts(
    parts: Path | None, part_size: int | None, ranks: Ranks,
    pictures: list[Path] | None, copy_into: Path | None,
) -> None:  # fmt: skip
    """See that what was asked for goes together."""
    if parts is None:
        if part_size is not None:
            raise UsageError("--part-size goes with --parts")
        if ranks.size > 1:
            raise UsageError(f"{ranks.size} processes share pictures with --parts DIR only")
        return
    if not pictures:
        raise UsageError("--parts needs pictures, not --sample")
    if copy_into is not None:
        raise UsageError("choose one of: --parts, --copy-into")
    if ranks.size > 1 and Path("-") in pictures:
        raise UsageError(
            f"{ranks.size} processes cannot read one standard input: write its lines into a file "
            "and name that in place of - (paths.txt)"
        )


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
    question = (
        f"{'link' if link else 'copy'} {counted(len(answers), 'picture')} into {shown(folder)}?"
    )
    try:
        sure = yes or typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        raise UsageError("nothing was sorted: nobody said yes (--yes)") from None
    if not sure:
        return say("nothing was sorted")
    new = sort_into(folder, answers, link)
    there = f", {len(answers) - new:,} were there already" if new < len(answers) else ""
    return say(
        f"{counted(new, 'picture')} {'linked' if link else 'copied'} into {shown(folder)}{there}"
    )


def embed(
    run: RunArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE", help="Picture files, or folders of them.")
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
    check_order("embed", run, pictures)
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
    say(f"{counted(len(paths), 'picture')}, {features.shape[1]:,} features each: {shown(output)}")


def _as_json(prediction: Any, given: Any, classifier: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "prediction": prediction.label,
        "probabilities": prediction.probabilities,
        "calibrated": classifier.card.temperature is not None,
        "tta": classifier.card.tta,
    }
    said |= prediction.answers(given)
    return said


def _predict_sample(run: Any, count: int, as_json: bool, device: str, given: Any) -> None:
    from eyebright.answers import in_words
    from eyebright.data.look import draw_grid, lesson_labels, terminal_grid

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
    save_png(draw_grid(data.images, truth), path)
    if out.is_terminal and out.color_system is not None:
        out.print(terminal_grid(data.images, truth, out.width))
    say(f"GroundTruth:  {lesson_labels(truth)}")
    say(f"Predicted:  {lesson_labels(guess)}")
    for name, one in zip(truth, said, strict=True):
        if "set" in one:
            say(f"set of a {shown(name)}: {in_words(one['set'])}")
    say(f"grid: {shown(path)}")
    return None
