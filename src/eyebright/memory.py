"""What to do where memory ran out."""

import math

import torch
from torch import nn

from eyebright.config import TrainConfig
from eyebright.runtime import free_what_it_held, is_out_of_memory

TRIED_ON = ("cuda",)
"""Where running out of memory is an error; a processor's system ends a process instead."""


def advice(config: TrainConfig, net: nn.Module | None = None) -> str:
    """What to do where memory ran out.

    Args:
        config: with a batch that was too large.
        net: that was trained; on a GPU, smaller batches are tried on it.
    """
    lower = (
        f"{config.batch_size} pictures of {config.imgsz} px a batch are too many: lower "
        "--batch-size or --imgsz"
    )
    if net is None or next(net.parameters()).device.type not in TRIED_ON:
        return lower
    fitting = fitting_batch(net, config)
    return f"{lower} (-b {fitting} would fit)" if fitting else lower


def fitting_batch(net: nn.Module, config: TrainConfig) -> int | None:
    """The first half, quarter, eighth ... of a batch that there is memory for; None: none of them.

    Forward and backward pass are tried with an eighth more than that, for what else a step needs.

    Args:
        net: on its device; its gradients are lost.
        config: with the batch that was too large.
    """
    weight, side = next(net.parameters()), config.imgsz or 0
    batch = config.batch_size // 2
    while batch:
        try:
            shape = (batch + math.ceil(batch / 8), 3, side, side)
            with torch.autocast(weight.device.type, torch.bfloat16, config.precision == "bf16"):
                net(torch.zeros(shape, device=weight.device)).sum().backward()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            free_what_it_held(error)
            batch //= 2
        else:
            return batch
        finally:
            net.zero_grad()
    return None
