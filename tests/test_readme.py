"""What README and guides show is run here as written, on a slice of the data."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from eyebright import config
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
]
FIRST_SCREEN = 40  # lines


def code_blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of each block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_snippet_runs(
    page: str,
    small_cifar10: Path,
    class_folders: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, recipe in config.RECIPES.items():
        short = recipe.replace(epochs=1, min_steps=0, log_every=recipe.log_every and 20)
        monkeypatch.setitem(config.RECIPES, name, short)
    class_folders("my-pictures/train")
    class_folders("my-pictures/test", count=3)
    Image.new("RGB", (40, 30)).save("cat.jpg")
    ran = 0
    names: dict[str, object] = {}  # a page is one program
    for language, code in code_blocks(page):
        if language == "python":
            exec(compile(code, page, "exec"), names)
            ran += 1
        for line in code.splitlines() if language == "bash" else ():
            if line.startswith("eyebright "):
                assert run_app(shlex.split(line, comments=True)[1:]) == 0, line
                ran += 1
            else:
                assert line.startswith("pip install "), f"{page}: nobody runs {line!r}"
    assert ran >= 7
    if page == "README.md":
        out = capsys.readouterr().out
        assert "GroundTruth:  cat   deer  dog   frog" in out
        assert "Accuracy for class: plane is " in out  # the lesson's short names


def test_the_two_commands_are_on_the_first_screen_and_in_ci() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    assert "pip install -e . -c constraints.txt && eyebright train" in first_screen
    tests = 'pip install -e ".[dev]" -c constraints.txt && pytest'
    assert tests in first_screen
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'pip install --quiet -e ".[dev]" -c constraints.txt\n' in script
    assert script.endswith("\npytest\n")


@pytest.mark.parametrize("page", [*PAGES, "docs/tuning.md"])
def test_the_chinese_pages_show_the_same_code(page: str) -> None:
    def without_comments(name: str) -> list[str]:
        lines = "\n".join(code for _, code in code_blocks(name)).splitlines()
        return [re.sub(r"\s*#.*", "", line) for line in lines]

    chinese = page.replace(".md", ".zh-CN.md")
    assert without_comments(chinese) == without_comments(page)
    text = (ROOT / chinese).read_text(encoding="utf-8")
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 500


@pytest.mark.parametrize(
    "page", [*PAGES, "docs/tuning.md", "docs/architecture.md", "CONTRIBUTING.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", ["docs/honest.md", "docs/honest.zh-CN.md"])
def test_the_guides_table_is_what_was_measured(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    results = (ROOT / "bench" / "results" / "README.md").read_text(encoding="utf-8")
    table = results.split("(`longtail.csv`)")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if " ± " in line]
    assert len(rows) >= 6
    for row in rows:
        assert row in text


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
