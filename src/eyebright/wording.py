"""What the terminal and the model card say of evaluations and predictions, in words and tables."""

from pathlib import Path

import numpy as np
from rich.table import Table

from eyebright.console import counted, shown
from eyebright.evaluation import Evaluation
from eyebright.metrics import Figure

OTHER_SHARES = (
    "These pictures have other shares of classes than those trained on: what is promised need not "
    "hold for them."
)
LEAKS_UNKNOWN = "Whether it was trained on any of these pictures is not known any more."
LEAKS = (
    "Of the pictures it was evaluated on, {count} stood among those trained on too, pixel for "
    "pixel: its figures are too good."
)

DECIDED = (
    "As {table} says, {dropped} of its pictures were left out and {relabelled} relabelled: its "
    "figures are not those of the data as they came."
)


def lesson_lines(evaluation: Evaluation, short_names: dict[str, str] | None = None) -> list[str]:
    """The lesson's closing lines: accuracy on all pictures, then of each class.

    Args:
        evaluation: any.
        short_names: how to show a class, where not by its own name.
    """
    n = len(evaluation.labels)
    right = int(np.trace(evaluation.confusion))
    what = "validation" if evaluation.split == "val" else evaluation.split
    lines = [
        f"Accuracy of the network on the {n} {what} image{'s' * (n != 1)}: {100 * right // n} %"
    ]
    for name, figures in evaluation.per_class().items():
        shorter = shown((short_names or {}).get(name, name))
        recall = figures["recall"].value
        value = "–" if recall is None else f"{100 * recall:.1f} %"
        lines.append(f"Accuracy for class: {shorter:5s} is {value}")
    return lines


def warnings(evaluation: Evaluation) -> list[str]:
    """What the headline does not say."""
    leaks = [LEAKS.format(count=f"{evaluation.leaks:,}")] if evaluation.leaks else []
    if evaluation.leaks is None:
        leaks = [LEAKS_UNKNOWN]
    decided = [] if evaluation.decided is None else [DECIDED.format(**decided_in_words(evaluation))]
    return (
        leaks
        + decided
        + [
            f"the average hides a class: {shown(name)} is found in only {figure.percent()} of its "
            f"{counted(figure.n, 'picture')}"
            for name, figure in evaluation.hidden_classes()
        ]
    )


def decided_in_words(evaluation: Evaluation) -> dict[str, str]:
    """What `DECIDED` says of the table that was applied for an evaluation."""
    assert evaluation.decided is not None, "asked for"
    return {
        "table": shown(Path(evaluation.decided["path"]).name),
        "dropped": f"{evaluation.decided['dropped']:,}",
        "relabelled": f"{evaluation.decided['relabelled']:,}",
    }


def notes(evaluation: Evaluation) -> list[str]:
    """What belongs to every figure of it."""
    notes = []
    if evaluation.tta == "mirror":
        notes.append("each picture and its mirror image averaged")
    if evaluation.temperature is None:
        notes.append("probabilities are uncalibrated")
    elif evaluation.split == "val":
        notes.append("they also chose the epoch and the temperature")
    return notes


def promise_lines(evaluation: Evaluation) -> list[str]:
    """What was promised of answers and sets, and on a test set how it turned out."""
    lines, n = [], len(evaluation.labels)
    if given := evaluation.promises.answers:
        lines.append(
            f"answers {100 * given.answered:.1f} % of pictures, right on at least "
            f"{100 * (1 - given.risk):g} % of those, with 95 % confidence: where the likeliest "
            f"class has {given.threshold:.4f} or more (from {counted(given.n, 'picture')} held out)"
        )
        if evaluation.split == "test":
            answered, right = evaluation.answered()
            lines.append(
                f"here: answers {answered.percent()} of {n:,}, right on {right.percent()} of "
                f"those {right.n:,}"
            )
    if rule := evaluation.promises.sets:
        lines.append(
            f"sets of all classes with {rule.threshold:.4f} or more, for "
            f"{100 * rule.coverage:g} % coverage"
        )
        if evaluation.split == "test":
            held, empty, size = evaluation.set_figures()
            lines.append(
                f"here: they hold the true class of {held.percent()} of {n:,}, with "
                f"{size.decimal()} classes on average; empty (not sure): {empty.percent()}"
            )
    return lines


def class_table(evaluation: Evaluation) -> Table:
    """Accuracy and each class's recall, precision and F1, with n and 95 % intervals."""
    kind = {"wilson": "Wilson", "exact": "Clopper-Pearson"}[evaluation.interval]
    caption = [f"in brackets: 95 % intervals ({kind})", "of: what the figure is counted over"]
    table = Table(caption="; ".join([*caption, *notes(evaluation)]))
    table.add_column("class", overflow="fold", max_width=24)
    for title in ("recall, %", "precision, %", "F1, %"):
        table.add_column(title, justify="right")  # may wrap, so that 80 columns are enough
    for name, figures in evaluation.per_class().items():
        table.add_row(shown(name), *(with_n(figures[k]) for k in ("recall", "precision", "f1")))
    return table


def figures_table(evaluation: Evaluation) -> Table:
    """The figures of the whole set, with their 95 % intervals."""
    table = Table(
        caption="; ".join([f"of {counted(len(evaluation.labels), 'picture')}", *notes(evaluation)])
    )
    table.add_column("figure", no_wrap=True)
    table.add_column("value (95 % interval)", justify="right")
    for name, figure in evaluation.figures.items():
        in_percent = name.endswith("accuracy")
        table.add_row(name, figure.percent() if in_percent else figure.decimal())
    return table


def with_n(figure: Figure, of: str = "of") -> str:
    """Such as ``61.0 (60.0–62.0) of 10,000``, in percent."""
    if figure.value is None or figure.low is None or figure.high is None:
        return f"– {of} {figure.n:,}"
    interval = f"({100 * figure.low:.1f}–{100 * figure.high:.1f})"
    return f"{100 * figure.value:.1f} {interval} {of} {figure.n:,}"
