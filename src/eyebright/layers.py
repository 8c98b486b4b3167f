"""Layers that our own nets are built of; quicker kernels compute them where those can."""

import torch.nn.functional as F
from torch import Tensor, nn

from eyebright import convolution, distributed, kernels

ROUND_UP = 7  # sides under it, when they are halved: small pictures (8 px) never shrink to nothing


class NormGelu(nn.BatchNorm2d):
    """Batch normalisation with a bias but no scale, since the next filters learn it, and GELU."""

    def __init__(self, channels: int):
        # Short runs see few steps: statistics must follow within a few of them.
        super().__init__(channels, eps=1e-5, momentum=0.4)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor, pool: bool = False) -> Tensor:
        """Activations of features, each channel with mean 0 and deviation 1 over the batch.

        Args:
            x: (batch, channels, height, width).
            pool: halve height and width first, by max-pooling, so that the rest touches a quarter
                of the values.
        """
        up = x.shape[-1] < ROUND_UP
        several = distributed.size() > 1  # whose batch is more than what is here
        ready = kernels.ready(x) and not (several and x.is_cuda)  # Triton's knows one rank's sums
        if self.training and ready and not (pool and up) and (several or x.numel() > x.shape[1]):
            return kernels.norm_gelu(x, self, pool)
        if pool:
            x = F.max_pool2d(x, 2, ceil_mode=up)
        if self.training and (several or x.numel() > x.shape[1]):
            return F.gelu(super().forward(x))
        # One value a channel has no deviation: the running statistics stand in, as in evaluation.
        mean, variance = self.running_mean, self.running_var
        return F.gelu(F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps))


class Conv3x3(nn.Conv2d):
    """3×3 convolution without bias that keeps height and width."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)
        # The first filters pass their input on unchanged (partial Dirac), the rest are random.
        nn.init.dirac_(self.weight[:channels_in])

    def forward(self, x: Tensor, pool: bool = False) -> Tensor:
        """Features (batch, channels_out, height, width), halved where ``pool`` says so.

        Args:
            x: (batch, channels_in, height, width).
            pool: only where `eyebright.convolution.filters_minimally` says yes.
        """
        if is_for_our_own(x):
            return convolution.conv3x3(x, self.weight, pool)
        assert not pool, "only where features can be halved at once"
        return super().forward(x)


def is_for_our_own(x: Tensor) -> bool:
    """Whether these features are for our own convolutions: bf16 on a processor, in training."""
    return not x.is_cuda and kernels.ready(x)


def halve(x: Tensor, conv: Conv3x3, norm: NormGelu) -> Tensor:
    """Convolution, halving by max-pooling, norm and activation.

    Args:
        x: (batch, channels_in, height, width).
        conv: the filters.
        norm: of their features.
    """
    at_once = x.shape[-1] >= ROUND_UP and is_for_our_own(x) and convolution.filters_minimally(x)
    halved: Tensor = norm(conv(x, pool=at_once), pool=not at_once)
    return halved
