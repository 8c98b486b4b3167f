"""A recipe of eyebright, through the library, trained on all pictures.

python -m bench.peers.ours --recipe fast --seed 0
"""

import time
from typing import Any

from bench.peers import Curve, parser, report
from eyebright.batches import predict_logits
from eyebright.choices import decide
from eyebright.config import TrainConfig
from eyebright.data import Dataset, load
from eyebright.prepare import prepare_net
from eyebright.recipes import recipe_config
from eyebright.runtime import choose_device, set_up
from eyebright.training import fit


def load_parts(pictures: int | None) -> tuple[Dataset, Dataset]:
    """What to train on and what to test on; only so many of each, the first."""
    data, test = load("cifar10"), load("cifar10", split="test")
    if pictures:
        data, test = data.subset(range(pictures)), test.subset(range(pictures))
    return data, test


def train(
    recipe: str, settings: dict[str, Any], data: Dataset, test: Dataset, seed: int, watched: bool
) -> tuple[TrainConfig, Curve, float]:
    """Train once.

    Args:
        recipe: its name.
        settings: instead of the recipe's own.
        data: what to train on.
        test: looked at after each epoch, or after the last one alone.
        seed: of everything.
        watched: which of the two.

    Returns:
        What was decided, the curve, and test accuracy averaged with mirror images.
    """
    device = choose_device("auto")
    config = recipe_config(recipe).replace(val=0.0, seed=seed, tta="none").replace(**settings)
    config = decide(config, settings, data, len(data), device)
    set_up(device, config.threads, config.seed)
    start = time.perf_counter()
    net, normalization = prepare_net(None, config, data, data)
    # What is learned before the first step, normalisation and whitening, is training too.
    prepared = time.perf_counter() - start
    curve: Curve = []
    for result in fit(net, data, test if watched else None, config, normalization, None):
        if result.val_confusion is not None:
            right = result.val_confusion.trace() / result.val_confusion.sum()
            curve.append((prepared + result.seconds, float(right)))
    if not watched:
        predictions = predict_logits(net, test.images, normalization).argmax(1).numpy()
        curve.append((prepared + result.seconds, float((predictions == test.labels).mean())))
    averaged = predict_logits(net, test.images, normalization, tta="mirror").argmax(1).numpy()
    return config, curve, float((averaged == test.labels).mean())


def words_of(config: TrainConfig) -> str:
    """A recipe's settings in words."""
    length = f"{config.max_steps} steps" if config.max_steps else f"{config.epochs} epochs"
    rest = ", SGD for biases and head" if config.rest == "sgd" else ""
    return (
        f"recipe {config.recipe}: {config.model}, {length}, "
        f"batch {config.batch_size}, {config.optimizer} lr {config.lr:g}{rest}, augment "
        f"{config.augment}, label smoothing {config.label_smoothing:g}, {config.precision}, "
        "norms measured at the end, nothing held out; averaged: with mirror images"
    )


def main() -> None:
    """Train and report."""
    options = parser(__doc__)
    options.add_argument("--recipe", default="fast")
    options.add_argument("--model", help="instead of the recipe's own")
    options.add_argument("--steps", type=int, help="instead of the recipe's epochs")
    arguments = options.parse_args()
    data, test = load_parts(arguments.pictures)
    config = recipe_config(arguments.recipe)
    settings = {"model": arguments.model, "max_steps": arguments.steps, "epochs": arguments.epochs}
    settings = {name: value for name, value in settings.items() if value}
    if arguments.steps:  # as in a plan, whatever the hardware
        settings |= {"batch_size": config.batch_size, "lr": config.lr}
    # Looks at the test set after each epoch make the line of the picture; one seed will do.
    config, curve, averaged = train(
        arguments.recipe, settings, data, test, arguments.seed, watched=arguments.seed == 0
    )
    report("eyebright torch", words_of(config), curve, averaged)


if __name__ == "__main__":
    main()
