"""`audit`: everything that may be wrong with data, in one go. Nothing is changed or deleted."""

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from eyebright.audit.duplicates import ALIKE, Pairs, Searcher
from eyebright.audit.findings import Finding
from eyebright.audit.quality import bad_pictures
from eyebright.audit.suspects import can_be_judged, label_suspects
from eyebright.checkpoint import read_json, write_file, write_json
from eyebright.console import say, shown
from eyebright.data import Dataset, load
from eyebright.data.labels import KEEP, PREFIXES, RELABEL, read, table_ids
from eyebright.data.look import draw_grid
from eyebright.data.sources import MissingPartError
from eyebright.errors import ModelError, StorageError, UsageError
from eyebright.evaluation import Evaluation, read_evaluation
from eyebright.metrics import Figure, proportion
from eyebright.run import Run

SHOWN = 48  # pairs or labels on a sheet
REVIEW = "review.json"
SHEETS = ("duplicates.png", "labels.png")


@dataclass(frozen=True)
class Twin:
    """Two pictures that are the same, or almost."""

    parts: tuple[str, str]
    ids: tuple[int | str, int | str]
    similarity: float

    @property
    def names(self) -> tuple[str, str]:
        """Both as decisions call them."""
        one, other = (PREFIXES[p] + shown(n) for p, n in zip(self.parts, self.ids, strict=True))
        return one, other

    def to_dict(self) -> dict[str, Any]:
        """Across parts each id stands under its part; within one, under first and second."""
        keys = self.parts if self.parts[0] != self.parts[1] else ("first", "second")
        return dict(zip(keys, self.ids, strict=True)) | {"similarity": self.similarity}


@dataclass(frozen=True)
class Audit:
    """What was found."""

    parts: dict[str, Dataset]
    unreadable: dict[str, str]
    """Id, as decisions name it -> why."""
    pictures: list[Finding]
    across: list[Twin]
    """Each picture of a later part with its nearest one in an earlier part."""
    within: dict[str, list[Twin]]
    suspects: list[Finding] | None
    """None: not looked for."""
    scores: dict[str, Figure] = field(default_factory=dict)
    """Accuracy of a run with and without leaked test pictures."""

    @cached_property
    def places(self) -> dict[str, dict[int | str, int]]:
        """Part -> id -> position."""
        return {
            part: {name: i for i, name in enumerate(data.ids)} for part, data in self.parts.items()
        }

    @property
    def twins(self) -> list[Twin]:
        """All like pictures: leaks first."""
        return [*self.across, *(twin for part in self.within.values() for twin in part)]

    @property
    def found_nothing(self) -> bool:
        """Whether all is well, as far as it goes."""
        return not any((self.unreadable, self.pictures, self.twins, self.suspects))

    def to_dict(self) -> dict[str, Any]:
        """What ``audit.json`` holds."""
        record: dict[str, Any] = {
            "data": self.parts["train"].name,
            "pictures": {part: len(data) for part, data in self.parts.items()},
            "unreadable": [{"id": name, "why": why} for name, why in self.unreadable.items()],
            "bad": [{"id": f.id, "score": f.score, "what": f.note} for f in self.pictures],
            "duplicates": {
                "threshold": ALIKE,
                "across_splits": [twin.to_dict() for twin in self.across],
                "within": {
                    part: [twin.to_dict() for twin in twins] for part, twins in self.within.items()
                },
            },
        }
        if self.suspects is not None:
            suspects = [
                {"id": f.id, "given": f.given, "suggested": f.suggested, "score": f.score}
                for f in self.suspects
            ]
            record["labels"] = {"suspects": suspects}
        if self.scores:
            record["accuracy"] = {
                name: {"value": f.value, "n": f.n, "low": f.low, "high": f.high}
                for name, f in self.scores.items()
            }
        return record

    def findings(self) -> list[Finding]:
        """What a person may decide on: labels first, then leaks, copies and bad pictures."""
        unreadable = [
            Finding("picture", name, "", None, 1.0, why) for name, why in self.unreadable.items()
        ]
        found = [*(self.suspects or []), *map(self._as_finding, self.twins)]
        return [*found, *self.pictures, *unreadable]

    def _as_finding(self, twin: Twin) -> Finding:
        (part, other), name = twin.parts, twin.ids[0]
        data = self.parts[part]
        given = data.classes[data.labels[self.places[part][name]]]
        alike = "the very same picture" if twin.similarity == 1 else "almost the same picture"
        first, second = twin.names
        return Finding(
            "duplicate", first, given, None, twin.similarity, f"{alike} is in {other}", second
        )

    def table(self) -> Table:
        """How much was found of each kind."""
        table = Table(
            title=f"audit of {shown(self.parts['train'].name)}", title_style="bold", min_width=60
        )
        table.add_column("what")
        table.add_column("found", justify="right")
        table.add_column("such as", overflow="fold")
        table.add_row("unreadable", f"{len(self.unreadable):,}", next(iter(self.unreadable), ""))
        first = self.pictures[0] if self.pictures else None
        such = f"{first.id}: {first.note}" if first else ""
        table.add_row("bad pictures", f"{len(self.pictures):,}", such)
        for title, twins in (
            ("leaks: alike in two parts", self.across),
            *((f"alike within {part}", twins) for part, twins in self.within.items()),
        ):
            same = sum(twin.similarity == 1 for twin in twins)
            count = f"{len(twins):,}" + (f" ({same:,} the very same)" if same else "")
            such = ""
            if twins:
                one = twins[0]
                names = [shown(f"{p} {n}") for p, n in zip(one.parts, one.ids, strict=True)]
                such = f"{names[0]} and {names[1]}"
            table.add_row(title, count, such)
        if self.suspects is None:
            table.add_row("labels that may be wrong", "not looked for", "")
        else:
            one_label = self.suspects[0] if self.suspects else None
            such = (
                f"{one_label.id}: {shown(one_label.given)}? {shown(one_label.suggested)}"
                if one_label
                else ""
            )
            table.add_row("labels in train that may be wrong", f"{len(self.suspects):,}", such)
        for name, figure in self.scores.items():
            table.add_row(f"accuracy {name}", figure.percent(), f"of {figure.n:,} test pictures")
        return table

    def sheets(self) -> dict[str, Image.Image]:
        """Pictures of what was found, by name of the file: leaks in pairs, suspect labels."""
        sheets = {}
        if twins := self.twins[:SHOWN]:
            pixels, captions = [], []
            for twin in twins:
                for part, name in zip(twin.parts, twin.ids, strict=True):
                    pixels.append(self._pixels(part, name))
                    captions.append(f"{part} {name}")
            sheets["duplicates.png"] = draw_grid(np.stack(pixels), captions)
        if self.suspects:
            few = self.suspects[:SHOWN]
            position = {name: i for i, name in enumerate(table_ids(self.parts["train"]))}
            pictures = self.parts["train"].pixels[[position[one.id] for one in few]]
            captions = [f"{one.given}? {one.suggested}" for one in few]
            sheets["labels.png"] = draw_grid(pictures, captions)
        return sheets

    def _pixels(self, part: str, name: int | str) -> np.ndarray[Any, Any]:
        return self.parts[part].pixels[self.places[part][name]]


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
    given = (
        {}
        if test is None
        else {
            as_text(name): test.classes[label]
            for name, label in zip(test.ids, test.labels, strict=True)
        }
    )
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


def as_text(name: int | str) -> str:
    """An id as tables of predictions have it."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def write_audit(found: Audit, folder: Path) -> None:
    """Write ``audit.json``, ``review.json`` and the sheets into a folder, made if need be.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    write_json(folder / "audit.json", found.to_dict())
    judged = found.suspects is not None
    write_json(folder / REVIEW, review_record(found.parts, found.findings(), judged))
    sheets = found.sheets()
    for name in SHEETS:
        if name not in sheets:
            (folder / name).unlink(missing_ok=True)
            continue
        file = io.BytesIO()
        sheets[name].save(file, "PNG")
        write_file(folder / name, file.getvalue())


def review_record(
    parts: dict[str, Dataset], findings: list[Finding], judged: bool
) -> dict[str, Any]:
    """What `findings_before` reads: findings, of which data, and whether labels were judged."""
    return {
        "format": 1,
        "threshold": ALIKE,
        "judged": judged,
        "fingerprints": {part: data.fingerprint for part, data in parts.items()},
        "findings": [asdict(one) for one in findings],
    }


def findings_before(parts: dict[str, Dataset], folder: Path, judged: bool) -> list[Finding] | None:
    """What an earlier audit of the very same data found; None where there is none.

    A review that is taken up again does not wait for another audit.

    Args:
        parts: the data.
        folder: that the audit wrote.
        judged: whether labels must have been judged.
    """
    try:
        record = read_json(folder / REVIEW)
        findings = [Finding(**one) for one in record["findings"]]
        same = record == review_record(parts, findings, bool(record["judged"]))
    except (ModelError, KeyError, TypeError):
        return None
    return findings if same and record["judged"] >= judged else None
