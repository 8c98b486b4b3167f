"""What a run folder says of its data and evaluations: checked before anything rests on it."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eyebright.answers import MOST_CLASSES
from eyebright.calibration import Promise, Promises, SetRule
from eyebright.checkpoint import CARD, load_card
from eyebright.console import as_text, shown
from eyebright.data import Dataset
from eyebright.data.labels import check_decided
from eyebright.errors import ModelError, UsageError
from eyebright.evaluation import Evaluation
from eyebright.files import MOST_FIGURES, MOST_LIST, MOST_LOG, read_json, read_rows, read_within

TEXT = str | None


def describe_data(
    data: Dataset, train_set: Dataset, val_set: Dataset | None, skip_bad: bool, max_pixels: int
) -> dict[str, Any]:
    """What ``data.json`` holds."""
    return {
        "name": data.name,
        "source": data.source,
        "root": data.root,
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "counts": dict(zip(data.classes, train_set.counts().tolist(), strict=True)),
        "imgsz": data.imgsz,
        "skipped_bad": skip_bad,
        "max_pixels": max_pixels,
        "labels": data.decided,
        # Where they are cut off, the fingerprint above is of all.
        "val_fingerprint": val_set.fingerprint if val_set and val_set is data.val else None,
        "val": "none" if val_set is None else "own" if val_set is data.val else "cut",
        "splits": {"train": train_set.ids, "val": val_set.ids if val_set else []},
    }


def read_data_record(folder: Path) -> dict[str, Any]:
    """What ``data.json`` holds: source, fingerprint, classes, counts, splits by id.

    Raises:
        ModelError: it is missing, or not what training wrote.
    """
    path = folder / "data.json"
    record = read_json(path, MOST_LIST)
    try:
        whole = _is_whole(record)
        check_decided(record["labels"])
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise ModelError(f"{shown(path)}: no record of the data of a run")
    return record


def _is_whole(record: dict[str, Any]) -> bool:
    counts, splits = record["counts"], record["splits"]
    return (
        isinstance(record["name"], str)
        and isinstance(record["source"], TEXT)
        and isinstance(record["root"], TEXT)
        and isinstance(record["fingerprint"], str)
        and isinstance(record["val_fingerprint"], TEXT)
        and isinstance(record["skipped_bad"], bool)
        and type(record["max_pixels"]) is int
        and record["val"] in ("own", "cut", "none")
        and list(counts) == record["classes"]
        and len(counts) <= MOST_CLASSES
        and all(type(n) is int and 0 <= n < 2**53 for n in counts.values())
        and sum(counts.values()) > 0
        and all(type(one) in (int, str) for part in ("train", "val") for one in splits[part])
    )


def read_openings(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``tests.jsonl``; one that is damaged is still an opening.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        text = read_within(folder / "tests.jsonl", MOST_LOG).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown(folder / 'tests.jsonl')}: no log of tests ({error})") from None
    return [_opening(line) for line in text.splitlines()]


def _opening(line: str) -> dict[str, Any]:
    try:
        opening = json.loads(line)
        texts = [opening.get(key) for key in ("fingerprint", "listing", "source", "root")]
        if all(isinstance(text, TEXT) for text in texts):
            check_decided(opening.get("labels"))
            return dict(opening)
    except (ValueError, RecursionError, AttributeError, TypeError):
        pass
    return {}


def count_looks(runs: Path, fingerprint: str) -> int:
    """How often the runs of a folder have opened the test set of this fingerprint.

    It is the same one if its pixels are the same, or where it comes from and what is in it: nets
    that take pictures of another size see other pixels.
    """
    folders = [path.parent for path in runs.glob("*/tests.jsonl")]
    openings = [opening for folder in folders for opening in read_openings(folder)]
    listings = {o.get("listing") for o in openings if o.get("fingerprint") == fingerprint}
    listings.discard(None)
    return sum(
        o.get("fingerprint") == fingerprint or o.get("listing") in listings for o in openings
    )


def read_evaluation(folder: Path, split: str) -> Evaluation:
    """What `Evaluation.write` wrote of this split; ids are text.

    Raises:
        ModelError: missing, damaged, or of another model than the one that is there now.
    """
    path = folder / f"predictions-{split}.csv"
    record = read_json(folder / f"{split}.json", MOST_FIGURES)
    if not is_of_this_model(folder, record):
        raise ModelError(
            f"{shown(folder / f'{split}.json')}: of an earlier model of this run; evaluate this "
            f"one: eyebright {split} {shlex.quote(shown(folder))}"
        )
    try:
        [_, _, _, *columns], *rows = read_rows(path, MOST_LIST)
        # A name that is not UTF-8 stands in the table escaped, in the JSON as it is.
        classes = [str(name) for name in record["confusion"]["classes"]]
        if list(map(as_text, classes)) != columns:
            raise ValueError("other classes than in the JSON")
        labels = np.array([columns.index(row[1]) for row in rows], np.int64)
        probabilities = np.array([row[3:] for row in rows], np.float64)
        if probabilities.shape != (len(rows), len(classes)) or not len(rows):
            raise ValueError("not a probability for each class in each row")
        if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
            raise ValueError("not all are probabilities")
        temperature = record["temperature"]
        return Evaluation(
            split=split,
            classes=tuple(classes),
            ids=[row[0] for row in rows],
            labels=labels,
            probabilities=probabilities,
            fingerprint=str(record["fingerprint"]),
            data=str(record.get("data", "")),
            tta=str(record["tta"]),
            interval=str(record.get("interval_kind", "wilson")),
            promises=read_promises(record),
            temperature=None if temperature is None else float(temperature),
            leaks=None if record.get("leaks") is None else int(record["leaks"]),
            decided=check_decided(record.get("labels")),
            weights_sha256=str(record.get("weights_sha256", "")),
        )
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, UsageError) as error:
        raise ModelError(f"{shown(path)}: no predictions, or damaged ({error})") from None


def is_of_this_model(folder: Path, record: dict[str, Any]) -> bool:
    """Whether an evaluation's JSON is of the weights that a run has now, as far as is known."""
    if not (weights := record.get("weights_sha256")) or not (folder / CARD).exists():
        return True
    return bool(weights == load_card(folder).weights_sha256)


def read_promises(record: dict[str, Any]) -> Promises:
    """The promises of an evaluation's JSON; those that nobody asked for are None."""
    promises = Promises()
    if given := record.get("promise"):
        risk, threshold, share = (float(given[k]) for k in ("risk", "threshold", "answered"))
        promises = replace(promises, answers=Promise(risk, threshold, share, int(given["n"])))
    if rule := record.get("sets"):
        sets = SetRule(float(rule["coverage"]), float(rule["threshold"]))
        promises = replace(promises, sets=sets)
    return promises
