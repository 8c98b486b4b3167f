"""`ExportedClassifier`: an exported model, used through onnxruntime. No torch."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.answers import Picture, Predictor
from eyebright.answers import ready_pixels as ready
from eyebright.calibration import Promises
from eyebright.console import shown
from eyebright.data.views import View
from eyebright.errors import ModelError, StorageError, UsageError, install_command
from eyebright.exported_card import PICTURE, ExportedCard, card_of
from eyebright.files import read_within
from eyebright.images import Pixels
from eyebright.machine import available_cores
from eyebright.onnx_file import MOST_BYTES

AT_ONCE = 64  # pictures that go through the graph together
OUT_OF_MEMORY = re.compile(r"allocat|out of memory", re.I)


class ExportedClassifier(Predictor):
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
        self.card: ExportedCard = card_of(content, name)
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


def _explained(name: str, what: str, error: Exception) -> ModelError | StorageError:
    said = shown(" ".join(str(error).split()))[:300]
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(said):
        return StorageError(f"{name}: out of memory; name fewer pictures, or smaller ones")
    return ModelError(f"{name}: {what} ({said})")
