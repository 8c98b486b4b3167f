"""The loop: the lesson to the letter, and what it does when numbers go wrong."""

import math
from collections import Counter
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.utils._python_dispatch import TorchDispatchMode

from bf16_kernels import needs_kernels, with_and_without_winograd
from eyebright import compiled, convolution, training
from eyebright.batches import HALF, measure_normalization, predict_logits
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.errors import NumbersError
from eyebright.measuring import measure_norms
from eyebright.models import LessonNet, create_model
from eyebright.optim import Schedule
from eyebright.order import epoch_order
from eyebright.recipes import recipe_config
from eyebright.training import EpochResult, Position, count_steps, fit


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Batches this small are fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made_data(n: int, classes: int = 10, size: int = 32, seed: int = 0) -> Dataset:
    """Noise with a brightness of its own for each class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    middle = 20 + 200 * labels / (classes - 1)
    noise = generator.normal(0, 30, (n, size, size, 3))
    images = np.clip(middle[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    return Dataset(images, labels, [f"class {i}" for i in range(classes)])


def run(
    data: Dataset, config: TrainConfig, net: nn.Module, val: Dataset | None = None
) -> tuple[list[EpochResult], list[str]]:
    lines: list[str] = []
    return list(fit(net, data, val, config, HALF, lines.append)), lines


def test_the_lesson_to_the_letter() -> None:
    """A plain PyTorch loop, given our permutation and initial weights, has the same losses."""
    steps = 50
    data = made_data(4 * steps)
    torch.manual_seed(0)
    net = LessonNet(10)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    config = recipe_config("tutorial").replace(epochs=1, log_every=1, device="cpu", seed=7)
    results, _ = run(data, config, net)
    ours = [loss for _, loss in results[0].running_losses]

    class Net(nn.Module):  # as the lesson has it
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 6, 5)
            self.pool = nn.MaxPool2d(2, 2)
            self.conv2 = nn.Conv2d(6, 16, 5)
            self.fc1 = nn.Linear(16 * 5 * 5, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(nn.functional.relu(self.conv1(x)))
            x = self.pool(nn.functional.relu(self.conv2(x)))
            x = torch.flatten(x, 1)
            x = nn.functional.relu(self.fc1(x))
            x = nn.functional.relu(self.fc2(x))
            return self.fc3(x)

    plain = Net()
    plain.load_state_dict(start)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.001, momentum=0.9)
    theirs = []
    for which in epoch_order(len(data), seed=7, epoch=1).split(4):
        inputs = torch.stack([data[int(i)][0] for i in which])
        inputs = (inputs - 0.5) / 0.5
        labels = torch.from_numpy(data.labels)[which]
        optimizer.zero_grad()
        loss = criterion(plain(inputs), labels)
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    assert len(ours) == steps
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_running_loss_is_printed_in_the_lessons_form() -> None:
    data = made_data(40)
    config = recipe_config("tutorial").replace(epochs=2, log_every=5)
    results, lines = run(data, config, LessonNet(10))
    assert [line.split(" loss: ")[0] for line in lines] == [
        "[1,     5]",
        "[1,    10]",
        "[2,     5]",
        "[2,    10]",
    ]
    for line, loss in zip(lines, [v for r in results for _, v in r.running_losses], strict=True):
        assert line.endswith(f"loss: {loss:.3f}")
    first = [loss for _, loss in results[0].running_losses]
    assert results[0].train_loss == pytest.approx(sum(first) / 2)


@pytest.mark.parametrize("recipe", ["tutorial", "fast"])
def test_the_same_seed_gives_the_same_weights(recipe: str) -> None:
    data = made_data(64)
    config = recipe_config(recipe).replace(
        epochs=2, batch_size=16, log_every=0, device="cpu", precision="fp32", seed=3
    )
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        net = create_model(config.model, 10, 32)
        run(data, config.replace(seed=seed), net)
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("drop_last", "steps"), [(True, 3), (False, 4)])
def test_steps_are_counted_as_they_are_taken(drop_last: bool, steps: int) -> None:
    config = recipe_config("tutorial").replace(epochs=2, batch_size=3, drop_last=drop_last)
    assert count_steps(10, config) == steps
    results, _ = run(made_data(10), config, LessonNet(10))
    assert [r.step for r in results] == [steps, 2 * steps]
    assert results[0].seconds < results[1].seconds


def test_validation_is_in_fp32_and_counts_every_picture() -> None:
    data, val = made_data(64), made_data(30, seed=1)
    seen: list[torch.dtype] = []

    class Spy(LessonNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            if not self.training:
                seen.append(logits.dtype)
            return logits

    config = recipe_config("tutorial").replace(epochs=1, precision="bf16")
    results, _ = run(data, config, Spy(10), val)
    assert results[0].val_confusion is not None
    assert results[0].val_confusion.sum(1).tolist() == [3] * 10
    assert set(seen) == {torch.float32}


def test_battery_35_a_loss_that_is_not_finite_stops_with_step_and_rate() -> None:
    config = recipe_config("tutorial").replace(epochs=3, lr=1e6)
    with pytest.raises(
        NumbersError, match=r"step \d+ .*learning rate 1e\+06.*lower --lr"
    ) as caught:
        run(made_data(80), config, LessonNet(10))
    assert caught.value.exit_code == 6


def test_norms_are_measured_when_no_step_comes_after() -> None:
    config = recipe_config("fast").replace(
        model="white16", epochs=6, batch_size=8, precision="fp32", seed=3
    )
    data, net = made_data(80), create_model("white16", 10)
    seen = []
    with patch.object(training, "measure_norms", wraps=training.measure_norms) as measure:
        for result in fit(net, data, data, config, HALF, None):
            seen.append((measure.call_count, result.val_logits))
    assert [calls for calls, _ in seen] == [0, 0, 0, 0, 0, 1]
    norm = net.stages[2].norm2
    found, logits = norm.running_var.clone(), seen[-1][1]
    assert logits is not None
    # Of as many pictures as a tenth of all steps saw, of the epoch that would have come next.
    batches = training.train_batches(
        *(torch.from_numpy(a) for a in (data.images, data.labels)), config, HALF, epoch=7
    )
    measure_norms(net.train(), [pictures for pictures, _ in batches][:6])
    torch.testing.assert_close(norm.running_var, found)
    torch.testing.assert_close(predict_logits(net, data.images, HALF), logits)  # what is judged


def test_the_first_bad_step_is_named_exactly() -> None:
    class Breaks(LessonNet):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x) * (math.nan if self.calls >= 4 else 1)

    config = recipe_config("tutorial").replace(epochs=1)
    with pytest.raises(NumbersError, match="loss is nan at step 4 "):
        run(made_data(80), config, Breaks(10))


def test_weights_broken_by_the_last_step_are_noticed() -> None:
    net = LessonNet(10)
    net.fc3.bias.register_hook(lambda gradient: gradient * math.inf)
    config = recipe_config("tutorial").replace(epochs=1, batch_size=8)
    with pytest.raises(NumbersError, match=r"fc3\.bias are not finite after step 1"):
        run(made_data(8), config, net)


@pytest.mark.parametrize("recipe", ["tutorial", "fast"])
def test_battery_35_32_pictures_are_learned_by_heart(recipe: str) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    data = Dataset(images, np.arange(32) % 10, list("abcdefghij"))
    config = recipe_config(recipe).replace(
        epochs=40, batch_size=16, lr=0.03 if recipe == "tutorial" else 0.1, augment="none"
    )
    if recipe == "fast":
        config = config.replace(model="white16")
    torch.manual_seed(0)
    net = create_model(config.model, 10, 32)
    if recipe == "fast":
        net.whiten(measure_normalization(images)(torch.from_numpy(images)))
    else:
        config = config.replace(epochs=100, schedule="linear", batch_size=8)
    results, _ = run(data, config, net, data)
    confusion = results[-1].val_confusion
    assert confusion is not None
    assert np.trace(confusion) == 32


def test_a_run_of_so_many_steps_may_end_within_an_epoch() -> None:
    config = recipe_config("fast").replace(
        model="white16", batch_size=16, max_steps=7, precision="fp32", epochs=50
    )
    results, _ = run(made_data(64), config, create_model("white16", 10))
    assert [(r.epoch, r.step) for r in results] == [(1, 4), (2, 7)]


def test_whoever_holds_the_schedule_may_change_a_runs_length() -> None:
    config = recipe_config("fast").replace(model="white16", batch_size=16, precision="fp32")
    schedule = Schedule("linear", 12)
    steps = []
    net = create_model("white16", 10)
    for result in fit(net, made_data(64), None, config, HALF, None, schedule):
        steps.append(result.step)
        if result.step == 4:
            schedule.change(4, 9)
    assert steps == [4, 8, 9]


def test_a_run_may_be_cut_short_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REFRESH", -1.0)
    config = recipe_config("fast").replace(model="white16", batch_size=16, precision="fp32")
    schedule = Schedule("linear", 12)
    seen = []

    position = Position()

    def look() -> None:
        seen.append(position.step)
        if position.step == 5:
            schedule.change(5, 7)

    net = create_model("white16", 10)
    results = list(fit(net, made_data(64), None, config, HALF, None, schedule, look, position))
    assert [r.step for r in results] == [4, 7]
    assert seen == [1, 2, 3, 5, 6]  # not at ends of epochs: there the results tell


class CountedSteps(TorchDispatchMode):
    """Counts the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.copied = 0  # values in copies of the size of features

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names[name] += 1
        if name in ("_to_copy", "clone", "copy_", "contiguous"):
            self.copied += args[0].numel()
        return result


def count_a_step(model: str, steps: int) -> CountedSteps:
    """What the steps of a run do, those of the first two left out."""
    counts, call = [], compiled.call
    for total in (2, 2 + steps):
        config = TrainConfig(
            model=model, batch_size=40, max_steps=total, precision="bf16", device="cpu"
        )
        net = create_model(model, 10).to(memory_format=torch.channels_last)
        net.whiten(torch.randn(8, 3, 32, 32))
        with CountedSteps() as counted, patch.object(compiled, "call") as of_ours:
            of_ours.side_effect = lambda name, *given, of=counted: (
                of.names.update([name]) or call(name, *given)
            )
            list(fit(net, made_data(400), None, config, HALF, None))
        counts.append(counted)
    difference = CountedSteps()
    difference.names = counts[1].names - counts[0].names
    difference.copied = counts[1].copied - counts[0].copied
    return difference


@pytest.mark.parametrize("model", ["patch48", "wide32"])
def test_a_step_never_waits_for_a_number(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REFRESH", 1e9)
    looks, finite_losses = [], training.finite_losses
    monkeypatch.setattr(
        training, "finite_losses", lambda *given: looks.append(1) or finite_losses(*given)
    )
    counted = count_a_step(model, 6)
    assert len(looks) == 2  # at the end of either run
    assert not counted.names["_local_scalar_dense"]  # what .item() and comparisons come down to
    assert not counted.names["is_nonzero"]


@needs_kernels
@with_and_without_winograd
@pytest.mark.parametrize(
    ("model", "convolutions", "most"), [("wide32", 6, 620), ("deep32", 9, 910)]
)
def test_a_step_is_a_known_number_of_operations(
    model: str, convolutions: int, most: int, minimal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REFRESH", 1e9)
    monkeypatch.setattr(convolution, "winograd_pays", lambda: minimal)
    steps = 6
    counted = count_a_step(model, steps)
    per_step = {name: count / steps for name, count in counted.names.items()}
    # The first layer has no gradient. Each stage's first convolution passes its gradient on;
    # weights have one of their own.
    assert per_step["convolution"] == (1 if minimal else 1 + convolutions)
    assert per_step.get("convolution_backward", 0) == (0 if minimal else 2 * convolutions)
    assert per_step.get("winograd", 0) == (2 * convolutions if minimal else 0)
    assert per_step.get("winograd_filters_back", 0) == (convolutions if minimal else 0)
    for slow in ("gelu", "gelu_backward", "max_pool2d_with_indices", "native_batch_norm"):
        assert slow not in per_step
    assert sum(per_step.values()) < most
    # Copies: pictures to bf16; weights to bf16, their gradients back, into the optimizer's batch
    # and out of it (1.1 million each); small features laid side by side.
    assert counted.copied / steps < 8_000_000
