import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from eyebright import uncompiled

OPTIMIZERS = """
import torch
from torch import nn
from eyebright.config import TrainConfig
from eyebright.optim import create_optimizers
for optimizer, rest in (("sgd", "adam"), ("muon", "adam"), ("muon", "sgd")):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    config = TrainConfig(optimizer=optimizer, rest=rest, precision="fp32")
    for optimizer in create_optimizers(net, config):
        net(torch.zeros(2, 3, 4, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
COMMAND = """
from eyebright.cli import run_app
assert run_app(["train", "pets", "--epochs", "1", "-b", "8"]) == 0
assert run_app(["predict", "runs/pets-fast", "pets/cat/0.png"]) == 0
"""
LOADED = """
import sys
heavy = {"torch._dynamo", "sympy", "timm", "torchvision"} & sys.modules.keys()
assert "torch.optim" in sys.modules and not heavy, heavy
"""


@pytest.mark.parametrize("script", [OPTIMIZERS, COMMAND])
def test_nothing_loads_a_compiler_or_nets_that_are_not_trained(
    script: str, class_folders: Callable[..., Path]
) -> None:
    class_folders()
    subprocess.run([sys.executable, "-c", script + LOADED], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD", {"momentum": 0.9, "fused": True}),
        ("SGD", {"momentum": 0.85, "nesterov": True, "weight_decay": 0.01, "fused": False}),
        ("Adam", {"betas": (0.85, 0.95), "fused": True}),
    ],
)
def test_they_take_the_same_steps_as_torchs(name: str, settings: dict[str, object]) -> None:
    nets = []
    for source in (uncompiled, torch.optim):
        torch.manual_seed(0)
        net = nn.Linear(5, 3)
        optimizer = getattr(source, name)(net.parameters(), lr=0.1, **settings)
        for _ in range(4):
            net(torch.randn(7, 5)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert all(p.grad is None for p in net.parameters())
        nets.append((net, optimizer))
    (ours, our_optimizer), (theirs, their_optimizer) = nets
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    our_optimizer.load_state_dict(their_optimizer.state_dict())
    assert isinstance(our_optimizer, getattr(torch.optim, name))
