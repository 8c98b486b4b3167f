"""`Run`: the folder ``runs/<name>/`` and what one can do with it."""

import json
import os
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eyebright.calibration import Promises
from eyebright.checkpoint import check_run_folder, load_card
from eyebright.classifier import Classifier
from eyebright.config import TrainConfig
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.data.cifar import CLASSES as CIFAR10_CLASSES
from eyebright.data.decisions import Decisions, read
from eyebright.data.labels import apply, read_again
from eyebright.data.sources import NAMES, find_part_names
from eyebright.epochs import read_log
from eyebright.errors import DataError, EyebrightError, ModelError, UsageError
from eyebright.evaluation import Evaluation, check_interval, evaluate
from eyebright.files import MOST_JSON, append_line, read_json, read_within
from eyebright.lock import locked
from eyebright.nearby import holds_run, runs_there
from eyebright.records import count_looks, read_data_record, read_evaluation, read_openings
from eyebright.rereading import held_out_part, listing, load_again, load_held_out, load_test
from eyebright.robustness import measure_robustness
from eyebright.trained_on import TrainedOn

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
        check_run_folder(self.path)
        if not holds_run(self.path):
            raise ModelError(
                f"{shown(path)}: no run folder (config.json is missing); {runs_there()}"
            )
        self._own_model = model
        self._held_out: Dataset | None = None  # known where it was trained just now
        self._tested: Dataset | None = None  # known where it was tested just now

    def __repr__(self) -> str:
        return f"<run {self.path}>"

    def remember(self, held_out: Dataset | None) -> None:
        """Keep the pictures held out at hand: they may exist in memory alone."""
        self._held_out = held_out

    @property
    def config(self) -> TrainConfig:
        """The settings it was trained with.

        Raises:
            ModelError: ``config.json`` is missing or damaged.
        """
        try:
            return TrainConfig.from_json(read_within(self.path / "config.json", MOST_JSON).decode())
        except (OSError, ValueError, UsageError) as error:
            raise ModelError(f"{shown(self.path / 'config.json')}: {error}") from None

    @property
    def data_record(self) -> dict[str, Any]:
        """What ``data.json`` holds: source, fingerprint, classes, counts, splits by id.

        Raises:
            ModelError: it is missing, or not what training wrote.
        """
        return read_data_record(self.path)

    def log(self) -> list[dict[str, str]]:
        """The rows of ``log.csv``, one an epoch.

        Raises:
            ModelError: it is no log.
        """
        return read_log(self.path / "log.csv")

    def classifier(self, device: str = "auto") -> Classifier:
        """The trained model, ready to predict."""
        return Classifier.load(self.path, self._own_model, device)

    def val(
        self,
        device: str = "auto",
        interval: str = "wilson",
        risk: float | None = None,
        coverage: float | None = None,
        labels: str | os.PathLike[str] | None = None,
    ) -> Evaluation:
        """Evaluate on the pictures that were held out; writes ``val.json`` and predictions.

        Args:
            device: where to run.
            interval: of proportions: ``wilson`` or ``exact``.
            risk: also say from which probability on at most such a share of answers is wrong.
            coverage: also say which sets of classes hold the true one this often.
            labels: a table of decisions to apply to them, in place of the one, if any, that they
                were trained with.

        Raises:
            UsageError: nothing was held out, or no such promise can be made.
            DataError: the data are no longer what was trained on.
            BusyError: another process is writing into the run folder.
        """
        check_interval(interval)
        with locked(self.path):
            decisions = None if labels is None else read(labels)
            record, classifier = self.data_record, self.classifier(device)
            if not record["splits"]["val"]:
                raise UsageError(
                    f"{shown(self.path)}: nothing was held out to validate on; train with "
                    "--val 0.1, or open the test set: "
                    f"eyebright test {shlex.quote(shown(self.path))}"
                )
            data = self._load_held_out(record, classifier.card.imgsz, decisions)
            evaluation = evaluate(classifier, data, "val", interval)
            evaluation = replace(
                evaluation,
                promises=evaluation.promise(risk, coverage),
                leaks=self._leaks(data),
                decided=data.decided,
            )
            evaluation.write(self.path)
            return evaluation

    def test(
        self,
        data: Dataset | str | os.PathLike[str] | None = None,
        device: str = "auto",
        skip_bad: bool = False,
        interval: str = "wilson",
        risk: float | None = None,
        coverage: float | None = None,
        shift: bool = False,
        labels: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> Evaluation:
        """Open the test set, and write down that it was opened.

        Writes ``test.json`` and ``predictions-test.csv``; ``tests.jsonl`` gets a line for each
        opening, which this evaluation's figures cannot be had without.

        Args:
            data: what to test on. Default: the test part of the data trained on.
            device: where to run.
            skip_bad: go on without pictures that cannot be read.
            interval: of proportions: ``wilson`` or ``exact``.
            risk: also see how answers fare of which at most such a share is to be wrong.
            coverage: also see how sets of classes fare that are to hold the true one this often.
            shift: also see how changed pictures fare; writes ``shift.json``.
            labels: a table of decisions to apply to the test pictures; what it is called and how
                many it changes is written down. The one trained with is not applied unasked.
            root: the folder that a table's paths are relative to, where it is not the table's own.

        Raises:
            UsageError: nothing was held out that such a promise could rest on.
            DataError: no test part, unknown classes, or the very pictures that were trained on.
            ModelError: no readable model.
            BusyError: another process is writing into the run folder.
        """
        check_interval(interval)
        with locked(self.path):
            decisions = None if labels is None else read(labels)
            record, classifier = self.data_record, self.classifier(device)
            promises = self.promises(risk, coverage)
            named = None
            if not isinstance(data, Dataset | None):
                named = str(data) if str(data) in NAMES else str(Path(data).resolve())
            part = "train"  # as all of a set that is no part of another is called in a table
            if not isinstance(data, Dataset):
                skip = skip_bad or (decisions.dropped if decisions else False)
                data, part = load_test(self.path, data, record, classifier.card, skip, root)
            listed = listing(data)  # before any decision: it is one test set with and without them
            data = data if decisions is None else apply(data, decisions, part)
            self._tested = data = data.resized(classifier.card.imgsz)
            if data.fingerprint == record["fingerprint"]:
                raise DataError(
                    f"{shown(data.name)}: these are the very pictures it was trained on; a test on "
                    "them says nothing. Name other data"
                )
            evaluation = evaluate(classifier, data, "test", interval)
            evaluation = replace(evaluation, promises=promises, leaks=self._leaks(data))
            evaluation = replace(evaluation, decided=data.decided)
            if shift:
                evaluation = replace(
                    evaluation, robustness=measure_robustness(classifier, data, interval=interval)
                )
            opening = {
                "opening": self.test_openings() + 1,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": " ".join(map(shown, sys.argv)),
                "data": data.source or data.name,
                "source": named,
                "root": data.root,
                "fingerprint": data.fingerprint,
                "listing": listed,
                "labels": data.decided,
                "n": len(data),
                "figures": {name: figure.value for name, figure in evaluation.figures.items()},
            }
            append_line(self.path / "tests.jsonl", json.dumps(opening))
            evaluation.write(self.path)
            return evaluation

    def held_out(self) -> Evaluation:
        """What the model said of the pictures held out, as training wrote it down.

        Raises:
            UsageError: nothing was held out, or training was interrupted before it was looked at.
            ModelError: it is damaged.
        """
        if not self.data_record["splits"]["val"]:
            raise UsageError(
                f"{shown(self.path)}: nothing was held out that a promise could rest on; train "
                "with --val 0.1"
            )
        if not (self.path / "val.json").exists():
            raise UsageError(
                f"{shown(self.path)}: not evaluated on the pictures held out; first: eyebright val "
                f"{shlex.quote(shown(self.path))}"
            )
        return read_evaluation(self.path, "val")

    def promises(self, risk: float | None = None, coverage: float | None = None) -> Promises:
        """When to answer, and with which set of classes, as the pictures held out tell.

        Args:
            risk: share of errors among the answers that is not to be passed.
            coverage: share of pictures whose set is to hold the true class.

        Raises:
            UsageError: nothing was held out, or no such promise can be made.
            ModelError: what was held out is missing or damaged.
        """
        if risk is None and coverage is None:
            return Promises()
        return self.held_out().promise(risk, coverage)

    def has_test_part(self) -> bool:
        """Whether the data trained on have a test part, as far as names can tell."""
        source = self.data_record["source"]
        try:
            return source is not None and "test" in find_part_names(source)
        except EyebrightError:
            return False

    def test_openings(self) -> int:
        """How often this run has opened a test set."""
        return len(read_openings(self.path))

    def looks_at(self, fingerprint: str) -> int:
        """How often it and the runs beside it have opened the test set of this fingerprint."""
        return count_looks(self.path.resolve().parent, fingerprint)

    def sample(self, count: int = 4) -> Dataset:
        """A few pictures of the test part, to look at; no figure is made of them.

        CIFAR-10's are the first ones, as in the lesson; others are drawn by chance, because
        folders are sorted by class.

        Raises:
            UsageError: more than `MOST_SAMPLED`, which would open the test set unseen.
        """
        if not 1 <= count <= MOST_SAMPLED:
            raise UsageError(f"--sample takes 1 to {MOST_SAMPLED} pictures, not {count}")
        data, _ = load_test(self.path, None, self.data_record, load_card(self.path), skip_bad=True)
        order = np.arange(len(data))
        if isinstance(data.ids[0], str):
            order = np.random.default_rng(0).permutation(order)
        return data.subset(order[:count])

    def pictures(self, split: str) -> Dataset:
        """The pictures that ``val`` or ``test`` was last about, at the size that the net takes.

        Raises:
            DataError: they are gone, or no longer the same.
        """
        if split == "val":
            written = self.path / "val.json"
            decided = read_json(written).get("labels") if written.exists() else None
            other = None if decided is None else read_again(decided)
            return self._load_held_out(self.data_record, load_card(self.path).imgsz, other)
        if self._tested is not None:
            return self._tested
        last = (read_openings(self.path) or [{}])[-1]
        card, root = load_card(self.path), last.get("root")
        data, part = load_test(self.path, last.get("source"), self.data_record, card, True, root)
        decided = last.get("labels")
        return data if decided is None else apply(data, read_again(decided), part)

    def training_pictures(self) -> dict[str, Dataset]:
        """The pictures held out (``validation``), if any were, and those trained on (``training``).

        None of the test part is among them.

        Raises:
            DataError: they are gone, or no longer the same.
        """
        record = self.data_record
        if record["source"] is None and self._held_out is not None:
            return {"validation": self._held_out}  # trained just now, on data from memory
        _, data = load_again(self.path, record, load_card(self.path).imgsz)
        parts = {"training": data}
        if held_out := set(record["splits"]["val"]):
            parts = {"validation": held_out_part(data, record)}
            own = record["val"] == "own"
            rest = [i for i, name in enumerate(data.ids) if own or name not in held_out]
            parts["training"] = data.subset(rest)
        return parts

    def short_names(self) -> dict[str, str]:
        """How classes are shown: the lesson's recipe says plane and car, as the lesson does."""
        card = load_card(self.path)
        lesson = card.recipe == "tutorial" and card.classes == CIFAR10_CLASSES
        return LESSON_NAMES if lesson else {}

    def trained_on(self) -> TrainedOn | None:
        """Fingerprints of the training pictures; None where they are missing or damaged."""
        record, imgsz = self.data_record, self.config.imgsz
        n, classes = sum(record["counts"].values()), len(record["classes"])
        return None if imgsz is None else TrainedOn.load(self.path, n, classes, imgsz)

    def _leaks(self, data: Dataset) -> int | None:
        """How many pictures it was also trained on; None where that is not known any more."""
        known = self.trained_on()
        return None if known is None else known.count_leaks(data)

    def _load_held_out(
        self, record: dict[str, Any], imgsz: int, decisions: Decisions | None = None
    ) -> Dataset:
        if self._held_out is not None and decisions is None:
            return self._held_out
        return load_held_out(self.path, record, imgsz, decisions)
