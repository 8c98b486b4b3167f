"""What `predict` takes beside decoding alone and the bare forward pass.

    python -m bench.predicting --imgsz 32
    python -m bench.predicting --imgsz 224 --model tf_efficientnet_lite0 --count 600

Picture files are made of smooth noise, and the net has weights by chance; the three are timed in
turn, three times. A row goes into ``results/predicting.csv``.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from bench.rows import append_row
from eyebright.batches import HALF, predict_logits
from eyebright.checkpoint import ModelCard
from eyebright.classifier import Classifier
from eyebright.images import read_bytes, read_image
from eyebright.machine import available_cores
from eyebright.models import create_model
from eyebright.prediction import predict_files
from eyebright.runtime import set_up


def make_files(folder: Path, count: int, size: int) -> list[Path]:
    """JPEGs of smooth noise, as large as photographs are beside the pictures a net takes."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        rough = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(rough).resize((size, size)).save(buffer, "JPEG", quality=85)
        files.append(folder / f"{i}.jpg")
        files[-1].write_bytes(buffer.getvalue())
    return files


def take(items: Iterable[object]) -> None:
    """All of them."""
    for _ in items:
        pass


def main() -> None:
    """Measure, and write the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imgsz", type=int, default=32)
    parser.add_argument("--model", default="wide32")
    parser.add_argument("--count", type=int, default=8000)
    arguments = parser.parse_args()
    size = arguments.imgsz
    net = create_model(arguments.model, 10, size)
    card = ModelCard(arguments.model, tuple("abcdefghij"), size, HALF, "bench", 1)
    classifier = Classifier(net, card)
    set_up(classifier.device, 0, 0)
    pixels = np.random.default_rng(1).integers(0, 256, (arguments.count, size, size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as place:
        files = make_files(Path(place), arguments.count, size if size < 64 else 2 * size)

        def decode(threads: int) -> None:
            with ThreadPoolExecutor(threads) as pool:
                take(pool.map(lambda f: read_image(read_bytes(f), size), files, chunksize=16))

        works: dict[str, Callable[[], object]] = {
            "decoding, one thread": lambda: decode(1),
            "decoding": lambda: decode(available_cores()),
            "forward": lambda: predict_logits(classifier.model, pixels, HALF),
            "predict": lambda: take(predict_files(classifier, files)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(3):
            for name, work in works.items():
                begun = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - begun)
    rate = {name: arguments.count / median(values) for name, values in seconds.items()}
    rate["decoding"] = max(rate["decoding"], rate.pop("decoding, one thread"))
    append_row(
        "predicting",
        {
            "imgsz": size,
            "model": arguments.model,
            "pictures": arguments.count,
            **{f"{name}_a_second": round(value) for name, value in rate.items()},
            "share_of_slower": round(rate["predict"] / min(rate["decoding"], rate["forward"]), 3),
        },
    )


if __name__ == "__main__":
    main()
