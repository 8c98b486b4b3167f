"""What only a GPU can show: recorded steps, no waiting, resuming, and running out of memory."""

import re
import warnings
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from eyebright import drive, graphs, train
from eyebright.batches import HALF
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.errors import StorageError
from eyebright.models import create_model
from eyebright.prepare import to_device
from eyebright.runtime import set_up
from eyebright.training import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_per_process_memory_fraction(1.0)


def pictures(n: int = 2000, side: int = 32) -> Dataset:
    """Noise, the brighter the higher the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    images = rng.integers(0, 100, (n, side, side, 3)) + 40 * labels[:, None, None, None]
    return Dataset(images.astype(np.uint8), labels, ("a", "b", "c", "d"), name="noise")


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(
        model="white16", epochs=2, batch_size=100, device="cuda:0", imgsz=32, balance="none",
        precision="bf16", deterministic=True,
    ).replace(**settings)  # fmt: skip


def trained(data: Dataset, **settings: Any) -> tuple[dict[str, Tensor], list[float]]:
    """The weights after a training, and its losses."""
    chosen = config(**settings)
    set_up(GPU, 0, chosen.seed, chosen.deterministic)
    net = to_device(create_model(chosen.model, 4), chosen, GPU)
    results = list(fit(net, data, None, chosen, HALF, None))
    return net.state_dict(), [result.train_loss for result in results]


@pytest.mark.parametrize("rest", ["adam", "sgd"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_replayed_step_is_the_step(rest: str, drop_last: bool) -> None:
    data = pictures(1950)
    settings: dict[str, Any] = {"rest": rest, "rest_lr": 0.01, "drop_last": drop_last}
    weights, losses = trained(data, **settings)
    with patch.object(graphs.Replayed, "__call__", lambda self, *batch: self.take_step(*batch)):
        wanted, wanted_losses = trained(data, **settings)
    assert losses == wanted_losses
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("model", ["lesson", "resnet18"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_nets_and_optimizers_are_recorded_too(
    model: str, optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights, losses = trained(pictures(1000), model=model, optimizer=optimizer, lr=0.01)
    assert losses[1] < losses[0]
    assert "recorded" not in caplog.text
    assert all(w.isfinite().all() for w in weights.values())


def test_what_cannot_be_recorded_is_trained_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    forward = type(create_model("white16", 4)).forward

    def waits(self: Any, x: Tensor) -> Tensor:
        assert x.sum().item() < 1e9
        return forward(self, x)

    with patch.object(type(create_model("white16", 4)), "forward", waits):
        _, losses = trained(pictures(1000))
    assert losses[1] < losses[0]
    assert "cannot be recorded" in caplog.text


def test_no_step_waits_for_the_gpu() -> None:
    def syncs(n: int) -> int:
        trained(pictures(n), deterministic=False)  # kernels have been chosen
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                patch("eyebright.training.REFRESH", 1e9),
            ):
                warnings.simplefilter("always")
                trained(pictures(n), deterministic=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(one.message) for one in caught)

    few, many = syncs(500), syncs(3000)
    assert few == many > 0


def test_a_run_goes_on_exactly() -> None:
    data = pictures()
    settings: dict[str, Any] = {
        "recipe": "fast", "model": "white16", "epochs": 4, "batch_size": 100, "device": "cuda",
        "deterministic": True, "quiet": True,
    }  # fmt: skip
    whole = train(data, name="whole", **settings)
    looks = iter(range(100))

    def interrupt(*_: Any) -> None:
        if next(looks) == 3:
            raise KeyboardInterrupt

    with (
        patch.object(drive.Saver, "is_due", interrupt),
        patch("eyebright.training.REFRESH", 0.0),
        pytest.raises(KeyboardInterrupt),
    ):
        train(data, name="cut", **settings)
    cut = train(data, resume="runs/cut", quiet=True)
    first, second = (load_file(run.path / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert '"exact": true' in (cut.path / "env.json").read_text()


def test_out_of_memory_names_a_batch_that_fits() -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.5e9 / total)
    with pytest.raises(StorageError, match=r"-b \d+ would fit") as caught:
        train(
            pictures(6000), recipe="fast", model="white64", batch_size=6000, epochs=1,
            device="cuda", quiet=True,
        )  # fmt: skip
    batch = int(re.findall(r"-b (\d+)", str(caught.value))[0])
    run = train(
        pictures(6000), recipe="fast", model="white64", batch_size=batch, epochs=1,
        device="cuda", quiet=True,
    )  # fmt: skip
    assert run.log()
