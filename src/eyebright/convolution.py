"""3×3 convolutions of bf16 features on a processor, and their gradients.

By oneDNN; or, where a processor multiplies pairs of bf16 but has no hardware for whole matrices, by
Winograd's minimal filtering (``winograd.c``), which takes a quarter of the products.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from eyebright import compiled, runtime

MOST_SUMS = 2**29  # bytes of a gradient's sums, of all threads that work at it
SMALLEST = 3  # pixels across; of a tile of 4 × 4, less would be mostly zeros


def conv3x3(x: Tensor, weight: Tensor, pool: bool = False) -> Tensor:
    """3×3 convolution with a border of zeros, then 2×2 max-pooling where ``pool`` says so.

    Args:
        x: bf16 (n, channels, height, width), channels last.
        weight: float32 (channels_out, channels, 3, 3).
        pool: only where `filters_minimally` says yes; an odd last row or column is left out.
    """
    if weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"filters {tuple(weight.shape)} do not fit features {tuple(x.shape)}")
    result: Tensor
    if filters_minimally(x):
        result = _Winograd.apply(x, weight, pool)
    else:
        assert not pool, "only where features can be halved at once"
        result = _Direct.apply(x, weight)
    return result


def filters_minimally(x: Tensor) -> bool:
    """Whether these features take fewer products, and can be halved before they are written."""
    return min(x.shape[2:]) >= SMALLEST and winograd_pays()


@functools.cache
def winograd_pays() -> bool:
    """Whether this processor has the instructions for it, and none that are quicker without."""
    return has_winograd() and not runtime.has_matrix_hardware(torch.device("cpu"))


def has_winograd() -> bool:
    """Whether gcc made minimal filtering for this processor: it needs AVX512-BF16."""
    return hasattr(compiled.library(), "winograd")


class _Winograd(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pool: bool) -> Tensor:
        weight = weight.float().contiguous()  # as the C takes them
        n, _, height, width = x.shape
        sides = (height // 2, width // 2) if pool else (height, width)
        out = _empty(n, len(weight), *sides, dtype=x.dtype)
        which = _empty(*out.shape, dtype=torch.uint8) if pool else None
        filters = _transformed(weight, back=False)
        sizes = n, height, width, x.shape[1], len(weight)
        _check(compiled.call("winograd", x, None, filters, out, which, *sizes))
        ctx.save_for_backward(x, weight, which)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, which = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x, filters = torch.empty_like(x), _transformed(weight, back=True)
            sizes = n, height, width, len(weight), channels
            _check(compiled.call("winograd", gradient, which, filters, of_x, None, *sizes))
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            sizes = n, height, width, channels, len(weight)
            most = max(1, MOST_SUMS // (4 * weight.nbytes))
            shares = min(torch.get_num_threads(), most, max(1, n))  # a picture is in one of them
            inputs = x, gradient, which
            _check(compiled.call("winograd_filters_back", *inputs, of_weight, *sizes, shares))
        return of_x, of_weight, None


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _transformed(weight: Tensor, back: bool) -> Tensor:
    """Filters as ``winograd`` takes them: of the convolution, or of the gradient of its input."""
    sizes = weight.shape[1], weight.shape[0], int(back)
    filters = torch.empty(
        compiled.call("winograd_filters", weight, None, *sizes), dtype=torch.bfloat16
    )
    compiled.call("winograd_filters", weight, filters, *sizes)
    return filters


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("not enough memory for a convolution")


class _Direct(Function):
    """By oneDNN, whose gradient is made quick for small pictures too.

    It sums a weight's gradient along rows of pixels, 32 at once: rows of 7 leave three quarters of
    the hardware idle. So pictures are laid side by side first, a column of zeros between them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        out: Tensor = torch.ops.aten.convolution(x, weight, None, *_GEOMETRY)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        back = torch.ops.aten.convolution_backward
        of_x = back(gradient, x, weight, None, *_GEOMETRY, [ctx.needs_input_grad[0], False, False])
        times = _side_by_side(len(x), x.shape[-1])
        wide = _lay_side_by_side(gradient, times), _lay_side_by_side(x, times)
        of_weight = back(*wide, weight, None, *_GEOMETRY, [False, True, False])
        return of_x[0], of_weight[1].float()


# Of a convolution, for aten: bias sizes (backward alone), stride, padding, dilation, no transpose.
_GEOMETRY = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


# Rows of pixels up to so wide gain from lying side by side, and so many pictures at most: rows of
# 32 pixels (7 × 4 with zeros between) fill the hardware once, of 80 (3 × 20) often enough.
GAINS = {4: 20, 7: 4}


def _side_by_side(n: int, width: int) -> int:
    """How many of n pictures to lay side by side: a divisor of n."""
    most = next((most for widest, most in GAINS.items() if width <= widest), 1)
    return max(times for times in range(1, most + 1) if n % times == 0)


def _lay_side_by_side(x: Tensor, times: int) -> Tensor:
    """Pictures (n / times, channels, height, times × (width + 1)) with zeros between them."""
    if times == 1:
        return x
    n, channels, height, width = x.shape
    out = x.new_empty(n // times, height, times, width + 1, channels)
    out[:, :, :, width] = 0
    parts = x.permute(0, 2, 3, 1).reshape(n // times, times, height, width, channels)
    out[:, :, :, :width] = parts.transpose(1, 2)
    return out.view(n // times, height, times * (width + 1), channels).permute(0, 3, 1, 2)
