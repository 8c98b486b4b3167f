"""What goes into a model and what comes out, whatever computes in between. No torch."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from eyebright.calibration import Promises
from eyebright.console import as_text, counted, notices, shown
from eyebright.data.views import View
from eyebright.errors import DataError, ModelError
from eyebright.images import POLICY, Pixels, read_bytes, read_header, read_image

Picture = str | os.PathLike[str] | bytes | Pixels
MOST_SHOWN = 200  # predictions in the terminal
MOST_CLASSES = 100_000
NOT_SURE = "not sure"


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


def prediction_of(classes: Sequence[str], probabilities: NDArray[np.float64]) -> Prediction:
    """A row of `Predictor.predict_proba` with the names of its classes."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = {classes[i]: float(probabilities[i]) for i in order}
    return Prediction(classes[order[0]], float(probabilities[order[0]]), ranked)


class Card(Protocol):
    """What is to be known of a model beside its net."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the columns of probabilities."""

    @property
    def imgsz(self) -> int:
        """Side of the pictures that the net takes, in pixels."""

    @property
    def temperature(self) -> float | None:
        """None: its probabilities are uncalibrated."""

    @property
    def tta(self) -> str:
        """Test-time averaging, part of every prediction: ``none`` or ``mirror``."""

    @property
    def policy(self) -> str:
        """How pictures are resized."""


def check_claims(name: str, card: Card) -> None:
    """See that a card asks for nothing that is out of range or unknown.

    Args:
        name: of its file, for messages.
        card: whose entries have the right types.

    Raises:
        ModelError: it does.
    """
    if not 4 <= card.imgsz <= 4096:
        raise ModelError(f"{name}: pictures of {card.imgsz} px are out of range")
    if card.policy != POLICY:
        raise ModelError(f"{name}: an unknown way to resize pictures: {shown(card.policy)[:200]}")
    if card.tta not in ("none", "mirror"):
        raise ModelError(f"{name}: unknown test-time averaging: {shown(card.tta)[:200]}")
    if card.temperature is not None and not 1e-3 <= card.temperature <= 1e3:
        raise ModelError(f"{name}: a temperature of {card.temperature} is out of range")


class Predictor(ABC):
    """A model that is ready to predict: `Classifier`, or an exported one."""

    card: Card
    """What is to be known of it."""

    @property
    def leaves_cores_free(self) -> bool:
        """Whether pictures can be decoded meanwhile: it runs elsewhere than on the processor."""
        return False

    @abstractmethod
    def predict_proba(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float64]:
        """Probabilities (n, classes) of pictures: whatever `ready_pixels` takes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the columns of `predict_proba`."""
        return self.card.classes

    def predict(self, pictures: Sequence[Picture] | Pixels | View) -> list[Prediction]:
        """The likeliest class of each picture, with all probabilities.

        Takes and raises what `predict_proba` does.
        """
        return [prediction_of(self.classes, row) for row in self.predict_proba(pictures)]


def ready_pixels(pictures: Sequence[Picture] | Pixels | View, imgsz: int) -> Pixels | View:
    """Pictures as a net takes them, uint8 (n, imgsz, imgsz, 3).

    Args:
        pictures: paths, encoded bytes or uint8 RGB pixels, mixed as you like; or one uint8 array
            (n, height, width, 3), or `View` of one.
        imgsz: side of the square, in pixels.

    Raises:
        DataError: a picture that cannot be read; the message names it.
    """
    if isinstance(pictures, str | bytes | os.PathLike):
        raise DataError("a list of pictures is needed: put [ ] around a single one")
    if not len(pictures):
        return np.empty((0, imgsz, imgsz, 3), np.uint8)
    if isinstance(pictures, View) and pictures.shape[1:] == (imgsz, imgsz, 3):
        return pictures
    ready = isinstance(pictures, np.ndarray) and pictures.shape[1:] == (imgsz, imgsz, 3)
    if ready and pictures.dtype == np.uint8:  # type: ignore[union-attr]
        return pictures  # type: ignore[return-value]
    read = [_read(i, picture, imgsz) for i, picture in enumerate(pictures)]
    if animations := sum(animated for _, animated in read):
        notices.warning("%s: the first frame of each is used", counted(animations, "animation"))
    return np.stack([pixels for pixels, _ in read])


def _read(position: int, picture: Picture, imgsz: int) -> tuple[Pixels, bool]:
    """A picture, and whether it is an animation."""
    try:
        if isinstance(picture, np.ndarray):
            return read_image(picture, imgsz), False
        content = picture if isinstance(picture, bytes) else read_bytes(picture)
        animated = read_header(content).animated
        return read_image(content, imgsz), animated
    except DataError as error:
        named = isinstance(picture, str | os.PathLike)
        name = shown(picture) if named else f"picture {position}"
        raise DataError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Outcome:
    """What became of one picture file."""

    picture: Path
    prediction: Prediction | None
    """None where it cannot be read."""
    error: str = ""
    """Why it cannot be read."""

    def row(self, top: int, promises: Promises) -> dict[str, Any]:
        """As a row of a table, the same columns for every picture.

        Args:
            top: how many of the likeliest classes to name.
            promises: what answers and sets are to keep.
        """
        named = [] if self.prediction is None else self.prediction.top(top)
        row: dict[str, Any] = {"picture": as_text(self.picture)}
        for i in range(top):
            label, probability = named[i] if i < len(named) else (None, None)
            number = f"_{i + 1}" if i else ""
            row |= {f"label{number}": label, f"probability{number}": probability}
        if promises.answers:
            row["answer"] = None
        if promises.sets:
            row["set"] = None
        if self.prediction is not None:
            row |= self.prediction.answers(promises)
        return row | {"error": self.error or None}


def predictions_table(
    outcomes: Iterable[Outcome], card: Card, top: int, promises: Promises
) -> Table:
    """The first `MOST_SHOWN` predictions, with what is to be known of their probabilities.

    Args:
        outcomes: all of them are taken.
        card: the model's.
        top: how many of the likeliest classes to name.
        promises: what answers and sets are to keep.
    """
    titles = ["answer"] * bool(promises.answers) + ["set"] * bool(promises.sets)
    table = Table("picture", "likeliest", *["then"] * (top - 1), *titles)
    n = 0
    for n, one in enumerate(outcomes, 1):
        if n > MOST_SHOWN:
            continue
        if one.prediction is None:
            table.add_row(shown(one.picture), f"unreadable: {one.error}")
            continue
        cells = [f"{shown(label)} {100 * p:.1f} %" for label, p in one.prediction.top(top)]
        cells += [""] * (top - len(cells))
        answers = one.prediction.answers(promises).values()
        table.add_row(shown(one.picture), *cells, *map(in_words, answers))
    notes = [f"and {n - MOST_SHOWN:,} more: --out FILE.csv writes all"] * (n > MOST_SHOWN)
    notes += ["probabilities are uncalibrated"] * (card.temperature is None)
    notes += ["each picture and its mirror image averaged"] * (card.tta == "mirror")
    table.caption = "; ".join(notes) or None
    return table


def in_words(answer: str | list[str] | None) -> str:
    """An answer or a set of classes; neither is "not sure"."""
    if not answer:
        return NOT_SURE
    return shown(answer) if isinstance(answer, str) else ", ".join(map(shown, answer))
