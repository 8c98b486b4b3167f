"""Every verb as a user types it, and one line with the right exit code for every mistake."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from eyebright import console
from eyebright.cli import VERBS, app, run_app
from eyebright.console import counted
from eyebright.data import sources

QUICK = ["--epochs", "2", "--model", "white16", "-b", "16", "--device", "cpu"]


def png_width(path: str) -> int:
    with Image.open(path) as image:
        return image.width


def test_the_whole_way(eyebright_says: Callable, class_folders: Callable[..., Path]) -> None:
    data = class_folders("pets/train").parent
    class_folders("pets/test", count=5)
    code, out, _ = eyebright_says("look", data, "--count", 5)
    assert code == 0
    assert "grid: look-pets.png" in out
    assert png_width("look-pets.png") > 400
    code, out, _ = eyebright_says("train", data, *QUICK, "--val", "0.2")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "model will be trained on device: 'cpu'"
    assert lines[1] == "white16 on 32 pictures, 8 held out, into runs/pets-fast"
    assert lines[2].startswith("epoch  1/2  train loss ")
    assert "validation accuracy" in lines[2]
    assert "Finished Training" in lines
    assert "run folder: runs/pets-fast" in lines
    assert lines[-1] == "open the test set: eyebright test runs/pets-fast"
    code, out, _ = eyebright_says("val", "runs/pets-fast")
    assert code == 0
    assert out.startswith("Accuracy of the network on the 8 validation images: ")
    code, out, _ = eyebright_says("test", "runs/pets-fast")
    assert code == 0
    leaks, first, *_ = out.splitlines()
    assert "stood among those trained on too" in leaks  # before any figure
    assert first.startswith("Accuracy of the network on the 10 test images: ")
    assert "Accuracy for class: cat   is " in out
    assert "this run has opened a test set 1 time (" in out
    assert "opened a test set 2 times" in eyebright_says("test", "runs/pets-fast")[1]
    picture = data / "test" / "dog" / "0.png"
    code, out, _ = eyebright_says("predict", "runs/pets-fast", picture, "--json")
    assert code == 0
    [row] = json.loads(out)
    assert row["picture"] == str(picture)
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
    code, out, _ = eyebright_says("predict", "runs/pets-fast", picture)
    assert code == 0
    assert f"{100 * row['probabilities'][row['prediction']]:.1f} %" in out
    code, out, _ = eyebright_says("predict", "runs/pets-fast", "--sample", 3)
    assert code == 0
    truth = next(line for line in out.splitlines() if line.startswith("GroundTruth:  "))
    assert set(truth.split()[1:]) <= {"cat", "dog"}
    assert len(truth.split()) == 4
    assert "Predicted:  " in out
    code, out, _ = eyebright_says("predict", "runs/pets-fast", "--sample", 3, "--json")
    assert [row["label"] for row in json.loads(out)] == truth.split()[1:]
    assert png_width("runs/pets-fast/sample.png") > 300


def test_promises_seeds_folds_and_comparisons(
    eyebright_says: Callable, class_folders: Callable[..., Path]
) -> None:
    data = class_folders("pets/train", count=60).parent
    class_folders("pets/test", count=20)
    code, out, _ = eyebright_says("train", data, *QUICK, "--val", "0.5", "--seeds", 2)
    assert code == 0
    assert "== seed0" in out
    assert "pets-fast (2" in out
    one, two = "runs/pets-fast-seed0", "runs/pets-fast-seed1"
    code, out, _ = eyebright_says("val", one, "--interval", "exact", "--risk", "0.4")
    assert code == 0
    assert "right on at least 60 % of those, with 95 % confidence" in out
    assert "Clopper" in Path(one, "val.json").read_text()
    Path(one, "report.html").unlink()
    code, out, _ = eyebright_says("test", one, "--risk", "0.4", "--coverage", "0.9")
    assert code == 0
    assert "accuracy on 40 test pictures" in Path(one, "report.html").read_text()
    assert "here: answers " in out
    assert "for 90 % coverage" in out
    assert "here: they hold the true class of " in out
    assert "have looked at" not in out
    code, out, _ = eyebright_says("test", two)
    assert "the runs in runs/ have looked at this test set 2 times" in out
    code, out, _ = eyebright_says("compare", one, two, "--json")
    assert code == 0
    assert [len(group["runs"]) for group in json.loads(out)["groups"]] == [2]
    code, out, _ = eyebright_says("train", data, *QUICK, "--epochs", "1", "--name", "other")
    code, out, _ = eyebright_says("test", "runs/other")
    code, out, _ = eyebright_says("compare", one, "runs/other", "-n", 3)
    assert code == 0
    assert "right by other alone: " in out
    assert "count seeds and" not in out
    picture = data / "test" / "dog" / "0.png"
    code, out, _ = eyebright_says("predict", one, picture, "--risk", "0.4", "--coverage", "0.9")
    assert code == 0
    assert "answer" in out
    assert "set" in out
    code, out, _ = eyebright_says("predict", one, "--sample", 3, "--coverage", "0.9")
    assert len(re.findall(r"^set of a (?:cat|dog): (?:cat|dog|not sure)", out, re.MULTILINE)) == 3
    code, out, _ = eyebright_says("predict", one, picture, "--json", "--risk", "0.4")
    [row] = json.loads(out)
    assert row["calibrated"]
    assert row["answer"] in ("cat", "dog", None)
    code, out, _ = eyebright_says("train", data, *QUICK, "--folds", 2, "--name", "two")
    assert code == 0
    assert "out-of-fold predictions: runs/two-folds/predictions-val.csv" in out
    assert "accuracy" in out


@pytest.mark.parametrize("val", ["0", "0.3"])
@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_predictions_say_what_their_probabilities_are(
    eyebright_says: Callable, class_folders: Callable[..., Path], val: str, tta: str
) -> None:
    data = class_folders()
    assert eyebright_says("train", data, *QUICK, "--val", val, "--tta", tta)[0] == 0
    picture = next(data.rglob("*.png"))
    out = eyebright_says("predict", "runs/pets-fast", picture)[1]
    assert ("uncalibrated" in out) == (val == "0")
    assert ("mirror image averaged" in " ".join(out.split())) == (tta == "mirror")
    [row] = json.loads(eyebright_says("predict", "runs/pets-fast", picture, "--json")[1])
    assert (row["calibrated"], row["tta"]) == (val != "0", tta)


def test_a_flat_folder_can_be_named_as_test_set(
    eyebright_says: Callable, class_folders: Callable[..., Path]
) -> None:
    data, other = class_folders(), class_folders("others", count=3)
    code, out, _ = eyebright_says("train", data, *QUICK)
    assert code == 0
    assert out.splitlines()[-1] == "open the test set: eyebright test runs/pets-fast DATA"
    assert "no test part" not in eyebright_says("val", "runs/pets-fast")[2]
    code, _, err = eyebright_says("test", "runs/pets-fast")
    assert code == 3
    assert "no test part; name the test data" in err
    code, out, _ = eyebright_says("test", "runs/pets-fast", other)
    assert code == 0
    assert "on the 6 test images" in out


def test_tutorial_prints_like_the_lesson(
    eyebright_says: Callable, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyebright import recipes

    few = recipes.RECIPES["tutorial"].replace(log_every=5)
    monkeypatch.setitem(recipes.RECIPES, "tutorial", few)
    code, out, _ = eyebright_says("train", class_folders(), "--recipe", "tutorial", "--epochs", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("model will be trained on device: '")
    assert lines[1].startswith("[1,     5] loss: 0.")
    assert lines[5] == "Finished Training"
    figures = [line.rsplit(" ", 1)[1] for line in lines[1:5]]
    table = "\n".join(lines[6:])
    assert all(figure in table for figure in figures)
    assert eyebright_says("val", "runs/pets-tutorial")[0] == 2


def bad_folder(make: Callable[..., Path], kind: str) -> Path:
    root = make(kind, count=2)
    if kind == "text":
        (root / "cat" / "note.jpg").write_text("no picture")
    elif kind == "zero":
        (root / "cat" / "zero.jpg").touch()
    elif kind == "cut":
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "cat" / "whole.jpg")
        content = (root / "cat" / "whole.jpg").read_bytes()
        (root / "cat" / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    elif kind == "empty-class":
        (root / "emu").mkdir()
    elif kind == "one-class":
        for file in (root / "dog").iterdir():
            file.unlink()
        (root / "dog").rmdir()
    elif kind == "no-pictures":
        for file in root.rglob("*.png"):
            file.unlink()
    return root


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("text", "note.jpg"),
        ("zero", "zero.jpg"),
        ("cut", "cut.jpg"),
        ("empty-class", "emu"),
        ("one-class", "one class only"),
        ("no-pictures", "no pictures"),
    ],
)
def test_bad_folders(
    eyebright_says: Callable, class_folders: Callable[..., Path], kind: str, named: str
) -> None:
    code, out, err = eyebright_says("train", bad_folder(class_folders, kind), *QUICK)
    assert code == 3
    assert named in err
    assert "Traceback" not in err + out
    assert not Path("runs").exists()


def test_skip_bad_goes_on_and_counts(
    eyebright_says: Callable, class_folders: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    code, _, _ = eyebright_says("train", bad_folder(class_folders, "text"), *QUICK, "--skip-bad")
    assert code == 0
    assert "1 unreadable picture was left out" in caplog.text
    assert eyebright_says("val", "runs/text-fast")[0] == 0
    code, _, err = eyebright_says("val", "runs/text")
    assert (code, err) == (
        4,
        "eyebright: runs/text: no such run folder (did you mean runs/text-fast?)\n",
    )


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("train nowhere", 3, "nowhere: no such file"),
        ("train digits --recipe magic", 2, "'magic'"),
        ("train digits --model resnet9000", 2, "'resnet9000'"),
        ("train digits --device tpu", 2, "'tpu'"),
        ("train digits --augment rotate", 2, "'rotate'"),
        ("train digits --metric f1", 2, "'f1'"),
        ("train digits --epochs 0", 2, "--epochs"),
        ("train digits --epochs many", 2, "--epochs"),
        ("train digits --lr -1", 2, "--lr"),
        ("train digits --val 1.5", 2, "--val"),
        ("train digits --precision fp8", 2, "fp8"),
        ("train digits --imgsz 2", 2, "--imgsz"),
        ("train digits --name a/b", 2, "--name"),
        ("train digits --recipe tutorial --imgsz 8", 2, "at least 16 px"),
        ("train --frobnicate", 2, "--frobnicate"),
        ("frobnicate", 2, "frobnicate"),
        ("val nowhere", 4, "nowhere: no such run folder"),
        ("test nowhere", 4, "nowhere: no such run folder"),
        ("test .", 4, "no run"),
        ("predict . x.png", 4, "no run"),
        (
            "predict .",
            2,
            "needs pictures, or --sample 4 (and not both): eyebright predict . PICTURE",
        ),
        ("train cifar1O", 3, "no data by that name (did you mean cifar10?)"),
        ("look CIFAR-100", 3, "(did you mean cifar100?)"),
        ("train digits --model resnt18", 2, "(did you mean resnet18?)"),
        ("train digits --augment miror", 2, "'miror' (did you mean mirror?)"),
        ("train digits --balance weight", 2, "'weight' (did you mean weights?)"),
        ("train digits --target 85", 2, "a share from 0 to 1, not 85 (did you mean 0.85?)"),
        ("train digits --val 20", 2, "a share from 0 to 0.9, not 20 (did you mean 0.2?)"),
        ("train digits --val -1", 2, "a share from 0 to 0.9, not -1\n"),
        ("train digits --lr 0", 2, "--lr must be more than 0, not 0"),
        ("train digits --lr abc", 2, "--lr cannot be 'abc': it takes a number"),
        ("train digits --epochs 2.5", 2, "--epochs cannot be '2.5': it takes a whole number"),
        ("train digits --folds 1", 2, "--folds must be at least 2, not 1"),
        ("serve r --port 99999", 2, "--port must be at most 65535, not 99999"),
        ("train digits --epohcs 3", 2, "train has no option --epohcs (did you mean --epochs?)"),
        ("train -z", 2, "train has no option -z (see eyebright train --help)"),
        ("train --model", 2, "--model needs a value after it"),
        ("train my pets", 2, "train takes only [DATA]: 'pets' is too much (a name with spaces"),
        ("doctor now", 2, "doctor takes no argument: 'now' is too much"),
        ("trian digits", 2, "no command is called 'trian' (did you mean train?)"),
        ("photos", 2, "no command is called 'photos'; choose one of: look, audit,"),
        (
            "test",
            2,
            "test needs RUN: eyebright test RUN [DATA]; none is in runs/ yet: eyebright tr",
        ),
        ("explain r", 2, "explain needs PICTURE: eyebright explain RUN PICTURE..."),
        ("convert digits", 2, "convert needs OUT: eyebright convert DATA OUT"),
        (
            "compare r",
            2,
            "two runs or more; none is in runs/ either: eyebright train DATA makes one",
        ),
        ("runs nowhere", 2, "nowhere: no such folder of runs"),
        ("look digits --out nowhere/grid.png", 5, "nowhere/grid.png"),
        ("look digits --imgsz 0", 2, "--imgsz"),
        ("train digits --imgsz 4096", 5, "lower --imgsz"),
    ],
)
def test_mistakes_are_one_line(eyebright_says: Callable, words: str, code: int, named: str) -> None:
    got, out, err = eyebright_says(*words.split())
    assert got == code, err
    assert named in err
    assert err.startswith("eyebright: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.fixture
def runs_and_pictures(class_folders: Callable[..., Path]) -> None:
    """Folders as somebody may have them; no run here is more than its settings."""
    class_folders("photos", count=2)
    Path("photos/cat/0.png").rename("cat.png")
    for age, name in enumerate(("pets", "birds")):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "config.json").write_text("{}")
        os.utime(f"runs/{name}/config.json", (age, age))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            "predict cat.png runs/pets",
            4,
            "cat.png is no run; {first}: eyebright predict runs/pets cat",
        ),
        ("predict photos runs/pets", 4, "{first}: eyebright predict runs/pets photos"),
        ("predict a b c d e runs/pets", 4, "eyebright predict runs/pets a b c ..."),
        ("explain cat.png runs/pets", 4, "{first}: eyebright explain runs/pets cat.png"),
        ("embed cat.png runs/pets", 4, "{first}: eyebright embed runs/pets cat.png"),
        ("test photos runs/pets", 4, "{first}: eyebright test runs/pets photos"),
        ("predict cat.png x.png", 4, "neither a run folder nor an .onnx file; {first}; {there}"),
        ("explain cat.png x.png", 4, "cat.png: no run folder; {first}; {there}"),
        ("val cat.png", 4, "cat.png: a file, and no run folder; {there}"),
        ("report photos", 4, "photos: no run folder (config.json is missing); {there}"),
        ("val runs/pet", 4, "runs/pet: no such run folder (did you mean runs/pets?)"),
        ("val pets", 4, "pets: no such run folder (did you mean runs/pets?)"),
        ("val x", 4, "x: no such run folder; {there}"),
        ("val", 2, "val needs RUN: eyebright val RUN; the newest in runs/: runs/birds, runs/pets"),
        ("compare runs/pets", 2, "compare needs two runs or more; {there}"),
        ("runs --remove pest", 2, "runs has no run called 'pest' (did you mean pets?)"),
        ("look phots", 3, "(did you mean photos?)"),
        ("look Photos", 3, "(did you mean photos?)"),
        ("look runs/pets", 3, "runs/pets: a run folder; name the pictures instead"),
        ("look runs", 3, "runs/birds: a run folder, and no class of pictures"),
        (
            "train photos --weights cat.pgn",
            4,
            "cat.pgn: No such file or directory (did you mean ca",
        ),
    ],
)
def test_what_was_meant_is_named(
    eyebright_says: Callable, runs_and_pictures: None, words: str, code: int, said: str
) -> None:
    first = "the run comes first, then the pictures"
    there = "there are runs/birds, runs/pets"
    got, _, err = eyebright_says(*words.split())
    assert (got, err.count("\n")) == (code, 1), err
    assert said.format(first=first, there=there) in err


def test_a_misspelt_picture_is_named(eyebright_says: Callable, shipped: Path) -> None:
    Path("cats.png").touch()
    code, _, err = eyebright_says("predict", shipped / "runs" / "r", "cast.png")
    assert (code, err) == (
        3,
        "eyebright: cast.png: no such file or folder (did you mean cats.png?)\n",
    )


@pytest.mark.parametrize("verb", [*VERBS, None])
def test_the_help_says_no_kind_of_a_flag(
    eyebright_says: Callable, verb: Callable[..., None] | None
) -> None:
    code, out, _ = eyebright_says(*([verb.__name__] if verb else []), "--help")
    assert (code, "<bool>" in out, "[[" in out) == (0, False, False)


def test_one_of_a_kind_is_no_plural() -> None:
    assert [counted(n, "picture") for n in (0, 1, 2000)] == [
        "0 pictures",
        "1 picture",
        "2,000 pictures",
    ]
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]


def test_a_model_with_other_classes_than_the_data(
    eyebright_says: Callable, class_folders: Callable[..., Path]
) -> None:
    assert eyebright_says("train", class_folders(), *QUICK)[0] == 0
    birds = class_folders("birds", classes=("emu", "owl"), count=2)
    code, _, err = eyebright_says("test", "runs/pets-fast", birds)
    assert code == 3
    assert "no class 'emu' among those known: cat, dog" in err
    code, _, err = eyebright_says("test", "runs/pets-fast", "digits")
    assert code == 3
    assert not Path("runs/pets-fast/tests.jsonl").exists()
    code, _, err = eyebright_says("predict", "runs/pets-fast", "missing.png")
    assert code == 3
    assert "missing.png: no such file or folder" in err


def test_a_folder_without_classes_can_be_predicted_not_trained_on(
    eyebright_says: Callable, class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    data = class_folders()
    assert eyebright_says("train", data, *QUICK)[0] == 0
    loose = tmp_path / "loose"
    (loose / "more").mkdir(parents=True)
    for i in range(3):
        (data / "dog" / f"{i}.png").rename(loose / "more" / f"{i}.png" if i else loose / "0.png")
    (loose / "notes.txt").write_text("no picture")
    code, out, _ = eyebright_says("predict", "runs/pets-fast", loose, "--json")
    assert code == 0
    names = [row["picture"] for row in json.loads(out)]
    assert names == [f"{loose}/{name}" for name in ("0.png", "more/1.png", "more/2.png")]
    (loose / "more" / "1.png").write_bytes(b"")
    code, _, err = eyebright_says("predict", "runs/pets-fast", loose)
    assert (code, f"{loose}/more/1.png: the file is empty" in err) == (3, True)
    (loose / "more" / "1.png").unlink()
    (loose / "more" / "2.png").unlink()
    (loose / "more").rmdir()
    code, _, err = eyebright_says("train", loose, *QUICK)
    assert code == 3
    assert f"{loose}: 1 picture but no class folders" in err
    assert f"eyebright predict RUN {loose}" in err
    (loose / "0.png").unlink()
    code, _, err = eyebright_says("predict", "runs/pets-fast", loose)
    assert (code, f"{loose}: no pictures in it" in err) == (3, True)


def test_the_first_command_works_without_a_network(
    eyebright_says: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from eyebright.data import cache, cifar

    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(cifar, "URLS", ["http://127.0.0.1:9/cifar-10-python.tar.gz"])
    monkeypatch.setattr(cache, "PATIENCE", 2.0)
    code, out, _ = eyebright_says("train", *QUICK)
    assert code == 0
    assert "training on the handwritten digits of scikit-learn instead" in out
    assert "run folder: runs/digits-fast" in out
    # Named, it is an error that says what to do.
    code, _, err = eyebright_says("train", "cifar10", *QUICK)
    assert code == 5
    assert "EYEBRIGHT_DATA" in err


def test_a_diverged_training_exits_with_6(
    eyebright_says: Callable, class_folders: Callable[..., Path]
) -> None:
    words = ["--recipe", "tutorial", "--lr", "1e6", "--epochs", "3"]
    code, _, err = eyebright_says("train", class_folders(), *words)
    assert code == 6
    assert "step " in err
    assert "learning rate 1e+06" in err


def test_names_of_data_are_documented() -> None:
    from eyebright.cli.options import DATA_HELP

    assert all(name in DATA_HELP for name in sources.NAMES)


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "eyebright", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Whoever runs the tests in the background has Ctrl-C ignored, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_battery_16_ctrl_c_saves_and_exits_with_130(class_folders: Callable[..., Path]) -> None:
    data = class_folders()
    words = ["train", str(data), "--recipe", "tutorial", "--epochs", "100000"]
    with start(*words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "trained on device" in process.stdout.readline()
        process.stdout.readline()  # the first epoch's line: training is under way
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.returncode == 130, err
    assert "is kept in runs/pets-tutorial" in out
    assert "Traceback" not in err
    assert run_app(["predict", "runs/pets-tutorial", str(data / "cat" / "0.png")]) == 0


def test_battery_16_a_polite_kill_saves_and_exits_with_143(
    class_folders: Callable[..., Path],
) -> None:
    words = ["train", str(class_folders()), "--recipe", "tutorial", "--epochs", "100000"]
    with start(*words) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "is kept in runs/pets-tutorial" in out
    assert "Traceback" not in err


def test_lines_and_progress_bar_share_a_terminal(class_folders: Callable[..., Path]) -> None:
    """On a terminal the bar shows loss, speed and time left, and no line is glued to it."""
    data = class_folders(count=200)
    words = [sys.executable, "-m", "eyebright", "train", str(data), "--epochs", "6"]
    words += ["--model", "white16", "-b", "16", "--device", "cpu"]
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(words, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal is gone when the program is
            while piece := os.read(parent, 65536):
                seen += piece
    os.close(parent)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert re.search(r"training .*loss \d\.\d+ .*images/s .*left", text)
    lines = re.split(r"[\r\n]+", text)
    assert sum(line.startswith("epoch  ") for line in lines) == 6
    assert not any(re.search(r"\Sepoch ", line) for line in lines)


@pytest.mark.parametrize(("silence", "lines"), [(60.0, 0), (0.0, 3)])
def test_a_file_is_told_after_a_minute_of_silence(
    silence: float,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console, "SIGN_OF_LIFE", silence)
    with console.progress_bar("trials", None, quiet=True) as outer:
        with console.progress_bar("training", 2000) as bar:
            bar.update(1000, "loss 1.2")
            bar.update(2000, "loss 1.1")
        with console.progress_bar("reading", None) as bar:
            bar.advance(3)
        outer.advance()
    said = [
        "training: 1,000 of 2,000  loss 1.2",
        "training: 2,000 of 2,000  loss 1.1",
        "reading: 3",
    ]
    assert capsys.readouterr().err.splitlines() == said[:lines]


def test_help_and_version_and_a_broken_pipe() -> None:
    with start("--version") as process:
        assert process.communicate()[0].startswith("eyebright 0.")
    with start("train", "--help") as process:
        text = process.communicate()[0]
    for flag in ("--recipe", "--model", "--epochs", "--batch-size", "--lr", "--seed", "--val"):
        assert flag in text
    command = f"{sys.executable} -m eyebright look digits --count 1000 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("\n") == 1
    command = f"{sys.executable} -m eyebright; exit $?"
    assert (
        "eyebright:"
        not in subprocess.run(command, shell=True, capture_output=True, text=True).stderr
    )
    assert "Traceback" not in done.stderr


def test_each_verbs_example_can_be_typed(eyebright_says: Callable) -> None:
    commands = get_command(app).commands
    for verb, example in VERBS.items():
        program, name, *arguments = shlex.split(example)
        assert (program, name) == ("eyebright", verb.__name__)
        commands[name].make_context(name, arguments)  # raises for an option that there is not
        code, out, _ = eyebright_says(name, "--help")
        assert code == 0
        assert f"Example: {example}" in " ".join(out.split())
