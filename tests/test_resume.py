"""A training that is interrupted goes on to the very end that it would have had."""

import errno
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import eyebright
from eyebright import launch, resume, training
from eyebright.cli import run_app
from eyebright.console import notices
from eyebright.data import Dataset, load
from eyebright.data.labels import append
from eyebright.errors import ModelError, StorageError, UsageError
from eyebright.lock import locked
from eyebright.models import create_model
from eyebright.resume import list_checkpoints, newest_checkpoint, save_checkpoint

# What a run is killed at: so many steps, or so many calls that change the disk, after it began.
# Some twenty calls are made before the first step, and six by a checkpoint.
KILLS = [*(("step", n % 5 + 1) for n in range(10)), *(("save", n) for n in range(17, 37, 2))]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume, "LEAST", 0.0)
    monkeypatch.setattr(resume, "SHARE", 1e9)
    monkeypatch.setattr(training, "REFRESH", -1.0)  # a look after every step


def what_is_left(run: Path) -> dict[str, Any]:
    """All that must be the same, however often a run was interrupted."""
    state = newest_checkpoint(run)
    assert state is not None
    rows = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    files = ["model.safetensors", "model.json", "predictions-val.csv", "config.json", "data.json"]
    return {
        "position": replace(state.position, seconds=0.0),
        "state": {
            name: sha256(w.numpy().tobytes()).hexdigest() for name, w in state.tensors.items()
        },
        "losses": [(r.epoch, r.step, r.train_loss, r.running_losses) for r in state.results],
        "log": [row[:2] + row[3:] for row in rows],  # all but seconds
        "files": {f: (run / f).read_bytes() for f in files if (run / f).exists()},
    }


class KilledError(BaseException):
    """Stands for the end of a process: nothing catches it."""


def train_and_die(after: int, monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Run a command that ends without a word before it takes one more step than so many."""
    real, left = training.set_lr, [after]

    def set_lr(optimizers: Any, share: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        real(optimizers, share)

    with monkeypatch.context() as patch:
        patch.setattr(training, "set_lr", set_lr)
        with pytest.raises(KilledError):
            run_app([*command])


RECIPES = {
    "fast": "--recipe fast --model white16 --epochs 3 -b 8",
    "best": "--recipe best --model white16 --epochs 3 -b 8 --val 0",
    "quick": "--recipe quick",
    "tutorial": "--recipe tutorial --epochs 2 --val 0.2",
    "sampler": "--model white16 --epochs 3 -b 8 --balance sampler --augment cutout",
    "finetune": "--model test_efficientnet --weights tiny.safetensors --tune all --epochs 3 -b 8",
}


@pytest.mark.parametrize(("recipe", "after"), [("fast", 1), *((name, 7) for name in RECIPES)])
def test_it_ends_as_if_it_had_never_stopped(
    recipe: str, after: int, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = timm.create_model("test_efficientnet", num_classes=1000).state_dict()
    save_file(weights, "tiny.safetensors")
    folder = str(class_folders(size=(32, 32)))
    command = ["train", folder, *RECIPES[recipe].split()]
    assert run_app([*command, "--name", "whole"]) == 0
    train_and_die(after, monkeypatch, *command, "--name", "broken")
    train_and_die(1, monkeypatch, "train", "--resume", "runs/broken")
    assert run_app(["train", "--resume", "runs/broken"]) == 0
    assert what_is_left(Path("runs/broken")) == what_is_left(Path("runs/whole"))
    env = json.loads(Path("runs/broken/env.json").read_text())
    assert [one["exact"] for one in env["resumed"]] == [True, True]


def test_battery_13_kill_9_at_any_moment_changes_nothing(
    class_folders: Callable[..., Path],
) -> None:
    folder = str(class_folders(size=(32, 32)))
    command = ["train", folder, *"--model white16 -b 8 --epochs 16 --threads 1".split()]
    assert run_app([*command, "--name", "whole"]) == 0
    command += ["--name", "broken"]
    for where, count in KILLS:
        done = subprocess.run(
            [sys.executable, "-m", "bench.soak", "--victim", where, str(count), *command],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        command = ["train", "--resume", "runs/broken"]
    assert run_app(command) == 0
    assert what_is_left(Path("runs/broken")) == what_is_left(Path("runs/whole"))
    assert not list(Path("runs/broken").rglob("*.tmp"))


@pytest.fixture
def stopped(class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three epochs that was killed in its second one."""
    folder = str(class_folders())
    train_and_die(6, monkeypatch, "train", folder, *RECIPES["fast"].split(), "--name", "stopped")
    return Path("runs/stopped")


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--epochs", "5"], "--epochs was 3, now 5"),
        (["-b", "4", "--threads", "7"], "--threads was"),
        (["--recipe", "quick"], "--recipe was fast, now quick"),
    ],
)
def test_battery_20_other_settings_are_refused(
    stopped: Path, words: list[str], difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert run_app(["train", "--resume", str(stopped), *words]) == 2
    said = capsys.readouterr().err
    assert difference in said
    assert "--resume-anyway" in said
    after = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert {p: c for p, c in after.items() if p.name != ".lock"} == {
        p: c for p, c in before.items() if p.name != ".lock"
    }


def test_the_same_settings_once_more_are_no_difference(stopped: Path) -> None:
    words = [*RECIPES["fast"].split(), "--resume", str(stopped)]
    assert run_app(["train", "pets", *words]) == 0


def test_battery_20_other_pictures_and_machines_are_refused_or_marked(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pets/cat/3.png").write_bytes(Path("pets/cat/4.png").read_bytes())
    env = json.loads((stopped / "env.json").read_text())
    env["packages"]["torch"] = "1.0"
    (stopped / "env.json").write_text(json.dumps(env))
    assert run_app(["train", "--resume", str(stopped)]) == 2
    said = capsys.readouterr().err
    assert "the pictures are not the same" in said
    assert "torch was 1.0, now 2" in said
    assert run_app(["train", "--resume", str(stopped), "--resume-anyway", "--epochs", "4"]) == 0
    [once] = json.loads((stopped / "env.json").read_text())["resumed"]
    assert once["exact"] is False
    assert len(once["differences"]) == 3
    report = (stopped / "report.html").read_text()
    assert "gone on with after step 6, not exactly: see env.json" in report
    assert len((stopped / "log.csv").read_text().splitlines()) == 5


def test_pictures_from_memory_are_given_again(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(class_folders())
    data = Dataset(data.images, data.labels, data.classes, name="memory")
    net = create_model("white16", 2, 16)
    words: dict[str, Any] = {"model": net, "epochs": 2, "batch_size": 8, "quiet": True}
    with monkeypatch.context() as patch:
        patch.setattr(launch, "write_report", lambda *_, **__: 1 / 0)  # dies at its very end
        with pytest.raises(ZeroDivisionError):
            eyebright.train(data, name="own", **words)
    with pytest.raises(UsageError, match="give them again"):
        eyebright.train(resume="runs/own", model=net)
    run = eyebright.train(data, resume="runs/own", **words)
    assert (run.path / "report.html").exists()


def test_battery_17_a_second_process_is_told_who_is_there(stopped: Path) -> None:
    with locked(stopped):
        code = "import sys; from eyebright.cli import run_app; sys.exit(run_app(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "train", "--resume", str(stopped)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr
    with locked(stopped):  # a lock that nobody holds any more
        pass


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(notices, "propagate", True)
    (newest, path), (before, _) = list_checkpoints(stopped)
    assert (newest, before) == (6, 5)  # of steps
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run_app(["train", "--resume", str(stopped)]) == 0
    assert "damaged" in caplog.text
    assert "goes on after 5 steps of 12" in capsys.readouterr().out
    for _, path in list_checkpoints(stopped):
        path.write_bytes(path.read_bytes()[:-1])
    assert run_app(["train", "--resume", str(stopped)]) == 4
    assert "no checkpoint is whole" in capsys.readouterr().err


def test_every_flipped_byte_and_every_end_cut_off_is_found(stopped: Path) -> None:
    (_, path), (_, other) = list_checkpoints(stopped)
    other.unlink()
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(1000):
        damaged = bytearray(content)
        if rng.random() < 0.5:
            damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(content)) :]
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="no checkpoint is whole"):
            newest_checkpoint(stopped)


def put(run: Path, content: bytes) -> None:
    """Make this the only checkpoint, under the name that suits it."""
    for _, path in list_checkpoints(run):
        path.unlink()
    name = f"0000000006-{sha256(content).hexdigest()}.safetensors"
    (run / "checkpoints" / name).write_bytes(content)


def change_state(run: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change what the newest checkpoint holds, and give it the name that suits it."""
    [(_, path), *_] = list_checkpoints(run)
    tensors = load_file(path)
    state = json.loads(bytes(tensors.pop("state").numpy()))
    change(state, tensors)
    text = bytearray(json.dumps(state).encode())
    tensors["state"] = torch.frombuffer(text, dtype=torch.uint8).clone()
    save_file(tensors, run / "new")
    put(run, (run / "new").read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        lambda s, t: s["position"].update(step="6"),
        lambda s, t: s["position"].update(batch=10**9),
        lambda s, t: s["position"].update(seconds=float("inf")),
        lambda s, t: s["position"].update(losses=["a"] * s["position"]["batch"]),
        lambda s, t: s["normalization"].update(std=[0, 1, 1]),
        lambda s, t: s["normalization"].update(mean=["a", 1]),
        lambda s, t: s["results"].append({}),
        lambda s, t: s.pop("elapsed"),
        lambda s, t: s.update(generators={}),
        lambda s, t: s["generators"]["numpy"].pop(),
        lambda s, t: t.pop("rng.cpu"),
        lambda s, t: t.update({"rng.cpu": torch.zeros(3)}),
        lambda s, t: t.update({"best.logits": torch.zeros(3, 2)}),
        lambda s, t: t["model.head.weight"].fill_(torch.nan),
        lambda s, t: t.update({"model.head.weight": torch.zeros(3)}),
        lambda s, t: t.pop("kept.head.weight"),
        lambda s, t: [t.pop(name) for name in list(t) if name.startswith("optimizer.1.")],
        lambda s, t: t.pop(next(n for n in t if n.endswith("exp_avg"))),
        lambda s, t: t.update({"optimizer.1.0.step": torch.zeros(2)}),
    ],
)  # fmt: skip
def test_battery_23_a_hostile_checkpoint_is_refused(
    change: Any, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_state(stopped, change)
    assert run_app(["train", "--resume", str(stopped)]) == 4
    assert len(capsys.readouterr().err.strip().splitlines()) <= 2  # a notice, and the error


def test_battery_21_a_pickle_in_its_place_is_not_run(stopped: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (Path("canary"),)

    put(stopped, pickle.dumps({"model": Canary()}))
    with pytest.raises(ModelError):
        newest_checkpoint(stopped)
    assert not Path("canary").exists()


def test_ctrl_c_on_a_run_that_goes_on_keeps_the_best_model(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = (stopped / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(training, "set_lr", interrupt)
        assert run_app(["train", "--resume", str(stopped)]) == 130
    assert (stopped / "model.safetensors").read_bytes() == before
    assert (stopped / "val.json").exists()  # of that very model
    assert run_app(["val", str(stopped)]) == 0


def test_a_run_by_the_clock_goes_on(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(class_folders(count=30, size=(32, 32)))
    words = ["train", folder, "--model", "white16", "-b", "8", "--time", "1h", "--name", "timed"]
    train_and_die(20, monkeypatch, *words)
    plan = json.loads(Path("runs/timed/plan.json").read_text())
    plan["changes"] = [[22, 23]]  # decided after the last checkpoint: it is decided again
    Path("runs/timed/plan.json").write_text(json.dumps(plan))
    assert run_app(["train", "--resume", "runs/timed"]) == 0
    state = newest_checkpoint(Path("runs/timed"))
    assert state is not None
    assert state.position.step == 23


def test_decisions_are_those_that_it_began_with(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders()
    append(folder / "labels.csv", "cat/3.png", "drop")
    words = [*RECIPES["fast"].split(), "--labels", str(folder / "labels.csv")]
    assert run_app(["train", str(folder), *words, "--name", "whole"]) == 0
    train_and_die(5, monkeypatch, "train", str(folder), *words, "--name", "broken")
    append(folder / "labels.csv", "cat/4.png", "drop")  # since then
    assert run_app(["train", str(folder), *words, "--resume", "runs/broken"]) == 0
    assert what_is_left(Path("runs/broken")) == what_is_left(Path("runs/whole"))


def test_other_batches_may_be_forced_upon_it(stopped: Path) -> None:
    words = ["--resume-anyway", "-b", "36", "--threads", "1"]
    assert run_app(["train", "--resume", str(stopped), *words]) == 0
    assert run_app(["train", "--resume", str(stopped), "--resume-anyway", "--model", "lesson"]) == 4
    assert run_app(["train", "--resume", str(stopped)]) == 0  # it is still what it was


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_checkpoint_before(
    call: str, error: int, lasting: bool, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(step, path), _] = list_checkpoints(stopped)
    checkpoint = newest_checkpoint(stopped)
    assert checkpoint is not None
    later = replace(checkpoint, position=replace(checkpoint.position, step=step + 1))
    module, name = (Path, call) if call in ("mkdir", "open", "replace") else (os, call)
    real, calls = getattr(module, name), [0]

    def refuse(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if lasting or calls[0] == 1:
            raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, refuse)
        with pytest.raises(StorageError, match=r"checkpoints.*" + os.strerror(error)) as caught:
            save_checkpoint(stopped, later)
    assert caught.value.exit_code == 5
    again = newest_checkpoint(stopped)
    assert again is not None
    assert again.position.step in (step, step + 1)  # the new one is whole, or not there
    assert path.exists()
