"""Rows of a table as text, whether it is CSV, TSV, JSON lines or Parquet."""

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eyebright.console import shown
from eyebright.errors import DataError, UsageError, install_command

Rows = list[tuple[str, dict[str, str]]]
"""Where each row stands, in words ("line 2"), and its values by column."""

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
KINDS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".parquet": "Parquet"}


def read_rows(table: Path) -> Rows:
    """All rows of a table, every value as text: the integer 3 is "3", nothing is "".

    Args:
        table: a file with one of `ENDINGS`. The first line of a CSV or TSV names its columns.

    Raises:
        DataError: damaged, no table of that kind, or a row with too few or too many values.
        UsageError: what reads Parquet is not installed.
    """
    ending = table.suffix.lower()
    with _explained(table):
        if ending == ".parquet":
            return _read_parquet(table)
        with table.open(encoding="utf-8-sig", newline="") as file:
            if ending == ".jsonl":
                return _read_json_lines(file)
            return list(_each_of_csv(file, "\t" if ending == ".tsv" else ","))


def each_value(table: Path, column: str) -> Iterator[str]:
    """One column of `read_rows`, of a table of any length: few rows are in memory at once.

    Raises:
        DataError: as above; or no such column, or no rows.
        UsageError: as above.
    """
    ending = table.suffix.lower()
    there = False
    with _explained(table):
        if ending == ".parquet":
            for value in _each_of_parquet(table, column):
                there = True
                yield value
        else:
            with table.open(encoding="utf-8-sig", newline="") as file:
                if ending == ".jsonl":
                    rows: Iterator[tuple[str, dict[str, Any]]] = _each_of_json_lines(file)
                else:
                    rows = _each_of_csv(file, "\t" if ending == ".tsv" else ",")
                for _, row in rows:
                    there = there or column in row
                    yield _as_text(row.get(column))
    if not there:
        raise DataError(f"{shown(table)}: no column '{column}' in it, or no rows")


@contextlib.contextmanager
def _explained(table: Path) -> Iterator[None]:
    try:
        yield
    except _RowError as error:
        raise DataError(f"{shown(table)}, {error}") from None
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        why = shown(" ".join(str(error).split()))
        kind = KINDS[table.suffix.lower()]
        raise DataError(f"{shown(table)}: no table in {kind} ({why})") from None


class _RowError(Exception):
    """One row is wrong; the message says which and why."""


def _check_columns(columns: Sequence[str]) -> None:
    if not columns or len(set(columns)) < len(columns):
        raise ValueError("its first line must name the columns, each once")


def _each_of_csv(file: Iterator[str], delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(file, strict=True, delimiter=delimiter)
    _check_columns(reader.fieldnames or [])
    for row in reader:
        place = f"line {reader.line_num}"
        if None in row or None in row.values():
            raise _RowError(f"{place}: needs a value in each column")
        yield place, row


def _read_json_lines(file: Iterator[str]) -> Rows:
    objects = list(_each_of_json_lines(file))
    columns = list(dict.fromkeys(column for _, row in objects for column in row))
    return [(place, {c: _as_text(row.get(c)) for c in columns}) for place, row in objects]


def _each_of_json_lines(file: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise _RowError(f"line {number}: no JSON object")
        yield f"line {number}", row


@contextlib.contextmanager
def _opened_parquet(table: Path) -> Iterator[tuple[Any, Any]]:
    """pyarrow, and the file; its complaints become `ValueError`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(
            f"{shown(table)}: Parquet is read with pyarrow: "
            f"{install_command('parquet')}, or name a .csv"
        ) from None
    try:
        with table.open("rb") as file:
            found = pq.ParquetFile(file)
            _check_columns(found.schema_arrow.names)
            yield pa, found
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


def _each_of_parquet(table: Path, column: str) -> Iterator[str]:
    with _opened_parquet(table) as (_, found):
        if column in found.schema_arrow.names:
            for batch in found.iter_batches(columns=[column]):
                yield from map(_as_text, batch.column(0).to_pylist())


def _read_parquet(table: Path) -> Rows:
    with _opened_parquet(table) as (pa, found):
        schema = found.schema_arrow
        # Lists, bytes and the like name nothing, and are often the pictures themselves.
        plain = [
            field.name
            for field in schema
            if not pa.types.is_nested(field.type) and "binary" not in str(field.type)
        ]
        columns = {name: found.read([name]).column(0).to_pylist() for name in plain}
        count = found.metadata.num_rows
    return [
        (f"row {i + 1}", {name: _as_text(values[i]) for name, values in columns.items()})
        for i in range(count)
    ]


def _as_text(value: Any) -> str:
    if value is None or value != value:  # no value at all, or NaN, which pandas writes for it
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # integers among which one is missing are written as floats
    if isinstance(value, bool | list | dict):
        return json.dumps(value)
    return str(value)
