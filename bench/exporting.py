"""Pictures a second: our own model, torch.export, onnxruntime, and onnxruntime with 8 bits.

    python -m bench.exporting --model white64 --imgsz 32
    python -m bench.exporting --model tf_efficientnet_lite0 --imgsz 224

Ready pixels go through each in turn, with one thread and with two, on a quiet machine. The nets
have weights by chance, which changes no speed. Rows go into ``results/exporting.csv``; a command
takes about a minute.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from bench.rows import append_row
from eyebright.batches import HALF
from eyebright.checkpoint import ModelCard
from eyebright.classifier import Classifier
from eyebright.data import Dataset
from eyebright.export import of_pt2
from eyebright.exported import ExportedClassifier
from eyebright.exported_card import PIXELS, ExportedCard
from eyebright.images import POLICY, Pixels
from eyebright.models import create_model
from eyebright.quantized import quantize
from eyebright.tracing import to_onnx, to_pt2, trace

THREADS = (1, 2)
BATCHES = {"one by one": 1, "in batches": 64}


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="white64")
    parser.add_argument("--imgsz", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement, at least")
    arguments = parser.parse_args()
    size, classes = arguments.imgsz, tuple("abcdefghij")
    torch.manual_seed(0)
    net = create_model(arguments.model, len(classes), size)
    classifier = Classifier(net, ModelCard(arguments.model, classes, size, HALF, "bench", 1), "cpu")
    card = ExportedCard(classes, size, PIXELS, POLICY, "none", None, arguments.model, "")
    pixels = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), np.uint8)
    program = trace(classifier, False)
    onnx, pt2 = to_onnx(program, card), to_pt2(program, card)
    data = Dataset(pixels, np.arange(64) % len(classes), classes)
    small, _ = quantize(onnx, data, ExportedClassifier(onnx))
    for threads in THREADS:
        torch.set_num_threads(threads)
        runs: dict[str, Callable[[Pixels], object]] = {
            "eager": classifier.predict_proba,
            "torch.export": of_pt2(pt2),
            "onnxruntime": ExportedClassifier(onnx, threads=threads).predict_proba,
            "onnxruntime int8": ExportedClassifier(small, threads=threads).predict_proba,
        }
        for how, batch in BATCHES.items():
            part, rates = pixels[:batch], {name: list[float]() for name in runs}
            for run in runs.values():
                run(part)
            for _ in range(arguments.repetitions):
                for name, run in runs.items():
                    rates[name].append(rate(run, part, arguments.seconds / 4))
            for name, found in rates.items():
                append_row(
                    "exporting",
                    {
                        "model": arguments.model,
                        "imgsz": size,
                        "threads": threads,
                        "batch": how,
                        "runs_on": name,
                        "pictures_a_second": round(median(found), 1),
                        "lowest": round(min(found), 1),
                        "highest": round(max(found), 1),
                        "times_eager": round(median(found) / median(rates["eager"]), 3),
                        "repetitions": arguments.repetitions,
                        "bytes": len(small if "int8" in name else pt2 if "torch" in name else onnx),
                    },
                )


def rate(run: Callable[[Pixels], object], part: Pixels, seconds: float) -> float:
    """Pictures a second, over so many seconds at least."""
    done, begun = 0, time.perf_counter()
    while True:
        run(part)
        done += len(part)
        if (taken := time.perf_counter() - begun) >= seconds:
            return done / taken


if __name__ == "__main__":
    main()
