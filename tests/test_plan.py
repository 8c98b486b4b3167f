"""How a plan is made from measured speeds, and how a run is kept within its time."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

import eyebright
from eyebright import measuring, plan
from eyebright.config import TrainConfig
from eyebright.errors import UsageError
from eyebright.models import MODELS
from eyebright.optim import Schedule
from eyebright.pacer import Pacer
from eyebright.plan import CURVES, EPOCH, Candidate, Plan, expected_error, make_plan
from eyebright.run import Run
from eyebright.training import EpochResult, Position

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


def planned(
    time_: float | None,
    target: float | None,
    speeds: list[tuple[str, float]] = SPEEDS,
    n: int = EPOCH,
) -> Plan:
    """What would be planned where nets are so quick, 3 s after the start."""
    config = CONFIG.replace(time=time_, target=target)
    train_set, net = squares(n, side=4), nn.Identity()
    speed_of = iter(speeds)
    with patch.object(plan, "measure", lambda *_: next(speed_of)[1]):
        nets = [(name, net) for name, _ in speeds]
        return make_plan(nets, train_set, None, config, time.monotonic() - 3)


def test_short_runs_get_small_nets_and_long_runs_large_ones() -> None:
    best = []
    for seconds in (10, 60, 180, 600, 7200):
        made = planned(seconds, None)
        for candidate in made.candidates:
            speed = dict(SPEEDS)[candidate.model]
            room = seconds - 3 - plan.SETTING_UP - plan.CLOSING
            steps = room / speed
            steps -= measuring.steps_to_measure(int(steps), CONFIG.batch_size)
            assert candidate.steps == pytest.approx(steps, abs=2)
        best.append(made.chosen.model)
    order = list(CURVES)
    assert [order.index(name) for name in best] == sorted(order.index(name) for name in best)
    assert best[-1] == order[-1]
    assert best[0] != best[-1]


def test_nets_that_are_too_slow_are_not_all_measured() -> None:
    assert [c.model for c in planned(10, None).candidates] == ["patch48", "wide32"]


def test_a_time_that_is_too_short_is_refused_with_one_that_is_not() -> None:
    with pytest.raises(UsageError, match=r"4 s are too short here, 7 s the least"):
        planned(4, None)
    assert planned(7, None).chosen.steps >= plan.FEWEST_STEPS


def test_an_own_net_has_steps_but_no_expectation() -> None:
    [only] = planned(20, None, [("MyNet", 0.5)]).candidates
    assert only == Candidate("MyNet", 0.5, pytest.approx(29, abs=1), None)


@pytest.mark.parametrize("target", [0.6, 0.75, 0.85, 0.9])
def test_a_target_is_aimed_at_with_the_net_that_is_there_first(target: float) -> None:
    made = planned(None, target)
    needed = {c.model: c.steps * c.step_seconds for c in made.candidates}
    reached = {c.model for c in made.candidates if (c.expected_accuracy or 0) >= target}
    assert made.chosen.model == min(reached, key=needed.__getitem__)
    # A little beyond it: a forecast is off, either way.
    assert made.chosen.expected_accuracy == pytest.approx(target + plan.MARGIN, abs=0.004)


def test_a_target_within_a_time_takes_what_reaches_it_and_else_the_best_there_is() -> None:
    made = planned(60, 0.85)  # three nets are measured, the largest is too slow
    assert made.chosen.model == "wide32"
    assert (made.chosen.expected_accuracy or 0) >= 0.85
    best = planned(60, None).chosen
    out_of_reach = planned(60, 0.99)
    assert out_of_reach.chosen == best
    assert "99.0 % is more than it is likely to reach" in out_of_reach.line(EPOCH, CONFIG)


def test_a_target_out_of_reach_is_given_up_some_time() -> None:
    assert planned(None, 0.999).chosen.steps == plan.MOST_EPOCHS * EPOCH // 500
    assert planned(None, 0.999, n=600).chosen.steps == plan.MOST_STEPS  # an epoch is one step


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
        pacer = Pacer(made, clock.now + 60, schedule, steps_per_epoch=40, position=Position())
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


def test_a_last_epoch_that_would_be_late_is_cut_short() -> None:
    clock = Clock()
    made = Plan(60.0, None, [], Candidate("wide32", 0.1, 590, None))
    schedule = Schedule("linear", total_steps=590)  # in an only epoch
    with patch.object(time, "monotonic", clock):
        pacer = Pacer(made, clock.now + 60, schedule, steps_per_epoch=1000, position=Position())
        step = 0
        while step < schedule.total_steps:
            step += 1
            # The first steps are slow anywhere, and from step 300 on the machine is busy.
            clock.now += 1.0 if step < 3 else 0.1 if step < 300 else 0.25
            if step % 5 == 0:
                pacer.look(step)
    assert 150 < clock.now + plan.CLOSING < 163
    assert 350 < step < 500
    assert made.changes


def test_towards_a_target_a_run_is_not_made_longer() -> None:
    clock = Clock()
    made = Plan(600.0, 0.8, [], Candidate("patch48", 0.1, 200, None))
    schedule = Schedule("linear", total_steps=200)
    with patch.object(time, "monotonic", clock):
        pacer = Pacer(made, clock.now + 600, schedule, steps_per_epoch=100, position=Position())
        clock.now += 10
        pacer.epoch_is_over(result(1, 100, 10.0))
        assert schedule.total_steps == 200
        pacer.deadline = clock.now + 4  # less time than there was
        pacer.epoch_is_over(result(2, 150, 15.0))
    assert schedule.total_steps < 200


def test_a_run_whose_time_is_over_stops() -> None:
    clock = Clock()
    made = Plan(5.0, None, [], Candidate("white16", 0.1, 1000, None))
    schedule = Schedule("linear", total_steps=1000)
    with patch.object(time, "monotonic", clock):
        pacer = Pacer(made, clock.now + 5, schedule, steps_per_epoch=100, position=Position())
        clock.now += 20
        pacer.epoch_is_over(result(1, 100, 20.0))
    assert made.changes == [(100, 100)]
    assert schedule.total_steps == 100


def test_the_plan_says_what_more_time_would_bring() -> None:
    made = planned(180, None)
    lines = made.closing_lines(0.88, made.chosen.steps * 500, 178.9)
    assert lines[0] == "178.9 s in all, of the 180 s asked for"
    assert "with twice the time, about" in lines[1]
    gain = float(lines[1].split("about ")[1].split()[0])
    assert 0 < gain < 6
    assert len(made.closing_lines(0.0, 1, 2.0)) == 1  # nothing held out: no forecast


def squares(n: int, side: int = 16) -> eyebright.Dataset:
    """Bright or dark pictures: a net tells them apart within a few steps."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = rng.integers(0, 100, (n, side, side, 3)) + 100 * labels[:, None, None, None]
    return eyebright.Dataset(images.astype(np.uint8), labels, ("dark", "bright"), name="squares")


def test_training_on_a_folder_of_photographs_in_a_given_time(
    class_folders: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(count=40, size=(80, 70))
    start = time.monotonic()
    run = eyebright.train(folder, time="14s", runs=tmp_path)
    printed = capsys.readouterr().out
    assert "--time trains a net from nothing" in printed
    assert run.config.recipe == "fast"
    assert "plan: " in printed
    assert "of the 14 s asked for" in printed
    record = json.loads((run.path / "plan.json").read_text())
    assert record["asked_seconds"] == 14
    assert run.config.time == 14
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
    assert "target 90.0 % accuracy reached: " in printed
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
    eyebright.train(shuffled, target=1.0, time="14s", runs=tmp_path, model="white16")
    assert "target 100.0 % accuracy not reached" in capsys.readouterr().out


def test_a_target_alone_is_planned_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = eyebright.train(squares(400), target=0.8, runs=tmp_path)
    assert "plan: " in capsys.readouterr().out
    record = json.loads((run.path / "plan.json").read_text())
    assert record["target"] == 0.8
    assert [c["model"] for c in record["candidates"]] == list(CURVES)
    assert float(run.log()[-1]["val_accuracy"]) >= 0.8


def test_time_and_epochs_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --epochs out"):
        eyebright.train(squares(100), time="3s", epochs=3, runs=tmp_path)


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
    run = eyebright.train(squares(200), model=net, time="8s", runs=tmp_path)
    assert json.loads((run.path / "plan.json").read_text())["chosen"]["model"].endswith("Small")
    assert not torch.equal(net.last.weight, before)
    eyebright.train(squares(200), model=Small(), target=0.8, runs=tmp_path)
