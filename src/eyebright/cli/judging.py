"""The verbs that say how good a model is: val, test, report, compare."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eyebright.cli.completing import one_of, run_folders
from eyebright.cli.mistakes import check_order
from eyebright.cli.options import (
    Coverage,
    Device,
    Interval,
    Labels,
    Lang,
    MaxPixels,
    Risk,
    Root,
    RunArgument,
    SkipBad,
)
from eyebright.console import counted, out, say, shown, waiting_for


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
    show_evaluation(opened.val(device, interval, risk, coverage, labels), opened)


def test(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Default: the data's own test part.")
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
    check_order("test", run, [] if data is None else [data])
    waiting_for("reading the pictures and the model")
    from eyebright.run import Run

    opened = Run(run)
    evaluation = opened.test(data, device, skip_bad, interval, risk, coverage, shift, labels, root)
    show_evaluation(evaluation, opened)
    _write_report(opened, evaluation=evaluation)
    times = opened.test_openings()
    say(f"this run has opened a test set {counted(times, 'time')} (tests.jsonl)")
    looks = opened.looks_at(evaluation.fingerprint)
    if looks > 1:
        say(
            f"the runs in {shown(opened.path.parent)}/ have looked at this test set {looks} times: "
            "if they are chosen by it, expect less on new pictures"
        )


def show_evaluation(evaluation: Any, run: Any) -> None:
    """Print every figure of an evaluation, and what to beware of."""
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


def report(
    run: RunArgument,
    lang: Lang = "en",
) -> None:
    """Write report.html, one page that needs nothing else, and model-card.md."""
    waiting_for("reading the pictures")
    from eyebright.run import Run

    _write_report(Run(run), lang)


def _write_report(run: Any, language: str = "en", evaluation: Any = None) -> None:
    from eyebright.report import write_report

    waiting_for("writing the report")
    say(f"report: {shown(write_report(run, language, evaluation))}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, two or more.", autocompletion=run_folders),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="test or val. Default: test if all runs have it.",
            autocompletion=one_of("test", "val"),
        ),
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
