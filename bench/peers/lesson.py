"""PyTorch's lesson "Training a classifier" as its script has it.

python -m bench.peers.lesson --seed 0
"""

import time
from typing import Any

import torch
import torchvision.transforms as transforms
from torch import nn
from torch.utils.data import DataLoader

from bench.peers import Curve, cifar10, parser, report
from eyebright.models import LessonNet

TRANSFORM = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
)
SETTINGS = (
    "net of two 5x5 convolutions, {epochs} epochs, batch 4, SGD lr 0.001 momentum 0.9, DataLoader "
    "with 2 workers, fp32 (docs.pytorch.org/tutorials, Training a classifier; its script has 2 "
    "epochs)"
)


def accuracy(net: nn.Module, loader: DataLoader[Any]) -> float:
    """Share of the pictures that the net gets right."""
    right, total = 0, 0
    with torch.no_grad():
        for inputs, labels in loader:
            right += int((net(inputs).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def train_loader(pictures: int | None = None) -> DataLoader[Any]:
    """Batches of four of all pictures, or of the first few."""
    return DataLoader(cifar10(True, pictures, TRANSFORM), batch_size=4, shuffle=True, num_workers=2)


def create_net() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The net and what moves it."""
    net = LessonNet(10)
    return net, torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)


def train_epoch(
    net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any], steps: int = 0
) -> float:
    """Seconds of an epoch, or of its first few steps."""
    criterion = nn.CrossEntropyLoss()
    running_loss = 0.0
    start = time.perf_counter()
    for step, (inputs, labels) in enumerate(loader, 1):
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        if step == steps:
            break
    return time.perf_counter() - start


def main() -> None:
    """Train and report."""
    options = parser(__doc__).parse_args()
    epochs = options.epochs or 5
    torch.manual_seed(options.seed)
    trainloader = train_loader(options.pictures)
    testset = cifar10(False, options.pictures, TRANSFORM)
    testloader: DataLoader[Any] = DataLoader(testset, batch_size=1000, num_workers=2)
    net, optimizer = create_net()
    seconds = 0.0
    curve: Curve = []
    for _ in range(epochs):
        seconds += train_epoch(net, optimizer, trainloader)
        curve.append((seconds, accuracy(net, testloader)))
    report("torch torchvision", SETTINGS.format(epochs=epochs), curve)


if __name__ == "__main__":
    main()
