"""`audit`: everything that may be wrong with data, in one go. Nothing is changed or deleted."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyebright.audit.duplicates import Pairs, Searcher
from eyebright.audit.found import Audit, Twin
from eyebright.audit.quality import bad_pictures
from eyebright.audit.suspects import can_be_judged, label_suspects
from eyebright.console import as_text, say, shown
from eyebright.data import Dataset, load
from eyebright.data.decisions import DROP, KEEP, PREFIXES, RELABEL, append_all, read
from eyebright.data.sources import MissingPartError
from eyebright.errors import UsageError
from eyebright.evaluation import Evaluation
from eyebright.metrics import Figure, proportion
from eyebright.records import read_evaluation
from eyebright.run import Run


def audit(
    source: str | os.PathLike[str] = "cifar10",
    *,
    run: str | os.PathLike[str] | None = None,
    wrong_labels: bool = True,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    tell: Callable[[str], None] = say,
    parts: dict[str, Dataset] | None = None,
) -> Audit:
    """Look for all that may be wrong with pictures and labels. The label given is all it knows.

    Args:
        source: as in `load`; also a folder of pictures without classes.
        run: a run that was tested on these data: its accuracy with and without leaked pictures.
        wrong_labels: also look for labels that may be wrong, which takes longest.
        labels: a table of decisions to apply first.
        root: the folder that a table's paths are relative to.
        workers: threads that decode pictures.
        tell: told what takes so long.
        parts: what `load_parts` gave, where that has been done already.

    Raises:
        DataError: as in `load`.
        UsageError: what it needs is not installed, or the run was not tested on these pictures.
    """
    if run is not None and labels is not None:
        raise UsageError("--run and --labels exclude each other: a run was tested without them")
    tested = None if run is None else read_tested(Run(run))
    parts = parts or load_parts(source, labels=labels, root=root, workers=workers)
    train = parts["train"]
    wrong_labels = wrong_labels and can_be_judged(train)
    unreadable = {
        PREFIXES[part] + shown(name): why
        for part, data in parts.items()
        for name, why in data.unreadable.items()
    }
    scores = {}
    settled = set() if labels is None else settled_by(labels)
    across, within = find_twins(parts)
    if tested is not None:
        scores = scores_of(tested, parts, across)
    across = [twin for twin in across if twin.names[0] not in settled]
    within = {
        part: [twin for twin in twins if twin.names[0] not in settled]
        for part, twins in within.items()
    }
    bad = [one for part, data in parts.items() for one in bad_pictures(data, part)]
    suspects = label_suspects(train, tell) if wrong_labels else None
    if suspects is not None:
        suspects = [one for one in suspects if one.id not in settled]
    bad = [one for one in bad if one.id not in settled]
    return Audit(parts, unreadable, bad, across, within, suspects, scores)


def drop_suspects(found: Audit, score: float, table: Path) -> int:
    """Write a decision to drop each picture whose label is so surely wrong, unless one is decided.

    Args:
        found: labels must have been looked at.
        score: the least that a suspect must have, from 0 to 1.
        table: of decisions, which is added to; made where there is none.

    Returns:
        How many are dropped.

    Raises:
        DataError: what lies there is no table of decisions.
        StorageError: the disk refuses.
    """
    decided = read(table).of if table.exists() else {}
    surest = [one for one in found.suspects or () if one.score >= score and one.id not in decided]
    if surest:
        append_all(table, [(one.id, DROP, "") for one in surest])
    return len(surest)


def settled_by(labels: str | os.PathLike[str]) -> set[str]:
    """The pictures that somebody has looked at and decided to keep or to relabel."""
    return {name for name, one in read(labels).of.items() if one.decision in (KEEP, RELABEL)}


def read_tested(run: Run) -> Evaluation:
    """What a run said of its test pictures.

    Raises:
        UsageError: it has not been tested.
    """
    if not (run.path / "test.json").exists():
        raise UsageError(f"{shown(run.path)}: not tested yet: eyebright test {shown(run.path)}")
    return read_evaluation(run.path, "test")


def load_parts(source: str | os.PathLike[str], **options: Any) -> dict[str, Dataset]:
    """All parts of data by name, without what cannot be read; ``train`` is the whole of a flat one.

    Args:
        source: as in `audit`.
        **options: of `load`.

    Raises:
        DataError: as in `load`.
    """
    train = load(source, skip_bad=True, classless=True, **options)
    parts = {"train": train}
    if train.val is not None:
        parts["val"] = train.val
    with contextlib.suppress(MissingPartError):  # one part is enough to be looked at
        options |= {"classes": train.classes, "imgsz": train.imgsz}
        parts["test"] = load(source, "test", skip_bad=True, classless=True, **options)
    return parts


def find_twins(parts: dict[str, Dataset]) -> tuple[list[Twin], dict[str, list[Twin]]]:
    """Like pictures across and within parts, the most alike first."""
    across: list[Twin] = []
    within: dict[str, list[Twin]] = {}
    names = list(parts)
    for i, part in enumerate(names):
        searcher = Searcher(parts[part].pixels)
        within[part] = twins_of(parts, (part, part), searcher.like())
        for later in names[i + 1 :]:
            found = searcher.like(parts[later].pixels).of_each()
            across += twins_of(parts, (later, part), found)
    return sorted(across, key=lambda twin: -twin.similarity), within


def twins_of(parts: dict[str, Dataset], pair: tuple[str, str], found: Pairs) -> list[Twin]:
    """Pairs of positions in two parts, by their ids."""
    first, second = (parts[part].ids for part in pair)
    return [
        Twin(pair, (first[a], second[b]), round(similarity, 4))
        for a, b, similarity in zip(
            found.first.tolist(), found.second.tolist(), found.similarity.tolist(), strict=True
        )
    ]


def scores_of(
    tested: Evaluation, parts: dict[str, Dataset], across: Sequence[Twin]
) -> dict[str, Figure]:
    """Accuracy of a run on all its test pictures, and on those that stand in no other part.

    Raises:
        UsageError: it was not tested on the test part of these data.
    """
    test = parts.get("test")
    given = {}
    if test is not None:
        ours = (test.classes[label] for label in test.labels)
        given = dict(zip(map(as_text, test.ids), ours, strict=True))
    theirs = (tested.classes[label] for label in tested.labels)
    if not given or given != dict(zip(map(str, tested.ids), theirs, strict=True)):
        raise UsageError("--run: that run was tested on other pictures than these data have")
    leaked = {as_text(twin.ids[0]) for twin in across if twin.parts[0] == "test"}
    right = tested.predictions == tested.labels
    clean = np.array([str(name) not in leaked for name in tested.ids])
    return {
        "on all": proportion(int(right.sum()), len(right)),
        "without leaked ones": proportion(int(right[clean].sum()), int(clean.sum())),
    }
