"""What docs/architecture.md shows of adding things is applied to a copy of the package and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from docs import flow

ROOT = Path(__file__).parents[1]
GIT = shutil.which("git")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose src/ has all diffs applied."""
    if GIT is None:
        pytest.skip("needs git, to apply a diff")
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    diffs = re.findall(r"^```diff\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(diffs) == 3
    for diff in diffs:
        done = subprocess.run(
            [GIT, "apply", "-"], cwd=folder, input=diff, text=True,
            capture_output=True, check=False,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert sum(line.startswith("+") for line in diff.splitlines()) <= 20
    return folder


@pytest.mark.slow
def test_net_loss_and_source_can_be_trained_with(extended: Path, tmp_path: Path) -> None:
    labels = np.arange(200) % 10
    noise = np.random.default_rng(0).normal(30, 6, (200, 3072))
    pixels = np.clip(20 * labels[:, None] + noise, 0, 255)
    np.column_stack((labels, pixels)).astype(np.uint8).tofile(tmp_path / "data_batch_1.bin")
    (tmp_path / "short.bin").write_bytes(b"\0" * 3072)

    def says(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "eyebright", *arguments], cwd=tmp_path, text=True,
            capture_output=True, check=False, env=os.environ | {"PYTHONPATH": f"{extended}/src"},
        )  # fmt: skip

    quick = ["--model", "tiny", "--epochs", "3", "-b", "16", "--device", "cpu"]
    done = says("train", "data_batch_1.bin", *quick, "--balance", "ldam")
    assert done.returncode == 0, done.stderr
    assert "tiny on 180 pictures, 20 held out, into runs/data_batch_1-fast" in done.stdout
    assert '"balance": "ldam"' in (tmp_path / "runs/data_batch_1-fast/config.json").read_text()
    done = says("val", "runs/data_batch_1-fast")
    assert "Accuracy of the network on the 20 validation images" in done.stdout
    done = says("train", "short.bin", *quick)
    assert (done.returncode, done.stderr.strip()) == (
        3, "eyebright: short.bin: not whole pictures of 3,073 bytes",
    )  # fmt: skip


def test_the_drawing_is_what_its_script_draws() -> None:
    assert (ROOT / "docs" / "flow.svg").read_text(encoding="utf-8") == flow.draw()
