"""Rows that are written as they come: CSV, JSON lines or Parquet."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from eyebright.console import shown
from eyebright.errors import StorageError, UsageError, install_command
from eyebright.files import beside, sync_folder

Row = dict[str, Any]
AT_ONCE = 5000  # rows that Parquet keeps together
FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        UsageError: none of `FORMATS`, or what writes it is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{shown(path)}: rows go into {', '.join(FORMATS)} files")
    if path.suffix.lower() == ".parquet":
        check_pyarrow("write .csv")
    return FORMATS[path.suffix.lower()]


def check_pyarrow(instead: str) -> None:
    """See that what writes Parquet is installed.

    Raises:
        UsageError: it is not; says what to do instead.
    """
    try:
        import pyarrow  # noqa: F401 - whether it is there is all that is asked
    except ImportError:
        raise UsageError(
            f"Parquet needs pyarrow: {install_command('parquet')}, or {instead}"
        ) from None


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows into a file, beside its place first; what there is of them is kept in any case.

    Args:
        path: with one of the endings of `FORMATS`; what is there is replaced.
        rows: all with the same columns; they may be interrupted.

    Returns:
        How many there were.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    form = format_of(path)
    temporary = beside(path)
    counted = _Counted(rows)
    try:
        try:
            if form == "parquet":
                _write_parquet(temporary, counted)
            else:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    try:
                        write_text(file, counted, form)
                    finally:
                        file.flush()
                        os.fsync(file.fileno())
        finally:
            if counted.n:
                temporary.replace(path)
                sync_folder(path.parent)
            else:
                with contextlib.suppress(OSError):
                    temporary.unlink()
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None
    return counted.n


def write_text(file: TextIO, rows: Iterable[Row], form: str) -> None:
    """Write rows as lines of CSV, whose first one names the columns, or of JSON."""
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if form == "jsonl":
            file.write(json.dumps(row) + "\n")
            continue
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({key: _in_a_cell(value) for key, value in row.items()})


class _Counted:
    """Rows, and how many of them were taken."""

    def __init__(self, rows: Iterable[Row]):
        self.rows, self.n = rows, 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.n += 1
            yield row


def _in_a_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}"
    return json.dumps(value) if isinstance(value, list) else value


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    kept: list[Row] = []

    def flush() -> None:
        nonlocal writer, kept
        if kept:
            if writer is None:
                writer = pq.ParquetWriter(path, _schema(pa, kept[0]))
            writer.write_table(pa.Table.from_pylist(kept, writer.schema))
            kept = []

    try:
        for row in rows:
            kept.append(row)
            if len(kept) == AT_ONCE:
                flush()
    finally:
        flush()
        if writer is not None:
            writer.close()


def parquet_bytes(rows: list[Row], about: dict[str, str]) -> bytes:
    """A Parquet file of rows.

    Args:
        rows: at least one, all with the same columns.
        about: what `read_about` finds again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, _schema(pa, rows[0]).with_metadata(about))
    pq.write_table(table, buffer)
    return buffer.getvalue()


def read_about(path: Path) -> tuple[int, dict[str, str]]:
    """How many rows a Parquet file has, and what is said about them; no row is read.

    Raises:
        ValueError: no such file, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            found = pq.ParquetFile(file)
            about = found.schema_arrow.metadata or {}
            return found.metadata.num_rows, {k.decode(): v.decode() for k, v in about.items()}
    except (OSError, pa.ArrowException) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _schema(pa: Any, row: Row) -> Any:
    """Of any row: numbers are probabilities, sets are lists of classes, all else is text."""
    kinds = {"set": pa.list_(pa.string())}
    return pa.schema(
        (key, kinds.get(key, pa.float64() if key.startswith("probability") else pa.string()))
        for key in row
    )
