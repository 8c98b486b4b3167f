"""The report: what stands in it, in both languages, and that it needs nothing else."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import eyebright
from eyebright import Dataset, Run, metrics
from eyebright.calibration import Promises
from eyebright.errors import ModelError, UsageError
from eyebright.report import page, write_report
from eyebright.report.charts import (
    HEIGHT,
    WIDTH,
    Line,
    interval_bars,
    line_chart,
    shorten,
    text_width,
    ticks,
)
from eyebright.report.page import RISKS
from eyebright.report.words import CHINESE, translator
from eyebright.trained_on import TrainedOn, digests, small_pixels
from eyebright.wording import warnings, with_n

QUICK = {"batch_size": 16, "model": "white16", "device": "cpu", "quiet": True}
NAMES = ["dark", "grey", "light"]


def shades(n: int = 240, seed: int = 0, counts: tuple[int, ...] | None = None) -> Dataset:
    generator = np.random.default_rng(seed)
    labels = np.repeat(range(3), counts) if counts else np.arange(n) % 3
    n = len(labels)
    middle = 60 + 30 * labels[:, None, None, None] + 15 * generator.normal(size=(n, 1, 1, 1))
    pixels = np.clip(middle + generator.normal(0, 10, (n, 12, 12, 3)), 0, 255)
    return Dataset(pixels.astype(np.uint8), labels, NAMES, name="shades")


@pytest.fixture
def tested() -> Run:
    run = eyebright.train(shades(), epochs=3, **QUICK)
    run.test(shades(seed=1), shift=True)
    return run


class Text(HTMLParser):
    """The texts that a reader sees, and the addresses that the page asks for."""

    def __init__(self, html: str):
        super().__init__()
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "script")
        for name, value in attributes:
            if name in ("src", "href", "action", "data"):
                self.addresses.append(value or "")
            if name in ("title", "aria-label"):
                self.texts.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.texts.append(data.strip())


def test_training_and_testing_write_it(tested: Run) -> None:
    before = eyebright.train(shades(), epochs=2, **QUICK)
    html = (before.path / "report.html").read_text(encoding="utf-8")
    assert "accuracy on 24 pictures held out" in html
    assert "These pictures also chose the best epoch" in html
    write_report(tested)
    html = (tested.path / "report.html").read_text(encoding="utf-8")
    text = " ".join(Text(html).texts)
    evaluation = tested.test(shades(seed=1))
    assert "accuracy on 240 test pictures" in text
    assert f"{100 * (evaluation.accuracy.value or 0):.1f} %" in text
    for word in (*NAMES, "log loss", tested.data_record["fingerprint"], "On changed pictures"):
        assert word in text
    assert "tested on shades" in text
    for title in ("Read this first", "Class by class", "Surest mistakes", "How to do it again"):
        assert title in text
    [precision, f1] = (evaluation.per_class()["grey"][name] for name in ("precision", "f1"))
    assert f"grey {with_n(precision, '/')} {with_n(f1, '/')}" in text
    assert f"log loss {evaluation.figures['log loss'].decimal('–')} 240" in text
    low, high = (100 * (end or 0.0) for end in (evaluation.accuracy.low, evaluation.accuracy.high))
    assert f"95 % interval: {low:.1f} % to {high:.1f} %" in text
    grey = evaluation.per_class()["grey"]["recall"]
    assert f"{100 * grey.value:.1f} %" in text  # beside its bar
    assert "temperature " in text
    assert "fitted on the pictures held out" in text
    for title in (
        "Is it better than something simple?",
        "linear probe on pixels",
        "How it learned: training loss",
        "How it learned: validation accuracy",
        "Least sure",
        "Can its probabilities be believed?",
    ):
        assert title in text, title
    assert text.index("Read this first") < text.index("Figures") < text.index("Class by class")
    reliability = html.split("Can its probabilities be believed?")[1].split("</svg>")[0]
    assert reliability.count('class="line') >= 3  # before, after and the diagonal


def test_looks_and_few_pictures_are_warned_of() -> None:
    run = eyebright.train(shades(), epochs=1, **QUICK)
    few = shades(60, seed=1)
    evaluation = run.test(few)
    assert "have looked at" not in write_report(run, evaluation=evaluation).read_text()
    evaluation = run.test(few)
    page = write_report(run, evaluation=evaluation).read_text()
    assert "Runs in this folder have looked at this test set 2 times" in page
    assert "Only 60 pictures: look at the intervals, not at the figures." in page
    again = write_report(run, evaluation=run.held_out(), data=shades(24)).read_text()
    assert "the test set has not been opened" not in again
    assert "These pictures also chose the best epoch." in again


def test_the_command_is_the_one_that_was_given() -> None:
    run = eyebright.train(shades(), epochs=1, **QUICK)
    path = run.path / "env.json"
    record = json.loads(path.read_text())
    for program, said in (
        ("/x/bin/eyebright", "eyebright train"),
        ("/x/eyebright/__main__.py", "python -m eyebright train"),
        ("/x/pytest/__main__.py", "/x/pytest/__main__.py train"),
    ):
        path.write_text(json.dumps(record | {"command": [program, "train"]}))
        assert f">{said}<" in write_report(run).read_text()


def test_the_report_promises_what_it_can() -> None:
    run = eyebright.train(shades(600), epochs=3, val=0.5, **QUICK)
    text = (run.path / "report.html").read_text(encoding="utf-8")
    [share] = re.findall(r"right on at least (\d+) % of those, with 95 % confidence", text)
    smallest = next(r for r in RISKS if can_promise(run, r))
    assert int(share) == round(100 * (1 - smallest))
    evaluation = run.test(shades(seed=1), risk=0.3, coverage=0.8)
    text = write_report(run, evaluation=evaluation).read_text(encoding="utf-8")
    assert "right on at least 70 % of those" in text
    assert "Sets of classes are to hold the true one 80 % of the time." in text
    assert "Here: they hold it for" in text
    assert "observed here" in text
    held_out = (run.path / "predictions-val.csv").read_text()
    (run.path / "predictions-val.csv").write_text("damaged")
    with pytest.raises(ModelError, match="damaged"):
        write_report(run, evaluation=replace(evaluation, promises=Promises()))
    (run.path / "predictions-val.csv").write_text(held_out)
    nothing = eyebright.train(shades(60), epochs=1, val=0.1, **QUICK)
    assert "Nothing is promised" in (nothing.path / "report.html").read_text(encoding="utf-8")


def can_promise(run: Run, risk: float) -> bool:
    try:
        return run.promises(risk) is not None
    except UsageError:
        return False


def test_the_largest_mistake_is_opened(tested: Run) -> None:
    html = write_report(tested).read_text(encoding="utf-8")
    confusion = tested.test(shades(seed=1)).confusion
    mistakes = confusion - np.diag(np.diag(confusion))
    truth, guess = np.unravel_index(int(mistakes.argmax()), mistakes.shape)
    [opened] = re.findall(r'data-cell="(\d+-\d+)" aria-expanded="true"', html)
    assert mistakes[tuple(map(int, opened.split("-")))] == mistakes[truth, guess]
    assert re.findall(r'id="cell-(\d+-\d+)">', html) == [opened]


def test_names_are_cut_to_their_room() -> None:
    assert shorten("cat", 30) == "cat"
    assert shorten("automobile", 50) == "automo…"
    assert shorten("像素上的线性分类器", 50) == "像素上…"
    assert all(text_width(shorten("ab像" * n, 100)) <= 100 for n in range(30))


def test_the_page_needs_nothing_else(tested: Run) -> None:
    html = write_report(tested).read_text(encoding="utf-8")
    addresses = Text(html).addresses
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_nothing_is_left_untranslated(tested: Run) -> None:
    tested.test(shades(seed=1))  # a second look, for its warning
    html = write_report(tested, "zh").read_text(encoding="utf-8")
    assert '<html lang="zh">' in html
    texts = Text(html).texts
    seen = " ".join(texts)
    for english in CHINESE:
        plain = re.sub(r"\\{\w+\\}", r".+", re.escape(english))
        if CHINESE[english] != english and len(english) > 4:
            assert not re.search(rf"(?<![\w-]){plain}(?![\w-])", seen), english
    env = json.loads((tested.path / "env.json").read_text())
    names = [
        *NAMES,
        *env["packages"],
        "eyebright",
        "shades",
        "fast",
        "white16",
        "JPEG",
        "cpu",
        "bf16",
        "fp32",
    ]
    names += [
        tested.data_record["fingerprint"],
        env["device_name"],
        *env["command"],
        tested.path.name,
    ]
    for name in sorted(map(str, names), key=len, reverse=True):
        seen = seen.replace(name, " ")
    assert set(re.findall(r"[A-Za-z]{2,}", seen)) <= {"px"}


def test_every_text_of_the_page_has_its_chinese() -> None:
    root = Path(page.__file__).parent
    used = set(re.findall(r't\("([^"]+)"', (root / "page.html").read_text(encoding="utf-8")))
    assert used <= set(CHINESE)
    for english, chinese in CHINESE.items():
        assert re.findall(r"[\u4e00-\u9fff]", chinese), english
        braces = [sorted(re.findall(r"\{\w+\}", text)) for text in (english, chinese)]
        assert braces[0] == braces[1], english
    for language in ("en", "zh"):
        with pytest.raises(KeyError):
            translator(language)("What nobody has translated")
    with pytest.raises(UsageError, match="--lang"):
        write_report(eyebright.train(shades(60), epochs=1, **QUICK), "de")


def test_battery_24_hostile_names_are_only_text() -> None:
    data = shades(60)
    names = ["<script>alert(1)</script>", "a & b", '"><img src=x onerror=y>']
    hostile = Dataset(data.images, data.labels, names, ids=[f"<b>{i}" for i in range(60)], name="x")
    run = eyebright.train(hostile, epochs=1, **QUICK)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def test_a_run_that_was_never_evaluated_still_has_its_curves() -> None:
    run = eyebright.train(shades(60), epochs=2, val=0.0, **QUICK)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "not evaluated yet" in html
    assert "How it learned: training loss" in html
    run.test(shades(60, seed=3))
    assert "Probabilities are uncalibrated" in write_report(run).read_text(encoding="utf-8")


def test_leaks_stand_first() -> None:
    data, test_set = shades(120), shades(90, seed=1)
    test_set.images[:7] = data.images[:7]
    run = eyebright.train(data, epochs=1, val=0.0, **QUICK)
    evaluation = run.test(test_set)
    assert evaluation.leaks == evaluation.to_dict()["leaks"] == 7
    said = "Of the pictures it was evaluated on, 7 stood among those trained on too"
    assert warnings(evaluation)[0].startswith(said)
    assert run.test(shades(90, seed=1)).leaks == 0
    run.test(test_set)
    first, *_ = re.findall(r"<li>(.*?)</li>", write_report(run).read_text(encoding="utf-8"))
    assert first.startswith(said)


def test_a_hidden_class_and_unbalanced_data_are_warned_of() -> None:
    data = shades(counts=(200, 100, 20))
    run = eyebright.train(data, epochs=1, balance="none", **QUICK)
    text = " ".join(re.findall(r"<li>(.*?)</li>", (run.path / "report.html").read_text()))
    assert (
        "The largest class has 10 times as many pictures as the smallest (--balance none)." in text
    )
    evaluation = run.test(shades(150, seed=1))
    blind = np.tile([0.8, 0.1, 0.1], (150, 1))
    write_report(run, evaluation=replace(evaluation, probabilities=blind))
    text = " ".join(re.findall(r"<li>(.*?)</li>", (run.path / "report.html").read_text()))
    assert "The average hides a class: light is found in only 0.0 %" in text


def test_other_data_than_those_trained_on_are_named(tested: Run) -> None:
    other = shades(90, seed=5)
    other.name = "elsewhere"
    write_report(tested, evaluation=tested.test(other))
    html = (tested.path / "report.html").read_text(encoding="utf-8")
    assert "elsewhere" in html
    assert "On changed pictures" not in html  # that was of the other test set
    card = (tested.path / "model-card.md").read_text(encoding="utf-8")
    [index] = [line for line in card.splitlines() if line.startswith("model-index")]
    [result] = json.loads(index.split(": ", 1)[1])[0]["results"]
    assert result["dataset"]["name"] == "elsewhere"
    assert "Test set: elsewhere" in card


def test_what_is_not_known_of_leaks_is_said(tested: Run) -> None:
    (tested.path / "trained-on.safetensors").unlink()
    html = write_report(tested, evaluation=tested.test(shades(seed=1))).read_text(encoding="utf-8")
    assert "Whether it was trained on any of these pictures is not known any more." in html
    assert "Nothing suspicious" not in html


def test_many_classes_have_a_list_of_their_largest_mistakes() -> None:
    generator = np.random.default_rng(0)
    names = [f"class {i}" for i in range(31)]
    images = generator.integers(0, 256, (620, 8, 8, 3), dtype=np.uint8)
    data = Dataset(images, np.arange(620) % 31, names, name="noise")
    run = eyebright.train(data.subset(range(310)), epochs=1, val=0.0, **QUICK)
    html = write_report(run, evaluation=run.test(data), data=data).read_text(encoding="utf-8")
    assert "The largest mistakes" in html
    assert 'class="confusion"' not in html
    assert len(re.findall(r'<button class="plain" data-cell="', html)) == 20


def test_without_the_pictures_there_are_still_figures(tested: Run) -> None:
    html = write_report(Run(tested.path)).read_text(encoding="utf-8")
    assert "The pictures could not be read again" in html
    assert "accuracy on 240 test pictures" in html
    assert "data-cell=" not in html.split("<script>")[0]


@pytest.mark.parametrize("name", ["env.json", "shift.json"])
@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"command": 3}', '{"shifted": {"blur": 1}}'])
def test_damaged_records_are_named(tested: Run, name: str, damaged: str) -> None:
    (tested.path / name).write_text(damaged)
    with pytest.raises(ModelError, match=re.escape(name)):
        write_report(tested)


def test_pictures_of_a_fresh_process_come_from_their_source(
    class_folders: Callable[..., Path],
) -> None:
    data, other = class_folders(), class_folders("others", count=9)
    run = eyebright.train(data, epochs=1, **QUICK)
    assert "data-cell=" in write_report(Run(run.path)).read_text().split("<script>")[0]
    run.test(other)
    html = write_report(Run(run.path)).read_text(encoding="utf-8")
    assert "accuracy on 18 test pictures" in html
    assert "data-cell=" in html.split("<script>")[0]


def test_a_large_report_stays_below_five_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    names = [f"class {i}" for i in range(25)]
    images = generator.integers(0, 256, (5000, 32, 32, 3), dtype=np.uint8)  # noise: worst for PNG
    data = Dataset(images, np.arange(5000) % 25, names, name="noise")
    run = eyebright.train(data.subset(range(200)), epochs=1, val=0.0, **QUICK)
    run.test(data)
    path = write_report(run)
    assert 1_000_000 < path.stat().st_size < 5_000_000


def test_the_model_card_is_what_hubs_read(tested: Run) -> None:
    write_report(tested)
    _, head, body = (tested.path / "model-card.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = {
        line.split(": ", 1)[0]: json.loads(line.split(": ", 1)[1]) for line in head.splitlines()
    }
    assert fields["pipeline_tag"] == "image-classification"
    [result] = fields["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    values = {m["type"]: m["value"] for m in result["metrics"]}
    assert 0 <= values["accuracy"] <= 1
    for title in ("## Training data", "## Evaluation", "## Limitations", "## How to use"):
        assert title in body
    grey = tested.test(shades(seed=1)).per_class()["grey"]
    assert f"| grey | {' | '.join(map(with_n, grey.values()))} |" in body
    assert body.index("## Limitations") < body.index("## Evaluation")


def test_a_card_says_what_its_figures_include() -> None:
    data = shades(90)
    hostile = Dataset(data.images, data.labels, ["a|b", "<i>", "c"], name="d")
    run = eyebright.train(hostile, epochs=1, tta="mirror", **QUICK)
    card = (run.path / "model-card.md").read_text(encoding="utf-8")
    assert "Pictures held out: d; each picture and its mirror image averaged" in card
    assert "| a\\|b | " in card
    assert "| &lt;i> | " in card


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.93, 1.07, [0.95, 1.0, 1.05]),
        (-3, 12, [0, 5, 10]),
        (1, 12, [2, 4, 6, 8, 10, 12]),
    ],
)
def test_axes_have_round_values(low: float, high: float, wanted: list[float]) -> None:
    found = ticks(low, high)
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert 2 <= len(found) <= 8
    steps = np.diff(found)
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert found == pytest.approx(wanted)


def test_epochs_are_whole_on_their_axis() -> None:
    epochs = line_chart([Line("", [(1, 0.5), (2, 0.4), (3, 0.3)])], "epoch", "loss")
    assert ">2</text>" in epochs
    assert ">1.5</text>" not in epochs
    assert ">2.5</text>" in line_chart([Line("", [(1.5, 2), (3.5, 3)])], "seconds", "loss")


def test_charts_are_well_formed_and_stay_in_their_frame() -> None:
    import xml.etree.ElementTree as ET

    lines = [
        Line("a & b", [(0, 0.2), (1, 0.4)], 1, spans=[(0.1, 0.3), (0.3, 0.5)]),
        Line("c", [(0, 1)]),
    ]
    svg = line_chart(lines, "x <", "y", percent=True)
    for element in ET.fromstring(svg[svg.index("<svg") :]).iter("circle"):
        assert 0 <= float(element.get("cx", -1)) <= WIDTH
        assert 0 <= float(element.get("cy", -1)) <= HEIGHT
    figures = [("x" * 50, metrics.proportion(3, 7)), ("<", metrics.proportion(0, 0))]
    ET.fromstring(interval_bars(figures))


def test_what_is_kept_of_the_training_pictures(tmp_path: Path) -> None:
    data = shades(300)
    known = TrainedOn.learn(data)
    known.write(tmp_path)
    kind = (300, len(data.classes), data.imgsz)
    read = TrainedOn.load(tmp_path, *kind)
    assert read is not None
    assert np.array_equal(np.sort(digests(data.pixels)), read.digests)
    new = shades(300, seed=1)
    ends = new.subset(np.flatnonzero(new.labels != 1))
    learned = TrainedOn.learn(data.subset(np.flatnonzero(data.labels != 1)))
    assert (learned.probe(ends) == ends.labels).mean() > 0.85
    assert np.isin(digests(new.pixels), read.digests).sum() == 0
    for other in ((299, *kind[1:]), (301, *kind[1:]), (300, 7, data.imgsz), (*kind[:2], 4)):
        assert TrainedOn.load(tmp_path, *other) is None
    hostile = (
        {"largest": np.array(99)}, {"weights": known.weights[:, :1].astype(np.float32)},
        {"digests": known.digests.astype(np.float64)}, {"offset": known.offset[:, None]},
        {"weights": np.full(known.weights.shape, np.nan, np.float32)},
    )  # fmt: skip
    whole = load_file(tmp_path / "trained-on.safetensors")
    for change in hostile:
        save_file(whole | change, tmp_path / "trained-on.safetensors")
        assert TrainedOn.load(tmp_path, *kind) is None
    (tmp_path / "trained-on.safetensors").write_bytes(b"damaged")
    assert TrainedOn.load(tmp_path, *kind) is None
    assert TrainedOn.load(tmp_path / "nowhere", *kind) is None


@pytest.mark.parametrize("side", [4, 8, 13, 64])
def test_small_pixels_are_means(side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    rows = small_pixels(images)
    assert rows.shape == (5, min(8, side) ** 2 * 3)
    assert rows.min() >= -1
    assert rows.max() <= 1
    if side in (8, 64):
        blocks = images.reshape(5, 8, side // 8, 8, side // 8, 3).mean((2, 4))
        assert rows == pytest.approx(blocks.reshape(5, -1) / 127.5 - 1)


def test_a_run_that_was_interrupted_early_still_has_a_report(tested: Run, tmp_path: Path) -> None:
    folder = tmp_path / "early"
    shutil.copytree(tested.path, folder)
    for name in ("val.json", "predictions-val.csv"):
        (folder / name).unlink()
    page = write_report(Run(folder)).read_text(encoding="utf-8")
    assert "on 240 test pictures" in page
    with pytest.raises(UsageError, match="first: eyebright val"):
        Run(folder).promises(risk=0.3)
