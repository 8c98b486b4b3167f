"""After a search: its winner and the recipe's own settings on fresh seeds, as ordinary runs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eyebright.config import TrainConfig
from eyebright.console import progress_bar, say, shown
from eyebright.data import Dataset
from eyebright.errors import ModelError
from eyebright.evaluation import read_evaluation
from eyebright.files import read_json, write_json
from eyebright.launch import train
from eyebright.run import Run
from eyebright.search import Search
from eyebright.space import is_probe_alone
from eyebright.study import Trial
from eyebright.verdict import Verdict, judge

OF_A_LENGTH = {"epochs", "lr", "max_steps"}  # which a linear probe has not
FINALS = "final.json"


class Finals:
    """The winner and the default on fresh seeds, as ordinary runs; those that are there count."""

    def __init__(
        self,
        search: Search,
        data: Dataset,
        config: TrainConfig,
        seeds: int,
        runs: Path,
        skip_bad: bool,
        quiet: bool,
    ):
        self.search, self.data, self.config, self.runs = search, data, config, runs
        self.seeds = range(
            config.seed + 1, config.seed + 1 + seeds
        )  # the search had the one before
        self.skip_bad, self.quiet = skip_bad, quiet
        self._there = self._read()

    def judged(self) -> Search:
        """The search with its verdict; as it was where the default won."""
        default, winner = self.search.default, self.search.winner
        if default is None or winner is None or winner is default:
            return self.search
        groups = {"default": default, "winner": winner}
        folders: dict[str, list[Path]] = {key: [] for key in groups}
        with progress_bar("fresh seeds", 2 * len(self.seeds), self.quiet) as bar:
            for seed in self.seeds:
                for key, trial in groups.items():
                    folders[key].append(self._run(key, trial, seed))
                    bar.advance()
        found = {key: [read_evaluation(path, "val") for path in folders[key]] for key in groups}
        promised = (winner.score or 0.0) - (default.score or 0.0)
        verdict: Verdict = judge(found["default"], found["winner"], self.config.metric, promised)
        named = {key: [str(path) for path in paths] for key, paths in folders.items()}
        return replace(self.search, verdict=verdict, runs=named)

    def _run(self, key: str, trial: Trial, seed: int) -> Path:
        known = json.dumps([self.data.fingerprint, trial.settings, seed], sort_keys=True)
        name = self._there.get(known)
        if name and (self.runs / name / "val.json").is_file():
            return self.runs / name
        name = f"{self.search.folder.name}-{key}-seed{seed}"
        run = train(
            self.data, recipe=self.config.recipe, name=name,
            runs=self.runs, skip_bad=self.skip_bad, quiet=True, seed=seed,
            **settings_for(self.config, trial.settings),
        )  # fmt: skip
        self._there[known] = run.path.name
        write_json(self.search.folder / FINALS, self._there)
        if not self.quiet:
            figure = Run(run.path).held_out().figures[self.config.metric.replace("-", " ")]
            say(f"{key}, seed {seed}  {figure.percent()}  {shown(run.path)}")
        return run.path

    def _read(self) -> dict[str, str]:
        path = self.search.folder / FINALS
        if not path.exists():
            return {}
        found = read_json(path)
        names = {str(key): str(name) for key, name in found.items()}
        if any(Path(name).name != name for name in names.values()):
            raise ModelError(f"{shown(path)}: not what belongs there")
        return names


def settings_for(config: TrainConfig, chosen: dict[str, Any]) -> dict[str, Any]:
    """What to say to `train`, so that it trains as a trial did."""
    settings = asdict(config.replace(**chosen))
    leave_out = {"recipe", "seed", "max_steps" if not config.max_steps else ""}
    if is_probe_alone(config, chosen):
        leave_out |= OF_A_LENGTH
    return {k: v for k, v in settings.items() if k not in leave_out and v is not None}
