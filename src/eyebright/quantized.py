"""An ONNX model with eight-bit integers: what it gains and loses, measured there and then."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from eyebright.calibration import Promises
from eyebright.compare import in_points
from eyebright.console import counted, waiting_for
from eyebright.data import Dataset
from eyebright.errors import UsageError
from eyebright.exported import ExportedClassifier
from eyebright.images import Pixels
from eyebright.metrics import Figure, proportion
from eyebright.paired import paired_difference
from eyebright.tracing import quietly, sealed

MOST_CALIBRATED = 128
LEAST_MEASURED = 100  # pictures; below, an interval says little
AT_ONCE = 16  # pictures that are calibrated, or timed, together
REPETITIONS = 9


def quantize(
    content: bytes, held_out: Dataset | None, exact: ExportedClassifier
) -> tuple[bytes, dict[str, Any]]:
    """A model with eight-bit weights and activations (onnxruntime's static quantisation).

    A quarter of the pictures held out, at most ``MOST_CALIBRATED``, say how far activations go;
    accuracy is measured on the others. Promises are left out: they were made for other numbers.

    Args:
        content: of the exact model's file.
        held_out: pictures that it was not trained on.
        exact: the same model, loaded.

    Returns:
        The new file's content, and what was measured.

    Raises:
        UsageError: too few pictures were held out.
    """
    import onnx

    n = 0 if held_out is None else len(held_out)
    if held_out is None or n < 4:
        raise UsageError(f"--int8 needs pictures held out, and there are {n}; train with --val 0.1")
    held_out = held_out.resized(exact.card.imgsz)
    calibrating = np.zeros(n, bool)  # evenly, because folders are sorted by class
    calibrating[np.linspace(0, n - 1, min(MOST_CALIBRATED, n // 4)).astype(int)] = True
    waiting_for("quantising")
    made = _static(content, held_out.pixels[np.flatnonzero(calibrating)])
    card = replace(exact.card, int8=True, promises=Promises())
    small = sealed(onnx.load_model_from_string(made), card)
    measured = held_out.subset(np.flatnonzero(~calibrating))
    found = measure(exact, ExportedClassifier(small), measured.pixels[:], measured.labels)
    found |= {"calibrated_on": int(calibrating.sum()), "bytes_before": len(content)}
    return small, found | {"bytes": len(small)}


def _static(content: bytes, pictures: Pixels) -> bytes:
    """The model with scales from these pictures; onnxruntime works on files."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = _parts(pictures)

        def get_next(self) -> dict[str, Pixels] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part}

    with tempfile.TemporaryDirectory() as place, quietly():
        first, second, third = (Path(place) / f"{i}.onnx" for i in range(3))
        first.write_bytes(content)
        quant_pre_process(first, second, skip_symbolic_shape=True)
        # Probabilities of eight bits would not sum to one.
        exact = [n.name for n in onnx.load_model(second).graph.node if n.op_type == "Softmax"]
        quantize_static(
            second,
            third,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_exclude=exact,
        )
        return third.read_bytes()


def _parts(pictures: Pixels) -> Iterator[Pixels]:
    for start in range(0, len(pictures), AT_ONCE):
        yield np.ascontiguousarray(pictures[start : start + AT_ONCE])


def measure(
    exact: ExportedClassifier, small: ExportedClassifier, pictures: Pixels, labels: Any
) -> dict[str, Any]:
    """Accuracy of both, their difference with a paired interval, and how much faster one is.

    Args:
        exact: in fp32.
        small: quantised.
        pictures: uint8 (n, imgsz, imgsz, 3), none of which it was calibrated on.
        labels: their classes, (n,).
    """
    before, after = exact.predict_proba(pictures), small.predict_proba(pictures)
    was, is_now = before.argmax(1) == labels, after.argmax(1) == labels
    n = len(labels)
    difference = paired_difference(int((is_now & ~was).sum()), int((was & ~is_now).sum()), n)
    batch = pictures[:AT_ONCE]
    seconds: dict[str, list[float]] = {"fp32": [], "int8": []}
    for _ in range(REPETITIONS):  # in turn, so that both meet the same moods of the machine
        for name, model in (("fp32", exact), ("int8", small)):
            begun = time.perf_counter()
            model.predict_proba(batch)
            seconds[name].append(time.perf_counter() - begun)
    return {
        "n": n,
        "accuracy_fp32": asdict(proportion(int(was.sum()), n)),
        "accuracy_int8": asdict(proportion(int(is_now.sum()), n)),
        "difference": asdict(difference),
        "interval": "95 %, paired (Agresti & Min 2005)",
        "labels_equal": int((before.argmax(1) == after.argmax(1)).sum()),
        "largest_difference": float(np.abs(before - after).max()),
        "times_faster": round(median(seconds["fp32"]) / median(seconds["int8"]), 3),
        "timed": f"{REPETITIONS} times {len(batch)} pictures, in turn; ratio of medians",
    }


def measured_lines(found: dict[str, Any]) -> list[str]:
    """What was measured, in words; what is a loss is called one."""
    exact, small = (Figure(**found[f"accuracy_{kind}"]) for kind in ("fp32", "int8"))
    difference, n = Figure(**found["difference"]), found["n"]
    lines = [
        f"int8: accuracy {small.percent()} instead of {exact.percent()} on "
        f"{counted(n, 'picture')} held out that it was not calibrated on: {in_points(difference)} "
        "points",
        f"{found['bytes'] / 1e6:.1f} MB instead of {found['bytes_before'] / 1e6:.1f}, and "
        f"{found['times_faster']:.2f} times as fast here",
    ]
    if n < LEAST_MEASURED:
        lines.append(f"too few pictures ({n}) to tell what it loses: hold out more (--val)")
    if difference.high is not None and difference.high < 0:
        lines.append("it is surely less accurate")
    elif difference.low is not None and difference.low < -0.02:
        lines.append("it may have lost more than 2 points: that cannot be told from these pictures")
    if found["times_faster"] < 1.05:
        lines.append("on this machine it is no faster")
    return lines
