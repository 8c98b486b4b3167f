"""The essay on cross-entropy: its drawings and its real example are what the script makes."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from docs import figures, real_example

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
PAGES = ["cross-entropy.md", "cross-entropy.zh-CN.md"]


FACTS = json.loads(figures.FACTS.read_text(encoding="utf-8"))
NAMES = [
    f"{name}{tail}" for name, made in figures.WORDS.items() for tail in ("", "-zh") if made["zh"]
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    figures.draw(folder)
    return folder


def lines_of(path: Path) -> dict[str, np.ndarray]:
    """Name -> corners of each line that shows data, in the units of the drawing."""
    found = {}
    for group in ElementTree.parse(path).iter(f"{SVG}g"):
        if (name := group.get("id", "")).startswith("data-"):
            path_of = group.find(f"{SVG}path")
            assert path_of is not None
            numbers = re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", path_of.get("d", ""))
            found[name] = np.array(numbers, float).reshape(-1, 2)
    return found


def words_of(path: Path) -> list[str]:
    texts = ["".join(one.itertext()) for one in ElementTree.parse(path).iter(f"{SVG}text")]
    return [text.strip() for text in texts]


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_is_what_the_script_draws(drawn: Path, name: str) -> None:
    kept, new = figures.FOLDER / f"{name}.svg", drawn / f"{name}.svg"
    assert words_of(new) == words_of(kept)
    lines, wanted = lines_of(new), lines_of(kept)
    assert lines.keys() == wanted.keys()
    assert lines or name.startswith("picture")
    for line, points in lines.items():
        np.testing.assert_allclose(points, wanted[line], atol=0.5)
    assert kept.stat().st_size < 60_000


def test_the_same_numbers_give_the_same_files(drawn: Path, tmp_path: Path) -> None:
    for path in figures.draw(tmp_path):
        assert path.read_bytes() == (drawn / path.name).read_bytes()


def test_nothing_else_lies_there() -> None:
    there = {path.name for path in figures.FOLDER.iterdir()}
    assert there == {f"{name}.svg" for name in NAMES} | {"run.json", "cat.jpg"}


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-zh")])
def test_a_chinese_drawing_says_all_in_chinese(name: str) -> None:
    of_both = set(words_of(figures.FOLDER / f"{name}.svg"))
    english = set(words_of(figures.FOLDER / f"{name.removesuffix('-zh')}.svg"))
    terms = {"argmax", "softargmax", "softmax", "logit", "log(e + 9) − 1 = 1.461"}
    shared = of_both & english - terms
    assert not [text for text in shared if re.search(r"[A-Za-z]{2}", text)]


def test_what_the_drawings_say_is_so() -> None:
    """Numbers that stand in titles and labels, by other ways than those that draw."""
    p = np.array([0.82] + 9 * [0.02])
    said = {
        "twice": [f"{np.log(np.e + 9) - 1:.3f}"],
        "minus-log": [f"{np.log(2):.2f}"],
        "distance": [f"{-(0.7 * np.log(0.7) + 0.3 * np.log(0.3)):.3f}"],
        "smoothing": [f"{-(p * np.log(p)).sum():.3f}", f"{np.log(41):.2f}"],
        "temperature": [f"{FACTS['before']:.3f}", f"{FACTS['after']:.3f}"],
    }
    for name, numbers in said.items():
        for tail in ("", "-zh"):
            text = " ".join(words_of(figures.FOLDER / f"{name}{tail}.svg"))
            assert all(number in text for number in numbers), (name, tail)


def test_the_temperature_is_where_the_curve_is_lowest() -> None:
    curve = FACTS["curve"]
    lowest = curve["temperatures"][int(np.argmin(curve["losses"]))]
    assert lowest == pytest.approx(FACTS["chain"]["temperature"], rel=0.04)
    assert min(curve["losses"]) == pytest.approx(FACTS["after"], abs=1e-3)


@pytest.mark.parametrize("page", PAGES)
def test_the_real_example_is_what_the_command_prints(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert f"```text\n{real_example.output(FACTS)}```" in text


@pytest.mark.parametrize("page", PAGES)
def test_the_text_has_the_runs_numbers(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    chain, true = FACTS["chain"], FACTS["chain"]["label"]
    keys = ("before", "after", "calibration error before", "calibration error after")
    for number in (
        *(f"{FACTS[key]:.3f}" for key in keys),
        f"{chain['temperature']:.3f}",
        f"{chain['log_sum_exp']:.4f}",
        f"{100 * chain['softmax'][true]:.0f} %",
        f"{FACTS['n']:,}",
    ):
        assert number in prose, number
    assert chain["prediction"] != true
    assert chain["calibrated_loss"] > chain["loss"]  # "it costs a little"
    assert FACTS["config"]["label_smoothing"] == 0.2
    assert FACTS["config"]["epochs"] == FACTS["epoch"] == 1
    for name in figures.FIGURES:
        tail = "" if page == PAGES[0] else "-zh"
        assert f"](cross-entropy/{name}{tail}.svg)" in text


def test_a_run_is_asked_anew(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in run.json and in the pages comes from the run alone."""
    monkeypatch.setattr(real_example, "FOLDER", tmp_path)
    monkeypatch.setattr(real_example, "FACTS", tmp_path / "run.json")
    page = tmp_path / "page.md"
    page.write_text("before\n```text\n$ eyebright explain old\nold\n```\nafter\n", "utf-8")
    monkeypatch.setattr(real_example, "PAGES", [page])
    run, cat = tmp_path / "r", shipped / "pets" / "cat" / "0.png"
    shutil.copytree(shipped / "runs" / "r", run)
    shutil.copy(run / "val.json", run / "test.json")
    real_example.ask(run, cat)
    facts = json.loads((tmp_path / "run.json").read_text("utf-8"))
    val = json.loads((run / "val.json").read_text("utf-8"))
    assert facts["after"] == pytest.approx(val["figures"]["log loss"]["value"], abs=1e-6)
    assert facts["n"] == val["n"]
    assert (facts["picture"], facts["chain"]["label"]) == ("cat/0.png", "cat")
    text = page.read_text("utf-8")
    assert text.startswith(
        "before\n```text\n$ eyebright explain runs/cifar10-fast cat/0.png --loss"
    )
    assert f"loss: {facts['chain']['loss']:.4f} nats" in text
    assert text.endswith("```\nafter\n")
