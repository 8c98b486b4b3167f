"""The programs of the race: each trains once on CIFAR-10 and prints a line of JSON.

    python -m bench.peers.lesson --seed 0

Seconds are those of training alone: without imports, loading and the looks at the test set that
each takes after every epoch. The last epoch counts, none is chosen.
"""

import argparse
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchvision

from eyebright.data.cache import data_home

Curve = list[tuple[float, float]]
"""Seconds of training so far and test accuracy, after each epoch."""


# torchvision has no types for mypy, to which its classes are Any.
class AnyCIFAR10(torchvision.datasets.CIFAR10):  # type: ignore[misc]
    """torchvision's own reader, which otherwise refuses a copy with other checksums."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        self.classes: list[str] = []


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all programs share.

    Args:
        doc: the program's docstring, whose first line describes it.
    """
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--epochs", type=int, help="instead of the program's own")
    options.add_argument("--pictures", type=int, help=argparse.SUPPRESS)  # to try it out, the first
    return options


def cifar10(train: bool, pictures: int | None = None, transform: Any = None) -> AnyCIFAR10:
    """CIFAR-10 as torchvision reads it.

    Args:
        train: the 50,000 to train on, else the 10,000 to test on.
        pictures: only so many, the first.
        transform: of each PIL picture.
    """
    data = AnyCIFAR10(root=str(data_home()), train=train, transform=transform)
    data.data, data.targets = data.data[:pictures], data.targets[:pictures]
    return data


def report(packages: str, settings: str, curve: Curve, averaged: float | None = None) -> None:
    """Print the result as `bench.race` reads it.

    Args:
        packages: names of what the program is made of; their versions are looked up.
        settings: in words, with their source.
        curve: its last point is the result.
        averaged: test accuracy with averaging over several views of each picture, if there is any.
    """
    seconds, accuracy = curve[-1]
    status = Path("/proc/self/status").read_text()
    kilobytes = {name: int(size) for name, size in re.findall(r"(\w+):\s+(\d+) kB", status)}
    result = {
        "versions": ", ".join(f"{name} {version(name)}" for name in packages.split()),
        "settings": settings,
        "training_seconds": seconds,
        "test_accuracy": accuracy,
        "test_accuracy_averaged": averaged,
        "curve": curve,
        # Without the pages of libraries, which all processes share.
        "private_memory_mb": (kilobytes["VmHWM"] - kilobytes["RssFile"]) / 1024,
    }
    print(json.dumps(result), flush=True)
