"""Charts as inline SVG: no script, colours from the page's style sheet, so that dark mode works."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from unicodedata import east_asian_width

from eyebright.metrics import Figure

WIDTH, HEIGHT = 480, 300  # about as wide as the page shows them, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 46
TO = "–"  # between the ends of an interval, in any language
MOST_NAME = 170  # px that a name may take beside its bar

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    points: Points
    colour: int = 1
    """Which of the page's series colours, from 1."""
    dots: bool = True
    spans: Sequence[tuple[float, float]] = ()
    """Lower and upper end of an interval at each point."""
    joined: bool = True
    """Whether a line runs through the points."""
    hollow: bool = False
    """Whether its dots are rings."""


def ticks(low: float, high: float, most: int = 6, least: float = 0.0) -> list[float]:
    """Round values from low to high, at most about so many, no closer together than ``least``."""
    span = high - low
    step = 10.0 ** math.floor(math.log10(span))
    step *= next(part for part in (0.1, 0.2, 0.5, 1, 2, 5) if span / (step * part) <= most)
    step = max(step, least)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [round(place * step, 10) for place in places]


def line_chart(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    log: bool = False,
) -> str:
    """Lines over common axes.

    Args:
        lines: each with a point or more.
        x_title: of the axis, with its unit.
        y_title: of the axis, with its unit.
        x_range: of the axis; None: from the points.
        y_range: of the axis; None: from the points.
        percent: whether both are shares, to be written in percent.
        log: whether the axis across is logarithmic; all x are positive then.
    """
    points = [point for line in lines for point in line.points]
    ends = [end for line in lines for span in line.spans for end in span]
    place = math.log10 if log else float
    x0, x1 = x_range or _range([place(x) for x, _ in points])
    y0, y1 = y_range or _range([y for _, y in points] + ends)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (place(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    def said(value: float) -> str:
        return f"{100 * value:g}" if percent else f"{value:g}"

    parts = []
    for value in ticks(y0, y1):
        _, y = at(1, value)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{said(value)}</text>')
    counted = all(float(x).is_integer() for x, _ in points)  # epochs: there are no halves
    least = 1.0 if counted and not x_range else 0.0
    for value in log_ticks(x0, x1) if log else ticks(x0, x1, 8, least=least):
        x, _ = at(value, y0)
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">')
        parts.append(f"{said(value)}</text>")
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_title)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(13 {middle}) rotate(-90)">'
        f"{escape(y_title)}</text>"
    )
    for line in lines:
        places = [at(x, y) for x, y in line.points]
        path = "L".join(f"{x} {y}" for x, y in places)
        if line.joined:
            parts.append(f'<path class="line s{line.colour}" d="M{path}"/>')
        for (x, _), (low, high) in zip(line.points, line.spans, strict=False):
            (across, lower), (_, upper) = at(x, low), at(x, high)
            parts.append(f'<path class="span s{line.colour}" d="M{across} {lower}V{upper}"/>')
        if line.dots:
            kind = f"s{line.colour}" + " hollow" * line.hollow
            parts += [f'<circle class="{kind}" cx="{x}" cy="{y}" r="3.5"/>' for x, y in places]
    named = [line for line in lines if line.name]
    keys = "".join(
        f'<span><i class="key s{line.colour}{" hollow" * line.hollow}"></i>'
        f"{escape(line.name)}</span>"
        for line in named
    )
    legend = f'<p class="legend">{keys}</p>' if len(named) > 1 else ""
    label = escape(f"{y_title}, {x_title}")
    return (
        f'{legend}<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def dot_rows(rows: Sequence[tuple[str, Sequence[float]]], x_title: str) -> str:
    """A row of dots for each name, over a common axis.

    Args:
        rows: name and values.
        x_title: of the axis, with its unit.
    """
    height, bottom = 30, 46
    short = [shorten(name, MOST_NAME) for name, _ in rows]
    left = 16 + max(map(text_width, short), default=0)
    below = len(rows) * height
    x0, x1 = _range([value for _, values in rows for value in values])

    def at(value: float) -> float:
        return round(left + (value - x0) / (x1 - x0) * (WIDTH - left - RIGHT), 1)

    parts = []
    for value in ticks(x0, x1, 5):
        x = at(value)
        parts.append(f'<path class="grid" d="M{x} 0V{below}"/>')
        parts.append(f'<text x="{x}" y="{below + 18}" text-anchor="middle">{value:g}</text>')
    for i, (name, values) in enumerate(rows):
        y = i * height + height // 2
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(short[i])}')
        parts.append(f"<title>{escape(name)}</title></text>")
        parts.append(f'<path class="grid" d="M{left} {y}H{WIDTH - RIGHT}"/>')
        parts += [f'<circle class="s1" cx="{at(value)}" cy="{y}" r="4"/>' for value in values]
    parts.append(
        f'<text class="axis" x="{(left + WIDTH - RIGHT) / 2}" y="{below + bottom - 6}" '
        f'text-anchor="middle">{escape(x_title)}</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {below + bottom}" role="img" '
        f'aria-label="{escape(x_title)}">{"".join(parts)}</svg>'
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Round values whose decimal logarithms lie from low to high."""
    for parts in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        values = [
            part * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for part in parts
            if low <= math.log10(part) + power <= high
        ]
        if len(values) >= 3:
            break
    apart = list[float]()
    for value in values:
        if not apart or math.log10(value / apart[-1]) >= (high - low) / 9:
            apart.append(value)
    return apart


def interval_bars(rows: Sequence[tuple[str, Figure]]) -> str:
    """A bar for each figure, with its interval, its value in percent and its n.

    Args:
        rows: name and figure, from 0 to 1.
    """
    height, value_width = 26, 190
    short = [shorten(name, MOST_NAME) for name, _ in rows]
    name_width = 12 + max(map(text_width, short), default=0)
    full = WIDTH - name_width - value_width
    parts = []
    for i, (name, figure) in enumerate(rows):
        y, length = i * height, full * (figure.value or 0.0)
        parts.append(
            f'<text x="{name_width - 8}" y="{y + 17}" text-anchor="end">{escape(short[i])}</text>'
            f'<rect class="bar" x="{name_width}" y="{y + 5}" height="16" width="{length:.1f}" '
            f'rx="3"><title>{escape(name)}</title></rect>'
        )
        if figure.low is not None and figure.high is not None:
            low, high = name_width + figure.low * full, name_width + figure.high * full
            parts.append(f'<path class="whisker" d="M{low:.1f} {y + 13}H{high:.1f}"/>')
        said = f"{figure.percent(TO)} / {figure.n:,}"
        parts.append(
            f'<text class="value" x="{WIDTH}" y="{y + 17}" text-anchor="end">{escape(said)}</text>'
        )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {max(1, len(rows)) * height}" role="img">'
        f"{''.join(parts)}</svg>"
    )


def text_width(text: str) -> int:
    """About how many px a text takes in a chart: Chinese characters take two letters' room."""
    return sum(14 if east_asian_width(letter) in "WF" else 7 for letter in text)


def shorten(text: str, most: int) -> str:
    """A text of at most so many px, with an ellipsis where something was cut off."""
    if text_width(text) <= most:
        return text
    while text and text_width(text) > most - 7:
        text = text[:-1]
    return text + "…"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad
