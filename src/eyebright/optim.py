"""Optimizers: Muon for filters beside Adam for the rest, or SGD; the schedule of a run."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eyebright.config import TrainConfig
from eyebright.errors import UsageError
from eyebright.models import head_of
from eyebright.runtime import fuses_optimizers, records_steps
from eyebright.uncompiled import SGD, Adam, Uncompiled

LAYER_DECAY, WEIGHT_DECAY = 0.75, 0.05  # of AdamW
DECAY_A_PICTURE = 2e-6  # of biases and the last layer, with SGD, at the full learning rate
HEAD_FASTER = 12.6  # than the biases, where it stands for one feature
LARGE = 300_000  # values of a matrix that keeps the processor busy by itself


def orthogonalize(matrices: Tensor, steps: int = 3) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a quintic Newton-Schulz iteration.

    Singular values that are not tiny end between about 0.3 and 1.3, which is close enough for an
    update direction (Jordan et al. 2024, "Muon"). Columns of zeros stay as they are.

    Args:
        matrices: float (..., rows, columns), any scale, with no more rows than columns to be quick.
        steps: iterations; three are enough for filters.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.reshape(-1, *matrices.shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        # a x + (b gram + c gram²) x: sums within the products save passes over memory.
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.reshape(matrices.shape)


class Muon(Uncompiled):
    """Momentum, orthogonalised: every filter bank moves equally far in all its directions.

    Each tensor of filters (out, in, height, width) is treated as a matrix (out, rest). Its weights
    are kept at a fixed norm, so that ``lr`` means the same for every layer. After Jordan et al.
    2024 ("Muon: an optimizer for hidden layers in neural networks").

    Args:
        params: filters, each with two dimensions or more.
        lr: step length as a share of the (fixed) weight norm.
        momentum: Nesterov momentum.
        dtype: of the matrix products; bf16 is precise enough (Jordan et al. 2024).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients at hand."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            for p in params:
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in params]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, gradients)
            ahead = torch._foreach_add(gradients, velocities, alpha=group["momentum"])
            norms = torch._foreach_norm(params)
            updates = orthogonalize_filters(list(ahead), self.dtype)
            for p, norm, update in zip(params, norms, updates, strict=True):
                p.mul_(len(p) ** 0.5 / norm.clamp_min(1e-7)).sub_(update.mul_(group["lr"]))


def orthogonalize_filters(filters: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Filter banks (out, ...), each orthogonalised as a matrix (out, rest).

    Small ones with as many rows are padded with columns of zeros and go through the iteration as
    one batch: a few large products instead of many small ones.

    Args:
        filters: float32 tensors.
        dtype: of the products.
    """
    matrices = [f.reshape(len(f), -1) for f in filters]
    matrices = [m.T if len(m) > m.shape[1] else m for m in matrices]
    results: list[Tensor] = [torch.empty(0)] * len(filters)
    large = math.inf if filters[0].is_cuda else LARGE
    sizes = [m.shape if m.numel() > large else (len(m), 0) for m in matrices]
    for size in dict.fromkeys(sizes):
        which = [i for i, other in enumerate(sizes) if other == size]
        rows, columns = size[0], max(matrices[i].shape[1] for i in which)
        batch = matrices[which[0]].new_zeros((len(which), rows, columns), dtype=dtype)
        for place, i in enumerate(which):
            batch[place, :, : matrices[i].shape[1]] = matrices[i]
        for i, matrix in zip(which, orthogonalize(batch).float(), strict=True):
            matrix = matrix[:, : matrices[i].shape[1]]
            tall = len(filters[i]) > filters[i][0].numel()
            results[i] = (matrix.T if tall else matrix).reshape(filters[i].shape)
    return results


def create_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that move a net: SGD for all of it, Muon for filters beside Adam, or AdamW.

    AdamW is for what was trained before: the learning rate falls by `LAYER_DECAY` from each layer
    to the one before it (Clark et al. 2020, "ELECTRA").

    Raises:
        UsageError: the net has nothing to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("the net has no parameters to train")
    device = parameters[0].device
    fused, capturable = fuses_optimizers(device), records_steps(device)
    adam: dict[str, Any] = {"fused": fused, "capturable": capturable}
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "sgd":
        optimizers.append(SGD(parameters, config.lr, config.momentum, fused=fused))
    elif config.optimizer == "adamw":
        from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

        groups = param_groups_layer_decay(model, WEIGHT_DECAY, layer_decay=LAYER_DECAY)
        for group in groups:
            group["lr"] = config.lr * group.pop("lr_scale")
        optimizers.append(torch.optim.AdamW(groups, **adam))
    else:
        filters = [p for p in parameters if p.ndim == 4]
        rest = [p for p in parameters if p.ndim != 4]
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        if filters:
            optimizers.append(Muon(filters, config.lr, config.momentum, dtype))
        if rest and config.rest == "sgd":
            optimizers.append(create_sgd(model, rest, config, fused))
        elif rest:
            optimizers.append(Adam(rest, config.rest_lr, (0.85, 0.95), **adam))
    if capturable:
        keep_lr_on(device, optimizers)
    return optimizers


def create_sgd(model: nn.Module, rest: list[nn.Parameter], config: TrainConfig, fused: bool) -> SGD:
    """SGD for biases and the last layer, as airbench94_muon has it (Jordan 2024).

    Args:
        model: whose last layer is linear.
        rest: its biases and that layer.
        config: says the learning rate and the batch size, which together make the step.
        fused: whether it is one kernel.
    """
    lr, decay = config.rest_lr * config.batch_size, DECAY_A_PICTURE * config.batch_size
    head = head_of(model).weight
    # Its features' sum grows with their number, and so does what a step in it does to the logits.
    head_lr = HEAD_FASTER * lr / head.shape[1] ** 2
    biases = [p for p in rest if p is not head]
    groups = [
        {"params": params, "lr": rate, "weight_decay": decay / rate}
        for params, rate in (([head], head_lr), (biases, lr))
        if params and params[0].requires_grad
    ]
    return SGD(groups, momentum=0.85, nesterov=True, fused=fused)


def keep_lr_on(device: torch.device, optimizers: list[torch.optim.Optimizer]) -> None:
    """Keep learning rates on the device, where a recorded step finds what `set_lr` put there."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group["lr"] = torch.tensor(group["lr"], device=device)


class Schedule:
    """How long a run is, in steps, and the share of the learning rate at each of them.

    Args:
        kind: ``constant``, or ``linear``, which goes down to zero at the end.
        total_steps: of the whole run, at least 1.
        changes: (step, steps in all from there on) of each change on the way, in their order.
    """

    def __init__(self, kind: str, total_steps: int, changes: Iterable[tuple[int, int]] = ()):
        self.kind, self.planned_steps = kind, total_steps
        self.changes = list(changes)

    @property
    def total_steps(self) -> int:
        """Steps in all, as far as is known."""
        return self.changes[-1][1] if self.changes else self.planned_steps

    def share(self, step: int) -> float:
        """Share of the full learning rate at a step, counted from 0."""
        if self.kind == "constant":
            return 1.0
        start, total, share = 0, self.planned_steps, 1.0
        for changed, new_total in self.changes:
            if changed > step:
                break
            share *= (total - changed) / max(1, total - start)
            start, total = changed, new_total
        return share * (total - step) / max(1, total - start)

    def change(self, step: int, total_steps: int) -> None:
        """From this step on, take so many steps in all: the rest goes down from where it is."""
        self.changes.append((step, max(step, total_steps)))


def set_lr(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Give every group of parameters this share of the learning rate it began with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            put_lr(group, share)


def put_lr(group: dict[str, Any], share: float) -> None:
    """Give a group of parameters this share of the learning rate it began with."""
    lr = share * group.setdefault("initial_lr", group["lr"])
    if isinstance(group["lr"], Tensor):  # where a recorded step finds it
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
