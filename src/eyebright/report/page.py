"""From a run folder to ``report.html`` and ``model-card.md``."""

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from eyebright import metrics
from eyebright.checkpoint import load_card, read_json, write_file
from eyebright.config import UNBALANCED
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.errors import DataError, EyebrightError, ModelError, UsageError
from eyebright.evaluation import LEAKS, OTHER_SHARES, Evaluation, read_evaluation, with_n
from eyebright.losses import EVEN
from eyebright.report.card import model_card
from eyebright.report.charts import TO, Line, interval_bars, line_chart
from eyebright.report.gallery import SIDE, Gallery, data_url
from eyebright.report.words import LANGUAGES, translator
from eyebright.run import Run
from eyebright.trained_on import TrainedOn

A_CELL, A_GALLERY = 16, 24  # pictures at most
MOST_CLASSES = 30  # of a confusion matrix that can be read
PROGRAMS = {"eyebright": "eyebright", "__main__.py": "python -m eyebright"}  # wherever they lie
FEW = 200  # pictures, whose figures are not worth much without their intervals
RISKS = (0.05, 0.1, 0.2)  # of the promise in the report: the first that can be made

Translate = Callable[..., str]


def write_report(
    run: Run,
    language: str = "en",
    evaluation: Evaluation | None = None,
    data: Dataset | None = None,
) -> Path:
    """Write ``report.html`` and ``model-card.md`` into a run folder.

    Args:
        run: any.
        language: ``en`` or ``zh``.
        evaluation: what the report is about. Default: what the run folder holds, of the test set
            if that has been opened.
        data: the pictures that were evaluated, if they are at hand; otherwise they are read again.

    Returns:
        The path of the page.

    Raises:
        UsageError: no such language.
        ModelError: damaged files.
        StorageError: it cannot be written.
    """
    if language not in LANGUAGES:
        raise UsageError(f"--lang cannot be '{language}'; choose one of: {', '.join(LANGUAGES)}")
    from jinja2 import Environment

    t = translator(language)
    evaluation = evaluation or latest_evaluation(run)
    context = base_context(run, t) | {"warnings": []}
    if evaluation is not None:
        evaluation = with_promise(run, evaluation)
        missing = None
        try:
            data = data or run.pictures(evaluation.split)
            if data.fingerprint != evaluation.fingerprint:
                raise DataError(f"{shown(data.name)}: other pictures than those evaluated")
        except EyebrightError as error:
            data, missing = None, str(error)
        known = TrainedOn.load(run.path)
        context |= figures_context(evaluation, t)
        context |= pictures_context(evaluation, data, t)
        context["warnings"] = find_warnings(run, evaluation, t)
        if missing:
            why = t("The pictures could not be read again, so none are shown: {why}", why=missing)
            context["warnings"].append(why)
        if data is not None and known is not None:
            context["baselines"] = baselines_chart(evaluation, data, known, t)
    page = files("eyebright.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True)
    html = environment.from_string(page).render(context | {"t": t, "language": language})
    path = run.path / "report.html"
    write_file(path, html.encode("utf-8", "backslashreplace"))
    write_file(run.path / "model-card.md", model_card(run, evaluation).encode("utf-8", "replace"))
    return path


def with_promise(run: Run, evaluation: Evaluation) -> Evaluation:
    """With what the pictures held out promise, where they promise anything."""
    if evaluation.promises.answers:
        return evaluation
    for risk in RISKS:
        with contextlib.suppress(EyebrightError):  # nothing held out, or too few for so much
            held_out = evaluation if evaluation.split == "val" else run.held_out()
            answers = held_out.promise(risk).answers
            return replace(evaluation, promises=replace(evaluation.promises, answers=answers))
    return evaluation


def latest_evaluation(run: Run) -> Evaluation | None:
    """Of the test set if it has been opened, else of the pictures held out, else none."""
    for split in ("test", "val"):
        if (run.path / f"predictions-{split}.csv").is_file():
            return read_evaluation(run.path, split)
    return None


def base_context(run: Run, t: Translate) -> dict[str, Any]:
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
    try:
        program, *words = map(str, env["command"])
        command = shown(shlex.join([PROGRAMS.get(Path(program).name, program), *words]))
        versions = ", ".join(f"{name} {number}" for name, number in env["packages"].items())
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{shown(run.path / 'env.json')}: not what belongs there ({error})"
        ) from None
    again = [
        (t("command"), command),
        (t("seed"), str(config.seed)),
        (t("fingerprint of the data"), record["fingerprint"]),
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
        "shifts": shift_chart(run, t),
        "shift_picture": data_url(run.path / "shift.png"),
        "rendering": "pixelated" if card.imgsz < SIDE else "auto",
    }


def learning_curves(log: list[dict[str, str]], t: Translate) -> list[tuple[str, Any]]:
    """Training loss and validation accuracy by epoch; nothing for a single epoch."""
    if len(log) < 2:
        return []
    epochs = [float(row["epoch"]) for row in log]
    losses = list(zip(epochs, (float(row["train_loss"]) for row in log), strict=True))
    dots = len(log) <= 60
    loss_title = t("training loss")
    charts = [(loss_title, markup(line_chart([Line("", losses, 2, dots)], t("epoch"), loss_title)))]
    rows = [row for row in log if row.get("val_accuracy")]
    if rows:
        figures = [
            metrics.proportion(round(float(r["val_accuracy"]) * int(r["val_n"])), int(r["val_n"]))
            for r in rows
        ]
        points = [
            (float(r["epoch"]), 100 * (f.value or 0.0)) for r, f in zip(rows, figures, strict=True)
        ]
        spans = [(100 * (f.low or 0.0), 100 * (f.high or 0.0)) for f in figures]
        title = t("validation accuracy, %")
        line = Line("", points, 1, dots, spans if dots else ())
        charts.append((title, markup(line_chart([line], t("epoch"), title))))
    return charts


def figures_context(evaluation: Evaluation, t: Translate) -> dict[str, Any]:
    """Headline, figures, bars, reliability and what it may promise."""
    accuracy = evaluation.accuracy
    n = f"{accuracy.n:,}"
    what = (
        t("accuracy on {n} test pictures", n=n)
        if evaluation.split == "test"
        else t("accuracy on {n} pictures held out", n=n)
    )
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


def reliability_chart(evaluation: Evaluation, t: Translate) -> str:
    """Confidence against accuracy, before and after the temperature."""
    lines = [Line(t("perfect"), [(0, 0), (1, 1)], 7, dots=False)]
    if evaluation.temperature is not None:
        before = metrics.reliability(evaluation.uncalibrated.max(1), evaluation.right)
        points = [(b.confidence, b.accuracy.value or 0.0) for b in before]
        lines.append(Line(t("before"), points, 2))
    bins = metrics.reliability(evaluation.confidences, evaluation.right)
    points = [(b.confidence, b.accuracy.value or 0.0) for b in bins]
    spans = [(b.accuracy.low or 0.0, b.accuracy.high or 0.0) for b in bins]
    name = t("calibrated") if evaluation.temperature is not None else t("this model")
    lines.append(Line(name, points, 1, spans=spans))
    titles = t("probability of the answer, %"), t("share that was right, %")
    return line_chart(lines, *titles, (0, 1), (0, 1), percent=True)


def risk_chart(evaluation: Evaluation, t: Translate) -> str:
    """Errors among the answers against the share answered, the surest first."""
    order = np.argsort(-evaluation.confidences, kind="stable")
    errors = np.cumsum(~evaluation.right[order]) / np.arange(1, len(order) + 1)
    first = min(20, len(order)) - 1
    places = np.unique(np.linspace(first, len(order) - 1, 120).astype(int))
    points = [((i + 1) / len(order), float(errors[i])) for i in places]
    top = max(0.02, 1.1 * max(y for _, y in points))
    titles = t("share answered, %"), t("errors among the answers, %")
    lines = [Line(t("this model"), points, 1, dots=False)]
    if evaluation.promises.answers:
        answered, right = evaluation.answered()
        if answered.value and right.value is not None:
            lines.append(Line(t("what is promised"), [(answered.value, 1 - right.value)], 2))
    return line_chart(lines, *titles, (0, 1), (0, top), percent=True)


def promise_lines(evaluation: Evaluation, t: Translate) -> list[str]:
    """What is promised in words, and on a test set how it turned out."""
    given, rule = evaluation.promises.answers, evaluation.promises.sets
    if given is None:
        lines = [t("Nothing is promised: too few pictures were held out, or none.")]
    else:
        text = (
            "It answers {answered} of pictures, right on at least {right} % of those, with 95 % "
            "confidence (from {n} pictures held out)."
        )
        answered, right = f"{100 * given.answered:.1f} %", f"{100 * (1 - given.risk):g}"
        lines = [t(text, answered=answered, right=right, n=f"{given.n:,}")]
    if given and evaluation.split == "test":
        here, kept = (figure.percent(TO) for figure in evaluation.answered())
        text = "Here: it answered {answered}, right on {right} of those."
        lines.append(t(text, answered=here, right=kept))
    if rule:
        held, _, size = evaluation.set_figures()
        text = (
            "Sets of classes for {coverage} % coverage: they hold the true class of {held} of the "
            "pictures, with {size} classes on average."
        )
        coverage = f"{100 * rule.coverage:g}"
        lines.append(t(text, coverage=coverage, held=held.percent(TO), size=f"{size:.2f}"))
    return lines


def pictures_context(evaluation: Evaluation, data: Dataset | None, t: Translate) -> dict[str, Any]:
    """The confusion matrix with its pictures, surest mistakes and least sure pictures."""
    confusion, classes = evaluation.confusion, [shown(c) for c in evaluation.classes]
    if len(classes) > MOST_CLASSES:
        confusion = confusion[:0]
    show = None if data is None else Gallery(evaluation, data)
    wrong = np.flatnonzero(~evaluation.right)
    by_confidence = np.argsort(evaluation.confidences, kind="stable")
    surest = [i for i in by_confidence[::-1] if not evaluation.right[i]][:A_GALLERY]
    found: dict[str, Any] = {
        "surest": show and show.pictures(surest),
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
        pictures = show.pictures(members[:A_CELL]) if show and len(confusion) else []
        if pictures:
            title = t(
                "true: {truth}, predicted: {guess}", truth=classes[truth], guess=classes[guess]
            )
            count = t("{shown} of {count} pictures", shown=len(pictures), count=f"{len(members):,}")
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
    return found | {"cells": cells, "confusion": rows, "opened": next(iter(cells), "")}


def find_warnings(run: Run, evaluation: Evaluation, t: Translate) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if evaluation.leaks:
        found.append(t(LEAKS, count=f"{evaluation.leaks:,}"))
    if evaluation.split == "val":
        found.append(
            t("These pictures also chose the best epoch; the test set has not been opened.")
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


def baselines_chart(evaluation: Evaluation, data: Dataset, known: TrainedOn, t: Translate) -> Any:
    """The model beside what needs no net: the largest class, and a linear probe on pixels."""
    n = len(data)
    largest = int((evaluation.labels == known.largest).sum())
    probed = int((evaluation.labels == known.probe(data.images)).sum())
    rows = [
        (t("always the largest class"), metrics.proportion(largest, n)),
        (t("linear probe on pixels"), metrics.proportion(probed, n)),
        (t("this model"), evaluation.accuracy),
    ]
    return markup(interval_bars(rows))


def shift_chart(run: Run, t: Translate) -> Any:
    """Accuracy by kind and strength of change, if ``test --shift`` has been asked for."""
    path = run.path / "shift.json"
    if not path.is_file():
        return None
    record = read_json(path)
    lines = []
    try:
        for colour, (name, kind) in enumerate(record["shifted"].items(), start=1):
            figures = [record["clean"], *(one["accuracy"] for one in kind["strengths"])]
            points = [(i, 100 * float(figure["value"])) for i, figure in enumerate(figures)]
            lines.append(Line(t(name), points, colour))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{shown(path)}: not what belongs there ({error})") from None
    titles = t("strength, from weak to strong"), t("accuracy, %")
    return markup(line_chart(lines, *titles))


def markup(svg: str) -> Any:
    """SVG of ours, whose texts are escaped already."""
    from markupsafe import Markup

    return Markup(svg)
