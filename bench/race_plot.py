"""The picture of the race: test accuracy against seconds of training, a line for each program."""

import statistics
from itertools import pairwise
from typing import Any

from bench.rows import RESULTS, latest_settings, read

Points = list[tuple[float, float]]
"""Seconds of training and test accuracy in percent, after each epoch."""

# Okabe and Ito's colours, which colour-blind eyes tell apart; ours are drawn stronger.
COLOURS = {
    "lesson": "#555555",
    "fastai": "#CC79A7",
    "timm": "#E69F00",
    "airbench": "#009E73",
    "fast": "#0072B2",
    "best": "#D55E00",
    "quick": "#56B4E9",
}
OURS = ("quick", "fast", "best")
NAMES = {
    "lesson": "PyTorch's lesson",
    "airbench": "airbench's settings",
    **{recipe: f"eyebright “{recipe}”" for recipe in OURS},
}
# Where a label may stand, seen from the end of its line: points right and up, alignments.
PLACES = [
    (11, 0, "left", "center"),
    (-5, 9, "right", "bottom"),
    (9, -7, "left", "top"),
    (9, 7, "left", "bottom"),
    (9, -17, "left", "top"),
    (9, 17, "left", "bottom"),
]


def mean_curve(rows: list[dict[str, str]]) -> Points:
    """The line of the seed that was watched, its end at the mean over all seeds."""
    runs = [[point.split(":") for point in row["curve"].split(";")] for row in rows]
    longest = max(runs, key=len)
    line = [(float(seconds), 100 * float(accuracy)) for seconds, accuracy in longest[:-1]]
    ends = [(float(points[-1][0]), 100 * float(points[-1][1])) for points in runs]
    return [*line, (statistics.mean(x for x, _ in ends), statistics.mean(y for _, y in ends))]


def in_words(seconds: float) -> str:
    """Seconds as one says them: tenths under ten."""
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:,.0f} s"


def finding(curves: dict[str, Points]) -> str:
    """What the race showed, in a sentence, from its end points."""
    ends = sorted(curves[recipe][-1] for recipe in OURS if recipe in curves)
    reached = [f"{accuracy:.0f} % in {in_words(seconds)}" for seconds, accuracy in ends]
    parts = [f"eyebright reaches {', '.join(reached)}"] if reached else []
    if "lesson" in curves:
        seconds, accuracy = curves["lesson"][-1]
        parts.append(f"PyTorch's lesson {accuracy:.0f} % in {in_words(seconds)}")
    return "; ".join(parts)


def plot(table: str = "race") -> None:
    """Draw ``bench/results/<table>.png``, 1200 by 700 pixels, from the rows beside it."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = latest_settings(read(table))
    curves = {program: mean_curve(of_program) for program, of_program in rows.items()}
    figure, axes = plt.subplots(figsize=(12, 7), dpi=100, facecolor="white")
    figure.subplots_adjust(left=0.065, right=0.98, bottom=0.085, top=0.88)
    for program, points in curves.items():
        ours = program in OURS
        seconds, accuracies = zip(*points, strict=True)
        style: dict[str, Any] = {"color": COLOURS[program], "zorder": 3 if ours else 2}
        axes.plot(seconds, accuracies, "-", linewidth=2.6 if ours else 1.6, **style)
        axes.plot(seconds, accuracies, ".", markersize=6 if ours else 5, **style)
        axes.plot(seconds[-1], accuracies[-1], "o", markersize=10 if ours else 8, **style)
    axes.set_xscale("log")
    low = min(points[0][0] for points in curves.values())
    high = max(points[-1][0] for points in curves.values())
    axes.set_xlim(low / 1.3, high * (high / low) ** 0.2 * 1.3)  # room for labels on the right
    axes.set_ylim(top=min(100, max(points[-1][1] for points in curves.values()) + 5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xlabel("seconds of training (log scale)", fontsize=12)
    axes.set_ylabel("accuracy on the 10,000 test pictures (%)", fontsize=12)
    last = [of_program[-1] for of_program in rows.values()]
    runs = sorted({len(of_program) for of_program in rows.values()})
    seeds = "one seed" if runs == [1] else f"ends: means over {' to '.join(map(str, runs))} seeds"
    where = f"CIFAR-10, trained on all 50,000 pictures; {last[-1]['machine']}; {seeds}"
    figure.text(0.065, 0.945, finding(curves), fontsize=14, fontweight="bold")
    figure.text(0.065, 0.905, where, fontsize=11, color="#555555")
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    label_ends(axes, curves)
    path = RESULTS / f"{table}.png"
    figure.savefig(path, dpi=100, facecolor="white")
    plt.close(figure)
    print(path)


def label_ends(axes: Any, curves: dict[str, Points]) -> None:
    """Name each line beside its end, where the label covers the least of lines and labels.

    Args:
        axes: with everything else drawn and its limits set.
        curves: as they were drawn.
    """
    from matplotlib.patheffects import withStroke

    on_screen = [axes.transData.transform(points) for points in curves.values()]
    dots = [
        (x0 + (x1 - x0) * t / 20, y0 + (y1 - y0) * t / 20)
        for points in on_screen
        for (x0, y0), (x1, y1) in pairwise([points[0], *points])
        for t in range(21)
    ]
    frame = axes.get_window_extent()
    boxes: list[Any] = []
    for program, points in sorted(curves.items(), key=lambda item: -item[1][-1][1]):
        seconds, accuracy = points[-1]
        text = f"{NAMES.get(program, program)}  {accuracy:.1f} %, {in_words(seconds)}"
        label = axes.annotate(
            text,
            points[-1],
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=11.5,
            fontweight="bold" if program in OURS else "normal",
            color=COLOURS[program],
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=4,
        )
        costs = []
        for place in PLACES:
            put(label, place)
            box = label.get_window_extent()
            cost = sum(box.contains(x, y) for x, y in dots)
            cost += 100 * sum(box.overlaps(other) for other in boxes)
            costs.append(cost + 1000 * (box.x0 < frame.x0 or box.x1 > frame.x1))
        put(label, PLACES[costs.index(min(costs))])
        boxes.append(label.get_window_extent())


def put(label: Any, place: tuple[int, int, str, str]) -> None:
    """Move a label to one of `PLACES`."""
    right, up, horizontal, vertical = place
    label.set(position=(right, up), ha=horizontal, va=vertical)
