"""Pictures a second of ``predict --parts``, by one process and by two that torchrun starts.

    python -m bench.lake runs/cifar10-fast
    python -m bench.lake runs/pets --pictures my-pictures --part-size 100

The pictures are the 10,000 of CIFAR-10's test part as files. Ranks of one machine share its cores,
so that two are measured against one that has all of them (what a second process costs or gains)
and against one that is held to half of them (how they scale, as they would over machines). All
three are timed in turn. A row goes into ``results/lake.csv``.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.rows import append_row
from eyebright.machine import available_cores

SPEED = re.compile(r"([\d,]+) pictures, .* \(([\d,]+) a second\)")


def measure(words: Sequence[str], ranks: int, cores: int) -> tuple[float, float]:
    """Predict all pictures into a new folder.

    Args:
        words: of ``eyebright predict``, but for ``--parts``.
        ranks: processes that share them.
        cores: that all of them together are held to.

    Returns:
        Seconds from the first picture to the last part of the slowest rank, and of the command.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(launch if ranks > 1 else []), "-m", "eyebright", "predict", *words]
    held = sorted(os.sched_getaffinity(0))[:cores]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        done = subprocess.run(
            [*command, "--parts", str(Path(place) / "lake")],
            capture_output=True, text=True, env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, held),
        )  # fmt: skip
        seconds = time.perf_counter() - begun
    found = [(float(n.replace(",", "")), float(speed.replace(",", "")))
             for n, speed in SPEED.findall(done.stdout)]  # fmt: skip
    if done.returncode or len(found) != ranks:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return max(n / speed for n, speed in found), seconds


def main() -> None:
    """Measure, and write the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="its folder")
    home = Path(os.environ.get("EYEBRIGHT_DATA", "data"))
    parser.add_argument("--pictures", type=Path, default=home / "cifar10-folder" / "test")
    parser.add_argument("--part-size", type=int, default=1000)
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    cores = available_cores()
    if cores < 2:
        raise SystemExit("two ranks need two cores")
    words = [str(arguments.run), str(arguments.pictures), "--part-size", str(arguments.part_size)]
    ways = {
        "one_of_half": (1, cores // 2),
        "one": (1, cores),
        "two": (2, cores // 2 * 2),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.times):
        for name, (ranks, held) in ways.items():
            took[name].append(measure(words, ranks, held))
    count = sum(path.is_file() for path in arguments.pictures.rglob("*"))
    rate = {name: count / median(one[0] for one in times) for name, times in took.items()}
    append_row(
        "lake",
        {
            "pictures": count,
            "part_size": arguments.part_size,
            **{f"{name}_a_second": round(value) for name, value in rate.items()},
            "two_over_one_of_half": round(rate["two"] / rate["one_of_half"], 2),
            "two_over_one": round(rate["two"] / rate["one"], 2),
            **{
                f"{name}_command_s": round(median(one[1] for one in times), 1)
                for name, times in took.items()
            },
        },
    )


if __name__ == "__main__":
    main()
