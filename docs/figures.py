"""The drawings of the essay on cross-entropy, in English and in Chinese.

    python -m docs.figures

Draws ``docs/cross-entropy/*.svg``; the same numbers give the same files. Words in an SVG stay
words, so that a reader's own fonts show them, Chinese too.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from docs.figure_words import WORDS

DOCS = Path(__file__).parent
FOLDER = DOCS / "cross-entropy"
FACTS = FOLDER / "run.json"
CLASSES, SMOOTHING, CATS = 10, 0.2, 0.7
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#555555"  # Okabe and Ito's
STYLE: Any = {
    "svg.fonttype": "none",  # words, not outlines
    "svg.hashsalt": "eyebright",  # the same names of parts each time
    "font.size": 10.5,
    "figure.figsize": (7.2, 3.7),
    "lines.linewidth": 2,
    "lines.markersize": 8,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e6eb",
    "grid.linewidth": 0.8,
    "savefig.facecolor": "white",  # so that dark pages show them too
}

Floats = NDArray[np.float64]
Words = dict[str, str]


def log_softmax(logits: Floats) -> Floats:
    """Of the last axis, by its largest, so that nothing overflows."""
    lower = logits - logits.max(-1, keepdims=True)
    found: Floats = lower - np.log(np.exp(lower).sum(-1, keepdims=True))
    return found


def with_lead(leads: Floats) -> Floats:
    """Logits (n, classes) whose first, the true class's, leads the others by so much."""
    logits = np.zeros((len(leads), CLASSES))
    logits[:, 0] = leads
    return logits


def what_was_said() -> dict[str, Any]:
    """By the run of the real example."""
    facts: dict[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
    return facts


def axes_of(figure: Any, words: Words) -> Any:
    """Axes that fill a figure and say what they show."""
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.15, top=0.87)
    return figure.add_subplot(xlabel=words["x"], ylabel=words["y"])


def plot(axes: Any, name: str, x: Floats, y: Floats, colour: str, **style: Any) -> None:
    """A line with a name in the file, by which a test finds its points again."""
    axes.plot(x, y, color=colour, gid=f"data-{name}", **style)


def dot(axes: Any, x: float, y: float, colour: str, **style: Any) -> None:
    """A point to look at."""
    axes.plot(x, y, "o", color=colour, **style)


def note(axes: Any, text: str, at: tuple[float, float], colour: str, **style: Any) -> None:
    """Words beside a line, in its colour."""
    axes.text(*at, text, color=colour, **style)


def softargmax(figure: Any, words: Words) -> None:
    """The jump of argmax and its smooth forms, as one logit grows."""
    axes = axes_of(figure, words)
    x = np.linspace(-4, 6, 201)
    logits = np.stack([x, np.ones_like(x), -np.ones_like(x)], 1)
    axes.set_ylim(-0.06, 1.08)
    axes.axhline(0, color=GREY, linewidth=0.6)
    step = np.array([-4, 1, 1, 6.0])
    plot(axes, "hard", step, np.array([0, 0, 1, 1.0]), GREY, linestyle="--")
    plot(axes, "cold", x, np.exp(log_softmax(4 * logits))[:, 0], ORANGE)
    plot(axes, "soft", x, np.exp(log_softmax(logits))[:, 0], BLUE)
    note(axes, words["soft"], (-1.0, 0.22), BLUE, ha="right")
    note(axes, words["cold"], (1.7, 0.55), ORANGE)
    axes.annotate("", (1.12, 0.62), (1.65, 0.58), arrowprops={"arrowstyle": "-", "color": ORANGE})
    note(axes, words["hard"], (0.85, 0.93), GREY, ha="right")


def minus_log(figure: Any, words: Words) -> None:
    """The loss of the true class's probability, with some to remember."""
    axes = axes_of(figure, words)
    p = np.geomspace(0.008, 1, 200)
    plot(axes, "loss", 100 * p, -np.log(p), BLUE)
    axes.set_xlim(-2, 108)
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_ylim(-0.15, 5.1)
    for percent, tail in ((1, ""), (10, f" {words['guess']}"), (25, ""), (50, ""), (90, "")):
        loss = -math.log(percent / 100)
        dot(axes, percent, loss, ORANGE, markersize=6)
        note(axes, f"{percent} %: {loss:.2f}{tail}", (percent + 1.8, loss + 0.12), GREY)


def twice(figure: Any, words: Words) -> None:
    """What a second softmax does to the loss."""
    axes = axes_of(figure, words)
    leads = np.linspace(-4, 12, 161)
    logits = with_lead(leads)
    plot(axes, "once", leads, -log_softmax(logits)[:, 0], BLUE)
    plot(axes, "twice", leads, -log_softmax(np.exp(log_softmax(logits)))[:, 0], ORANGE)
    floor = math.log(math.e + CLASSES - 1) - 1
    axes.axhline(floor, color=GREY, linewidth=1, linestyle="--")
    axes.set_ylim(0, 6.4)
    note(axes, words["once"], (-2.4, 5.0), BLUE)
    note(axes, words["twice"], (4.6, 1.66), ORANGE)
    note(axes, words["floor"], (12, 1.08), GREY, ha="right")


def gradient(figure: Any, words: Words) -> None:
    """The pull on the true class's logit under two losses."""
    axes = axes_of(figure, words)
    leads = np.linspace(-10, 10, 201)
    p = np.exp(log_softmax(with_lead(leads)))
    short = p - np.eye(CLASSES)[0]
    square = 2 * (short * p * (np.eye(CLASSES)[0] - p[:, :1])).sum(1)
    plot(axes, "square", leads, np.abs(square), ORANGE)
    plot(axes, "cross", leads, -short[:, 0], BLUE)
    axes.set_ylim(-0.04, 1.12)
    axes.set_xticks([-10, -5, 0, 5, 10])
    note(axes, words["cross"], (-9.8, 1.04), BLUE)
    note(axes, words["square"], (-2.2, 0.1), ORANGE, ha="right")
    note(axes, f"← {words['wrong']}", (-9.8, 0.5), GREY)
    note(axes, f"{words['right']} →", (9.8, 0.5), GREY, ha="right")


def distance(figure: Any, words: Words) -> None:
    """Cross-entropy as entropy and a distance on top of it."""
    axes = axes_of(figure, words)
    p = np.linspace(0.05, 0.99, 189)
    cross = -(CATS * np.log(p) + (1 - CATS) * np.log(1 - p))
    entropy = float(-(CATS * math.log(CATS) + (1 - CATS) * math.log(1 - CATS)))
    axes.fill_between(100 * p, entropy, cross, color=BLUE, alpha=0.12, linewidth=0)
    axes.axhline(entropy, color=GREY, linewidth=1, linestyle="--")
    plot(axes, "cross", 100 * p, cross, BLUE)
    dot(axes, 100 * CATS, entropy, ORANGE)
    axes.set_ylim(0.3, 2.2)
    axes.set_xlim(0, 100)
    note(axes, words["cross"], (16, 1.45), BLUE)
    note(axes, words["distance"], (8, 0.76), BLUE)
    note(axes, words["entropy"], (2, 0.47), GREY)


def smoothing(figure: Any, words: Words) -> None:
    """The loss with and without label smoothing."""
    axes = axes_of(figure, words)
    leads = np.linspace(-1, 12, 131)
    log_p = log_softmax(with_lead(leads))
    target = np.full(CLASSES, SMOOTHING / CLASSES)
    target[0] += 1 - SMOOTHING
    plot(axes, "plain", leads, -log_p[:, 0], BLUE)
    plot(axes, "smooth", leads, -(log_p @ target), ORANGE)
    best = math.log(target[0] / target[1])
    dot(axes, best, -(target * np.log(target)).sum(), ORANGE)
    axes.set_ylim(0, 3.4)
    note(axes, words["plain"], (6.2, 0.12), BLUE)
    note(axes, words["smooth"], (8.3, 1.75), ORANGE, ha="right")
    note(axes, words["best"], (3.9, 0.55), GREY)


def temperature(figure: Any, words: Words) -> None:
    """The log loss of a real run's held out pictures at other temperatures."""
    facts = what_was_said()
    chosen, curve = facts["chain"]["temperature"], facts["curve"]
    axes = axes_of(figure, words)
    axes.set_xscale("log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    axes.minorticks_off()
    plot(axes, "curve", np.array(curve["temperatures"]), np.array(curve["losses"]), BLUE)
    dot(axes, 1, facts["before"], GREY)
    dot(axes, chosen, facts["after"], ORANGE)
    note(axes, words["one"], (1.06, facts["before"] - 0.05), GREY)
    note(axes, words["best"], (chosen, facts["after"] - 0.1), ORANGE, ha="center")
    axes.set_ylim(0.6, 1.8)


def picture(figure: Any, words: Words) -> None:
    """The picture of the real example, its logits and its probabilities."""
    from PIL import Image

    chain = what_was_said()["chain"]
    shown = figure.add_axes((0.02, 0.2, 0.28, 0.6))
    shown.imshow(Image.open(FOLDER / "cat.jpg"), interpolation="nearest")
    shown.axis("off")
    left = figure.add_axes((0.46, 0.14, 0.21, 0.73), xlabel=words["logits"])
    right = figure.add_axes((0.7, 0.14, 0.27, 0.73), xlabel=words["softmax"])
    y = np.arange(CLASSES)
    left.barh(y, list(chain["logits"].values()), color=GREY)
    left.set_yticks(y, words["classes"].split())
    true = list(chain["logits"]).index(chain["label"])
    left.get_yticklabels()[true].set_fontweight("bold")
    columns = (("softmax", BLUE, "plain", -0.2), ("calibrated", ORANGE, "warm", 0.2))
    for key, colour, name, offset in columns:
        right.barh(y + offset, 100 * np.array(list(chain[key].values())), 0.4, color=colour)
        note(right, words[name], (100, 7.2 + 2 * offset), colour, ha="right")
    right.set_yticks(y, [])
    right.set_xlim(0, 100)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()


FIGURES = {
    "softargmax": softargmax,
    "minus-log": minus_log,
    "twice": twice,
    "gradient": gradient,
    "distance": distance,
    "smoothing": smoothing,
    "temperature": temperature,
    "picture": picture,
}


def draw(folder: Path = FOLDER) -> list[Path]:
    """Draw every figure in both languages."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    facts, paths = what_was_said(), []
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Readers have the fonts; that the drawing machine lacks Chinese ones is no matter.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        for name, make in FIGURES.items():
            for language, words in WORDS[name].items():
                words = {part: text.format_map(facts) for part, text in words.items()}
                figure = plt.figure()
                figure.text(0.02, 0.94, words["title"], fontsize=12.5, fontweight="bold")
                make(figure, words)
                tail = "" if language == "en" else f"-{language}"
                paths.append(folder / f"{name}{tail}.svg")
                figure.savefig(paths[-1], metadata={"Date": None})
                plt.close(figure)
    return paths


if __name__ == "__main__":
    for path in draw():
        print(path)
