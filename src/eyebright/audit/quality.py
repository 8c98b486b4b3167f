"""Pictures that are bad in themselves: tiny, blank, very dark or bright, very long."""

import numpy as np

from eyebright.audit import findings
from eyebright.audit.findings import Finding
from eyebright.data import Dataset
from eyebright.data.decisions import table_ids

TINY = 16  # px of the shorter side
LONG = 4.0  # longer side over the shorter one; what is longer is cut to its middle
BLANK = 3.0  # standard deviation of each colour channel
DARK, BRIGHT = 48, 215
"""Brightness below which 99 % of a dark picture lie, and above which 95 % of a bright one do."""


def bad_pictures(data: Dataset, part: str = "train") -> list[Finding]:
    """What is wrong with pictures, whatever they show; the worst first.

    Args:
        data: any.
        part: its name, for the ids.
    """
    found: list[Finding] = []
    names = table_ids(data, part)

    def add(i: int, score: float, note: str) -> None:
        given = data.classes[data.labels[i]]
        found.append(Finding("picture", names[i], given, None, round(float(score), 4), note))

    for i, (width, height) in enumerate(data.sizes.tolist()):
        short, long = min(width, height), max(width, height)
        if short < TINY and short < data.imgsz:
            add(i, 1 - short / TINY, findings.TINY.format(width=width, height=height))
        elif long > LONG * short:
            add(i, 1 - LONG * short / long, findings.LONG.format(width=width, height=height))
    start = 0
    for pixels in data.pixels.parts():
        flat = pixels.reshape(len(pixels), -1, 3)
        deviation = flat.std(1, dtype=np.float32).max(1)
        grey = flat.mean(2, dtype=np.float32)
        low, high = np.percentile(grey, (5, 99), axis=1)
        for j in np.flatnonzero((deviation < BLANK) | (high < DARK) | (low > BRIGHT)).tolist():
            if deviation[j] < BLANK:
                add(start + j, 1 - deviation[j] / BLANK, findings.BLANK)
            elif high[j] < DARK:
                add(start + j, 1 - high[j] / DARK, findings.DARK.format(of=high[j]))
            else:
                score = (low[j] - BRIGHT) / (255 - BRIGHT)
                add(start + j, score, findings.BRIGHT.format(of=low[j]))
        start += len(pixels)
    return sorted(found, key=lambda one: -one.score)
