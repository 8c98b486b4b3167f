"""What a report of a fault needs, and nothing that is secret."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from eyebright import doctor
from eyebright.cli import run_app
from eyebright.errors import install_command


def test_it_says_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert facts["versions"]["eyebright"]
    assert facts["machine"]["cores"].split(" of ")[0].isdigit()
    assert " free of " in facts["machine"]["memory"]
    assert facts["training"]["precision"] in ("fp32", "bf16")
    assert facts["training"]["threads"] == str(torch.get_num_threads())
    assert all(" free" in facts["folders"][name] for name in facts["folders"])
    assert run_app(["doctor"]) == 0
    out = capsys.readouterr().out
    for heading, entries in facts.items():
        assert heading in out
        assert all(name in out for name in entries)


def test_nobody_is_asked_and_nothing_secret_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "maria.secret"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EYEBRIGHT_DATA", str(home / "data"))
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdef")
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a network was asked"))
    assert run_app(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "maria" not in out
    assert "abcdef" not in out
    assert "~/data" in out
    monkeypatch.setenv("EYEBRIGHT_DATA", f"{home}-of-another/data")
    facts = doctor.examine(tmp_path)
    assert facts["environment"]["EYEBRIGHT_DATA"] == f"{home}-of-another/data"


def test_what_is_missing_or_wrong_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"audit": "no-such-package"})
    monkeypatch.setenv("EYEBRIGHT_CACHE_GB", "plenty")
    (tmp_path / "file").touch()
    facts = doctor.examine(tmp_path / "file" / "runs")
    assert install_command("audit") in facts["versions"]["no-such-package"]
    assert "must be a number" in facts["folders"]["decoded pictures"]
    assert "runs" in facts["folders"]["runs"]
    assert os.environ["EYEBRIGHT_CACHE_GB"] == facts["environment"]["EYEBRIGHT_CACHE_GB"]
