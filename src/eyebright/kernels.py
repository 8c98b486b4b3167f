"""Compiled kernels for nets that train in bf16.

Between two convolutions lie pooling, batch norm and GELU. PyTorch makes a dozen passes over memory
for them, forward and backward, which takes longer than the convolutions where there is hardware for
bf16; ours make five. For a processor they are in ``kernels.c``, which gcc compiles when they are
first needed (half a second), for a GPU in `eyebright.triton_functions`; both are kept in the user's
cache folder. Without gcc or Triton, or on another system, the same arithmetic runs on PyTorch's own
functions, only slower.

Functions here take and give bf16 features, channels last, for which `ready` says yes.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from eyebright import distributed
from eyebright.console import notices

SOURCE = Path(__file__).with_name("kernels.c")
# Not -ffast-math: linked into a library, it would change how all of the process rounds.
FLAGS = "-O3 -march=native -mprefer-vector-width=512 -ffp-contract=fast -fno-math-errno"
FLAGS += " -fno-trapping-math -fopenmp -shared -fPIC"
LONG_ROW = 128  # channels that make an inner loop long enough by themselves


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had, which is said once."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as error:
        notices.warning("no compiled kernels, so training is up to a third slower: %s", error)
        return None


@functools.cache
def gpu_library() -> Any:
    """`eyebright.triton_functions`; None where there is no Triton, which is said once."""
    try:
        from eyebright import triton_functions
    except ImportError as error:
        notices.warning("no compiled kernels, so training is up to a third slower: %s", error)
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


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolution with a border of zeros, whose gradient is quick for small pictures too.

    oneDNN sums a weight's gradient along rows of pixels, 32 at once: rows of 7 leave three
    quarters of the hardware idle. So pictures are laid side by side first, a column of zeros
    between them.

    Args:
        x: (n, channels, height, width).
        weight: float32 (channels_out, channels, 3, 3).
    """
    result: Tensor = _Conv3x3.apply(x, weight)
    return result


class _BiasGelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        n, _, height, width = x.shape
        out = torch.empty_like(x)
        offset = bias.float().repeat(width)
        _call("norm_gelu", x, torch.ones_like(offset), offset, out, n * height, len(offset))
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
        _call("gradient_sums", gradient, x, one, zero, offset, sums, n, height, len(offset))
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
            _call("pool", x, features, which, sums, n, height, width, channels)
        else:
            _call("sum_squares", x, sums, n, height * width, channels)
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
        _call("norm_gelu", features, rows[0], rows[1] + rows[2], out, count // times, len(rows[0]))
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
        _call("gradient_sums", gradient, features, *rows, sums, n, count // n // times, length)
        totals = sums.sum(0).view(2, times, channels).sum(1)
        all_totals, all_counted = _of_all_ranks(totals, count)
        rows += _repeat(times, *(all_totals / all_counted))
        back = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        if which is None:
            _call("norm_gelu_back", gradient, features, *rows, back, count // times, length)
        else:
            sizes = (n, height, width, channels, length)
            _call("pool_norm_gelu_back", gradient, features, which, *rows, back, *sizes)
        return back, totals[0], None, None


class _Conv3x3(Function):
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


def _call(name: str, *arguments: Tensor | int) -> None:
    """Call a kernel; it trusts that shapes and types are right."""
    function = getattr(library(), name)
    function(
        *(
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a)
            for a in arguments
        )
    )


def _load() -> ctypes.CDLL:
    """The library, compiled for this very processor if the user's cache does not have it.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled.
    """
    processor = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "flags"))
    ][:2]
    key = hashlib.sha256("\n".join([SOURCE.read_text(), FLAGS, *processor]).encode()).hexdigest()
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eyebright"
    except RuntimeError:  # a user without a home
        cache = Path(os.devnull)
    kept = cache / f"kernels-{key[:16]}.so"
    if kept.is_file() and _is_ours_alone(kept) and _is_ours_alone(cache):
        with contextlib.suppress(OSError):  # damaged, or made beside another C library
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as private:
        made = Path(private) / "kernels.so"
        command = ["gcc", *FLAGS.split(), str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        _keep(made, kept)
        return ctypes.CDLL(str(made))


def _is_ours_alone(path: Path) -> bool:
    """Whether nobody else may write there."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _keep(made: Path, kept: Path) -> None:
    """Put the library into the cache, whole or not at all, whoever else does the same just now."""
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # without a cache, each process compiles for itself
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with temporary.open("wb") as file:
                file.write(made.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
