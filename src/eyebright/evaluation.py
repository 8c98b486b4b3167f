"""`evaluate`: a classifier's figures on a labelled set of pictures, each with n and interval."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright import metrics
from eyebright.calibration import Promises, make_promises, softmax
from eyebright.classifier import Classifier
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.errors import DataError, UsageError
from eyebright.files import write_file, write_json
from eyebright.metrics import Figure
from eyebright.robustness import Robustness

INTERVALS = {
    "wilson": "95 %; proportions: Wilson 1927 (F1 through Jaccard)",
    "exact": "95 %; proportions: Clopper & Pearson 1934 (F1 through Jaccard)",
}
OTHERS = (
    "balanced accuracy: from the classes' intervals (Zou & Donner 2008); log loss and Brier score: "
    "bias-corrected bootstrap (Efron 1987)"
)
TOP = 5
FAR = 0.2  # a class whose recall is so far below the accuracy is hidden by it


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said of pictures whose classes are known."""

    split: str
    """``val`` or ``test``."""
    classes: tuple[str, ...]
    ids: list[int | str]
    labels: NDArray[np.int64]
    """True classes, of shape (n,)."""
    probabilities: NDArray[np.float64]
    """Of shape (n, classes)."""
    fingerprint: str
    """Of the pictures and labels."""
    data: str = ""
    """What the data are called."""
    tta: str = "none"
    """Test-time averaging that the figures include."""
    temperature: float | None = None
    """That the probabilities were calibrated with; None: they are uncalibrated."""
    interval: str = "wilson"
    """Of proportions: a key of `eyebright.metrics.INTERVALS`."""

    promises: Promises = field(default_factory=Promises)
    """What pictures held out promised of answers and sets of classes."""
    leaks: int | None = None
    """How many of them it was also trained on, pixel for pixel; None: unknown."""
    robustness: Robustness | None = None
    """On changed pictures; None: it was not asked for."""
    decided: dict[str, Any] | None = None
    """The table of decisions that was applied to these pictures for it; None: none was."""
    weights_sha256: str = ""
    """Of the model's file of weights; empty: not known."""

    def __post_init__(self) -> None:
        """Refuse an unknown interval, as `check_interval` does."""
        check_interval(self.interval)

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """The likeliest class of each picture, of shape (n,)."""
        likeliest: NDArray[np.int64] = self.probabilities.argmax(1)
        return likeliest

    @cached_property
    def confusion(self) -> metrics.Counts:
        """Counts (classes, classes): rows are the true classes, columns the predicted ones."""
        return metrics.confusion_matrix(self.labels, self.predictions, len(self.classes))

    @property
    def accuracy(self) -> Figure:
        """Share of all pictures that are predicted right."""
        return metrics.accuracy(self.confusion, self.interval)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each picture is predicted right, of shape (n,)."""
        right: NDArray[np.bool_] = self.predictions == self.labels
        return right

    @cached_property
    def confidences(self) -> metrics.Floats:
        """Probability of the class that each picture is predicted as, of shape (n,)."""
        highest: metrics.Floats = self.probabilities.max(1)
        return highest

    @cached_property
    def uncalibrated(self) -> metrics.Floats:
        """The probabilities as they were before the temperature, of shape (n, classes)."""
        tiny = np.finfo(np.float64).tiny
        return softmax(np.log(np.maximum(self.probabilities, tiny)), 1 / (self.temperature or 1.0))

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Every figure of the whole set, by its name."""
        mistakes = int((~self.right).sum())
        found = {
            "accuracy": self.accuracy,
            "balanced accuracy": metrics.balanced_accuracy_figure(self.confusion, self.interval),
        }
        if len(self.classes) > TOP:
            found[f"top-{TOP} accuracy"] = metrics.top_k(
                self.probabilities, self.labels, TOP, self.interval
            )
        found |= {
            "log loss": metrics.mean_figure(
                metrics.log_losses(self.probabilities, self.labels), mistakes
            ),
            "Brier score": metrics.mean_figure(
                metrics.brier_scores(self.probabilities, self.labels), mistakes
            ),
            "calibration error": metrics.calibration_error(self.confidences, self.right),
        }
        if self.temperature not in (None, 1.0):
            found["calibration error before temperature"] = metrics.calibration_error(
                self.uncalibrated.max(1), self.right
            )
        return found

    def promise(self, risk: float | None = None, coverage: float | None = None) -> Promises:
        """What these pictures, if they were held out of training, promise of new ones.

        Args:
            risk: share of errors among the answers that is not to be passed.
            coverage: share of pictures whose set of classes is to hold the true one.

        Raises:
            UsageError: no such share, or none that can be promised here.
        """
        return make_promises(self.probabilities, self.labels, risk, coverage)

    def answered(self) -> tuple[Figure, Figure]:
        """How the promise of answers fared here: share answered, and share right of those."""
        assert self.promises.answers is not None, "asked for"
        answered = self.promises.answers.is_sure(self.confidences)
        right = int(self.right[answered].sum())
        return (
            metrics.proportion(int(answered.sum()), len(answered), self.interval),
            metrics.proportion(right, int(answered.sum()), self.interval),
        )

    def set_figures(self) -> tuple[Figure, Figure, Figure]:
        """How sets fared here: share that hold the true class, share empty, mean size."""
        assert self.promises.sets is not None, "asked for"
        sets = self.promises.sets.holds(self.probabilities)
        n = len(sets)
        held = int(sets[np.arange(n), self.labels].sum())
        empty = int((~sets.any(1)).sum())
        return (
            metrics.proportion(held, n, self.interval),
            metrics.proportion(empty, n, self.interval),
            metrics.mean_figure(sets.sum(1).astype(np.float64)),
        )

    def per_class(self) -> dict[str, dict[str, Figure]]:
        """Recall, precision and F1 of each class."""
        return {
            name: {
                "recall": metrics.recall(self.confusion, label, self.interval),
                "precision": metrics.precision(self.confusion, label, self.interval),
                "f1": metrics.f1(self.confusion, label, self.interval),
            }
            for label, name in enumerate(self.classes)
        }

    def hidden_classes(self) -> list[tuple[str, Figure]]:
        """Classes, with their recall, that are surely found far less often than all are."""
        average = self.accuracy.value or 0.0
        return [
            (name, figures["recall"])
            for name, figures in self.per_class().items()
            if (high := figures["recall"].high) is not None and high < average - FAR
        ]

    def has_other_shares(self, counts: Mapping[str, int]) -> bool:
        """Whether these pictures have other shares of classes, as `metrics.shares_differ` sees it.

        Args:
            counts: pictures of each class by its name, such as those trained on.
        """
        given = np.array([counts.get(name, 0) for name in self.classes])
        return metrics.shares_differ(given, self.confusion.sum(1))

    def _promises(self) -> dict[str, Any]:
        # Those held out gave the promise: how it turns out is only seen on others.
        found: dict[str, Any] = {}
        if given := self.promises.answers:
            found["promise"] = asdict(given) | {"confidence": 0.95}
            if self.split == "test":
                answered, right = self.answered()
                found["promise"]["answered_here"] = asdict(answered)
                found["promise"]["right_of_those_here"] = asdict(right)
        if rule := self.promises.sets:
            found["sets"] = asdict(rule)
            if self.split == "test":
                held, empty, size = self.set_figures()
                found["sets"]["hold_the_true_class_here"] = asdict(held)
                found["sets"]["empty_here"] = asdict(empty)
                found["sets"]["mean_size_here"] = asdict(size)
        return found

    def to_dict(self) -> dict[str, Any]:
        """What ``test.json`` and ``val.json`` hold."""
        return self._promises() | {
            "split": self.split,
            "n": len(self.labels),
            "data": self.data,
            "fingerprint": self.fingerprint,
            "interval": f"{INTERVALS[self.interval]}; {OTHERS}",
            "interval_kind": self.interval,
            "tta": self.tta,
            "temperature": self.temperature,
            "weights_sha256": self.weights_sha256,
            "leaks": self.leaks,
            "labels": self.decided,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "classes": {
                name: {key: asdict(figure) for key, figure in figures.items()}
                for name, figures in self.per_class().items()
            },
            "confusion": {
                "rows": "true class",
                "columns": "predicted class",
                "classes": list(self.classes),
                "counts": self.confusion.tolist(),
            },
        }

    def write(self, folder: Path) -> None:
        """Write ``<split>.json``, ``predictions-<split>.csv`` and perhaps ``shift.json``."""
        write_json(folder / f"{self.split}.json", self.to_dict())
        text = self.predictions_csv().encode("utf-8", "backslashreplace")
        write_file(folder / f"predictions-{self.split}.csv", text)
        if self.robustness:
            self.robustness.write(folder)

    def predictions_csv(self) -> str:
        """A row a picture: id, label, prediction, probability of each class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180: a name may hold either
        writer.writerow(["id", "label", "prediction", *self.classes])
        rows = zip(self.ids, self.labels, self.predictions, self.probabilities, strict=True)
        for name, label, prediction, row in rows:
            # In full, because promises have their thresholds from here.
            figures = map(repr, row.tolist())
            writer.writerow([name, self.classes[label], self.classes[prediction], *figures])
        return text.getvalue()

    def __repr__(self) -> str:
        return (
            f"<{self.split}: accuracy {self.accuracy.percent()} on {len(self.labels):,} pictures"
            f"{', averaged with their mirror images' if self.tta == 'mirror' else ''}>"
        )


def check_interval(name: str) -> None:
    """See that there is such an interval.

    Raises:
        UsageError: it is none of `INTERVALS`.
    """
    if name not in INTERVALS:
        choices = ", ".join(INTERVALS)
        raise UsageError(f"--interval cannot be '{name}'; choose one of: {choices}")


def evaluate(
    classifier: Classifier, data: Dataset, split: str = "test", interval: str = "wilson"
) -> Evaluation:
    """Let a classifier predict a labelled set of pictures.

    Args:
        classifier: any.
        data: with the classifier's classes, in its order.
        split: what to call the set, ``test`` or ``val``.
        interval: of proportions: ``wilson`` or ``exact``.

    Raises:
        UsageError: an unknown interval.
        DataError: no pictures, or other classes than the classifier's.
    """
    if data.classes != classifier.classes:
        raise DataError(
            f"{data.name}: its classes ({', '.join(map(shown, data.classes))}) are not the "
            f"model's ({', '.join(map(shown, classifier.classes))})"
        )
    if not len(data):
        raise DataError(f"{data.name}: no pictures to evaluate")
    data = data.resized(classifier.card.imgsz)
    return Evaluation(
        split=split,
        classes=classifier.classes,
        ids=data.ids,
        labels=data.labels,
        probabilities=classifier.predict_proba(data.pixels),
        fingerprint=data.fingerprint,
        data=data.name,
        tta=classifier.card.tta,
        temperature=classifier.card.temperature,
        interval=interval,
        weights_sha256=classifier.card.weights_sha256,
    )
