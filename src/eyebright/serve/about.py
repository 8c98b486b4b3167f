"""What the server says of its model: settings, measured accuracy, what it is weak at."""

import contextlib
from dataclasses import asdict
from typing import Any

import numpy as np

from eyebright.calibration import USUAL_RISK, Promises
from eyebright.classifier import Classifier
from eyebright.console import shown
from eyebright.errors import EyebrightError, ModelError, UsageError
from eyebright.evaluation import Evaluation
from eyebright.metrics import Figure
from eyebright.records import read_evaluation
from eyebright.run import Run

NAMED = 3  # classes and mistakes


def usual_promises(run: Run, risk: float | None, coverage: float | None) -> Promises:
    """What is asked for; where nobody asks, "not sure" as far as the pictures held out allow.

    Raises:
        UsageError: what was asked for cannot be promised.
    """
    if risk is not None or coverage is not None:
        return run.promises(risk, coverage)
    try:
        return run.promises(USUAL_RISK)
    except (UsageError, ModelError):
        return Promises()


def describe(run: Run, classifier: Classifier, promises: Promises) -> dict[str, Any]:
    """The answer to ``GET /model``; no paths in it.

    Args:
        run: the run served.
        classifier: its model.
        promises: what its answers keep.
    """
    card = classifier.card
    evaluation = newest_evaluation(run)
    return {
        "name": shown(run.path.resolve().name),
        "architecture": shown(card.architecture),
        "recipe": card.recipe,
        "imgsz": card.imgsz,
        "classes": list(card.classes),
        "calibrated": card.temperature is not None,
        "temperature": card.temperature,
        "tta": card.tta,
        "weights_sha256": card.weights_sha256,
        "promise": asdict(promises.answers) if promises.answers else None,
        "evaluation": None if evaluation is None else summary(evaluation),
    }


def newest_evaluation(run: Run) -> Evaluation | None:
    """Of the test set if it was opened, else of the pictures held out; None where there is none."""
    for split in ("test", "val"):
        with contextlib.suppress(EyebrightError):
            return read_evaluation(run.path, split)
    return None


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy with its interval, the weakest classes, the commonest mistakes."""
    recalls = {name: figures["recall"] for name, figures in evaluation.per_class().items()}
    known = [(name, figure) for name, figure in recalls.items() if figure.value is not None]
    known.sort(key=lambda pair: pair[1].value or 0.0)
    confusion = evaluation.confusion.copy()
    totals = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:NAMED]
    pairs = [divmod(int(place), len(totals)) for place in order]
    names = evaluation.classes
    return {
        "split": evaluation.split,
        "n": len(evaluation.labels),
        "accuracy": as_dict(evaluation.accuracy),
        "trained_on_too": evaluation.leaks,
        "weakest": [
            {"class": name, "recall": as_dict(figure), "n": figure.n}
            for name, figure in known[:NAMED]
        ],
        "confused": [
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": int(confusion[true, predicted]),
                "of": int(totals[true]),
            }
            for true, predicted in pairs
            if confusion[true, predicted]
        ],
    }


def as_dict(figure: Figure) -> dict[str, float | None]:
    """Value and 95 % interval."""
    return {"value": figure.value, "low": figure.low, "high": figure.high}
