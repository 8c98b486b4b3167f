"""`evaluate`: a classifier's figures on a labelled set of pictures, each with n and interval."""

import csv
import io
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from eyebright import metrics
from eyebright.classifier import Classifier
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.errors import DataError
from eyebright.metrics import Figure

INTERVAL = "95 % (Wilson 1927; F1 through Jaccard)"


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
    tta: str = "none"
    """Test-time averaging that the figures include."""

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
        return metrics.accuracy(self.confusion)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of the true classes, in nats."""
        return metrics.log_loss(self.probabilities, self.labels)

    def per_class(self) -> dict[str, dict[str, Figure]]:
        """Recall, precision and F1 of each class."""
        return {
            name: {
                "recall": metrics.recall(self.confusion, label),
                "precision": metrics.precision(self.confusion, label),
                "f1": metrics.f1(self.confusion, label),
            }
            for label, name in enumerate(self.classes)
        }

    def to_dict(self) -> dict[str, Any]:
        """What ``test.json`` and ``val.json`` hold."""
        return {
            "split": self.split,
            "n": len(self.labels),
            "fingerprint": self.fingerprint,
            "interval": INTERVAL,
            "tta": self.tta,
            "accuracy": asdict(self.accuracy),
            "loss": self.loss,
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

    def predictions_csv(self) -> str:
        """A row a picture: id, label, prediction, probability of each class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "label", "prediction", *self.classes])
        rows = zip(self.ids, self.labels, self.predictions, self.probabilities, strict=True)
        for name, label, prediction, row in rows:
            figures = [f"{p:.7g}" for p in row]
            writer.writerow([name, self.classes[label], self.classes[prediction], *figures])
        return text.getvalue()

    def lesson_lines(self, short_names: dict[str, str] | None = None) -> list[str]:
        """The lesson's closing lines: accuracy on all pictures, then of each class.

        Args:
            short_names: how to show a class, where not by its own name.
        """
        n = len(self.labels)
        right = int(np.trace(self.confusion))
        what = "validation" if self.split == "val" else self.split
        lines = [f"Accuracy of the network on the {n} {what} images: {100 * right // n} %"]
        for name, figures in self.per_class().items():
            shorter = shown((short_names or {}).get(name, name))
            recall = figures["recall"].value
            value = "–" if recall is None else f"{100 * recall:.1f} %"
            lines.append(f"Accuracy for class: {shorter:5s} is {value}")
        return lines

    def table(self) -> Table:
        """Accuracy and each class's recall, precision and F1, with n and 95 % intervals."""
        caption = "in brackets: 95 % intervals; of: what the figure is counted over"
        if self.tta == "mirror":
            caption += "; each picture and its mirror image averaged"
        table = Table(caption=caption)
        table.add_column("class", no_wrap=True)
        for title in ("recall, %", "precision, %", "F1, %"):
            table.add_column(title, justify="right")  # may wrap, so that 80 columns are enough
        for name, figures in self.per_class().items():
            table.add_row(shown(name), *(with_n(figures[k]) for k in ("recall", "precision", "f1")))
        table.add_section()
        table.add_row("accuracy", with_n(self.accuracy), "", "")
        return table

    def __repr__(self) -> str:
        return (
            f"<{self.split}: accuracy {self.accuracy.percent()} on {len(self.labels):,} pictures"
            f"{', averaged with their mirror images' if self.tta == 'mirror' else ''}>"
        )


def with_n(figure: Figure) -> str:
    """Such as ``61.0 (60.0–62.0) of 10,000``, in percent."""
    if figure.value is None or figure.low is None or figure.high is None:
        return f"– of {figure.n:,}"
    interval = f"({100 * figure.low:.1f}–{100 * figure.high:.1f})"
    return f"{100 * figure.value:.1f} {interval} of {figure.n:,}"


def evaluate(classifier: Classifier, data: Dataset, split: str = "test") -> Evaluation:
    """Let a classifier predict a labelled set of pictures.

    Args:
        classifier: any.
        data: with the classifier's classes, in its order.
        split: what to call the set, ``test`` or ``val``.

    Raises:
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
        probabilities=classifier.predict_proba(data.images),
        fingerprint=data.fingerprint,
        tta=classifier.card.tta,
    )
