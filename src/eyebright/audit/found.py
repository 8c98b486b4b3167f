"""What an audit found, as a table, as JSON, as sheets of pictures; and the folder it is kept in."""

import io
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from eyebright.audit.duplicates import ALIKE
from eyebright.audit.findings import ALMOST, SAME, Finding
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.data.decisions import PREFIXES, table_ids
from eyebright.data.look import draw_grid
from eyebright.errors import ModelError, StorageError
from eyebright.files import MOST_LIST, read_json, write_file, write_json
from eyebright.metrics import Figure

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
        alike = SAME if twin.similarity == 1 else ALMOST
        first, second = twin.names
        return Finding(
            "duplicate", first, given, None, twin.similarity, alike.format(part=other), second
        )

    def table(self) -> Table:
        """How much was found of each kind."""
        table = Table(
            title=f"audit of {shown(self.parts['train'].name)}", title_style="bold", min_width=60
        )
        table.add_column("what")
        table.add_column("found", justify="right")
        table.add_column("such as", overflow="fold")
        such = ": ".join(next(iter(self.unreadable.items()), ()))
        table.add_row("unreadable", f"{len(self.unreadable):,}", shown(such))
        first = self.pictures[0] if self.pictures else None
        such = f"{first.id}: {first.note}" if first else ""
        table.add_row("bad pictures", f"{len(self.pictures):,}", such)
        for title, twins in (
            ("leaks: alike in two parts", self.across),
            *((f"alike within {part}", twins) for part, twins in self.within.items()),
        ):
            same = sum(twin.similarity == 1 for twin in twins)
            those = "all of them" if same == len(twins) > 1 else f"{same:,} of them"
            count = f"{len(twins):,}"
            if same:
                count += f", {'' if len(twins) == 1 else those + ' '}identical"
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
        record = read_json(folder / REVIEW, MOST_LIST)
        findings = [Finding(**one) for one in record["findings"]]
        same = record == review_record(parts, findings, bool(record["judged"]))
    except (ModelError, KeyError, TypeError):
        return None
    return findings if same and record["judged"] >= judged else None
