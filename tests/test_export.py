"""`eyebright export`: graphs that say what the run says, or nothing at all."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eyebright import Classifier, Run, export, images, in_graph, quantized, tracing
from eyebright.batches import HALF, Normalization
from eyebright.calibration import softmax
from eyebright.checkpoint import ModelCard
from eyebright.errors import DataError, NumbersError, StorageError, UsageError
from eyebright.exported import ExportedClassifier
from eyebright.in_graph import Fit, Whole
from eyebright.models import create_model

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(shipped: Path) -> Path:
    return shipped / "runs" / "r"


@pytest.fixture(scope="module")
def resizing(shipped: Path) -> Path:
    """The run's model as a graph that resizes, with its certificate."""
    folder = shipped / "resizing"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYEBRIGHT_CACHE_GB", "0")
        export.export(Run(shipped / "runs" / "r"), resize=True, into=folder)
    return folder


def noise(height: int, width: int, seed: int = 0) -> images.Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SIZES = [
    (1, 1), (1, 9), (9, 1), (2, 3), (7, 7), (32, 32), (31, 33), (33, 32), (32, 65), (65, 32),
    (66, 32),
    (67, 33), (40, 30), (200, 40), (40, 200), (400, 50), (50, 401), (375, 500), (500, 375),
    (640, 310),
    (301, 149), (129, 64), (128, 64), (255, 256), (1000, 999), (700, 3), (5, 800),
]  # fmt: skip


@pytest.mark.parametrize("side", [4, 32, 57])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_graph_resizes_as_pillow_does(size: tuple[int, int], side: int) -> None:
    picture = noise(*size)
    assert np.array_equal(Fit(side)(torch.from_numpy(picture))[0], images.fit(picture, side))


def test_it_resizes_many_other_sizes_too() -> None:
    rng, fit = np.random.default_rng(1), Fit(48)
    for seed in range(150):
        height, width = np.exp(rng.uniform(0, np.log(600), 2)).astype(int)
        picture = noise(int(height), int(width), seed)
        found = fit(torch.from_numpy(picture))[0]
        assert np.array_equal(found, images.fit(picture, 48)), (height, width)


def test_which_side_comes_first_is_pillows_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(90, 40)
    ours = images.fit(picture, 16)
    monkeypatch.setattr(
        in_graph, "pillow_begins_with_tall_sides", lambda: not before()
    )  # as another version would have it
    other = Fit(16)(torch.from_numpy(picture))[0].numpy()
    assert not np.array_equal(other, ours)
    assert np.abs(other.astype(int) - ours).max() <= 1


before = in_graph.pillow_begins_with_tall_sides


@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_the_whole_is_what_the_classifier_does(tta: str) -> None:
    net = create_model("white16", 3, 16)
    torch.nn.init.normal_(net.head.weight)  # type: ignore[union-attr,arg-type]
    normalization = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    card = ModelCard("white16", ("a", "b", "c"), 16, normalization, "", 1, tta=tta, temperature=0.7)
    classifier = Classifier(net, card, "cpu")
    pixels = np.stack([noise(16, 16, seed) for seed in range(8)])
    found = Whole(net, normalization, 0.7, tta).eval()(torch.from_numpy(pixels)).detach().numpy()
    assert np.abs(found - classifier.predict_proba(pixels)).max() < 1e-6
    plain = Whole(net, HALF).eval()(torch.from_numpy(pixels)).detach().numpy()
    assert np.abs(found - plain).max() > 1e-3


def test_the_certificate_says_what_was_compared(shipped: Path, run: Path) -> None:
    content = (shipped / "onnx" / "model.onnx").read_bytes()
    found = json.loads((shipped / "onnx" / "parity.json").read_text())
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["bytes"] == len(content)
    assert found["weights_sha256"] == json.loads((run / "model.json").read_text())["weights_sha256"]
    assert found["opset"] == 18
    assert found["versions"].keys() > {"torch", "onnx", "onnxruntime", "pillow", "eyebright"}
    parity = found["parity"]
    assert parity["pictures"] == {"validation": 78, "training": 122}
    assert parity["n"] == parity["labels_equal"] == 200
    assert 0 <= parity["largest_difference"] < 1e-5
    assert parity["one_by_one"]["n"] == 32
    assert b"/tmp/" not in content  # nothing tells of this machine
    assert b"site-packages" not in content


def test_a_graph_that_resizes(run: Path, resizing: Path, eyebright_says: Says) -> None:
    exported, classifier = ExportedClassifier.load(resizing / "model.onnx"), Classifier.load(run)
    for seed, size in enumerate([(1, 1), (16, 16), (90, 40), (40, 90), (300, 20), (17, 500)]):
        picture = noise(*size, seed)
        wanted = classifier.predict_proba([picture])
        assert np.abs(exported.of_picture(picture) - wanted).max() < 1e-5
    [taken] = exported.session.get_inputs()
    assert (taken.name, taken.shape) == ("image", ["height", "width", 3])
    parity = json.loads((resizing / "parity.json").read_text())["parity"]
    assert parity["labels_equal"] == 200
    assert "real pictures brought to sides from" in parity["sizes"]
    code, out, _ = eyebright_says("predict", resizing / "model.onnx", run.parents[1] / "pets")
    assert code == 0
    assert "cat" in out


def test_a_program_of_torch_export(run: Path, eyebright_says: Says) -> None:
    code, out, _ = eyebright_says("export", run, "--to", "pt2", "-o", "there")
    assert code == 0
    assert "200 of 200 labels equal (78 validation and 122 training pictures)" in out
    extra = {"eyebright": ""}
    program = torch.export.load("there/model.pt2", extra_files=extra)
    assert json.loads(extra["eyebright"])["imgsz"] == 16
    assert b"site-packages" not in Path("there/model.pt2").read_bytes()
    pixels = np.stack([noise(16, 16, seed) for seed in range(5)])
    for n in (1, 5):
        found = program.module()(torch.from_numpy(pixels[:n])).detach().numpy()
        assert np.abs(found - Classifier.load(run).predict_proba(pixels[:n])).max() < 1e-5


def test_exact_fp32_is_left_as_it_was(run: Path) -> None:
    classifier = Run(run).classifier("cpu")
    tracing.trace(classifier, False)
    kinds = torch.backends, torch.backends.cudnn.conv, torch.backends.cudnn.rnn  # type: ignore[attr-defined]
    assert [kind.fp32_precision for kind in kinds] == ["ieee"] * 3


def test_eight_bits_are_measured_on_other_pictures(
    run: Path, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated: list[Any] = []
    static = quantized._static

    def watch(content: bytes, pictures: Any) -> bytes:
        calibrated.append(pictures)
        return static(content, pictures)

    measured: list[Any] = []
    measure = quantized.measure

    def watch_too(exact: Any, small: Any, pictures: Any, labels: Any) -> Any:
        measured.append(pictures)
        return measure(exact, small, pictures, labels)

    monkeypatch.setattr(quantized, "_static", watch)
    monkeypatch.setattr(quantized, "measure", watch_too)
    code, out, _ = eyebright_says("export", run, "--int8", "-o", "small")
    assert code == 0
    ours, others = ({p.tobytes() for p in part[0]} for part in (calibrated, measured))
    assert (len(ours), len(others)) == (19, 59)
    assert not ours & others
    found = json.loads(Path("small/parity.json").read_text())["int8"]
    assert found["n"] == 59
    assert found["calibrated_on"] == 19
    assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]
    assert found["bytes"] == Path("small/model.onnx").stat().st_size < found["bytes_before"]
    assert found["times_faster"] > 0
    assert "too few pictures (59) to tell what it loses" in out
    assert "before quantising, the same as the run" in out
    small = ExportedClassifier.load("small/model.onnx")
    assert small.card.int8
    assert small.card.promises.sets is None  # it was made for other numbers
    assert small.predict_proba(measured[0]).shape == (59, 2)


def test_what_is_lost_is_said_plainly() -> None:
    figure = {"value": 0.9, "n": 500, "low": 0.87, "high": 0.92}
    found = {
        "accuracy_fp32": figure, "accuracy_int8": figure, "n": 500, "bytes": 10**6,
        "bytes_before": 4 * 10**6, "times_faster": 0.8,
        "difference": {"value": -0.05, "n": 500, "low": -0.08, "high": -0.02},
    }  # fmt: skip
    said = "\n".join(quantized.measured_lines(found))
    assert "surely less accurate" in said
    assert "no faster" in said
    found["difference"] = {"value": 0.0, "n": 500, "low": -0.03, "high": 0.03}
    assert "more than 2 points" in "\n".join(quantized.measured_lines(found))
    found |= {"difference": {"value": 0.0, "n": 500, "low": -0.01, "high": 0.01}, "times_faster": 2}
    assert len(quantized.measured_lines(found)) == 2


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_a_graph_that_disagrees_is_not_written(
    to: str, run: Path, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warmer(net: Any, normalization: Any, temperature: float, *others: Any) -> Whole:
        return Whole(net, normalization, 1.01 * temperature, *others)

    monkeypatch.setattr(tracing, "Whole", warmer)
    code, _, err = eyebright_says("export", run, "--to", to, "-o", "there")
    assert code == 6
    assert "disagree by up to" in err
    assert err.count("\n") == 1
    assert not Path("there").exists()


def test_no_numbers_are_no_parity() -> None:
    right, wrong = np.full((3, 2), 0.5), np.full((3, 2), np.nan)
    assert export._farthest(right, wrong) == export._farthest(wrong, wrong) == float("inf")
    assert export._farthest(right, right[:, :1]) == float("inf")
    card = ModelCard("white16", ("a", "b"), 16, HALF, "", 1)
    classifier = Classifier(create_model("white16", 2, 16), card, "cpu")
    pictures = np.stack([noise(16, 16)] * 3)
    with pytest.raises(NumbersError, match="by up to inf"):
        export.compare_answers(classifier, lambda p: np.full((len(p), 2), np.nan), pictures, False)
    found = export.compare_answers(classifier, classifier.predict_proba, pictures, False)
    assert found["n"] == 3
    assert "fewer than 200" in found["note"]


def test_a_full_disk_leaves_neither_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StorageError("no room")

    monkeypatch.setattr(export, "write_json", fail)
    with pytest.raises(StorageError, match="no room"):
        export.write_both(Path("there"), "model.onnx", b"model", {})
    assert not Path("there").exists()
    Path("before").mkdir()
    Path("before/model.onnx").write_bytes(b"the first")
    with pytest.raises(StorageError, match="no room"):
        export.write_both(Path("before"), "model.onnx", b"the second", {})
    assert [one.name for one in Path("before").iterdir()] == ["model.onnx"]
    assert Path("before/model.onnx").read_bytes() == b"the first"
    Path("file").write_text("")
    with pytest.raises(StorageError, match="file"):
        export.write_both(Path("file/under"), "model.onnx", b"model", {})


def test_wrong_words(run: Path, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, code, message in (
        (["--to", "tflite"], 2, "choose one of: onnx, pt2"),
        (["--to", "pt2", "--int8"], 2, "--to onnx alone"),
        (["--resize", "--int8"], 2, "do not go together"),
        (["--device", "cuda:7"], 2, "no device"),
    ):
        found, out, err = eyebright_says("export", run, *words)
        assert (found, out) == (code, "")
        assert message in err
        assert err.count("\n") == 1
    assert eyebright_says("export", "nowhere")[0] == 4
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UsageError, match=rf"{name}: pip install .*\[export\]"):
                export.check_format("onnx", False, False)
            export.check_format("pt2", False, False)


def test_without_its_pictures_nothing_can_be_compared(shipped: Path, eyebright_says: Says) -> None:
    shutil.copytree(shipped / "runs" / "r", "r")
    record = json.loads(Path("r/data.json").read_text())
    Path("r/data.json").write_text(json.dumps(record | {"source": str(Path("gone").resolve())}))
    code, _, err = eyebright_says("export", "r")
    assert code == 3
    assert "gone" in err
    Path("r/data.json").write_text(json.dumps(record | {"fingerprint": "0" * 64}))
    with pytest.raises(DataError, match="no longer the data of this run"):
        export.export(Run("r"))
    assert not Path("r/onnx").exists()


def test_eight_bits_need_pictures_held_out(run: Path) -> None:
    with pytest.raises(UsageError, match="held out, and there are 0"):
        quantized.quantize(b"", None, None)  # type: ignore[arg-type]


def test_a_net_without_a_graph_is_named() -> None:
    class Moody(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))

    card = ModelCard("Moody", ("a", "b", "c"), 8, HALF, "", 1)
    with pytest.raises(UsageError, match="the net Moody has no graph"):
        tracing.trace(Classifier(Moody(), card, "cpu"), False)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny_patch16_224", 64), ("tf_efficientnet_lite0", 64), ("lesson", 32)]
)
def test_other_nets_have_one_too(name: str, size: int) -> None:
    torch.manual_seed(0)
    card = ModelCard(name, ("a", "b", "c"), size, HALF, "", 1, tta="mirror")
    classifier = Classifier(create_model(name, 3, size), card, "cpu")
    pixels = np.stack([noise(size, size, seed) for seed in range(3)])
    program = tracing.trace(classifier, False)
    with torch.no_grad():
        found = program.module()(torch.from_numpy(pixels)).numpy()
    wanted = classifier.predict_proba(pixels)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(wanted - softmax(np.zeros((3, 3)))).max() > 1e-6


def test_a_picture_of_another_size_has_pixels() -> None:
    for i in range(35):
        assert min(export._other_size(i, noise(4, 4)).shape[:2]) >= 1
    assert Image.fromarray(export._other_size(0, noise(40, 40))).size == (16, 52)
