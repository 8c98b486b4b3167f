"""`--time` and `--target`: which net to train and for how long, on this machine.

Nets are compared by what they reached on CIFAR-10 (`CURVES`, fitted by ``python -m bench.curves``
to our own races) at the speed that is measured here. On other pictures the figures are others, but
which net is worth its time depends on the pictures that it can see, and that is what they say.
"""

import copy
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from eyebright.batches import HALF
from eyebright.checkpoint import write_json
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.optim import Schedule
from eyebright.training import EpochResult, count_steps, fit, validate

CLOSING = 1.0  # seconds from the last step to the end of the command, without validation
VALIDATED = 500  # pictures
MOST_EPOCHS = 40
NEARLY = 1e-3  # of accuracy: steps are whole numbers

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
    """What was planned and how it went; ``plan.json`` holds it, and a replay needs no clock."""

    asked_seconds: float | None
    target: float | None
    candidates: list[Candidate]
    chosen: Candidate
    changes: list[tuple[int, int]] = field(default_factory=list)
    """(step, steps in all from there on), decided at ends of epochs."""

    def line(self, n: int, config: TrainConfig) -> str:
        """The plan in words, for a training set of n pictures."""
        epochs = self.chosen.steps / count_steps(n, config)
        seconds = self.chosen.steps * self.chosen.step_seconds
        line = f"plan: {self.chosen.model}, {epochs:.1f} epochs in about {seconds:.0f} s"
        expected = self.chosen.expected_accuracy
        if self.target is not None and expected is not None and expected < self.target - NEARLY:
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
        seconds = 2 * pictures * self.chosen.step_seconds
        now = expected_error(self.chosen.model, pictures)
        then = min(expected_error(c.model, seconds / c.step_seconds) for c in known)
        return max(0.0, (1 - score) * (1 - then / now))

    def write(self, folder: Path) -> None:
        """Write ``plan.json`` into the run folder."""
        write_json(folder / "plan.json", asdict(self))


def make_plan(
    nets: Iterable[tuple[str, nn.Module]],
    train_set: Dataset,
    val_set: Dataset | None,
    config: TrainConfig,
    deadline: float | None,
) -> Plan:
    """Measure nets on this machine and choose the one that is expected to be best.

    Args:
        nets: (name, net on its device), the quickest first; more than one only from `CURVES`.
        train_set: a few of its pictures are trained on.
        val_set: which takes its time after each epoch.
        config: has ``time``, ``target`` or both, and all else of the run but net and length.
        deadline: when the command shall be over, of ``time.monotonic``.
    """
    speeds: list[tuple[str, float]] = []
    candidates: list[Candidate] = []
    for name, net in nets:
        pause = 0.0 if val_set is None else measure_validation(net, val_set, config)
        pause_a_step = pause / count_steps(len(train_set), config)
        speeds.append((name, measure(net, train_set, config) + pause_a_step))
        if deadline is not None:
            left = deadline - time.monotonic() - CLOSING - pause
            candidates = in_time(speeds, left, config)
            expected = [c.expected_accuracy or 0 for c in candidates]
            if expected[-1] < max(expected):
                break  # too slow for this time, and the nets that come after it are slower still
    if config.target is not None and all(name in CURVES for name, _ in speeds):
        most = candidates[-1].steps if candidates else MOST_EPOCHS * EPOCH // config.batch_size
        candidates = to_target(speeds, config.target, config, most)
        enough = [c for c in candidates if (c.expected_accuracy or 0) >= config.target - NEARLY]
        chosen = min(enough, key=lambda c: c.steps * c.step_seconds) if enough else candidates[-1]
    else:
        chosen = max(candidates, key=lambda c: c.expected_accuracy or 0)
    return Plan(config.time, config.target, candidates, chosen)


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
        if last.seconds > enough:
            break
    return last.seconds / last.step


def measure_validation(net: nn.Module, val_set: Dataset, config: TrainConfig) -> float:
    """Seconds that one validation takes, from a part of it."""
    few = val_set.subset(range(min(len(val_set), VALIDATED)))
    validate(net, few, HALF, config.tta)  # gets warm
    start = time.perf_counter()
    validate(net, few, HALF, config.tta)
    return (time.perf_counter() - start) * len(val_set) / len(few)


def in_time(
    speeds: Iterable[tuple[str, float]], seconds: float, config: TrainConfig
) -> list[Candidate]:
    """What each net would do in so many seconds of training.

    Args:
        speeds: (net, seconds a step).
        seconds: for all of the training.
        config: says the batch size.
    """
    candidates = []
    for model, step_seconds in speeds:
        steps = max(1, int(seconds / step_seconds))
        known = model in CURVES
        error = expected_error(model, steps * config.batch_size) if known else None
        candidates.append(
            Candidate(model, step_seconds, steps, None if error is None else 1 - error)
        )
    return candidates


def to_target(
    speeds: Iterable[tuple[str, float]], target: float, config: TrainConfig, most_steps: int
) -> list[Candidate]:
    """How many steps each net would need until it reaches an accuracy, as on CIFAR-10.

    Args:
        speeds: (net, seconds a step).
        target: accuracy, from 0 to 1.
        config: says the batch size.
        most_steps: for a net that would never get there.
    """
    candidates = []
    for model, step_seconds in speeds:
        floor, slope, power = CURVES[model]
        room = 1 - target - floor
        epochs = (slope / room) ** (1 / power) if room > 0 else float("inf")
        steps = int(min(most_steps, max(1.0, epochs * EPOCH / config.batch_size)))
        reached = 1 - expected_error(model, steps * config.batch_size)
        candidates.append(Candidate(model, step_seconds, steps, reached))
    return candidates


class Pacer:
    """Keeps a run within its time: at the end of each epoch it changes how many steps are left.

    Args:
        plan: gets each change.
        deadline: when the command shall be over, of ``time.monotonic``.
        schedule: of the run, which is changed.
        steps_per_epoch: of the run.
    """

    def __init__(self, plan: Plan, deadline: float, schedule: Schedule, steps_per_epoch: int):
        self.plan = plan
        self.deadline, self.schedule, self.steps_per_epoch = deadline, schedule, steps_per_epoch
        self._last = (0, 0.0, time.monotonic())  # step, seconds of training, clock

    def epoch_is_over(self, result: EpochResult) -> None:
        """Look at the clock, and change the rest of the run if it would not end in time."""
        now = time.monotonic()
        step, seconds, then = self._last
        self._last = (result.step, result.seconds, now)
        if result.step >= self.schedule.total_steps:
            return
        trained = result.seconds - seconds
        step_seconds = trained / (result.step - step)
        between = (now - then) - trained  # validation and saving, once an epoch
        left = self.deadline - now - CLOSING - between
        steps = max(0, int(left / (step_seconds + between / self.steps_per_epoch)))
        total = result.step + steps
        if total != self.schedule.total_steps:
            self.schedule.change(result.step, total)
            self.plan.changes.append((result.step, total))
