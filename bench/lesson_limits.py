"""Why 61 % and not more: the lesson's net trained longer, and trained otherwise.

    python -m bench.lesson_limits --recipe tutorial --epochs 12
    python -m bench.lesson_limits --recipe fast --epochs 12

Trains the lesson's net on all 50,000 pictures and looks at training and test pictures after every
epoch; a row for each goes into ``results/lesson-limits.csv``. None of the epochs is chosen.
"""

import argparse

from bench.rows import append_row
from eyebright.batches import predict_logits
from eyebright.choices import decide
from eyebright.data import load
from eyebright.prepare import prepare_net
from eyebright.recipes import recipe_config
from eyebright.runtime import choose_device, set_up
from eyebright.training import fit


def main() -> None:
    """Train, look, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tutorial")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data, test = load("cifar10"), load("cifar10", split="test")
    device = choose_device("auto")
    settings = {"model": "lesson", "epochs": arguments.epochs}
    config = recipe_config(arguments.recipe).replace(val=0.0, seed=arguments.seed, **settings)
    config = decide(config, settings, data, len(data), device)
    set_up(device, config.threads, config.seed)
    net, normalization = prepare_net(None, config, data, data)
    for result in fit(net, data, test, config, normalization, None):
        assert result.val_confusion is not None
        answers = predict_logits(net, data.images, normalization).argmax(1).numpy()
        row = {
            "model": config.model,
            "recipe": config.recipe,
            "epochs": config.epochs,
            "seed": config.seed,
            "epoch": result.epoch,
            "train_loss": round(result.train_loss, 4),
            "train_accuracy": round(float((answers == data.labels).mean()), 4),
            "test_accuracy": round(
                float(result.val_confusion.trace() / result.val_confusion.sum()), 4
            ),
        }
        append_row("lesson-limits", row)


if __name__ == "__main__":
    main()
