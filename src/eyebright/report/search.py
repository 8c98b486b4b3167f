"""The page of a search: its course, its settings, and whether it helped."""

from pathlib import Path
from statistics import median
from typing import Any

from eyebright.console import shown
from eyebright.files import write_file
from eyebright.report.charts import Line, dot_rows, line_chart
from eyebright.report.contents import Translate
from eyebright.report.page import render
from eyebright.report.plots import markup
from eyebright.report.words import translator
from eyebright.search import Search, said
from eyebright.study import Trial
from eyebright.verdict import HELPED, NO_GAIN, WORSE, Verdict

A_TABLE = 20  # rows
FAR = 3.0  # times as far below the best as the median is: there the picture ends
WIDE = 5.0  # a setting whose largest value is so many times its smallest has a logarithmic axis
IN_WORDS = {
    HELPED: "Search helped", WORSE: "Search did harm",
    NO_GAIN: "No gain that stands out from chance",
}  # fmt: skip


def write_search(search: Search, language: str = "en") -> Path:
    """Write ``report.html`` into the folder of a study, in one of `LANGUAGES`.

    Raises:
        StorageError: it cannot be written.
    """
    t = translator(language)
    html = render("search.html", context(search, t) | {"t": t, "language": language})
    path = search.folder / "report.html"
    write_file(path, html.encode("utf-8", "backslashreplace"))
    return path


def context(search: Search, t: Translate) -> dict[str, Any]:
    """All that the page shows."""
    states = [trial.state for trial in search.trials]
    n = search.pictures
    facts = [
        (t("data"), shown(search.data)),
        (t("recipe"), search.recipe),
        (t("net"), shown(search.settings["model"])),
        (t("epochs"), str(search.settings["epochs"])),
        (t("trials"), f"{len(states) - states.count('stopped'):,}"),
        (t("given up early"), f"{states.count('pruned'):,}"),
        (t("failed"), f"{states.count('failed'):,}"),
        (t("pictures to train on"), f"{n['trained on']:,}"),
        (t("pictures that the search looks at"), f"{n['looked at']:,}"),
        (t("pictures kept for the verdict"), f"{n['kept']:,}"),
    ]
    metric = t(f"{search.metric.replace('-', ' ')}")
    headline, lines = verdict_lines(search, t)
    rows = [
        [
            f"{trial.number} ({t('the recipe’s own')})" if trial.is_default else trial.number,
            f"{100 * (trial.score or 0.0):.2f} %",
            *(said(trial.settings.get(key)) for key in search.searched),
        ]
        for trial in search.best[:A_TABLE]
    ]
    command = [(t("winner"), shown(search.call))] if search.call else []
    return {
        "name": shown(search.folder.name),
        "headline": headline,
        "verdict": lines,
        "facts": facts,
        "metric": metric,
        "titles": [name.replace("_", " ") for name in search.searched],
        "rows": rows,
        "course": course(search, t),
        "fresh": search.verdict and fresh_chart(search.verdict, f"{metric}, %", t),
        "scatters": scatters(search, f"{metric}, %"),
        "again": command,
    }


def verdict_lines(search: Search, t: Translate) -> tuple[str, list[str]]:
    """A headline and what is to be said below it."""
    verdict = search.verdict
    if search.winner is None:
        return "", [t("There is no trial with a figure yet.")]
    if search.winner is search.default:
        return t("Keep the recipe"), [t("No trial was better than the recipe’s own settings.")]
    if verdict is None:
        text = "Not judged on fresh seeds yet: the best of many trials looks better than it is."
        return "", [t(text)]
    difference = verdict.difference
    text = (
        "{points} points, the winner against the recipe’s own settings, on {seeds} fresh seeds and "
        "{n} pictures that the search never looked at."
    )
    words = {"points": f"{100 * (difference.value or 0.0):+.2f}", "seeds": len(verdict.default)}
    lines = [t(text, n=f"{difference.n:,}", **words)]
    if difference.low is None or difference.high is None:
        headline = ""
        lines.append(t("One seed has no interval, and gives no verdict."))
    else:
        headline = t(IN_WORDS[verdict.says])
        ends = {"low": f"{100 * difference.low:+.2f}", "high": f"{100 * difference.high:+.2f}"}
        lines += [t("95 % interval: {low} to {high}", **ends), t(f"It counts {verdict.counts}.")]
    if (alone := verdict.over_seeds) is not None and verdict.counts != "seeds":
        text = "Counting seeds alone, on these very pictures: {low} to {high}."
        low, high = (f"{100 * (end or 0.0):+.2f}" for end in (alone.low, alone.high))
        lines.append(t(text, low=low, high=high))
    text = "In the search it was {points} points ahead: the best of many trials is partly luck."
    return headline, [*lines, t(text, points=f"{100 * verdict.promised:+.2f}")]


def course(search: Search, t: Translate) -> Any:
    """The figure of each trial, and the best so far; nothing before there is one."""
    done = [trial for trial in search.trials if trial.score is not None]
    if not done:
        return ""
    pruned = [trial for trial in search.trials if trial.state == "pruned" and trial.scores]
    values = [100 * (trial.score or 0.0) for trial in done]
    best = max(values)
    low = min([*values, *(100 * max(one.scores.values()) for one in pruned)])
    low = max(low, best - FAR * max(best - median(values), 0.5))
    pad = 0.06 * (best - low) or 0.5

    def point(trial: Trial, value: float) -> tuple[float, float]:
        return float(trial.number), max(low, 100 * value)

    so_far: list[tuple[float, float]] = []
    for trial in done:
        top = max(so_far[-1][1] if so_far else low, 100 * (trial.score or 0.0))
        so_far += [(float(trial.number), so_far[-1][1])] if so_far else []  # a step, no slope
        so_far.append((float(trial.number), top))
    so_far.append((float(search.trials[-1].number), so_far[-1][1]))
    others = [t_ for t_ in done if t_ is not search.default]
    lines = [Line(t("best so far"), so_far, 3, dots=False)]
    for name, members, colour, hollow in (
        (t("trained to the end"), others, 1, False),
        (t("given up early"), pruned, 7, True),
        (t("the recipe’s own"), [d for d in done if d is search.default], 2, False),
    ):
        found = [point(one, one.score or max(one.scores.values())) for one in members]
        if found:
            lines.append(Line(name, found, colour, joined=False, hollow=hollow))
    title = f"{t(search.metric.replace('-', ' '))}, %"
    return markup(line_chart(lines, t("trial"), title, y_range=(low - pad, best + pad)))


def fresh_chart(verdict: Verdict, title: str, t: Translate) -> Any:
    """The figures of the fresh seeds."""
    rows = [
        (t("the recipe’s own"), [100 * value for value in verdict.default]),
        (t("winner"), [100 * value for value in verdict.winner]),
    ]
    return markup(dot_rows(rows, title))


def scatters(search: Search, title: str) -> list[tuple[str, Any]]:
    """Each setting against the figure, of trials that were trained to the end."""
    found = []
    for name in search.searched:
        pairs = [
            (t.settings[name], 100 * (t.score or 0.0)) for t in search.best if name in t.settings
        ]
        if len(pairs) < 2:
            continue
        label = name.replace("_", " ")
        values = [value for value, _ in pairs]
        if not all(isinstance(value, float) for value in values):
            of_each = {
                v: [y for x, y in pairs if x == v] for v in sorted(set(values), key=order_of)
            }
            chart = dot_rows([(shown(v), ys) for v, ys in of_each.items()], title)
        else:
            log = min(values) > 0 and max(values) > WIDE * min(values) and name != "label_smoothing"
            chart = line_chart([Line("", pairs, joined=False)], label, title, log=log)
        found.append((label, markup(chart)))
    return found


def order_of(value: Any) -> tuple[float, str]:
    """Numbers by size, names by the alphabet."""
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))
