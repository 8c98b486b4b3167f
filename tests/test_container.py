"""The Containerfile, as far as it can be checked without an engine."""

import json
import re
from pathlib import Path

import pytest
import typer.main

from eyebright.cli import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instructions and their arguments; lines that go on are joined."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]  # type: ignore[misc]


def last(steps: list[tuple[str, str]], name: str) -> str:
    return [words for step, words in steps if step == name][-1]


def test_what_it_copies_is_there_and_goes_into_the_build(steps: list[tuple[str, str]]) -> None:
    copied = [words.split()[:-1] for step, words in steps if step == "COPY"]
    sources = [name for words in copied if not words[0].startswith("--") for name in words]
    assert {"src", "pyproject.toml"} <= set(sources)
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()]
    for name in sources:
        assert (ROOT / name).exists(), name
        assert name in kept, f"{name} is left out by .dockerignore"
    project = (ROOT / "pyproject.toml").read_text()
    for needed in re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', project, re.MULTILINE):
        assert needed in sources, f"the build needs {needed}"


def test_stages_are_those_that_are_copied_from(steps: list[tuple[str, str]]) -> None:
    named = {words.split()[-1] for step, words in steps if step == "FROM" and " AS " in words}
    used = {one for _, words in steps for one in re.findall(r"--from=(\S+)", words)}
    assert used == named


def test_what_it_installs_are_extras_that_there_are(steps: list[tuple[str, str]]) -> None:
    (extras,) = re.findall(r'pip install.*"\.\[([a-z,]+)\]"', " ".join(w for _, w in steps))
    project = (ROOT / "pyproject.toml").read_text()
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert "serve" in extras


def test_it_does_not_run_as_root_nor_write_into_its_image(steps: list[tuple[str, str]]) -> None:
    assert last(steps, "USER") not in ("0", "root")
    assert int(last(steps, "USER")) > 1000
    after = [step for step, _ in steps][[step for step, _ in steps].index("USER") :]
    assert "RUN" not in after
    assert "VOLUME" not in after
    assert "HOME=/tmp" in last(steps, "ENV")


def test_it_looks_whether_it_is_ready_and_starts_a_verb_that_there_is(
    steps: list[tuple[str, str]],
) -> None:
    check = last(steps, "HEALTHCHECK")
    assert json.loads(check[check.index("CMD") + 4 :])[0] == "python"
    verb, *words = json.loads(last(steps, "CMD"))
    assert json.loads(last(steps, "ENTRYPOINT")) == ["eyebright"]
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    port = words[words.index("--port") + 1]
    assert last(steps, "EXPOSE") == port
    assert f"http://127.0.0.1:{port}/readyz" in check
    assert words[words.index("--host") + 1] == "0.0.0.0"
