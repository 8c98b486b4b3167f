"""`Search`: what a search over settings found, as table, CSV and JSON."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from eyebright.console import counted, shown
from eyebright.files import write_file, write_json
from eyebright.study import Trial
from eyebright.verdict import Verdict

TABLE, FIGURES = "trials.csv", "tune.json"


@dataclass(frozen=True)
class Search:
    """What came of a search so far."""

    folder: Path
    """Of the study."""
    recipe: str
    data: str
    metric: str
    settings: dict[str, Any]
    """The recipe's, without those of a machine."""
    given: dict[str, Any]
    """What the user chose, which no trial changes."""
    searched: tuple[str, ...]
    """Names of the settings that trials differ in."""
    pictures: dict[str, int]
    """How many were trained on in a trial, looked at, and kept for the verdict."""
    trials: list[Trial]
    verdict: Verdict | None = None
    """None: there is none yet, or the default won."""
    runs: dict[str, list[str]] = field(default_factory=dict)
    """Run folders of the fresh seeds, of ``default`` and ``winner``."""

    @property
    def default(self) -> Trial | None:
        """The first trial that ended with the recipe's own settings."""
        return next((t for t in self.trials if t.is_default and t.score is not None), None)

    @property
    def winner(self) -> Trial | None:
        """The best trial, the earlier one of two alike; None before there is any."""
        done = [trial for trial in self.trials if trial.score is not None]
        return max(done, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)

    @property
    def best(self) -> list[Trial]:
        """Trials with a figure, the best first."""
        done = [trial for trial in self.trials if trial.score is not None]
        return sorted(done, key=lambda trial: (-(trial.score or 0.0), trial.number))

    def table(self, count: int = 10) -> Table:
        """The best trials, and the default wherever it stands."""
        n = counted(self.pictures["looked at"], "picture")
        caption = f"{self.metric.replace('-', ' ')} on {n} that the search looks at"
        table = Table(caption=f"{caption}: the best of many looks too good")
        for title in ("trial", self.metric.replace("-", " ")):
            table.add_column(title, justify="right")
        for name in self.searched:
            table.add_column(name.replace("_", " "), overflow="fold")
        first = self.best[:count]
        for trial in [*first, *(t for t in self.best[count:] if t is self.default)]:
            name = f"{trial.number}" + " (default)" * trial.is_default
            values = [said(trial.settings.get(key)) for key in self.searched]
            table.add_row(name, f"{100 * (trial.score or 0.0):.2f} %", *values)
        return table

    @property
    def lines(self) -> list[str]:
        """What is to be said of it, in words."""
        states = [trial.state for trial in self.trials]
        counts = [(name, states.count(name)) for name in ("done", "pruned", "failed", "stopped")]
        lines = ["trials: " + ", ".join(f"{n:,} {name}" for name, n in counts if n)]
        if self.winner is not None and self.winner is self.default:
            lines.append("no trial was better than the recipe's own settings: keep them")
        elif self.winner is not None:
            lines.append(f"winner: trial {self.winner.number}, {in_words(self.winner.settings)}")
            lines.append(f"in Python: {shown(self.call)}")
        return lines + (self.verdict.lines if self.verdict else [])

    @property
    def call(self) -> str:
        """What to say in Python to train with the winner's settings; empty without one."""
        if self.winner is None:
            return ""
        said = {"recipe": self.recipe} | self.given | self.winner.settings
        words = ", ".join(f"{key}={value!r}" for key, value in said.items())
        return f"eyebright.train({self.data!r}, {words})"

    def write(self) -> None:
        """Write ``trials.csv`` and ``tune.json`` into the folder of the study.

        Raises:
            StorageError: the disk refuses.
        """
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["trial", "state", "default", "score", "epochs", "seconds", *self.searched])
        for trial in self.trials:
            writer.writerow([
                trial.number, trial.state, int(trial.is_default), shortest(trial.score),
                max(trial.scores, default=0), shortest(trial.seconds and round(trial.seconds, 2)),
                *(shortest(trial.settings.get(name)) for name in self.searched),
            ])  # fmt: skip
        write_file(self.folder / TABLE, text.getvalue().encode())
        write_json(self.folder / FIGURES, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All of it, for programs."""
        winner = self.winner
        return {
            "data": self.data, "recipe": self.recipe, "metric": self.metric,
            "settings": self.settings, "searched": list(self.searched), "pictures": self.pictures,
            "trials": [vars(trial) for trial in self.trials],
            "winner": winner and {"trial": winner.number, "settings": winner.settings},
            "verdict": self.verdict and self.verdict.to_dict(), "runs": self.runs,
        }  # fmt: skip


def shortest(value: Any) -> str:
    """A cell of a CSV file: all digits, and nothing for nothing."""
    return "" if value is None else str(value)


def said(value: Any) -> str:
    """A setting for people."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else shown(value)


def in_words(settings: dict[str, Any]) -> str:
    """Settings for people, in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {said(value)}" for name, value in settings.items())
