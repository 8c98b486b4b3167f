"""Recorded steps, with a stand-in for CUDA; `test_gpu` has the real thing."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyebright import graphs
from eyebright.models import create_model


class Tally:
    """A step whose loss is the sum of the pictures, and what was done with it."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def __call__(self, pictures: Tensor, labels: Tensor) -> Tensor:
        self.taken.append(len(pictures))
        return pictures.sum()


class Graph:
    """Knows the step that it records, and takes it again from the same tensors."""

    of: graphs.Replayed
    error: RuntimeError | None = None

    def capture_begin(self, **_: Any) -> None:
        if self.error:
            raise self.error

    def capture_end(self) -> None:
        self.of.take_step.taken.pop()  # type: ignore[attr-defined]  # recording takes no step

    def replay(self) -> None:
        self.of.loss.copy_(self.of.take_step(self.of.pictures, self.of.labels))


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> graphs.Replayed:
    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    step = graphs.Replayed(Tally(), batch_size=4)
    monkeypatch.setattr(Graph, "of", step, raising=False)
    return step


def batch(value: float, n: int = 4) -> tuple[Tensor, Tensor]:
    return torch.full((n, 3), value), torch.zeros(n, dtype=torch.int64)


def test_every_batch_is_a_step_and_every_loss_its_own(replayed: graphs.Replayed) -> None:
    losses = [replayed(*batch(value)) for value in (1.0, 2.0, 3.0, 4.0)]
    assert [loss.item() for loss in losses] == [12.0, 24.0, 36.0, 48.0]
    assert replayed.take_step.taken == [4, 4, 4, 4]  # type: ignore[attr-defined]
    assert replayed.graph is not None


def test_a_smaller_batch_is_taken_as_it_is(replayed: graphs.Replayed) -> None:
    sizes = (4, 4, 3, 4)
    losses = [replayed(*batch(1.0, n)) for n in sizes]
    assert [loss.item() for loss in losses] == [3.0 * n for n in sizes]
    assert replayed.take_step.taken == list(sizes)  # type: ignore[attr-defined]


def test_what_cannot_be_recorded_is_said_once(
    replayed: graphs.Replayed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Graph, "error", RuntimeError("operation not permitted when capturing"))
    losses = [replayed(*batch(value)) for value in (1.0, 2.0, 3.0)]
    assert [loss.item() for loss in losses] == [12.0, 24.0, 36.0]
    assert caplog.text.count("cannot be recorded") == 1
    monkeypatch.setattr(Graph, "error", RuntimeError("CUDA out of memory"))
    again = graphs.Replayed(Tally(), batch_size=4)
    again(*batch(1.0))
    with pytest.raises(RuntimeError, match="out of memory"):
        again(*batch(1.0))


def test_a_users_own_net_is_not_recorded() -> None:
    class Own(nn.Module):
        pass

    assert graphs.is_known(create_model("white16", 10))
    assert graphs.is_known(create_model("resnet18", 10))
    assert not graphs.is_known(Own())
