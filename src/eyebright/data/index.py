"""The index of a folder of tar shards, ``index.json``: its classes, its parts, its shards.

What lies where in the shards of a part, a file beside it says (`eyebright.data.contents`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyebright.console import shown
from eyebright.errors import DataError, ModelError
from eyebright.files import MOST_LOG, count, read_json, write_json

INDEX, FORMAT = "index.json", "eyebright shards 1"
STATE = "convert.json"  # there while a conversion is not finished
PARTS = ("train", "val", "test")
SHARD = re.compile(r"(train|val|test)-[0-9]{6}\.tar")
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Shard:
    """A tar file, as it was written."""

    name: str
    bytes: int
    sha256: str
    pictures: int


@dataclass(frozen=True)
class Part:
    """The pictures of train, val or test."""

    shards: list[Shard]
    sha256: str
    """Of the file with the numbers of its pictures."""
    columns: list[str]
    """What else is known of each picture, by name."""

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(shard.pictures for shard in self.shards)


@dataclass(frozen=True)
class Index:
    """What ``index.json`` says."""

    classes: list[str]
    parts: dict[str, Part]
    flat: bool
    """Whether the source had no parts: all of it is called train here."""
    mirrors: bool
    """As in `Dataset`."""
    modes: list[str]
    """Colour modes, as Pillow calls them; pictures have their positions here."""

    def write(self, folder: Path) -> None:
        """Write ``index.json``, whole or not at all."""
        parts = {
            name: {
                "pictures": part.pictures,
                "sha256": part.sha256,
                "columns": part.columns,
                "shards": [vars(shard) for shard in part.shards],
            }
            for name, part in self.parts.items()
        }
        about = {"format": FORMAT, "flat": self.flat, "mirrors": self.mirrors}
        write_json(
            folder / INDEX, about | {"classes": self.classes, "modes": self.modes, "parts": parts}
        )


def is_indexed(folder: Path) -> bool:
    """Whether it is a folder of shards with an index."""
    if not (folder / INDEX).is_file():
        return False
    try:
        return read_json(folder / INDEX, MOST_LOG).get("format") == FORMAT
    except ModelError:  # an index that is damaged, where there are shards
        return any(SHARD.fullmatch(entry.name) for entry in folder.iterdir())


def read_index(folder: Path) -> Index:
    """What ``index.json`` says of a folder of shards.

    Raises:
        DataError: missing, damaged, or no such index.
    """
    try:
        record = read_json(folder / INDEX, MOST_LOG)
        if record["format"] != FORMAT:
            raise ValueError(f"its format is no '{FORMAT}'")
        parts = {name: _read_part(name, record["parts"][name]) for name in record["parts"]}
        index = Index(
            _texts(record["classes"]),
            {name: parts[name] for name in PARTS if name in parts},
            _flag(record["flat"]),
            _flag(record["mirrors"]),
            _texts(record["modes"]),
        )
        if not index.parts or len(index.parts) != len(parts) or not index.classes:
            raise ValueError("no parts or no classes")
        if len(set(index.classes)) != len(index.classes) or len(index.classes) > MOST_CLASSES:
            raise ValueError("its classes")
    except ModelError as error:
        raise DataError(str(error)) from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{shown(folder / INDEX)}: no index of shards ({error})") from None
    return index


def _read_part(name: str, record: Any) -> Part:
    shards = [
        Shard(one["name"], count(one["bytes"]), str(one["sha256"]), count(one["pictures"]))
        for one in record["shards"]
    ]
    for shard in shards:  # a plain name: nothing leads out of the folder
        if not SHARD.fullmatch(shard.name) or not shard.name.startswith(f"{name}-"):
            raise ValueError(f"'{shard.name}' is no shard of {name}")
        if not shard.pictures:
            raise ValueError(f"no pictures in {shard.name}")
    if len({shard.name for shard in shards}) != len(shards):
        raise ValueError("a shard is named twice")
    part = Part(shards, str(record["sha256"]), _texts(record["columns"]))
    if part.pictures != count(record["pictures"]) or not part.pictures:
        raise ValueError(f"its count of {name}")
    return part


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("not a list of texts")
    return list(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value
