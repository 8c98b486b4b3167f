"""What the tests of compiled kernels share: where they run, and features for them."""

import pytest
import torch
from torch import Tensor

from eyebright import compiled, convolution

needs_kernels = pytest.mark.skipif(
    compiled.library() is None, reason="no gcc, or not Linux on x86-64: no compiled kernels"
)
needs_winograd = pytest.mark.skipif(
    not convolution.has_winograd(), reason="no AVX512-BF16, or no gcc that knows it"
)
with_and_without_winograd = pytest.mark.parametrize(
    "minimal", [False, pytest.param(True, marks=needs_winograd)]
)


def features(*shape: int, seed: int = 0) -> Tensor:
    """bf16 features (n, channels, height, width), channels last, always the same ones."""
    generator = torch.Generator().manual_seed(seed)
    x = (2 * torch.randn(shape, generator=generator) + 1).bfloat16()
    return x.contiguous(memory_format=torch.channels_last)
