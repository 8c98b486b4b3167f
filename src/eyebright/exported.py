"""`ExportedClassifier`: an exported model, used through onnxruntime. No torch.

All that `Classifier` knows beside its weights lies in the file's metadata, as JSON. A file knows
its own SHA-256, counted with zeros in that sum's place, so that damage is found before it is used.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.answers import MOST_CLASSES, Picture, Prediction, check_claims, prediction_of
from eyebright.answers import ready_pixels as ready
from eyebright.calibration import Promise, Promises, SetRule
from eyebright.console import shown
from eyebright.data.views import View
from eyebright.errors import ModelError, StorageError, UsageError, install_command
from eyebright.files import MOST_JSON, count, number, parse_json, read_within
from eyebright.images import Pixels
from eyebright.machine import available_cores
from eyebright.onnx_file import MOST_BYTES, read_metadata

FORMAT = 1
CARD, SUM = "eyebright", "eyebright_sha256"  # names of the metadata
NO_SUM = "0" * 64
AT_ONCE = 64  # pictures that go through the graph together
PIXELS, PICTURE = "pixels", "picture"  # what a graph takes
SHA256 = re.compile("[0-9a-f]{64}")
OUT_OF_MEMORY = re.compile(r"allocat|out of memory", re.I)


@dataclass(frozen=True)
class ExportedCard:
    """What the metadata of an exported model hold."""

    classes: tuple[str, ...]
    imgsz: int
    """Side of the pictures that the net takes, in pixels."""
    input: str
    """``pixels``: uint8 (n, imgsz, imgsz, 3); ``picture``: uint8 (height, width, 3), any size."""
    policy: str
    tta: str
    temperature: float | None
    architecture: str
    weights_sha256: str
    """Of the run's file of weights."""
    int8: bool = False
    promises: Promises = field(default_factory=Promises)
    """What the pictures held out promise of answers and sets of classes."""
    format: int = FORMAT

    def to_json(self) -> str:
        """As it stands in the metadata."""
        return json.dumps(asdict(self), allow_nan=False)


def read_card(text: str, name: str) -> ExportedCard:
    """Check what metadata say.

    Args:
        text: of the entry ``CARD``.
        name: of the file, for messages.

    Raises:
        ModelError: of a later format, or not what a card must hold.
    """
    try:
        if len(text) > MOST_JSON:
            raise ValueError(f"more than {MOST_JSON:,} characters")
        content = parse_json(text)
        if (known := content.get("format")) != FORMAT:
            raise ModelError(
                f"{name}: format {shown(repr(known)[:20])}; this eyebright reads {FORMAT}"
            )
        if content.keys() != {one.name for one in fields(ExportedCard)}:
            raise ValueError("other entries")
        texts = [content[key] for key in ("policy", "tta", "architecture", "weights_sha256")]
        classes = content["classes"]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in [*texts, *classes]):
            raise ValueError("an entry of another type")
        if not 1 <= len(set(classes)) == len(classes) <= MOST_CLASSES:
            raise ValueError("classes")
        if content["input"] not in (PIXELS, PICTURE) or type(content["int8"]) is not bool:
            raise ValueError("input or int8")
        if content["temperature"] is not None:
            number(content["temperature"])
        card = ExportedCard(**content)
        card = replace(card, classes=tuple(classes), imgsz=count(content["imgsz"]))
        card = replace(card, promises=_promises(content["promises"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{name}: no model card in it ({shown(error)[:200]})") from None
    check_claims(name, card)
    return card


def _promises(content: Any) -> Promises:
    answers, sets = content["answers"], content["sets"]
    if answers is not None:
        risk, threshold, share = (_share(answers[k]) for k in ("risk", "threshold", "answered"))
        answers = Promise(risk, threshold, share, count(answers["n"]))
    if sets is not None:
        sets = SetRule(_share(sets["coverage"]), _share(sets["threshold"]))
    return Promises(answers, sets)


def _share(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError("a promise that is no share")
    return float(value)


def seal(content: bytes) -> bytes:
    """A model whose metadata have `NO_SUM` for its sum, with the sum.

    Raises:
        ValueError: the place of the sum is not there once.
    """
    if content.count(NO_SUM.encode()) != 1:
        raise ValueError("no place for a sum")
    return content.replace(NO_SUM.encode(), hashlib.sha256(content).hexdigest().encode())


class ExportedClassifier:
    """An exported model, with what `Classifier` has to predict with.

    Args:
        content: of the file.
        name: what to call it in messages.
        threads: that compute; 0: one a core that this process may use.

    Raises:
        ModelError: damaged, not made by ``eyebright export``, or not to be trusted.
        UsageError: onnxruntime is not installed.
    """

    def __init__(self, content: bytes, name: str = "model.onnx", threads: int = 0):
        ort = load_onnxruntime()
        self.name = name
        self.card = _check(content, name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.log_severity_level = 4  # what is wrong comes as an exception
        # Pictures are decoded between two batches; threads that spin would take their cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = ort.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen classes for it
            raise _explained(name, "no graph that can be run", error) from None
        self._check_graph()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str = "auto", threads: int = 0
    ) -> "ExportedClassifier":
        """The model of a file.

        Args:
            path: an ONNX file that ``eyebright export`` wrote.
            device: ``auto`` or ``cpu``.
            threads: as above.

        Raises:
            ModelError: as above.
            UsageError: another device, or onnxruntime is not installed.
        """
        if device not in ("auto", "cpu"):
            raise UsageError(
                f"an ONNX file runs on the processor here (--device cpu), not on '{device}'"
            )
        load_onnxruntime()
        try:
            content = read_within(Path(path), MOST_BYTES)
        except (OSError, ValueError) as error:
            raise ModelError(f"{shown(path)}: unreadable ({error})") from None
        return cls(content, shown(path), threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the columns of `predict_proba`."""
        return self.card.classes

    @property
    def leaves_cores_free(self) -> bool:
        """Whether pictures can be decoded meanwhile."""
        return False

    def predict_proba(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float64]:
        """Probability of each class for each picture, as `Classifier.predict_proba`.

        Raises:
            DataError: a picture that cannot be read; the message names it.
            ModelError: what the graph gives are no probabilities.
            StorageError: memory ran out.
        """
        images = ready(pictures, self.card.imgsz)
        if self.card.input == PICTURE:
            parts = [self.of_picture(image) for image in images]
        else:
            starts = range(0, len(images), AT_ONCE)
            parts = [self._run(images[at : at + AT_ONCE]) for at in starts]
        return np.concatenate([np.empty((0, len(self.classes))), *parts])

    def of_picture(self, pixels: Pixels) -> NDArray[np.float64]:
        """Probabilities (1, classes) of a picture that the graph itself resizes.

        Args:
            pixels: uint8 RGB (height, width, 3), of any size.
        """
        assert self.card.input == PICTURE, "its graph takes pictures of one size"
        return self._run(pixels)

    def predict(self, pictures: Sequence[Picture] | Pixels | View) -> list[Prediction]:
        """The likeliest class of each picture, with all probabilities."""
        return [self.prediction_of(row) for row in self.predict_proba(pictures)]

    def prediction_of(self, probabilities: NDArray[np.float64]) -> Prediction:
        """A row of `predict_proba` with the names of its classes."""
        return prediction_of(self.classes, probabilities)

    def promises(self, risk: float | None = None, coverage: float | None = None) -> Promises:
        """When to answer, and with which set of classes: what was promised when it was exported.

        Raises:
            UsageError: another promise than those that it carries.
        """
        there = self.card.promises
        for option, asked, given in (
            ("--risk", risk, there.answers and there.answers.risk),
            ("--coverage", coverage, there.sets and there.sets.coverage),
        ):
            if asked is not None and asked != given:
                what = "no such promise" if given is None else f"{option} {given:g} alone"
                raise UsageError(
                    f"{self.name} carries {what}; for {option} {asked:g} name the run folder"
                )
        return Promises(
            None if risk is None else there.answers, None if coverage is None else there.sets
        )

    def _run(self, pixels: Pixels) -> NDArray[np.float64]:
        [taken] = self.session.get_inputs()
        try:
            [given] = self.session.run(None, {taken.name: np.ascontiguousarray(pixels)})
        except Exception as error:
            raise _explained(self.name, "it cannot be run", error) from None
        found: NDArray[np.float64] = np.asarray(given, np.float64)
        n = 1 if self.card.input == PICTURE else len(pixels)
        right_shape = found.shape == (n, len(self.classes))
        # A comparison with NaN is false.
        if (
            not right_shape
            or not ((found >= 0) & (abs(found.sum(1, keepdims=True) - 1) < 1e-3)).all()
        ):
            raise ModelError(f"{self.name}: what it gives are no probabilities")
        found /= found.sum(1, keepdims=True)
        return found

    def _check_graph(self) -> None:
        """See that the graph takes and gives what its card says."""
        taken, given = self.session.get_inputs(), self.session.get_outputs()
        size = [3] if self.card.input == PICTURE else [self.card.imgsz, self.card.imgsz, 3]
        if (
            [one.type for one in (*taken, *given)] != ["tensor(uint8)", "tensor(float)"]
            or len(taken[0].shape) != (3 if self.card.input == PICTURE else 4)
            or taken[0].shape[-len(size) :] != size
            or len(given[0].shape) != 2
            or given[0].shape[1] != len(self.classes)
        ):
            raise ModelError(f"{self.name}: its graph is not what its metadata say")


def load_onnxruntime() -> Any:
    """The package, which is to keep to itself what it sees.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or it reports to its maker's servers
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            f"ONNX files are run by onnxruntime: {install_command('export')}"
        ) from None
    return onnxruntime


def _check(content: bytes, name: str) -> ExportedCard:
    """The card of a file that is whole and has nothing in it that we do not write."""
    try:
        metadata = read_metadata(content)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from None
    if CARD not in metadata or not SHA256.fullmatch(own := metadata.get(SUM, "")):
        raise ModelError(f"{name}: not written by eyebright export")
    known = own.encode()
    blank = content.replace(known, NO_SUM.encode())
    if content.count(known) != 1 or hashlib.sha256(blank).hexdigest() != own:
        raise ModelError(f"{name}: damaged, or changed since it was written (SHA-256)")
    return read_card(metadata[CARD], name)


def _explained(name: str, what: str, error: Exception) -> ModelError | StorageError:
    said = shown(" ".join(str(error).split()))[:300]
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(said):
        return StorageError(f"{name}: out of memory; name fewer pictures, or smaller ones")
    return ModelError(f"{name}: {what} ({said})")
