"""`--time` and `--target`: which net to train and for how long, on this machine.

Nets are compared by what they reached on CIFAR-10 (`CURVES`, fitted by ``python -m bench.curves``
to our own races) at the speed that is measured here. On other pictures the figures are others, but
which net is worth its time depends on the pictures that it can see, and that is what they say.
"""

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from eyebright import distributed
from eyebright.batches import HALF
from eyebright.config import TrainConfig
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.errors import ModelError, UsageError
from eyebright.files import count, number, read_json, write_json
from eyebright.measuring import steps_to_measure
from eyebright.training import count_steps, fit, validate

FILE = "plan.json"
CLOSING = 2.0  # seconds from the last step to the end of the command: report, exit; not validation
SETTING_UP = 0.5  # seconds from the plan to the first step
FEWEST_STEPS = 20  # in less time than they take nothing is learned
VALIDATED = 500  # pictures, to see how long all of them take
MARGIN = 0.01  # of accuracy, by which a target is to be passed: forecasts are off, either way
MOST_EPOCHS, MOST_STEPS = 40, 3000  # towards a target that is never reached; the larger counts

# net -> (floor, slope, power): test error = floor + slope * epochs ** -power, on CIFAR-10
CURVES: dict[str, tuple[float, float, float]] = {
    "patch48": (0.129, 0.164, 0.55),
    "wide32": (0.099, 0.129, 0.85),
    "wide64": (0.045, 0.186, 0.50),
}
EPOCH = 50_000  # pictures, of the curves


def expected_error(net: str, pictures: float) -> float:
    """Share of CIFAR-10's test pictures that a net gets wrong.

    Args:
        net: a key of `CURVES`.
        pictures: that it saw in training, counted each time.
    """
    floor, slope, power = CURVES[net]
    return min(0.9, floor + slope * float((max(pictures, 1.0) / EPOCH) ** -power))


@dataclass(frozen=True)
class Candidate:
    """A net as it would do in the time there is."""

    model: str
    step_seconds: float
    """Of one mini-batch, measured."""
    steps: int
    """That there is time for, or that are needed."""
    expected_accuracy: float | None
    """On CIFAR-10; None for a net that no curve is known of."""


@dataclass
class Plan:
    """What was planned and how it went; ``plan.json`` holds it."""

    asked_seconds: float | None
    target: float | None
    candidates: list[Candidate]
    chosen: Candidate
    changes: list[tuple[int, int]] = field(default_factory=list)
    """(step, steps in all from there on), decided on the way."""

    def line(self, n: int, config: TrainConfig) -> str:
        """The plan in words, for a training set of n pictures."""
        epochs = self.chosen.steps / count_steps(n, config)
        seconds = self.chosen.steps * self.chosen.step_seconds
        line = f"plan: {self.chosen.model}, {epochs:.1f} epochs in about {seconds:.0f} s"
        expected = self.chosen.expected_accuracy
        if self.target is not None and expected is not None and expected < self.target:
            line += f"; {100 * self.target:.1f} % is more than it is likely to reach"
        return line

    def closing_lines(self, score: float, pictures: int, seconds: float) -> list[str]:
        """What came of it, and what more time would likely bring.

        Args:
            score: on the pictures held out, from 0 to 1; 0 if there are none.
            pictures: seen in training, counted each time.
            seconds: of the whole command so far.
        """
        lines = []
        if self.asked_seconds is not None:
            lines.append(f"{seconds:.1f} s in all, of the {self.asked_seconds:.0f} s asked for")
            gain = self._gain_of_twice_the_time(score, pictures)
            if gain:
                lines.append(
                    f"with twice the time, about {100 * gain:.1f} points more are likely "
                    "(by our own races on CIFAR-10)"
                )
        return lines

    def _gain_of_twice_the_time(self, score: float, pictures: int) -> float:
        """Points of accuracy, from 0 to 1, if errors shrink as they do on CIFAR-10."""
        known = [c for c in self.candidates if c.model in CURVES]
        if not known or not score or self.chosen.model not in CURVES:
            return 0.0
        now = expected_error(self.chosen.model, pictures)
        twice = [2 * pictures * self.chosen.step_seconds / c.step_seconds for c in known]
        then = min(expected_error(c.model, p) for c, p in zip(known, twice, strict=True))
        return max(0.0, (1 - score) * (1 - then / now))

    def write(self, folder: Path) -> None:
        """Write ``plan.json`` into the run folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """What `write` wrote.

        Raises:
            ModelError: damaged.
        """
        record = read_json(folder / FILE)
        try:
            return cls(
                _number_or_none(record["asked_seconds"]),
                _number_or_none(record["target"]),
                [_read_candidate(one) for one in record["candidates"]],
                _read_candidate(record["chosen"]),
                [(count(step), count(total)) for step, total in record["changes"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{shown(folder / FILE)}: no plan ({error})") from None


def _read_candidate(record: dict[str, Any]) -> Candidate:
    seconds, model = number(record["step_seconds"]), record["model"]
    if seconds <= 0 or not isinstance(model, str):
        raise ValueError("a candidate")
    expected = _number_or_none(record["expected_accuracy"])
    return Candidate(model, seconds, count(record["steps"]), expected)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else number(value)


def make_plan(
    nets: Iterable[tuple[str, nn.Module]],
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    started: float,
) -> Plan:
    """Measure nets on this machine and choose the one that is expected to be best.

    Args:
        nets: (name, net on its device), the quickest first; more than one only from `CURVES`.
        train_set: a few of its pictures are trained on.
        val_set: which takes its time after each epoch.
        config: has ``time``, ``target`` or both, and all else of the run but net and length.
        started: when the clock began to run, of ``time.monotonic``.

    Raises:
        UsageError: the time is over before anything could be learned.
    """
    steps_per_epoch = count_steps(len(train_set), config)
    candidates: list[Candidate] = []
    for name, net in nets:
        pause = 0.0 if val_set is None else measure_validation(net, val_set, config)
        step_seconds = measure(net, train_set, config) + pause / steps_per_epoch
        most = max(MOST_EPOCHS * steps_per_epoch, MOST_STEPS)
        if config.time is not None:
            spent = time.monotonic() - started + SETTING_UP + CLOSING + pause
            spent = distributed.told(spent)
            most = int((config.time - spent) / step_seconds)
            most -= math.ceil(steps_to_measure(most, config.batch_size))
            if not candidates and most < FEWEST_STEPS:
                needed = math.ceil(spent + FEWEST_STEPS * step_seconds)
                raise UsageError(
                    f"--time: {config.time:g} s are too short here, {needed} s the least"
                )
        if most < 1:
            break
        candidates.append(create_candidate(name, step_seconds, most, config))
        expected = [c.expected_accuracy or 0.0 for c in candidates]
        if config.time is not None and expected[-1] < max(expected):
            break  # too slow for this time, and the nets that come after it are slower still
    return Plan(config.time, config.target, candidates, choose(candidates, config.target))


def create_candidate(
    model: str, step_seconds: float, most_steps: int, config: TrainConfig
) -> Candidate:
    """What a net would do: train until it is likely to be past the target, or as long as it may.

    Args:
        model: a key of `CURVES`, or a name that no curve is known of.
        step_seconds: of one mini-batch.
        most_steps: that there is time for.
        config: says the batch size and the target.
    """
    if model not in CURVES:
        return Candidate(model, step_seconds, most_steps, None)
    steps = most_steps
    if config.target is not None:
        floor, slope, power = CURVES[model]
        room = 1 - (config.target + MARGIN) - floor
        if room > 0:
            epochs = (slope / room) ** (1 / power)
            steps = min(most_steps, math.ceil(epochs * EPOCH / config.batch_size))
    expected = 1 - expected_error(model, steps * config.batch_size)
    return Candidate(model, step_seconds, steps, expected)


def choose(candidates: list[Candidate], target: float | None) -> Candidate:
    """The quickest of those that are likely to reach the target; otherwise the most accurate."""
    enough = [c for c in candidates if target and (c.expected_accuracy or 0.0) >= target]
    if enough:
        return min(enough, key=lambda c: c.steps * c.step_seconds)
    return max(candidates, key=lambda c: c.expected_accuracy or 0.0)


def measure(net: nn.Module, train_set: Dataset, config: TrainConfig) -> float:
    """Seconds of a mini-batch, from a few steps of a copy of the net.

    Args:
        net: on its device; it is not changed.
        train_set: a few of its pictures are taken.
        config: of the run.
    """
    few = train_set.subset(range(min(len(train_set), config.batch_size * 4)))
    trial = copy.deepcopy(net)
    for steps, enough in ((2, 3.0), (4, 0.5), (12, 0.0)):  # the first ones only get warm
        *_, last = fit(trial, few, None, config.replace(max_steps=steps), HALF, None)
        if distributed.told(last.seconds > enough):
            break
    return distributed.told(last.seconds / last.step)


def measure_validation(net: nn.Module, val_set: Dataset, config: TrainConfig) -> float:
    """Seconds that one validation takes, from a part of it."""
    few = val_set.subset(range(min(len(val_set), VALIDATED)))
    validate(net, few, HALF, config.tta)  # gets warm
    start = time.perf_counter()
    validate(net, few, HALF, config.tta)
    return distributed.told((time.perf_counter() - start) * len(val_set) / len(few))
