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

import torch

from bench.peers.lesson import create_net, train_epoch, train_loader
from bench.rows import append_row
from eyebright.batches import HALF
from eyebright.choices import decide
from eyebright.data import Dataset, load
from eyebright.models import LessonNet
from eyebright.recipes import recipe_config
from eyebright.runtime import choose_device, set_up
from eyebright.training import fit


def plain_script(steps: int) -> float:
    """Seconds that the lesson's script takes for so many mini-batches."""
    net, optimizer = create_net()
    return train_epoch(net, optimizer, train_loader(), steps)


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
