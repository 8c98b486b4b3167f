"""The race on a GPU: runs of a second, many in one process, after one to get warm.

    python -m bench.gpu --programs airbench airbench-eager fast best --seeds 10

A row for each run goes into ``results/gpu.csv``. Seconds are those of training, whitening and
recording the step included; without imports, loading and the looks at the test set.
"""

import argparse
import time

from bench.peers import airbench, ours
from bench.rows import append_row, settings_of
from eyebright.console import out
from eyebright.runtime import choose_device, choose_precision

PROGRAMS = ("airbench", "airbench-eager", "quick", "fast", "best")


def main() -> None:
    """Run, a row for each program and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", dest="settings")
    parser.add_argument("--few", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data, test = ours.load_parts(arguments.few)
    device = choose_device("auto")
    settings = settings_of(arguments.settings)
    for program in arguments.programs:
        for seed in range(-1, arguments.seeds):
            begun, warm = time.perf_counter(), seed < 0  # the first one only makes warm
            if program.startswith("airbench"):
                replayed, epochs = program == "airbench", 4 if warm else airbench.EPOCHS
                curve, averaged = airbench.train(
                    data, test, device, max(0, seed), epochs, replayed, watched=False
                )
                words = airbench.SETTINGS.format(
                    epochs=epochs, precision=choose_precision("auto", device)
                )
                words += "" if replayed else "; steps not recorded"
            else:
                chosen = settings | ({"max_steps": 60} if warm else {})
                config, curve, averaged = ours.train(
                    program, chosen, data, test, max(0, seed), watched=False
                )
                words = ours.words_of(config)
            seconds, accuracy = curve[-1]
            out.print(
                f"{program} {seed}: {100 * accuracy:.2f} %, averaged {100 * averaged:.2f} %, "
                f"{seconds:.3f} s of {time.perf_counter() - begun:.2f} s"
            )
            if warm:
                continue
            append_row(
                "gpu",
                {
                    "program": program,
                    "settings": words,
                    "seed": seed,
                    "training_seconds": round(seconds, 4),
                    "test_accuracy": round(accuracy, 4),
                    "test_accuracy_averaged": round(averaged, 4),
                },
            )


if __name__ == "__main__":
    main()
