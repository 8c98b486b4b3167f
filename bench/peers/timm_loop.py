"""timm's ResNet-18, optimizer, schedule and loader in a short loop.

    python -m bench.peers.timm_loop --seed 0

timm's own loop, train.py, lies in its repository and not in the package; this one does the same
with the same parts. The net has a 3x3 first convolution of stride 1, as timm's users give it for
pictures of 32 px, and keeps its pooling, so that a quarter of an hour holds six epochs, not three.
"""

import contextlib
import time
from typing import Any

import torch
import torchvision.transforms as transforms
from timm import create_model
from timm.data.loader import create_loader
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # timm does not list it
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.random import random_seed
from torch import nn

from bench.peers import AnyCIFAR10, Curve, cifar10, parser, report
from eyebright.runtime import choose_precision

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SETTINGS = (
    "timm.create_model('resnet18') with a 3x3 first convolution of stride 1, {epochs} epochs, "
    "batch 128, SGD nesterov lr 0.1 momentum 0.9 weight decay 5e-4 "
    "(huggingface.co/edadaltocg/resnet18_cifar10), cosine after one epoch of warm-up and label "
    "smoothing 0.1 (timm's train.py), mirror and crop with 4 px of padding in place of the random "
    "resize (DeiT's build_transform for 32 px), colour jitter, RandAugment and Mixup off for the "
    "short run, 2 workers, prefetcher, channels last, {precision} autocast as --amp has it"
)


def create_net() -> nn.Module:
    """ResNet-18 with a stem for small pictures."""
    net = create_model("resnet18", num_classes=10)
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # timm's own
    net.conv1 = stem
    return net.to(memory_format=torch.channels_last)


def cifar_loader(data: AnyCIFAR10, train: bool) -> Any:
    """The loader of timm; the pictures to train on are cropped and mirrored by chance."""
    loader = create_loader(
        data,
        (3, 32, 32),
        128 if train else 500,
        is_training=train,
        color_jitter=None,  # type: ignore[arg-type]  # none, which timm's type leaves out
        mean=MEAN,
        std=STD,
        crop_pct=1.0,
        num_workers=2,
        device=torch.device("cpu"),
    )
    if train:
        data.transform.transforms[0] = transforms.RandomCrop(32, padding=4)
    return loader


def main() -> None:
    """Train and report."""
    options = parser(__doc__).parse_args()
    epochs = options.epochs or 6
    random_seed(options.seed)  # type: ignore[no-untyped-call]  # has no types
    trainloader = cifar_loader(cifar10(True, options.pictures), train=True)
    testloader = cifar_loader(cifar10(False, options.pictures), train=False)
    precision = choose_precision("auto", torch.device("cpu"))
    autocast = (
        torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    )
    net = create_net()
    criterion = LabelSmoothingCrossEntropy(0.1)  # type: ignore[no-untyped-call]  # no types
    optimizer = create_optimizer_v2(net, "sgd", lr=0.1, weight_decay=5e-4, momentum=0.9)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=epochs,
        warmup_epochs=1,
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=len(trainloader),
    )
    updates, seconds = 0, 0.0
    curve: Curve = []
    for _ in range(epochs):
        start = time.perf_counter()
        net.train()
        for inputs, labels in trainloader:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with autocast:
                loss = criterion(net(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            scheduler.step_update(updates)
        seconds += time.perf_counter() - start
        net.eval()
        right, total = 0, 0
        with torch.inference_mode():
            for inputs, labels in testloader:
                right += int((net(inputs).argmax(1) == labels).sum())
                total += len(labels)
        curve.append((seconds, right / total))
    report("timm torch", SETTINGS.format(epochs=epochs, precision=precision), curve)


if __name__ == "__main__":
    main()
