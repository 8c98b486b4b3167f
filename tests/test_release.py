"""What a release says of itself is the same everywhere."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from eyebright import errors
from eyebright.cli import VERBS
from eyebright.errors import install_command

ROOT = Path(__file__).parents[1]


def loaded(name: str) -> dict:
    yaml = pytest.importorskip("yaml", reason="needs the extra docs")
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    citation = loaded("CITATION.cff")
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["title"] == project["name"]
    released = re.findall(
        r"^## \[([\d.]+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    if released:  # the newest stands first
        assert released[0] == (project["version"], str(citation["date-released"]))
    else:
        assert "date-released" not in citation


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_ask_for_something(name: str) -> None:
    form = loaded(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    fields = form["body"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert name != "bug" or any("eyebright doctor" in f["attributes"]["label"] for f in fields)


def test_the_script_runs_verbs_that_there_are() -> None:
    script = ROOT / ".ci" / "release"
    assert os.access(script, os.X_OK)
    verbs = re.findall(r"^eyebright ([a-z]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(verbs) <= {verb.__name__ for verb in VERBS}
    assert verbs[:2] == ["doctor", "train"]


def test_an_extra_is_installed_as_this_copy_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("tune") == 'pip install -e ".[tune]" -c constraints.txt'
    monkeypatch.chdir(tmp_path)
    assert install_command("tune") == f'pip install -e "{ROOT}[tune]" -c {ROOT}/constraints.txt'
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib" / "eyebright" / "errors.py"))
    assert install_command("tune") == 'pip install "eyebright[tune]"'
