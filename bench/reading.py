"""The race of reading pictures: ours beside torchvision's ImageFolder and a DataLoader.

    python -m bench.reading

Makes folders of 4,000 photographs from ``ants-bees.tar``, to be read at 224 px: *repeated*, where
contents occur ten times, so that ours decodes each once; and *distinct*, where some bytes behind a
picture's end make each copy another content, so that all are decoded. Each program is a fresh
process that walks over all pictures in shuffled batches of 32, mirrored by chance and normalised;
ours begins with an empty cache. Then a folder of 100,000 small pictures is listed, checked and
cached. Rows go into ``results/reading.csv`` and ``results/reading-small.csv``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.rows import append_row
from eyebright.batches import Normalization, on_device, train_batches
from eyebright.data import Dataset, load
from eyebright.recipes import recipe_config
from eyebright.runtime import set_up

PICTURES, SMALL = 4000, 100_000
IMGSZ, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SHARED = Path(__file__).parents[2] / "shared" / "data"

Walk = Callable[[int], Iterator[Any]]
"""Epoch, from 1 -> its batches: pictures and labels."""


def copy_to(files: list[Path], count: int, folder: Path, distinct: bool) -> None:
    """Copies of pictures, in turn, each in a folder of its class.

    Args:
        files: JPEGs whose folders are called by their classes.
        count: of copies.
        folder: which is made.
        distinct: whether each copy gets bytes of its own behind the picture's end.
    """
    for i in range(count):
        file = files[i % len(files)]
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        mark = i.to_bytes(8, "big") if distinct else b""
        (folder / file.parent.name / f"{i}.jpg").write_bytes(file.read_bytes() + mark)


def epochs_of(walk: Walk, epochs: int, pictures: int, start: float) -> list[float]:
    """Seconds of each epoch of so many pictures, the first one counted from ``start``."""
    seconds = []
    for epoch in range(1, epochs + 1):
        n = sum(len(labels) for _, labels in walk(epoch))
        assert n == pictures, (n, pictures)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return seconds


def transform(imgsz: int) -> Any:
    """The steps that torchvision takes."""
    from torchvision import transforms

    return transforms.Compose([
        transforms.Resize(imgsz),
        transforms.CenterCrop(imgsz),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip


def theirs(folder: Path, epochs: int) -> list[float]:
    """ImageFolder and a DataLoader with two workers."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    start = time.perf_counter()
    data = ImageFolder(str(folder), transform(IMGSZ))
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=2)
    return epochs_of(lambda epoch: iter(loader), epochs, PICTURES, start)


def batches_of(data: Dataset) -> Walk:
    """What a training gets of data, in batches as the others' are."""
    images, rows = on_device(data.pixels, torch.device("cpu"))
    labels = torch.from_numpy(data.labels)
    config = recipe_config("fast")
    config = config.replace(batch_size=BATCH, augment="mirror", precision="fp32", drop_last=False)
    normalization = Normalization(MEAN, STD)
    return lambda epoch: train_batches(
        images, labels, config, normalization, epoch, rows, shards=data.shards
    )


def ours(folder: Path, epochs: int) -> list[float]:
    """`load`, and the batches that training has."""
    set_up(torch.device("cpu"), 0, 0)
    start = time.perf_counter()
    return epochs_of(batches_of(load(folder, imgsz=IMGSZ)), epochs, PICTURES, start)


def private_megabytes() -> tuple[float, float]:
    """Anonymous memory of this process, and all that it shares with no other one."""
    sizes = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        sizes[name.rstrip(":")] = int(kilobytes) / 1024
    return sizes["Anonymous"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def small(folder: Path) -> dict[str, float]:
    """Seconds of listing, checking and caching, and the peak of memory meanwhile."""
    peaks, over = [private_megabytes()], threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            peaks.append(private_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    n = len(load(folder, imgsz=32))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    load(folder, imgsz=32)
    again = time.perf_counter() - start
    over.set()
    watcher.join()
    assert n == SMALL
    anonymous, private = (max(values) for values in zip(*peaks, strict=True))
    return {"seconds": seconds, "again": again, "anonymous": anonymous, "private": private}


def run(program: str, folder: Path, epochs: int, cache: Path) -> Any:
    """What a program prints, in a fresh process with an empty cache."""
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "bench.reading", "--program", program, "--epochs", str(epochs)]
    environment = os.environ | {"EYEBRIGHT_DATA": str(cache)}
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def race(place: Path, archive: Path, kind: str, epochs: int) -> None:
    """A row for one kind of folder."""
    with tarfile.open(archive) as tar:
        tar.extractall(place / "insects", filter="data")
    files = sorted((place / "insects").glob("*/*/*.jp*g"))
    copy_to(files, PICTURES, place / kind, distinct=kind == "distinct")
    load_before = os.getloadavg()[0]
    mine = run("ours", place / kind, epochs + 2, place / "cache")  # its later epochs are short
    other = run("theirs", place / kind, epochs, place / "cache")
    first, first_other = PICTURES / mine[0], PICTURES / other[0]
    later, later_other = PICTURES / min(mine[1:]), PICTURES / min(other[1:])
    append_row(
        "reading",
        {
            "pictures": f"{PICTURES} {kind}, of {len(files)}",
            "first_epoch_per_s": round(first),
            "theirs_first": round(first_other),
            "times_first": round(first / first_other, 2),
            "later_epochs_per_s": round(later),
            "theirs_later": round(later_other),
            "times_later": round(later / later_other, 1),
            "load_before": round(load_before, 1),
        },
    )
    shutil.rmtree(place / kind)


def race_small(place: Path) -> None:
    """The row of 100,000 small pictures: CIFAR-10's 60,000, and 40,000 with some more bytes."""
    home = Path(os.environ["EYEBRIGHT_DATA"]) / "cifar10-folder"
    files = sorted(home.glob("*/*/*.jpg"))
    copy_to(files, SMALL, place / "small", distinct=True)
    load_before = os.getloadavg()[0]
    found = run("small", place / "small", 1, place / "cache")
    append_row(
        "reading-small",
        {
            "pictures": SMALL,
            "seconds": round(found["seconds"], 1),
            "seconds_again": round(found["again"], 1),
            "anonymous_peak_mb": round(found["anonymous"]),
            "private_peak_mb": round(found["private"]),
            "load_before": round(load_before, 1),
        },
    )


def main() -> None:
    """Make the folders, run the programs in turn, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=["repeated", "distinct", "small"])
    parser.add_argument("--archive", type=Path, default=SHARED / "ants-bees.tar")
    parser.add_argument("--epochs", type=int, default=2, help="of theirs")
    parser.add_argument("--program", choices=["ours", "theirs", "small"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program == "small":
        print(json.dumps(small(arguments.folder)))
    elif arguments.program:
        program = ours if arguments.program == "ours" else theirs
        print(json.dumps(program(arguments.folder, arguments.epochs)))
    else:
        with tempfile.TemporaryDirectory() as place:
            for kind in arguments.kinds:
                if kind == "small":
                    race_small(Path(place))
                else:
                    race(Path(place), arguments.archive, kind, arguments.epochs)


if __name__ == "__main__":
    main()
