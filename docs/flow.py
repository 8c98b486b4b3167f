"""Draw how data flow through eyebright: ``python docs/flow.py`` writes docs/flow.svg.

The boxes bring their own light background, and what stands between them is of a grey that can be
read on white as well as on black, since an image cannot know which of both the page has.
"""

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 190, 84  # px of a box
BETWEEN, ROW = 32, 126  # px from box to box, from row to row
GREY, INK, PAPER, LINE = "#7c8d98", "#1b2430", "#e9eff2", "#546e7a"

# (column, row): title, lines
BOXES = {
    (0, 0): ("pictures", "a name, a folder, an", "archive, a table, shards"),
    (1, 0): ("Dataset", "uint8 pixels, labels,", "class names, fingerprint"),
    (2, 0): ("batches", "order by (seed, epoch);", "augmented on the device"),
    (3, 0): ("fit()", "the loop, one screen:", "yields a result each epoch"),
    (3, 1): ("runs/NAME/", "settings, log, model:", "no pickle, written whole"),
    (2, 1): ("Classifier", "pictures → probabilities;", "all that follows uses it"),
    (1, 1): ("Evaluation", "figures with n and intervals", "→ report, model card"),
    (2, 2): ("predict, explain, embed", "of new pictures;", "export, serve: for others"),
}
# from, to, what is said beside it
ARROWS = [
    ((0, 0), (1, 0), ""),
    ((1, 0), (2, 0), ""),
    ((2, 0), (3, 0), ""),
    ((3, 0), (3, 1), "best epoch"),
    ((3, 1), (2, 1), ""),
    ((2, 1), (1, 1), ""),
    ((1, 0), (1, 1), "held out"),
    ((2, 1), (2, 2), ""),
]


def draw() -> str:
    """The drawing as SVG."""
    width, height = 4 * WIDTH + 3 * BETWEEN + 4, 2 * ROW + HEIGHT + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width} {height}" '
        f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif" '
        'font-size="13">',
        "<title>How data flow: pictures, Dataset, batches, fit, run folder, Classifier</title>",
        f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{GREY}"/></marker>',
    ]
    for start, end, words in ARROWS:
        parts.append(_arrow(_middle(start), _middle(end)))
        if words:
            x, y = _middle(start)
            parts.append(_text(x + 8, y + ROW // 2 + 4, words, GREY, ""))
    # The test part goes round everything that trains.
    left, top = _middle((0, 0))
    right, down = _middle((1, 1))
    path = f"M{left} {top + HEIGHT // 2}V{down}H{right - WIDTH // 2 - 2}"
    parts.append(_line(path, ' stroke-dasharray="5 4"'))
    parts.append(_text(left + 8, down - 10, "test part: only", GREY, ""))
    parts.append(_text(left + 8, down + 16, "for eyebright test", GREY, ""))
    for place, (title, *lines) in BOXES.items():
        x, y = _middle(place)
        parts.append(
            f'<rect x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}" '
            f'rx="6" fill="{PAPER}" stroke="{LINE}"/>'
        )
        parts.append(_text(x, y - 16, title, INK, ' text-anchor="middle" font-weight="bold"'))
        for i, line in enumerate(lines):
            parts.append(_text(x, y + 8 + 19 * i, line, INK, ' text-anchor="middle"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _middle(place: tuple[int, int]) -> tuple[int, int]:
    column, row = place
    return column * (WIDTH + BETWEEN) + WIDTH // 2, row * ROW + HEIGHT // 2


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the edge of a box to the edge of its neighbour."""
    (x, y), (to_x, to_y) = start, end
    if y == to_y:
        step = 1 if to_x > x else -1
        return _line(f"M{x + step * WIDTH // 2} {y}H{to_x - step * (WIDTH // 2 + 2)}")
    return _line(f"M{x} {y + HEIGHT // 2}V{to_y - HEIGHT // 2 - 2}")


def _line(path: str, more: str = "") -> str:
    line = f'stroke="{GREY}" stroke-width="1.6" marker-end="url(#tip)"'
    return f'<path d="{path}" fill="none" {line}{more}/>'


def _text(x: int, y: int, words: str, colour: str, more: str) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}"{more}>{escape(words)}</text>'


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
