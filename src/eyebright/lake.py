"""Predicting more pictures than anybody waits for: in parts, by several processes, again and again.

The pictures are listed and cut into blocks. Block k is the rank's whose turn it is (k modulo their
number), and becomes ``part-00000k.parquet``, which is there whole or not at all. So ranks need not
talk, and a start goes on where others stopped, however they stopped and however many they were.
``_listing.json`` says what all of them are to agree on.
"""

import hashlib
import json
import re
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from eyebright import images
from eyebright.answers import Predictor
from eyebright.calibration import Promises
from eyebright.console import counted, progress_bar, shown
from eyebright.errors import DataError, StorageError, UsageError
from eyebright.files import create_file, read_json, write_file
from eyebright.prediction import Tally, predict_files
from eyebright.ranks import Ranks
from eyebright.tabular import parquet_bytes, read_about

RECORD = "_listing.json"  # readers of many parts pass over what begins with _ or .
PART_SIZE = 10_000  # rows
FORMAT = 1
HALF = re.compile(r"\.(?:_listing\.json|part-(\d+)\.parquet)\.\d+\.tmp")  # see files.beside
NAMES = {
    "format": "format", "pictures": "number of pictures", "listing_sha256": "listing",
    "part_size": "--part-size", "model_sha256": "model", "top": "--top",
    "answers": "--risk or --not-sure", "sets": "--coverage", "max_pixels": "--max-pixels",
}  # fmt: skip
"""What a record holds, and what people call it."""


def settings_of(model: Path, top: int, promises: Promises) -> dict[str, Any]:
    """What rows depend on beside the pictures, as a record has it.

    Args:
        model: a run folder whose card was checked, or an exported model.
        top: how many of the likeliest classes a row names.
        promises: what its answers are to keep.
    """
    if model.is_file():
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
    else:  # a card's sum covers that of the weights
        digest = read_json(model / "model.json")["sha256"]
    return {
        "model_sha256": digest, "top": top, "max_pixels": images.MAX_PIXELS,
        "answers": promises.answers and asdict(promises.answers),
        "sets": promises.sets and asdict(promises.sets),
    }  # fmt: skip


def part_name(block: int) -> str:
    """The file of a block of the listing."""
    return f"part-{block:06d}.parquet"


class Listing:
    """All pictures in order, of which only a rank's own are kept, and those packed.

    Args:
        files: read once.
        part_size: pictures a block.
        ranks: whose blocks are kept.

    Raises:
        DataError: there are none, or what `each_named` raises.
    """

    def __init__(self, files: Iterable[Path], part_size: int, ranks: Ranks):
        digest, files = hashlib.sha256(), iter(files)
        self.n, self.blocks, self.own = 0, 0, dict[int, bytes]()
        with progress_bar("listing pictures", None, quiet=ranks.rank > 0) as bar:
            for block in count():
                names = [str(file) for file in islice(files, part_size)]
                if not names:
                    break
                digest.update(
                    "".join(f"{name}\0" for name in names).encode("utf-8", "surrogatepass")
                )
                if block % ranks.size == ranks.rank:
                    self.own[block] = zlib.compress(json.dumps(names).encode(), 1)
                self.n, self.blocks = self.n + len(names), block + 1
                bar.advance(len(names))
        if not self.n:
            raise DataError("no pictures are named")
        self.part_size, self.ranks, self.sha256 = part_size, ranks, digest.hexdigest()

    def files(self, block: int) -> list[Path]:
        """The pictures of a block of this rank."""
        return [Path(name) for name in json.loads(zlib.decompress(self.own[block]))]

    def size(self, block: int) -> int:
        """How many pictures a block has."""
        return min(self.part_size, self.n - block * self.part_size)


@dataclass(frozen=True)
class Share:
    """What a rank has done."""

    lake: "Lake"
    parts: int
    """That it wrote; the others of its share were there."""
    tally: Tally
    seconds: float
    """From its first picture to its last part."""

    def text(self) -> str:
        """For people."""
        listing, folder, n = self.lake.listing, shown(self.lake.folder), self.tally.n
        ranks, own = listing.ranks, len(listing.own)
        who = f"rank {ranks.rank} of {ranks.size}: " if ranks.size > 1 else ""
        if not self.parts:
            have = f"its {own:,} of the {listing.blocks:,} parts of {folder} are there"
            if not who:
                have = f"all {own:,} parts of {folder} are there"
            if not who and own == 1:
                have = f"the one part of {folder} is there"
            return f"{who}nothing is left to do: {have}"
        there = f", {own - self.parts:,} were there" if own > self.parts else ""
        speed = f"{n / self.seconds:,.0f} a second"
        wrote = (
            f"{counted(n, 'picture')}, {counted(self.parts, 'part')} in {folder}{there} ({speed})"
        )
        return f"{who}{wrote}; {self.tally.line()}"


class Lake:
    """A folder of parts.

    Args:
        folder: made if need be.
        listing: the pictures.
        settings: what `settings_of` says of it.

    Raises:
        UsageError: begun with other pictures or settings, or something else is in the folder.
        ModelError: its record is damaged.
        StorageError: the disk refuses; the message names the path.
    """

    def __init__(self, folder: Path, listing: Listing, settings: dict[str, Any]):
        self.folder, self.listing = folder, listing
        record = {
            "format": FORMAT, "pictures": listing.n, "listing_sha256": listing.sha256,
            "part_size": listing.part_size, **settings,
        }  # fmt: skip
        content = json.dumps(record, indent=2, allow_nan=False).encode() + b"\n"
        self.sha256 = hashlib.sha256(content).hexdigest()
        path = folder / RECORD
        # Names first: whoever wrote parts before this moment wrote the record before them.
        names = self._names()
        if not path.exists():
            if names:
                raise UsageError(
                    f"{shown(folder)}: holds {shown(names[0])} and no {RECORD}; "
                    "name a new folder for --parts"
                )
            create_file(path, content)
        self._compare(read_json(path), record)
        ours = {part_name(block) for block in range(listing.blocks)}
        if others := [name for name in names if name not in ours]:
            raise UsageError(
                f"{shown(folder / others[0])}: no part of these predictions, but whoever reads the "
                "folder as one table would take it for one; move it elsewhere"
            )

    def _names(self) -> list[str]:
        """What is in the folder and may be seen."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in self.folder.iterdir())
        except FileExistsError:
            raise UsageError(f"{shown(self.folder)}: no folder, so no parts go into it") from None
        except OSError as error:
            raise StorageError(f"{shown(self.folder)}: {error.strerror or error}") from None
        return [name for name in names if not name.startswith((".", "_"))]

    def _compare(self, there: dict[str, Any], record: dict[str, Any]) -> None:
        fix = "name a new folder for --parts, or go on as it began"
        if there.get("listing_sha256") != record["listing_sha256"]:
            raise UsageError(
                f"{shown(self.folder)}: begun with {shown(there.get('pictures'))} pictures, and "
                f"now it is {record['pictures']} that are not all the same: some were added, "
                f"removed or renamed since, or are named in another order; {fix}"
            )
        other = [
            f"another {name}" if key.endswith("sha256") else
            f"{name} {_said(there.get(key))}, and now it is {_said(record[key])}"
            for key, name in NAMES.items() if there.get(key) != record[key]
        ]  # fmt: skip
        if other:
            raise UsageError(f"{shown(self.folder)}: begun with {'; '.join(other)}: {fix}")

    def pending(self) -> list[int]:
        """The blocks of this rank that have no part yet.

        Raises:
            DataError: a part is damaged, or of something else.
        """
        return [block for block in self.listing.own if not self._is_there(block)]

    def _about(self, block: int) -> dict[str, str]:
        return {"eyebright.listing": self.sha256, "eyebright.part": str(block)}

    def _is_there(self, block: int) -> bool:
        path = self.folder / part_name(block)
        if not path.exists():
            return False
        try:
            n, about = read_about(path)
            # pandas and others may have added something of theirs.
            if n != self.listing.size(block) or not self._about(block).items() <= about.items():
                raise ValueError("not what was written there")
        except ValueError as error:
            raise DataError(
                f"{shown(path)}: damaged ({shown(error)}); remove it, and it is made again"
            ) from None
        return True

    def _sweep(self) -> None:
        """Remove what was half written when a process was killed, of this rank's parts only."""
        for path in self.folder.glob(".*.tmp"):
            found = HALF.fullmatch(path.name)
            if found and (found[1] is None or int(found[1]) in self.listing.own):
                path.unlink(missing_ok=True)

    def fill(
        self, classifier: Predictor, top: int, promises: Promises, workers: int | None = None
    ) -> Share:
        """Predict what is missing of this rank's share, and write a part after the other.

        Rank 0 shows a progress bar, of its own share.

        Args:
            classifier: the model.
            top: how many of the likeliest classes a row names.
            promises: what its answers are to keep.
            workers: threads that decode; None: one a core of its own.

        Raises:
            DataError: a part is damaged; names it.
            StorageError: the disk refuses, or memory ran out.
        """
        pending, ranks = self.pending(), self.listing.ranks
        self._sweep()
        tally = Tally(promises)
        begun = time.perf_counter()
        if pending:
            title = "predicting" if ranks.size == 1 else f"predicting, 1 share of {ranks.size}"
            files = chain.from_iterable(map(self.listing.files, pending))
            outcomes = predict_files(
                classifier,
                files,
                workers=workers,
                total=sum(map(self.listing.size, pending)),
                title=None if ranks.rank else title,
                most=self.listing.part_size,  # whoever wants small parts wants to lose little
            )
            rows = (one.row(top, promises) for one in tally.watch(outcomes))
            for block in pending:
                part = list(islice(rows, self.listing.size(block)))
                write_file(self.folder / part_name(block), parquet_bytes(part, self._about(block)))
        seconds = time.perf_counter() - begun
        return Share(self, len(pending), tally, seconds)


def _said(value: Any) -> str:
    """A setting in a message."""
    if isinstance(value, dict):
        return shown(", ".join(f"{key} {one}" for key, one in value.items()))
    return "none" if value is None else shown(value)
