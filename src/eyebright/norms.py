"""Batch norm over the whole batch, where each rank has a part of it.

torch's SyncBatchNorm does not run on processors, and would have to take the place of each layer of
a net. Here whatever calls ``torch.nn.functional.batch_norm``, as all layers do, is answered with
statistics of all ranks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eyebright import distributed


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
    others = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    numbers = x.float()
    count = numbers.new_tensor([x.numel() // x.shape[1]])
    sums = distributed.total(torch.cat((numbers.sum(others), count)))
    mean, n = sums[:-1] / sums[-1], sums[-1].detach()
    centred = numbers - mean.view(shape)
    variance = distributed.total(centred.square().sum(others)) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * n / (n - 1).clamp_min(1)).to(running_var), momentum)
    out = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        out = out * weight.float().view(shape)
    if bias is not None:
        out = out + bias.float().view(shape)
    return out.to(x.dtype)
