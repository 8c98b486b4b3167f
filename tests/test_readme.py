"""What README and guides show is run here as written, on a slice of the data."""

import json
import re
import runpy
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
from bench import simulate_scale
from bench.rows import read
from bench.walkthrough import SHOWN, CopyOfCIFAR10, blocks_of
from PIL import Image

from eyebright import recipes
from eyebright.audit import suspects
from eyebright.cli import run_app

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/lesson.md",
    "docs/cross-entropy.md",
    "docs/honest.md",
    "docs/own-pictures.md",
    "docs/nothing-lost.md",
    "docs/shipping.md",
    "docs/unbalanced.md",
    "docs/report.md",
    "docs/wrong-labels.md",
    "docs/gpu.md",
]
SCALING = ["docs/shards.md", "docs/lake.md", "docs/scaling.md"]  # with commands of torchrun
FIRST_SCREEN = 40  # lines


def code_blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of each block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


class WithoutWorkers(torch.utils.data.DataLoader[Any]):
    """So few pictures are loaded before two processes have started."""

    def __init__(self, *words: Any, **settings: Any):
        super().__init__(*words, **settings | {"num_workers": 0})


@pytest.fixture
def _a_slice_of_everything(
    small_cifar10: Path, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short recipes, few pictures, and the plain lesson on the same few."""
    for name, recipe in recipes.RECIPES.items():
        short = recipe.replace(epochs=1, min_steps=0, log_every=recipe.log_every and 20)
        monkeypatch.setitem(recipes.RECIPES, name, short)
    monkeypatch.setattr(suspects, "LENGTH", {"epochs": 1, "min_steps": 0})
    class_folders("my-pictures/train")
    class_folders("my-pictures/test", count=3)
    Image.new("RGB", (40, 30)).save("cat.jpg")
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", CopyOfCIFAR10)
    monkeypatch.setattr(torch.utils.data, "DataLoader", WithoutWorkers)
    monkeypatch.setattr(plt, "show", plt.close)  # there is no window


def run_blocks(page: str, blocks: Iterable[tuple[str, str]]) -> int:
    """Run a page, which is one program; gives how many commands and snippets there were."""
    ran = 0
    names: dict[str, object] = {}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, page, "exec"), names)
            ran += 1
        for line in code.splitlines() if language == "bash" else ():
            if line.startswith("eyebright "):
                assert run_app(shlex.split(line, comments=True)[1:]) == 0, line
                ran += 1
            else:
                assert line.startswith("pip install "), f"{page}: nobody runs {line!r}"
    return ran


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/lesson.md"])
@pytest.mark.usefixtures("_a_slice_of_everything")
def test_every_command_and_snippet_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for block in code_blocks(page) if block[0] in ("python", "bash")]
    assert run_blocks(page, blocks) >= max(2, len(blocks))  # a command for each block at least
    out = capsys.readouterr().out
    if page == "README.md":
        assert "GroundTruth:  cat   deer  dog   frog" in out
        assert "Accuracy for class: plane is " in out  # the lesson's short names


@pytest.mark.parametrize("page", SCALING[:2])
@pytest.mark.usefixtures("_a_slice_of_everything")
def test_the_commands_that_need_one_process_run(page: str) -> None:
    if page == "docs/lake.md":
        assert run_app("train my-pictures --recipe fast --model lesson --name pets".split()) == 0
        Path("paths.txt").write_text("cat.jpg\ncat.jpg\n")
    blocks = code_blocks(page)
    commands = [line for _, code in blocks for line in re.findall(r"(?m)^eyebright .*", code)]
    snippets = [block for block in blocks if block[0] == "python"]
    assert len(commands) == 2
    assert run_blocks(page, [("bash", "\n".join(commands)), *snippets]) == 2 + len(snippets)


@pytest.mark.parametrize("page", ["docs/lesson.md", "docs/lesson.zh-CN.md"])
def test_the_notebook_holds_the_code_of_the_page(page: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "notebook.py"))["notebook_of"]
    text = (ROOT / page).read_text(encoding="utf-8")
    notebook = json.loads((ROOT / page).with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert notebook == made(text), "make it again: python docs/notebook.py"
    shown = [code for language, code in code_blocks(page) if language in ("python", "bash")]
    assert [code for _, code in cells_of(notebook)] == shown


def cells_of(notebook: dict[str, list[dict[str, list[str]]]]) -> list[tuple[str, str]]:
    """(language, code) of each code cell; lines with ``!`` are for the shell."""
    codes = ["".join(c["source"]) + "\n" for c in notebook["cells"] if "outputs" in c]
    return [
        ("bash", re.sub("^!", "", code, flags=re.MULTILINE))
        if code.startswith("!")
        else ("python", code)
        for code in codes
    ]


@pytest.mark.usefixtures("_a_slice_of_everything")
def test_the_lesson_runs_as_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((ROOT / "docs" / "lesson.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert run_blocks("lesson.ipynb", cells_of(notebook)) >= 20
    assert capsys.readouterr().out.count("Accuracy of the network on the 100 test images") == 2


@pytest.mark.parametrize("page", ["docs/lesson.md", "docs/lesson.zh-CN.md"])
def test_the_lesson_shows_what_a_whole_run_printed(page: str) -> None:
    def without_comments(code: str) -> str:
        return re.sub(r"[ \t]*#.*", "", code)

    measured = {
        without_comments(code): output
        for _, code, output in blocks_of(SHOWN.read_text(encoding="utf-8"))
    }
    shown = blocks_of((ROOT / page).read_text(encoding="utf-8"))
    with_output = [(without_comments(code), output) for _, code, output in shown if output]
    assert len(with_output) >= 12
    for code, output in with_output:
        assert code in measured, f"run it again, it has changed: {code}"
        pattern = "".join(  # ... stands for lines left out
            r"(?:.*\n)*" if line == "..." else re.escape(line) + r"\n"
            for line in output.splitlines()
        )
        assert re.fullmatch(pattern, measured[code] or ""), output


def test_the_two_commands_are_on_the_first_screen_and_in_ci() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    assert "pip install -e . -c constraints.txt && eyebright train" in first_screen
    tests = 'pip install -e ".[dev]" -c constraints.txt && pytest'
    assert tests in first_screen
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'pip install --quiet -e ".[dev]" -c constraints.txt\n' in script
    assert script.endswith("\npytest\n")


@pytest.mark.parametrize("page", [*PAGES, *SCALING, "docs/tuning.md"])
def test_the_chinese_pages_show_the_same_code(page: str) -> None:
    def without_comments(name: str) -> list[str]:
        lines = "\n".join(code for _, code in code_blocks(name)).splitlines()
        return [re.sub(r"\s*#.*", "", line) for line in lines]

    chinese = page.replace(".md", ".zh-CN.md")
    assert without_comments(chinese) == without_comments(page)
    text = (ROOT / chinese).read_text(encoding="utf-8")
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 500


@pytest.mark.parametrize(
    "page", [*PAGES, *SCALING, "docs/tuning.md", "docs/architecture.md", "CONTRIBUTING.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", ["docs/unbalanced.md", "docs/unbalanced.zh-CN.md"])
def test_the_guides_table_is_what_was_measured(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    results = (ROOT / "bench" / "results" / "README.md").read_text(encoding="utf-8")
    table = results.split("(`longtail.csv`)")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if " ± " in line]
    assert len(rows) >= 6
    for row in rows:
        assert row in text


@pytest.mark.parametrize("page", ["docs/lesson.md", "docs/gpu.md", "docs/unbalanced.md"])
def test_means_and_deviations_are_those_of_the_results(page: str) -> None:
    results = (ROOT / "bench" / "results" / "README.md").read_text(encoding="utf-8")
    for name in (page, page.replace(".md", ".zh-CN.md")):
        figures = re.findall(r"[\d.]+ ± [\d.]+ %", (ROOT / name).read_text(encoding="utf-8"))
        assert len(figures) >= 2
        assert all(figure in results for figure in figures), figures


@pytest.mark.parametrize("page", ["docs/lesson.md", "docs/lesson.zh-CN.md"])
def test_why_not_more_is_what_was_measured(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    measured = {(row["recipe"], row["epoch"]): row for row in read("lesson-limits")}
    for key in (("tutorial", "5"), ("tutorial", "8"), ("fast", "12")):
        row = measured[key]
        known, new = (100 * float(row[f"{which}_accuracy"]) for which in ("train", "test"))
        assert f"| {key[1]} | {known:.1f} % | {new:.1f} % |" in text


@pytest.mark.parametrize("language", simulate_scale.PAGES)
def test_the_tables_of_scaling_are_what_the_model_says(language: str) -> None:
    text = simulate_scale.PAGES[language].read_text(encoding="utf-8")
    assert simulate_scale.put_tables(text, language) == text
    assert "| 512 |" in text


def test_pins_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    for name in re.findall(r'"([a-z0-9-]+)', listed[1]):
        assert name in pinned
