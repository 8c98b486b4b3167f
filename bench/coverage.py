"""How often intervals hold the truth: the guide's drawing, by exact enumeration.

    python -m bench.coverage

Draws ``docs/coverage.png``: for every true share of successes from 0 to 1, how often the 95 %
intervals of Wilson and of Clopper and Pearson hold it.
"""

from pathlib import Path

import numpy as np

from eyebright.metrics import INTERVALS, Floats

PICTURE = Path(__file__).parents[1] / "docs" / "coverage.png"
SIZES = (20, 100)
NAMES = {"wilson": ("Wilson", "#0072b2"), "exact": ("Clopper–Pearson", "#d55e00")}


def coverage(interval: str, n: int, shares: Floats) -> Floats:
    """Probability that the interval of n trials holds the true share, for each of these shares.

    Args:
        interval: a key of `eyebright.metrics.INTERVALS`.
        n: trials.
        shares: true shares of successes, from 0 to 1.
    """
    from scipy.stats import binom

    covered = np.zeros(len(shares))
    for successes in range(n + 1):
        low, high = INTERVALS[interval](successes, n)
        covered += binom.pmf(successes, n, shares) * ((low <= shares) & (shares <= high))
    return covered


def main() -> None:
    """Draw the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shares = np.linspace(0.0005, 0.9995, 2000)
    figure, rows = plt.subplots(2, 1, figsize=(9, 6.2), dpi=110, sharex=True, facecolor="white")
    for axes, n in zip(rows, SIZES, strict=True):
        for interval, (name, colour) in NAMES.items():
            covered = coverage(interval, n, shares)
            label = f"{name}: {100 * covered.mean():.1f} % on average"
            axes.plot(100 * shares, 100 * covered, color=colour, linewidth=1.1, label=label)
        axes.axhline(95, color="#333333", linewidth=0.8, linestyle="--")
        axes.set_ylim(82, 100.4)
        axes.set_title(f"{n} pictures", loc="left", fontsize=11)
        axes.set_ylabel("intervals that hold\nthe true accuracy, %")
        axes.legend(loc="lower center", frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e2e6eb", linewidth=0.8)
    rows[-1].set_xlabel("true accuracy, %")
    figure.tight_layout()
    figure.savefig(PICTURE, facecolor="white")
    print(PICTURE)


if __name__ == "__main__":
    main()
