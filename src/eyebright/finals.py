"""After a search: its winner and the recipe's own settings on fresh seeds, as ordinary runs."""

import json
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from eyebright.config import TrainConfig
from eyebright.console import progress_bar, say, shown
from eyebright.data import Dataset
from eyebright.errors import ModelError
from eyebright.files import read_json, write_json
from eyebright.launch import train
from eyebright.records import read_evaluation
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
        first = config.seed + 1  # the search had the one before
        self.seeds = range(first, first + seeds)
        self.skip_bad, self.quiet = skip_bad, quiet
        self._there = self._read()

    def judged(self) -> Search:
        """The search with its verdict; as it was where the default won."""
        groups = self._groups()
        if not groups:
            return self.search
        folders: dict[str, list[Path]] = {key: [] for key in groups}
        with progress_bar("fresh seeds", 2 * len(self.seeds), self.quiet) as bar:
            for seed in self.seeds:
                for key, trial in groups.items():
                    path = self._trained(trial, seed) or self._train(key, trial, seed)
                    folders[key].append(path)
                    bar.advance()
        return self._with_verdict(groups, folders)

    def judged_before(self) -> Search:
        """The search with its verdict, if all runs for it are there; none is trained.

        Where no seeds are asked for, those from the first one on count that are there.
        """
        groups = self._groups()
        folders: dict[str, list[Path]] = {key: [] for key in groups}
        for seed in self.seeds or count(self.seeds.start):
            there = {key: self._trained(trial, seed) for key, trial in groups.items()}
            found = {key: path for key, path in there.items() if path is not None}
            if not found or len(found) < len(groups):
                break
            for key, path in found.items():
                folders[key].append(path)
        seeds = min(map(len, folders.values()), default=0)
        if not seeds or seeds < len(self.seeds):
            return self.search
        return self._with_verdict(groups, folders)

    def _groups(self) -> dict[str, Trial]:
        """What is to be compared; nothing, where the default won."""
        default, winner = self.search.default, self.search.winner
        if default is None or winner is None or winner is default:
            return {}
        return {"default": default, "winner": winner}

    def _with_verdict(self, groups: dict[str, Trial], folders: dict[str, list[Path]]) -> Search:
        found = {key: [read_evaluation(path, "val") for path in folders[key]] for key in groups}
        promised = (groups["winner"].score or 0.0) - (groups["default"].score or 0.0)
        verdict: Verdict = judge(found["default"], found["winner"], self.config.metric, promised)
        named = {key: [str(path) for path in paths] for key, paths in folders.items()}
        return replace(self.search, verdict=verdict, runs=named)

    def _key(self, trial: Trial, seed: int) -> str:
        return json.dumps([self.data.fingerprint, trial.settings, seed], sort_keys=True)

    def _trained(self, trial: Trial, seed: int) -> Path | None:
        """The run of a seed, if it is there."""
        name = self._there.get(self._key(trial, seed))
        return self.runs / name if name and (self.runs / name / "val.json").is_file() else None

    def _train(self, key: str, trial: Trial, seed: int) -> Path:
        name = f"{self.search.folder.name}-{key}-seed{seed}"
        run = train(
            self.data, recipe=self.config.recipe, name=name,
            runs=self.runs, skip_bad=self.skip_bad, quiet=True, seed=seed,
            **settings_for(self.config, trial.settings),
        )  # fmt: skip
        self._there[self._key(trial, seed)] = run.path.name
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
