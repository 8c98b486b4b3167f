"""What an exported model knows of itself: its card, as JSON in the metadata, and its own sum.

A file knows its own SHA-256, counted with zeros in that sum's place, so that damage is found before
anything of it is used.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from eyebright.answers import MOST_CLASSES, check_claims
from eyebright.calibration import Promise, Promises, SetRule
from eyebright.console import shown
from eyebright.errors import ModelError
from eyebright.files import MOST_JSON, count, number, parse_json
from eyebright.onnx_file import read_metadata

FORMAT = 1
CARD, SUM = "eyebright", "eyebright_sha256"  # names of the metadata
NO_SUM = "0" * 64
PIXELS, PICTURE = "pixels", "picture"  # what a graph takes
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ExportedCard:
    """What the metadata of an exported model hold."""

    classes: tuple[str, ...]
    imgsz: int
    """Side of the pictures that the net takes, in pixels."""
    input: str
    """``pixels``: uint8 (n, imgsz, imgsz, 3); ``picture``: uint8 (height, width, 3), any size."""
    policy: str
    tta: str
    temperature: float | None
    architecture: str
    weights_sha256: str
    """Of the run's file of weights."""
    int8: bool = False
    promises: Promises = field(default_factory=Promises)
    """What the pictures held out promise of answers and sets of classes."""
    format: int = FORMAT

    def to_json(self) -> str:
        """As it stands in the metadata."""
        return json.dumps(asdict(self), allow_nan=False)


def read_card(text: str, name: str) -> ExportedCard:
    """Check what metadata say.

    Args:
        text: of the entry ``CARD``.
        name: of the file, for messages.

    Raises:
        ModelError: of a later format, or not what a card must hold.
    """
    try:
        if len(text) > MOST_JSON:
            raise ValueError(f"more than {MOST_JSON:,} characters")
        content = parse_json(text)
        if (known := content.get("format")) != FORMAT:
            raise ModelError(
                f"{name}: format {shown(repr(known)[:20])}; this eyebright reads {FORMAT}"
            )
        if content.keys() != {one.name for one in fields(ExportedCard)}:
            raise ValueError("other entries")
        texts = [content[key] for key in ("policy", "tta", "architecture", "weights_sha256")]
        classes = content["classes"]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in [*texts, *classes]):
            raise ValueError("an entry of another type")
        if not 1 <= len(set(classes)) == len(classes) <= MOST_CLASSES:
            raise ValueError("classes")
        if content["input"] not in (PIXELS, PICTURE) or type(content["int8"]) is not bool:
            raise ValueError("input or int8")
        if content["temperature"] is not None:
            number(content["temperature"])
        card = ExportedCard(**content)
        card = replace(card, classes=tuple(classes), imgsz=count(content["imgsz"]))
        card = replace(card, promises=_promises(content["promises"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{name}: no model card in it ({shown(error)[:200]})") from None
    check_claims(name, card)
    return card


def _promises(content: Any) -> Promises:
    answers, sets = content["answers"], content["sets"]
    if answers is not None:
        risk, threshold, share = (_share(answers[k]) for k in ("risk", "threshold", "answered"))
        answers = Promise(risk, threshold, share, count(answers["n"]))
    if sets is not None:
        sets = SetRule(_share(sets["coverage"]), _share(sets["threshold"]))
    return Promises(answers, sets)


def _share(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError("a promise that is no share")
    return float(value)


def seal(content: bytes) -> bytes:
    """A model whose metadata have `NO_SUM` for its sum, with the sum.

    Raises:
        ValueError: the place of the sum is not there once.
    """
    if content.count(NO_SUM.encode()) != 1:
        raise ValueError("no place for a sum")
    return content.replace(NO_SUM.encode(), hashlib.sha256(content).hexdigest().encode())


def card_of(content: bytes, name: str) -> ExportedCard:
    """The card of a file that is whole and has nothing in it that we do not write.

    Raises:
        ModelError: damaged, or not made by ``eyebright export``.
    """
    try:
        metadata = read_metadata(content)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from None
    if CARD not in metadata or not SHA256.fullmatch(own := metadata.get(SUM, "")):
        raise ModelError(f"{name}: not written by eyebright export")
    known = own.encode()
    blank = content.replace(known, NO_SUM.encode())
    if content.count(known) != 1 or hashlib.sha256(blank).hexdigest() != own:
        raise ModelError(f"{name}: damaged, or changed since it was written (SHA-256)")
    return read_card(metadata[CARD], name)
