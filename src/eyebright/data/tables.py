"""Tables that name pictures and their classes: by path and label, or as Hugging Face does it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from eyebright.console import notices, shown
from eyebright.data.dataset import Dataset
from eyebright.data.folders import SPLITS, has_folders, natural_order
from eyebright.data.reading import ReadOptions, read_files, unknown_class
from eyebright.data.rows import ENDINGS, Rows, read_rows
from eyebright.errors import DataError

PATH, LABEL, SPLIT = "path", "label", "split"
METADATA, FILE_NAME = "metadata", "file_name"  # of the layout `imagefolder`
PART_OF = {name: split for split, names in SPLITS.items() for name in names}


@dataclass(frozen=True)
class Table:
    """Rows that name pictures, each with a path, a label and perhaps a part."""

    file: Path
    """Where they stand, for messages."""
    rows: Rows
    root: Path
    """The folder that paths are relative to."""
    source: Path
    """What was named: the table itself, or the folder that has a metadata file."""

    def parts(self) -> dict[str, "Table"]:
        """The rows of train, val and test; empty where no column ``split`` tells them apart.

        Raises:
            DataError: a split of another name; says in which row.
        """
        if SPLIT not in self.rows[0][1]:
            return {}
        found: dict[str, Rows] = {}
        for place, row in self.rows:
            part = PART_OF.get(row[SPLIT].strip().casefold())
            if part is None:
                raise DataError(
                    f"{shown(self.file)}, {place}: there is no split '{shown(row[SPLIT])}'; "
                    f"choose one of: {', '.join(SPLITS)}"
                )
            found.setdefault(part, []).append((place, row))
        return {part: replace(self, rows=found[part]) for part in SPLITS if part in found}


def read_table(file: Path, root: Path | None = None) -> Table:
    """A table with the columns ``path``, ``label``, perhaps ``split``, and others.

    Args:
        file: a file with one of the `ENDINGS` of tables.
        root: the folder that paths are relative to; None: the table's own.

    Raises:
        DataError: no such columns, no rows, a row without path or label, or a picture named twice.
        UsageError: what reads Parquet is not installed.
    """
    rows = read_rows(file)
    if rows and not {PATH, LABEL} <= set(rows[0][1]):
        raise DataError(
            f"{shown(file)}: must name the columns {PATH} and {LABEL}; "
            f"it has {', '.join(map(shown, rows[0][1])) or 'none'}"
        )
    return _checked(Table(file, rows, file.parent if root is None else root, file))


def read_metadata(folder: Path) -> Table | None:
    """The metadata file of a folder in Hugging Face's layout ``imagefolder``, if it has one.

    Its column ``file_name`` has paths from the folder, ``label`` the classes (or the only other
    column, whatever it is called). Names that all begin with the folder of a part tell the parts.

    Raises:
        DataError: no column that could be the label, or as in `read_table`.
        UsageError: what reads Parquet is not installed.
    """
    file = next((f for e in ENDINGS if (f := folder / f"{METADATA}{e}").is_file()), None)
    if file is None:
        return None
    try:
        rows = read_rows(file)
    except DataError as error:
        if not has_folders(folder):
            raise
        notices.warning("%s; passed over, its folders are classes", error)
        return None
    columns = list(rows[0][1]) if rows else []
    if FILE_NAME not in columns:
        return None  # about something else: many data sets have a metadata.csv
    others = [column for column in columns if column not in (FILE_NAME, SPLIT)]
    if LABEL not in others and len(others) != 1:
        raise DataError(
            f"{shown(file)}: no column {LABEL} beside {FILE_NAME}; "
            f"it has {', '.join(map(shown, others)) or 'none'}"
        )
    label = LABEL if LABEL in others else others[0]
    kept = [column for column in columns if column not in (FILE_NAME, PATH, label)]
    rows = [
        (place, {PATH: row[FILE_NAME], LABEL: row[label]} | {c: row[c] for c in kept})
        for place, row in rows
    ]
    first = [row[PATH].split("/")[0].casefold() for _, row in rows]
    if SPLIT not in columns and all(name in PART_OF for name in first):
        rows = [(p, row | {SPLIT: part}) for (p, row), part in zip(rows, first, strict=True)]
    return _checked(Table(file, rows, folder, folder))


def _checked(table: Table) -> Table:
    if not table.rows:
        raise DataError(f"{shown(table.file)}: names no pictures")
    seen: set[str] = set()
    for place, row in table.rows:
        if not row[PATH] or not row[LABEL]:
            raise DataError(
                f"{shown(table.file)}, {place}: needs a value in {PATH} and {LABEL}, "
                "for each picture"
            )
        if not _can_be_a_path(row[PATH]):
            raise DataError(f"{shown(table.file)}, {place}: '{shown(row[PATH])}' is no path")
        if row[PATH] in seen:
            raise DataError(f"{shown(table.file)}, {place}: names '{shown(row[PATH])}' twice")
        seen.add(row[PATH])
    return table


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except ValueError:
        return False


def load_table(table: Table, options: ReadOptions) -> Dataset:
    """The pictures that a table names.

    Args:
        table: what `read_table` or `read_metadata` read, or a part of it. Columns beside path,
            label and split become `Dataset.columns`.
        options: how they are to be read.

    Raises:
        DataError: an unknown class, one class only, or pictures that are missing or cannot be read.
        StorageError: the pictures fit neither on the disk nor into memory.
    """
    rows = [row for _, row in table.rows]
    paths = [row[PATH] for row in rows]
    found = sorted({row[LABEL] for row in rows}, key=natural_order)
    names = found if options.classes is None else list(options.classes)
    if unknown := set(found) - set(names):
        raise unknown_class(table.file, min(unknown), names)
    if len(names) < 2 and not options.classless:
        raise DataError(
            f"{shown(table.file)}: one class only; two are the least there is to tell apart"
        )
    number = {name: i for i, name in enumerate(names)}
    labels = [number[row[LABEL]] for row in rows]
    files = [table.root / path for path in paths]
    data = read_files(files, labels, names, paths, table.source, options)
    of_picture = dict(zip(paths, rows, strict=True))
    data.columns = {
        column: [of_picture[str(name)][column] for name in data.ids]
        for column in rows[0]
        if column not in (PATH, LABEL, SPLIT)
    }
    return data
