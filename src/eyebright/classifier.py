"""`Classifier`: pictures in, probabilities out. Everything that follows training uses it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eyebright.batches import predict_logits
from eyebright.calibration import Promises, softmax
from eyebright.checkpoint import ModelCard, check_run_folder, load_model
from eyebright.console import notices, progress_bar, shown
from eyebright.data.views import View
from eyebright.errors import DataError
from eyebright.features import compute_features
from eyebright.images import Pixels, read_bytes, read_header, read_image
from eyebright.runtime import choose_device, exact_fp32, explained

Picture = str | os.PathLike[str] | bytes | Pixels
PART = 256  # picture files that are in memory at once
FEWER = "name fewer pictures, or another --device"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture."""

    label: str
    """The likeliest class."""
    probability: float
    """Of that class."""
    probabilities: dict[str, float]
    """Of every class, the likeliest first; uncalibrated where the model's card says so."""

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities."""
        return list(self.probabilities.items())[:count]

    def answers(self, promises: Promises) -> dict[str, Any]:
        """What of it is sure enough, as far as anything was promised.

        Returns:
            ``answer``, a class or None for "not sure"; ``set``, classes, none of them the same.
        """
        found: dict[str, Any] = {}
        if given := promises.answers:
            found["answer"] = self.label if given.is_sure(self.probability) else None
        if rule := promises.sets:
            found["set"] = [label for label, p in self.probabilities.items() if rule.holds(p)]
        return found


class Classifier:
    """A trained net with everything it takes to use it.

    Args:
        model: the net.
        card: its classes, picture size and normalisation.
        device: where to run; ``auto`` takes a GPU if there is one.
    """

    def __init__(self, model: nn.Module, card: ModelCard, device: str = "auto"):
        exact_fp32()
        self.model = model.to(choose_device(device)).eval()
        self.card = card
        self._animations = 0

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        model: nn.Module | None = None,
        device: str = "auto",
    ) -> "Classifier":
        """The model of a run.

        Args:
            run: a run folder.
            model: the net to load the weights into, where it was your own.
            device: as above.

        Raises:
            ModelError: no such folder, no run, or damaged files.
        """
        folder = Path(run)
        check_run_folder(folder)
        return cls(*load_model(folder, model), device)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.model.parameters(), torch.empty(0)).device

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the columns of `predict_proba`."""
        return self.card.classes

    def predict_proba(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float64]:
        """Probability of each class for each picture, from logits in fp32.

        They are calibrated if the card has a temperature.

        Args:
            pictures: paths, encoded bytes or uint8 RGB pixels, mixed as you like; or one uint8
                array (n, height, width, 3), or `View` of one.

        Returns:
            float64 (n, classes); each row sums to 1.

        Raises:
            DataError: a picture that cannot be read; the message names it.
        """
        images = self._ready(pictures)
        with explained(lambda: FEWER):
            logits = predict_logits(self.model, images, self.card.normalization, self.card.tta)
        return softmax(logits.numpy(), self.card.temperature or 1.0)

    def embed(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float32]:
        """What the net's last layer sees of each picture, to search or to cluster by.

        Takes and raises what `predict_proba` does.

        Returns:
            float32 (n, width), from which the last layer makes the logits; where predictions are
            averaged with mirror images, so are these.

        Raises:
            UsageError: the net has no linear last layer.
        """
        images = self._ready(pictures)
        with explained(lambda: FEWER):
            return compute_features(self.model, images, self.card.normalization, self.card.tta)

    def predict(self, pictures: Sequence[Picture] | Pixels | View) -> list[Prediction]:
        """The likeliest class of each picture, with all probabilities.

        Takes and raises what `predict_proba` does.
        """
        return [self.prediction_of(row) for row in self.predict_proba(pictures)]

    def prediction_of(self, probabilities: NDArray[np.float64]) -> Prediction:
        """A row of `predict_proba` with the names of its classes."""
        order = np.argsort(-probabilities, kind="stable")
        ranked = {self.classes[i]: float(probabilities[i]) for i in order}
        return Prediction(self.classes[order[0]], float(probabilities[order[0]]), ranked)

    def _ready(self, pictures: Sequence[Picture] | Pixels | View) -> Pixels | View:
        """Pictures as the net takes them, uint8 (n, imgsz, imgsz, 3)."""
        size = self.card.imgsz
        if isinstance(pictures, str | bytes | os.PathLike):
            raise DataError("a list of pictures is needed: put [ ] around a single one")
        if not len(pictures):
            return np.empty((0, size, size, 3), np.uint8)
        if isinstance(pictures, View) and pictures.shape[1:] == (size, size, 3):
            return pictures
        ready = isinstance(pictures, np.ndarray) and pictures.shape[1:] == (size, size, 3)
        if ready and pictures.dtype == np.uint8:  # type: ignore[union-attr]
            return pictures  # type: ignore[return-value]
        self._animations = 0
        images = np.stack([self._read(i, picture) for i, picture in enumerate(pictures)])
        if self._animations:
            notices.warning("%d animations: the first frame of each is used", self._animations)
        return images

    def _read(self, position: int, picture: Picture) -> Pixels:
        try:
            if isinstance(picture, np.ndarray):
                return read_image(picture, self.card.imgsz)
            content = picture if isinstance(picture, bytes) else read_bytes(picture)
            self._animations += read_header(content).animated
            return read_image(content, self.card.imgsz)
        except DataError as error:
            named = isinstance(picture, str | os.PathLike)
            name = shown(picture) if named else f"picture {position}"
            raise DataError(f"{name}: {error}") from None


def in_parts(title: str, paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """Picture files, a few at a time, so that few are in memory at once; with a progress bar."""
    with progress_bar(title, len(paths)) as bar:
        for start in range(0, len(paths), PART):
            part = paths[start : start + PART]
            yield part
            bar.advance(len(part))
