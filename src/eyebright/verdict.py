"""Whether a search helped: the winner and the recipe's own settings on fresh seeds."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.compare import in_points
from eyebright.console import counted
from eyebright.evaluation import Evaluation
from eyebright.metrics import Figure
from eyebright.paired import mean_difference, paired_difference

HELPED, WORSE, NO_GAIN = "search helped", "search did harm", "no gain that stands out from chance"


@dataclass(frozen=True)
class Verdict:
    """The winner beside the default, each trained on the same fresh seeds."""

    metric: str
    default: tuple[float, ...]
    """The figure of each seed, on pictures that the search never looked at."""
    winner: tuple[float, ...]
    """Of the same seeds."""
    difference: Figure
    """Winner minus default, with a 95 % interval; n is pictures."""
    counts: str
    """What that interval counts."""
    over_seeds: Figure | None
    """The same with Student's paired interval over seeds alone, on these very pictures; n is seeds.
    None for one seed."""
    promised: float
    """By how much the winner was ahead in the search, where the best of many was chosen."""

    @property
    def says(self) -> str:
        """One of `HELPED`, `WORSE` and `NO_GAIN`."""
        if self.difference.low is not None and self.difference.low > 0:
            return HELPED
        if self.difference.high is not None and self.difference.high < 0:
            return WORSE
        return NO_GAIN

    @property
    def lines(self) -> list[str]:
        """In words."""
        n, seeds = self.difference.n, len(self.default)
        lines = [
            f"{self.says}: {points(self.difference)} points of {self.metric}, the winner against "
            f"the default on {counted(seeds, 'fresh seed')} and {counted(n, 'picture')} that the "
            f"search never looked at; the 95 % interval counts {self.counts}"
        ]
        if self.difference.low is None:
            lines = [f"{points(self.difference)} points, from one seed: no interval, so no verdict"]
        if self.over_seeds is not None and self.counts != "seeds":
            lines.append(
                f"on these very pictures, counting seeds alone: {in_points(self.over_seeds)} points"
            )
        lines.append(
            f"in the search the winner was {100 * self.promised:+.2f} points ahead: the best of "
            "many trials is partly luck, so believe the fresh seeds"
        )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"says": self.says}


def judge(
    default: list[Evaluation], winner: list[Evaluation], metric: str, promised: float
) -> Verdict:
    """Compare two settings on the same seeds and pictures.

    For accuracy the interval counts both seeds and pictures (`mean_difference`), because both would
    be others next time; for balanced accuracy it is Student's paired interval over seeds.

    Args:
        default: an evaluation for each seed.
        winner: of the same seeds and pictures, in the same order.
        metric: ``accuracy`` or ``balanced-accuracy``.
        promised: by how much the winner was ahead in the search.
    """
    name = metric.replace("-", " ")
    a, b = (
        np.array([one.figures[name].value or 0.0 for one in group]) for group in (default, winner)
    )
    over_seeds = paired_over_seeds(b - a)
    right_a, right_b = (np.stack([one.right for one in group]) for group in (default, winner))
    if metric == "accuracy" and len(a) == 1:
        only_b, only_a = int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum())
        difference = paired_difference(only_b, only_a, right_a.shape[1])
        counts = "pictures"
    elif metric == "accuracy":
        difference, counts = mean_difference(right_b, right_a), "seeds and pictures"
    else:
        n = right_a.shape[1]
        ends = (None, None) if over_seeds is None else (over_seeds.low, over_seeds.high)
        difference, counts = Figure(float((b - a).mean()), n, *ends), "seeds"
    return Verdict(
        name, tuple(map(float, a)), tuple(map(float, b)), difference, counts,
        over_seeds, promised,
    )  # fmt: skip


def points(figure: Figure) -> str:
    """A difference in percentage points, with its interval where there is one."""
    if figure.low is None:
        return f"{100 * (figure.value or 0.0):+.2f}"
    return in_points(figure)


def paired_over_seeds(differences: NDArray[np.float64]) -> Figure | None:
    """Mean of the differences of each seed, with Student's 95 % interval; None for one seed.

    Args:
        differences: (seeds,).
    """
    from scipy.stats import t

    seeds = len(differences)
    if seeds < 2:
        return None
    mean = float(differences.mean())
    spread = float(t.ppf(0.975, seeds - 1) * differences.std(ddof=1)) / math.sqrt(seeds)
    return Figure(mean, seeds, mean - spread, mean + spread)
