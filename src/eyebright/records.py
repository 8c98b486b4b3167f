"""What a run folder says of its data and of its tests: checked before anything rests on it."""

import json
from pathlib import Path
from typing import Any

from eyebright.answers import MOST_CLASSES
from eyebright.console import shown
from eyebright.data.labels import check_decided
from eyebright.errors import ModelError
from eyebright.files import MOST_LIST, MOST_LOG, read_json, read_within

TEXT = str | None


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
