"""A recipe of eyebright, through the library, trained on all pictures.

python -m bench.peers.ours --recipe fast --seed 0
"""

import time

from bench.peers import Curve, parser, report
from eyebright.batches import predict_logits
from eyebright.config import recipe_config
from eyebright.data import load
from eyebright.prepare import decide, prepare_net, to_device
from eyebright.runtime import choose_device, set_up
from eyebright.training import fit


def main() -> None:
    """Train and report."""
    options = parser(__doc__)
    options.add_argument("--recipe", default="fast")
    options.add_argument("--model", help="instead of the recipe's own")
    options.add_argument("--steps", type=int, help="instead of the recipe's epochs")
    arguments = options.parse_args()
    data, test = load("cifar10"), load("cifar10", split="test")
    if arguments.pictures:
        few = range(arguments.pictures)
        data, test = data.subset(few), test.subset(few)
    device = choose_device("auto")
    config = recipe_config(arguments.recipe).replace(val=0.0, seed=arguments.seed, tta="none")
    settings = {"model": arguments.model, "max_steps": arguments.steps, "epochs": arguments.epochs}
    settings = {name: value for name, value in settings.items() if value}
    config = config.replace(**settings)
    if arguments.steps:  # as in a plan, whatever the hardware
        settings |= {"batch_size": config.batch_size, "lr": config.lr}
    config = decide(config, settings, data, len(data), device)
    set_up(device, config.threads, config.seed)
    start = time.perf_counter()
    net, normalization = prepare_net(None, config, data, data)
    net = to_device(net, config, device)
    # What is learned before the first step, normalisation and whitening, is training too.
    prepared = time.perf_counter() - start
    curve: Curve = []
    # Looks at the test set after each epoch make the line of the picture; one seed will do.
    watched = test if arguments.seed == 0 else None
    for result in fit(net, data, watched, config, normalization, None):
        if result.val_confusion is not None:
            right = result.val_confusion.trace() / result.val_confusion.sum()
            curve.append((prepared + result.seconds, float(right)))
    if not watched:
        predictions = predict_logits(net, test.images, normalization).argmax(1).numpy()
        right = (predictions == test.labels).mean()
        curve.append((prepared + result.seconds, float(right)))
    averaged = predict_logits(net, test.images, normalization, tta="mirror").argmax(1).numpy()
    length = f"{config.max_steps} steps" if config.max_steps else f"{config.epochs} epochs"
    words = (
        f"recipe {arguments.recipe}: {config.model}, {length}, "
        f"batch {config.batch_size}, {config.optimizer} lr {config.lr:g}, augment "
        f"{config.augment}, label smoothing {config.label_smoothing:g}, {config.precision}, "
        "nothing held out; averaged: with mirror images"
    )
    report("eyebright torch", words, curve, float((averaged == test.labels).mean()))


if __name__ == "__main__":
    main()
