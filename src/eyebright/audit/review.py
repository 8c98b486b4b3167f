"""`Review`: what a person decides on of what an audit found, as the local page shows it.

Each decision is on the disk, in the table of `eyebright.data.decisions`, before the page goes on.
"""

import io
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyebright.audit.findings import Finding
from eyebright.audit.review_words import LANGUAGES, note, words
from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.data.decisions import (
    DROP,
    KEEP,
    RELABEL,
    UNDO,
    Decision,
    append,
    read,
    table_ids,
)
from eyebright.errors import StorageError, UsageError

EXAMPLES = 6  # pictures of a class, to compare with


class Review:
    """What there is to decide on, and what has been decided.

    Args:
        parts: the pictures: ``train``, and perhaps ``val`` and ``test``.
        findings: what to decide on, in this order.
        table: where decisions go; made with the first one.
        language: of the page, ``en`` or ``zh``.

    Raises:
        UsageError: no such language.
        DataError: what lies there is no table of decisions.
        StorageError: no table can be written there.
    """

    def __init__(
        self,
        parts: Mapping[str, Dataset],
        findings: Sequence[Finding],
        table: str | os.PathLike[str],
        language: str = "en",
    ):
        if language not in LANGUAGES:
            raise UsageError(
                f"--lang cannot be '{language}'; choose one of: {', '.join(LANGUAGES)}"
            )
        self.parts, self.table = list(parts.values()), Path(table)
        self.findings = [
            replace(one, id=shown(one.id), other=None if one.other is None else shown(one.other))
            for one in findings
        ]
        self.language = language
        self.classes = [shown(name) for name in self.parts[0].classes]
        ids = [name for part, pictures in parts.items() for name in table_ids(pictures, part)]
        self.number = {name: number for number, name in enumerate(ids)}
        self.token, self.version = secrets.token_urlsafe(24), secrets.token_hex(4)
        self._lock = threading.Lock()  # one line at a time
        self.decisions()
        place = self.table if self.table.exists() else self.table.parent
        if not os.access(place, os.W_OK):
            raise StorageError(
                f"{shown(self.table)}: cannot be written; name another place with --labels"
            )

    def decisions(self) -> dict[str, Decision]:
        """What the table says now, by id."""
        return read(self.table).of if self.table.exists() else {}

    def decide(self, finding: int, decision: str, label: int | None, twin: bool) -> None:
        """Write down a decision; it is on the disk when this returns.

        Args:
            finding: its position.
            decision: ``keep``, ``relabel``, ``drop`` or ``undo``.
            label: number of the class, for ``relabel``.
            twin: it is the twin that is decided on.

        Raises:
            ValueError: no such finding, decision or class.
            DataError: what lies there is no table of decisions any more.
            StorageError: the disk refuses.
        """
        one = self.findings[finding] if 0 <= finding < len(self.findings) else None
        name = one and (one.other if twin else one.id)
        known = decision in (KEEP, RELABEL, DROP, UNDO) and (decision == RELABEL) == (
            label is not None
        )
        if not name or not known or (label is not None and not 0 <= label < len(self.classes)):
            raise ValueError("no such decision")
        with self._lock:
            append(self.table, name, decision, "" if label is None else self.classes[label])

    def picture(self, number: int) -> bytes:
        """A picture as PNG, by its number among all.

        Raises:
            IndexError: there is no such picture.
        """
        part, position = self._place(number)
        file = io.BytesIO()
        Image.fromarray(part.pixels[position]).save(file, "PNG")
        return file.getvalue()

    def _place(self, number: int) -> tuple[Dataset, int]:
        """The part that a picture is in, and its position there."""
        for part in self.parts:
            if number < len(part):
                return part, number
            number -= len(part)
        raise IndexError(number)

    def page(self, nonce: str) -> str:
        """The page, as the table now stands.

        Args:
            nonce: that its style and script carry, so that no others run.
        """
        from jinja2 import Environment

        text = words(self.language)
        template = files("eyebright.audit").joinpath("review.html").read_text(encoding="utf-8")
        return (
            Environment(autoescape=True)
            .from_string(template)
            .render(
                t=text.__getitem__,
                language=self.language,
                nonce=nonce,
                table=shown(self.table),
                state=self.state() | {"words": text, "token": self.token},
            )
        )

    def state(self) -> dict[str, Any]:
        """What the page knows: findings, classes, decisions; pictures by number."""
        decided = self.decisions()
        side = max(max(part.pixels.shape[1:3]) for part in self.parts)
        return {
            "findings": [self._describe(finding) for finding in self.findings],
            "classes": self.classes,
            "examples": list(self._examples().items()),
            "decisions": [(name, asdict(one)) for name, one in decided.items()],  # oldest first
            "table": shown(self.table),
            "small": side <= 96,
            "version": self.version,
        }

    def _describe(self, finding: Finding) -> dict[str, Any]:
        other = finding.other
        twin = other and {
            "id": other, "picture": self.number.get(other), "given": self._label(other)
        }  # fmt: skip
        return {
            "kind": finding.kind,
            "id": finding.id,
            "picture": self.number.get(finding.id),
            "given": shown(finding.given),
            "suggested": None if finding.suggested is None else shown(finding.suggested),
            "score": round(float(finding.score), 4) if np.isfinite(finding.score) else None,
            "note": shown(note(finding.note, self.language)),
            "twin": twin or None,
        }

    def _label(self, name: str) -> str | None:
        if name not in self.number:
            return None
        part, position = self._place(self.number[name])
        return self.classes[int(part.labels[position])]

    def _examples(self) -> dict[str, list[int]]:
        """Numbers of a few unsuspicious pictures of each class that a finding names."""
        first = self.parts[0]
        suspects = {self.number.get(name) for f in self.findings for name in (f.id, f.other or "")}
        good = np.array([i not in suspects for i in range(len(first))], bool)
        examples = {}
        for name in {shown(n) for f in self.findings for n in (f.given, f.suggested) if n}:
            if name in self.classes:
                of_class = np.flatnonzero(good & (first.labels == self.classes.index(name)))
                steps = np.linspace(0, len(of_class) - 1, min(EXAMPLES, len(of_class)))
                examples[name] = of_class[steps.astype(int)].tolist()
        return examples
