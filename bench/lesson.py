"""The plain script of the lesson beside the recipe `tutorial`: seconds for 2,000 mini-batches.

    python -m bench.lesson

Both train the same net on the same pictures with batches of four, one after the other, three times
in turn; each side's median counts. The plain script reads as the lesson has it: torchvision's
CIFAR10 with its transforms, a DataLoader with two workers, ``loss.item()`` after every step.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn as nn
import torchvision
import torchvision.transforms as transforms
from torch.utils.data import DataLoader

from bench.rows import append_row
from eyebright.batches import HALF
from eyebright.config import recipe_config
from eyebright.data import Dataset, load
from eyebright.data.cache import data_home
from eyebright.models import LessonNet
from eyebright.prepare import decide
from eyebright.runtime import choose_device, set_up
from eyebright.training import fit


class AnyCIFAR10(torchvision.datasets.CIFAR10):  # type: ignore[misc]
    """torchvision's own reader, which otherwise refuses a copy with other checksums."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        self.classes: list[str] = []


def plain_script(steps: int) -> float:
    """Seconds that the lesson's script takes for so many mini-batches."""
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    )
    trainset = AnyCIFAR10(root=str(data_home()), train=True, transform=transform)
    trainloader: DataLoader[Any] = DataLoader(trainset, batch_size=4, shuffle=True, num_workers=2)
    net = LessonNet(10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    running_loss = 0.0
    start = time.perf_counter()
    for i, data in enumerate(trainloader):
        inputs, labels = data
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        if i == steps - 1:
            break
    return time.perf_counter() - start


def our_recipe(data: Dataset, steps: int) -> float:
    """Seconds that the recipe `tutorial` takes for so many mini-batches, as `train` runs it."""
    device = choose_device("auto")
    few = data.subset(range(4 * steps))
    config = decide(
        recipe_config("tutorial").replace(epochs=1), {"epochs": 1}, few, len(few), device
    )
    set_up(device, config.threads, config.seed)
    net = LessonNet(10).to(device)
    epochs: Iterator[object] = fit(net, few, None, config, HALF, lambda line: None)
    start = time.perf_counter()
    for _ in epochs:
        pass
    return time.perf_counter() - start


def main() -> None:
    """Run the race and write its row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    data = load("cifar10")
    plain, ours = [], []
    for _ in range(arguments.rounds):
        torch.set_num_threads(threads)
        plain.append(plain_script(arguments.steps))
        ours.append(our_recipe(data, arguments.steps))
    row = {
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "plain_seconds": round(statistics.median(plain), 3),
        "tutorial_seconds": round(statistics.median(ours), 3),
        "times_faster": round(statistics.median(plain) / statistics.median(ours), 2),
    }
    append_row("lesson", row)


if __name__ == "__main__":
    main()
