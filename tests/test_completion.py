"""What a tab offers, as the shell asks for it, and without waiting for heavy packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash")
HEAVY = {"torch", "torchvision", "numpy", "PIL", "scipy", "sklearn", "timm", "matplotlib"}
ASK = """
import sys
sys.argv = ["eyebright"]
from eyebright.__main__ import main
try:
    main()
except SystemExit:
    print("LOADED", *sys.modules)
"""


@pytest.fixture(autouse=True)
def few_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/pets", "runs/pets 2", "runs/cifar10-fast", "elsewhere/old"):
        Path(name).mkdir(parents=True)
        Path(name, "config.json").write_text("{}")
    Path("runs/no-run").mkdir()


def offered(line: str) -> list[str]:
    """The words that a tab at the end of a line may lead to."""
    words = line.split(" ")
    environment = os.environ | {
        "_EYEBRIGHT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    words, _, loaded = done.stdout.partition("LOADED")
    assert not {name.split(".")[0] for name in loaded.split()} & HEAVY
    return words.split("\n")[:-1] if words.strip() else []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("eyebright t", ["test", "train", "tune"]),
        ("eyebright val ", ["runs/cifar10-fast", "runs/pets", "runs/pets 2"]),
        ("eyebright compare runs/pets runs/c", ["runs/cifar10-fast"]),
        ("eyebright predict elsewhere/", ["elsewhere/old"]),
        ("eyebright explain nowhere/", []),  # the shell then offers files
        ("eyebright train --resume runs/p", ["runs/pets", "runs/pets 2"]),
        ("eyebright runs --remove c", ["cifar10-fast"]),
        ("eyebright train --recipe f", ["fast", "finetune"]),
        ("eyebright tune --recipe q", ["quick"]),
        ("eyebright train --tta ", ["mirror", "none"]),
        ("eyebright train --metric b", ["balanced-accuracy"]),
        ("eyebright compare --split ", ["test", "val"]),
        ("eyebright test runs/pets --interval e", ["exact"]),
        ("eyebright report runs/pets --lang ", ["en", "zh"]),
        ("eyebright doctor --j", ["--json"]),
    ],
)
def test_a_tab_offers(line: str, words: list[str]) -> None:
    assert sorted(offered(line)) == words


def test_a_folder_that_cannot_be_read_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from eyebright.cli.completing import run_folders

    def refuse(path: Path) -> None:
        raise PermissionError(13, "no", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert run_folders("runs/") == []


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_takes_the_words() -> None:
    program = Path(sys.executable).with_name("eyebright")
    if not program.exists():
        pytest.skip("needs the installed command eyebright")
    script = subprocess.run(
        [program],
        env=os.environ | {"_EYEBRIGHT_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    script += (
        f"COMP_WORDS=(eyebright val runs/pe); COMP_CWORD=2; _eyebright_completion '{program}'\n"
        'printf "%s|" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "runs/pets|runs/pets 2|"


def test_the_help_says_how_to_switch_it_on() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eyebright", "--help"], capture_output=True, text=True, check=True
    )
    assert "--install-completion" in done.stdout
