"""fastai's xresnet18 and one-cycle training, with its own data block.

    python -m bench.peers.fastai_loop --seed 0

The net for CIFAR-10 that fastai's examples had, a WideResNet of 17 million weights, is no longer in
the package and would take over an hour an epoch on two cores; xresnet18 is the package's smallest.
"""

import time
from typing import Any

# fastai is not installed everywhere; where it is not, mypy takes its parts for Any.
from fastai.vision.all import (  # type: ignore[import-not-found,unused-ignore]
    Callback,
    CategoryBlock,
    CropPad,
    DataBlock,
    FlipItem,
    ImageBlock,
    IndexSplitter,
    ItemGetter,
    Learner,
    Normalize,
    PadMode,
    RandomCrop,
    accuracy,
    cifar_stats,
    set_seed,
    xresnet18,
)

from bench.peers import Curve, cifar10, parser, report

SETTINGS = (
    "xresnet18 with a first convolution of stride 1, {epochs} epochs, batch 128, fit_one_cycle "
    "lr 3e-3 with the package's Adam (fastbook chapter 14, ResNets from scratch), mirror, crop "
    "with 4 px of reflected padding and cifar_stats (fastai's examples/cifar.ipynb), 2 workers, "
    "channels last, fp32 (its mixed precision is for CUDA alone)"
)


class TrainingClock(Callback):  # type: ignore[misc,unused-ignore]  # may be Any, as said above
    """Adds up the seconds of training, without those of validation."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.after_epochs: list[float] = []

    def before_train(self) -> None:
        """An epoch's training begins."""
        self.start = time.perf_counter()

    def after_train(self) -> None:
        """It is over."""
        self.seconds += time.perf_counter() - self.start
        self.after_epochs.append(self.seconds)


def create_loaders(pictures: int | None) -> Any:
    """The loaders of fastai; the test set is what it looks at after each epoch."""
    train, test = cifar10(True, pictures), cifar10(False, pictures)
    items = [item for data in (train, test) for item in zip(data.data, data.targets, strict=True)]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=ItemGetter(0),
        get_y=ItemGetter(1),
        splitter=IndexSplitter(range(len(train), len(items))),
        item_tfms=[CropPad(40, pad_mode=PadMode.Reflection), RandomCrop(32), FlipItem(0.5)],
        batch_tfms=[Normalize.from_stats(*cifar_stats)],
    )
    return block.dataloaders(items, bs=128, num_workers=2)


def main() -> None:
    """Train and report."""
    options = parser(__doc__).parse_args()
    epochs = options.epochs or 3
    set_seed(options.seed)
    loaders = create_loaders(options.pictures)
    net = xresnet18(n_out=10)
    net[0][0].stride = (1, 1)
    clock = TrainingClock()
    learner = Learner(loaders, net, metrics=accuracy, cbs=clock).to_channelslast(use_amp=False)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, 3e-3)
    accuracies = [float(values[-1]) for values in learner.recorder.values]
    curve: Curve = list(zip(clock.after_epochs, accuracies, strict=True))
    report("fastai torch", SETTINGS.format(epochs=epochs), curve)


if __name__ == "__main__":
    main()
