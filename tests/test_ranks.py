"""Which of several processes this is."""

import os
import subprocess
import sys

import pytest
import torch

from eyebright import runtime
from eyebright.errors import UsageError
from eyebright.machine import available_cores
from eyebright.ranks import Ranks, from_environment

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("", Ranks(0, 1, 0, 1)),
        ("5 8 1 4", Ranks(5, 8, 1, 4)),
        ("0 1 0 1", Ranks(0, 1, 0, 1)),
        ("5 8", Ranks(5, 8, 0, 1)),  # one process a node
    ],
)
def test_what_torchrun_says(values: str, found: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, values.split(), strict=False):
        monkeypatch.setenv(name, value)
    assert from_environment() == found


def test_a_local_rank_alone_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")  # some clusters set it for processes of any kind
    assert from_environment() == Ranks()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("2 2 0 1", "RANK cannot be 2: it goes from 0 to 1"),
        ("-1 2 0 1", "RANK cannot be '-1', which is no number"),
        ("0 0 0 1", "WORLD_SIZE cannot be 0: it goes from 1 on"),
        ("0 two 0 1", "WORLD_SIZE cannot be 'two'"),
        ("0 ² 0 1", "WORLD_SIZE cannot be '²'"),
        ("0 2 1 1", "LOCAL_RANK cannot be 1: it goes from 0 to 0"),
        ("0 2 0 3", "LOCAL_WORLD_SIZE cannot be 3: it goes from 1 to 2"),
        ("0", "WORLD_SIZE is not set"),
    ],
)
def test_nonsense_is_refused(values: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, values.split(), strict=False):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said) as raised:
        from_environment()
    assert "torchrun" in str(raised.value)


def test_half_of_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="RANK is not set"):
        from_environment()


@pytest.mark.parametrize(("cores", "local", "share"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_cores_are_shared(
    cores: int, local: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert available_cores() == share


def test_threads_and_gpus_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    runtime.use_own_cores()
    assert threads == []  # alone, what the user or torch decided stays
    for rank, device in enumerate(("cuda:0", "cuda:1", "cuda:0")):
        for name, value in zip(NAMES, (3 + rank, 6, rank, 3), strict=True):
            monkeypatch.setenv(name, str(value))
        runtime.use_own_cores()
        assert str(runtime.choose_device()) == device
        assert str(runtime.choose_device("cuda")) == device
        assert str(runtime.choose_device("cpu")) == "cpu"
    assert threads == [4, 4, 4]


def test_it_needs_no_torch() -> None:
    code = "import sys, eyebright.ranks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
