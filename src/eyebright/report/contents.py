"""What a report says: of the run, of its figures, of pictures, and what to beware of."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eyebright.checkpoint import load_card
from eyebright.classifier import Classifier
from eyebright.config import UNBALANCED
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.errors import ModelError
from eyebright.evaluation import Evaluation
from eyebright.files import read_json
from eyebright.losses import EVEN
from eyebright.report.charts import TO, interval_bars
from eyebright.report.gallery import SIDE, Gallery
from eyebright.report.plots import (
    learning_curves,
    markup,
    reliability_chart,
    risk_chart,
    shift_context,
)
from eyebright.run import Run
from eyebright.wording import (
    DECIDED,
    LEAKS,
    LEAKS_UNKNOWN,
    OTHER_SHARES,
    decided_in_words,
    with_n,
)

A_CELL, A_GALLERY, A_LIST, A_HEAT = 16, 24, 20, 12  # pictures or lines at most
MOST_CLASSES = 30  # of a confusion matrix that can be read
PROGRAMS = {
    ("eyebright",): "eyebright",
    ("eyebright", "__main__.py"): "python -m eyebright",
}  # wherever they lie
NO_PROMISE = (
    "Nothing is promised: too few pictures were held out, or none, or too many answers are wrong."
)
FEW = 200  # pictures, whose figures are not worth much without their intervals

Translate = Callable[..., str]


def decided_table(record: dict[str, Any]) -> list[str]:
    """Which table of decisions the training pictures were made with; empty without one."""
    if (decided := record.get("labels")) is None:
        return []
    return [f"{shown(Path(decided['path']).name)}, SHA-256 {decided['sha256'][:12]}"]


EXACT = "gone on with exactly after step {step}"
NOT_EXACT = "gone on with after step {step}, not exactly: see env.json"


def base_context(run: Run, evaluation: Evaluation | None, t: Translate) -> dict[str, Any]:
    """What is known of every run: data, settings, learning curves, how to repeat it."""
    record, config, card, log = run.data_record, run.config, load_card(run.path), run.log()
    env = read_json(run.path / "env.json")
    seconds = float(log[-1]["seconds"]) if log else 0.0
    facts = [
        (t("data"), shown(record["name"])),
        (t("pictures to train on"), f"{len(record['splits']['train']):,}"),
        (t("classes"), str(len(card.classes))),
        (t("recipe"), config.recipe),
        (t("net"), f"{shown(card.architecture)}, {card.imgsz} px"),
        (t("epochs"), str(len(log))),
        (
            t("training"),
            t("{seconds} s", seconds=f"{seconds:,.1f}" if seconds < 10 else f"{seconds:,.0f}"),
        ),
    ]
    if evaluation is not None and evaluation.split == "test" and evaluation.data:
        facts.append((t("tested on"), shown(evaluation.data)))
    try:
        program, *words = map(str, env["command"])
        parts = Path(program).parts
        ours = PROGRAMS.get(parts[-2:]) or PROGRAMS.get(parts[-1:])
        command = " ".join([ours or shown(shlex.quote(program)), shown(shlex.join(words))])
        versions = ", ".join(f"{name} {number}" for name, number in env["packages"].items())
        resumed = "; ".join(
            t(EXACT if one["exact"] else NOT_EXACT, step=f"{one['step']:,}")
            for one in env.get("resumed", [])
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{shown(run.path / 'env.json')}: not what belongs there ({error})"
        ) from None
    again = [
        (t("command"), command),
        (t("seed"), str(config.seed)),
        *([(t("interrupted"), resumed)] if resumed else []),
        (t("fingerprint of the data"), record["fingerprint"]),
        *((t("decisions on labels"), text) for text in decided_table(record)),
        (t("versions"), versions),
        (
            t("machine"),
            f"{env.get('device_name', '')}, {env.get('device', '')}, {config.precision}",
        ),
    ]
    return {
        "name": shown(run.path.name),
        "facts": facts,
        "again": again,
        "curves": learning_curves(log, t),
        "tta": card.tta == "mirror",
        "rendering": "pixelated" if card.imgsz < SIDE else "auto",
    } | shift_context(run, evaluation, t)


def figures_context(evaluation: Evaluation, t: Translate) -> dict[str, Any]:
    """Headline, figures, bars, reliability and what it may promise."""
    accuracy = evaluation.accuracy
    n = f"{accuracy.n:,}"
    one, many = (
        ("accuracy on one test picture", "accuracy on {n} test pictures")
        if evaluation.split == "test"
        else ("accuracy on one picture held out", "accuracy on {n} pictures held out")
    )
    what = t(one) if accuracy.n == 1 else t(many, n=n)
    ends = [f"{100 * (end or 0.0):.1f} %" for end in (accuracy.low, accuracy.high)]
    recalls = [(shown(c), f["recall"]) for c, f in evaluation.per_class().items()]
    value = "" if evaluation.temperature is None else f"{evaluation.temperature:.3f}"
    return {
        "headline": {
            "value": f"{100 * (accuracy.value or 0.0):.1f} %",
            "what": what,
            "interval": t("95 % interval: {low} to {high}", low=ends[0], high=ends[1]),
        },
        "figures": [
            (t(name), f.percent(TO) if name.endswith("accuracy") else f.decimal(TO), f"{f.n:,}")
            for name, f in evaluation.figures.items()
        ],
        "bars": markup(interval_bars(recalls)),
        "per_class": [
            (shown(c), *(with_n(figures[key], "/") for key in ("precision", "f1")))
            for c, figures in evaluation.per_class().items()
        ],
        "reliability": markup(reliability_chart(evaluation, t)),
        "temperature": value
        and t("temperature {value}, fitted on the pictures held out", value=value),
        "risk": markup(risk_chart(evaluation, t)),
        "promises": promise_lines(evaluation, t),
        "classes": [shown(c) for c in evaluation.classes],
    }


def promise_lines(evaluation: Evaluation, t: Translate) -> list[str]:
    """What is promised in words, and on a test set how it turned out."""
    given, rule = evaluation.promises.answers, evaluation.promises.sets
    if given is None:
        lines = [t(NO_PROMISE)]
    else:
        text = (
            "It answers {answered} of pictures, right on at least {right} % of those, with 95 % "
            "confidence (from {n} pictures held out)."
        )
        answered, right = f"{100 * given.answered:.1f} %", f"{100 * (1 - given.risk):g}"
        lines = [t(text, answered=answered, right=right, n=f"{given.n:,}")]
    if given and evaluation.split == "test":
        answered_here, right_here = evaluation.answered()
        text = "Here: it answered {answered}, right on {right} of those {n}."
        said = {"answered": answered_here.percent(TO), "right": right_here.percent(TO)}
        lines.append(t(text, n=f"{right_here.n:,}", **said))
    if rule:
        coverage = f"{100 * rule.coverage:g}"
        lines.append(
            t("Sets of classes are to hold the true one {share} % of the time.", share=coverage)
        )
    if rule and evaluation.split == "test":
        held, empty, size = evaluation.set_figures()
        text = (
            "Here: they hold it for {held} of the pictures, with {size} classes on average; "
            "{empty} are empty, which means “not sure”."
        )
        figures = {"held": held.percent(TO), "empty": empty.percent(TO)}
        lines.append(t(text, size=size.decimal(TO), **figures))
    return lines


def pictures_context(
    evaluation: Evaluation,
    data: Dataset | None,
    t: Translate,
    classifier: Classifier | None = None,
) -> dict[str, Any]:
    """The confusion matrix with its pictures, surest mistakes and least sure pictures."""
    confusion, classes = evaluation.confusion, [shown(c) for c in evaluation.classes]
    if len(classes) > MOST_CLASSES:
        confusion = confusion[:0]
    show = None if data is None else Gallery(evaluation, data)
    wrong = np.flatnonzero(~evaluation.right)
    by_confidence = np.argsort(evaluation.confidences, kind="stable")
    surest = [int(i) for i in by_confidence[::-1] if not evaluation.right[i]][:A_GALLERY]
    first = A_HEAT if classifier else 0
    explained = show.explained(surest[:first], classifier) if show and classifier else []
    found: dict[str, Any] = {
        "explained": explained,
        "heat_method": next((t(one.method) for one in explained if one.heat), ""),
        "surest": show and show.pictures(surest[first:]),
        "unsure": show and show.pictures(by_confidence[:A_GALLERY].tolist()),
    }
    of_cell: dict[tuple[int, int], list[int]] = {}
    for i in (*wrong, *np.flatnonzero(evaluation.right)):
        of_cell.setdefault((int(evaluation.labels[i]), int(evaluation.predictions[i])), []).append(
            int(i)
        )
    cells: dict[str, Any] = {}
    # Mistakes first, and a few of each: what is left of the page's budget goes to those after.
    for truth, guess in sorted(of_cell, key=lambda cell: (cell[0] == cell[1], -len(of_cell[cell]))):
        members = of_cell[truth, guess]
        pictures = show.pictures(members[:A_CELL]) if show else []
        if pictures:
            title = t(
                "true: {truth}, predicted: {guess}", truth=classes[truth], guess=classes[guess]
            )
            count = t(
                "pictures shown: {shown} of {count}", shown=len(pictures), count=f"{len(members):,}"
            )
            cells[f"{truth}-{guess}"] = {"title": title, "shown": count, "pictures": pictures}
    rows = []
    for truth, counts in enumerate(confusion.tolist()):
        row = []
        for guess, count in enumerate(counts):
            share = count / max(1, sum(counts))
            key = f"{truth}-{guess}"
            heat = f"{min(1.0, 0.04 + 0.96 * share**0.6) if count else 0:.2f}"
            strong = "strong" if share > 0.45 else ""
            row.append(
                {"key": key if key in cells else "", "count": count, "heat": heat, "strong": strong}
            )
        rows.append(row)
    found |= {"cells": cells, "confusion": rows, "opened": next(iter(cells), "")}
    if not rows:  # a matrix of so many classes cannot be read: its largest mistakes can
        found["commonest"] = [
            (classes[truth], classes[guess], f"{truth}-{guess}", len(of_cell[truth, guess]))
            for truth, guess in sorted(of_cell, key=lambda cell: -len(of_cell[cell]))
            if truth != guess
        ][:A_LIST]
    return found


def find_warnings(run: Run, evaluation: Evaluation, t: Translate) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if evaluation.leaks:
        found.append(t(LEAKS, count=f"{evaluation.leaks:,}"))
    elif evaluation.leaks is None:
        found.append(t(LEAKS_UNKNOWN))
    if evaluation.decided is not None:
        found.append(t(DECIDED, **decided_in_words(evaluation)))
    if evaluation.split == "val":
        opened = run.test_openings() > 0
        found.append(
            t("These pictures also chose the best epoch.")
            if opened
            else t("These pictures also chose the best epoch; the test set has not been opened.")
        )
    else:
        looks = run.looks_at(evaluation.fingerprint)
        if looks > 1:
            text = (
                "Runs in this folder have looked at this test set {count} times: if they are "
                "chosen by it, expect less on new pictures."
            )
            found.append(t(text, count=looks))
    if evaluation.temperature is None:
        found.append(
            t("Probabilities are uncalibrated: nothing was held out to calibrate them with.")
        )
    if evaluation.has_other_shares(run.data_record["counts"]):
        found.append(t(OTHER_SHARES))
    if len(evaluation.labels) < FEW:
        n = len(evaluation.labels)
        found.append(t("Only {n} pictures: look at the intervals, not at the figures.", n=n))
    for name, figure in evaluation.hidden_classes():
        text = "The average hides a class: {name} is found in only {figure} of its {n} pictures."
        found.append(t(text, name=shown(name), figure=figure.percent(TO), n=f"{figure.n:,}"))
    counts = list(run.data_record["counts"].values())
    ratio = max(counts) / max(1, min(counts))
    if ratio >= UNBALANCED:
        text = "The largest class has {ratio} times as many pictures as the smallest ({balance})."
        found.append(t(text, ratio=f"{ratio:.0f}", balance=f"--balance {run.config.balance}"))
        if run.config.balance in EVEN:
            found.append(
                t(
                    "It was trained to answer as if all classes were equally frequent, and its "
                    "probabilities are meant for that."
                )
            )
    return found
