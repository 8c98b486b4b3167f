"""What the system says of the process."""

import subprocess
import sys
from pathlib import Path

import pytest

from eyebright import machine


def test_the_age_of_the_process() -> None:
    code = "from eyebright.machine import process_age; print(process_age())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 600


@pytest.mark.parametrize("uptime", ["5.0 1.0", "1e9 1.0", "?", ""])
def test_an_age_that_cannot_be_is_none(monkeypatch: pytest.MonkeyPatch, uptime: str) -> None:
    read = Path.read_text

    def read_other(path: Path) -> str:
        return uptime if path == Path("/proc/uptime") else read(path)

    monkeypatch.setattr(Path, "read_text", read_other)
    assert machine.process_age() == 0
