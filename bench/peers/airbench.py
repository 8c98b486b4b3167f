"""The published settings of airbench94_muon, on eyebright's net, Muon and augmentation.

    python -m bench.peers.airbench --seed 0

After airbench94_muon.py in github.com/KellerJordan/cifar10-airbench (Jordan 2024,
arXiv:2404.00498), which needs a GPU; here its settings run on a processor too.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers import Curve, parser, report
from bench.peers.ours import load_parts
from eyebright.batches import Normalization, predict_logits, train_batches
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.graphs import Replayed
from eyebright.images import Pixels
from eyebright.models import WhiteNet, create_model
from eyebright.optim import Muon, keep_lr_on, put_lr
from eyebright.runtime import choose_device, choose_precision, set_up, timed_kernels

EPOCHS, BIAS_EPOCHS, BATCH = 8, 3, 2000
BIAS_LR, HEAD_LR, FILTER_LR = 0.053, 0.67, 0.24
BIAS = 0  # the group of the whitening bias
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


def train(
    data: Dataset,
    test: Dataset,
    device: torch.device,
    seed: int,
    epochs: int = EPOCHS,
    replayed: bool = True,
    watched: bool = True,
) -> tuple[Curve, float]:
    """Train once.

    Args:
        data: what to train on.
        test: looked at after each epoch.
        device: where.
        seed: of everything.
        epochs: how many.
        replayed: whether steps are recorded and replayed, on a GPU.
        watched: look after each epoch, not after the last one alone.

    Returns:
        The curve, and test accuracy with averaging over six views.
    """
    precision = choose_precision("auto", device)
    batch_size = min(BATCH, len(data))
    config = TrainConfig(
        batch_size=batch_size, augment="mirror+shift", precision=precision, seed=seed
    )
    set_up(device, 0, seed)
    images = torch.from_numpy(data.images).to(device)
    labels = torch.from_numpy(data.labels).to(device)
    test_labels = torch.from_numpy(test.labels)

    start = time.perf_counter()
    net = create_model("white64", 10).to(device)
    assert isinstance(net, WhiteNet)
    net.whiten(NORMALIZATION(images[:5000]))
    net.to(memory_format=torch.channels_last)
    sgd = create_sgd(net)
    [whitening_bias] = sgd.param_groups[BIAS]["params"]
    filters = [p for p in net.parameters() if p.requires_grad and p.ndim == 4]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    optimizers: list[torch.optim.Optimizer] = [sgd, Muon(filters, FILTER_LR, 0.6, dtype)]
    if device.type == "cuda":
        keep_lr_on(device, optimizers)
    seconds = time.perf_counter() - start

    def take_step(pictures: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(
            device.type, torch.bfloat16, precision == "bf16", cache_enabled=device.type == "cpu"
        ):
            logits = net(pictures)
        # The sum, not the mean: airbench's learning rates are made for it.
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=0.2, reduction="sum")
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    steps_per_epoch = len(images) // batch_size
    total, bias_total = epochs * steps_per_epoch, BIAS_EPOCHS * steps_per_epoch
    recorded = replayed and device.type == "cuda"
    step = 0
    curve: Curve = []
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        net.train()
        for pictures, targets in train_batches(images, labels, config, NORMALIZATION, epoch):
            if step in (0, bias_total):  # from where on the whitening bias is fixed
                whitening_bias.requires_grad_(step < bias_total)
                run_step = Replayed(take_step, batch_size) if recorded else take_step
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    steps = bias_total if group is sgd.param_groups[BIAS] else total
                    put_lr(group, max(0.0, 1 - step / steps))
            with timed_kernels():
                run_step(pictures, targets)
            step += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - start
        if watched or epoch == epochs:
            right = predict_logits(net, test.images, NORMALIZATION).argmax(1) == test_labels
            curve.append((seconds, right.double().mean().item()))
    right = averaged_logits(net, test.images).argmax(1) == test_labels
    return curve, right.double().mean().item()


def main() -> None:
    """Train and report."""
    options = parser(__doc__).parse_args()
    epochs = options.epochs or EPOCHS
    data, test = load_parts(options.pictures)
    device = choose_device("auto")
    curve, averaged = train(data, test, device, options.seed, epochs)
    words = SETTINGS.format(epochs=epochs, precision=choose_precision("auto", device))
    report("eyebright torch", words, curve, averaged)


if __name__ == "__main__":
    main()
