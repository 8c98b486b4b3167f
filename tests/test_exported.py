"""An exported model in use: without torch, the same as the run, and damaged or hostile."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyebright import Classifier
from eyebright.calibration import Promise, Promises, SetRule
from eyebright.errors import DataError, ModelError, UsageError
from eyebright.exported import ExportedClassifier
from eyebright.exported_card import CARD, NO_SUM, SUM, ExportedCard, read_card, seal
from eyebright.onnx_file import read_metadata

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
Says = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
CARD_OF_TEST = ExportedCard(
    ("a", "b"), 8, "pixels", "", "none", None, "test", "0" * 63 + "1"
)  # fmt: skip


@pytest.fixture
def model(shipped: Path) -> Path:
    return shipped / "onnx" / "model.onnx"


def rewritten(model: Path, change: Callable[[Any, dict[str, Any]], None]) -> Path:
    """A file whose graph and card were changed, with a sum that is right again."""
    proto = onnx.load(model)
    card = json.loads(read_metadata(model.read_bytes())[CARD])
    change(proto, card)
    del proto.metadata_props[:]
    for key, value in ((CARD, json.dumps(card)), (SUM, NO_SUM)):
        proto.metadata_props.add(key=key, value=value)
    path = Path("changed.onnx")
    path.write_bytes(seal(proto.SerializeToString()))
    return path


def test_it_says_what_the_run_says(shipped: Path, model: Path) -> None:
    exported, classifier = ExportedClassifier.load(model), Classifier.load(shipped / "runs" / "r")
    files = sorted((shipped / "pets").glob("*/*.png"))[::10]
    pixels = np.asarray(Image.open(files[0]))
    mixed = [*files, files[1].read_bytes(), pixels]
    wanted = classifier.predict(mixed)
    for one, two in zip(exported.predict(mixed), wanted, strict=True):
        assert one.label == two.label
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)
    assert exported.classes == classifier.classes
    assert exported.predict_proba([]).shape == (0, 2)
    assert exported.predict_proba(mixed).sum(1) == pytest.approx(1, abs=1e-12)
    with pytest.raises(DataError, match="picture 1: "):
        exported.predict([pixels, b"no picture"])


def test_batches_and_single_pictures_agree(shipped: Path, model: Path) -> None:
    exported = ExportedClassifier.load(model)
    images = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3), np.uint8)
    single = np.concatenate([exported.predict_proba(images[i : i + 1]) for i in range(150)])
    assert np.abs(exported.predict_proba(images) - single).max() < 1e-5


def test_battery_34_library_command_line_and_evaluation_agree(
    shipped: Path, model: Path, eyebright_says: Says
) -> None:
    run, pets = shipped / "runs" / "r", shipped / "pets"
    said = {}
    for name in (run, model):
        code, out, _ = eyebright_says("predict", name, pets, "--format", "jsonl")
        assert code == 0
        said[name] = [json.loads(line) for line in out.splitlines()]
    files = [row["picture"] for row in said[run]]
    assert len(files) == 260
    assert [row["label"] for row in said[run]] == [row["label"] for row in said[model]]
    library = Classifier.load(run).predict(files)
    for one, two, three in zip(said[run], said[model], library, strict=True):
        assert one["probability"] == pytest.approx(two["probability"], abs=1e-4)
        assert one["probability"] == pytest.approx(three.probability, abs=1e-4)
    lines = (run / "predictions-val.csv").read_text(encoding="utf-8").splitlines()[1:]
    by_name = {
        Path(f).relative_to(pets).as_posix(): row for f, row in zip(files, said[model], strict=True)
    }
    assert len(lines) == 78
    for line in lines:
        name, _, label, *figures = line.split(",")
        assert by_name[name]["label"] == label
        assert by_name[name]["probability"] == pytest.approx(max(map(float, figures)), abs=1e-4)


def test_battery_34_a_thousand_real_pictures(cifar10_home: Path, eyebright_says: Says) -> None:
    """Library, command line, evaluation and graph on 1,000 training pictures of CIFAR-10."""
    for folder in (cifar10_home / "cifar10-folder" / "train").iterdir():
        (Path("real") / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:100]:
            shutil.copy(file, Path("real") / folder.name)
    train = "--recipe fast --model white16 --epochs 1 -b 50 --val 0.2 --device cpu --name c"
    assert eyebright_says("train", "real", *train.split())[0] == 0
    assert eyebright_says("export", "runs/c")[0] == 0
    files = sorted(Path("real").glob("*/*"))
    assert len(files) == 1000
    rows = {}
    for name in ("runs/c", "runs/c/onnx/model.onnx"):
        out = eyebright_says("predict", name, "real", "--format", "jsonl")[1]
        rows[name] = [json.loads(line) for line in out.splitlines()]
    assert [row["picture"] for row in rows["runs/c"]] == list(map(str, files))
    library = Classifier.load("runs/c").predict_proba(files)
    graph = ExportedClassifier.load("runs/c/onnx/model.onnx").predict_proba(files)
    assert np.abs(library - graph).max() < 1e-4
    assert (library.argmax(1) == graph.argmax(1)).all()
    for one, two in zip(*rows.values(), strict=True):
        assert one["label"] == two["label"]
        assert abs(one["probability"] - two["probability"]) < 1e-4


def test_predict_takes_every_flag(shipped: Path, model: Path, eyebright_says: Says) -> None:
    pets = shipped / "pets"
    code, out, _ = eyebright_says("predict", model, pets / "cat", "--coverage", 0.9, "--top", 1)
    assert code == 0
    assert "set" in out
    code, out, _ = eyebright_says("predict", model, pets / "cat" / "0.png", "--json")
    assert json.loads(out)[0]["calibrated"] is True
    words = ["--copy-into", "sorted", "--yes", "-o", "rows.csv", "-j", 1, "--device", "cpu"]
    assert eyebright_says("predict", model, pets / "cat", *words)[0] == 0
    assert len(list(Path("sorted").glob("*/*.png"))) == 130
    for words, message in (
        (["--sample", 2], "knows no test part"),
        ([pets, "--coverage", 0.8], "carries --coverage 0.9 alone"),
        ([pets, "--risk", 0.01], "name the run folder"),
        ([pets, "--device", "cuda"], "on the processor"),
    ):
        code, _, err = eyebright_says("predict", model, *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


def test_torch_is_not_imported(shipped: Path, model: Path) -> None:
    code = """
import sys
from eyebright.__main__ import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
assert 'onnxruntime' in sys.modules
heavy = {'torch', 'torchvision', 'timm', 'onnx', 'scipy', 'sklearn', 'matplotlib'}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    words = ["predict", str(model), str(shipped / "pets"), "--format", "csv"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 261


def test_a_wheel_without_torch_predicts_the_same(
    shipped: Path, model: Path, tmp_path: Path, eyebright_says: Says
) -> None:
    """The wheel alone, beside onnxruntime, numpy, pillow, typer, rich and what those need."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    made = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "wheels", "."]
    subprocess.run(made, cwd=source, check=True, capture_output=True)
    [wheel] = (source / "wheels").glob("eyebright-*.whl")
    venv.create(tmp_path / "bare", with_pip=False)
    [packages] = (tmp_path / "bare").glob("lib/python*/site-packages")
    put = [*pip, "install", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run(put, check=True, capture_output=True)
    for name in needed_by("numpy", "pillow", "typer", "rich", "onnxruntime"):
        for top in {
            file.parts[0] for file in distribution(name).files or () if file.parts[0] != ".."
        }:
            there = Path(str(distribution(name).locate_file(top)))
            if there.exists() and not (packages / top).exists() and top != "__pycache__":
                (packages / top).symlink_to(there)
    python = str(tmp_path / "bare" / "bin" / "python")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    no_torch = subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True)
    assert b"No module named 'torch'" in no_torch.stderr
    words = ["predict", str(model), str(shipped / "pets"), "--format", "csv"]
    bare = subprocess.run(
        [python, "-m", "eyebright", *words], env=clean, capture_output=True, text=True
    )
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout == eyebright_says(*words)[1]


def needed_by(*names: str) -> set[str]:
    """These packages and all that they need on this machine."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop().lower()) in found:
            continue
        found.add(name)
        for text in distribution(name).requires or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return found


def refused(path: Path, says: Says, shipped: Path) -> str:
    """What a command says of a file that it refuses: one line, exit 4."""
    code, out, err = says("predict", path, shipped / "pets" / "cat" / "0.png")
    assert (code, out) == (4, ""), err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_battery_23_damaged_files(shipped: Path, model: Path, eyebright_says: Says) -> None:
    whole = model.read_bytes()
    bad = Path("bad.onnx")
    rng = np.random.default_rng(0)
    for content in (b"", b"no model", b"\x08" * 5000, b"\xff" * 3000, whole[:-1], whole[:1000]):
        bad.write_bytes(content)
        refused(bad, eyebright_says, shipped)
    for at in [0, 5, len(whole) - 1, *rng.integers(0, len(whole), 60).tolist()]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        bad.write_bytes(flipped)
        with pytest.raises(ModelError):
            ExportedClassifier.load(bad)
    with pytest.raises(ModelError, match="unreadable"):
        ExportedClassifier.load("nowhere.onnx")
    os.mkfifo("pipe.onnx")
    with pytest.raises(ModelError, match="no regular file"):
        ExportedClassifier.load("pipe.onnx")


def test_battery_22_files_of_others(shipped: Path, model: Path, eyebright_says: Says) -> None:
    foreign = onnx.load(model)
    del foreign.metadata_props[:]
    onnx.save(foreign, "foreign.onnx")
    assert "not written by eyebright" in refused(Path("foreign.onnx"), eyebright_says, shipped)
    changed = rewritten(model, lambda proto, card: None)
    assert ExportedClassifier.load(changed).classes  # the changes alone are what is refused


def say_another_size(proto: Any, card: dict[str, Any]) -> None:
    card["imgsz"] = 8


def drop_a_class(proto: Any, card: dict[str, Any]) -> None:
    card["classes"] = ["cat"]


def read_elsewhere(proto: Any, card: dict[str, Any]) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def read_elsewhere_in_an_attribute(proto: Any, card: dict[str, Any]) -> None:
    node = proto.graph.node.add(op_type="Constant", output=["x"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.external_data.add(key="location", value="/etc/passwd")


def repeat(proto: Any, card: dict[str, Any]) -> None:
    proto.graph.node.add(op_type="Loop", output=["x"])


def bring_operators(proto: Any, card: dict[str, Any]) -> None:
    proto.graph.node[0].domain = "evil"


def bring_unknown_operators(proto: Any, card: dict[str, Any]) -> None:
    proto.graph.node[0].op_type = "Nonsense"


def nest(proto: Any, card: dict[str, Any]) -> None:
    graph = proto.graph
    for _ in range(30):
        graph = graph.node.add(op_type="Foo").attribute.add(name="g").g


def give_no_numbers(proto: Any, card: dict[str, Any]) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("head.weight"):
            values = np.full(tuple(tensor.dims), np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            return
    raise AssertionError("no such weights")


def call_itself(proto: Any, card: dict[str, Any]) -> None:
    function = proto.functions.add()
    function.name, function.domain = "f", ""


HOSTILE = {
    call_itself: "a function graph of its own",
    say_another_size: "not what its metadata say",
    drop_a_class: "not what its metadata say",
    read_elsewhere: "read from other files",
    read_elsewhere_in_an_attribute: "read from other files",
    repeat: "branches or repeats",
    bring_operators: "operators of somebody else",
    bring_unknown_operators: "no graph that can be run",
    nest: "nested too deeply",
    give_no_numbers: "no probabilities",
}


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_battery_24_hostile_graphs(
    change: Any, shipped: Path, model: Path, eyebright_says: Says
) -> None:
    assert HOSTILE[change] in refused(rewritten(model, change), eyebright_says, shipped)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99), ("imgsz", 10**9), ("imgsz", -1), ("imgsz", "16"), ("imgsz", 16.0),
        ("classes", []), ("classes", ["a", "a"]), ("classes", "ab"), ("classes", [1, 2]),
        ("classes", [str(i) for i in range(200_000)]), ("policy", "another"), ("tta", "ten crops"),
        ("temperature", 0), ("temperature", "hot"), ("temperature", 1e99), ("int8", 1),
        ("input", "tensor"), ("input", []), ("weights_sha256", None), ("architecture", {}),
        ("promises", None), ("promises", {"answers": {"risk": 2}, "sets": None}),
        ("promises", {"answers": None, "sets": {"coverage": 0.9, "threshold": "x"}}),
    ],
)  # fmt: skip
def test_battery_21_hostile_metadata(
    key: str, value: Any, shipped: Path, model: Path, eyebright_says: Says
) -> None:
    def change(proto: Any, card: dict[str, Any]) -> None:
        card[key] = value

    refused(rewritten(model, change), eyebright_says, shipped)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{" * 100_000, "NaN", '{"format": 1}', "\0"])
def test_battery_21_metadata_that_are_no_card(text: str) -> None:
    with pytest.raises(ModelError):
        read_card(text, "model.onnx")


def test_battery_21_names_are_escaped(shipped: Path, model: Path, eyebright_says: Says) -> None:
    def change(proto: Any, card: dict[str, Any]) -> None:
        card["classes"] = ["../../up\x1b[2J", "<script>alert(1)</script>\n"]

    path = rewritten(model, change)
    pets = shipped / "pets" / "cat"
    code, out, _ = eyebright_says("predict", path, pets, "--copy-into", "deep/in", "--yes")
    assert code == 0
    assert "\x1b" not in out
    inside = [p.relative_to(Path.cwd()).parts[:2] for p in Path.cwd().rglob("*.png")]
    assert inside
    assert set(inside) == {("deep", "in")}


def test_a_promise_is_kept_as_it_was_made() -> None:
    given = Promises(Promise(0.05, 0.9, 0.5, 100), SetRule(0.9, 0.1))
    from eyebright.images import POLICY

    card = replace(CARD_OF_TEST, policy=POLICY, promises=given)
    assert read_card(card.to_json(), "model.onnx") == card


def test_without_onnxruntime_the_message_names_the_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install .*\[export\]"):
        ExportedClassifier.load(model)


@pytest.mark.parametrize("home", ["own", "none"])
def test_onnxruntime_tells_nobody_what_it_sees(shipped: Path, model: Path, home: str) -> None:
    """Left to itself it writes a device id into the home folder, and sends it to its maker."""
    own = Path("home").resolve()
    own.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment["HOME"] = str(own if home == "own" else own / "missing")
    picture = next((shipped / "pets").rglob("*.png"))
    words = [sys.executable, "-m", "eyebright", "predict", str(model), str(picture)]
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    assert not [one for one in own.rglob("*") if "icrosoft" in str(one)]
