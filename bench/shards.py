"""The race of reading shards: ours beside the library webdataset and ImageFolder.

    python -m bench.shards --photographs FOLDER

Small pictures are those of ``$EYEBRIGHT_DATA/cifar10-folder`` at 32 px; large ones photographs
(``--photographs``, a folder of class folders) at 224 px, repeated with some bytes behind each end
so that no two files are alike. Both are converted by `eyebright convert`. Then each program is a
fresh process that walks over all pictures in shuffled batches of 32, mirrored by chance and
normalised: ours streams the shards, webdataset reads the same shards through a DataLoader, and
torchvision's ImageFolder reads the files that they were made of through one. Nothing is decoded
beforehand. Each has as many workers as there are cores. What counts is the best of some epochs, in
pictures a second and as ratios; files are in the system's cache by then, so that it is decoding
that is measured. Ours halves large JPEGs while it decodes them, as it always does. Rows go into
``results/shards.csv``.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.reading import BATCH, Walk, batches_of, copy_to, epochs_of, transform
from bench.rows import append_row
from eyebright.conversion import convert
from eyebright.data import load
from eyebright.machine import available_cores
from eyebright.runtime import set_up

LEAST_SHARD = 1 << 20  # bytes; of more pictures there are four shards a worker


def best_speed(walk: Walk, epochs: int, pictures: int) -> float:
    """Pictures a second of the fastest epoch."""
    return pictures / min(epochs_of(walk, epochs, pictures, time.perf_counter()))


def ours(shards: Path, imgsz: int, epochs: int, pictures: int, workers: int) -> float:
    """What a training gets of streamed shards."""
    set_up(torch.device("cpu"), 0, 0)
    data = load(shards, imgsz=imgsz, stream=True, workers=workers)
    return best_speed(batches_of(data), epochs, pictures)


def torchvision(folder: Path, imgsz: int, epochs: int, pictures: int, workers: int) -> float:
    """ImageFolder and a DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    data = ImageFolder(str(folder), transform(imgsz))
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
    return best_speed(lambda epoch: iter(loader), epochs, pictures)


def webdataset(shards: Path, imgsz: int, epochs: int, pictures: int, workers: int) -> float:
    """The library's own pipeline and a DataLoader."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    paths = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    data = (
        wds.WebDataset(paths, shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg;jpeg;png", "cls")
        .map_tuple(transform(imgsz), int)
        .batched(BATCH)
    )
    workers = min(workers, len(paths))
    loader: Any = DataLoader(data, None, num_workers=workers, persistent_workers=True)
    return best_speed(lambda epoch: iter(loader), epochs, pictures)


PROGRAMS = {"ours": ours, "torchvision": torchvision, "webdataset": webdataset}


def run(program: str, place: Path, imgsz: int, epochs: int, pictures: int, workers: int) -> float:
    """Pictures a second of a program, in a fresh process."""
    folder = place / ("files" if program == "torchvision" else "shards")
    command = [sys.executable, "-m", "bench.shards", "--program", program, "--folder", folder]
    numbers = ["--imgsz", imgsz, "--epochs", epochs, "--pictures", pictures, "--workers", workers]
    done = subprocess.run(
        [*map(str, command), *map(str, numbers)], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def race(files: list[Path], imgsz: int, pictures: int, epochs: int, workers: int) -> None:
    """A row for one size of pictures."""
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as temporary:
        place = Path(temporary)
        copy_to(files, pictures, place / "files", distinct=True)
        total = sum(file.stat().st_size for file in (place / "files").glob("*/*"))
        size = max(LEAST_SHARD, total // (4 * workers))
        start = time.perf_counter()
        index = convert(place / "files", place / "shards", shard_size=size, workers=workers)
        converted = pictures / (time.perf_counter() - start)
        load_before = os.getloadavg()[0]
        speed = {name: run(name, place, imgsz, epochs, pictures, workers) for name in PROGRAMS}
        part = index.parts["train"]
        append_row(
            "shards",
            {
                "px": imgsz,
                "pictures": pictures,
                "shards": len(part.shards),
                "mb": round(sum(shard.bytes for shard in part.shards) / 1e6),
                "workers": workers,
                "converted_per_s": round(converted),
                **{f"{name}_per_s": round(found) for name, found in speed.items()},
                "times_torchvision": round(speed["ours"] / speed["torchvision"], 2),
                "times_webdataset": round(speed["ours"] / speed["webdataset"], 2),
                "load_before": round(load_before, 1),
            },
        )


def mixed(folder: Path) -> list[Path]:
    """The JPEGs of class folders by chance, so that the first few are of all classes."""
    files = sorted(folder.glob("*/*.jp*g"))
    return random.Random(0).sample(files, len(files))


def main() -> None:
    """Make the files and shards, run the programs in turn, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="class folders; none: small ones alone")
    parser.add_argument("--small", type=int, default=50_000, help="small pictures; 0: none")
    parser.add_argument("--large", type=int, default=4000, help="photographs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--program", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--imgsz", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        found = PROGRAMS[given.program](
            given.folder, given.imgsz, given.epochs, given.pictures, given.workers
        )
        print(json.dumps(found))
        return
    if given.small:
        home = Path(os.environ["EYEBRIGHT_DATA"]) / "cifar10-folder" / "train"
        race(mixed(home), 32, given.small, given.epochs, given.workers)
    if given.photographs:
        race(mixed(given.photographs), 224, given.large, given.epochs, given.workers)


if __name__ == "__main__":
    main()
