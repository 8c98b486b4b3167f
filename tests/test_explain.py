"""Heat maps: they lie on the evidence, and they fall apart with the weights."""

import io
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.ndimage import gaussian_gradient_magnitude
from torch import nn

import eyebright
from eyebright import Classifier, Dataset, Run
from eyebright.batches import Normalization
from eyebright.checkpoint import ModelCard
from eyebright.errors import DataError, UsageError
from eyebright.explain import METHODS, explain, rank_correlation
from eyebright.models import create_model
from eyebright.report import write_report

SIDE, PATCH = 32, 8
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230)}
EVERY = ["auto", *METHODS]


def planted(n: int, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Grey noise with a coloured patch, which alone tells the class; and where it lies."""
    generator = np.random.default_rng(seed)
    images = generator.integers(60, 200, (n, SIDE, SIDE, 1)).repeat(3, 3).astype(np.uint8)
    masks = np.zeros((n, SIDE, SIDE), bool)
    labels = np.arange(n) % len(COLOURS)
    for image, mask, label in zip(images, masks, labels, strict=True):
        y, x = generator.integers(0, SIDE - PATCH + 1, 2)
        image[y : y + PATCH, x : x + PATCH] = list(COLOURS.values())[label]
        mask[y : y + PATCH, x : x + PATCH] = True
    return Dataset(images, labels, list(COLOURS), name="planted"), masks


def model_of(net: nn.Module, imgsz: int = SIDE, tta: str = "none") -> Classifier:
    even = Normalization((0.5,) * 3, (0.25,) * 3)
    card = ModelCard(type(net).__name__, tuple(COLOURS), imgsz, even, "own", 1, tta=tta)
    return Classifier(net, card, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    settings = {"device": "cpu", "quiet": True, "model": "white16", "threads": 1}
    run = eyebright.train(
        planted(900)[0], epochs=6, batch_size=50, runs=runs, name="planted", **settings
    )
    assert run.held_out().accuracy.value > 0.95  # or its maps would say nothing
    torch.set_num_threads(1)  # more would wait for each other longer than such nets take
    return run


def learned(net: nn.Module, steps: int) -> Classifier:
    """A net that has learned the planted patches."""
    data, _ = planted(steps * 30)
    found = model_of(net.train())
    net.train()
    adam = torch.optim.AdamW(net.parameters(), 2e-3)
    for images, labels in zip(
        torch.tensor(data.images).split(30), torch.tensor(data.labels).split(30), strict=True
    ):
        loss = nn.functional.cross_entropy(net(found.card.normalization(images)), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
    net.eval()
    return found


def randomised(net: nn.Module) -> nn.Module:
    """All its weights shuffled, each tensor within itself, so that their scale stays."""
    generator = torch.Generator().manual_seed(0)
    for tensor in net.parameters():
        order = torch.randperm(tensor.numel(), generator=generator)
        tensor.data = tensor.data.flatten()[order].view_as(tensor)
    return net


def share_on(heat: np.ndarray, mask: np.ndarray) -> float:
    return float(heat[mask].sum() / heat.sum())


@pytest.mark.parametrize("method", EVERY)
def test_the_heat_lies_on_the_evidence(trained: Run, method: str) -> None:
    classifier = trained.classifier("cpu")
    data, masks = planted(30, seed=7)
    shares = []
    for image, mask, label in zip(data.images, masks, data.labels, strict=True):
        found = explain(classifier, image, method=method, check=False)
        assert found.label == data.classes[label]
        shares.append(share_on(found.heat, mask))
    # The patch is a sixteenth of the picture; the layers have 3×3 and 7×7 places.
    least = {"grad-cam": 0.12, "hires-cam": 0.2}.get(method, 0.5)
    assert np.mean(shares) > least, np.mean(shares)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=4, embed_dim=48, depth=3, num_heads=3,
        num_classes=3,
    )  # fmt: skip


def swin() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=SIDE, patch_size=2, window_size=4, embed_dim=24,
        depths=(2, 2), num_heads=(2, 4), num_classes=3,
    )  # fmt: skip


@pytest.mark.parametrize("make", [vit, swin])
def test_the_heat_of_transformers_lies_on_the_evidence(make: Callable[[], nn.Module]) -> None:
    classifier = learned(make(), 60)
    data, masks = planted(15, seed=7)
    right = classifier.predict_proba(data.images).argmax(1) == data.labels
    assert right.mean() > 0.9
    shares = [
        share_on(explain(classifier, image, check=False).heat, mask)
        for image, mask in zip(data.images, masks, strict=True)
    ]
    assert np.mean(shares) > 0.25, np.mean(shares)  # four times its area


def maps(classifier: Classifier, images: np.ndarray, method: str) -> list[torch.Tensor]:
    """Of the class that the trained net named first for each, as in the paper."""
    return [
        torch.tensor(explain(classifier, image, "red", method, check=False).heat)
        for image in images
    ]


def likeness(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The mean rank correlation; a map without heat is like nothing."""
    pairs = zip(some, others, strict=True)
    return float(np.mean([rank_correlation(a, b) or 0.0 for a, b in pairs]))


@pytest.mark.parametrize("method", EVERY)
def test_maps_fall_apart_with_the_weights(trained: Run, method: str) -> None:
    """The sanity check of Adebayo et al. 2018: what does not look at the weights fails it."""
    data, _ = planted(30, seed=3)
    images = data.images[data.labels == 0]
    before = maps(trained.classifier("cpu"), images, method)
    assert likeness(before, maps(trained.classifier("cpu"), images, method)) > 0.999
    other = trained.classifier("cpu")
    randomised(other.model)
    assert likeness(before, maps(other, images, method)) < 0.5

    def edges(classifier: Classifier) -> list[torch.Tensor]:
        return [torch.tensor(gaussian_gradient_magnitude(i.mean(2), 1)) for i in images]

    # An edge detector draws pretty maps, whatever the net has learned: the same threshold finds it.
    assert likeness(edges(trained.classifier("cpu")), edges(other)) > 0.5


def test_the_checks_agree_where_the_evidence_is_clear(trained: Run) -> None:
    classifier = trained.classifier("cpu")
    found = [explain(classifier, image) for image in planted(9, seed=5)[0].images]
    assert np.mean([one.agreement for one in found]) > 0.2
    assert explain(classifier, planted(1)[0].images[0], method="grad-cam").agreement is not None
    assert explain(classifier, planted(1)[0].images[0], check=False).agreement is None


class Flat(nn.Module):
    """No layer with places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE**2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


def test_a_net_without_places_is_explained_by_its_pixels() -> None:
    classifier = model_of(Flat())
    image = planted(1)[0].images[0]
    found = explain(classifier, image)
    assert found.method == "integrated gradients"
    assert found.heat.max() == 1
    with pytest.raises(UsageError, match=r"Flat has no layer .* use --method integrated-gradients"):
        explain(classifier, image, method="grad-cam")


def test_nothing_speaks_for_a_class_without_weights() -> None:
    net = Flat()
    nn.init.zeros_(net.layer.weight)
    found = explain(model_of(net), planted(1)[0].images[0])
    assert not found.heat.any()
    assert found.agreement is None
    assert found.share() == 0
    assert found.overlay(64).size == (64, 64)


@pytest.mark.parametrize(
    ("name", "imgsz"),
    [
        ("lesson", 32),
        ("lesson", 16),
        ("patch48", 32),
        ("deep128", 8),
        ("resnet18", 48),
        ("mobilenetv3_small_050", 64),
        ("vit_tiny_patch16_224", 48),
        ("swin_tiny_patch4_window7_224", 64),
        ("cait_xxs24_224", 64),
        ("mixer_s32_224", 64),
        ("convnext_atto", 64),
    ],
)
def test_any_net_is_explained(name: str, imgsz: int) -> None:
    torch.manual_seed(0)
    net = create_model(name, 3, imgsz)
    with torch.no_grad():
        for tensor in net.get_classifier().parameters() if hasattr(net, "get_classifier") else ():
            tensor.normal_(0, 0.1)  # some begin as zeros
    image = np.random.default_rng(0).integers(0, 256, (imgsz, imgsz, 3), dtype=np.uint8)
    for method in METHODS:
        found = explain(model_of(net, imgsz), image, "green", method)
        assert found.label == "green"
        assert found.heat.shape == (imgsz, imgsz)
        assert found.heat.dtype == np.float32
        assert found.heat.min() >= 0
        assert found.heat.max() in (0, 1)
        assert found.method == METHODS[method]
        assert found.agreement is None or -1 <= found.agreement <= 1


def test_what_is_automatic(trained: Run) -> None:
    image = planted(1)[0].images[0]
    assert explain(trained.classifier("cpu"), image).method == "integrated gradients"
    large = model_of(create_model("white16", 3, 96), 96)
    found = explain(large, image)
    assert found.method == "HiResCAM"
    assert found.agreement is not None
    tokens = model_of(create_model("vit_tiny_patch16_224", 3, 96), 96)
    assert explain(tokens, image, check=False).method == "integrated gradients"


@pytest.mark.parametrize("method", METHODS)
def test_mirrored_predictions_have_mirrored_maps(trained: Run, method: str) -> None:
    net = trained.classifier("cpu").model
    image = planted(3, seed=2)[0].images[1]
    both = model_of(net, tta="mirror")
    one = explain(both, image, "green", method)
    other = explain(both, np.ascontiguousarray(image[:, ::-1]), "green", method)
    assert np.abs(one.heat - other.heat[:, ::-1]).max() < 1e-3
    assert one.probability == pytest.approx(both.predict_proba([image])[0][1])
    alone = explain(model_of(net), image, "green", method)
    assert np.abs(one.heat - alone.heat).max() > 1e-3


def test_the_net_is_left_as_it_was(trained: Run) -> None:
    net = create_model("resnet18", 3, 32).train()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.conv1.weight.requires_grad_(False)
    classifier = model_of(net)
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.inference_mode():
        found = explain(classifier, planted(1)[0].images[0])
    assert found.heat.max() == 1
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(net.fc.weight.grad, torch.ones_like(net.fc.weight))
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["fc.weight"]
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["conv1.weight"]


def test_threads_may_share_a_model(trained: Run) -> None:
    classifier = trained.classifier("cpu")
    images = planted(8, seed=4)[0].images
    alone = [explain(classifier, image, check=False).heat for image in images]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        classifier.predict(images)
        found[i] = explain(classifier, images[i], check=False).heat

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, heat in enumerate(alone):
        assert np.abs(found[i] - heat).max() < 1e-4


def test_pictures_to_look_at(trained: Run) -> None:
    found = explain(trained.classifier("cpu"), planted(1)[0].images[0])
    assert found.image.shape == (SIDE, SIDE, 3)
    assert found.overlay(200).size == (200, 200)
    heat = np.asarray(Image.open(io.BytesIO(found.heat_png())))
    assert heat.shape == (SIDE, SIDE, 4)
    strongest = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert heat[strongest][3] == heat[..., 3].max() > 200
    assert heat[found.heat == 0][:, 3].max(initial=0) == 0
    assert 0 < found.share() < found.share(0.9) <= 1


def test_wrong_words(trained: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    classifier, image = trained.classifier("cpu"), planted(1)[0].images[0]
    with pytest.raises(UsageError, match=r"no class 'gren' \(did you mean green\?\)"):
        explain(classifier, image, "gren")
    with pytest.raises(UsageError, match=r"'gradcam' \(did you mean grad-cam\?\); choose one of"):
        explain(classifier, image, method="gradcam")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: no picture"):
        explain(classifier, tmp_path / "bad.png")
    with pytest.raises(DataError, match="the picture: no picture"):
        explain(classifier, b"no picture")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UsageError, match=r"pip install .*\[explain\]"):
        explain(classifier, image)


def test_the_command(trained: Run, eyebright_says: Callable[..., tuple[int, str, str]]) -> None:
    for i, image in enumerate(planted(2)[0].images):
        Path(f"{i}").mkdir()
        Image.fromarray(image).save(f"{i}/a.png")
    code, out, _ = eyebright_says("explain", trained.path, "0/a.png", "1/a.png")
    assert code == 0
    assert "0/a.png: red " in out
    assert re.search(
        r"half of the heat lies in \d+ % of the picture \(integrated gradients; rank", out
    )
    assert "written: explain-a-2.png" in out
    first, second = (np.asarray(Image.open(n)) for n in ("explain-a.png", "explain-a-2.png"))
    assert first.shape == second.shape
    assert (first != second).any()
    code, out, _ = eyebright_says("explain", trained.path, "0", "1", "-o", "all.png")
    assert code == 0
    assert np.asarray(Image.open("all.png")).shape[0] == 2 * first.shape[0]
    words = ("--class", "blue", "--method", "grad-cam", "--json", "-o", "maps")
    code, out, _ = eyebright_says("explain", trained.path, "0/a.png", *words)
    [row] = json.loads(out)
    assert (row["class"], row["method"], row["file"]) == ("blue", "Grad-CAM", "maps/explain-a.png")
    assert Path("maps/explain-a.png").is_file()


def test_the_command_refuses(
    trained: Run, eyebright_says: Callable[..., tuple[int, str, str]]
) -> None:
    Image.fromarray(planted(1)[0].images[0]).save("a.png")
    Path("bad.png").write_bytes(b"")
    for words, code, said in (
        (("a.png", "--class", "rad"), 2, "did you mean red?"),
        (("a.png", "--method", "magic"), 2, "no method is called 'magic'"),
        (("bad.png",), 3, "bad.png: the file is empty"),
        (("none.png",), 3, "none.png"),
        (("a.png", "-o", "a.png/x"), 5, "a.png/x"),
        (("a.png", "--max-pixels", "10"), 3, "--max-pixels"),
    ):
        found, out, error = eyebright_says("explain", trained.path, *words)
        assert (found, out) == (code, "")
        assert said in error
    assert eyebright_says("explain", "nothing", "a.png")[0] == 4
    assert not list(Path().glob("explain-*"))


def test_a_turned_picture_is_explained_upright(trained: Run) -> None:
    image = planted(1)[0].images[0]
    turned = Image.fromarray(np.rot90(image))  # against the clock, to be turned back with it
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    classifier = trained.classifier("cpu")
    found, straight = explain(classifier, "turned.png"), explain(classifier, image)
    assert (found.image == image).all()
    assert np.abs(found.heat - straight.heat).max() < 1e-5


def test_the_report_shows_it_where_captum_is_there(
    trained: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(trained.path, tmp_path / "copy")
    run = Run(tmp_path / "copy")
    data, _ = planted(60, seed=9)
    data.labels[:20] = (data.labels[:20] + 1) % 3  # wrong labels: mistakes, to be shown
    evaluation = run.test(data, device="cpu")
    html = write_report(run, evaluation=evaluation, data=data).read_text()
    assert "what spoke for the answer given (integrated gradients)" in html
    assert html.count('alt="what spoke for the answer given"') == 12
    chinese = write_report(run, "zh", evaluation, data).read_text()
    assert chinese.count('alt="支持所给答案的依据"') == 12
    assert "what spoke for" not in (trained.path / "report.html").read_text()  # training is quick
    monkeypatch.setattr("eyebright.report.gallery.find_spec", lambda name: None)
    without = write_report(run, evaluation=evaluation, data=data).read_text()
    assert "what spoke for" not in without
    assert without.split('id="surest"')[1].split("</section>")[0].count("<img") == 20
    assert "captum" not in without
