"""`Run`: the folder ``runs/<name>/`` and what one can do with it."""

import csv
import json
import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eyebright.checkpoint import ModelCard, append_line, load_card, write_file, write_json
from eyebright.classifier import Classifier
from eyebright.config import TrainConfig
from eyebright.console import shown
from eyebright.data import Dataset, load
from eyebright.data.cifar import CLASSES as CIFAR10_CLASSES
from eyebright.data.cifar import official_copy
from eyebright.data.folders import find_parts
from eyebright.data.sources import NAMES, MissingPartError
from eyebright.errors import DataError, ModelError, UsageError
from eyebright.evaluation import Evaluation, evaluate

MOST_SAMPLED = 64  # pictures of the test part that may be looked at without opening it
# The lesson's names, for display only.
LESSON_NAMES = {"airplane": "plane", "automobile": "car"}


class Run:
    """A run folder: settings, data, log, model and figures of one training.

    Args:
        path: the folder.
        model: the net to load the weights into, where it was your own.

    Raises:
        ModelError: no such folder, or no run in it.
    """

    def __init__(self, path: str | os.PathLike[str], model: nn.Module | None = None):
        self.path = Path(path)
        if not self.path.is_dir():
            raise ModelError(f"{shown(path)}: no such run folder")
        if not (self.path / "config.json").is_file():
            raise ModelError(f"{shown(path)}: no run (config.json is missing)")
        self._own_model = model
        self._held_out: Dataset | None = None  # known where it was trained just now

    def __repr__(self) -> str:
        return f"<run {self.path}>"

    def remember(self, held_out: Dataset | None) -> None:
        """Keep the pictures held out at hand: they may exist in memory alone."""
        self._held_out = held_out

    @property
    def config(self) -> TrainConfig:
        """The settings it was trained with."""
        try:
            return TrainConfig.from_json((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, UsageError) as error:
            raise ModelError(f"{shown(self.path / 'config.json')}: {error}") from None

    @property
    def data_record(self) -> dict[str, Any]:
        """What ``data.json`` holds: source, fingerprint, classes, counts, splits by id."""
        path = self.path / "data.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            whole = (
                isinstance(record["source"], str | None)
                and isinstance(record["fingerprint"], str)
                and isinstance(record["splits"]["val"], list)
                and isinstance(record["skipped_bad"], bool)
                and record["val"] in ("own", "cut", "none")
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"{shown(path)}: unreadable ({error})") from None
        if not whole:
            raise ModelError(f"{shown(path)}: no record of the data of a run")
        return dict(record)

    def log(self) -> list[dict[str, str]]:
        """The rows of ``log.csv``, one an epoch."""
        path = self.path / "log.csv"
        if not path.is_file():
            return []  # interrupted before the first epoch was over
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def classifier(self, device: str = "auto") -> Classifier:
        """The trained model, ready to predict."""
        return Classifier.load(self.path, self._own_model, device)

    def val(self, device: str = "auto") -> Evaluation:
        """Evaluate on the pictures that were held out; writes ``val.json`` and predictions.

        Raises:
            UsageError: nothing was held out.
            DataError: the data are no longer what was trained on.
        """
        record, classifier = self.data_record, self.classifier(device)
        if not record["splits"]["val"]:
            raise UsageError(
                f"{shown(self.path)}: nothing was held out to validate on; train with --val 0.1, "
                f"or open the test set: eyebright test {shown(self.path)}"
            )
        evaluation = evaluate(classifier, self._load_held_out(record, classifier), "val")
        self._write(evaluation)
        return evaluation

    def test(
        self,
        data: Dataset | str | os.PathLike[str] | None = None,
        device: str = "auto",
        skip_bad: bool = False,
    ) -> Evaluation:
        """Open the test set, and write down that it was opened.

        Writes ``test.json`` and ``predictions-test.csv``; ``tests.jsonl`` gets a line for each
        opening, which this evaluation's figures cannot be had without.

        Args:
            data: what to test on. Default: the test part of the data trained on.
            device: where to run.
            skip_bad: go on without pictures that cannot be read.

        Raises:
            DataError: no test part, unknown classes, or the very pictures that were trained on.
            ModelError: no readable model.
        """
        record, classifier = self.data_record, self.classifier(device)
        if not isinstance(data, Dataset):
            data = self._load_test(data, record, classifier.card, skip_bad)
        data = data.resized(classifier.card.imgsz)
        if data.fingerprint == record["fingerprint"]:
            raise DataError(
                f"{shown(data.name)}: these are the very pictures it was trained on; a test on "
                "them says nothing. Name other data"
            )
        evaluation = evaluate(classifier, data, "test")
        opening = {
            "opening": self.test_openings() + 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(map(shown, sys.argv)),
            "data": data.source or data.name,
            "fingerprint": data.fingerprint,
            "n": len(data),
            "accuracy": evaluation.accuracy.value,
        }
        append_line(self.path / "tests.jsonl", json.dumps(opening))
        self._write(evaluation)
        return evaluation

    def has_test_part(self) -> bool:
        """Whether the data trained on have a test part, as far as names can tell."""
        source = self.data_record["source"]
        if source in NAMES:
            return True
        path = Path(source or "")
        return official_copy(path) is not None or (path.is_dir() and "test" in find_parts(path))

    def test_openings(self) -> int:
        """How often this run's test set has been opened."""
        path = self.path / "tests.jsonl"
        return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0

    def sample(self, count: int = 4) -> Dataset:
        """A few pictures of the test part, to look at; no figure is made of them.

        CIFAR-10's are the first ones, as in the lesson; others are drawn by chance, because
        folders are sorted by class.

        Raises:
            UsageError: more than `MOST_SAMPLED`, which would open the test set unseen.
        """
        if not 1 <= count <= MOST_SAMPLED:
            raise UsageError(f"--sample takes 1 to {MOST_SAMPLED} pictures, not {count}")
        data = self._load_test(None, self.data_record, load_card(self.path), skip_bad=True)
        order = np.arange(len(data))
        if isinstance(data.ids[0], str):
            order = np.random.default_rng(0).permutation(order)
        return data.subset(order[:count])

    def short_names(self) -> dict[str, str]:
        """How classes are shown: the lesson's recipe says plane and car, as the lesson does."""
        card = load_card(self.path)
        lesson = card.recipe == "tutorial" and card.classes == CIFAR10_CLASSES
        return LESSON_NAMES if lesson else {}

    def _load_test(
        self,
        source: str | os.PathLike[str] | None,
        record: dict[str, Any],
        card: ModelCard,
        skip_bad: bool,
    ) -> Dataset:
        load_part = partial(load, imgsz=card.imgsz, classes=card.classes, skip_bad=skip_bad)
        if source is None and record["source"] is None:
            raise DataError(f"{shown(self.path)}: trained on data from memory; name the test data")
        try:
            return load_part(record["source"] if source is None else source, "test")
        except MissingPartError:
            if source is None:
                raise DataError(
                    f"{shown(record['source'])}: no test part; name the test data: "
                    f"eyebright test {shown(self.path)} DATA"
                ) from None
            if find_parts(Path(source)):
                raise
        # A flat folder that was named is a test set as a whole.
        return load_part(source)

    def _load_held_out(self, record: dict[str, Any], classifier: Classifier) -> Dataset:
        if self._held_out is not None:
            return self._held_out
        if record["source"] is None:
            raise DataError(f"{shown(self.path)}: trained on data from memory, which are gone")
        bad = bool(record["skipped_bad"])
        data = load(record["source"], imgsz=classifier.card.imgsz, skip_bad=bad)
        if data.fingerprint != record["fingerprint"]:
            raise DataError(
                f"{shown(record['source'])}: no longer the data of this run (its fingerprint was "
                f"{record['fingerprint'][:12]}, now it is {data.fingerprint[:12]})"
            )
        if record["val"] == "own":
            assert data.val is not None, "recorded as having a part of its own"
            return data.val
        position = {name: i for i, name in enumerate(data.ids)}
        return data.subset([position[name] for name in record["splits"]["val"]])

    def _write(self, evaluation: Evaluation) -> None:
        split = evaluation.split
        write_json(self.path / f"{split}.json", evaluation.to_dict())
        text = evaluation.predictions_csv().encode("utf-8", "backslashreplace")
        write_file(self.path / f"predictions-{split}.csv", text)
