"""A run's model as ONNX or torch.export, with a certificate that it says what the run says.

Nothing is written before real pictures have gone through both and their probabilities agree.
"""

import contextlib
import hashlib
import io
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eyebright.answers import check_claims
from eyebright.calibration import USUAL_RISK, Promises
from eyebright.classifier import Classifier
from eyebright.console import progress_bar, shown
from eyebright.data import Dataset
from eyebright.errors import DataError, NumbersError, StorageError, UsageError, install_command
from eyebright.exported import ExportedClassifier, load_onnxruntime
from eyebright.exported_card import PICTURE, PIXELS, ExportedCard
from eyebright.files import beside, write_file, write_json
from eyebright.images import Pixels
from eyebright.quantized import quantize
from eyebright.run import Run
from eyebright.tracing import OPSET, quietly, to_onnx, to_pt2, trace

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-4  # of a probability
LEAST, MOST = 200, 1000  # pictures of a certificate
PICTURES_PIXELS = 200 * 224 * 224  # of all of them, where that is more than the least
SINGLES = 32  # pictures that also go through one by one
USUAL_COVERAGE = 0.9  # of the sets that an ONNX file carries along, beside the usual risk
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Shipped:
    """What was written."""

    folder: Path
    certificate: dict[str, Any]
    """What ``parity.json`` holds."""


def export(
    run: Run,
    to: str = "onnx",
    resize: bool = False,
    int8: bool = False,
    into: Path | None = None,
    device: str = "auto",
) -> Shipped:
    """Write a run's model as a graph that takes pixels and gives probabilities.

    Args:
        run: whose model; its data must still be there.
        to: ``onnx`` or ``pt2`` (torch.export).
        resize: the graph takes one picture of any size, and resizes it itself.
        int8: with eight-bit integers, calibrated and measured on pictures held out.
        into: folder for the model and ``parity.json``. Default: one in the run folder.
        device: where the run's own model is asked.

    Raises:
        UsageError: an unknown format, a missing extra, or nothing held out to quantise with.
        DataError: the pictures are gone, or no longer the same.
        NumbersError: graph and run disagree, so nothing was written.
    """
    check_format(to, resize, int8)
    folder = into or run.path / (f"{to}-int8" if int8 else to)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{shown(folder)}: no folder, so nothing can be written into it (-o DIR)")
    classifier = run.classifier(device)
    try:
        parts = run.training_pictures()
    except DataError as error:
        raise DataError(f"{error}. An export is compared on the run's own pictures") from None
    pictures, kinds = real_pictures(parts, classifier.card.imgsz)
    shape = _size(classifier, resize)
    program = trace(classifier, resize)
    certificate: dict[str, Any] = {"format": to, "opset": OPSET if to == "onnx" else None}
    answer: Answer
    if to == "onnx":
        content = to_onnx(program, card_of(run, classifier, resize))
        loaded = ExportedClassifier(content)
        answer = loaded.of_picture if resize else loaded.predict_proba
    else:
        content = to_pt2(program, card_of(run, classifier, resize))
        answer = of_pt2(content)
    parity = compare_answers(classifier, answer, pictures, resize) | {"pictures": kinds}
    certificate |= {
        "takes": f"uint8 {shape}",
        "gives": f"float32 (n, {len(classifier.classes)}): probabilities",
        "parity": parity,
    }
    if int8:
        content, certificate["int8"] = quantize(content, parts.get("validation"), loaded)
    certificate |= {
        "file": f"model.{to}",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "weights_sha256": classifier.card.weights_sha256,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("eyebright", "torch", "pillow", *NEEDED[to])},
    }
    write_both(folder, f"model.{to}", content, certificate)
    return Shipped(folder, certificate)


def check_format(to: str, resize: bool, int8: bool) -> None:
    """See that there is such a format, and that what writes it is installed.

    Raises:
        UsageError: otherwise.
    """
    if to not in FORMATS:
        raise UsageError(f"--to cannot be '{shown(to)}'; choose one of: {', '.join(FORMATS)}")
    if int8 and to != "onnx":
        raise UsageError("--int8 goes with --to onnx alone")
    if int8 and resize:
        raise UsageError("--int8 and --resize do not go together: resizing takes more than 8 bits")
    if to == "onnx":
        for name in NEEDED[to]:
            if find_spec(name) is None:
                raise UsageError(f"ONNX needs {name}: {install_command('export')}")
        load_onnxruntime()  # before any other part of it is


def _size(classifier: Classifier, resize: bool) -> str:
    size = classifier.card.imgsz
    return "(height, width, 3), any size" if resize else f"(n, {size}, {size}, 3)"


def real_pictures(parts: Mapping[str, Dataset], imgsz: int) -> tuple[Pixels, dict[str, int]]:
    """Pictures of the run's own data to compare on, and how many are of which part.

    Args:
        parts: as `Run.training_pictures` has them: those held out come first.
        imgsz: side of the square, in pixels.
    """
    wanted = max(LEAST, min(MOST, PICTURES_PIXELS // imgsz**2))
    kinds: dict[str, int] = {}
    found = []
    for name, data in parts.items():
        enough = min(wanted, len(data))
        if kinds:  # of those trained on no more than are missing
            enough = min(len(data), max(0, LEAST - sum(kinds.values())))
        # Evenly, because folders are sorted by class.
        which = np.linspace(0, len(data) - 1, enough).astype(int)
        found.append(data.resized(imgsz).pixels[which])
        kinds[name] = enough
    return np.concatenate(found), {name: count for name, count in kinds.items() if count}


def card_of(run: Run, classifier: Classifier, resize: bool) -> ExportedCard:
    """What the file says of itself."""
    answers = sets = None
    with contextlib.suppress(UsageError):  # nothing held out, or too little for it
        answers = run.promises(risk=USUAL_RISK).answers
    with contextlib.suppress(UsageError):
        sets = run.promises(coverage=USUAL_COVERAGE).sets
    card = classifier.card
    made = ExportedCard(
        classes=card.classes,
        imgsz=card.imgsz,
        input=PICTURE if resize else PIXELS,
        policy=card.policy,
        tta=card.tta,
        temperature=card.temperature,
        architecture=card.architecture,
        weights_sha256=card.weights_sha256,
        promises=Promises(answers, sets),
    )
    check_claims(shown(run.path), made)
    return made


Answer = Callable[[Pixels], Probabilities]


def of_pt2(content: bytes) -> Answer:
    """What our own file, read back, makes of pictures."""
    with quietly():
        module = torch.export.load(io.BytesIO(content)).module()

    def answer(pixels: Pixels) -> Probabilities:
        with torch.no_grad():
            found: Probabilities = module(torch.from_numpy(np.array(pixels))).double().numpy()
        return found

    return answer


def compare_answers(
    classifier: Classifier, answer: Answer, pictures: Pixels, resize: bool
) -> dict[str, Any]:
    """How far a graph's probabilities are from the classifier's, at most.

    Where the graph resizes, real pictures are brought to many sizes first, and go through
    `images.fit` on the classifier's way.

    Raises:
        NumbersError: further than ``TOLERANCE``, or no numbers.
    """
    if resize:
        shapes = [_other_size(i, image) for i, image in enumerate(pictures)]
        wanted = classifier.predict_proba(shapes)
        found = np.concatenate([answer(image) for image in _followed(shapes)])
    else:
        wanted = classifier.predict_proba(pictures)
        parts = [pictures[at : at + 64] for at in range(0, len(pictures), 64)]
        found = np.concatenate([answer(part) for part in _followed(parts)])
    difference = _farthest(wanted, found)
    parity: dict[str, Any] = {
        "n": len(pictures),
        "largest_difference": difference,
        "labels_equal": int((wanted.argmax(1) == found.argmax(1)).sum()),
        "tolerance": TOLERANCE,
    }
    if len(pictures) < LEAST:
        parity["note"] = f"the data have fewer than {LEAST} pictures"
    if resize:
        sides = np.array([image.shape[:2] for image in shapes])
        parity["sizes"] = f"real pictures brought to sides from {sides.min()} to {sides.max()} px"
    else:
        single = np.concatenate([answer(pictures[i : i + 1]) for i in range(SINGLES)][: len(found)])
        parity["one_by_one"] = {
            "n": len(single),
            "largest_difference": _farthest(found[: len(single)], single),
        }
        difference = max(difference, parity["one_by_one"]["largest_difference"])
    if not difference <= TOLERANCE:
        raise NumbersError(
            f"the exported graph and the run disagree by up to {difference:.2g} on "
            f"{len(pictures):,} pictures ({TOLERANCE:g} is allowed): nothing was written"
        )
    return parity


def _followed(parts: list[Any]) -> Iterator[Any]:
    with progress_bar("comparing", len(parts)) as bar:
        for part in parts:
            yield part
            bar.advance()


def _farthest(first: Probabilities, second: Probabilities) -> float:
    """The largest difference; infinite where one of them is no number."""
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("inf")
    return float(np.abs(first - second).max(initial=0.0))


def _other_size(i: int, image: Pixels) -> Pixels:
    """The picture enlarged or made smaller: upright, lying, square or longer than is used."""
    side = image.shape[0]
    width = max(1, round(side * (0.4, 1.7, 1.0, 2.3, 0.9)[i % 5]))
    height = max(1, round(side * (1.3, 0.6, 1.9, 1.1, 4.2, 2.7, 1.0)[i % 7]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def write_both(folder: Path, name: str, content: bytes, certificate: dict[str, Any]) -> None:
    """Write model and certificate, or neither; a certificate knows its model's SHA-256.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    finals = (folder / name, folder / "parity.json")
    temporary = [beside(final) for final in finals]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(temporary[0], content)
        write_json(temporary[1], certificate)
        for ready, final in zip(temporary, finals, strict=True):
            ready.replace(final)
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            for ready in temporary:
                ready.unlink(missing_ok=True)
            folder.rmdir()  # if there is nothing in it
