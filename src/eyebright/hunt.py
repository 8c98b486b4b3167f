"""The trials of a search: settings drawn, nets trained and forgotten, the clock kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eyebright import metrics
from eyebright.config import TrainConfig
from eyebright.console import Bar, progress_bar, say
from eyebright.data import Dataset
from eyebright.errors import NumbersError, StorageError, UsageError
from eyebright.memory import advice
from eyebright.plan import CLOSING
from eyebright.prepare import prepare_net
from eyebright.pretrained import find_weights
from eyebright.probe import probe_epoch
from eyebright.runtime import choose_device, explained, set_up
from eyebright.search import in_words
from eyebright.space import Range, own_settings, suggest
from eyebright.study import OutOfTimeError, Study, Trial
from eyebright.training import EpochResult, fit

WAIT = 0.5  # seconds between looks at trials of others


@dataclass(frozen=True)
class Parts:
    """The pictures, and who may see which."""

    data: Dataset
    """All, as `train` gets them: fresh seeds are judged on what is held out of these."""
    searched: Dataset
    """Those that are left for the search."""
    train_set: Dataset
    """What trials are trained on."""
    val_set: Dataset
    """What they are compared by."""
    kept: int
    """Pictures that the search never sees."""


class Hunt:
    """The search itself: trials until there are enough, or there is no time for another."""

    def __init__(
        self,
        study: Study,
        parts: Parts,
        config: TrainConfig,
        space: dict[str, Range],
        trials: int,
        seeds: int,
        started: float,
        limit: float | None,
        quiet: bool,
    ):
        self.study, self.parts, self.config, self.space = study, parts, config, space
        self.most, self.seeds, self.started, self.limit = trials, seeds, started, limit
        self.quiet = quiet
        self._end: float | None = None  # of the search, once it is known how long runs take

    def search(self) -> None:
        """Go on until the trials are over, those of others too.

        Raises:
            NumbersError: the recipe's own settings cannot be trained.
            UsageError: there is no time for a search.
        """
        if self.limit is not None and not self.config.probe:
            # What a process does once, such as compiling, would count as time of every run.
            best_epoch(self.config.replace(max_steps=2), self.parts, lambda *_: None)
        with progress_bar("trials", self.most, self.quiet) as bar:
            while True:
                known = self.study.trials()
                self._look(known, bar)
                defaults = [t for t in known if t.is_default and t.state != "stopped"]
                default_over = any(t.is_over for t in defaults)
                over = sum(t.is_over for t in known)
                running = sum(t.state == "running" for t in known)
                if over >= self.most and default_over:
                    return
                if default_over and self._is_late(known):
                    return
                if defaults and over + running >= self.most:
                    bar.update(over, f"waiting for {running} of other processes")
                    time.sleep(WAIT)  # others are at the last ones, or are dead
                    continue
                trial = self.study.run_one(self.most, self._suggest, self._train)
                if trial is not None and not self.quiet:
                    say(self._line(trial))

    def _look(self, known: list[Trial], bar: Bar) -> None:
        failed = next((t for t in known if t.is_default and t.state == "failed"), None)
        if failed is not None:
            raise NumbersError(f"trial {failed.number}, the recipe's own settings: {failed.why}")
        best = max((t.score for t in known if t.score is not None), default=None)
        info = "" if best is None else f"best {100 * best:.2f} %"
        bar.update(sum(t.is_over for t in known), info)

    def _is_late(self, known: list[Trial]) -> bool:
        """Whether no time is left for another trial; from now on, running ones know the end too."""
        if self.limit is None:
            return False
        done = [t for t in known if t.score is not None and t.seconds]
        spent = [t.seconds or 0.0 for t in known if t.is_over and t.seconds]
        if not done:
            return False
        default = next((t for t in done if t.is_default), done[0])
        best = max(done, key=lambda t: t.score or 0.0)
        longer = len(self.parts.data) / len(self.parts.searched)
        of_both = longer * ((default.seconds or 0.0) + (best.seconds or 0.0)) + 2 * CLOSING
        set_aside = self.seeds * of_both + CLOSING
        self._end = self.started + self.limit - set_aside
        usual = sum(spent) / len(spent)
        late = time.monotonic() + usual > self._end
        if late and len(spent) == 1:
            least = math.ceil(time.monotonic() - self.started + usual + set_aside)
            raise UsageError(
                f"--time: {self.limit:.0f} s are too short here, {least} s the least: the "
                f"default took {usual:.0f} s, and two times {self.seeds} fresh seeds come after "
                "the search; lower --seeds or --epochs. The study is kept"
            )
        return late

    def _suggest(self, trial: Any) -> dict[str, Any]:
        parts = self.parts
        return suggest(trial, self.config, self.space, len(parts.train_set), parts.data.mirrors)

    def _train(self, settings: dict[str, Any], tell: Callable[[int, float], None]) -> float:
        """Train with these settings; nothing of the net is kept."""
        config = self.config.replace(**settings)
        is_first = settings == own_settings(self.config, self.space)

        def told(epoch: int, score: float) -> None:
            tell(epoch, score)
            if self._end is not None and not is_first and time.monotonic() > self._end:
                raise OutOfTimeError

        try:
            return best_epoch(config, self.parts, told)
        except StorageError as error:  # no memory for such batches
            if is_first:
                raise
            raise NumbersError(str(error)) from None

    def _line(self, trial: Trial) -> str:
        best = max((t.score for t in self.study.trials() if t.score is not None), default=0.0)
        came = {"done": f"{100 * (trial.score or 0.0):.2f} %", "failed": f"failed ({trial.why})"}
        said = came.get(trial.state, trial.state)
        whose = "the recipe's own" if trial.is_default else in_words(trial.settings)
        return f"trial {trial.number:2d}  {said}  (best {100 * best:.2f} %)  {whose}"


def best_epoch(config: TrainConfig, parts: Parts, tell: Callable[[int, float], None]) -> float:
    """Train a net and forget it.

    Args:
        config: with nothing left to "auto".
        parts: what to train on, and to look at after each epoch.
        tell: told the figure of each epoch; may raise to end it.

    Returns:
        The best figure on the pictures looked at.
    """

    def score_of(result: EpochResult) -> float:
        assert result.val_confusion is not None, "there are pictures to look at"
        if config.metric == "balanced-accuracy":
            return metrics.balanced_accuracy(result.val_confusion)
        return metrics.accuracy(result.val_confusion).value or 0.0

    scores = []
    with explained(lambda: advice(config)):
        set_up(choose_device(config.device), config.threads, config.seed, config.deterministic)
        weights = find_weights(config, parts.data.imgsz)
        if weights:
            config = config.replace(model=weights.model)
        net, normalization = prepare_net(None, config, parts.searched, parts.train_set, weights)
        both = parts.train_set, parts.val_set
        if config.probe:
            probe = probe_epoch(net, *both, config, normalization, lambda _: None)
            scores.append(score_of(probe))
            tell(probe.epoch, scores[-1])
        if config.tune != "none":
            for result in fit(net, *both, config, normalization, None):
                scores.append(score_of(result))
                tell(result.epoch, scores[-1])
    return max(scores)
