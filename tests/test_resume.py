"""A training that is interrupted goes on to the very end that it would have had."""

import contextlib
import errno
import fcntl
import json
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from bench.soak import state_of
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import eyebright
from eyebright import drive, images, keeper, measuring, saver, signals, training
from eyebright.checkpoint import load_model
from eyebright.cli import run_app
from eyebright.config import TrainConfig
from eyebright.console import notices
from eyebright.data import Dataset, load
from eyebright.data.decisions import append
from eyebright.errors import BusyError, ModelError, StorageError, UsageError
from eyebright.lock import is_locked, locked
from eyebright.models import create_model
from eyebright.resume import Checkpoint
from eyebright.saver import list_checkpoints, most_bytes, newest_checkpoint, save_checkpoint
from tampering import Canary, disk, honest, power_cuts

# What a run is killed at: before so many steps, or before (or within) so many calls that change the
# disk while a checkpoint is saved: making the folder, opening, writing, syncing and renaming the
# file, opening and syncing the folder, and (8, 16) removing an old one.
KILLS = [
    *(("step", n) for n in range(1, 6)),
    *(("save", n) for n in (2, 3, 4, 5, 7, 8, 10, 16, 22, 23)),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saver, "LEAST", 0.0)
    monkeypatch.setattr(saver, "SHARE", 1e9)
    monkeypatch.setattr(training, "REFRESH", -1.0)  # a look after every step


class KilledError(BaseException):
    """Stands for the end of a process: nothing catches it."""


@contextlib.contextmanager
def dying_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is in the block ends without a word before it takes one more step than so many."""
    real, left = training.set_lr, [steps]

    def set_lr(optimizers: Any, share: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        real(optimizers, share)

    with monkeypatch.context() as patch:
        patch.setattr(training, "set_lr", set_lr)
        with pytest.raises(KilledError):
            yield


def train_and_die(after: int, monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Run a command that dies so."""
    with dying_after(after, monkeypatch):
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
    assert state_of(Path("runs/broken")) == state_of(Path("runs/whole"))
    env = json.loads(Path("runs/broken/env.json").read_text())
    assert [one["exact"] for one in env["resumed"]] == [True, True]


@pytest.mark.slow
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
    assert state_of(Path("runs/broken")) == state_of(Path("runs/whole"))
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
        (["-b", "4", "--threads", "7"], "--batch-size was 8, now 4; --threads was"),
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


def test_battery_20_other_classes_are_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pets/dog").rename("pets/wolf")
    assert run_app(["train", "--resume", str(stopped)]) == 2
    assert "the classes are not the same" in capsys.readouterr().err


def test_settings_that_were_edited_are_no_longer_exact(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps(config | {"lr": 0.01, "batch_size": 500}))
    assert run_app(["train", "--resume", str(stopped)]) == 2
    said = capsys.readouterr().err
    assert "--lr was 0.12, stopped/config.json says 0.01" in said
    assert "--batch-size was 8, stopped/config.json says 500" in said
    assert run_app(["train", "--resume", str(stopped), "--resume-anyway"]) == 0


def test_a_folder_that_is_no_run_is_left_alone() -> None:
    for name in (".model.json.77.tmp", "deep/.x.7.tmp"):
        Path("place", name).parent.mkdir(parents=True, exist_ok=True)
        Path("place", name).write_bytes(b"somebody's")
    before = sorted(Path("place").rglob("*"))
    assert run_app(["train", "--resume", "place"]) == 4
    assert sorted(Path("place").rglob("*")) == before


def test_a_lock_that_is_a_link_or_a_pipe_is_not_followed(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / ".lock").unlink()
    Path("precious").write_text("somebody's")
    (stopped / ".lock").symlink_to(Path("precious").resolve())
    assert run_app(["train", "--resume", str(stopped)]) == 5
    assert Path("precious").read_text() == "somebody's"
    (stopped / ".lock").unlink()
    os.mkfifo(stopped / ".lock")
    assert run_app(["train", "--resume", str(stopped)]) == 5
    assert not is_locked(stopped)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_who_only_looks_stands_in_nobodys_way(stopped: Path) -> None:
    with locked(stopped):
        assert is_locked(stopped)
    with (stopped / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `is_locked` has it for a moment
        threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with locked(stopped):
            pass


def test_a_full_disk_refuses_a_lock_in_one_line(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "truncate", refuse)
    assert run_app(["train", "--resume", str(stopped)]) == 5
    assert capsys.readouterr().err.strip().endswith(f".lock: {os.strerror(errno.ENOSPC)}")


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_while_it_is_saved_is_not_forgotten(
    last: bool, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", str(class_folders()), *RECIPES["fast"].split(), "--name", "asked"]
    real = drive.Keeper.log

    def log(self: Any, result: Any) -> None:
        real(self, result)
        if result.epoch == (3 if last else 1):
            monkeypatch.setattr(signals, "_received", [signal.SIGTERM])

    monkeypatch.setattr(drive.Keeper, "log", log)
    assert run_app(words) == 130
    assert newest_step(Path("runs/asked")) == (12 if last else 4)


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
        patch.setattr(drive, "write_report", lambda *_, **__: 1 / 0)  # dies at its very end
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


def test_battery_17_the_lock_of_a_process_that_was_killed_is_free(stopped: Path) -> None:
    code = "import sys, time; from pathlib import Path; from eyebright.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('mine', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(stopped)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(BusyError, match=f"process {holder.pid}"), locked(stopped):
            pass
        holder.kill()
    assert run_app(["train", "--resume", str(stopped)]) == 0


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
        lambda s, t: t["losses"].fill_(torch.nan),
        lambda s, t: t.update(losses=t["losses"].float()),
        lambda s, t: t.update(running=torch.zeros(3)),
        lambda s, t: s["normalization"].update(std=[0, 1, 1]),
        lambda s, t: s["normalization"].update(mean=["a", 1]),
        lambda s, t: t.update(results=torch.zeros(9, 5, dtype=torch.float64)),
        lambda s, t: t["results"][:, 4].fill_(-1),
        lambda s, t: t["results"][:, 0].fill_(0.5),
        lambda s, t: s["position"].update(step=10**9),
        lambda s, t: t.pop("optimizer.0.states"),
        lambda s, t: s.pop("elapsed"),
        lambda s, t: s.update(generators={}),
        lambda s, t: s["generators"]["numpy"].pop(),
        lambda s, t: t.pop("rng.cpu"),
        lambda s, t: t.update({"rng.cpu": torch.zeros(3)}),
        lambda s, t: t.update({"best.logits": torch.zeros(3, 2)}),
        lambda s, t: t["model.head.weight"].fill_(torch.nan),
        lambda s, t: t["kept.head.weight"].fill_(torch.nan),
        lambda s, t: t.update({"kept.head.weight": t["kept.head.weight"].double()}),
        lambda s, t: t.update({"model.head.weight": t["model.head.weight"].bfloat16()}),
        lambda s, t: t["best.logits"].fill_(torch.inf),
        lambda s, t: t.update({"best.logits": t["best.logits"].bfloat16()}),
        lambda s, t: t["best.confusion"].neg_(),
        lambda s, t: t.update({"best.confusion": torch.zeros(())}),
        lambda s, t: t.update({"best.confusion": t["best.confusion"].double() * torch.nan}),
        lambda s, t: t.update(
            {"best.spare_logits": torch.zeros(2, 2), "best.spare_labels": torch.tensor([0, 99])}
        ),
        lambda s, t: t["rows"].fill_(65),
        lambda s, t: t.update(rows=torch.zeros(0, dtype=torch.uint8)),
        lambda s, t: t.update(rows=t["rows"][:0], results=t["results"][:0]),
        lambda s, t: t["losses"].fill_(1e308),
        lambda s, t: s["generators"]["numpy"].__setitem__(2, 10**9),
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


def test_battery_23_json_in_a_checkpoint_that_would_fill_the_memory_is_not_parsed(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "propagate", True)
    [(_, path), *_] = list_checkpoints(stopped)
    tensors = load_file(path)
    text = bytearray(b"[" + b"[]," * (1 << 19) + b"[]]")  # 1.5 MB, of which Python makes 30
    tensors["state"] = torch.frombuffer(text, dtype=torch.uint8)
    save_file(tensors, stopped / "new")
    put(stopped, (stopped / "new").read_bytes())
    assert run_app(["train", "--resume", str(stopped)]) == 4
    assert "bytes of JSON cannot belong there" in caplog.text


def test_battery_20_other_pictures_held_out_are_refused(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pets = class_folders(size=(32, 32))
    for pet in ("cat", "dog"):
        (pets / "val" / pet).mkdir(parents=True)
        (pets / "train").mkdir(exist_ok=True)
        for i in range(4):
            (pets / pet / f"{i}.png").rename(pets / "val" / pet / f"{i}.png")
        (pets / pet).rename(pets / "train" / pet)
    train_and_die(6, monkeypatch, "train", str(pets), *RECIPES["fast"].split(), "--name", "r")
    (pets / "val" / "cat").rename(pets / "val" / "was-cat")
    (pets / "val" / "dog").rename(pets / "val" / "cat")
    (pets / "val" / "was-cat").rename(pets / "val" / "dog")
    assert run_app(["train", "--resume", "runs/r"]) == 2
    assert "the pictures held out are not the same" in capsys.readouterr().err


def test_a_mark_that_it_is_not_exact_outlives_a_kill(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Path("pets/cat/0.png")
    picture.write_bytes(Path("pets/dog/0.png").read_bytes())
    real = drive.write_json

    def die(path: Path, value: Any) -> None:
        if path.name == "data.json":
            raise KilledError
        real(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(drive, "write_json", die)
        with pytest.raises(KilledError):
            run_app(["train", "--resume", str(stopped), "--resume-anyway"])
    assert run_app(["train", "--resume", str(stopped)]) == 2
    env = json.loads((stopped / "env.json").read_text())
    assert [one["exact"] for one in env["resumed"]] == [False]


def test_settings_that_were_forced_are_what_it_has_from_then_on(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--resume", str(stopped)]
    train_and_die(1, monkeypatch, *words, "--resume-anyway", "--epochs", "5")
    assert run_app([*words, "--epochs", "3"]) == 2
    assert "--epochs was 5, now 3" in capsys.readouterr().err
    assert run_app([*words, "--epochs", "5"]) == 0


class Own(nn.Module):
    """A user's net, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.double().mean((2, 3)))


class Other(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": Own, "precision": "fp32"},
        {"model": Own, "precision": "fp32", "optimizer": "adamw"},
        {"model": lambda: "white16", "optimizer": "sgd", "momentum": 0.0, "lr": 0.01},
        {"model": lambda: "white16", "rest": "sgd", "rest_lr": 0.01},
        {"model": lambda: "white16", "balance": "effective-number", "augment": "shift8+cutout"},
    ],
)
def test_whatever_optimizer_and_net_it_ends_as_if_it_had_never_stopped(
    settings: dict[str, Any], class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(class_folders(size=(32, 32)))
    settings = settings | {"recipe": "fast", "epochs": 3, "batch_size": 8, "quiet": True}
    make = settings.pop("model")

    def net() -> Any:
        torch.manual_seed(0)
        return make()

    whole = eyebright.train(data, model=net(), name="whole", **settings)
    with dying_after(7, monkeypatch):
        eyebright.train(data, model=net(), name="cut", **settings)
    if make is Own:
        with pytest.raises(UsageError, match="the net was Own, now Other"):
            eyebright.train(data, model=Other(), resume="runs/cut", quiet=True)
    own = net() if make is Own else None
    cut = eyebright.train(data, model=own, resume="runs/cut", quiet=True)
    assert state_of(cut.path) == state_of(whole.path)


def test_a_run_of_very_many_epochs_can_still_be_read(stopped: Path) -> None:
    checkpoint = newest_checkpoint(stopped)
    assert checkpoint is not None
    one, row, n = checkpoint.results[-1], checkpoint.rows[-1], 30_000
    running = tuple((i, 0.5) for i in range(4))
    results = [
        replace(one, epoch=i + 1, step=4 * (i + 1), running_losses=running, val_confusion=None)
        for i in range(n)
    ]
    position = replace(checkpoint.position, epoch=n, step=4 * n, batch=0, losses=[], running=[])
    long = replace(checkpoint, results=results, rows=[row] * n, position=position)
    save_checkpoint(stopped, long)
    config = TrainConfig(model="white16", epochs=n, batch_size=8, log_every=1)
    most = most_bytes(create_model("white16", 2), 36, 2, config)
    again = newest_checkpoint(stopped, most)
    assert again is not None
    assert again.results == results
    assert again.rows == long.rows
    by_clock = replace(config, epochs=3, time=60.0, log_every=0)
    assert most_bytes(create_model("white16", 2), 36, 2, by_clock) > 200 * n


def test_figures_of_an_earlier_model_are_not_those_of_this_one(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pets = class_folders(size=(32, 32))
    others = class_folders("others", size=(30, 30))
    train_and_die(7, monkeypatch, "train", str(pets), *RECIPES["fast"].split(), "--name", "r")
    assert run_app(["test", "runs/r", str(others)]) == 0
    assert run_app(["train", "--resume", "runs/r"]) == 0
    capsys.readouterr()
    assert run_app(["runs", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["test"] is None
    assert entry["val"] is not None
    assert run_app(["report", "runs/r"]) == 0
    assert "split: test" not in Path("runs/r/model-card.md").read_text()
    assert run_app(["test", "runs/r", str(others)]) == 0
    capsys.readouterr()
    assert run_app(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["test"] is not None
    weights = Path("runs/r/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run_app(["runs"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_a_limit_on_pixels_is_the_same_when_it_goes_on(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = class_folders(size=(32, 32))
    Image.new("RGB", (200, 200)).save(pets / "cat" / "large.png")
    words = ["--skip-bad", "--max-pixels", "20000", "--name", "r"]
    train_and_die(7, monkeypatch, "train", str(pets), *RECIPES["fast"].split(), *words)
    images.limit_pixels(images.DEFAULT_MAX_PIXELS)  # as in another process
    assert run_app(["train", "--resume", "runs/r"]) == 0
    assert images.MAX_PIXELS == images.DEFAULT_MAX_PIXELS
    assert run_app(["val", "runs/r"]) == 0


def test_fewer_epochs_than_there_were_are_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--resume", str(stopped), "--resume-anyway", "--epochs"]
    assert run_app([*words, "1"]) == 2
    assert "is in its epoch 2 already: --epochs 1 is less" in capsys.readouterr().err
    assert run_app([*words, "2"]) == 0
    capsys.readouterr()
    assert run_app(["train", "--resume", str(stopped)]) == 0
    assert "there is nothing to go on with" in capsys.readouterr().out


def test_battery_17_nobody_else_writes_results_meanwhile(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["train", "--resume", str(stopped)]) == 0
    code = "import sys, time; from pathlib import Path; from eyebright.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('mine', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(stopped)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        for verb in ("val", "test", "report"):
            assert run_app([verb, str(stopped)]) == 7, verb
            assert f"process {holder.pid}" in capsys.readouterr().err
        assert run_app(["predict", str(stopped), "pets/cat/0.png"]) == 0
        holder.kill()


def test_battery_21_a_pickle_in_its_place_is_not_run(stopped: Path) -> None:
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


@pytest.mark.parametrize("name", ["write_file", "save_model"])
def test_ctrl_c_before_a_run_has_been_taken_up_changes_nothing(
    name: str, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = [(path, path.read_bytes()) for _, path in list_checkpoints(stopped)]
    model = (stopped / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(keeper, name, interrupt)
        assert run_app(["train", "--resume", str(stopped)]) == 130
    assert [(path, path.read_bytes()) for _, path in list_checkpoints(stopped)] == before
    assert (stopped / "model.safetensors").read_bytes() == model
    assert run_app(["train", "--resume", str(stopped)]) == 0


@pytest.mark.parametrize("after", [1, 2, 3])
def test_ctrl_c_while_pictures_held_out_are_looked_at_loses_nothing(
    after: int, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEWEST_MEASURED", 1)  # after the last step, and again
    words = ["train", str(class_folders()), *RECIPES["fast"].split(), "--name"]
    assert run_app([*words, "whole"]) == 0
    monkeypatch.setattr(saver, "LEAST", 1e9)
    monkeypatch.setattr(saver, "MOST_LOST", 1e9)
    real, calls = training.validate, [0]

    def interrupt(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "validate", interrupt)
        assert run_app([*words, "broken"]) == 130
    checkpoint = newest_checkpoint(Path("runs/broken"))
    assert checkpoint is not None
    assert (checkpoint.position.epoch, checkpoint.position.batch) == (after - 1, 4)
    assert run_app(["train", "--resume", "runs/broken"]) == 0
    assert state_of(Path("runs/broken")) == state_of(Path("runs/whole"))


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
    # Another time the clock would have decided otherwise, so nothing is said to be exact.
    env = json.loads(Path("runs/timed/env.json").read_text())
    assert [one["exact"] for one in env["resumed"]] == [False]


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(asked_seconds="1"),
        lambda plan: plan.update(target=[]),
        lambda plan: plan.update(candidates=[{}]),
        lambda plan: plan["chosen"].update(model=1),
        lambda plan: plan["chosen"].update(step_seconds=0),
        lambda plan: plan["chosen"].update(steps=1.5),
        lambda plan: plan.update(changes=[[1, "2"]]),
        lambda plan: plan.update(changes=5),
    ],
)
def test_battery_23_a_hostile_plan_is_refused(
    change: Any, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = str(class_folders(count=30, size=(32, 32)))
    words = ["train", folder, "--model", "white16", "-b", "8", "--time", "1h", "--name", "timed"]
    train_and_die(20, monkeypatch, *words)
    path = Path("runs/timed/plan.json")
    plan = json.loads(path.read_text())
    change(plan)
    path.write_text(json.dumps(plan))
    capsys.readouterr()
    assert run_app(["train", "--resume", "runs/timed"]) == 4
    assert "plan.json: no plan" in capsys.readouterr().err


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
    assert state_of(Path("runs/broken")) == state_of(Path("runs/whole"))


def test_other_batches_may_be_forced_upon_it(stopped: Path) -> None:
    for batch in ("36", "37"):  # as many as there are, and more
        words = ["--resume-anyway", "-b", batch, "--threads", "1"]
        assert run_app(["train", "--resume", str(stopped), *words]) == 0
    assert run_app(["train", "--resume", str(stopped), "--resume-anyway", "--model", "lesson"]) == 4
    assert run_app(["train", "--resume", str(stopped)]) == 0  # it is still what it was


def one_step_later(run: Path) -> Checkpoint:
    """What the newest checkpoint would be after one more step."""
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    step = checkpoint.position.step + 1
    return replace(checkpoint, position=replace(checkpoint.position, step=step))


def test_of_two_checkpoints_of_a_step_the_later_one_stays(stopped: Path) -> None:
    checkpoint = newest_checkpoint(stopped)
    assert checkpoint is not None
    for elapsed in range(8):  # whose name comes first is chance
        path = save_checkpoint(stopped, replace(checkpoint, elapsed=float(elapsed)))
        assert [one for step, one in list_checkpoints(stopped) if step == 6] == [path]
    assert [step for step, _ in list_checkpoints(stopped)] == [6, 5]


def newest_step(run: Path) -> int:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return checkpoint.position.step


def test_battery_14_power_fails_at_any_moment_of_a_save(stopped: Path, tmp_path: Path) -> None:
    later = one_step_later(stopped)
    folder, names, steps = stopped / "checkpoints", set(), []
    for left in power_cuts(folder, lambda: save_checkpoint(stopped, later)):
        run = tmp_path / "afterwards" / str(len(steps))
        (run / "checkpoints").mkdir(parents=True)
        for name, content in left.items():
            (run / "checkpoints" / name).write_bytes(content)
        steps.append(newest_step(run))
        names |= left.keys()
    assert {6, 7} == set(steps)
    assert steps[0] == 6
    assert steps[-1] == 7
    assert len(names) == 4  # 5, 6 and 7, and 7 while it was written


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_battery_15_a_disk_that_refuses_any_call_of_a_save(
    error: int, lasting: bool, stopped: Path
) -> None:
    later = one_step_later(stopped)
    (_, path), (_, before) = list_checkpoints(stopped)
    whole = {one: one.read_bytes() for one in (path, before)}
    with disk(honest) as calls:
        new = save_checkpoint(stopped, later)
    names = list(calls)
    assert {"mkdir", "open", "write", "fsync", "close", "replace", "unlink"} == set(names)
    for failing, name in enumerate(names):
        for one, content in whole.items():
            one.write_bytes(content)
        new.unlink(missing_ok=True)

        def refuse(index: int, called: str, arguments: Any, real: Callable[..., Any]) -> Any:
            if index == failing or (lasting and index > failing):  # noqa: B023 (called at once)
                if called == "close":
                    real(*arguments)
                raise OSError(error, os.strerror(error))
            return real(*arguments)

        # The folder is there already, and what is no longer needed may stay.
        harmless = name == "unlink" or (name == "mkdir" and not lasting)
        expected = contextlib.nullcontext() if harmless else pytest.raises(StorageError)
        with disk(refuse), expected as caught:
            save_checkpoint(stopped, later)
        if caught is not None:
            assert caught.value.exit_code == 5
            assert str(stopped / "checkpoints") in str(caught.value)
            assert os.strerror(error) in str(caught.value)
        assert newest_step(stopped) in (6, 7)
        assert path.read_bytes() == whole[path]


def test_battery_15_a_disk_that_is_full_stops_a_training_that_then_goes_on(
    class_folders: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one: a file system of its own, with room for less than two checkpoints."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(small)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        folder = str(class_folders(size=(32, 32)))
        command = ["train", folder, *RECIPES["fast"].split()]
        assert run_app([*command, "--name", "whole"]) == 0
        command += ["--name", "full", "--runs", str(small)]
        assert run_app(command) == 5
        said = capsys.readouterr().err
        assert f"{small / 'full'}" in said
        assert os.strerror(errno.ENOSPC) in said
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        if (small / "full").exists():
            assert newest_step(small / "full") >= 0
            command = ["train", "--resume", str(small / "full")]
        assert run_app(command) == 0
        assert state_of(small / "full") == state_of(Path("runs/whole"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_battery_19_the_newest_is_so_by_its_step_whatever_the_clock_says(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday = time.time() - 86_400
    (newest, path), (before, other) = list_checkpoints(stopped)
    os.utime(path, (yesterday, yesterday))
    os.utime(other, (yesterday + 86_000, yesterday + 86_000))
    assert newest_step(stopped) == newest == before + 1
    monkeypatch.setattr(time, "time", lambda: yesterday)
    assert run_app(["train", "--resume", str(stopped)]) == 0
    seconds = [float(row["seconds"]) for row in eyebright.Run(stopped).log()]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    state = newest_checkpoint(stopped)
    assert state is not None
    assert state.elapsed > 0


def test_battery_22_every_byte_and_every_end_of_a_tiny_checkpoint(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.head(pictures.mean((2, 3)))

    words: dict[str, Any] = {"epochs": 1, "batch_size": 8, "quiet": True}
    run = eyebright.train(class_folders(), model=Tiny(), name="tiny", **words).path
    monkeypatch.setattr(notices, "disabled", True)
    [(_, path), (_, other)] = list_checkpoints(run)
    other.unlink()
    content, rng = path.read_bytes(), random.Random(0)
    assert len(content) < 50_000
    with path.open("r+b") as file:
        for position in range(len(content)):
            file.seek(position)
            file.write(bytes([content[position] ^ 1 << rng.randrange(8)]))
            file.flush()
            with pytest.raises(ModelError, match="no checkpoint is whole"):
                newest_checkpoint(run)
            file.seek(position)
            file.write(content[position : position + 1])
        file.flush()
        assert newest_checkpoint(run) is not None  # it is whole again
        for end in range(len(content) - 1, -1, -1):
            file.truncate(end)
            with pytest.raises(ModelError, match="no checkpoint is whole"):
                newest_checkpoint(run)
    # And of the model, where a byte that means nothing may differ.
    whole, known = load_model(run, Tiny())
    for name in ("model.safetensors", "model.json"):
        content = (run / name).read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << rng.randrange(8)
            (run / name).write_bytes(damaged)
            try:
                _, card = load_model(run, Tiny())
            except ModelError:
                continue
            assert asdict(card) == asdict(known)  # as "1E-5" is "1e-5"
        (run / name).write_bytes(content)
        assert load_model(run, Tiny())[0].head.bias.equal(whole.head.bias)


def test_battery_35_a_loss_that_explodes_leaves_the_best_model_and_no_broken_checkpoint(
    class_folders: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", str(class_folders(size=(32, 32))), *RECIPES["tutorial"].split()]
    train_and_die(10, monkeypatch, *words, "--name", "run")  # in its second epoch
    run = Path("runs/run")
    before = (run / "model.safetensors").read_bytes()
    words = ["train", "--resume", str(run), "--resume-anyway"]
    assert run_app([*words, "--lr", "1e6", "--epochs", "9"]) == 6
    said = capsys.readouterr().err
    assert re.search(r"(at|after) step \d+ \(learning rate 1e\+06\); lower --lr", said)
    assert "the model of epoch 1 is kept" in said
    assert (run / "model.safetensors").read_bytes() == before
    assert run_app(["val", str(run)]) == 0
    for _, path in list_checkpoints(run):
        assert all(w.isfinite().all() for w in load_file(path).values() if w.is_floating_point())


def test_battery_33_workers_are_no_part_of_the_result(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYEBRIGHT_CACHE_GB", "0")  # so that each decodes for itself
    folder = str(class_folders(ending=".jpg", size=(40, 30)))
    sums = set()
    for workers in ("0", "1", "2", "2"):
        words = [*RECIPES["fast"].split(), "-j", workers, "--name", "run"]
        assert run_app(["train", folder, *words]) == 0
        newest = max(Path("runs").iterdir(), key=lambda run: run.stat().st_mtime_ns)
        sums.add(sha256((newest / "model.safetensors").read_bytes()).hexdigest())
    assert len(list(Path("runs").iterdir())) == 4
    assert len(sums) == 1
