"""What an enemy, or a broken disk, does to the files of a run."""

import contextlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eyebright.checkpoint import CARD, digest_of


def change_card(run: Path, **changes: Any) -> None:
    """Change entries of ``model.json`` (KeyError: remove them), and give it the sum that suits."""
    content = json.loads((run / CARD).read_text()) | changes
    content = {k: v for k, v in content.items() if v is not KeyError and k != "sha256"}
    (run / CARD).write_text(json.dumps(content | {"sha256": digest_of(content)}))


ANYTHING = (
    None, True, 0, -1, 10**30, 1.5, float("nan"), "", "x\0y", "\ud800", [], {}, [1], [[1]], ["a"],
    {"a": 1}, "../../etc",
)  # fmt: skip
"""What may stand in JSON in place of what belongs there."""


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something else may stand in JSON: the way to each entry, of lists to the first one."""
    if before:
        yield before
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*before, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*before, 0))


def put_anything(rng: random.Random, text: str) -> str:
    """JSON in which one entry is gone, or something else."""
    value = json.loads(text)
    *way, last = rng.choice(list(places(value)))
    holder = value
    for key in way:
        holder = holder[key]
    if rng.random() < 0.1:
        del holder[last]
    else:
        holder[last] = rng.choice(ANYTHING)
    return json.dumps(value)


class Canary:
    """Leaves a file behind where its pickle is loaded: in the working folder, if not told where."""

    def __init__(self, path: Path = Path("canary")):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


CALLS = ("mkdir", "open", "write", "fsync", "close", "replace", "unlink")
"""Of `os`: all that our files are written with."""

Answer = Callable[[int, str, tuple[Any, ...], Callable[..., Any]], Any]


@contextlib.contextmanager
def disk(answer: Answer) -> Iterator[list[str]]:
    """While the block runs, every call that changes the disk is answered by this function.

    It is told how many were before, the name, the arguments and what really does it. Gives the
    names of the calls so far.
    """
    names: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            names.append(name)
            return answer(len(names) - 1, name, arguments, lambda *given: real(*given, **options))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield names


def honest(index: int, name: str, arguments: tuple[Any, ...], real: Callable[..., Any]) -> Any:
    """A disk that does what it is told."""
    return real(*arguments)


@dataclass
class Inode:
    """A file without its name."""

    written: bytes = b""
    synced: bytes = b""


@dataclass
class Folder:
    """What a disk holds, and what it would hold after a power cut.

    What was written and not synced may be there, in part or not at all; names that were given and
    not synced may be there, up to any of them.
    """

    names: dict[str, Inode] = field(default_factory=dict)
    """That are sure."""
    pending: list[tuple[str, str, Inode | None]] = field(default_factory=list)
    """Names given (or taken away) since, with what had the name before it was renamed."""

    def after_a_power_cut(self) -> Iterator[dict[str, bytes]]:
        """Every content that there may be."""
        for survived in range(len(self.pending) + 1):
            names = dict(self.names)
            for old, new, inode in self.pending[:survived]:
                names.pop(old, None)
                if inode is not None:
                    names[new] = inode
            for share in (0.0, 0.5, 1.0):
                yield {
                    name: inode.synced
                    + inode.written[
                        len(inode.synced) : len(inode.synced)
                        + round(share * (len(inode.written) - len(inode.synced)))
                    ]
                    for name, inode in names.items()
                }


def power_cuts(folder: Path, write: Callable[[], object]) -> Iterator[dict[str, bytes]]:
    """Everything that may be left in a folder where power fails at any moment of some writing.

    Args:
        folder: that is written into.
        write: does it.
    """
    left = Folder({p.name: Inode(p.read_bytes(), p.read_bytes()) for p in folder.iterdir()})
    current = dict(left.names)  # as the running system sees them
    opened: dict[int, Path] = {}
    states: list[dict[str, bytes]] = []

    def record(index: int, name: str, arguments: tuple[Any, ...], real: Callable[..., Any]) -> Any:
        states.extend(left.after_a_power_cut())
        result = real(*arguments)
        if name == "open":
            path = opened[result] = Path(arguments[0])
            if arguments[1] & os.O_CREAT and path.name not in current:
                current[path.name] = Inode()
                left.pending.append(("", path.name, current[path.name]))
        elif name == "write":
            inode = current[opened[arguments[0]].name]
            inode.written += bytes(arguments[1][:result])
        elif name == "fsync":
            path = opened[arguments[0]]
            if path == folder:
                left.names, left.pending = dict(current), []
            else:
                current[path.name].synced = current[path.name].written
        elif name == "replace":
            old, new = (Path(one).name for one in arguments)
            current[new] = current.pop(old)
            left.pending.append((old, new, current[new]))
        elif name == "unlink":
            left.pending.append((Path(arguments[0]).name, "", None))
            current.pop(Path(arguments[0]).name, None)
        return result

    with disk(record):
        write()
    states.extend(left.after_a_power_cut())
    unique = {tuple(sorted(state.items())): state for state in states}
    yield from unique.values()
