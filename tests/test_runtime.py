"""Device, precision, threads, seeds: what is decided, and that it is refused by name."""

import os
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch

from eyebright import choices, runtime
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.errors import StorageError, UsageError
from eyebright.recipes import recipe_config

CPU = torch.device("cpu")


def test_auto_takes_the_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.choose_device("auto") == CPU
    with pytest.raises(UsageError, match=r"no device 'cuda'; it has: cpu$"):
        runtime.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.choose_device("auto") == torch.device("cuda:0")
    assert runtime.choose_device("cuda") == torch.device("cuda:0")
    assert runtime.choose_device("cuda:1") == torch.device("cuda:1")
    assert runtime.choose_device("cpu") == CPU
    with pytest.raises(UsageError, match=r"no device 'cuda:2'; it has: cpu, cuda, cuda:0, cuda:1"):
        runtime.choose_device("cuda:2")


@pytest.mark.parametrize(("avx512_bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": avx512_bf16})
    assert runtime.choose_precision("auto", CPU) == precision
    assert runtime.choose_precision("fp32", CPU) == "fp32"
    assert runtime.choose_precision("bf16", CPU) == "bf16"


def decided_on_a_gpu(n: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> TrainConfig:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    data = Dataset(np.zeros((8, 32, 32, 3), np.uint8), [0, 1] * 4, ("a", "b"))
    config = recipe_config("fast").replace(**settings)
    return choices.decide(config, settings, data, n, torch.device("cuda:0"))


def test_a_gpu_gets_its_own_net_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    config = decided_on_a_gpu(50_000, monkeypatch)
    assert (config.model, config.batch_size, config.rest) == ("white64", 2000, "sgd")
    assert config.rest_lr == 0.053
    # They are rates for that net, ...
    other = decided_on_a_gpu(50_000, monkeypatch, model="white32")
    assert (other.model, other.batch_size, other.rest) == ("white32", 2000, "adam")
    # ... and for batches of so many.
    few = decided_on_a_gpu(2_000, monkeypatch)
    assert (few.model, few.batch_size, few.rest, few.rest_lr) == ("white64", 100, "adam", 0.01)
    asked = decided_on_a_gpu(50_000, monkeypatch, rest_lr=0.02)
    assert (asked.model, asked.rest, asked.rest_lr) == ("wide32", "adam", 0.02)


@pytest.mark.parametrize(
    ("amx", "pairs", "epochs", "batch", "model"),
    [
        (True, True, 12, 1000, "wide32"),
        (False, True, 7, 500, "deep32"),
        (False, False, 4, 500, "wide32"),
    ],
)
def test_hardware_for_bf16_gets_more_epochs_and_its_own_settings(
    monkeypatch: pytest.MonkeyPatch, amx: bool, pairs: bool, epochs: int, batch: int, model: str
) -> None:
    monkeypatch.setattr(choices, "winograd_pays", lambda: pairs)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx512_bf16": True}
    )
    data = Dataset(np.zeros((4, 32, 32, 3), np.uint8), [0, 1, 0, 1], ["a", "b"])

    def decided(recipe: str, n: int = 45_000, **settings: Any) -> tuple[int, int]:
        config = recipe_config(recipe).replace(**settings)
        config = choices.decide(config, settings, data, n, CPU)
        return config.epochs, config.batch_size

    assert decided("fast") == (epochs, batch)
    # Weights that are there already are of the net that they say.
    begun = recipe_config("fast").replace(init="runs/earlier")
    assert choices.decide(begun, {"init": "runs/earlier"}, data, 45_000, CPU).model == "wide32"
    config = recipe_config("fast")
    assert choices.decide(config, {}, data, 45_000, CPU).model == model
    assert decided("fast", epochs=3) == (3, batch)
    assert decided("fast", batch_size=250) == (epochs, 250)
    assert decided("fast", time=60.0)[1] == 500  # the plan's own
    assert decided("fast", precision="fp32") == (4, 500)
    assert decided("tutorial") == (5, 4)


@pytest.mark.parametrize(
    ("batch_size", "imgsz", "layout"),
    [
        (4, 32, torch.contiguous_format),
        (16, 32, torch.contiguous_format),
        (17, 32, torch.channels_last),
        (4, 224, torch.channels_last),
        (500, 32, torch.channels_last),
    ],
)
def test_tiny_batches_lie_differently(
    batch_size: int, imgsz: int, layout: torch.memory_format
) -> None:
    assert runtime.memory_format(batch_size, imgsz, "fp32", CPU) == layout
    # bf16 has no kernels without oneDNN, and a GPU has its own.
    assert runtime.memory_format(batch_size, imgsz, "bf16", CPU) == torch.channels_last
    gpu = torch.device("cuda")
    assert runtime.memory_format(batch_size, imgsz, "fp32", gpu) == torch.channels_last


def test_onednn_is_put_back() -> None:
    def enabled() -> bool:
        return bool(torch._C._get_mkldnn_enabled())

    before = enabled()
    with runtime.onednn_for(torch.channels_last):
        assert enabled() == before
    with runtime.onednn_for(torch.contiguous_format):
        assert not enabled()
    assert enabled() == before


def test_set_up_seeds_everything() -> None:
    draws = []
    threads = torch.get_num_threads()
    for seed in (3, 3, 4):
        runtime.set_up(CPU, 1, seed)
        legacy = np.random.random()  # noqa: NPY002 - users' nets may draw from it
        draws.append((random.random(), legacy, torch.rand(1).item()))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert draws[0] == draws[1] != draws[2]


def test_describe_holds_what_a_reader_needs() -> None:
    found = runtime.describe(CPU)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(found["packages"]) >= {"eyebright", "torch", "torchvision", "numpy", "pillow"}
    assert found["device_name"]
    assert found["cores"] >= 1
    assert found["git"] is None or set(found["git"]) == {"commit", "changed"}


def test_a_gpus_kernels_are_timed_while_it_trains_unless_all_are_to_be_alike() -> None:
    with runtime.timed_kernels():
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    try:
        with runtime.timed_kernels():
            assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_only_a_gpu_is_asked_for_kernels_that_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    threads = torch.get_num_threads()
    runtime.set_up(CPU, 1, 0, deterministic=True)
    assert asked == []
    runtime.set_up(torch.device("cuda"), 1, 0, deterministic=True)
    assert asked == [True]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    runtime.set_up(torch.device("cuda"), 1, 0)
    assert asked == [True]  # it may be the user's own wish
    torch.set_num_threads(threads)


def test_a_missing_kernel_is_named() -> None:
    said = "nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but"
    with pytest.raises(UsageError, match="--deterministic: nll_loss2d"), runtime.explained(str):
        raise RuntimeError(said)


def test_advice_is_asked_when_memory_was_given_back() -> None:
    class Activations:
        alive = 0

        def __init__(self) -> None:
            Activations.alive += 1

        def __del__(self) -> None:
            Activations.alive -= 1

    def step() -> None:
        held = Activations()
        raise torch.OutOfMemoryError(f"CUDA out of memory ({held})")

    seen = []

    def advice() -> str:
        seen.append(Activations.alive)
        return "lower it"

    with pytest.raises(StorageError, match="memory; lower it") as caught, runtime.explained(advice):
        step()
    assert caught.value.exit_code == 5
    assert seen == [0]
