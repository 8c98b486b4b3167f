"""The published settings of airbench94_muon, on eyebright's net, Muon and augmentation.

    python -m bench.peers.airbench --seed 0

After airbench94_muon.py in github.com/KellerJordan/cifar10-airbench (Jordan 2024,
arXiv:2404.00498), which needs a GPU; here its settings run on the processor.
"""

import contextlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers import Curve, parser, report
from eyebright.batches import Normalization, predict_logits, train_batches
from eyebright.config import TrainConfig
from eyebright.data import load
from eyebright.images import Pixels
from eyebright.models import create_model
from eyebright.optim import Muon
from eyebright.runtime import choose_precision, set_up

EPOCHS, BIAS_EPOCHS, BATCH = 8, 3, 2000
BIAS_LR, HEAD_LR, FILTER_LR = 0.053, 0.67, 0.24
DECAY = 2e-6 * BATCH  # of the weights at each step, at the full learning rate
NORMALIZATION = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SETTINGS = (
    "airbench94_muon (github.com/KellerJordan/cifar10-airbench): {epochs} epochs, batch 2000, Muon "
    "lr 0.24 momentum 0.6 nesterov, SGD momentum 0.85 nesterov with lr 0.053 for biases and 0.67 "
    "for the head, weight decay 2e-6 x batch, whitening bias for 3 epochs, label smoothing 0.2, "
    "alternating flip, translate 2; net white64, {precision}; averaged: test-time level 2"
)


def create_sgd(net: nn.Module) -> torch.optim.SGD:
    """The optimizer of what Muon does not move: whitening bias, norm biases, head."""
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    norms = [p for name, p in named.items() if ".norm" in name]
    # airbench divides the logits by the width of the features, our net has it in its weights: the
    # same step in the logits is width² times smaller in the weights.
    head_lr = HEAD_LR / named["head.weight"].shape[1] ** 2
    groups = [([named["whitening.bias"]], BIAS_LR), (norms, BIAS_LR)]
    groups.append(([named["head.weight"]], head_lr))
    return torch.optim.SGD(
        [
            {"params": ps, "lr": lr, "initial_lr": lr, "weight_decay": DECAY / lr}
            for ps, lr in groups
        ],
        momentum=0.85,
        nesterov=True,
        fused=True,
    )


def averaged_logits(net: nn.Module, images: Pixels) -> Tensor:
    """Logits (n, classes) averaged over six views: mirrored or not, moved by a pixel or not."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [(images, 0.5), (padded[:, :-2, :-2], 0.25), (padded[:, 2:, 2:], 0.25)]
    total = torch.zeros(())
    for view, weight in views:
        for side in (view, view[:, :, ::-1]):
            side = np.ascontiguousarray(side)
            total = total + 0.5 * weight * predict_logits(net, side, NORMALIZATION)
    return total


def main() -> None:
    """Train and report."""
    options = parser(__doc__).parse_args()
    epochs = options.epochs or EPOCHS
    data, test = load("cifar10"), load("cifar10", split="test")
    if options.pictures:
        few = range(options.pictures)
        data, test = data.subset(few), test.subset(few)
    device = torch.device("cpu")
    precision = choose_precision("auto", device)
    batch_size = min(BATCH, len(data))
    config = TrainConfig(
        batch_size=batch_size, augment="mirror+shift", precision=precision, seed=options.seed
    )
    set_up(device, 0, options.seed)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    test_labels = torch.from_numpy(test.labels)
    autocast = (
        torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    )

    start = time.perf_counter()
    net = create_model("white64", 10)
    net.whiten(NORMALIZATION(images[:5000]))  # type: ignore[operator]
    net.to(memory_format=torch.channels_last)
    sgd = create_sgd(net)
    [bias_group, *sgd_groups] = sgd.param_groups
    [whitening_bias] = bias_group["params"]
    filters = [p for p in net.parameters() if p.requires_grad and p.ndim == 4]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    muon = Muon(filters, FILTER_LR, 0.6, dtype)
    seconds = time.perf_counter() - start

    steps_per_epoch = len(images) // batch_size
    total, bias_total = epochs * steps_per_epoch, BIAS_EPOCHS * steps_per_epoch
    step = 0
    curve: Curve = []
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        net.train()
        for pictures, targets in train_batches(images, labels, config, NORMALIZATION, epoch):
            whitening_bias.requires_grad_(step < bias_total)
            with autocast:
                logits = net(pictures)
            # The sum, not the mean: airbench's learning rates are made for it.
            F.cross_entropy(
                logits.float(), targets, label_smoothing=0.2, reduction="sum"
            ).backward()
            bias_group["lr"] = BIAS_LR * max(0.0, 1 - step / bias_total)
            for group in (*sgd_groups, *muon.param_groups):
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * (1 - step / total)
            for optimizer in (sgd, muon):
                optimizer.step()
                optimizer.zero_grad()
            step += 1
        seconds += time.perf_counter() - start
        right = predict_logits(net, test.images, NORMALIZATION).argmax(1) == test_labels
        curve.append((seconds, right.double().mean().item()))
    right = averaged_logits(net, test.images).argmax(1) == test_labels
    words = SETTINGS.format(epochs=epochs, precision=precision)
    report("eyebright torch", words, curve, right.double().mean().item())


if __name__ == "__main__":
    main()
