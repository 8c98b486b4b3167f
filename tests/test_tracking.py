"""What a tracker is told."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import eyebright
from eyebright.errors import UsageError

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
)


@pytest.fixture
def data() -> eyebright.Dataset:
    labels = np.arange(60) % 2
    pixels = np.full((60, 8, 8, 3), 40, np.uint8) + 100 * labels[:, None, None, None]
    return eyebright.Dataset(pixels.astype(np.uint8), labels, ["dark", "light"], name="shades")


def test_tensorboard_gets_what_the_log_gets(data: eyebright.Dataset, tmp_path: Path) -> None:
    run = eyebright.train(
        data, epochs=3, batch_size=10, model="white16", device="cpu", val=0.2, runs=tmp_path,
        quiet=True, track="tensorboard",
    )  # fmt: skip
    seen = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    seen.Reload()
    columns = {"seconds", "train_loss", "val_accuracy", "val_balanced_accuracy", "val_n"}
    assert set(seen.Tags()["scalars"]) == columns
    for column in columns:
        told = [(event.step, event.value) for event in seen.Scalars(column)]
        logged = [(int(row["step"]), float(row[column])) for row in run.log()]
        assert len(logged) == 3
        assert told == [(step, pytest.approx(value)) for step, value in logged]


def test_what_is_not_held_out_is_not_told(data: eyebright.Dataset, tmp_path: Path) -> None:
    run = eyebright.train(
        data, epochs=1, batch_size=10, model="white16", device="cpu", val=0.0, runs=tmp_path,
        quiet=True, track="tensorboard",
    )  # fmt: skip
    seen = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    seen.Reload()
    assert set(seen.Tags()["scalars"]) == {"seconds", "train_loss"}


def test_an_unknown_or_missing_tracker_is_refused_before_anything_is_done(
    data: eyebright.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--track cannot be 'paper'; choose one of: tensorboard"):
        eyebright.train(data, track="paper", runs=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install .*\[tensorboard\]"):
        eyebright.train(data, track="tensorboard", runs=tmp_path)
    assert not list(tmp_path.iterdir())
