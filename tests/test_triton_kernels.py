"""The kernels for a GPU against PyTorch's functions in float64: by Triton's interpreter here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

COMPARE = """
import sys
import torch
import torch.nn.functional as F
from eyebright import triton_functions
from eyebright.layers import NormGelu

device = sys.argv[1]


def features(*shape):
    x = (2 * torch.randn(shape, device=device) + 1).bfloat16()
    return x.contiguous(memory_format=torch.channels_last)


def off(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


def reference(x, bias, pool):
    x = F.max_pool2d(x, 2) if pool else x
    mean, variance = torch.zeros_like(bias), torch.ones_like(bias)
    z = F.batch_norm(x, mean, variance, None, bias, training=True, momentum=0.4, eps=1e-5)
    return F.gelu(z), mean, variance


torch.manual_seed(0)
for shape in (3, 24, 7, 7), (2, 64, 9, 31), (4, 130, 6, 5), (6, 3, 4, 2), (9, 1, 5, 4):
    for pool in True, False:
        norm = NormGelu(shape[1]).to(device)
        torch.nn.init.normal_(norm.bias)
        x = features(*shape).requires_grad_()
        out = triton_functions.norm_gelu(x, norm, pool)
        gradient = features(*out.shape)
        out.backward(gradient)
        exact = x.detach().double().requires_grad_()
        bias = norm.bias.detach().double().requires_grad_()
        wanted, mean, variance = reference(exact, bias, pool)
        wanted.backward(gradient.double())
        assert off(out, wanted) < 5e-3, (shape, pool)
        assert off(x.grad, exact.grad) < 1e-2, (shape, pool)
        assert off(norm.bias.grad, bias.grad) < 2e-3, (shape, pool)
        assert off(norm.running_mean, mean) < 1e-5, (shape, pool)
        assert off(norm.running_var, variance) < 1e-5, (shape, pool)

x, bias = features(5, 24, 9, 9), torch.randn(24, device=device, requires_grad=True)
out = triton_functions.bias_gelu(x, bias)
gradient = features(*out.shape)
out.backward(gradient)
exact = bias.detach().double().requires_grad_()
wanted = F.gelu(x.double() + exact[:, None, None])
wanted.backward(gradient.double())
assert off(out, wanted) < 5e-3
assert off(bias.grad, exact.grad) < 2e-3

x = features(2, 8, 4, 4)
x[0, 3, 1, 1] = float("nan")
assert triton_functions.norm_gelu(x, NormGelu(8).to(device), True)[:, 3].isnan().any()
print("all alike")
"""


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)
def test_they_compute_what_torch_does(device: str, tmp_path: Path) -> None:
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, device],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "all alike", done.stderr
