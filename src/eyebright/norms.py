"""A net that each rank gives a part of the batch: gradients and batch norms are of all of it.

torch's SyncBatchNorm does not run on processors, and would have to take the place of each layer of
a net. Here whatever calls ``torch.nn.functional.batch_norm``, as all layers do, is answered with
statistics of all ranks.
"""

import contextlib
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from eyebright import distributed


def over_ranks(model: nn.Module) -> tuple[nn.Module, contextlib.AbstractContextManager[Any]]:
    """A net whose gradients are the mean of all ranks', and what makes its norms those of all.

    All begin with the weights of the first rank.
    """
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from torch 2.15 on it has another name
        # Norms are of all ranks, so that their statistics need not be sent around.
        net = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    return net, NormsOverRanks()


def share_of_batch(loss: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """What the mean loss of a rank's part counts, where gradients are averaged over ranks.

    Args:
        loss: that mean, a scalar.
        targets: classes of its pictures, integers (n,).
        weights: of the classes, float32 (classes,); None: all weigh 1.
    """
    weight = loss.new_tensor(len(targets)) if weights is None else weights[targets].sum()
    return weight / distributed.average(weight)


class NormsOverRanks(TorchFunctionMode):
    """While it is entered, batch norms that are training use the pictures of all ranks."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a call of any of torch's functions."""
        kwargs = kwargs or {}
        if function is F.batch_norm:
            training = args[5] if len(args) > 5 else kwargs.get("training", False)
            if training:
                return batch_norm(*args, **kwargs)
        return function(*args, **kwargs)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As ``torch.nn.functional.batch_norm`` in training, over the features of all ranks.

    Args:
        x: (n, channels, ...), n differing between ranks.
        running_mean: (channels,), brought up to date, as is ``running_var``.
        running_var: of the unbiased variance.
        weight: (channels,), to multiply by.
        bias: (channels,), to add.
        training: it is.
        momentum: what the new statistics weigh.
        eps: added to the variance.
    """
    out, mean, variance, n = _Norm.apply(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * n / (n - 1).clamp_min(1)).to(running_var), momentum)
    return out  # type: ignore[no-any-return]


class _Norm(Function):
    """Two exchanges a norm: statistics on the way forward, sums of the gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
        numbers = x.float()
        variance, mean, n = _of_all_ranks(numbers)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, bias, mean, scale, n)
        if weight is not None:
            scale = scale * weight.float()
        shift = -mean * scale if bias is None else bias.float() - mean * scale
        out = torch.addcmul(_wide(shift, x), numbers, _wide(scale, x)).to(x.dtype)
        ctx.mark_non_differentiable(mean, variance, n)
        return out, mean, variance, n

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, weight, bias, mean, scale, n = ctx.saved_tensors
        gradient, numbers, dims = gradient.float(), x.float(), _but_channels(x)
        sums = gradient.sum(dims)
        products = ((gradient * numbers).sum(dims) - mean * sums) * scale
        # What a rank's own pictures say of weight and bias is averaged with all other gradients.
        of_weight = None if weight is None else products.to(weight.dtype)
        of_bias = None if bias is None else sums.to(bias.dtype)
        all_sums, all_products = distributed.total(torch.stack((sums, products))) / n
        factor = scale if weight is None else scale * weight.float()
        by_x = -factor * scale * all_products
        constant = -factor * all_sums - by_x * mean
        of_x = torch.addcmul(_wide(constant, x), numbers, _wide(by_x, x))
        of_x = torch.addcmul(of_x, gradient, _wide(factor, x))
        return of_x.to(x.dtype), of_weight, of_bias, None


def _of_all_ranks(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variance and mean of each channel over all ranks, and of how many values (Chan et al. 1979).

    Sums of squares would lose what a variance much smaller than the mean consists of.
    """
    variance, mean = torch.var_mean(x, _but_channels(x), correction=0)
    count = x.new_tensor([x.numel() // x.shape[1]])
    parts = distributed.collected(torch.cat((variance, mean, count)))
    variances, means, counts = parts.split((len(variance), len(mean), 1), 1)
    n = counts.sum()
    mean = (means * counts).sum(0) / n
    variance = ((variances + (means - mean).square()) * counts).sum(0) / n
    return variance, mean, n


def _but_channels(x: Tensor) -> list[int]:
    return [d for d in range(x.ndim) if d != 1]


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """A value a channel, as what is broadcast over x."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
