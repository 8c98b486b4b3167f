"""The kernels for a GPU as functions with gradients: what `eyebright.kernels` promises."""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from eyebright import triton_kernels

VALUES = 4096  # that a program works on at once
PROGRAMS = 528  # that add up rows, four for each multiprocessor of an H200
MOST_CHANNELS = 128  # of a program
WARPS = 8


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """As `eyebright.kernels.bias_gelu`."""
    result: Tensor = _BiasGelu.apply(x, bias)
    return result


def norm_gelu(x: Tensor, norm: torch.nn.BatchNorm2d, pool: bool) -> Tensor:
    """As `eyebright.kernels.norm_gelu`."""
    result: Tensor = _NormGelu.apply(x, norm.bias, norm, pool)
    return result


class _BiasGelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty_like(x)
        count = x.numel() // x.shape[1]
        size, grid = _tiles(count, x.shape[1])
        triton_kernels.activate[grid](
            x, bias, bias, out, count, x.shape[1], False, **size, num_warps=WARPS
        )
        ctx.save_for_backward(x, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, bias = ctx.saved_tensors
        return None, _sum_gradient(gradient, x, bias, bias, bias, norm=False)[0]


class _NormGelu(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, norm: torch.nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        n, channels, height, width = x.shape
        features, which = x, None
        if pool:
            shape = (n, channels, height // 2, width // 2)
            features = torch.empty(
                shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
            )
            which = torch.empty(shape, dtype=torch.int8, device=x.device)
        count = features.numel() // channels
        size, grid = _tiles(count, channels)
        programs = _few(grid)
        sums = torch.empty(programs[0], 2, channels, device=x.device)
        sizes = (count, height, width, channels)
        triton_kernels.pool_sums[programs](
            x, features, which, sums, *sizes, pool, **size, num_warps=WARPS
        )
        factors = torch.empty(3, channels, device=x.device)
        small_size, one_row = _small_tiles(channels)
        triton_kernels.statistics[one_row](
            sums, programs[0], count, channels, norm.eps, norm.momentum, bias, norm.running_mean,
            norm.running_var, factors, **small_size,
        )  # fmt: skip
        out = torch.empty_like(features)
        triton_kernels.activate[grid](
            features, factors, factors[2], out, count, channels, True, **size, num_warps=WARPS
        )
        ctx.save_for_backward(features, which, factors)
        ctx.shape = x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        features, which, factors = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        scale, centre, offset = factors
        totals = _sum_gradient(gradient, features, scale, centre, offset, norm=True)
        back = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device,
            memory_format=torch.channels_last,
        )  # fmt: skip
        values = features.numel() // channels
        pool = which is not None
        count = n * triton.cdiv(height, 2) * triton.cdiv(width, 2) if pool else values
        size, grid = _tiles(count, channels)
        sizes = (count, height, width, channels, values)
        triton_kernels.back[grid](
            gradient, features, which, factors, totals, back, *sizes, pool, **size, num_warps=WARPS
        )
        return back, totals[0], None, None


def _sum_gradient(
    gradient: Tensor, x: Tensor, scale: Tensor, centre: Tensor, offset: Tensor, norm: bool
) -> Tensor:
    """(2, channels): of the gradient of what goes into GELU, and of it times the feature."""
    channels = x.shape[1]
    count = x.numel() // channels
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    size, grid = _tiles(count, channels)
    programs = _few(grid)
    sums = torch.empty(programs[0], 2, channels, device=x.device)
    triton_kernels.gradient_sums[programs](
        gradient, x, scale, centre, offset, sums, count, channels, norm, **size, num_warps=WARPS
    )
    totals = torch.empty(2, channels, device=x.device)
    size, one_row = _small_tiles(channels)
    triton_kernels.add_up[one_row](sums, programs[0], channels, totals, norm, **size)
    return totals


def _tiles(count: int, channels: int) -> tuple[dict[str, int], tuple[int, int]]:
    """Pixels and channels that a program works on at once, and how many programs it takes."""
    columns = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    rows = VALUES // columns
    grid = (triton.cdiv(count, rows), triton.cdiv(channels, columns))
    return {"ROWS": rows, "COLUMNS": columns}, grid


def _few(grid: tuple[int, int]) -> tuple[int, int]:
    """No more programs than run at once, for those that add up."""
    return min(grid[0], max(1, PROGRAMS // grid[1])), grid[1]


def _small_tiles(channels: int) -> tuple[dict[str, int], tuple[int]]:
    columns = min(triton.next_power_of_2(channels), 16)
    return {"ROWS": 64, "COLUMNS": columns}, (triton.cdiv(channels, columns),)
