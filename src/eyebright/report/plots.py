"""What a report draws of a run and its evaluation, as SVG."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyebright import metrics
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.data.look import cut_grid
from eyebright.errors import ModelError
from eyebright.evaluation import Evaluation
from eyebright.files import read_json
from eyebright.metrics import Figure
from eyebright.report.charts import Line, interval_bars, line_chart
from eyebright.report.gallery import encode
from eyebright.run import Run
from eyebright.trained_on import TrainedOn

Translate = Callable[..., str]


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
    if given := evaluation.promises.answers:
        bound = [(0.0, given.risk), (1.0, given.risk)]
        lines.append(Line(t("the most errors promised"), bound, 7, dots=False))
        top = max(top, 1.2 * given.risk)
        answered, right = evaluation.answered()
        if evaluation.split == "test" and answered.value and right.value is not None:
            lines.append(Line(t("observed here"), [(answered.value, 1 - right.value)], 2))
    return line_chart(lines, *titles, (0, 1), (0, top), percent=True)


def baselines_chart(evaluation: Evaluation, data: Dataset, known: TrainedOn, t: Translate) -> Any:
    """The model beside what needs no net: the largest class, and a linear probe on pixels."""
    n = len(data)
    largest = int((evaluation.labels == known.largest).sum())
    probed = int((evaluation.labels == known.probe(data)).sum())
    rows = [
        (t("always the largest class"), metrics.proportion(largest, n, evaluation.interval)),
        (t("linear probe on pixels"), metrics.proportion(probed, n, evaluation.interval)),
        (t("this model"), evaluation.accuracy),
    ]
    return markup(interval_bars(rows))


def shift_context(run: Run, evaluation: Evaluation | None, t: Translate) -> dict[str, Any]:
    """What ``test --shift`` found, if it was about these pictures: chart, examples and slices."""
    path = run.path / "shift.json"
    if evaluation is None or not path.is_file():
        return {}
    record = read_json(path)
    lines, rows, slices = [], [], []
    try:
        if record["fingerprint"] != evaluation.fingerprint:
            return {}
        n = int(record["clean"]["n"])
        pictures = iter(shift_pictures(run.path / "shift.png"))
        for colour, (name, kind) in enumerate(record["shifted"].items(), start=1):
            found = [record["clean"], *(one["accuracy"] for one in kind["strengths"])]
            figures = [Figure(f["value"], f["n"], f["low"], f["high"]) for f in found]
            points = [(float(i), 100 * (f.value or 0.0)) for i, f in enumerate(figures)]
            spans = [(100 * (f.low or 0.0), 100 * (f.high or 0.0)) for f in figures]
            lines.append(Line(t(name), points, colour, spans=spans))
            rows.append((t(name), [(next(pictures, ""), f"{y:.1f} %") for _, y in points]))
        for name, parts in record["slices"].items():
            for third, f in parts.items():
                figure = Figure(f["value"], f["n"], f["low"], f["high"])
                slices.append((f"{t(name)}: {t(third)}", figure))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{shown(path)}: not what belongs there ({error})") from None
    titles = t("strength, from weak to strong"), t("accuracy, %")
    return {
        "shifts": markup(line_chart(lines, *titles)),
        "shift_rows": rows,
        "shift_n": t("{n} of the test pictures, with 95 % intervals", n=f"{n:,}"),
        "slices": markup(interval_bars(slices)),
    }


def shift_pictures(path: Path) -> list[str]:
    """The pictures of ``shift.png`` as data URLs, small; none where it cannot be read."""
    try:
        with Image.open(path) as grid:
            cells = cut_grid(grid.convert("RGB"), 6)
    except (OSError, ValueError, Image.DecompressionBombError):
        return []
    return [encode(np.asarray(cell.resize((64, 64)))) for cell in cells]


def markup(svg: str) -> Any:
    """SVG of ours, whose texts are escaped already."""
    from markupsafe import Markup

    return Markup(svg)
