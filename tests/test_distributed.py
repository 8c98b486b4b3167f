"""Many processes that train one net: what one would do, faster, whatever happens to them."""

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from eyebright import distributed
from eyebright.batches import parts_of_batches, train_batches
from eyebright.config import TrainConfig
from eyebright.files import read_json
from eyebright.order import epoch_order
from eyebright.saver import list_checkpoints
from ranks_worker import NORMALIZATION, losses_of, pictures

HERE = Path(__file__).parent
CALM = {"optimizer": "sgd", "lr": 0.05, "max_steps": 50}
CASES: dict[str, dict[str, Any]] = {
    # Muon makes small differences large: at the usual rate one of 1e-7 grows to 5e-3 in 50 steps.
    "muon": {"model": "white16", "batch_size": 256, "lr": 0.002, "rest_lr": 2e-4, "max_steps": 50},
    "sgd": {"model": "white16", "batch_size": 256, "augment": "mirror+shift+cutout", **CALM},
    "weights": {"model": "white16", "batch_size": 100, "balance": "weights", **CALM, "lr": 0.01},
    "uneven": {"model": "own", "batch_size": 96, "drop_last": False, **CALM},  # 640 = 6 × 96 + 64
    "one left": {"model": "lesson", "batch_size": 8, "n": 41, "drop_last": False, **CALM},
    "crops": {"model": "lesson", "batch_size": 64, "augment": "crop", **CALM},
    "bf16": {"model": "white16", "batch_size": 255, "precision": "bf16", "lr": 0.005,
             "rest_lr": 5e-4, "max_steps": 20},
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks make of each case, started as a cluster would, without torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.json").write_text(json.dumps(list(CASES.values())))
    command = [sys.executable, str(HERE / "ranks_worker.py"), "cases.json", "found.json"]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(command, cwd=folder, env=environment(RANK=str(rank), **where))
        for rank in range(2)
    ]
    assert [one.wait(timeout=300) for one in ranks] == [0, 0]
    return dict(zip(CASES, json.loads((folder / "found.json").read_text()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_do_what_one_does(name: str, trained: dict[str, dict[str, Any]]) -> None:
    alone, together = losses_of(CASES[name]), trained[name]
    steps, bf16 = CASES[name]["max_steps"], name == "bf16"
    assert len(alone["losses"]) == len(together["losses"]) == steps
    off = np.abs(np.subtract(alone["losses"], together["losses"]))
    assert off.max() < (5e-3 if bf16 else 1e-4)
    assert np.ptp(alone["losses"]) > 0.05  # something was learned
    assert np.sum(together["counts"]) == 33  # each picture held out once
    if not bf16:
        assert np.allclose(alone["logits"], together["logits"], atol=2e-3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("first", [0, 4])
def test_ranks_share_each_batch_out(size: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they see just the pictures, as augmented, that one process would."""
    data = pictures(43)
    config = TrainConfig(batch_size=8, augment="mirror+shift+crop", drop_last=False)

    def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        return list(train_batches(images, labels, config, NORMALIZATION, 3, first=first))

    alone = batches()
    of_ranks = []
    for rank in range(size):
        monkeypatch.setattr(distributed, "size", lambda: size)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        of_ranks.append(batches())
    assert [len(one) for one in of_ranks] == [len(alone)] * size == [6 - first] * size
    for whole, *parts in zip(alone, *of_ranks, strict=True):
        for i in range(2):
            if len(whole[1]) < size:  # too few to share: everybody has all of them
                assert all(torch.equal(part[i], whole[i]) for part in parts)
            else:
                assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_no_picture_is_missed_where_the_number_of_ranks_changes_within_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, batch = 1000, 24
    order = epoch_order(n, seed=0, epoch=1).numpy()
    seen: list[int] = []
    for size, batches in ((3, range(17)), (2, range(17, 30)), (7, range(30, 42))):
        monkeypatch.setattr(distributed, "size", lambda size=size: size)
        for number in batches:
            which = order[number * batch : (number + 1) * batch]
            for rank in range(size):
                monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
                mine, _ = parts_of_batches(len(which), batch, torch.device("cpu"))
                assert mine is not None
                seen += which[mine.numpy()].tolist()
    assert sorted(seen) == list(range(n))


def test_norms_over_one_rank_are_torchs() -> None:
    from eyebright.norms import NormsOverRanks

    x = torch.randn(6, 5, 4, 3, requires_grad=True)
    weight, bias = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    found = []
    for mode in (contextlib.nullcontext(), NormsOverRanks()):
        mean, variance = torch.zeros(5), torch.ones(5)
        with mode:
            out = F.batch_norm(x, mean, variance, weight, bias, True, 0.3, 1e-3)
            kept = F.batch_norm(x, mean, variance, weight, bias, False, 0.3, 1e-3)
        gradients = torch.autograd.grad(out.square().sum() + out.prod(), (x, weight, bias))
        found.append([out, kept, mean, variance, *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)


# The command itself, under torchrun. Checkpoints come so often that a kill finds one.
VICTIM = """
import sys
from eyebright import saver
saver.LEAST, saver.SHARE = 0.3, 1.0
from eyebright.__main__ import main
if __name__ == "__main__":
    main()
"""
TRAIN = "train digits --runs runs --epochs 6 --model white16 --precision fp32 --threads 1".split()


@contextlib.contextmanager
def torchrun(
    folder: Path, *words: str, options: tuple[str, ...] = (), netns: str | None = None, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The command in two processes; gone when the block ends."""
    (folder / "victim.py").write_text(VICTIM)
    options = options or ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    inside = ["ip", "netns", "exec", netns] if netns else []
    command = [*inside, sys.executable, "-m", "torch.distributed.run", *options, "victim.py"]
    with (folder / f"log{netns or ''}").open("ab") as log:
        agent = subprocess.Popen(
            [*command, *words], cwd=folder, env=environment(**more), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield agent
    finally:
        for pid in [*ranks_of(agent), agent.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.wait()


def ranks_of(agent: subprocess.Popen[bytes]) -> list[int]:
    """The processes that it started, the first rank first."""
    found = {}
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    for pid in children.read_text().split() if children.exists() else ():
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found.update({int(v[5:]): int(pid) for v in variables if v.startswith(b"RANK=")})
    return [found[rank] for rank in sorted(found)]


def until(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def has_checkpoint(run: Path) -> bool:
    """Whether there is one to go on from; a run with none but its first is tidied away."""
    return any(step for step, _ in list_checkpoints(run))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two ranks trained in peace."""
    folder = tmp_path_factory.mktemp("calm")
    with torchrun(folder, *TRAIN, "--name", "calm") as agent:
        assert agent.wait(timeout=240) == 0, (folder / "log").read_text()
    return folder / "runs" / "calm"


def test_the_command_writes_and_speaks_once(undisturbed: Path, eyebright_says: Any) -> None:
    said = (undisturbed.parents[1] / "log").read_text()
    assert said.count("Finished Training") == 1
    assert said.count("open the test set") == 1
    assert [one.name for one in undisturbed.parent.iterdir()] == ["calm"]
    environment_said = read_json(undisturbed / "env.json")
    assert environment_said["ranks"] == 2
    assert environment_said["finished"] is True
    rows = (undisturbed / "log.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [[str(e), str(20 * e)] for e in range(1, 7)]
    assert float(rows[-1].split(",")[4]) > 0.9
    assert eyebright_says("val", undisturbed)[0] == 0
    # With another number of ranks it would not be the very same run, and says so.
    code, _, error = eyebright_says("train", "--resume", undisturbed)
    assert code == 2
    assert "ranks was 2, now 1" in error


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_changes_nothing(
    rank: int, undisturbed: Path, tmp_path: Path
) -> None:
    with torchrun(tmp_path, *TRAIN, "--name", "hit") as agent:
        run = tmp_path / "runs" / "hit"
        until(lambda: has_checkpoint(run))
        os.kill(ranks_of(agent)[rank], signal.SIGKILL)
        assert agent.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    model = "model.safetensors"
    assert (run / model).read_bytes() == (undisturbed / model).read_bytes()
    (resumed,) = read_json(run / "env.json")["resumed"]
    assert resumed["exact"] is True
    assert [one.name for one in run.parent.iterdir()] == ["hit"]


@pytest.mark.slow
def test_a_rank_that_hangs_is_noticed(undisturbed: Path, tmp_path: Path) -> None:
    with torchrun(tmp_path, *TRAIN, "--name", "hit", EYEBRIGHT_TIMEOUT="5") as agent:
        run = tmp_path / "runs" / "hit"
        until(lambda: has_checkpoint(run))
        hanging = ranks_of(agent)[1]
        os.kill(hanging, signal.SIGSTOP)
        stopped = time.monotonic()
        until(
            lambda: "another rank is gone, or no longer answers" in (tmp_path / "log").read_text()
        )
        assert time.monotonic() - stopped < 30
        os.kill(hanging, signal.SIGCONT)  # or torchrun would wait half a minute for its end
        assert agent.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    model = "model.safetensors"
    assert (run / model).read_bytes() == (undisturbed / model).read_bytes()


@pytest.mark.slow
def test_ctrl_c_stops_all_ranks_and_the_run_goes_on(
    undisturbed: Path, tmp_path: Path, eyebright_says: Any
) -> None:
    """With as many ranks to the very same bits; with another number, where that is asked for."""
    run, log = tmp_path / "runs" / "hit", tmp_path / "log"
    with torchrun(tmp_path, *TRAIN, "--name", "hit") as agent:
        until(lambda: has_checkpoint(run))
        os.killpg(agent.pid, signal.SIGINT)  # as a terminal does
        agent.wait(timeout=60)
    said = log.read_text()
    assert said.count("interrupted; ") == 1, said
    assert "go on with 2 ranks again: torchrun ... -m eyebright train --resume runs/hit" in said
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    with torchrun(tmp_path, "train", "--resume", "runs/hit") as agent:
        assert agent.wait(timeout=240) == 0, log.read_text()
    model = "model.safetensors"
    assert (run / model).read_bytes() == (undisturbed / model).read_bytes()
    (resumed,) = read_json(run / "env.json")["resumed"]
    assert resumed["exact"] is True
    assert eyebright_says("train", "--resume", alone, "--resume-anyway")[0] == 0
    (resumed,) = read_json(alone / "env.json")["resumed"]
    assert resumed["exact"] is False
    assert "ranks was 2, now 1" in resumed["differences"]
    assert resumed["step"] > 0


@pytest.fixture
def two_machines() -> Iterator[dict[str, str]]:
    """Network namespaces joined by a cable, and the address of each."""
    addresses = {f"eyebright-{os.getpid()}-{i}": f"10.77.0.{i}" for i in (1, 2)}
    one, other = addresses
    made = subprocess.run(["ip", "netns", "add", one], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs root and network namespaces: {made.stderr.strip()}")
    try:
        ip("netns", "add", other)
        ip("-n", one, *f"link add cable type veth peer name cable netns {other}".split())
        for name, address in addresses.items():
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield addresses
    finally:
        for name in addresses:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")
def test_a_link_that_is_cut_and_restored_changes_nothing(
    undisturbed: Path, two_machines: dict[str, str], tmp_path: Path
) -> None:
    host = next(iter(two_machines.values()))
    run, model = tmp_path / "runs" / "hit", "model.safetensors"
    with contextlib.ExitStack() as stack:
        agents = []
        for name, address in two_machines.items():
            options = (
                f"--nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-id cut --rdzv-backend c10d "
                f"--rdzv-endpoint {host}:29400 --rdzv-conf is_host={int(address == host)} "
                f"--local-addr {address}"
            ).split()
            agents.append(stack.enter_context(torchrun(
                tmp_path, *TRAIN, "--name", "hit", options=tuple(options), netns=name,
                GLOO_SOCKET_IFNAME="cable", EYEBRIGHT_TIMEOUT="4",
            )))  # fmt: skip
        until(lambda: has_checkpoint(run))
        one = next(iter(two_machines))
        ip("-n", one, "link", "set", "cable", "down")
        logs = [tmp_path / f"log{name}" for name in two_machines]
        until(lambda: all("no longer answers" in log.read_text() for log in logs), 30)
        ip("-n", one, "link", "set", "cable", "up")
        assert [agent.wait(timeout=240) for agent in agents] == [0, 0], logs[0].read_text()
    assert (run / model).read_bytes() == (undisturbed / model).read_bytes()
    assert [one["exact"] for one in read_json(run / "env.json")["resumed"]] == [True]


def test_a_backbone_over_ranks(
    class_folders: Any, eyebright_says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features, shared out, give the same linear probe; then it is trained on."""
    class_folders("pets", count=15, size=(70, 60))
    command = [
        "train", "pets", "--recipe", "finetune", "--runs", "runs", "--imgsz", "64", "--epochs", "1",
        "--tune", "last", "--threads", "1", "--precision", "fp32", "--val", "0.4",
    ]  # fmt: skip
    assert eyebright_says(*command, "--name", "one")[0] == 0
    with torchrun(Path.cwd(), *command, "--name", "two") as agent:
        assert agent.wait(timeout=240) == 0, Path("log").read_text()
    texts = [Path(f"runs/{name}/log.csv").read_text() for name in ("one", "two")]
    logs = [list(csv.DictReader(text.splitlines())) for text in texts]
    for one, two in zip(*logs, strict=True):
        assert one["step"] == two["step"]
        assert one["val_accuracy"] == two["val_accuracy"]
    probes = [float(rows[0]["train_loss"]) for rows in logs]
    assert probes[0] == pytest.approx(probes[1], abs=1e-5)
    heads = [load_file(f"runs/{name}/model.safetensors") for name in ("one", "two")]
    assert len(logs[0]) == 2  # the probe, and an epoch
    for key in heads[0]:
        assert torch.allclose(heads[0][key].float(), heads[1][key].float(), atol=1e-3), key


@pytest.mark.slow
def test_ranks_keep_to_a_time(tmp_path: Path, eyebright_says: Any) -> None:
    """By what the first of them measures: all stop at the same step."""
    words = "train digits --runs runs --time 30s --threads 1 --name timed".split()
    with torchrun(tmp_path, *words) as agent:
        assert agent.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert said.count("plan: ") == 1, said
    run = tmp_path / "runs" / "timed"
    assert read_json(run / "env.json")["finished"] is True
    assert eyebright_says("val", run)[0] == 0


def test_what_makes_no_sense_is_refused(
    eyebright_says: Any, monkeypatch: pytest.MonkeyPatch, class_folders: Any
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    code, _, error = eyebright_says("train", class_folders(), "--seeds", 2)
    assert code == 2
    assert "not under torchrun" in error
    monkeypatch.setenv("EYEBRIGHT_TIMEOUT", "soon")
    code, _, error = eyebright_says("train", class_folders("other"))
    assert code == 2
    assert "EYEBRIGHT_TIMEOUT must be a number of seconds" in error
    assert error.startswith("eyebright (rank 0): ")


def test_more_ranks_than_pictures_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from eyebright.errors import UsageError
    from eyebright.jobs import check_ranks

    monkeypatch.setattr(distributed, "size", lambda: 5)
    check_ranks(TrainConfig(batch_size=5))
    with pytest.raises(UsageError, match="batches of 4 pictures are too few for 5 ranks"):
        check_ranks(TrainConfig(batch_size=4))


def test_the_run_of_this_start_is_found_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside damaged ones, those of other starts, and others that the same program trained."""
    of_pets: dict[str, Any] = {"launch": "pets", "asked": "x"}
    envs: dict[str, Any] = {
        "b": of_pets, "c": of_pets | {"launch": "others"}, "d": of_pets | {"asked": "y"},
    }  # fmt: skip
    for name, text in (("a", "{"), *((name, json.dumps(env)) for name, env in envs.items())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "env.json").write_text(text)
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert distributed.find_begun(tmp_path, "x", False) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "pets")
    assert distributed.find_begun(tmp_path, "x", False) == tmp_path / "b"
    assert distributed.find_begun(tmp_path, "z", True) is None
    # One that came to its end is not trained again by ranks that were started again, and is no
    # obstacle to whoever gives the same command once more.
    (tmp_path / "b" / "env.json").write_text(json.dumps(of_pets | {"finished": True}))
    assert distributed.find_begun(tmp_path, "x", True) == tmp_path / "b"
    assert distributed.find_begun(tmp_path, "x", False) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not distributed.was_restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert distributed.was_restarted()
    (tmp_path / "b" / "config.json").unlink()  # no run yet
    assert distributed.find_begun(tmp_path, "x", True) is None


def test_a_start_of_the_same_name_trains_what_it_is_asked_for(
    class_folders: Any, eyebright_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "pets")
    words = ["--runs", "runs", "--recipe", "fast", "--model", "lesson", "--epochs", 1]
    class_folders("cats")
    class_folders("dogs")
    for name in ("cats", "dogs", "dogs"):
        assert eyebright_says("train", name, *words)[0] == 0
    assert sorted(one.name for one in Path("runs").iterdir()) == [
        "cats-fast", "dogs-fast", "dogs-fast-2",
    ]  # fmt: skip
