"""Compiled kernels for nets that train in bf16.

Between two convolutions lie pooling, batch norm and GELU. PyTorch makes a dozen passes over memory
for them, forward and backward, which takes longer than the convolutions where there is hardware for
bf16; ours make five. For a processor they are in ``kernels.c`` (`eyebright.compiled`), for a GPU in
`eyebright.triton_functions`. Without gcc or Triton, or on another system, the same arithmetic runs
on PyTorch's own functions, only slower.

Functions here take and give bf16 features, channels last, for which `ready` says yes.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from eyebright import distributed
from eyebright.compiled import call, library
from eyebright.console import notices

LONG_ROW = 128  # channels that make an inner loop long enough by themselves


@functools.cache
def gpu_library() -> Any:
    """`eyebright.triton_functions`; None where there is no Triton, which is said once."""
    try:
        from eyebright import triton_functions
    except ImportError as error:
        notices.warning("no compiled kernels, so training is slower: %s", error)
        return None
    return triton_functions


def ready(features: Tensor) -> bool:
    """Whether the kernels take these features: bf16 in training, where there are any."""
    return (
        features.dtype == torch.bfloat16
        and features.device.type in ("cpu", "cuda")
        and torch.is_grad_enabled()
        and features.is_contiguous(memory_format=torch.channels_last)
        and features.numel() < 2**31
        and (gpu_library() if features.is_cuda else library()) is not None
    )


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x + bias)``, where x needs no gradient.

    Args:
        x: (n, channels, height, width).
        bias: float32 (channels,).
    """
    result: Tensor
    result = gpu_library().bias_gelu(x, bias) if x.is_cuda else _BiasGelu.apply(x, bias)
    return result


def norm_gelu(x: Tensor, norm: torch.nn.BatchNorm2d, pool: bool) -> Tensor:
    """GELU of features normalised over the batch, after 2×2 max-pooling where ``pool`` says so.

    Args:
        x: (n, channels, height, width), two rows and columns or more if it is to be pooled.
        norm: has the bias, and running statistics that are brought up to date; its scale is 1.
        pool: halve height and width first; an odd last row or column is left out.
    """
    result: Tensor
    if x.is_cuda:
        result = gpu_library().norm_gelu(x, norm, pool)
    else:
        result = _NormGelu.apply(x, norm.bias, norm, pool)
    return result


class _BiasGelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        n, _, height, width = x.shape
        out = torch.empty_like(x)
        offset = bias.float().repeat(width)
        call("norm_gelu", x, torch.ones_like(offset), offset, out, n * height, len(offset))
        ctx.save_for_backward(x, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, bias = ctx.saved_tensors
        n, channels, height, width = x.shape
        offset = bias.float().repeat(width)
        one, zero = torch.ones_like(offset), torch.zeros_like(offset)
        sums = torch.empty(n, 2, len(offset), dtype=torch.float32)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        call("gradient_sums", gradient, x, one, zero, offset, sums, n, height, len(offset))
        return None, sums[:, 0].sum(0).view(width, channels).sum(0)


class _NormGelu(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, norm: torch.nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        n, channels, height, width = x.shape
        sums = torch.empty(n, 2, channels, dtype=torch.float32)
        features, which = x, None
        if pool:
            shape = (n, channels, height // 2, width // 2)
            features = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
            which = torch.empty(shape, dtype=torch.int16)
            call("pool", x, features, which, sums, n, height, width, channels)
        else:
            call("sum_squares", x, sums, n, height * width, channels)
        count = features.numel() // channels
        totals, all_counted = _of_all_ranks(sums.sum(0, dtype=torch.float64), count)
        mean, square = totals / all_counted
        variance = (square - mean**2).clamp_min_(0)
        _follow(norm, mean, variance * (all_counted / max(1, all_counted - 1)))
        scale = (variance + norm.eps).rsqrt()
        centre = -mean * scale
        times = _pixels_a_row(features)
        rows = _repeat(times, scale.float(), centre.float(), bias.float())
        out = torch.empty_like(features)
        call("norm_gelu", features, rows[0], rows[1] + rows[2], out, count // times, len(rows[0]))
        ctx.save_for_backward(features, which, *rows)
        ctx.shape = x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        features, which, *rows = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        count, length = features.numel() // channels, len(rows[0])
        times = length // channels
        sums = torch.empty(n, 2, length, dtype=torch.float32)
        call("gradient_sums", gradient, features, *rows, sums, n, count // n // times, length)
        totals = sums.sum(0).view(2, times, channels).sum(1)
        all_totals, all_counted = _of_all_ranks(totals, count)
        rows += _repeat(times, *(all_totals / all_counted))
        back = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        if which is None:
            call("norm_gelu_back", gradient, features, *rows, back, count // times, length)
        else:
            sizes = (n, height, width, channels, length)
            call("pool_norm_gelu_back", gradient, features, which, *rows, back, *sizes)
        return back, totals[0], None, None


def _follow(norm: torch.nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Bring running statistics up to date, as torch's batch norm does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    norm.running_var.lerp_(variance.to(norm.running_var), norm.momentum)


def _of_all_ranks(sums: Tensor, count: int) -> tuple[Tensor, int]:
    """Sums (2, channels) and count of this rank's features, added to those of all others."""
    if distributed.size() == 1:
        return sums, count
    together = torch.cat((sums.flatten().double(), torch.tensor([float(count)]).double()))
    together = distributed.total(together)
    return together[:-1].view(sums.shape).to(sums.dtype), round(float(together[-1]))


def _pixels_a_row(features: Tensor) -> int:
    """Pixels that an inner loop runs over: a whole row of the picture where channels are few."""
    return features.shape[3] if features.shape[1] < LONG_ROW else 1


def _repeat(times: int, *of_channels: Tensor) -> list[Tensor]:
    return [values.repeat(times) for values in of_channels]
