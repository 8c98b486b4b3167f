"""`compare`: which of several runs is better, on the very same pictures, and how sure that is."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from eyebright import metrics
from eyebright.console import counted, shown
from eyebright.errors import DataError, UsageError
from eyebright.evaluation import Evaluation
from eyebright.metrics import Figure
from eyebright.nearby import runs_there
from eyebright.paired import mcnemar, mean_accuracy, mean_difference, paired_difference
from eyebright.records import read_evaluation
from eyebright.run import Run


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: tuple[str, ...]
    right: NDArray[np.bool_]
    """(seeds, pictures)."""
    predictions: NDArray[np.int64]
    """(seeds, pictures)."""
    tta: str
    """Test-time averaging that its figures include."""

    @property
    def counts(self) -> str:
        """What the interval of its accuracy counts."""
        return "pictures" if len(self.right) == 1 else "seeds and pictures"

    @property
    def title(self) -> str:
        """Its name, and whether its predictions are averaged."""
        return shown(self.name) + (", with mirror images" if self.tta == "mirror" else "")

    @cached_property
    def accuracy(self) -> Figure:
        """With an interval over pictures (one seed) or over seeds and pictures (several)."""
        if len(self.right) == 1:
            return metrics.proportion(int(self.right.sum()), self.right.shape[1])
        return mean_accuracy(self.right)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracy between seeds; None for one seed."""
        return float(self.right.mean(1).std(ddof=1)) if len(self.right) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Several groups of runs on the same pictures, each compared with the first."""

    split: str
    classes: tuple[str, ...]
    ids: list[str]
    labels: NDArray[np.int64]
    groups: tuple[Group, ...]

    def difference(self, group: Group) -> Figure:
        """Accuracy of a group minus that of the first."""
        first = self.groups[0]
        if len(group.right) == len(first.right) == 1:
            only_group, only_first = self.discordant(group)
            return paired_difference(len(only_group), len(only_first), len(self.labels))
        return mean_difference(group.right, first.right)

    def discordant(self, group: Group) -> tuple[list[int], list[int]]:
        """Positions of pictures that a group alone gets right, and the first group alone.

        With several seeds: that most of the one's seeds get right, and most of the other's wrong.
        """
        here, there = group.right.mean(0) > 0.5, self.groups[0].right.mean(0) > 0.5
        return np.flatnonzero(here & ~there).tolist(), np.flatnonzero(there & ~here).tolist()

    def tests(self, group: Group) -> tuple[float, float] | None:
        """McNemar's exact p and mid-p against the first group; None with several seeds."""
        if len(group.right) > 1 or len(self.groups[0].right) > 1:
            return None
        only_group, only_first = self.discordant(group)
        return mcnemar(len(only_group), len(only_first))

    def table(self) -> Table:
        """Accuracy of each group and its difference from the first, in percent and points."""
        several = any(len(group.right) > 1 for group in self.groups)
        tested = any(map(self.tests, self.groups[1:]))
        counts = "seeds and pictures" if several else "pictures"
        if several and any(len(group.right) == 1 for group in self.groups):
            counts += " (the accuracy of a single run: pictures alone)"
        caption = (
            f"{counted(len(self.labels), f'{self.split} picture')}; in brackets: 95 % intervals "
            f"that count {counts}"
        )
        if any(len(group.right) == 2 for group in self.groups):
            caption += "; with two seeds they hold the truth in about 87 of 100 cases only"
        table = Table(caption=caption)
        titles = ["accuracy", *["± between seeds"] * several]
        titles += ["difference, points", *["p", "mid-p"] * tested] * (len(self.groups) > 1)
        table.add_column("run", overflow="fold")
        for title in titles:
            table.add_column(title, justify="right")  # may wrap, so that 80 columns are enough
        for i, group in enumerate(self.groups):
            row = [group.title, group.accuracy.percent()]
            if several:
                row.append("–" if group.spread is None else f"{100 * group.spread:.2f}")
            if i:
                row.append(in_points(self.difference(group)))
                row += [f"{p:.2g}" for p in self.tests(group) or ()]
            table.add_row(*row)
        return table

    def lines(self, count: int) -> list[str]:
        """For each group but the first: what it and the first disagree on.

        Args:
            count: how many pictures to name of each kind.
        """
        lines = []
        first = self.groups[0]
        for group in self.groups[1:]:
            for better, worse, which in zip(
                (group, first), (first, group), self.discordant(group), strict=True
            ):
                lines.append(
                    f"right by {shown(better.name)} alone: {counted(len(which), 'picture')}"
                    + (":" if which and count else "")
                )
                lines += [
                    f"  {shown(self.ids[i])}: {shown(self.classes[self.labels[i]])}, not "
                    f"{shown(self.classes[most_said(worse.predictions[:, i])])}"
                    for i in which[:count]
                ]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All figures, for programs."""
        groups = []
        for i, group in enumerate(self.groups):
            found: dict[str, Any] = {
                "name": group.name,
                "runs": list(group.runs),
                "accuracy": asdict(group.accuracy),
                "interval_counts": group.counts,
                "tta": group.tta,
                "deviation_between_seeds": group.spread,
            }
            if i:
                only_group, only_first = self.discordant(group)
                tests = self.tests(group)
                either = max((group, self.groups[0]), key=lambda g: len(g.right))
                found["difference_from_first"] = asdict(self.difference(group))
                found["difference_interval_counts"] = either.counts
                found["mcnemar"] = tests and {"exact_p": tests[0], "mid_p": tests[1]}
                found["right_alone"] = [self.ids[i] for i in only_group]
                found["first_right_alone"] = [self.ids[i] for i in only_first]
            groups.append(found)
        return {"split": self.split, "n": len(self.labels), "groups": groups}


def in_points(figure: Figure) -> str:
    """A difference such as ``+1.20 (+0.40 to +2.00)``, in percentage points."""
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(
        *(100 * (x or 0.0) for x in (figure.value, figure.low, figure.high))
    )


def most_said(predictions: NDArray[np.int64]) -> int:
    """What most seeds say of a picture."""
    return int(np.bincount(predictions).argmax())


def compare(runs: Sequence[str | os.PathLike[str]], split: str | None = None) -> Comparison:
    """Compare runs on the pictures that each has been evaluated on.

    Runs that differ in their seed and in nothing else are put together.

    Args:
        runs: run folders, two or more.
        split: ``test`` or ``val``; None: test if all of them have been tested, else val.

    Raises:
        UsageError: fewer than two runs, one of them twice, or no such split.
        DataError: runs that were evaluated on different pictures, or not at all.
        ModelError: no run, or damaged files.
    """
    if len(runs) < 2:
        raise UsageError(f"compare needs two runs or more; {runs_there()}")
    if split not in (None, "val", "test"):
        raise UsageError(f"--split cannot be '{split}'; choose one of: test, val")
    opened = [Run(path) for path in runs]
    folders = [run.path.resolve() for run in opened]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise UsageError(f"{shown(runs[i])} is named twice: compare needs different runs")
    if split is None:
        tested = all((run.path / "predictions-test.csv").is_file() for run in opened)
        split = "test" if tested else "val"
    for run in opened:
        if not (run.path / f"predictions-{split}.csv").is_file():
            raise DataError(
                f"{shown(run.path)}: not evaluated on {split} pictures; first: "
                f"eyebright {split} {shown(run.path)}"
            )
    found = [read_evaluation(run.path, split) for run in opened]
    first = found[0]
    places = {name: i for i, name in enumerate(map(str, first.ids))}
    aligned = [align(first, other, places, opened[i].path) for i, other in enumerate(found)]
    groups: dict[tuple[str, int], list[int]] = {}
    seen: Counter[tuple[str, int]] = Counter()  # a seed that comes again is no further seed
    for i, run in enumerate(opened):
        config = run.config
        kind = json.dumps([config.replace(seed=0).to_json(), run.data_record["fingerprint"]])
        groups.setdefault((kind, seen[kind, config.seed]), []).append(i)
        seen[kind, config.seed] += 1
    return Comparison(
        split=split,
        classes=first.classes,
        ids=[str(name) for name in first.ids],
        labels=first.labels,
        groups=tuple(
            Group(
                name=name_of([opened[i].path for i in members]),
                runs=tuple(str(opened[i].path) for i in members),
                right=np.stack([aligned[i] == first.labels for i in members]),
                predictions=np.stack([aligned[i] for i in members]),
                tta=found[members[0]].tta,
            )
            for members in groups.values()
        ),
    )


def name_of(paths: list[Path]) -> str:
    """What to call a group: the name of its run, and without the seed where there are several."""
    if len(paths) == 1:
        return paths[0].name
    return re.sub(r"-seed\d+(-\d+)?$", "", paths[0].name) + f" ({len(paths)} seeds)"


def align(
    first: Evaluation, other: Evaluation, places: dict[str, int], path: Path
) -> NDArray[np.int64]:
    """Predictions of another evaluation in the first one's order and classes.

    Raises:
        DataError: other pictures, labels or classes.
    """
    if set(other.classes) != set(first.classes):
        raise DataError(f"{shown(path)}: other classes than the first run")
    order = np.array([places.get(str(name), -1) for name in other.ids])
    if len(order) != len(first.ids) or len(set(order.tolist())) != len(order) or (order < 0).any():
        raise DataError(f"{shown(path)}: evaluated on other pictures than the first run")
    numbers = np.array([first.classes.index(name) for name in other.classes])
    labels, predictions = np.empty_like(other.labels), np.empty_like(other.labels)
    labels[order], predictions[order] = numbers[other.labels], numbers[other.predictions]
    if (labels != first.labels).any():
        raise DataError(f"{shown(path)}: some pictures have other labels than in the first run")
    return predictions
