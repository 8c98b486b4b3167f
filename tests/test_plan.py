"""How a plan is made from measured speeds, and how a run is kept within its time."""

import json
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

import eyebright
from eyebright import plan
from eyebright.config import TrainConfig
from eyebright.errors import UsageError
from eyebright.models import MODELS
from eyebright.optim import Schedule
from eyebright.plan import CURVES, EPOCH, Candidate, Pacer, Plan, expected_error, in_time, to_target
from eyebright.run import Run
from eyebright.training import EpochResult

CONFIG = TrainConfig(batch_size=500)
SPEEDS = [("patch48", 0.03), ("wide32", 0.15), ("wide64", 0.43)]


@pytest.mark.parametrize("net", CURVES)
def test_more_training_is_expected_to_help_less_and_less(net: str) -> None:
    assert net in MODELS
    errors = [expected_error(net, EPOCH * epochs) for epochs in (1, 2, 4, 8, 16, 32)]
    gains = -np.diff(errors)
    assert (gains > 0).all()
    assert (np.diff(gains) < 0).all()
    assert expected_error(net, 0) == 0.9


def test_short_runs_get_small_nets_and_long_runs_large_ones() -> None:
    best = []
    for seconds in (10, 60, 180, 600, 7200):
        candidates = in_time(SPEEDS, seconds, CONFIG)
        for candidate, (_, speed) in zip(candidates, SPEEDS, strict=True):
            assert candidate.steps == pytest.approx(seconds / speed, abs=1)
        best.append(max(candidates, key=lambda c: c.expected_accuracy or 0).model)
    order = list(CURVES)
    assert [order.index(name) for name in best] == sorted(order.index(name) for name in best)
    assert best[-1] == order[-1]
    assert best[0] != best[-1]


def test_an_own_net_has_steps_but_no_expectation() -> None:
    assert in_time([("MyNet", 0.5)], 10, CONFIG) == [Candidate("MyNet", 0.5, 20, None)]


def test_a_target_says_how_long_each_net_needs() -> None:
    for target in (0.6, 0.8, 0.85):
        for candidate in to_target(SPEEDS, target, CONFIG, most_steps=10**6):
            if CURVES[candidate.model][0] < 1 - target - 0.02:
                assert candidate.expected_accuracy == pytest.approx(target, abs=0.005)
    [never, *_] = to_target(SPEEDS, 0.999, CONFIG, most_steps=1000)
    assert never.steps == 1000


def result(epoch: int, step: int, seconds: float) -> EpochResult:
    return EpochResult(epoch, step, seconds, 1.0, (), None)


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("slower", "pause"), [(1.0, 0.0), (1.5, 0.0), (0.6, 0.0), (1.0, 0.8), (2.0, 3.0)]
)
def test_a_run_ends_in_time_though_it_is_slower_or_quicker_than_measured(
    slower: float, pause: float
) -> None:
    clock = Clock()
    made = Plan(60.0, None, [], Candidate("white16", 0.1, 590, None))
    schedule = Schedule("linear", total_steps=590)  # measured: 0.1 s each
    with patch.object(time, "monotonic", clock):
        pacer = Pacer(made, clock.now + 60, schedule, steps_per_epoch=40)
        epoch = step = 0
        seconds = 0.0
        while step < schedule.total_steps:
            epoch += 1
            steps = min(40, schedule.total_steps - step)
            step += steps
            seconds += steps * 0.1 * slower
            clock.now += steps * 0.1 * slower + pause
            pacer.epoch_is_over(result(epoch, step, seconds))
    assert clock.now + plan.CLOSING == pytest.approx(160, abs=1.5 + pause)
    assert schedule.share(schedule.total_steps) == 0


def test_a_run_whose_time_is_over_stops() -> None:
    clock = Clock()
    made = Plan(5.0, None, [], Candidate("white16", 0.1, 1000, None))
    schedule = Schedule("linear", total_steps=1000)
    with patch.object(time, "monotonic", clock):
        pacer = Pacer(made, clock.now + 5, schedule, steps_per_epoch=100)
        clock.now += 20
        pacer.epoch_is_over(result(1, 100, 20.0))
    assert made.changes == [(100, 100)]
    assert schedule.total_steps == 100


def test_a_plan_is_replayed_without_a_clock() -> None:
    schedule, replayed = Schedule("linear", 400), Schedule("linear", 400)
    changes = [(100, 380), (200, 390)]
    for step, total in changes:
        schedule.change(step, total)
    for step, total in json.loads(json.dumps(changes)):
        replayed.change(step, total)
    assert [schedule.share(s) for s in range(200, 391)] == [
        replayed.share(s) for s in range(200, 391)
    ]


def test_the_plan_says_what_more_time_would_bring() -> None:
    candidates = in_time(SPEEDS, 180, CONFIG)
    chosen = max(candidates, key=lambda c: c.expected_accuracy or 0)
    made = Plan(180.0, None, candidates, chosen)
    lines = made.closing_lines(0.88, chosen.steps * 500, 178.9)
    assert lines[0] == "178.9 s in all, of the 180 s asked for"
    assert "with twice the time, about" in lines[1]
    gain = float(lines[1].split("about ")[1].split()[0])
    assert 0 < gain < 6
    assert len(made.closing_lines(0.0, 1, 2.0)) == 1  # nothing held out: no forecast


def squares(n: int, seed: int = 0) -> eyebright.Dataset:
    """Bright or dark pictures: a net tells them apart within a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.integers(0, 100, (n, 16, 16, 3)) + 100 * labels[:, None, None, None]
    return eyebright.Dataset(images.astype(np.uint8), labels, ("dark", "bright"), name="squares")


def test_training_in_a_given_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    run = eyebright.train(squares(600), time="4s", runs=tmp_path)
    printed = capsys.readouterr().out
    assert "plan: " in printed
    assert "of the 4 s asked for" in printed
    record = json.loads((run.path / "plan.json").read_text())
    assert record["asked_seconds"] == 4
    assert run.config.time == 4
    assert record["chosen"]["model"] == run.config.model
    assert record["chosen"]["steps"] == run.config.max_steps
    last = run.log()[-1]
    total = record["changes"][-1][1] if record["changes"] else run.config.max_steps
    assert int(last["step"]) == total
    # No promise on a busy machine, but neither endless nor nothing.
    assert 1 < time.monotonic() - start < 60


def test_a_target_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = eyebright.train(squares(600), target=0.9, runs=tmp_path, model="white16")
    printed = capsys.readouterr().out
    assert "target 90.0 % reached: " in printed
    log = run.log()
    assert float(log[-1]["val_accuracy"]) >= 0.9
    assert all(float(row["val_accuracy"]) < 0.9 for row in log[:-1])
    assert isinstance(run, Run)


def test_a_target_that_is_missed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = squares(200)
    shuffled = eyebright.Dataset(
        data.images, np.random.default_rng(0).permutation(data.labels), data.classes, name="noise"
    )
    eyebright.train(shuffled, target=1.0, time="3s", runs=tmp_path, model="white16")
    assert "target 100.0 % not reached" in capsys.readouterr().out


def test_a_target_needs_pictures_held_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="held out"):
        eyebright.train(squares(100), target=0.9, val=0.0, runs=tmp_path)


def test_epochs_that_were_asked_for_are_not_planned(tmp_path: Path) -> None:
    run = eyebright.train(squares(200), target=1.0, epochs=2, runs=tmp_path, model="white16")
    assert len(run.log()) <= 2
    assert not (run.path / "plan.json").exists()


def test_an_own_net_is_trained_in_time_and_to_a_target(tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(16 * 16 * 3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.flatten(1))

    net = Small()
    before = net.last.weight.clone()
    run = eyebright.train(squares(200), model=net, time="2s", runs=tmp_path)
    assert json.loads((run.path / "plan.json").read_text())["chosen"]["model"].endswith("Small")
    assert not torch.equal(net.last.weight, before)
    eyebright.train(squares(200), model=Small(), target=0.8, runs=tmp_path)
