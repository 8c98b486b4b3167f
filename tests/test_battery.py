"""Cases of bad input, faults and hostile files that nothing smaller than a command shows.

Cases that a single module answers for are tested beside it; all are named after their numbers.
"""

import contextlib
import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eyebright
from eyebright import Classifier, Run, runtime, training
from eyebright.batches import HALF
from eyebright.cli import run_app
from eyebright.console import notices
from eyebright.data import decoding, load, pixels
from eyebright.data.cache import data_home
from eyebright.features import cached_features
from eyebright.models import create_model
from eyebright.saver import list_checkpoints, newest_checkpoint
from tampering import Canary, change_card, disk, honest, put_anything

FAST = "--recipe fast --model white16 --epochs 3 -b 8 --device cpu".split()
Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def trained(class_folders: Callable[..., Path]) -> Path:
    """A run on pictures of 32 px in the folder ``pets``."""
    words = ["train", str(class_folders(size=(32, 32))), *FAST, "--name", "trained"]
    assert run_app(words) == 0
    return Path("runs/trained")


def test_battery_01_and_03_all_bad_pictures_are_named_before_the_first_step(
    class_folders: Callable[..., Path],
    eyebright_says: Says,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notices, "propagate", True)
    folder = class_folders(ending=".jpg", size=(64, 64))
    whole = (folder / "cat" / "0.jpg").read_bytes()
    bad = [folder / "dog" / f"cut{i}.jpg" for i in range(10)]
    for i, path in enumerate(bad):
        path.write_bytes(whole[: len(whole) * i // 10])  # the first one has no byte at all
    bad.append(folder / "cat" / "note.jpg")
    bad[-1].write_text("no picture")
    with monkeypatch.context() as patch:
        patch.setattr(training, "set_lr", lambda *_: pytest.fail("a step was taken"))
        code, out, err = eyebright_says("train", folder, *FAST)
    assert code == 3
    assert out == ""
    assert all(str(path) in err for path in bad)
    assert "11 of 51 pictures cannot be read" in err
    assert not Path("runs").exists()
    code, out, err = eyebright_says("train", folder, *FAST, "--skip-bad")
    assert code == 0
    assert "11 unreadable pictures were left out" in caplog.text
    assert json.loads(Path("runs/pets-fast/data.json").read_text())["skipped_bad"] is True


def test_battery_02_a_file_cut_short_while_it_is_read_is_named(
    class_folders: Callable[..., Path], eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(ending=".jpg", size=(64, 64))
    real, victim = decoding.read_image, folder / "dog" / "7.jpg"

    def cut_another(content: bytes, imgsz: int) -> Any:
        victim.write_bytes(victim.read_bytes()[:100])
        return real(content, imgsz)

    monkeypatch.setattr(decoding, "read_image", cut_another)
    code, _, err = eyebright_says("train", folder, *FAST, "-j", 1)
    assert code == 3
    assert f"{victim}: changed while it was being read" in err
    assert not Path("runs").exists()


def test_battery_02_a_file_cut_short_during_the_steps_spoils_nothing(
    class_folders: Callable[..., Path], eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are decoded before the first step: the run is the same, and the next one says it."""
    folder = class_folders(ending=".jpg", size=(64, 64))
    assert run_app(["train", str(folder), *FAST, "--name", "whole"]) == 0
    victim, real, steps = folder / "dog" / "7.jpg", training.set_lr, [0]
    content = victim.read_bytes()

    def cut(*arguments: Any) -> None:
        steps[0] += 1
        if steps[0] == 6:
            victim.write_bytes(content[:300])
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "set_lr", cut)
        assert run_app(["train", str(folder), *FAST, "--name", "cut"]) == 0
    models = [Path(f"runs/{name}/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]
    before = [path.read_bytes() for _, path in list_checkpoints(Path("runs/cut"))]
    code, _, err = eyebright_says("train", "--resume", "runs/cut")
    assert code == 3
    assert str(victim) in err
    assert [path.read_bytes() for _, path in list_checkpoints(Path("runs/cut"))] == before
    victim.write_bytes(content)
    assert run_app(["train", "--resume", "runs/cut"]) == 0


def test_battery_07_a_turned_picture_is_the_same_everywhere(
    trained: Path, eyebright_says: Says, picture: Callable[..., Image.Image]
) -> None:
    upright = picture(48, 40)
    turns = {  # EXIF orientation -> what undoes it
        1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
        6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270",
    }  # fmt: skip
    for label in ("cat", "dog"):
        for orientation, turn in turns.items():
            stored = upright.transpose(Image.Transpose[turn]) if turn else upright
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = Path("turned") / label / f"{orientation}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            stored.save(path, exif=exif)
    read = load("turned", imgsz=32)
    assert all(np.array_equal(one, read.images[0]) for one in read.images)
    assert eyebright_says("test", trained, "turned")[0] == 0
    rows = [r.split(",") for r in (trained / "predictions-test.csv").read_text().splitlines()[1:]]
    assert len(rows) == 16
    assert len({tuple(row[2:]) for row in rows}) == 1
    code, out, _ = eyebright_says("predict", trained, "turned/cat", "--json")
    assert code == 0
    said = [row["probabilities"] for row in json.loads(out)]
    assert all(one == said[0] for one in said)
    assert said[0]["cat"] == pytest.approx(float(rows[0][3]), abs=1e-6)


SLOW_SAVE = """
import sys, time
from eyebright import keeper
from eyebright.__main__ import main

def slow(*_):
    print("SAVING", flush=True)
    time.sleep(60)

keeper.Keeper.save_interrupted = slow
main()
"""


def test_battery_16_a_second_ctrl_c_ends_at_once_and_leaves_nobody_behind(
    class_folders: Callable[..., Path],
) -> None:
    words = ["train", str(class_folders()), *"--recipe tutorial --epochs 100000".split()]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        while "epoch  1/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        while "SAVING" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert process.wait(30) == 130
        assert time.monotonic() - begun < 5
        assert "Traceback" not in process.stderr.read()
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        os.killpg(process.pid, 0)
    assert not list(Path("runs").rglob("*.tmp"))
    assert list_checkpoints(Path("runs/pets-tutorial"))


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
def test_battery_15_a_disk_that_refuses_any_call_of_a_whole_training(
    lasting: bool, class_folders: Callable[..., Path], eyebright_says: Says,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = ("train", class_folders(count=4), *FAST, "--epochs", "1", "--name", "full")
    monkeypatch.setattr(runtime, "_git_state", lambda: None)  # its pipes are no disk
    for _ in range(2):  # the first time the decoded pictures are kept, too
        shutil.rmtree("runs", ignore_errors=True)
        with disk(honest) as calls:
            assert eyebright_says(*words)[0] == 0
    assert len(calls) > 100
    for failing in range(0, len(calls) - 1, 7):  # the last one gives the lock back
        shutil.rmtree("runs")

        def refuse(index: int, called: str, arguments: Any, real: Callable[..., Any]) -> Any:
            if index == failing or (lasting and index > failing):  # noqa: B023 (called at once)
                if called == "close":
                    real(*arguments)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        with disk(refuse):
            code, _, err = eyebright_says(*words)
        assert code in ((5,) if lasting else (0, 5)), (failing, err)
        assert len(err.splitlines()) <= 2, (failing, err)
        if code == 5:
            assert os.strerror(errno.ENOSPC) in err
            if Path("runs/full").exists():
                begun = any(step for step, _ in list_checkpoints(Path("runs/full")))
                code, _, err = eyebright_says("train", "--resume", "runs/full")
                assert code in ((0,) if begun else (0, 4)), (failing, err)
        Path("runs").mkdir(exist_ok=True)


def test_battery_16_ctrl_c_while_torch_is_loading_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    code = "import os, signal, sys\nprint('loading', flush=True)\n"
    code += "os.kill(os.getpid(), signal.SIGINT)\nfor i in range(10**6): pass\nprint('loaded')"
    (tmp_path / "torch" / "__init__.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "eyebright", "train", "digits"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1] / 'src'}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "loading\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_battery_16_nothing_is_lost_by_ctrl_c(
    number: int, class_folders: Callable[..., Path]
) -> None:
    """It waits for the step that is under way: the checkpoint is of that very moment."""
    words = ["train", str(class_folders()), *"--recipe tutorial --epochs 3000 --val 0".split()]
    with subprocess.Popen(
        [sys.executable, "-m", "eyebright", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while "epoch 20/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number, err
    checkpoint = newest_checkpoint(Path("runs/pets-tutorial"))
    assert checkpoint is not None
    epochs = [line for line in out.splitlines() if line.startswith("epoch ")]
    # No checkpoint was due yet, and so the one before was that of the beginning.
    assert checkpoint.position.epoch >= 20 + len(epochs)


def test_battery_18_there_are_no_workers_to_kill_and_no_shared_memory_to_fill(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads decode: training has no process beside it, and its pictures are no shared memory."""
    children, shared, real = set(), set(), training.set_lr

    def look(*arguments: Any) -> None:
        for task in Path("/proc/self/task").iterdir():
            children.add((task / "children").read_text())
        shared.update(p.name for p in Path("/dev/shm").iterdir())
        real(*arguments)

    before = {p.name for p in Path("/dev/shm").iterdir()}
    monkeypatch.setattr(training, "set_lr", look)
    assert run_app(["train", str(class_folders()), *FAST, "-j", "2"]) == 0
    assert children <= {""}
    assert shared <= before


def test_battery_18_a_tiny_shm_is_enough(class_folders: Callable[..., Path]) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    words = [sys.executable, "-m", "eyebright", "train", str(class_folders()), *FAST, "-j", "2"]
    script = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_battery_18_a_thread_that_has_no_memory_left_ends_it_in_one_line(
    class_folders: Callable[..., Path], eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "read_image", fail)
    code, _, err = eyebright_says("train", class_folders(), *FAST, "-j", 2)
    assert code == 5
    assert err.startswith("eyebright: out of memory")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("way", ["pickle", "torch.save"])
def test_battery_21_pickles_in_place_of_our_files_are_never_run(
    way: str,
    trained: Path,
    eyebright_says: Says,
    class_folders: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a run or a cache holds: each file in turn is a pickle that would leave a canary."""
    trap = tmp_path / "trap"
    content = {"a": Canary()}
    if way == "pickle":
        trap.write_bytes(pickle.dumps(content))
        pickle.loads(trap.read_bytes())
    else:
        torch.save(content, trap)
        torch.load(trap, weights_only=False)
    assert Path("canary").exists()  # it works
    Path("canary").unlink()
    assert eyebright_says("test", trained, class_folders("others", size=(30, 30)))[0] == 0
    hostile = trap.read_bytes()
    files = [p for p in trained.rglob("*") if p.is_file() and p.suffix not in (".png", ".html")]
    assert len(files) > 10
    shutil.copytree(trained, "whole")
    for path in files:
        shutil.rmtree(trained)
        shutil.copytree("whole", trained)
        path.write_bytes(hostile)
        codes = [
            eyebright_says("predict", trained, "pets/cat/0.png")[0],
            eyebright_says("val", trained)[0],
            eyebright_says("train", "--resume", trained)[0],
            eyebright_says("report", trained)[0],
            eyebright_says("compare", trained, "whole", "--split", "test")[0],
            eyebright_says("runs", "runs")[0],
        ]
        assert set(codes) <= {0, 2, 3, 4}, path
        needed = path.name in ("model.json", "model.safetensors")
        assert (codes[0] == 4) == needed, path
        assert not Path("canary").exists(), path
    shutil.rmtree(trained)
    shutil.copytree("whole", trained)
    for path in pixels.cache_folder().rglob("*"):
        if path.is_file():
            path.write_bytes(hostile)
    assert eyebright_says("val", trained)[0] == 0  # made anew
    (trained / "trained-on.safetensors").write_bytes(hostile)
    assert Run(trained).trained_on() is None
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "data"))
    net = create_model("lesson", 2, 32)
    data = load("pets", imgsz=32)
    features = cached_features(net, data, HALF, "none")
    [kept] = (data_home() / "features").iterdir()
    kept.write_bytes(hostile)
    assert np.array_equal(cached_features(net, data, HALF, "none"), features)
    assert not Path("canary").exists()


MEASURE = """
import sys
from pathlib import Path
from bench.fuzz import peak_memory
from eyebright import Run
from eyebright.checkpoint import load_model
from eyebright.batches import HALF
from eyebright.cli import run_app
from eyebright.console import notices
from eyebright.errors import EyebrightError

kind, run, bound = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
run_app(["predict", "runs/trained", "pets/cat/0.png"])
run_app(["train", "--resume", "runs/trained"])
before = peak_memory()
if kind == "model":
    code = run_app(["predict", str(run), "pets/cat/0.png"])
else:
    code = run_app(["train", "--resume", str(run)])
grown = (peak_memory() - before) / 2**20
print(f"{code} {grown:.0f} MiB", file=sys.stderr)
sys.exit(code if grown <= bound else f"{grown:.0f} MiB")
"""


def large_header() -> bytes:
    """What a safetensors file may begin with by its own rules: a hundred million bytes."""
    names = b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(1_800_000)
    )
    return len(names).to_bytes(8, "little") + b"{" + names[:-1] + b"}"


def giant_shape(side: int = 2**40) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [side, 4], "data_offsets": [0, 16]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize("kind", ["model", "checkpoint"])
@pytest.mark.parametrize("what", ["header", "shape", "sparse", "extra", "classes"])
def test_battery_23_and_24_hostile_files_take_no_memory(
    what: str, kind: str, trained: Path
) -> None:
    run = Path("runs/hostile")
    subprocess.run(["cp", "-r", str(trained), str(run)], check=True)
    if what == "classes":
        many = [f"class {i}" for i in range(1_000_000)]
        change_card(run, classes=many)
        record = json.loads((run / "data.json").read_text())
        (run / "data.json").write_text(
            json.dumps(record | {"classes": many, "counts": dict.fromkeys(many, 1)})
        )
    else:
        file = run / "model.safetensors"
        if kind == "checkpoint":
            for _, path in list_checkpoints(run):
                path.unlink()
            file = run / "checkpoints" / f"{99:010d}-{'0' * 64}.safetensors"
        if what in ("header", "shape"):
            file.write_bytes(large_header() if what == "header" else giant_shape())
        else:
            size = 2**32 if what == "sparse" else 150 << 20
            text = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
            start = len(text).to_bytes(8, "little") + text
            with file.open("wb") as opened:
                opened.write(start)
                opened.truncate(len(start) + size)
        if kind == "checkpoint" and what != "sparse":
            digest = sha256(file.read_bytes()).hexdigest()
            file.rename(file.with_name(f"{99:010d}-{digest}.safetensors"))
        elif kind == "model" and what != "sparse":
            change_card(run, weights_sha256=sha256(file.read_bytes()).hexdigest())
    # Where all pictures are listed, what is read takes eight times its 50 MB.
    bound = 500 if (what, kind) == ("classes", "checkpoint") else 200
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(run), str(bound)],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr


def test_battery_23_a_run_to_begin_with_is_no_larger_than_its_net(
    trained: Path, eyebright_says: Says
) -> None:
    size = 50 << 20
    text = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    content = len(text).to_bytes(8, "little") + text + bytes(size)
    (trained / "model.safetensors").write_bytes(content)
    change_card(trained, weights_sha256=sha256(content).hexdigest())
    code, _, err = eyebright_says("train", "pets", *FAST, "--init", trained)
    assert code == 4
    assert "cannot belong there" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        ("model.json", "predict report"),
        ("config.json", "runs report resume"),
        ("env.json", "runs report resume"),
        ("data.json", "runs val test report resume"),
        ("val.json", "runs report predict compare-val"),
        ("test.json", "runs report compare"),
        ("tests.jsonl", "report test"),
    ],
)
def test_battery_23_any_entry_of_our_json_may_be_anything(
    name: str, verbs: str, trained: Path, eyebright_says: Says, class_folders: Callable[..., Path]
) -> None:
    others = class_folders("others", size=(30, 30))
    assert eyebright_says("test", trained, others)[0] == 0
    run, rng = Path("hostile/run"), random.Random(0)
    commands = {
        "predict": ("predict", run, "pets/cat/0.png", "--risk", "0.5", "--coverage", "0.5"),
        "runs": ("runs", "hostile"),
        "val": ("val", run),
        "test": ("test", run, others),
        "report": ("report", run),
        "resume": ("train", "--resume", run),
        "compare": ("compare", run, trained),
        "compare-val": ("compare", run, trained, "--split", "val"),
    }
    lines = (trained / name).read_text().splitlines()
    text = lines[0] if name == "tests.jsonl" else "\n".join(lines)
    for _ in range(8):
        changed = put_anything(rng, text)
        for verb in verbs.split():
            shutil.rmtree("hostile", ignore_errors=True)
            shutil.copytree(trained, run)
            (run / name).write_text(changed + "\n")
            if name == "model.json":
                with contextlib.suppress(TypeError):  # no object any more
                    change_card(run)
            code, _, err = eyebright_says(*commands[verb])
            assert code in (0, 2, 3, 4), (verb, changed)
            assert len(err.splitlines()) <= 2, (verb, changed, err)


@pytest.mark.parametrize(
    "text",
    [
        "epoch,step\n1,2\n",
        "x" * 200_000,
        'epoch,"' + "x" * 200_000 + '"\n',
        "\udcff\udcfe",
        "",
        "epoch,step,seconds,train_loss,val_accuracy,val_balanced_accuracy,val_n\n1,2,x,nan,,,\n",
    ],
    ids=["columns", "long", "long field", "no text", "empty", "no numbers"],
)
def test_battery_23_a_log_may_hold_anything(text: str, trained: Path, eyebright_says: Says) -> None:
    for name in ("log.csv", "tests.jsonl", "predictions-val.csv"):
        run = Path("hostile/run")
        shutil.rmtree("hostile", ignore_errors=True)
        shutil.copytree(trained, run)
        (run / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        for words in (
            ("runs", "hostile"),
            ("report", run),
            ("predict", run, "pets", "--risk", 0.5),
        ):
            code, _, err = eyebright_says(*words)
            assert code in (0, 2, 4), (name, words)
            assert len(err) < 1000


@pytest.mark.parametrize("name", ["tests.jsonl", "log.csv", "trained-on.safetensors", "val.json"])
def test_battery_23_a_pipe_in_a_run_is_not_waited_for(
    name: str, trained: Path, eyebright_says: Says
) -> None:
    (trained / name).unlink(missing_ok=True)
    os.mkfifo(trained / name)
    for words in (("runs", "runs"), ("report", trained), ("predict", trained, "pets/cat/0.png")):
        assert eyebright_says(*words)[0] in (0, 4)


def test_battery_24_names_of_classes_are_only_names(trained: Path, eyebright_says: Says) -> None:
    evil = ["../../escaped", "<script>alert(1)</script>\x1b[2J\n"]
    change_card(trained, classes=evil)
    code, out, err = eyebright_says("predict", trained, "pets/cat/0.png")
    assert code == 0
    assert "\x1b" not in out + err
    assert "../../escaped" in out
    code, out, _ = eyebright_says("predict", trained, "pets/cat/0.png", "--json")
    assert set(json.loads(out)[0]["probabilities"]) == set(evil)
    change_card(trained, classes=[f"class {i}" for i in range(1_000_000)])
    code, _, err = eyebright_says("predict", trained, "pets/cat/0.png")
    assert code == 4
    assert "model.json" in err
    assert len(err) < 500
    assert not list(Path().glob("**/*escaped*"))


def test_battery_34_library_command_line_and_evaluation_say_the_same_of_1000_pictures(
    class_folders: Callable[..., Path], eyebright_says: Says
) -> None:
    train = class_folders("train", size=(32, 32), count=60)
    test = class_folders("test", classes=("cat", "dog"), count=500, size=(40, 36), ending=".jpg")
    # Ten epochs: enough to be surer than one half, whatever a processor rounds.
    assert run_app(["train", str(train), *FAST, "--epochs", "10", "--name", "r"]) == 0
    code, out, _ = eyebright_says("predict", "runs/r", test, "--json")
    assert code == 0
    rows = json.loads(out)
    assert len(rows) == 1000
    classifier = Classifier.load("runs/r")
    paths = [row["picture"] for row in rows]
    command = np.array([[row["probabilities"][c] for c in ("cat", "dog")] for row in rows])
    batched = classifier.predict_proba(paths)
    single = np.concatenate([classifier.predict_proba([path]) for path in paths])
    for i in range(0, len(rows), 100):  # the command, too, one picture at a time
        [row] = json.loads(eyebright_says("predict", "runs/r", paths[i], "--json")[1])
        assert row["prediction"] == rows[i]["prediction"]
        alone = [row["probabilities"][c] for c in ("cat", "dog")]
        np.testing.assert_allclose(alone, command[i], rtol=0, atol=1e-6)
    evaluation = eyebright.Run("runs/r").test(test)
    order = {str(test / name): i for i, name in enumerate(evaluation.ids)}
    evaluated = evaluation.probabilities[[order[path] for path in paths]]
    for other in (batched, single, evaluated):
        assert np.array_equal(other.argmax(1), command.argmax(1))
        np.testing.assert_allclose(other, command, rtol=0, atol=1e-6)
    assert 0.001 < command.min() < 0.4 < command.max()  # they are no zeros and ones


def test_what_can_only_be_read_is_read_and_never_half_written(
    trained: Path, eyebright_says: Says, tmp_path: Path
) -> None:
    """A run folder on a disk that may not be written to, for root neither."""
    place = tmp_path / "place"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        shutil.copytree(trained, place / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        assert eyebright_says("predict", place / "run", "pets/cat/0.png")[0] == 0
        assert "done" in eyebright_says("runs", place)[1]
        for words in (
            ("train", "pets", *FAST, "--runs", place),
            ("train", "--resume", place / "run"),
            ("val", place / "run"),
            ("report", place / "run"),
            ("runs", place, "--remove", "run", "--yes"),
        ):
            code, _, err = eyebright_says(*words)
            assert code == 5, words
            assert str(place) in err
            assert os.strerror(errno.EROFS) in err
            assert len(err.splitlines()) == 1
    finally:
        subprocess.run(["umount", str(place)], check=True)
