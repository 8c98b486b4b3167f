"""Optimizers: Muon for filters beside Adam for the rest, or SGD; the learning rate at a step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eyebright.config import TrainConfig
from eyebright.errors import UsageError


def orthogonalize(matrix: Tensor, steps: int = 3) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by a quintic Newton-Schulz iteration.

    Singular values that are not tiny end between about 0.3 and 1.3, which is close enough for an
    update direction (Jordan et al. 2024, "Muon").

    Args:
        matrix: float (rows, columns), any scale.
        steps: iterations; three are enough for filters.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every filter bank moves equally far in all its directions.

    Each tensor of filters (out, in, height, width) is treated as a matrix (out, rest). Its weights
    are kept at a fixed norm, so that ``lr`` means the same for every layer. After Jordan et al.
    2024 ("Muon: an optimizer for hidden layers in neural networks").

    Args:
        params: filters, each with two dimensions or more.
        lr: step length as a share of the (fixed) weight norm.
        momentum: Nesterov momentum.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients at hand."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                velocity = self.state[p]["velocity"]
                velocity.mul_(group["momentum"]).add_(p.grad)
                ahead = p.grad.add(velocity, alpha=group["momentum"])
                p.mul_(len(p) ** 0.5 / p.norm().clamp_min(1e-7))
                update = orthogonalize(ahead.reshape(len(p), -1)).view_as(p)
                p.add_(update, alpha=-group["lr"])


def create_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that move a net: SGD for all of it, or Muon for filters beside Adam.

    Raises:
        UsageError: the net has nothing to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("the net has no parameters to train")
    if config.optimizer == "sgd":
        return [
            torch.optim.SGD(
                parameters,
                lr=config.lr,
                momentum=config.momentum,
                fused=parameters[0].device.type in ("cpu", "cuda"),
            )
        ]
    filters = [p for p in parameters if p.ndim == 4]
    rest = [p for p in parameters if p.ndim != 4]
    muon = Muon(filters, config.lr, config.momentum) if filters else None
    others = torch.optim.Adam(rest, lr=config.rest_lr, betas=(0.85, 0.95)) if rest else None
    return [optimizer for optimizer in (muon, others) if optimizer is not None]


def lr_at(config: TrainConfig, step: int, total_steps: int) -> float:
    """Share of the full learning rate at a step: 1, or going down to zero in a line.

    Args:
        config: says which schedule.
        step: counted from 0.
        total_steps: of the whole run.
    """
    return 1.0 if config.schedule == "constant" else 1 - step / total_steps


def set_lr(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Give every group of parameters this share of the learning rate it began with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group.setdefault("initial_lr", group["lr"])
