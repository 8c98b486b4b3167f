"""The loss of a picture, taken apart: every link against torch, and what the command says of it."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eyebright import Run
from eyebright.cli.chain import MOST_ROWS, MOST_TABLES, chain_table, training_lines
from eyebright.config import TrainConfig
from eyebright.console import out
from eyebright.errors import DataError, UsageError
from eyebright.images import read_image
from eyebright.loss_chain import LossChain, explain_loss, log_sum_exp, training_loss
from eyebright.losses import create_loss

Says = Callable[..., tuple[int, str, str]]
THREE = ("cat", "dog", "ship")


def chain(logits: list[float], label: str | None = "cat", temperature: float | None = None):
    return LossChain(THREE, np.array(logits), label, temperature)


def printed(table: object) -> str:
    with out.capture() as captured:
        out.print(table)
    return captured.get()


def pictures_of(shipped: Path, label: str) -> list[Path]:
    return sorted((shipped / "pets" / label).iterdir())


def test_the_links_of_an_example_done_by_hand() -> None:
    """exp is 7.3891, 2.7183 and 0.3679: 10.4752 in all, whose logarithm is 2.3490."""
    one = chain([2.0, 1.0, -1.0])
    assert one.log_sum_exp == pytest.approx(2.3490, abs=5e-5)
    assert one.probabilities == pytest.approx([0.7054, 0.2595, 0.0351], abs=5e-5)
    assert one.log_probabilities == pytest.approx([-0.3490, -1.3490, -3.3490], abs=5e-5)
    assert one.one_hot is not None
    assert one.products is not None
    assert one.one_hot.tolist() == [1, 0, 0]
    assert one.products.tolist()[1:] == [0, 0]
    assert one.loss == pytest.approx(0.3490, abs=5e-5)
    assert one.prediction == "cat"
    assert (one.calibrated, one.calibrated_loss) == (None, None)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3),
    st.sampled_from(THREE),
    st.floats(0.02, 50),
)
def test_every_link_is_torchs(logits: list[float], label: str, temperature: float) -> None:
    one = chain(logits, label, temperature)
    z, y = torch.tensor([logits], dtype=torch.float64), torch.tensor([THREE.index(label)])
    near = {"rel": 1e-12, "abs": 1e-9}
    assert one.log_sum_exp == pytest.approx(z.logsumexp(1).item(), **near)
    assert one.probabilities.tolist() == pytest.approx(z.softmax(1)[0].tolist(), **near)
    assert one.log_probabilities.tolist() == pytest.approx(z.log_softmax(1)[0].tolist(), **near)
    assert one.loss == pytest.approx(F.cross_entropy(z, y).item(), **near)
    assert one.products is not None
    assert one.products.sum() == one.loss
    assert one.losses.tolist() == pytest.approx((-z.log_softmax(1)[0]).tolist(), **near)
    warm = z / temperature
    assert one.calibrated_loss == pytest.approx(F.cross_entropy(warm, y).item(), rel=1e-9, abs=1e-7)
    assert one.calibrated is not None
    assert one.calibrated.tolist() == pytest.approx(warm.softmax(1)[0].tolist(), **near)


def test_huge_logits_do_not_overflow() -> None:
    assert log_sum_exp(np.array([1000.0, 0.0, -1000.0])) == 1000
    assert chain([1000.0, 0.0, -1000.0], "ship").loss == 2000


def test_without_a_label_there_is_a_loss_for_each() -> None:
    one = chain([2.0, 1.0, -1.0], None, 0.5)
    assert (one.one_hot, one.products, one.loss, one.calibrated_loss) == (None,) * 4
    assert one.losses == pytest.approx([0.3490, 1.3490, 3.3490], abs=5e-5)
    assert training_loss(one, TrainConfig(), [1, 1, 1]) is None


@pytest.mark.parametrize("balance", ["none", "weights", "sampler", "focal", "logit-adjust"])
def test_the_loss_of_training_is_that_of_training(balance: str) -> None:
    one, counts = chain([0.5, 2.0, -2.0]), [90, 9, 1]
    config = TrainConfig(balance=balance, label_smoothing=0.1)  # type: ignore[arg-type]
    loss_of = create_loss(balance, torch.tensor(counts), 0.1)
    wanted = loss_of(torch.tensor([[0.5, 2.0, -2.0]]), torch.tensor([0])).item()
    assert training_loss(one, config, counts) == pytest.approx(wanted, abs=1e-6)
    assert f"; that loss is {wanted:.4f}" in training_lines(one, config, 1, counts)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"label_smoothing": 0.0}, "trained with: this very loss"),
        (
            {"label_smoothing": 0.3},
            "label smoothing 0.3: the target is 0.8 for the true class and 0.1 for each other; "
            "that loss is 0.7490",  # 0.8 × 0.3490 + 0.1 × (1.3490 + 3.3490)
        ),
        ({"balance": "weights"}, "a picture of cat counts 0.37 times in the mean"),
        ({"balance": "effective-number"}, "weights (effective-number): a picture of cat counts"),
        ({"balance": "logit-adjust"}, "the log of each class's share added to its logit; label"),
        ({"balance": "sampler"}, "drawn so that all classes come equally often; label smoothing"),
        ({"balance": "focal"}, "focal loss, which hardly counts what is right and sure; that"),
        ({"probe": True}, "by logistic regression of the last layer"),
    ],
)
def test_what_training_did_is_said(settings: dict[str, object], said: str) -> None:
    config = TrainConfig(**{"balance": "none", **settings})  # type: ignore[arg-type]
    epoch = 0 if config.probe else 3
    [line] = training_lines(chain([2.0, 1.0, -1.0]), config, epoch, [90, 9, 1])
    assert said in line
    assert ("label smoothing" in line) == (
        epoch > 0 and config.label_smoothing > 0 and config.balance != "focal"
    )
    [without] = training_lines(chain([2.0, 1.0, -1.0], None), config, epoch, [90, 9, 1])
    assert "that loss is" not in without


def test_a_real_runs_numbers_are_torchs(shipped: Path) -> None:
    classifier = Run(shipped / "runs" / "r").classifier("cpu")
    for label in classifier.classes:
        path = pictures_of(shipped, label)[0]
        one = explain_loss(classifier, path, label)
        pixels = read_image(path, classifier.card.imgsz)
        with torch.no_grad():
            logits = classifier.model(classifier.card.normalization(torch.tensor(pixels[None])))
        target = torch.tensor([classifier.column(label)])
        assert one.loss == pytest.approx(F.cross_entropy(logits, target).item(), abs=1e-6)
        assert one.calibrated is not None
        said = classifier.predict_proba([path])[0]
        assert one.calibrated.tolist() == pytest.approx(said.tolist(), abs=1e-12)
        assert one.prediction == classifier.predict([path])[0].label


def test_wrong_words(shipped: Path) -> None:
    classifier = Run(shipped / "runs" / "r").classifier("cpu")
    path = pictures_of(shipped, "cat")[0]
    with pytest.raises(UsageError, match=r"no class 'cut' \(did you mean cat\?\)"):
        explain_loss(classifier, path, "cut")
    Path("bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: no picture"):
        explain_loss(classifier, "bad.png")


def test_the_command_takes_the_folders_name(shipped: Path, eyebright_says: Says) -> None:
    run, [first, second, *_] = shipped / "runs" / "r", pictures_of(shipped, "cat")
    code, text, _ = eyebright_says("explain", run, first, "--loss")
    assert code == 0
    classifier = Run(run).classifier("cpu")
    [said] = classifier.predict([first])
    says = f"the model says {said.label}, {100 * said.probability:.1f} %\n"
    assert f"{first}: cat, as its folder is called; {says}" in text
    loss = explain_loss(classifier, first, "cat").loss
    assert f"loss: {loss:.4f} nats = −log " in text
    assert re.search(rf"│ sum .*│ +1 │ +{loss:.4f} │", text)
    assert "label smoothing 0.2: the target is 0.9 for the true class and 0.1 for" in text
    assert "fitted on pictures held out" in text
    assert not list(Path().glob("*.png"))  # no heat map
    code, text, _ = eyebright_says("explain", run, first, second, "--loss")
    assert (code, text.count("one-hot")) == (0, 2 * 2)
    assert re.search(r"^mean loss of 2 pictures: \d\.\d{4}$", text, re.MULTILINE)


def test_a_label_may_be_said_or_left_open(shipped: Path, eyebright_says: Says) -> None:
    run, cat = shipped / "runs" / "r", pictures_of(shipped, "cat")[0]
    shutil.copy(cat, "one.png")
    code, text, _ = eyebright_says("explain", run, "one.png", "--loss")
    assert code == 0
    assert f"its folder '{Path.cwd().name}' is no class, so here is the loss for each" in text
    assert "loss if it" in text
    assert "one-hot" not in text
    assert "nats" not in text
    code, text, _ = eyebright_says("explain", run, "one.png", "--loss", "--label", "cat")
    assert code == 0
    assert "one.png: cat, as --label says" in text
    code, text, _ = eyebright_says("explain", run, cat, "--loss", "--label", "<b>dog<∕b>")
    assert code == 0
    assert "<b>dog<∕b>, as --label says" in text  # a label that is said counts more than a folder


def test_json_has_every_digit(shipped: Path, eyebright_says: Says) -> None:
    run, cats = shipped / "runs" / "r", shipped / "pets" / "cat"
    shutil.copy(pictures_of(shipped, "cat")[0], "one.png")
    code, text, _ = eyebright_says("explain", run, cats, "one.png", "--loss", "--json")
    assert code == 0
    *rows, last = json.loads(text)
    assert len(rows) == 130 > MOST_TABLES
    for row in rows:
        z = torch.tensor([list(row["logits"].values())], dtype=torch.float64)
        target = torch.tensor([list(row["logits"]).index("cat")])
        assert row["loss"] == pytest.approx(F.cross_entropy(z, target).item(), abs=1e-12)
        smooth = F.cross_entropy(z, target, label_smoothing=0.2).item()
        assert row["training_loss"] == pytest.approx(smooth, abs=1e-6)
        warm = F.cross_entropy(z / row["temperature"], target).item()
        assert row["calibrated_loss"] == pytest.approx(warm, abs=1e-12)
        assert sum(row["softmax"].values()) == pytest.approx(1)
        assert row["one_hot"] == {name: float(name == "cat") for name in row["logits"]}
        assert (row["label"], row["label_smoothing"], row["balance"]) == ("cat", 0.2, "none")
    assert (last["label"], last["loss"], last["one_hot"], last["training_loss"]) == (None,) * 4
    assert last["losses"]["cat"] == rows[0]["loss"]


def test_the_command_refuses(shipped: Path, eyebright_says: Says) -> None:
    run, cats = shipped / "runs" / "r", shipped / "pets" / "cat"
    one = pictures_of(shipped, "cat")[0]
    Path("bad.png").write_bytes(b"")
    for words, code, said in (
        ((one, "--loss", "--label", "cut"), 2, "no class 'cut' (did you mean cat?)"),
        ((one, "--loss", "--class", "cat"), 2, "with --loss, say --label"),
        ((one, "--loss", "--method", "grad-cam"), 2, "are for heat maps"),
        ((one, "--loss", "-o", "x.png"), 2, "are for heat maps"),
        ((one, "--label", "cat"), 2, "--label goes with --loss"),
        ((cats, "--loss"), 2, "130 pictures are too many to follow (at most 20)"),
        (("bad.png", "--loss"), 3, "bad.png: the file is empty"),
        (("none.png", "--loss"), 3, "none.png"),
        ((one, "--loss", "--max-pixels", "10"), 3, "--max-pixels"),
    ):
        found, text, error = eyebright_says("explain", run, *words)
        assert (found, text) == (code, "")
        assert said in error
    assert eyebright_says("explain", "nothing", one, "--loss")[0] == 4


def test_no_captum_is_needed(
    shipped: Path, eyebright_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    one = pictures_of(shipped, "cat")[0]
    assert eyebright_says("explain", shipped / "runs" / "r", one, "--loss")[0] == 0


def test_of_many_classes_the_likeliest_and_the_true_one_are_shown() -> None:
    classes = tuple(f"class{i}" for i in range(100))
    logits = np.linspace(3, -3, 100)
    one = LossChain(classes, logits, "class99", 2.0)
    text = printed(chain_table(one))
    assert re.findall(r"class\d+", text) == [f"class{i}" for i in range(MOST_ROWS - 2)] + [
        "class99"
    ]
    rest = one.probabilities[MOST_ROWS - 2 : 99].sum()
    assert re.search(rf"89 others +│ +│ +{rest:.4f} │", text)
    assert re.search(rf"│ sum .*│ +{one.loss:.4f} │", text)
    text = printed(chain_table(LossChain(classes, logits, "class1")))
    assert "90 others" in text
    assert "T =" not in text


def test_ten_classes_fit_into_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ("airplane", "automobile", *(f"class{i}" for i in range(8)))
    monkeypatch.setattr(out, "width", 80)
    one = LossChain(classes, np.linspace(-9.9, 9.9, 10), "automobile", 0.586)
    lines = printed(chain_table(one)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("automobile" in line for line in lines) == 1
    assert sum(line.startswith("│") for line in lines) == 11  # no row takes two lines
    assert "2e-09 │" in lines[4]  # and what is small is not said to be zero
    assert "0.0000" not in "".join(lines)
