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

SMALLEST = 3  # pixels across; of a tile of 4 × 4, less would be mostly zeros


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolution with a border of zeros.

    Args:
        x: bf16 (n, channels, height, width), channels last.
        weight: float32 (channels_out, channels, 3, 3).
    """
    few_products = min(x.shape[2:]) >= SMALLEST and winograd_pays()
    result: Tensor = (_Winograd if few_products else _Direct).apply(x, weight)
    return result


@functools.cache
def winograd_pays() -> bool:
    """Whether this processor has the instructions for it, and none that are quicker without."""
    matrices = runtime.has_matrix_hardware(torch.device("cpu"))
    return hasattr(compiled.library(), "winograd") and not matrices


class _Winograd(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(x, weight)
        return _filtered(x, weight, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = _filtered(gradient, weight, back=True) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight)
        n, channels, height, width = x.shape
        sizes = n, height, width, channels, len(weight), torch.get_num_threads()
        _check(compiled.call("winograd_filters_back", x, gradient, of_weight, *sizes))
        return of_x, of_weight


def _filtered(x: Tensor, weight: Tensor, back: bool) -> Tensor:
    """The convolution of x, or (``back``) the gradient of its input from that of its output, x."""
    channels = weight.shape[1 if back else 0]
    sizes = weight.shape[1], weight.shape[0], int(back)
    filters = torch.empty(compiled.call("winograd_filters", weight, 0, *sizes), dtype=x.dtype)
    compiled.call("winograd_filters", weight, filters, *sizes)
    n, channels_in, height, width = x.shape
    out = torch.empty(
        (n, channels, height, width), dtype=x.dtype, memory_format=torch.channels_last
    )
    _check(compiled.call("winograd", x, filters, out, n, height, width, channels_in, channels))
    return out


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
        return torch.ops.aten.convolution(x, weight, None, *_GEOMETRY)  # type: ignore[no-any-return]

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
